"""README is one page in two languages, and what the documents name is there: files, headings, pages, modules, words of make."""

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
READMES = (ROOT / "README.md", ROOT / "README.zh-CN.md")
PAGES = sorted((ROOT / "docs").glob("*.md"))
OTHERS = [ROOT / name for name in ("CONTRIBUTING.md", "models/README.md", "tokenizers_store/README.md", "load_tests/README.md")]
DOCUMENTS = [*READMES, *PAGES, *OTHERS]
MOST_LINES = 200
FIGURE = re.compile(r"\d[\d.,]*\d|\d|–")
FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(path: Path) -> str:
    """A document without its code blocks."""
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def anchors(path: Path) -> set[str]:
    """What may follow # in a link to a document: GitHub's names of its headings."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(path: Path) -> Iterator[str]:
    """The links of a document to files or headings of the repository that are not there."""
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", prose(path)):
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


def can_be_run(module: str) -> bool:
    """Whether `python -m module` finds it: a module, or a package with a `__main__`."""
    try:
        spec = find_spec(module)
        return spec is not None and (spec.submodule_search_locations is None or find_spec(f"{module}.__main__") is not None)
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("path", READMES, ids=named)
def test_readme_is_one_page(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", READMES, ids=named)
def test_no_sentence_of_readme_has_three_semicolons(path: Path) -> None:
    sentences = re.split(r"[.!?:。！？：|]\s|[。！？|]|\n\n", prose(path))
    assert [sentence for sentence in sentences if len(re.findall("[;；]", sentence)) > 2] == []


def test_both_readmes_have_the_same_code_blocks() -> None:
    english, chinese = (FENCE.findall(path.read_text(encoding="utf-8")) for path in READMES)
    assert english
    assert chinese == english


def test_both_readmes_have_the_same_figures_in_their_tables() -> None:
    english, chinese = (re.findall(r"^\|.*\d.*\|$", prose(path), re.MULTILINE) for path in READMES)
    assert len(english) > 8
    assert [FIGURE.findall(row) for row in chinese] == [FIGURE.findall(row) for row in english]


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_links_lead_somewhere(path: Path) -> None:
    assert list(broken_links(path)) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_modules_that_are_named_can_be_run(path: Path) -> None:
    modules = set(re.findall(r"python3? -m ([a-z_]\w*(?:\.\w+)*)", path.read_text(encoding="utf-8")))
    assert [module for module in sorted(modules) if not can_be_run(module)] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_words_of_the_makefile_that_are_named_are_there(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    words = re.findall(r"(?:^|`)make ([a-z][a-z-]*)", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert [word for word in words if f"\n{word}:" not in makefile] == []


def test_the_contents_list_every_page() -> None:
    contents = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES if page.name != "README.md" and f"({page.name})" not in contents] == []
