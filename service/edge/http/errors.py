"""What a client is told when a request can't be served: a status, one word for programs and one sentence for people."""

from dataclasses import dataclass

from service.text.refusal import TextRefused

# Every `error_type`, and what an answer that never came is counted as.
TYPES = (
    "backend", "client_gone", "conflict", "empty", "forbidden", "internal", "method", "not_found", "overloaded",
    "payload_too_large", "timeout", "tokenizer", "unauthorized", "unhealthy", "validation",
)  # fmt: skip


@dataclass(eq=False)  # not frozen: Python sets an exception's traceback
class ServiceError(Exception):
    """An answer other than 200. `message` names the limit and the value; never a path, a setting's value or a stack."""

    status: int
    error_type: str
    message: str
    retry_after_s: int | None = None
    allow: str | None = None


def bad_request(message: str) -> ServiceError:
    """The body can't be read at all."""
    return ServiceError(400, "validation", message)


def validation(message: str) -> ServiceError:
    """The request is JSON but not what the contract asks."""
    return ServiceError(422, "validation", message)


def refused(refusal: TextRefused) -> ServiceError:
    """A text that can't be scored."""
    return ServiceError(422, "tokenizer" if refusal.is_unreadable else "validation", str(refusal))


def empty() -> ServiceError:
    return ServiceError(400, "empty", "nothing to score: inputs is empty; send a string or a list of strings")


def empty_text(where: str) -> ServiceError:
    """`where`: which text, as `inputs[1]`."""
    return ServiceError(400, "empty", f"{where}: nothing to score, the text is empty")


def no_tokens(index: int) -> ServiceError:
    return ServiceError(422, "validation", f"inputs[{index}]: the tokenizer makes no token of this text")


def unauthorized() -> ServiceError:
    return ServiceError(401, "unauthorized", "an API key is needed: send Authorization: Bearer <key>, or X-API-Key")


def forbidden(why: str) -> ServiceError:
    return ServiceError(403, "forbidden", why)


def not_found(what: str) -> ServiceError:
    return ServiceError(404, "not_found", what)


def wrong_method(*allowed: str) -> ServiceError:
    every = [*dict.fromkeys(allowed), *(["HEAD"] if "GET" in allowed else [])]
    return ServiceError(405, "method", f"this route takes {' or '.join(dict.fromkeys(allowed))}", allow=", ".join(every))


def unsupported_encoding() -> ServiceError:
    return ServiceError(415, "validation", "content-encoding: must be gzip, deflate or identity")


def conflict(why: str) -> ServiceError:
    """The request is valid, but the present state of the service forbids it."""
    return ServiceError(409, "conflict", why)


def payload_too_large(limit: int) -> ServiceError:
    return ServiceError(
        413, "payload_too_large", f"the body is larger than the limit of {limit} bytes; send fewer or shorter texts"
    )


def backend(index: int) -> ServiceError:
    return ServiceError(424, "backend", f"the model failed on text {index} of this request; other requests are not affected")


def overloaded(limit: int) -> ServiceError:
    return ServiceError(429, "overloaded", f"more than {limit} requests in flight; retry later", retry_after_s=1)


def too_many_bodies(limit: int) -> ServiceError:
    return ServiceError(429, "overloaded", f"more than {limit} bytes of bodies under way; retry later", retry_after_s=1)


def too_many_explanations(limit: int) -> ServiceError:
    return ServiceError(429, "overloaded", f"more than {limit} explanations in flight; retry later", retry_after_s=1)


def key_overloaded(limit: str, *, retry_after_s: int) -> ServiceError:
    return ServiceError(429, "overloaded", f"more than {limit} with this API key; retry later", retry_after_s=retry_after_s)


def too_many_connections(limit: int) -> ServiceError:
    return ServiceError(429, "overloaded", f"more than {limit} connections; retry later", retry_after_s=1)


def too_many_pipelined(limit: int) -> ServiceError:
    return ServiceError(429, "overloaded", f"more than {limit} requests behind one that is not answered yet", retry_after_s=1)


def not_http() -> ServiceError:
    return ServiceError(400, "validation", "not a valid HTTP/1.1 request")


def head_too_large(limit: int) -> ServiceError:
    return ServiceError(431, "validation", f"the request's head is larger than the limit of {limit} bytes")


def head_too_slow(limit_s: float) -> ServiceError:
    return ServiceError(408, "timeout", f"the request's head did not come within {limit_s:g} s")


def body_too_slow(least_bytes_per_s: int) -> ServiceError:
    return ServiceError(408, "timeout", f"the request's body came with fewer than {least_bytes_per_s} bytes a second")


def unhealthy(why: str) -> ServiceError:
    return ServiceError(503, "unhealthy", why, retry_after_s=2)


def timed_out(timeout_s: float) -> ServiceError:
    return ServiceError(504, "timeout", f"no answer within {timeout_s:g} s; the text will not be computed")
