"""`python -m models.new NAME`: starts an architecture in `models/NAME`, which passes the contract test as it stands.

Writes the folder from the template in `models/new/template_name`, its row in `models/registration.py` and its row in
`tests/models/conftest.py`. Then it trains (`python -m models.training NAME-WITH-HYPHENS`) and is served like any other.
"""

import argparse
import ast
import keyword
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

ROOT = Path(__file__).parents[2]
TEMPLATE = Path(__file__).parent / "template_name"
# Longer ones would push the template's lines over the limit of 130.
MOST_CHARS = 24


def main(arguments: Sequence[str] | None = None, *, root: Path = ROOT) -> int:
    """0 when the architecture is there; 2 when the name can't be used, which is said in one sentence."""
    parser = argparse.ArgumentParser(
        prog="python -m models.new", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="the model_type, for example gated_conv: lower case, words joined by _")
    name = parser.parse_args(arguments).name
    try:
        check_name(name, root=root)
    except ValueError as error:
        print(f"models.new: {error}", file=sys.stderr)
        return 2
    for path in scaffold(name, root=root):
        print(path.relative_to(root))
    print("test it:  python -m pytest tests/models/test_contract.py")
    print(f"train it: python -m models.training {name.replace('_', '-')}")
    return 0


def check_name(name: str, *, root: Path) -> None:
    """ValueError unless `name` is a lower-case identifier that nothing bears yet."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or keyword.iskeyword(name):
        raise ValueError(f"{name!r} is no name for an architecture: write words in lower case joined by _, like gated_conv")
    if len(name) > MOST_CHARS:
        raise ValueError(f"{name!r} has {len(name)} characters, but at most {MOST_CHARS} fit")
    if (root / "models" / name).exists() or (root / "models" / f"{name}.py").exists():
        raise ValueError(f"models/{name} is there already; choose another name")
    if name in CONFIG_MAPPING_NAMES:
        raise ValueError(f"transformers has an architecture {name!r} of its own; choose another name")


def scaffold(name: str, *, root: Path = ROOT) -> list[Path]:
    """Writes the architecture's files and rows; the paths that were written."""
    folder = root / "models" / name
    folder.mkdir()
    written = []
    for source in sorted(TEMPLATE.glob("*.py")):
        path = folder / source.name.replace("template_name", name)
        path.write_text(renamed(source.read_text(encoding="utf-8"), name), encoding="utf-8")
        written.append(path)
    title = camel_case(name)
    classes = (f"{title}Config", f"{title}ForSequenceClassification", f"{title}Model")
    registration, contract = root / "models" / "registration.py", root / "tests" / "models" / "conftest.py"
    config, classifier, base = classes
    add_row(registration, import_line(name, classes), f"    ({config}, {base}, {classifier}),\n")
    row = f'    Architecture({config}(hidden_size=16, **TINY), packed_backends=("eager",)),\n'
    add_row(contract, import_line(name, (config,)), row)
    return [*written, registration, contract]


def renamed(source: str, name: str) -> str:
    """The template's text for `name`."""
    return (
        source.replace("models.new.template_name", f"models.{name}")
        .replace("template_name", name)
        .replace("TemplateName", camel_case(name))
    )


def camel_case(name: str) -> str:
    """
    >>> camel_case("gated_conv")
    'GatedConv'
    """
    return "".join(word.capitalize() for word in name.split("_"))


def import_line(name: str, classes: Sequence[str]) -> str:
    """`from models.NAME import CLASSES`, over several lines where it is too long for one."""
    line = f"from models.{name} import {', '.join(classes)}\n"
    if len(line) <= 131:
        return line
    return f"from models.{name} import (\n" + "".join(f"    {one},\n" for one in classes) + ")\n"


def add_row(path: Path, import_text: str, row: str) -> None:
    """Puts `row` at the end of the file's table ARCHITECTURES, and the import at its place in the alphabet."""
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines(keepends=True)
    tree = ast.parse(source)
    table = next(node for node in tree.body if "ARCHITECTURES" in _assigned(node))
    assert table.end_lineno is not None
    lines.insert(table.end_lineno - 1, row)
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("models.")]
    module = import_text.split()[1]
    after = [node.end_lineno or 0 for node in imports if (node.module or "") < module]
    lines.insert(max(after, default=imports[0].lineno - 1), import_text)
    path.write_text("".join(lines), encoding="utf-8")


def _assigned(node: ast.stmt) -> list[str]:
    """The names that a statement gives a value to."""
    targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets if isinstance(node, ast.Assign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


if __name__ == "__main__":
    sys.exit(main())
