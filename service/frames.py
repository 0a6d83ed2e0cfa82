"""What crosses the Unix socket between an HTTP process and a worker: length-prefixed MessagePack frames.

All jobs and cancellations of one event-loop tick share a frame, and so do all answers of one batch. A frame is a 4-byte
little-endian length and an array of messages; token ids and logits travel as raw little-endian arrays.
"""

import struct
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

LENGTH = struct.Struct("<I")
ID_TYPE = np.dtype("<i4")
LOGIT_TYPE = np.dtype("<f4")


class Job(msgspec.Struct, tag=0, array_like=True, gc=False):
    """The texts of one request. Times are `time.monotonic()` seconds, which all processes of a host share."""

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
    """A worker's first message: every model on its device has answered a real forward."""

    pid: int
    device: str
    details: dict[str, dict[str, str]]


Message = Job | Cancel | Answer | Hello
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

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages of every frame that `data` completes."""
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._buffer, start)
            end = start + LENGTH.size + length
            if len(self._buffer) < end:
                break
            body = bytes(self._buffer[start + LENGTH.size : end])
            start = end
            yield from _decoder.decode(body)
        del self._buffer[:start]
