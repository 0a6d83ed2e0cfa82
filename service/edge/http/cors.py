"""Which pages of other origins a browser lets use the service: none, unless the operator names them.

https://fetch.spec.whatwg.org/#http-cors-protocol
"""

from collections.abc import Mapping, Sequence

from service.edge.http.call import Headers, Response

MAX_AGE_S = 600
# Headers of an answer that a page may read, beside those that it always may.
EXPOSED = b"x-request-id, x-model, x-tokens, x-queue-time-ms, x-inference-time-ms, x-total-time-ms, retry-after"


class Cors:
    """The origins whose pages may use the service."""

    def __init__(self, origins: Sequence[str]) -> None:
        """`*` stands for every origin."""
        self.origins = frozenset(origin.encode() for origin in origins)

    def headers(self, sent: Mapping[bytes, bytes]) -> Headers:
        """What an answer to a request with these headers says. A key is no credential in the protocol's sense: no cookie is."""
        origin = sent.get(b"origin")
        if origin is None or not self.origins & {origin, b"*"}:
            return []
        return [(b"access-control-allow-origin", origin), (b"access-control-expose-headers", EXPOSED), (b"vary", b"origin")]

    def preflight(self, sent: Mapping[bytes, bytes], methods: Sequence[str]) -> Response | None:
        """The answer to a browser that asks whether a page may send a request. None if it is no such question, or it may not."""
        if b"access-control-request-method" not in sent or not self.headers(sent):
            return None
        allowed = [
            (b"access-control-allow-methods", ", ".join(methods).encode()),
            (b"access-control-allow-headers", sent.get(b"access-control-request-headers", b"")),
            (b"access-control-max-age", b"%d" % MAX_AGE_S),
        ]
        return Response(200, b"", allowed)
