"""What a client is told of a body that is not what the contract asks: one sentence that names the field."""

from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from service.edge import errors

Valid = TypeVar("Valid")


def parsed(adapter: TypeAdapter[Valid], body: bytes, *, expected: str) -> Valid:
    """The JSON in `body`, validated. `expected` says what the whole of it must be. ServiceError 400 or 422."""
    try:
        return adapter.validate_json(body)
    except ValidationError as error:
        raise readable(error, expected=expected) from None


def readable(error: ValidationError, *, expected: str) -> errors.ServiceError:
    """The first fault: 400 where the body is not JSON, else 422."""
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return errors.bad_request("the body is not valid JSON: " + first["msg"].removeprefix("Invalid JSON: "))
    if not first["loc"]:
        return errors.validation(expected)
    return errors.validation(f"{'.'.join(map(str, first['loc']))}: {first['msg'][0].lower()}{first['msg'][1:]}")
