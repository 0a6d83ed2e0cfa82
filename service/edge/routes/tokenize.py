"""`POST /tokenize`: the tokens of texts as text-embeddings-inference lists them."""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import Annotated, NotRequired

import orjson
from pydantic import Field, TypeAdapter, with_config
from tokenizers import Encoding
from typing_extensions import TypedDict

from service.edge.http import errors
from service.edge.http.call import JSON, Call, Response
from service.edge.routes.fields import STRICT, FullString, parsed
from service.edge.routes.openapi import Operation, Schema
from service.edge.routes.route import Route, Services
from service.text.encoders import Encoder


@with_config(STRICT)
class TokenizeBody(TypedDict):
    """The body of `POST /tokenize`."""

    inputs: FullString | Annotated[list[FullString], Field(json_schema_extra={"minItems": 1})]
    add_special_tokens: NotRequired[bool | None]
    model: NotRequired[str | None]


@with_config(STRICT)
class ListedToken(TypedDict):
    """A token. `start` and `stop` count bytes of the text in UTF-8; a special token has none."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


TOKENIZE_BODY: TypeAdapter[TokenizeBody] = TypeAdapter(TokenizeBody)


async def tokenize(edge: Services, call: Call) -> Response:
    """Every token of each text; nothing is cut."""
    fields = parsed(TOKENIZE_BODY, call.body)
    inputs = fields["inputs"]
    texts = [inputs] if isinstance(inputs, str) else inputs
    if not texts or inputs == "":
        raise errors.empty()
    if not all(texts):
        raise errors.empty_text(f"inputs[{texts.index('')}]")
    edge.scorer.check_count(len(texts))
    model = edge.models.named(fields.get("model"))
    call.model = model.served.name
    special = fields.get("add_special_tokens") is not False
    list_tokens = partial(listed, model.encoder, texts, add_special_tokens=special)
    return Response(200, await edge.scorer.made(call, list_tokens, texts=[(text, None) for text in texts]), [JSON])


def listed(encoder: Encoder, texts: Sequence[str], *, add_special_tokens: bool) -> bytes:
    """JSON: a list of tokens for each text."""
    encodings = encoder.encodings(texts, add_special_tokens=add_special_tokens)
    return orjson.dumps([tokens(text, encoding) for text, encoding in zip(texts, encodings, strict=True)])


def tokens(text: str, encoding: Encoding) -> list[ListedToken]:
    """The tokens of one text. The tokenizers library counts places in characters; they are given in bytes, as by TEI."""
    byte_at = range(len(text) + 1) if text.isascii() else list(accumulate((len(char.encode()) for char in text), initial=0))
    return [
        {"id": id, "text": token, "special": True, "start": None, "stop": None}
        if special
        else {"id": id, "text": text[start:stop], "special": False, "start": byte_at[start], "stop": byte_at[stop]}
        for id, token, special, (start, stop) in zip(
            encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True
        )
    ]


ROUTES = (
    Route(
        method="POST",
        path="/tokenize",
        handle=tokenize,
        takes_texts=True,
        operation=Operation(
            name="tokenize",
            summary="List the tokens of texts.",
            description="A list of tokens for each text; nothing is cut.",
            answer=Schema("TokenLists", TypeAdapter(list[list[ListedToken]])),
            body=Schema("TokenizeBody", TOKENIZE_BODY),
            example={"inputs": ["not good at all"], "add_special_tokens": False},
            failures=(400, 401, 404, 408, 413, 415, 422, 429, 504),
        ),
    ),
)
