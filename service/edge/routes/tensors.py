"""The JSON of the Open Inference Protocol's infer request and answer, with tritonclient's binary tensors behind it.

A request's body is JSON. Or it is JSON of `inference-header-content-length` bytes, and behind it the bytes of the tensors that
have a `binary_data_size`. An element of a BYTES tensor is its length as 4 bytes, little-endian, and so many bytes of UTF-8.

>>> parse_infer(b'{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good"]}]}', None).asked.texts
[('good', None)]
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, Literal, NotRequired

import numpy as np
import orjson
from annotated_types import Ge, Len
from pydantic import TypeAdapter, WithJsonSchema, with_config
from pydantic.config import JsonDict
from typing_extensions import TypedDict

from service.edge.http import errors
from service.edge.http.call import JSON, Response
from service.edge.routes.fields import STRICT, WHOLE, Direction, FullString, is_left, parsed
from service.edge.scoring.scoring import Texts
from service.frames import LENGTH, LOGIT_TYPE
from service.text.encoder import Text
from service.text.labelling import Function

VERSION = "1"
HEADER_LENGTH = b"inference-header-content-length"
BINARY = (b"content-type", b"application/octet-stream")
# For the schema: [n] or [n, 1].
SHAPE: JsonDict = {
    "type": "array",
    "prefixItems": [{"type": "integer", "minimum": 1}, {"const": 1}],
    "minItems": 1,
    "maxItems": 2,
}
OutputName = Literal["label", "scores"]


@with_config(STRICT)
class TensorParameters(TypedDict, total=False):
    """`binary_data_size`: how many bytes of the tensor follow the JSON. Shared memory is not offered."""

    binary_data_size: Annotated[int, Ge(0), WHOLE] | None
    shared_memory_region: None


@with_config(STRICT)
class InputTensor(TypedDict):
    """Texts, row by row."""

    name: str
    shape: Annotated[list[Annotated[int, Ge(0), WHOLE]], Len(1, 2), WithJsonSchema(SHAPE)]
    datatype: Literal["BYTES"]
    parameters: NotRequired[TensorParameters | None]
    data: NotRequired[list[FullString | list[FullString]] | None]


@with_config(STRICT)
class OutputParameters(TypedDict, total=False):
    """`binary_data`: the tensor's bytes follow the answer's JSON. Triton's classification and shared memory are not offered."""

    binary_data: bool | None
    classification: None
    shared_memory_region: None


@with_config(STRICT)
class RequestedOutput(TypedDict):
    """One tensor of the answer."""

    name: OutputName
    parameters: NotRequired[OutputParameters | None]


@with_config(STRICT)
class InferParameters(TypedDict, total=False):
    """As in `/predict`. `timeout`: in microseconds. `binary_data_output`: the `binary_data` of every output that has none."""

    truncate: bool | None
    truncation_direction: Direction | None
    raw_scores: bool | None
    function_to_apply: Function | None
    timeout: Annotated[int, Ge(1), WHOLE] | None
    binary_data_output: bool | None


@with_config(STRICT)
class InferBody(TypedDict):
    """The body of `POST /v2/models/{name}/infer`."""

    id: NotRequired[str | None]
    inputs: Annotated[list[InputTensor], Len(1, 1)]
    outputs: NotRequired[list[RequestedOutput] | None]
    parameters: NotRequired[InferParameters | None]


@with_config(STRICT)
class OutputTensor(TypedDict):
    """`label`: the best one of each text, BYTES `[n]`; `scores`: FP32 `[n, labels]`, row by row."""

    name: OutputName
    datatype: Literal["BYTES", "FP32"]
    shape: list[int]
    data: NotRequired[list[str] | list[float]]
    parameters: NotRequired[dict[str, int]]


@with_config(STRICT)
class InferAnswer(TypedDict):
    """The answer of `POST /v2/models/{name}/infer`."""

    model_name: str
    model_version: str
    id: NotRequired[str]
    outputs: list[OutputTensor]


INFER_BODY: TypeAdapter[InferBody] = TypeAdapter(InferBody)
INFER_ANSWER: TypeAdapter[InferAnswer] = TypeAdapter(InferAnswer)


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A valid request. `outputs`: in the order asked for, whether each is sent as bytes."""

    asked: Texts
    id: str | None
    outputs: dict[OutputName, bool]
    function: Function | None


def parse_infer(body: bytes, header_length: bytes | None) -> InferRequest:
    """The request in `body`. ServiceError 400 if it can't be read or holds no text, 422 where a type, shape or size is wrong."""
    document, binary = _split(body, header_length)
    fields = parsed(INFER_BODY, document)
    parameters = fields.get("parameters") or {}
    timeout_us = parameters.get("timeout")
    return InferRequest(
        asked=Texts(
            _texts(fields["inputs"][0], binary),
            truncate=parameters.get("truncate"),
            truncate_left=is_left(parameters.get("truncation_direction")),
            timeout_s=None if timeout_us is None else timeout_us / 1e6,
        ),
        id=fields.get("id"),
        outputs=_outputs(fields.get("outputs") or [], binary=bool(parameters.get("binary_data_output"))),
        function="none" if parameters.get("raw_scores") else parameters.get("function_to_apply"),
    )


