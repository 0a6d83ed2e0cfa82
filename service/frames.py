"""What crosses the Unix socket between an HTTP process and a worker: length-prefixed MessagePack frames.

All jobs and cancellations of one event-loop tick share a frame, and so do all answers of one batch. A frame is a 4-byte
little-endian length and an array of messages; token ids and logits travel as raw little-endian arrays.
"""

import struct
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

LENGTH = struct.Struct("<I")
ID_TYPE = np.dtype("<i4")
LOGIT_TYPE = np.dtype("<f4")
ATTRIBUTION_TYPE = np.dtype("<f8")


class Job(msgspec.Struct, tag=0, array_like=True, gc=False):
    """The texts of one request for the model at a place. Times are `time.monotonic()` seconds, which all processes of a host
    share. `id`: set by the link that sends it."""

    id: int
    model: int
    deadline: float
    sent_at: float
    lengths: list[int]
    token_ids: bytes
    token_types: bytes = b""


class Cancel(msgspec.Struct, tag=1, array_like=True, gc=False):
    """The client of job `id` has gone or was told that time is up: do not compute what is left of it."""

    id: int


class Answer(msgspec.Struct, tag=2, array_like=True, gc=False):
    """Logits of some texts of a job, (texts, labels) float32; `failed`: those the model raised on."""

    id: int
    texts: list[int]
    logits: bytes
    failed: list[int]
    queue_s: float
    inference_s: float


class Hello(msgspec.Struct, tag=3, array_like=True, gc=False):
    """A worker's first message, and again when its models change: each has answered a real forward. `details` by place."""

    pid: int
    device: str
    details: dict[int, dict[str, str]]


class Explain(msgspec.Struct, tag=4, array_like=True, gc=False):
    """Explain one text: what each token gives to a label's logit, compared to `baseline_ids`. `target` None: the best label."""

    id: int
    model: int
    deadline: float
    sent_at: float
    token_ids: bytes
    baseline_ids: bytes
    target: int | None = None


class Explained(msgspec.Struct, tag=5, array_like=True, gc=False):
    """What came of an `Explain`: see `models.inspect.attribution.Attributions`; `attributions` (tokens) float64. Nothing but the
    times where it `failed` on the text, or explaining this architecture is not `possible`."""

    id: int
    target: int = 0
    score: float = 0.0
    baseline_score: float = 0.0
    attributions: bytes = b""
    steps: int = 0
    completeness_error: float = 0.0
    tolerance: float = 0.0
    failed: bool = False
    possible: bool = True
    queue_s: float = 0.0
    inference_s: float = 0.0


class Keep(msgspec.Struct, tag=10, array_like=True, gc=False):
    """An HTTP process's first message, and again when it changes: the places that it sends jobs to, or is about to. A worker
    keeps a model as long as any connection names its place."""

    places: list[int]


class Load(msgspec.Struct, tag=11, array_like=True, gc=False):
    """Load a model (a `ServedModel` as JSON) to serve at a place."""

    place: int
    model: bytes


class Loaded(msgspec.Struct, tag=12, array_like=True, gc=False):
    """What came of a `Load`: the worker has said so in a `Hello`, or `failure` says in a sentence why not."""

    place: int
    failure: str = ""


Message = Job | Cancel | Answer | Hello | Explain | Explained | Keep | Load | Loaded
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Message])


def encode(messages: Sequence[Message]) -> bytes:
    """One frame."""
    body = _encoder.encode(messages)
    return LENGTH.pack(len(body)) + body


def id_array(data: bytes) -> npt.NDArray[np.int32]:
    return np.frombuffer(data, dtype=ID_TYPE)


class FrameReader:
    """Cuts a byte stream into frames; keeps what is incomplete for the next call."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages of every frame that `data` completes."""
        self._buffer += data
        messages: list[Message] = []
        start = 0
        while len(self._buffer) - start >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._buffer, start)
            end = start + LENGTH.size + length
            if len(self._buffer) < end:
                break
            messages += _decoder.decode(self._buffer[start + LENGTH.size : end])
            start = end
        del self._buffer[:start]
        return messages
