"""Schemathesis against the server: every answer is as the document says, and none is a fault of the server.

The server takes no request that the document forbids, and refuses none that it allows."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
CONFIG = Path(__file__).with_name("schemathesis.toml")
LIMIT_S = 600


def test_schemathesis_finds_nothing(server: Any, tmp_path: Path) -> None:
    options = ("--seed", "1", "--max-examples", "10", "--request-timeout", "60", "--no-color")
    command = [SCHEMATHESIS, "--config-file", CONFIG, "run", server.url + "/openapi.json", *options]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    generated = re.search(r"(\d+) generated, \1 passed", run.stdout)
    assert generated is not None, run.stdout
    assert int(generated[1]) > 500
