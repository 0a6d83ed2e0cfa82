"""The file of keys: which lines are valid, and how the file is followed while it changes."""

import hashlib
import logging
import os
from pathlib import Path

import pytest

from service.edge.keys import Key, KeyFile, KeysError, digest, parse_keys

FIRST = "first-key-of-the-shop"
SECOND = "second-key-of-the-shop"
HASHED = hashlib.sha256(SECOND.encode()).hexdigest()


def replace(path: Path, text: str) -> None:
    """Replaces the file as an editor or Kubernetes does: by another file under the same name."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o600)
    new.replace(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    replace(tmp_path / "keys", f"shop:{FIRST}\n")
    return tmp_path / "keys"


@pytest.mark.parametrize(
    ("line", "key"),
    [
        (f"shop:{FIRST}", Key("shop", digest(FIRST.encode()))),
        (f"  shop : {FIRST}  ", Key("shop", digest(FIRST.encode()))),
        (f"shop:sha256={HASHED}", Key("shop", digest(SECOND.encode()))),
        (f"shop:sha256={HASHED.upper()}", Key("shop", digest(SECOND.encode()))),
        (f"admin ops.eu-1:{FIRST}", Key("ops.eu-1", digest(FIRST.encode()), admin=True)),
        (f"admin:{FIRST}", Key("admin", digest(FIRST.encode()))),
        ("shop:with:colons=and#signs", Key("shop", digest(b"with:colons=and#signs"))),
    ],
)
def test_a_line_is_a_key(line: str, key: Key) -> None:
    assert parse_keys(f"# a comment\n\n{line}\n") == (key,)


def test_a_name_may_have_two_keys() -> None:
    assert [key.name for key in parse_keys(f"shop:{FIRST}\nshop:{SECOND}")] == ["shop", "shop"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("sixteen-or-more-characters", "line 2: neither"),
        (":sixteen-or-more-characters", "line 2: neither"),
        ("two words:sixteen-or-more-characters", "line 2: neither"),
        ("shop:with spaces inside it", "line 2: neither"),
        ("shop:sha256=abc", "line 2: neither"),
        (f"shop:sha256={HASHED}0", "line 2: neither"),
        ("shop:short", "line 2: the key has fewer than 16 characters"),
    ],
)
def test_another_line_is_refused_by_its_number(line: str, said: str) -> None:
    with pytest.raises(KeysError, match=said) as refused:
        parse_keys(f"ok:{FIRST}\n{line}")
    assert line.rpartition(":")[2] not in str(refused.value)


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n"])
def test_a_file_without_a_key_is_refused(text: str) -> None:
    with pytest.raises(KeysError, match="no key in it"):
        parse_keys(text)


@pytest.mark.parametrize("content", [None, b"", b"shop:short", b"shop:\xff\xfesixteen-or-more-characters"])
def test_a_bad_file_is_refused_in_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "keys").write_bytes(content)
    with pytest.raises(KeysError) as refused:
        KeyFile(tmp_path / "keys")
    assert str(refused.value).startswith(f"--api-keys-file {tmp_path}/keys: ")
    assert "\n" not in str(refused.value)
    assert "sixteen" not in str(refused.value)


def test_a_changed_file_is_read_again(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = KeyFile(path)
    replace(path, f"shop:sha256={HASHED}\nbank:{FIRST}\n")
    with caplog.at_level(logging.INFO, "valence"):
        file.refresh()
        file.refresh()
    assert file.keys == (Key("shop", digest(SECOND.encode())), Key("bank", digest(FIRST.encode())))
    assert [record.getMessage() for record in caplog.records] == [f"{path}: read again; keys of bank, shop"]


def test_a_file_written_in_place_is_read_again(path: Path) -> None:
    file = KeyFile(path)
    found = path.stat()
    path.write_text(f"shop:{FIRST[::-1]}\n")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
    file.refresh()
    assert file.keys == (Key("shop", digest(FIRST[::-1].encode())),)


@pytest.mark.parametrize("text", ["", "shop:short\n", f"shop:{SECOND}\nbroken {SECOND}\n", None])
def test_a_broken_file_keeps_the_keys_and_says_so_once(path: Path, text: str | None, caplog: pytest.LogCaptureFixture) -> None:
    file = KeyFile(path)
    if text is None:
        path.unlink()
    else:
        replace(path, text)
    file.refresh()
    file.refresh()
    assert file.keys == (Key("shop", digest(FIRST.encode())),)
    (record,) = caplog.records
    assert "the keys read before stay in use" in record.getMessage()
    assert FIRST not in caplog.text
    assert SECOND not in caplog.text


@pytest.mark.parametrize(("mode", "warnings"), [(0o600, 0), (0o640, 0), (0o644, 1), (0o602, 1)])
def test_a_file_open_to_others_is_warned_of(path: Path, mode: int, warnings: int, caplog: pytest.LogCaptureFixture) -> None:
    path.chmod(mode)
    KeyFile(path)
    assert [("chmod 600" in record.getMessage()) for record in caplog.records] == [True] * warnings
