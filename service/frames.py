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
    """The texts of one request, one after another, for the model at a place (see `service.served.roster`).

    Times are `time.monotonic()` seconds, which all processes of a host share. `id` is set by the link that sends the job."""

    id: int
    model: int
    deadline: float
    sent_at: float
    lengths: list[int]
    token_ids: bytes
    token_types: bytes = b""


class Cancel(msgspec.Struct, tag=1, array_like=True, gc=False):
    """Job `id` need not be computed any more: its client has gone, or was told that its time is up."""

    id: int


class Answer(msgspec.Struct, tag=2, array_like=True, gc=False):
    """The logits of some texts of a job.

    `texts`: their indices in the job. `logits`: (texts, labels) float32. `failed`: the indices of texts that the model raised
    on."""

    id: int
    texts: list[int]
    logits: bytes
    failed: list[int]
    queue_s: float
    inference_s: float


class Facts(msgspec.Struct, array_like=True, gc=False):
    """What a worker found out about a model. `max_length`: tokens of the longest text that it takes; `labels`: one a logit."""

    max_length: int
    labels: list[str]


class Hello(msgspec.Struct, tag=3, array_like=True, gc=False):
    """A worker's first message, sent again when its models change.

    `details`: by place, what the model there runs on; `facts`: what was found out about it. Every model has answered a real
    forward."""

    pid: int
    device: str
    details: dict[int, dict[str, str]]
    facts: dict[int, Facts] = {}


class Explain(msgspec.Struct, tag=4, array_like=True, gc=False):
    """Asks what each token of one text gives to a label's logit, compared to `baseline_ids`. `target` None: the best label."""

    id: int
    model: int
    deadline: float
    sent_at: float
    token_ids: bytes
    baseline_ids: bytes
    target: int | None = None


class Explained(msgspec.Struct, tag=5, array_like=True, gc=False):
    """The answer to an `Explain`, with the fields of `models.inspect.attribution.Attributions`.

    `attributions`: (tokens) float64. `failed`: the model raised on the text. `possible` False: this architecture can't be
    explained. In both cases the fields of the result are empty."""

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
    """An HTTP process's first message, sent again when it changes: the places that the process sends jobs to, or is about to.

    A worker keeps a model as long as any connection names its place."""

    places: list[int]


class Load(msgspec.Struct, tag=11, array_like=True, gc=False):
    """Asks a worker to load a model (a `ServedModel` as JSON) and to serve it at a place."""

    place: int
    model: bytes


class Loaded(msgspec.Struct, tag=12, array_like=True, gc=False):
    """The answer to a `Load`. `failure`: one sentence, why the model was not loaded; empty if a `Hello` has named it."""

    place: int
    failure: str = ""


Message = Job | Cancel | Answer | Hello | Explain | Explained | Keep | Load | Loaded
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Message])


def encode(messages: Sequence[Message]) -> bytes:
    """One frame of all `messages`."""
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
