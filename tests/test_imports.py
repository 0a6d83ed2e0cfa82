"""Imports run one way: service -> models -> tokenizers_store; between the rooms of service/ as docs/architecture.md draws."""

import ast
import re
from collections.abc import Iterator, Set
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "architecture.md"
ARCHITECTURES = sorted(path.parent.name for path in (ROOT / "models").glob("*/modeling_*.py"))


def imports(source: Path) -> Iterator[tuple[str, list[str]]]:
    """What a file imports, at its top or inside a function: a module's absolute name, and the names taken from it."""
    package = source.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join((*package[: len(package) - node.level + 1], node.module or "") if node.level else (node.module,))
            yield base.rstrip("."), [alias.name for alias in node.names]


def imported_modules(source: Path) -> Iterator[str]:
    """The absolute dotted names that a file imports."""
    for module, names in imports(source):
        yield module
        yield from (f"{module}.{name}" for name in names)


def offenders(folder: str, *forbidden: str, outside: str | None = None) -> list[str]:
    """`file imports module`, for each import from `folder` of a forbidden package."""
    return [
        f"{source.relative_to(ROOT)} imports {module}"
        for source in sorted((ROOT / folder).rglob("*.py"))
        if outside is None or not source.is_relative_to(ROOT / outside)
        for module in imported_modules(source)
        if any(module == name or module.startswith(name + ".") for name in forbidden)
    ]


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("service", ("load_tests", "examples", "tests")),
        ("models", ("service", "load_tests", "examples", "tests")),
        ("tokenizers_store", ("torch", "service", "models", "load_tests", "examples", "tests")),
        ("examples", ("service", "load_tests", "tests")),
    ],
)
def test_a_package_does_not_import_what_stands_above_it(folder: str, forbidden: tuple[str, ...]) -> None:
    assert offenders(folder, *forbidden) == []


def test_load_tests_speak_http_only() -> None:
    assert offenders("load_tests", "service", "models", outside="load_tests/peers") == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_architecture_imports_another(architecture: str) -> None:
    others = [f"models.{name}" for name in ARCHITECTURES if name != architecture]
    assert offenders(f"models/{architecture}", *others) == []


def module_of(source: Path) -> str:
    """Its dotted name; a package's is that of its folder."""
    return ".".join(source.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("folder", ["service", "models", "tokenizers_store", "load_tests"])
def test_no_import_circle(folder: str) -> None:
    """Nor one that is hidden in functions or type checking: graphlib's CycleError names the modules."""
    sources = {module_of(source): source for source in (ROOT / folder).rglob("*.py")}
    graph = {name: dependencies(source, sources.keys()) for name, source in sources.items()}
    assert any(graph.values())
    TopologicalSorter(graph).prepare()


def dependencies(source: Path, modules: Set[str]) -> set[str]:
    """Those of `modules` that a file imports; a package counts where a name is taken from its `__init__`."""
    found = set()
    for module, names in imports(source):
        parts = {f"{module}.{name}" for name in names} & modules
        found |= parts if names and len(parts) == len(names) else parts | {module}
    return found & modules


def room_of(module: str) -> str:
    """The folder of a module below `service`; empty for the ground floor, `main` for the command that starts it all."""
    folder = ROOT / Path(*module.split("."))
    package = module if folder.is_dir() else module.rpartition(".")[0]
    return "main" if module == "service.__main__" else package.removeprefix("service").removeprefix(".")


@pytest.fixture(scope="module")
def arrows() -> dict[str, set[str]]:
    """Which rooms of service/ each room imports, itself apart."""
    sources = {module_of(source): source for source in (ROOT / "service").rglob("*.py")}
    found: dict[str, set[str]] = {}
    for module, source in sources.items():
        found.setdefault(room_of(module), set()).update(map(room_of, dependencies(source, sources.keys())))
    return {room: others - {room} for room, others in found.items()}


def reached(graph: dict[str, set[str]], start: str) -> set[str]:
    """Every room that one imports, itself or by others."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def test_rooms_have_floors(arrows: dict[str, set[str]]) -> None:
    """No circle of rooms, and nothing above the ground floor that it imports."""
    TopologicalSorter(arrows).prepare()
    assert arrows[""] == set()


def test_the_picture_is_drawn_from_the_code(arrows: dict[str, set[str]]) -> None:
    """Without what follows from other arrows, and without those to the ground floor."""
    needed = {
        (room, other)
        for room, others in arrows.items()
        for other in others - {""}
        if not any(other in reached(arrows, between) for between in others - {other, ""})
    }
    picture = PICTURE.read_text(encoding="utf-8").partition("```mermaid\nflowchart")[2].partition("```")[0]
    assert set(re.findall(r"^ +([\w.]+)(?:\[.*?])? --> ([\w.]+)", picture, re.MULTILINE)) == needed


@pytest.mark.parametrize(
    ("room", "stranger"),
    [
        ("engine", "edge"), ("engine", "edge.http"), ("worker", "edge"), ("worker", "edge.http"), ("edge", "worker"),
        ("edge", "engine"), ("served", "edge.http"), ("served", "engine"), ("served", "worker"), ("supervisor", "measure"),
    ],
)  # fmt: skip
def test_rooms_that_never_meet(arrows: dict[str, set[str]], room: str, stranger: str) -> None:
    assert stranger in arrows
    assert stranger not in reached(arrows, room)


def test_the_client_stands_alone(arrows: dict[str, set[str]]) -> None:
    assert arrows["client"] == set()
    assert not any("client" in others for others in arrows.values())


def test_the_sources_are_found() -> None:
    assert len(ARCHITECTURES) >= 2
    assert offenders("service", "models")
