"""A peer whose packages clash with ours has a virtual environment, `.venvs/<peer>`, made when it is first needed."""

import hashlib
import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from load_tests.bench.catalog import Contender
from load_tests.servers import ROOT

VENVS = ROOT / ".venvs"
REQUIREMENTS = ROOT / "load_tests" / "peers" / "requirements"
LOG_TAIL_CHARACTERS = 2000
# Shown of a peer that runs in our own environment.
OWN_PACKAGES = ("torch", "transformers", "tokenizers", "litserve", "fastapi", "uvicorn")
PRINT_VERSIONS = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        found[name] = "not installed"
print(json.dumps(found))
"""


class InstallError(Exception):
    """A peer's packages could not be installed; the message holds what pip said."""


def interpreter(peer: Contender) -> Path:
    """Python for the peer: ours or its own environment's, which is made anew when its requirements change. InstallError."""
    if peer.requirements is None:
        return Path(sys.executable)
    folder = VENVS / peer.name
    done = folder / ".installed"
    if done.is_file() and done.read_text(encoding="utf-8") == fingerprint(peer):
        return folder / "bin" / "python"
    print(f"installing {peer.title} into {folder.relative_to(ROOT)} (some minutes)", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(folder)])
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    _run([*pip, "install", "--progress-bar", "off", "-r", str(REQUIREMENTS / peer.requirements)])
    if peer.removed:
        _run([*pip, "uninstall", "--yes", *peer.removed])
    done.write_text(fingerprint(peer), encoding="utf-8")
    return folder / "bin" / "python"


def fingerprint(peer: Contender) -> str:
    """A hash of everything that decides what is installed."""
    assert peer.requirements is not None
    content = (REQUIREMENTS / peer.requirements).read_bytes()
    return hashlib.sha256(content + repr((peer.removed, platform.python_version())).encode()).hexdigest()


def versions(peer: Contender, python: Path) -> dict[str, str]:
    """The installed versions of the packages that the peer's requirements name."""
    names = OWN_PACKAGES if peer.requirements is None else package_names(REQUIREMENTS / peer.requirements)
    return dict(json.loads(subprocess.check_output([str(python), "-c", PRINT_VERSIONS, *names], text=True)))


def package_names(requirements: Path) -> list[str]:
    """In the file's order, without extras and versions."""
    matches = (re.match(r"[A-Za-z0-9._-]+", line) for line in requirements.read_text(encoding="utf-8").splitlines())
    return [match.group() for match in matches if match]


def _run(command: Sequence[str]) -> None:
    """Prints the lines that show progress as they come. InstallError if the command fails."""
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(("Collecting", "Downloading", "Installing", "ERROR")):
                print(f"  {line.rstrip()[:120]}", file=sys.stderr, flush=True)
            lines.append(line)
    if process.returncode:
        said = "".join([line for line in lines if line.startswith("ERROR")] or lines)[-LOG_TAIL_CHARACTERS:]
        raise InstallError(f"the installation failed, status {process.returncode}:\n{said}")
