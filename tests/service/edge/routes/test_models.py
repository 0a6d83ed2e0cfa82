"""In which folders a checkpoint may lie that a client asks to serve."""

from pathlib import Path

import pytest

from service.edge.http.errors import ServiceError
from service.edge.routes.models import find_checkpoint


@pytest.fixture
def roots(tmp_path: Path) -> list[str]:
    """Two model roots, each with the checkpoint `a`. The checkpoint `outside` lies beside the roots."""
    for name in ("one/a", "two/a", "two/b", "outside"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    return [str(tmp_path / "one"), str(tmp_path / "two")]


@pytest.mark.parametrize(
    ("path", "found"), [("a", "one/a"), ("b", "two/b"), ("a/", "one/a"), ("../two/b", "two/b"), ("{}/two/a", "two/a")]
)
def test_a_folder_is_found_from_a_root_or_by_its_whole_path(roots: list[str], tmp_path: Path, path: str, found: str) -> None:
    assert find_checkpoint(path.format(tmp_path), roots) == tmp_path / found


@pytest.mark.parametrize("path", ["../outside", "{}/outside", "c", ".", "", "/", "~", "a/../../outside", "\0", "x" * 9000])
def test_what_lies_elsewhere_is_refused_alike_whether_it_exists_or_not(roots: list[str], tmp_path: Path, path: str) -> None:
    with pytest.raises(ServiceError, match="path: must name a checkpoint folder in one of the service's model roots"):
        find_checkpoint(path.format(tmp_path), roots)


def test_a_link_to_a_folder_outside_is_refused(roots: list[str], tmp_path: Path) -> None:
    (tmp_path / "one" / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(ServiceError, match="must name a checkpoint folder"):
        find_checkpoint("link", roots)


def test_a_link_to_a_file_outside_is_refused_by_its_name(roots: list[str], tmp_path: Path) -> None:
    (tmp_path / "one" / "a" / "model.safetensors").symlink_to(tmp_path / "outside" / "config.json")
    with pytest.raises(ServiceError, match=r"path: model\.safetensors is a link that leads out"):
        find_checkpoint("a", roots)


def test_links_within_the_roots_and_to_a_root_are_followed(roots: list[str], tmp_path: Path) -> None:
    (tmp_path / "one" / "a" / "model.safetensors").symlink_to(tmp_path / "two" / "b" / "config.json")
    (tmp_path / "mount").symlink_to(tmp_path / "one")
    assert find_checkpoint("a", [str(tmp_path / "mount"), roots[1]]) == tmp_path / "one" / "a"


def test_links_in_a_circle_are_refused(roots: list[str], tmp_path: Path) -> None:
    (tmp_path / "one" / "circle").symlink_to(tmp_path / "one" / "circle")
    with pytest.raises(ServiceError, match="must name a checkpoint folder"):
        find_checkpoint("circle", roots)
