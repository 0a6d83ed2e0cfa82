"""The catalog of servers holds together, and environments follow their requirements."""

import ast
from pathlib import Path

import pytest

from load_tests.bench import environments
from load_tests.bench.catalog import PEERS, VALENCE, Contender, flags
from load_tests.bench.environments import REQUIREMENTS, fingerprint, interpreter, package_names
from load_tests.servers import ROOT

APPS = ROOT / "load_tests" / "peers"
CONTENDERS = [*PEERS.values(), VALENCE]
EVERY_CONTENDER = pytest.mark.parametrize("contender", CONTENDERS, ids=lambda contender: contender.name)
EVERY_PEER = pytest.mark.parametrize("peer", PEERS.values(), ids=lambda peer: peer.name)


def imported_modules(name: str) -> set[str]:
    nodes = list(ast.walk(ast.parse((APPS / f"{name}.py").read_text(encoding="utf-8"))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return {*names, *(node.module or "" for node in nodes if isinstance(node, ast.ImportFrom))}


@EVERY_CONTENDER
@pytest.mark.parametrize("cores", [1, 2, 4, 16, 64])
def test_a_grid_has_different_configurations_that_fit_the_machine(contender: Contender, cores: int) -> None:
    grid = contender.grid(cores)
    assert 1 <= len(set(grid)) == len(grid)
    for configuration in grid:
        values = dict(zip(configuration[::2], configuration[1::2], strict=True))
        threads = int(values.get("--threads", 1))
        processes = [int(values[name]) for name in ("--workers", "--workers-per-device", "--replicas") if name in values]
        assert 1 <= threads * max(processes, default=1) <= cores


@EVERY_CONTENDER
def test_arguments_have_known_placeholders_only(contender: Contender) -> None:
    known = {"model": "m", "plain": "p", "port": "1", "dtype": "d", "folder": "f", "most_connections": "512"}
    filled = [argument.format_map(known) for argument in (*contender.arguments, *contender.prepare)]
    assert "1" in filled
    assert "d" in filled


@EVERY_CONTENDER
def test_a_title_names_one_contender(contender: Contender) -> None:
    assert [other.title for other in CONTENDERS].count(contender.title) == 1
    assert contender.dtypes


@EVERY_PEER
def test_a_peer_is_an_app_of_its_name_that_never_imports_the_service(peer: Contender) -> None:
    assert f"load_tests.peers.{peer.name}" in peer.arguments
    assert not any(module == "service" or module.startswith("service.") for module in imported_modules(peer.name))


@EVERY_PEER
def test_a_peer_of_its_own_environment_needs_nothing_of_ours(peer: Contender) -> None:
    if peer.requirements is None:
        return
    modules = [peer.name, *(part.rsplit(".", 1)[1] for part in peer.prepare if part.startswith("load_tests.peers."))]
    ours = {found for module in modules for found in imported_modules(module) if found.split(".")[0] in ("models", "load_tests")}
    assert ours <= {"load_tests.peers.command_line"}
    assert not any("{model}" in argument for argument in (*peer.arguments, *peer.prepare))


@EVERY_PEER
def test_requirements_are_pinned(peer: Contender) -> None:
    if peer.requirements is None:
        return
    lines = (REQUIREMENTS / peer.requirements).read_text(encoding="utf-8").splitlines()
    packages = [line for line in lines if not line.startswith("#")]
    assert packages
    assert all("==" in line for line in packages)
    assert package_names(REQUIREMENTS / peer.requirements) == [line.split("=")[0].split("[")[0] for line in packages]


def test_no_requirements_lie_unused() -> None:
    assert {path.name for path in REQUIREMENTS.iterdir()} == {peer.requirements for peer in CONTENDERS} - {None}


def test_flags_are_named_as_the_parsers_name_them() -> None:
    assert flags(max_batch_size=8, batch_timeout_s=0.005) == ("--max-batch-size", "8", "--batch-timeout-s", "0.005")


@pytest.fixture
def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Contender:
    """One whose requirements are an empty file."""
    monkeypatch.setattr(environments, "REQUIREMENTS", tmp_path)
    monkeypatch.setattr(environments, "VENVS", tmp_path / "venvs")
    (tmp_path / "none.txt").write_text("", encoding="utf-8")
    return Contender(name="none", title="None", dtypes=("float32",), arguments=(), requirements="none.txt")


def test_a_change_of_the_requirements_is_noticed(peer: Contender, tmp_path: Path) -> None:
    before = fingerprint(peer)
    assert fingerprint(peer) == before
    (tmp_path / "none.txt").write_text("a==1\n", encoding="utf-8")
    assert fingerprint(peer) != before


def test_an_environment_that_is_up_to_date_is_used_as_it_is(peer: Contender) -> None:
    folder = environments.VENVS / peer.name
    folder.mkdir(parents=True)
    (folder / ".installed").write_text(fingerprint(peer), encoding="utf-8")
    assert interpreter(peer) == folder / "bin" / "python"
