"""`POST /tokenize`: the tokens of texts as text-embeddings-inference lists them."""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import Annotated, NotRequired

import orjson
from pydantic import Field, TypeAdapter, with_config
from tokenizers import Encoding
from typing_extensions import TypedDict

from service.edge import errors
from service.edge.call import JSON, Answer, Call, read_body
from service.edge.routes.fields import parsed
from service.edge.routes.predict import STRICT, FullString
from service.edge.scoring import Scorer
from service.edge.text.encoder import TextEncoder


@with_config(STRICT)
class TokenizeBody(TypedDict):
    """The body of `POST /tokenize`."""

    inputs: FullString | Annotated[list[FullString], Field(json_schema_extra={"minItems": 1})]
    add_special_tokens: NotRequired[bool | None]
    model: NotRequired[str | None]


@with_config(STRICT)
class ListedToken(TypedDict):
    """`start` and `stop` count bytes of the text in UTF-8; a special token stands for none of them."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


BODY: TypeAdapter[TokenizeBody] = TypeAdapter(TokenizeBody)
ANSWER: TypeAdapter[list[list[ListedToken]]] = TypeAdapter(list[list[ListedToken]])


class TokenLists:
    """The route's handler over a scorer."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    async def tokenize(self, call: Call) -> Answer:
        """Every token of each text; nothing is cut."""
        scorer = self.scorer
        with scorer.admitted():
            body = await read_body(call, scorer.settings.payload_limit, scorer.timeout_s(call))
            fields = parsed(BODY, body, expected="the body must be a JSON object with the field inputs")
            inputs = fields["inputs"]
            texts = [inputs] if isinstance(inputs, str) else inputs
            if not all(texts) or not texts:
                raise errors.empty()
            scorer.check_count(len(texts))
            place = scorer.place(fields.get("model"))
            call.model = scorer.catalog[place].name
            special = fields.get("add_special_tokens") is not False
            list_tokens = partial(listed, scorer.served[place].encoder, texts, add_special_tokens=special)
            content = await scorer.made(call, list_tokens, characters=sum(map(len, texts)))
            return Answer(200, content, [JSON])


def listed(encoder: TextEncoder, texts: Sequence[str], *, add_special_tokens: bool) -> bytes:
    """JSON: a list of tokens for each text."""
    encodings = encoder.encodings(texts, add_special_tokens=add_special_tokens)
    return orjson.dumps([tokens(text, encoding) for text, encoding in zip(texts, encodings, strict=True)])


def tokens(text: str, encoding: Encoding) -> list[ListedToken]:
    """The tokens of one text. The library counts characters, TEI bytes."""
    byte_at = range(len(text) + 1) if text.isascii() else list(accumulate((len(char.encode()) for char in text), initial=0))
    return [
        {"id": id, "text": token, "special": True, "start": None, "stop": None}
        if special
        else {"id": id, "text": text[start:stop], "special": False, "start": byte_at[start], "stop": byte_at[stop]}
        for id, token, special, (start, stop) in zip(
            encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True
        )
    ]