def _split(body: bytes, header_length: bytes | None) -> tuple[bytes, bytes]:
    if header_length is None:
        return body, b""
    if not header_length.isdigit() or len(header_length) > 12 or int(header_length) > len(body):
        raise errors.bad_request(f"inference-header-content-length: must be a number of bytes up to {len(body)}, the body's")
    return body[: int(header_length)], body[int(header_length) :]


def _outputs(requested: Sequence[RequestedOutput], *, binary: bool) -> dict[OutputName, bool]:
    if not requested:
        return {"label": binary, "scores": binary}
    choices = {output["name"]: (output.get("parameters") or {}).get("binary_data") for output in requested}
    return {name: binary if choice is None else choice for name, choice in choices.items()}


def _texts(tensor: InputTensor, binary: bytes) -> list[Text]:
    elements = _elements(tensor, binary)
    shape = tensor["shape"]
    if shape[1:] not in ([], [1]):
        raise errors.validation(f"inputs.0.shape: must be [n] or [n, 1], not {shape}")
    if len(elements) != shape[0]:
        raise errors.validation(f"inputs.0.shape: {shape} means {shape[0]} elements, but the data holds {len(elements)}")
    if not elements:
        raise errors.empty()
    if not all(elements):
        raise errors.empty_text(f"inputs[0].data[{elements.index('')}]")
    return [(element, None) for element in elements]


def _elements(tensor: InputTensor, binary: bytes) -> list[str]:
    size = (tensor.get("parameters") or {}).get("binary_data_size")
    data = tensor.get("data")
    if (size is None) == (data is None):
        raise errors.validation("inputs.0: needs data, or the parameter binary_data_size and the bytes behind the JSON; not both")
    if (size or 0) != len(binary):
        raise errors.validation(f"inputs.0.parameters.binary_data_size: {size or 0} bytes, but {len(binary)} follow the JSON")
    if data is not None:
        return list(chain.from_iterable([row] if isinstance(row, str) else row for row in data))
    return [_decoded(index, element) for index, element in enumerate(_cut(binary))]


def _cut(binary: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(binary):
        first = start + LENGTH.size
        end = first + LENGTH.unpack_from(binary, start)[0] if first <= len(binary) else first
        if end > len(binary):
            raise errors.validation("inputs.0: the bytes behind the JSON end within an element")
        yield binary[first:end]
        start = end


def _decoded(index: int, element: bytes) -> str:
    try:
        return element.decode()
    except UnicodeDecodeError:
        raise errors.validation(f"inputs.0: element {index} is not UTF-8") from None


def infer_answer(request: InferRequest, scores: Sequence[Sequence[float]], *, model: str, labels: Sequence[str]) -> Response:
    """The response that holds `scores` (texts, labels), and the best label of each text."""
    rows = np.array(scores, dtype=LOGIT_TYPE)
    best = [labels[place] for place in rows.argmax(axis=1).tolist()]
    content: dict[OutputName, tuple[dict[str, Any], Any, Callable[[Any], bytes]]] = {
        "label": ({"name": "label", "datatype": "BYTES", "shape": [len(best)]}, best, _joined),
        "scores": ({"name": "scores", "datatype": "FP32", "shape": list(rows.shape)}, rows.ravel(), np.ndarray.tobytes),
    }
    tensors, tails = [], []
    for name, binary in request.outputs.items():
        tensor, data, to_bytes = content[name]
        if binary:
            tails.append(to_bytes(data))
        tensors.append(tensor | ({"parameters": {"binary_data_size": len(tails[-1])}} if binary else {"data": data}))
    head: dict[str, Any] = {"model_name": model, "model_version": VERSION, "outputs": tensors}
    if request.id is not None:
        head["id"] = request.id
    document = orjson.dumps(head, option=orjson.OPT_SERIALIZE_NUMPY)
    if not tails:
        return Response(200, document, [JSON])
    return Response(200, b"".join([document, *tails]), [BINARY, (HEADER_LENGTH, b"%d" % len(document))])


def _joined(labels: Sequence[str]) -> bytes:
    encoded = [label.encode() for label in labels]
    return b"".join(part for label in encoded for part in (LENGTH.pack(len(label)), label))
