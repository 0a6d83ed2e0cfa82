"""A setting that is wrong ends the start with one sentence and status 2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def start(*flags: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "service", *flags], cwd=ROOT, env={**os.environ, **environment},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "environment", "said"),
    [
        (["--port", "80"], {}, "--port (VALENCE_PORT): Input should be greater than or equal to 1024"),
        ([], {"VALENCE_DTYPE": "int4"}, "--dtype (VALENCE_DTYPE): Input should be 'auto', 'float32'"),
        (["--otlp-endpoint", "collector"], {}, "--otlp-endpoint (VALENCE_OTLP_ENDPOINT): String should match pattern"),
    ],
)
def test_a_value_that_is_not_allowed_is_named(flags: list[str], environment: dict[str, str], said: str) -> None:
    done = start(*flags, **environment)
    assert done.returncode == 2
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1


def test_a_secret_is_never_shown() -> None:
    done = start(VALENCE_API_KEY="", VALENCE_ADMIN_KEY="s3cret", VALENCE_PORT="s3cret")
    assert done.returncode == 2
    assert "s3cret" not in done.stderr
    assert done.stderr.count("\n") == 2


def test_an_unknown_flag_is_refused() -> None:
    done = start("--no-such-setting", "1")
    assert done.returncode == 2
    assert "--no-such-setting" in done.stderr
