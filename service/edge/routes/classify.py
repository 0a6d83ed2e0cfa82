"""`POST /classify` and `/v1/classify`, as vLLM and SGLang have them, and `GET /v1/models`, where their clients look for a name.

vLLM: https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html#classification-api. SGLang:
https://docs.sglang.io/supported_models/classify_models.html.
"""

import os
import time
from datetime import datetime
from typing import Annotated, Literal, NotRequired

from pydantic import Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from service.edge.http import errors
from service.edge.http.call import Call, Response, json_response
from service.edge.routes.fields import STRICT, FullString, parsed
from service.edge.routes.openapi import SCORING, Operation, Schema
from service.edge.routes.route import Route, Services
from service.edge.scoring.scoring import Texts
from service.text.labelling import FUNCTIONS, function_for

EXPECTED = "the body must be a JSON object with the field input"


@with_config(STRICT)
class ClassifyBody(TypedDict):
    """The body of `POST /classify`. Token ids and chats are not taken.

    `truncate_prompt_tokens`: -1 cuts a text at the model's limit, whatever the service does otherwise. `use_activation` false:
    logits."""

    input: FullString | Annotated[list[FullString], Field(json_schema_extra={"minItems": 1})]
    model: NotRequired[str | None]
    truncate_prompt_tokens: NotRequired[Literal[-1] | None]
    use_activation: NotRequired[bool | None]


@with_config(STRICT)
class ClassifyData(TypedDict):
    """The best label of one text, and the score of every label in the order of the model's."""

    index: int
    label: str
    probs: list[float]
    num_classes: int


@with_config(STRICT)
class Usage(TypedDict):
    """Tokens of all texts."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int
    prompt_tokens_details: None


@with_config(STRICT)
class ClassifyAnswer(TypedDict):
    """The answer of `POST /classify`. `created`: Unix time in seconds."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[ClassifyData]
    usage: Usage


class ListedModel(TypedDict):
    """A served model, as OpenAI's clients list it."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(TypedDict):
    """The answer of `GET /v1/models`."""

    object: Literal["list"]
    data: list[ListedModel]


CLASSIFY_BODY: TypeAdapter[ClassifyBody] = TypeAdapter(ClassifyBody)


async def classify(edge: Services, call: Call) -> Response:
    """Scores the texts of one request."""
    fields = parsed(CLASSIFY_BODY, call.body, expected=EXPECTED)
    given = fields["input"]
    texts = [given] if isinstance(given, str) else given
    if not texts or given == "":
        raise errors.empty()
    if not all(texts):
        raise errors.empty_text(f"input[{texts.index('')}]")
    model = edge.models.named(fields.get("model"))
    truncate = True if fields.get("truncate_prompt_tokens") else None
    rows = await edge.scorer.logits(call, model, Texts([(text, None) for text in texts], truncate=truncate))
    plain = fields.get("use_activation") is False
    score = FUNCTIONS["none" if plain else function_for(model.served.problem_type, model.served.labels)]
    answer: ClassifyAnswer = {
        "id": f"classify-{os.urandom(16).hex()}",
        "object": "list",
        "created": int(time.time()),
        "model": model.served.name,
        "data": [_data(index, score(row), model.served.labels) for index, row in enumerate(rows)],
        "usage": {
            "prompt_tokens": call.tokens,
            "total_tokens": call.tokens,
            "completion_tokens": 0,
            "prompt_tokens_details": None,
        },
    }
    return json_response(200, answer)


async def models(edge: Services, call: Call) -> Response:
    """The served models; the first is the default."""
    listed: list[ListedModel] = [
        {
            "id": model.name,
            "object": "model",
            "created": int(datetime.fromisoformat(model.since).timestamp()),
            "owned_by": "valence",
        }
        for model in edge.models.catalog.values()
    ]
    return json_response(200, ModelList(object="list", data=listed))


def _data(index: int, scores: list[float], labels: tuple[str, ...]) -> ClassifyData:
    best = max(range(len(scores)), key=scores.__getitem__)
    return {"index": index, "label": labels[best], "probs": scores, "num_classes": len(scores)}


def _route(path: str, name: str) -> Route:
    operation = Operation(
        name=name,
        summary="Score texts as vLLM and SGLang do.",
        description="For each text its best label, and the scores of all labels in the order of the model's.",
        answer=Schema("ClassifyAnswer", TypeAdapter(ClassifyAnswer)),
        body=Schema("ClassifyBody", CLASSIFY_BODY),
        example={"input": ["not good at all", "A wonderful surprise, funny and moving."]},
        failures=SCORING,
        scores=True,
    )
    return Route(method="POST", path=path, handle=classify, operation=operation, takes_texts=True)


ROUTES = (
    _route("/classify", "classify"),
    _route("/v1/classify", "classify_v1"),
    Route(
        method="GET",
        path="/v1/models",
        handle=models,
        operation=Operation(
            name="models_v1",
            summary="Served models, as OpenAI's clients list them.",
            answer=Schema("ModelList", TypeAdapter(ModelList)),
            failures=(401,),
        ),
    ),
)
