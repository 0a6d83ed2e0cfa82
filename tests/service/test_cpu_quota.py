"""A CPU quota is read from the kernel's files, as they lie in containers and outside."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from service.cpu_quota import cpu_quota

V1 = "5:memory:/docker/a\n4:cpu,cpuacct:/docker/a\n3:cpuset:/docker/a\n"


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 0.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {}, None),
        ("0::/pod/a\n", {"pod/a/cpu.max": "400000 100000", "pod/cpu.max": "150000 100000"}, 1.5),
        ("0::/pod/a\n", {"pod/a/cpu.max": "max 100000", "pod/cpu.max": "max 100000"}, None),
        ("0::/../../a\n", {"cpu.max": "300000 100000"}, 3),
        (V1, {"cpu,cpuacct/docker/a/cpu.cfs_quota_us": "250000", "cpu,cpuacct/docker/a/cpu.cfs_period_us": "100000"}, 2.5),
        (V1, {"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "50000\n"}, 5),
        (V1, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("4:cpu:/\n0::/a\n", {"unified/a/cpu.max": "100000 100000"}, 1),
        ("4:cpuset:/\n", {"cpuset/cpu.max": "100000 100000"}, None),
        ("0::/\n", {"cpu.max": "of another form"}, None),
    ],
)
def test_the_least_quota_counts(tmp_path: Path, membership: str, files: Mapping[str, str], quota: float | None) -> None:
    for name, text in {"proc/self/cgroup": membership, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_quota(tmp_path) == quota


def test_without_control_groups_there_is_none(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
