"""Every setting can be given by environment and by flag."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import CliApp

from service import settings
from service.settings import Settings

PAGE = Path(__file__).parent.parent.parent / "docs" / "settings.md"


def from_flags(*flags: str) -> Settings:
    return CliApp.run(Settings, cli_args=list(flags))


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("port", "9000", 9000),
        ("max_batch_tokens", "512", 512),
        ("auto_truncate", "false", False),
        ("request_timeout_s", "2.5", 2.5),
        ("dtype", "bfloat16", "bfloat16"),
        ("models", "a=x, b=y", ("a=x", "b=y")),
        ("import_modules", "one,two,", ("one", "two")),
        ("tokenizers_dir", "store", Path("store")),
    ],
)
def test_a_setting_is_read_from_the_environment_and_from_a_flag(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, read: object
) -> None:
    assert getattr(from_flags(f"--{name.replace('_', '-')}", value), name) == read
    monkeypatch.setenv(f"VALENCE_{name.upper()}", value)
    assert getattr(Settings(), name) == read


def test_a_flag_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VALENCE_PORT", "9000")
    assert from_flags("--port", "9001").port == 9001


def test_a_list_flag_may_be_repeated() -> None:
    assert from_flags("--models", "a=x", "--models", "b=y,c=z").models == ("a=x", "b=y", "c=z")


@pytest.mark.parametrize(
    "fields", [{"port": 80}, {"dtype": "int4"}, {"max_concurrent_requests": 0}, {"request_timeout_s": 0}, {"no_such": 1}]
)
def test_a_value_out_of_range_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings(**fields)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 9000


def test_the_key_is_not_shown() -> None:
    assert "s3cret" not in repr(Settings(api_key="s3cret"))


@pytest.mark.parametrize("name", Settings.model_fields)
def test_help_lists_the_flag(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        from_flags("--help")
    assert stopped.value.code == 0
    assert f"--{name.replace('_', '-')}" in capsys.readouterr().out


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_page_of_settings_has_a_row_for_it(name: str) -> None:
    row = f"| `--{name.replace('_', '-')}` | `VALENCE_{name.upper()}` | "
    (line,) = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(row)]
    assert line.endswith(f" | {Settings.model_fields[name].description} |")


def test_an_unknown_flag_ends_with_code_2() -> None:
    with pytest.raises(SystemExit) as stopped:
        from_flags("--no-such-flag", "1")
    assert stopped.value.code == 2


@pytest.mark.parametrize(("device", "tokens"), [("cpu", 2048), ("cpu/0", 2048), ("cuda:0", 16384)])
def test_the_token_budget_follows_the_device(device: str, tokens: int) -> None:
    assert Settings().batch_tokens(device) == tokens
    assert Settings(max_batch_tokens=7).batch_tokens(device) == 7


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_counts_are_at_least_one_and_as_set(device: str) -> None:
    assert Settings().http_process_count(device) >= 1
    assert Settings(http_processes=3).http_process_count(device) == 3
    assert Settings(workers_per_device=10_000).thread_count() == 1
    assert Settings(threads=3).thread_count() == 3
    assert Settings(workers_per_device=3).worker_count(device) == 3


@pytest.mark.parametrize(("cores", "workers", "threads"), [(1, 1, 1), (2, 2, 1), (4, 4, 1), (16, 4, 4)])
def test_cpu_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch, cores: int, workers: int, threads: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(settings, "cpu_quota", lambda: None)
    assert (Settings().worker_count("cpu"), Settings().thread_count()) == (workers, threads)
    assert Settings().worker_count("cuda") == 1


@pytest.mark.parametrize(
    ("quota", "http_processes", "workers", "threads", "alone"),
    [(2.0, 1, 2, 1, 2), (0.5, 1, 1, 1, 1), (1.5, 1, 2, 1, 2), (8.0, 2, 4, 2, 8), (100.0, 16, 4, 16, 64), (None, 16, 4, 16, 64)],
)
def test_a_cpu_quota_bounds_what_is_started(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, http_processes: int, workers: int, threads: int, alone: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(settings, "cpu_quota", lambda: quota)
    found = Settings()
    counts = (found.http_process_count("cpu"), found.worker_count("cpu"), found.thread_count(), found.lone_thread_count())
    assert counts == (http_processes, workers, threads, alone)
