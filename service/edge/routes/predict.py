"""`POST /predict`: one set of types validates a request and generates its schema.

>>> parse_predict(b'{"inputs": ["good", "bad"]}').asked.texts
[('good', None), ('bad', None)]
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, WithJsonSchema, with_config
from pydantic.config import JsonDict
from typing_extensions import TypedDict

from service.edge.http import errors
from service.edge.http.call import Call, Response, json_response
from service.edge.routes.fields import EXPECTED, FULL_STRING, MARK, STRICT, WHOLE, Direction, FullString, is_left, readable
from service.edge.routes.openapi import SCORING, Operation, Schema
from service.edge.routes.route import Route, Services
from service.edge.scoring.scoring import Texts
from service.text.encoder import Text
from service.text.labelling import Function, function_for, labelled

# For the schema: a pair holds one or two strings, and not only empty ones. The types can't say so; `_texts` and `_pair` check it.
FULL_PAIR: JsonDict = {
    "required": ["text"],
    "anyOf": [{"required": [name], "properties": {name: FULL_STRING}} for name in ("text", "text_pair")],
}
PAIR: JsonDict = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2, "contains": FULL_STRING}
ONE_OF_TWO: JsonDict = {"anyOf": [{"required": [name]} for name in ("inputs", "text")]}


@with_config(ConfigDict(**STRICT, json_schema_extra=FULL_PAIR))
class TextPair(TypedDict, total=False):
    """A text and, for models of text pairs, its partner."""

    text: str
    text_pair: str | None


@with_config(STRICT)
class Parameters(TypedDict, total=False):
    """What Hugging Face inference clients send along."""

    top_k: Annotated[int, Ge(1), WHOLE] | None
    function_to_apply: Function | None
    truncation: bool | None


Pair = Annotated[list[str], WithJsonSchema(PAIR)]
Batch = Annotated[list[FullString | Pair | TextPair], Field(json_schema_extra={"minItems": 1})]
Inputs = FullString | Batch | TextPair


@with_config(ConfigDict(**STRICT, json_schema_extra=ONE_OF_TWO))
class PredictBody(TypedDict, total=False):
    """The body of `POST /predict`. `inputs` (or `text`) is required; a list of strings is a batch.

    `overflow` says what becomes of a text that is longer than the model's limit, and goes before `truncate`. "truncate": it is
    cut there. "window": it is split into overlapping windows, and its score is the mean of their logits, weighted by tokens.
    "error": it is answered 422.
    """

    inputs: Inputs
    text: Inputs
    model: str | None
    truncate: bool | None
    truncation_direction: Direction | None
    overflow: Literal["truncate", "window", "error"] | None
    raw_scores: bool | None
    parameters: Parameters | None


@with_config(STRICT)
class LabelScore(TypedDict):
    """One label and its score."""

    label: str
    score: float


PREDICT_BODY: TypeAdapter[PredictBody] = TypeAdapter(PredictBody)
INPUT_FORMS = "a string, a list of strings, a list of [text, text_pair], or {text, text_pair} or a list of it"


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """A valid request. `nested`: the answer is a list of lists."""

    asked: Texts
    nested: bool
    model: str | None
    top_k: int | None
    function: Function | None


async def predict(edge: Services, call: Call) -> Response:
    """Scores the texts of one request."""
    request = parse_predict(call.body)
    model = edge.models.named(call.parameters.get("name", request.model))
    rows = await edge.scorer.logits(call, model, request.asked)
    labels = model.served.labels
    function = request.function or function_for(model.served.problem_type, labels)
    answers = [labelled(row, labels=labels, function=function, top_k=request.top_k) for row in rows]
    return json_response(200, answers if request.nested else answers[0])


def parse_predict(body: bytes) -> PredictRequest:
    """The request in `body`. ServiceError 400 if it is not JSON or holds no text, 422 where a type or a field is wrong."""
    try:
        fields = PREDICT_BODY.validate_json(body.removeprefix(MARK))
    except ValidationError as error:
        raise _readable(error) from None
    inputs = fields.get("inputs", fields.get("text"))
    if inputs is None:
        raise errors.validation("inputs: required; send " + INPUT_FORMS)
    parameters = fields.get("parameters")
    return PredictRequest(
        asked=Texts(
            _texts(inputs),
            truncate=_truncate(fields, parameters or {}),
            truncate_left=is_left(fields.get("truncation_direction")),
            window=fields.get("overflow") == "window",
        ),
        nested=parameters is not None or isinstance(inputs, list),
        model=fields.get("model"),
        top_k=(parameters or {}).get("top_k"),
        function="none" if fields.get("raw_scores") else (parameters or {}).get("function_to_apply"),
    )


def _texts(inputs: Inputs) -> list[Text]:
    if isinstance(inputs, str):
        texts: list[Text] = [(inputs, None)]
    elif isinstance(inputs, dict):
        texts = [_pair(inputs, "inputs")]
    else:
        texts = [(item, None) if isinstance(item, str) else _pair(item, f"inputs[{i}]") for i, item in enumerate(inputs)]
    if not texts or inputs == "":
        raise errors.empty()
    for index, (text, partner) in enumerate(texts):
        if not text and not partner:
            raise errors.empty_text(f"inputs[{index}]" if isinstance(inputs, list) else "inputs")
    return texts


def _pair(item: Pair | TextPair, where: str) -> Text:
    if isinstance(item, dict):
        if "text" not in item:
            raise errors.validation(f"{where}.text: required")
        return item["text"], item.get("text_pair")
    if len(item) not in (1, 2):
        raise errors.validation(f"{where}: a pair holds one or two strings, not {len(item)}")
    return item[0], item[1] if len(item) == 2 else None


def _truncate(fields: PredictBody, parameters: Parameters) -> bool | None:
    overflow = fields.get("overflow")
    if overflow is not None:
        return overflow == "truncate"
    given = fields.get("truncate")
    return given if given is not None else parameters.get("truncation")


def _readable(error: ValidationError) -> errors.ServiceError:
    """The first fault as one sentence. Of `inputs` pydantic reports a fault for each form; the list of forms says more."""
    faults = error.errors(include_url=False, include_input=False)
    place = faults[0]["loc"]
    if place and place[0] in ("inputs", "text"):
        index = next((f"[{part}]" for fault in faults for part in fault["loc"] if isinstance(part, int)), "")
        return errors.validation(f"{place[0]}{index}: must be {INPUT_FORMS}")
    return readable(error, expected=EXPECTED)


SCORES = Schema("Scores", TypeAdapter(list[LabelScore] | list[list[LabelScore]]))


def _route(path: str, name: str) -> Route:
    operation = Operation(
        name=name,
        summary="Score one text or a batch.",
        description="Labels with scores, best first; a list of them for a batch, or for one text with `parameters`.",
        answer=SCORES,
        body=Schema("PredictBody", PREDICT_BODY),
        example={"inputs": "A wonderful surprise, funny and moving."},
        failures=SCORING,
        scores=True,
    )
    return Route(method="POST", path=path, handle=predict, operation=operation, takes_texts=True)


ROUTES = (
    _route("/predict", "predict"),
    _route("/", "predict_at_the_root"),
    _route("/models/{name}/predict", "predict_by_name"),
)
