"""API keys: those of the settings and those of a file, which is read again when it changes.

A line of the file is `name:key` or `name:sha256=<hex>`, the SHA-256 of the key; `admin` and a space before the name mark a key
that may change the service. A name may have several keys, so that the old one still works while its clients change to a new one.

>>> [(key.name, key.admin) for key in parse_keys("# May 2026\\nshop:0123456789abcdef\\nadmin ops:fedcba9876543210")]
[('shop', False), ('ops', True)]
"""

import hashlib
import logging
import re
import stat
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger("valence.keys")
LEAST_KEY_LENGTH = 16
LINE = re.compile(
    r"(?P<admin>admin\s+)?(?P<name>[\w.-]+)\s*:\s*(?:sha256=(?P<digest>[0-9a-fA-F]{64})|(?P<key>(?!sha256=)[!-~]+))"
)


class KeysError(ValueError):
    """The keys can't be used; the message names the file and the line, for the operator, and never a key."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it is kept: by its SHA-256 only. `admin`: it may change the service."""

    name: str
    digest: bytes
    admin: bool = False


def digest(key: bytes) -> bytes:
    """What keys are compared by: digests are of one length, whatever was sent."""
    return hashlib.sha256(key).digest()


def parse_keys(text: str) -> tuple[Key, ...]:
    """The keys of a file. KeysError for a line that is no key, and for a file without any key."""
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    keys = tuple(_parse_line(line, number) for number, line in lines if line and not line.startswith("#"))
    if not keys:
        raise KeysError("no key in it; write name:key or name:sha256=<hex>, one a line")
    return keys


def _parse_line(line: str, number: int) -> Key:
    found = LINE.fullmatch(line)
    if found is None:
        raise KeysError(f"line {number}: neither name:key nor name:sha256=<64 hex digits>, with or without admin before it")
    if found["key"] and len(found["key"]) < LEAST_KEY_LENGTH:
        raise KeysError(f"line {number}: the key has fewer than {LEAST_KEY_LENGTH} characters")
    return Key(
        name=found["name"],
        digest=bytes.fromhex(found["digest"]) if found["digest"] else digest(found["key"].encode()),
        admin=bool(found["admin"]),
    )


class KeyFile:
    """The keys of a file, as they were when the file could last be used."""

    def __init__(self, path: Path) -> None:
        """KeysError where the file can't be read or used."""
        self.path = path
        self._version = self._seen()
        self.keys = self._read()

    def refresh(self) -> None:
        """Reads the file if it has changed. If it can't be used, the keys stay as they were, and the log says why."""
        version = self._seen()
        if version == self._version:
            return
        self._version = version
        try:
            self.keys = self._read()
        except KeysError as error:
            log.error("%s; the keys read before stay in use", error)
        else:
            log.info("%s: read again; keys of %s", self.path, ", ".join(sorted({key.name for key in self.keys})))

    def _seen(self) -> tuple[int, int, int] | None:
        """What tells one version of the file from the next; None where there is no file."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> tuple[Key, ...]:
        try:
            mode = self.path.stat().st_mode
            keys = parse_keys(self.path.read_text(encoding="ascii"))
        except UnicodeDecodeError:  # the error quotes what can't be read, which may be a key
            raise KeysError(f"--api-keys-file {self.path}: not ASCII text") from None
        except OSError as error:
            raise KeysError(f"--api-keys-file {self.path}: {error.strerror}") from error
        except KeysError as error:
            raise KeysError(f"--api-keys-file {self.path}: {error}") from None
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            log.warning("--api-keys-file %s: open to every user of this machine; chmod 600 it", self.path)
        return keys
