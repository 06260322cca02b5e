"""A container's share of the machine counts, by either version of cgroups, wherever the process lies in it."""

import os

import duckdb
import pytest

from recsys.storage import processors as machine
from recsys.storage.processors import bound_engine, engine_mb, memory, processors

GB = 1 << 30
HERE = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@pytest.fixture
def tree(tmp_path):
    """Lays out files below a root: a machine of 64 GB, and what a test says of its cgroups."""

    def lay_out(groups, **files):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/meminfo").write_text(f"MemTotal: {64 * GB >> 10} kB\nMemFree: 1 kB\n")
        (tmp_path / "proc/self/cgroup").write_text(groups)
        for place, said in files.items():
            file = tmp_path / "sys/fs/cgroup" / place
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(said)
        return tmp_path

    return lay_out


def test_a_machine_without_cgroups_is_whole(tmp_path, tree):
    root = tree("")
    assert memory(root) == 64 * GB
    assert processors(root) == HERE
    (root / "proc/self/cgroup").unlink()
    assert memory(root) == 64 * GB


def test_version_2_grants_the_least_of_all_groups_around(tree):
    root = tree(
        "0::/shop/night\n",
        **{
            "memory.max": "max\n",
            "shop/memory.max": f"{8 * GB}\n",
            "shop/night/memory.max": f"{12 * GB}\n",
            "shop/cpu.max": "50000 100000\n",
            "shop/night/cpu.max": "max 100000\n",
        },
    )
    assert memory(root) == 8 * GB
    assert processors(root) == 1


def test_version_1_grants_by_controller(tree):
    root = tree(
        "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n",
        **{
            "memory/docker/abc/memory.limit_in_bytes": f"{6 * GB}\n",
            "memory/memory.limit_in_bytes": "9223372036854771712\n",
            "cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "-1\n",
            "cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n",
            "cpu,cpuacct/cpu.cfs_quota_us": "90000\n",
            "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
    )
    assert memory(root) == 6 * GB
    assert processors(root) == 1


def test_a_container_that_sees_its_own_group_as_the_top(tree):
    """Docker on version 1: the path is the machine's, the mounted tree is the container's."""
    root = tree("3:memory:/docker/abc\n", **{"memory/memory.limit_in_bytes": f"{2 * GB}\n"})
    assert memory(root) == 2 * GB


def test_more_processors_granted_than_there_are_add_none(tree):
    root = tree("0::/\n", **{"cpu.max": "6400000 100000\n"})
    assert processors(root) == HERE


@pytest.mark.parametrize(
    ("gigabytes", "wanted"), [(0.5, 512), (1, 512), (4, 1024), (16, 4096), (512, 16_384)]
)
def test_the_engine_takes_a_share_between_two_bounds(tree, gigabytes, wanted, monkeypatch):
    root = tree("0::/\n", **{"memory.max": str(int(gigabytes * GB)), "cpu.max": "100000 100000"})
    if gigabytes > 64:
        (root / "proc/meminfo").write_text(f"MemTotal: {int(gigabytes * GB) >> 10} kB\n")
    assert engine_mb(root) == wanted


def test_many_threads_raise_the_least(tree, monkeypatch):
    monkeypatch.setattr(machine, "processors", lambda root: 32)
    assert engine_mb(tree("0::/\n", **{"memory.max": str(GB)})) == 32 * 128


def test_an_engine_is_bounded():
    with duckdb.connect() as connection:
        bound_engine(connection)
        found = connection.execute(
            "SELECT current_setting('threads'), current_setting('memory_limit')"
        ).fetchone()
    assert found[0] == processors()
    size, unit = found[1].split()
    assert float(size) * {"MiB": 1, "GiB": 1024}[unit] == pytest.approx(engine_mb(), rel=0.05)
