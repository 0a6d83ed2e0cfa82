"""Who may call, and how much: the key of a request, and the limits of a key in one HTTP process."""

import asyncio
import hmac
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from service.edge.http import errors
from service.edge.keys import Key, KeyFile, KeysError, digest
from service.settings import Settings

REFRESH_INTERVAL_S = 1.0


class Access:
    """The keys in use.

    It is built in the main process, so that the file of keys is checked before any model is loaded. Each HTTP process then has a
    copy of its own."""

    def __init__(self, settings: Settings, *, http_processes: int) -> None:
        """KeysError if the file of keys can't be used, or if there are limits for keys but no keys."""
        self.asks_for_key = settings.api_key is not None or settings.api_keys_file is not None
        self._open = frozenset(settings.open_routes)
        # Paths that begin so are open. Where no key is asked for, that is every path.
        self._open_below = tuple(f"{route}/" for route in settings.open_routes) if self.asks_for_key else ("",)
        if not self.asks_for_key and (settings.key_requests_per_s or settings.key_concurrent_requests):
            raise KeysError("--key-requests-per-s and --key-concurrent-requests are for keys; set --api-key or --api-keys-file")
        self.limits = KeyLimits(settings, http_processes=http_processes)
        self._file = KeyFile(settings.api_keys_file) if settings.api_keys_file else None
        given = (("api-key", settings.api_key, False), ("admin-key", settings.admin_key, True))
        self._given = tuple(
            Key(name, digest(secret.get_secret_value().encode()), admin) for name, secret, admin in given if secret is not None
        )

    def opens(self, path: str) -> bool:
        """Whether `path` needs no key."""
        return path.startswith(self._open_below) or path in self._open

    @contextmanager
    def granted(self, headers: Mapping[bytes, bytes], *, admin: bool) -> Iterator[None]:
        """Lets a request with a right key in, and counts it against the key's limits while it lasts.

        `admin`: the route changes the service. ServiceError 401, 403 or 429 for a request that may not in."""
        keys = self.keys()
        if admin and not any(key.admin for key in keys):
            raise errors.forbidden("this route changes the service, and the service has no admin key")
        key = find_key(keys, sent_key(headers))
        if key is None:
            raise errors.unauthorized()
        if admin and not key.admin:
            raise errors.forbidden("this route changes the service: it takes an admin key")
        with self.limits.held(key.name):
            yield

    def keys(self) -> tuple[Key, ...]:
        """The keys of the settings, and those of the file as it was last read."""
        return self._given + self._file.keys if self._file else self._given

    async def keep_fresh(self) -> None:
        """Reads the file again whenever it changes. It does so in a thread: a file system that hangs holds up no request."""
        while self._file is not None:
            await asyncio.sleep(REFRESH_INTERVAL_S)
            await asyncio.to_thread(self._file.refresh)


def sent_key(headers: Mapping[bytes, bytes]) -> bytes:
    """The key of `X-API-Key` or of `Authorization: Bearer`; empty where there is none."""
    if b"x-api-key" in headers:
        return headers[b"x-api-key"]
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else b""


def find_key(keys: tuple[Key, ...], sent: bytes) -> Key | None:
    """The key that was sent; None if it is none of `keys`.

    It is compared with every key, each in constant time (0.1 us). So the time tells neither how much of a key was right nor which
    key it was."""
    found = None
    sent_digest = digest(sent)
    for key in keys:
        if hmac.compare_digest(key.digest, sent_digest):
            found = key
    return found


class KeyLimits:
    """Limits each key's requests per second and its requests in flight. Each HTTP process allows an equal share of a limit."""

    def __init__(self, settings: Settings, *, http_processes: int) -> None:
        self.settings = settings
        self.share_per_s = settings.key_requests_per_s / http_processes
        self.share_in_flight = math.ceil(settings.key_concurrent_requests / http_processes)
        self.burst = max(1.0, self.share_per_s)
        self._in_flight: Counter[str] = Counter()
        # By key: how many requests were left in its bucket, and when they were counted.
        self._buckets: dict[str, tuple[float, float]] = {}

    @contextmanager
    def held(self, name: str) -> Iterator[None]:
        """Counts a request of the key as in flight. ServiceError 429 if one of its limits is reached."""
        if self.share_in_flight and self._in_flight[name] >= self.share_in_flight:
            raise errors.key_overloaded(f"{self.settings.key_concurrent_requests} requests in flight", retry_after_s=1)
        if self.share_per_s:
            self._take(name, time.monotonic())
        self._in_flight[name] += 1
        try:
            yield
        finally:
            self._in_flight[name] -= 1

    def _take(self, name: str, now: float) -> None:
        """Takes one request out of the key's bucket, which holds the requests of a second, and at least one."""
        level, filled_at = self._buckets.get(name, (self.burst, now))
        level = min(self.burst, level + (now - filled_at) * self.share_per_s)
        if level < 1:
            wait_s = math.ceil((1 - level) / self.share_per_s)
            raise errors.key_overloaded(f"{self.settings.key_requests_per_s:g} requests a second", retry_after_s=wait_s)
        self._buckets[name] = (level - 1, now)
