"""`valence`, run as the script that pip makes of pyproject.toml's line."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from service import __version__
from service.cli import COMMANDS
from service.settings import Settings

ROOT = Path(__file__).parents[2]
SAFETY_S = 60
LINES = {
    ("measure " if section == "Measure" else "") + str(command.name): command
    for section, commands in COMMANDS.items()
    for command in commands
}
# What can be run with `python -m` and is no command for a user.
NO_COMMANDS: frozenset[str] = frozenset()


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    module, _, function = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["valence"].partition(":")
    path = tmp_path_factory.mktemp("bin") / "valence"
    path.write_text(f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    path.chmod(0o755)
    return path


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VALENCE_")}
    return subprocess.run(
        command,
        cwd=cwd,
        env={**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "80", **environment},
        capture_output=True,
        text=True,
        timeout=SAFETY_S,
        check=False,
    )


def modules_of_commands() -> Iterator[str]:
    """Every module below the three packages that is made to be run."""
    for package in ("service", "models", "tokenizers_store"):
        for path in (ROOT / package).rglob("*.py"):
            names = path.relative_to(ROOT).with_suffix("").parts
            if names[-1] == "__main__":
                yield ".".join(names[:-1])
            elif re.search(r"^if __name__ ==", path.read_text(encoding="utf-8"), re.MULTILINE):
                yield ".".join(names)


def test_the_table_holds_every_module_that_is_made_to_be_run_and_no_other() -> None:
    assert {command.module for command in LINES.values()} == set(modules_of_commands()) - NO_COMMANDS


def test_help_lists_every_command_with_its_line(script: Path) -> None:
    done = run(script, "--help")
    listed = dict(re.findall(r"^  (\S+(?: \S+)?) {2,}(.*)$", done.stdout, re.MULTILINE))
    assert done.returncode == 0
    assert {name: listed[name] for name in LINES} == {name: command.help for name, command in LINES.items()}
    assert [f"{section}:" in done.stdout.splitlines() for section in COMMANDS] == [True] * len(COMMANDS)


def test_help_waits_for_no_large_library(script: Path) -> None:
    imported = run(script, "--help", PYTHONPROFILEIMPORTTIME="1").stderr
    assert "service.cli" in imported
    assert re.findall(r"\b(?:torch|transformers|tokenizers|litserve|pydantic)\b", imported) == []


def test_version_is_that_of_the_package(script: Path) -> None:
    done = run(script, "--version")
    assert (done.returncode, done.stdout) == (0, f"valence {__version__}\n")


@pytest.mark.parametrize("name", LINES)
def test_a_command_becomes_its_module_with_the_arguments_as_they_are(name: str, script: Path, tmp_path: Path) -> None:
    """Modules of the same names in the folder of the call, which `python -m` finds first, say what they were started as."""
    module = LINES[name].module
    folder = tmp_path.joinpath(*module.split("."))
    folder.mkdir(parents=True)
    for package in (folder, *folder.parents):
        if package.is_relative_to(tmp_path) and package != tmp_path:
            (package / "__init__.py").touch()
    (folder / "__main__.py").write_text("import os, sys\nprint(os.getpid(), __spec__.name, sys.argv[1:])\nsys.exit(7)\n")
    arguments = ["--help", "--", "-x=1", "two words", "--version", "", "--"]
    started = subprocess.Popen(
        [script, *name.split(), *arguments], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    )
    said, _ = started.communicate(timeout=SAFETY_S)
    assert (started.returncode, said) == (7, f"{started.pid} {module}.__main__ {arguments}\n")


@pytest.mark.parametrize(
    ("name", "argument", "status"), [("serve", "--no-such-setting", 2), ("serve", "--help", 0), ("tokenizers", "--help", 0)]
)
def test_a_command_answers_as_its_module_does(name: str, argument: str, status: int, script: Path) -> None:
    ours = run(script, name, argument)
    theirs = run(sys.executable, "-m", LINES[name].module, argument)
    assert ours.returncode == theirs.returncode == status
    assert (ours.stdout, ours.stderr) == (theirs.stdout, theirs.stderr)
    assert argument in ours.stdout + ours.stderr


def test_an_unknown_command_is_refused_and_its_neighbour_named(script: Path) -> None:
    done = run(script, "serv")
    assert (done.returncode, done.stdout) == (2, "")
    assert "No such command 'serv'" in done.stderr
    assert "serve" in done.stderr.replace("'serv'", "")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("valence in", ["plain,inspect", "plain,int8"]),
        ("valence measure l", ["plain,long-texts"]),
        ("valence --v", ["plain,--version"]),
        ("valence serve --max-b", ["plain,--max-batch-tokens"]),
        ("valence inspect models/che", ["file,models/che"]),
        ("valence inspect --te", []),
    ],
)
def test_completion_offers_what_may_follow(typed: str, offered: list[str], script: Path) -> None:
    done = run(script, COMP_WORDS=typed, COMP_CWORD=str(len(typed.split()) - 1), _VALENCE_COMPLETE="bash_complete")
    assert sorted(done.stdout.split()) == offered, done.stderr


def test_completion_offers_every_setting_of_serve(script: Path) -> None:
    done = run(script, COMP_WORDS="valence serve --", COMP_CWORD="2", _VALENCE_COMPLETE="bash_complete")
    offered = {line.removeprefix("plain,") for line in done.stdout.splitlines()}
    told = run(script, "serve", "--help").stdout
    assert len(offered) == len(Settings.model_fields)
    assert offered == set(re.findall(r"^  (--[a-z0-9-]+) ", told, re.MULTILINE))


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_bash_completes_after_the_line_that_turns_it_on(script: Path) -> None:
    typed = "COMP_WORDS=(valence publ); COMP_CWORD=1; _valence_completion valence"
    asked = f'eval "$(_VALENCE_COMPLETE=bash_source valence)" && {typed} && complete -p valence && echo "${{COMPREPLY[@]}}"'
    done = run("bash", "--norc", "-c", asked, PATH=f"{script.parent}:{os.environ['PATH']}")
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["complete -o nosort -F _valence_completion valence", "publish"]


@pytest.mark.parametrize(("shell", "line"), [("zsh", "compdef _valence_completion valence"), ("fish", "complete --no-files")])
def test_other_shells_get_a_source_of_their_own(shell: str, line: str, script: Path) -> None:
    done = run(script, _VALENCE_COMPLETE=f"{shell}_source")
    assert line in done.stdout
    assert f"_VALENCE_COMPLETE={shell}_complete" in done.stdout
