"""The JSON of `/predict`: one set of types validates a request and generates its schema.

>>> parse_predict(b'{"inputs": ["good", "bad"]}').texts
[('good', None), ('bad', None)]
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, WithJsonSchema, with_config
from pydantic.config import JsonDict
from typing_extensions import TypedDict

from service.edge import errors
from service.edge.routes.fields import readable

Text = tuple[str, str | None]
Function = Literal["softmax", "sigmoid", "none"]


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# To JSON 1.0 is an integer, and some clients write it so.
WHOLE = BeforeValidator(_whole)
STRICT = ConfigDict(strict=True, extra="ignore")
# For the schema, what the types can't say and `_texts` and `_pair` check: a text is not empty, a pair holds one or two strings
# and not only empty ones.
FULL_STRING: JsonDict = {"type": "string", "minLength": 1}
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


FullString = Annotated[str, WithJsonSchema(FULL_STRING)]
Pair = Annotated[list[str], WithJsonSchema(PAIR)]
Batch = Annotated[list[FullString | Pair | TextPair], Field(json_schema_extra={"minItems": 1})]
Inputs = FullString | Batch | TextPair


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


Direction = Annotated[Literal["right", "left"], BeforeValidator(_lower)]


@with_config(ConfigDict(**STRICT, json_schema_extra=ONE_OF_TWO))
class PredictBody(TypedDict, total=False):
    """The body of `POST /predict`. `inputs` (or `text`) is required; a list of strings is a batch.

    `overflow` says what becomes of a text longer than the model's limit, and goes before `truncate`: it is cut there, split into
    overlapping windows that are all scored (the mean of their logits, weighted by tokens), or answered 422.
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


BODY: TypeAdapter[PredictBody] = TypeAdapter(PredictBody)
ANSWER: TypeAdapter[list[LabelScore] | list[list[LabelScore]]] = TypeAdapter(list[LabelScore] | list[list[LabelScore]])

EXPECTED = "the body must be a JSON object with the field inputs"
INPUT_FORMS = "a string, a list of strings, a list of [text, text_pair], or {text, text_pair} or a list of it"


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """A valid request. `nested`: the answer is a list of lists. `truncate` None: as the service is set; `window` overrides it."""

    texts: list[Text]
    nested: bool
    model: str | None
    truncate: bool | None
    truncate_left: bool
    window: bool
    top_k: int | None
    function: Function | None


def parse_predict(body: bytes) -> PredictRequest:
    """The request in `body`. ServiceError 400 if it is not JSON or holds no text, 422 where a type or a field is wrong."""
    try:
        fields = BODY.validate_json(body)
    except ValidationError as error:
        raise _readable(error) from None
    inputs = fields.get("inputs", fields.get("text"))
    if inputs is None:
        raise errors.validation("inputs: required; send " + INPUT_FORMS)
    parameters = fields.get("parameters")
    return PredictRequest(
        texts=_texts(inputs),
        nested=parameters is not None or isinstance(inputs, list),
        model=fields.get("model"),
        truncate=_truncate(fields, parameters or {}),
        truncate_left=fields.get("truncation_direction") == "left",
        window=fields.get("overflow") == "window",
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
    if not texts or any(not text and not partner for text, partner in texts):
        raise errors.empty()
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
    """The first fault as one sentence. Pydantic reports each arm of a union; for `inputs` its forms say more."""
    faults = error.errors(include_url=False, include_input=False)
    place = faults[0]["loc"]
    if place and place[0] in ("inputs", "text"):
        index = next((f"[{part}]" for fault in faults for part in fault["loc"] if isinstance(part, int)), "")
        return errors.validation(f"{place[0]}{index}: must be {INPUT_FORMS}")
    return readable(error, expected=EXPECTED)
