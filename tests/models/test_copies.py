"""Architectures repeat some pieces, since each folder must stand alone. The copies of a piece are one text.

A new folder is found by itself. One that must differ gets a line in OWN.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

MODELS = Path(__file__).parents[2] / "models"
FOLDERS = {path.parent.name: path.parent for path in sorted(MODELS.rglob("configuration_*.py"))}

# What every architecture has. X stands for the prefix of its classes, `base` for the attribute that holds its base model.
PIECES = (
    "LIBRARY_FIELDS",
    "_refuse_unknown_fields",
    "XConfig.__post_init__",
    "XConfig.to_diff_dict",
    "XConfig.validate_sizes",
    "XConfig.validate_rates",
    "XConfig.validate_padding",
    "XForSequenceClassification.forward",
)
# What only some have.
OF_SOME = ("MaxMeanPooler",)

# What an architecture does in a way of its own, or does without.
OWN = {
    # Its labels are the library's default; it checks heads and patterns; its head reads first tokens alone.
    "custom_bert": {
        "XConfig.__post_init__",
        "XConfig.to_diff_dict",
        "XConfig.validate_sizes",
        "XConfig.validate_rates",
        "XConfig.validate_padding",
        "XForSequenceClassification.forward",
    },
}


def pieces(folder: Path) -> dict[str, str]:
    """The source text of every assignment, function, class and method of an architecture, by name."""
    found: dict[str, str] = {}
    for part in ("configuration", "modeling"):
        source = (folder / f"{part}_{folder.name}.py").read_text(encoding="utf-8")
        lines = source.splitlines()
        for name, node in named(ast.parse(source).body):
            first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))])
            found[name] = "\n".join(lines[first - 1 : node.end_lineno])
    prefix = next(name.removesuffix("Config") for name in found if name.endswith("Config"))
    base = found[f"{prefix}PreTrainedModel.base_model_prefix"].split('"')[1]
    return {
        name.replace(prefix, "X"): text.replace(prefix, "X").replace(f"self.{base}(", "self.base(")
        for name, text in found.items()
    }


def named(body: list[ast.stmt], outer: str = "") -> Iterator[tuple[str, ast.stmt]]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield outer + node.name, node
        if isinstance(node, ast.ClassDef):
            yield from named(node.body, f"{node.name}.")
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield outer + node.targets[0].id, node


@pytest.fixture(scope="module")
def architectures() -> dict[str, dict[str, str]]:
    return {name: pieces(folder) for name, folder in FOLDERS.items()}


@pytest.mark.parametrize("piece", PIECES)
def test_every_architecture_has_the_same_text(piece: str, architectures: dict[str, dict[str, str]]) -> None:
    texts = {name: found.get(piece) for name, found in architectures.items() if piece not in OWN.get(name, ())}
    assert texts == dict.fromkeys(texts, architectures["template_name"][piece])


@pytest.mark.parametrize("piece", OF_SOME)
def test_those_that_have_it_have_the_same_text(piece: str, architectures: dict[str, dict[str, str]]) -> None:
    texts = [found[piece] for found in architectures.values() if piece in found]
    assert len(texts) > 1
    assert len(set(texts)) == 1


def test_what_an_architecture_does_in_its_own_way_differs(architectures: dict[str, dict[str, str]]) -> None:
    for name, own in OWN.items():
        assert [piece for piece in own if architectures[name].get(piece) == architectures["template_name"][piece]] == []


def test_the_folders_are_found() -> None:
    assert {"custom_bert", "gated_conv", "sentiment_lstm", "template_name"} <= FOLDERS.keys()
