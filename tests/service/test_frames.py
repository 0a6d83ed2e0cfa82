"""Frames over a byte stream."""

import msgspec
import numpy as np
import pytest

from service.frames import (
    LENGTH,
    Answer,
    Cancel,
    Explain,
    Explained,
    FrameReader,
    Hello,
    Job,
    Keep,
    Load,
    Loaded,
    Message,
    encode,
    id_array,
)

JOB = Job(id=7, model=1, deadline=12.5, sent_at=2.25, lengths=[2, 1], token_ids=np.array([5, 70000, 9], "<i4").tobytes())
ANSWER = Answer(id=7, texts=[1], logits=np.array([0.5, -1], "<f4").tobytes(), failed=[0], queue_s=0.25, inference_s=0.5)
HELLO = Hello(pid=42, device="cpu/0", details={0: {"dtype": "float32"}, 2**40: {}})
EXPLAIN = Explain(id=8, model=1, deadline=12.5, sent_at=2.25, token_ids=b"\5\0\0\0", baseline_ids=b"\4\0\0\0", target=2)
EXPLAINED = Explained(id=8, target=2, score=1.5, baseline_score=-1, attributions=b"\0" * 8, steps=8, tolerance=0.5)
SERVING, LOAD, LOADED = Keep([0, 2**40]), Load(3, b"{}"), Loaded(3, "no")
MESSAGES: list[Message] = [
    JOB,
    msgspec.structs.replace(JOB, token_types=b"\0" * 12),
    Cancel(id=7),
    ANSWER,
    HELLO,
    EXPLAIN,
    EXPLAINED,
    SERVING,
    LOAD,
    LOADED,
]
STREAM = encode(MESSAGES[:2]) + encode([]) + encode(MESSAGES[2:])


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_equal(message: Message) -> None:
    assert list(FrameReader().feed(encode([message]))) == [message]


@pytest.mark.parametrize("cut", range(len(STREAM) + 1))
def test_a_stream_cut_anywhere_gives_every_message_once(cut: int) -> None:
    reader = FrameReader()
    assert [*reader.feed(STREAM[:cut]), *reader.feed(STREAM[cut:])] == MESSAGES


def test_a_stream_of_single_bytes_gives_every_message_once() -> None:
    reader = FrameReader()
    assert [message for byte in STREAM for message in reader.feed(bytes([byte]))] == MESSAGES


def test_a_frame_longer_than_a_read_waits_for_its_end() -> None:
    reader = FrameReader()
    job = msgspec.structs.replace(JOB, token_ids=bytes(300_000))
    frame = encode([job])
    assert list(reader.feed(frame[:65_536])) == []
    assert list(reader.feed(frame[65_536:])) == [job]


def test_token_ids_survive_as_little_endian_integers() -> None:
    assert id_array(JOB.token_ids).tolist() == [5, 70000, 9]


def test_a_frame_begins_with_the_length_of_its_body() -> None:
    frame = encode([JOB])
    assert LENGTH.unpack_from(frame) == (len(frame) - LENGTH.size,)


def test_a_frame_of_no_known_message_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        list(FrameReader().feed(LENGTH.pack(3) + msgspec.msgpack.encode([[9]])))
