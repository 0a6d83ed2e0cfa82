"""The driver for a cluster: two nodes of Ray on this machine write what one machine writes, and a lost node changes nothing."""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from service.bulk.setup import BadInput

pytest.importorskip("ray.data", reason="Ray is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")
ROOT = Path(__file__).parents[3]
Start = Callable[..., Any]
Table = Callable[[Path], pa.Table]
SAFETY_S = 540


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two nodes of a core each."""
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # the paths of its sockets may not exceed 107 bytes
    monkeypatch.setenv("RAY_TMPDIR", folder)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # its own is 15: beside other tests it would hardly run
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests/end_to_end")]))
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes.add_node(num_cpus=1)
    yield nodes
    nodes.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def ended(process: Any) -> Mapping[str, Any]:
    """The summary of a run."""
    output, errors = process.communicate(timeout=SAFETY_S)
    assert process.returncode == 0, errors
    found: Mapping[str, Any] = json.loads(output.splitlines()[-1])
    return found


def test_two_nodes_write_what_one_machine_writes(
    cluster: Any,
    start_bulk: Start,
    bulk: Callable[..., Mapping[str, Any]],
    write_input: Callable[..., str],
    texts: Callable[[int], list[str]],
    table_of: Table,
    tmp_path: Path,
) -> None:
    """With one file that is done already, which is left alone."""
    given = [*texts(350), None, ""]
    flags = ("--input", write_input(given, name="a.parquet"), "--rows-per-file", "100", "--all-scores")
    whole = bulk(*flags, "--output", tmp_path / "one")
    two = tmp_path / "two"
    two.mkdir()
    for name in ("_manifest.json", "part-00000-000001.parquet"):
        (two / name).write_bytes((tmp_path / "one" / name).read_bytes())
    inode = (two / "part-00000-000001.parquet").stat().st_ino
    summary = ended(start_bulk(*flags, "--output", two, "--ray-address", cluster.address))
    assert table_of(two) == table_of(tmp_path / "one")
    assert (two / "part-00000-000001.parquet").stat().st_ino == inode
    assert sorted(path.name for path in two.iterdir()) == sorted(path.name for path in (tmp_path / "one").iterdir())
    assert [summary[name] for name in ("rows", "labels", "errors")] == [whole[name] for name in ("rows", "labels", "errors")]
    assert summary["rows_before"] == 100


def test_a_node_killed_half_way_changes_nothing(
    cluster: Any,
    start_bulk: Start,
    bulk: Callable[..., Mapping[str, Any]],
    write_input: Callable[..., str],
    texts: Callable[[int], list[str]],
    table_of: Table,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    if not request.config.getoption("--full-drills"):
        pytest.skip("takes minutes; --full-drills runs it")
    flags = ("--input", write_input(texts(10_000)), "--rows-per-file", "500")
    process = start_bulk(*flags, "--output", tmp_path / "out", "--ray-address", cluster.address)
    while process.poll() is None and len(list((tmp_path / "out").glob("part-*"))) < 5:
        time.sleep(0.05)
    (other,) = cluster.worker_nodes
    cluster.remove_node(other, allow_graceful=False)
    assert ended(process)["rows"] == 10_000
    bulk(*flags, "--output", tmp_path / "undisturbed")
    assert table_of(tmp_path / "out") == table_of(tmp_path / "undisturbed")


def test_a_cluster_that_is_not_there() -> None:
    from service.bulk.ray_data import Cluster

    with pytest.raises(BadInput, match="Connection refused"):
        Cluster("127.0.0.1:1")
