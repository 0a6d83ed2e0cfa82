"""What the bodies of several routes have in common, and the error for a body that is wrong."""

from typing import Annotated, Literal, TypeVar

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError, WithJsonSchema
from pydantic.config import JsonDict

from service.edge.http import errors

Valid = TypeVar("Valid")


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


STRICT = ConfigDict(strict=True, extra="ignore")
# In JSON 1.0 is an integer, and some clients write integers so.
WHOLE = BeforeValidator(_whole)
# For the schema: a text is not empty, which the types can't say.
FULL_STRING: JsonDict = {"type": "string", "minLength": 1}
FullString = Annotated[str, WithJsonSchema(FULL_STRING)]
# The UTF-8 byte order mark, which clients on Windows send.
MARK = b"\xef\xbb\xbf"
EXPECTED = "the body must be a JSON object with the field inputs"
Direction = Annotated[Literal["right", "left"], BeforeValidator(_lower)]


def is_left(direction: Direction | None) -> bool | None:
    """None where the request does not say."""
    return None if direction is None else direction == "left"


def parsed(adapter: TypeAdapter[Valid], body: bytes, *, expected: str = EXPECTED) -> Valid:
    """The JSON in `body`, validated. `expected`: the error's words for a body of another kind. ServiceError 400 or 422."""
    try:
        return adapter.validate_json(body.removeprefix(MARK))
    except ValidationError as error:
        raise readable(error, expected=expected) from None


def readable(error: ValidationError, *, expected: str) -> errors.ServiceError:
    """The first fault as an error: 400 if the body is not JSON, else 422."""
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return errors.bad_request("the body is not valid JSON: " + first["msg"].removeprefix("Invalid JSON: "))
    if not first["loc"]:
        return errors.validation(expected)
    return errors.validation(f"{'.'.join(map(str, first['loc']))}: {first['msg'][0].lower()}{first['msg'][1:]}")
