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
    """The keys in use. Built in the main process, so that the file is judged before anything is loaded; each HTTP process then
    has a copy of its own."""

    def __init__(self, settings: Settings, *, http_processes: int) -> None:
        """KeysError where the file of keys can't be used, or there are limits and no keys."""
        self.asks_for_key = settings.api_key is not None or settings.api_keys_file is not None
        self._open = frozenset(settings.open_routes)
        # Paths that begin so are open: without a key to ask for, all.
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
        """No key is needed there."""
        return path.startswith(self._open_below) or path in self._open

    @contextmanager
    def granted(self, headers: Mapping[bytes, bytes], *, admin: bool) -> Iterator[None]:
        """Lets a request in that has a right key, and counts it against the key's limits while it lasts. `admin`: its route
        changes the service. ServiceError 401, 403 or 429."""
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
        """Those of the settings and, as it now is, of the file."""
        return self._given + self._file.keys if self._file else self._given

    async def keep_fresh(self) -> None:
        """Follows the file, in a thread: a file system that hangs holds up no request."""
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
    """The key that was sent. It is compared with every key, each in constant time, so that the time tells neither how much of a
    key was right nor which it was (0.1 us a key)."""
    found = None
    sent_digest = digest(sent)
    for key in keys:
        if hmac.compare_digest(key.digest, sent_digest):
            found = key
    return found


class KeyLimits:
    """Requests per second and requests in flight of each key: an equal share of the settings for each HTTP process."""

    def __init__(self, settings: Settings, *, http_processes: int) -> None:
        self.settings = settings
        self.share_per_s = settings.key_requests_per_s / http_processes
        self.share_in_flight = math.ceil(settings.key_concurrent_requests / http_processes)
        self.burst = max(1.0, self.share_per_s)
        self._in_flight: Counter[str] = Counter()
        # By key: how many requests it may send at once, and when that was so.
        self._buckets: dict[str, tuple[float, float]] = {}

    @contextmanager
    def held(self, name: str) -> Iterator[None]:
        """Holds one of the key's requests in flight; 429 where it has none left."""
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
        """One request out of the key's bucket, which holds a second's worth and at least one."""
        level, filled_at = self._buckets.get(name, (self.burst, now))
        level = min(self.burst, level + (now - filled_at) * self.share_per_s)
        if level < 1:
            wait_s = math.ceil((1 - level) / self.share_per_s)
            raise errors.key_overloaded(f"{self.settings.key_requests_per_s:g} requests a second", retry_after_s=wait_s)
        self._buckets[name] = (level - 1, now)
