"""Who may call, and how much: the key of a request, and the limits of a key."""

import asyncio
import fcntl
import hmac
import math
import mmap
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from service.edge.http import errors
from service.edge.keys import Key, KeyFile, KeysError, digest
from service.settings import Settings

REFRESH_INTERVAL_S = 1.0
# So many keys are counted apart.
SLOTS = 4096
# Of a request: so much less than a whole one is a whole one.
ROUNDING = 1e-6


class Access:
    """The keys in use.

    It is built in the main process, so that the file of keys is checked before any model is loaded. Each HTTP process then has a
    copy of its own, but for the limits."""

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
    """Limits each key's requests per second and its requests in flight, in memory that all HTTP processes share.

    A name gets a slot of the memory with its first request. A slot whose key has nothing in flight and a full bucket holds
    nothing that matters, so it may go to another name: keys that have left the file leave no trace. Only a new name takes a lock.
    Two processes that take from one bucket at the same moment may let one request more through."""

    def __init__(self, settings: Settings, *, http_processes: int) -> None:
        self.per_s = settings.key_requests_per_s
        self.most = settings.key_concurrent_requests
        self.burst = max(1.0, self.per_s)
        self._place = 0
        self._slots: dict[str, int] = {}
        # Locked while a slot is given away. The system frees the lock of a process that dies.
        self._claims, path = tempfile.mkstemp()
        os.unlink(path)
        self._names = np.frombuffer(mmap.mmap(-1, 8 * SLOTS), dtype=np.uint64)
        # By slot: when its bucket will be full again, and what each process has in flight.
        self._full_at = np.frombuffer(mmap.mmap(-1, 8 * SLOTS), dtype=np.float64)
        self._in_flight = np.frombuffer(mmap.mmap(-1, 4 * SLOTS * http_processes), dtype=np.int32).reshape(SLOTS, http_processes)

    def enter(self, place: int) -> None:
        """Makes this process, or the next that it forks, count at `place`. The counts there begin at 0: who had them is gone."""
        self._place = place
        self._in_flight[:, place] = 0

    @contextmanager
    def held(self, name: str) -> Iterator[None]:
        """Counts a request of the key as in flight. ServiceError 429 if one of its limits is reached."""
        if not self.per_s and not self.most:
            yield
            return
        slot = self._slot(name)
        if self.most and self._in_flight[slot].sum() >= self.most:
            raise errors.key_overloaded(f"{self.most} requests in flight", retry_after_s=1)
        if self.per_s:
            self._take(slot, time.monotonic())
        self._in_flight[slot, self._place] += 1
        try:
            yield
        finally:
            self._in_flight[slot, self._place] -= 1

    def _take(self, slot: int, now: float) -> None:
        """Takes one request out of the bucket, which holds the requests of a second, and at least one."""
        full_at = max(now, float(self._full_at[slot]))
        level = self.burst - (full_at - now) * self.per_s
        if level < 1 - ROUNDING:
            wait_s = math.ceil((1 - level) / self.per_s - ROUNDING)
            raise errors.key_overloaded(f"{self.per_s:g} requests a second", retry_after_s=wait_s)
        self._full_at[slot] = full_at + 1 / self.per_s

    def _slot(self, name: str) -> int:
        named = np.uint64(int.from_bytes(digest(name.encode())[:8], "little") or 1)  # 0: a free slot
        slot = self._slots.get(name)
        if slot is None or self._names[slot] != named:
            fcntl.lockf(self._claims, fcntl.LOCK_EX)
            slot = self._slots[name] = self._claimed(named)
            fcntl.lockf(self._claims, fcntl.LOCK_UN)
        return slot

    def _claimed(self, named: np.uint64) -> int:
        """The slot of a name, or one that is free. If every key of `SLOTS` is in use, two share a slot and so their limits."""
        found = np.flatnonzero(self._names == named)
        if not len(found):
            found = np.flatnonzero(self._names == 0)
        if not len(found):
            found = np.flatnonzero((self._full_at <= time.monotonic()) & (self._in_flight.sum(axis=1) == 0))
        slot = int(found[0]) if len(found) else int(named % np.uint64(SLOTS))
        if self._names[slot] != named:
            self._names[slot], self._full_at[slot] = named, 0
        return slot
