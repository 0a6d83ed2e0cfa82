"""The body of a request: all of it, within a limit of bytes and of time."""

import asyncio

from service.edge.http import compression, errors
from service.edge.http.call import Call, ClientGone
from service.edge.http.connection import BODY

# So many bodies of the largest size may be on their way into one process at a time.
MOST_BODIES = 64


class BodyReader:
    """Reads the bodies of one HTTP process, and bounds the memory of all that are on their way."""

    def __init__(self, *, limit: int) -> None:
        """`limit`: bytes of one body, once it is decompressed."""
        self.limit = limit
        self._under_way = 0

    async def read(self, call: Call) -> bytes:
        """The whole body, decompressed.

        ServiceError 413 as soon as it is known to be too large, 415 for an unknown encoding, 504 if it does not come within the
        request's time, 429 if too many bodies are on their way."""
        encoding = call.headers.get(b"content-encoding")
        if encoding is not None:
            compression.check_encoding(encoding)
        declared = call.headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self.limit:
            raise errors.payload_too_large(self.limit)
        whole = call.scope.get(BODY)
        if whole is not None and len(whole) > self.limit:
            raise errors.payload_too_large(self.limit)
        body = await self._received(call) if whole is None else bytes(whole)
        return body if encoding is None else await compression.decompressed(body, encoding, limit=self.limit)

    async def _received(self, call: Call) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(call.timeout_s):
                while True:
                    message = await call.receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    piece = message.get("body", b"")
                    body += piece
                    self._under_way += len(piece)
                    if len(body) > self.limit:
                        raise errors.payload_too_large(self.limit)
                    if not message.get("more_body"):
                        return bytes(body)
                    if self._under_way > MOST_BODIES * self.limit:
                        raise errors.too_many_bodies(MOST_BODIES * self.limit)
        except TimeoutError:
            raise errors.timed_out(call.timeout_s) from None
        finally:
            self._under_way -= len(body)
