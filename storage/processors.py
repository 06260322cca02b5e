"""What this process may use of its machine: processors, memory, and what a query engine takes of them.

A container's share is smaller than its machine: what cgroups grant (version 2, or 1) counts beside what
the system says. Whatever makes a pool of threads or processes, or opens DuckDB, asks here.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

ROOT: Final = Path("/")
SHARE: Final = 4
"""DuckDB takes one part in so many of the memory: the night's own arrays, mapped files and a service
beside it want the rest (assumed)."""
LEAST_MB: Final = 512
"""DuckDB's least: ingesting 2 million events took no longer with it than with three times as much (measured)."""
LEAST_MB_A_THREAD: Final = 128
"""Each thread holds blocks of its own while it sorts; 125 MB is DuckDB's own advice."""
MOST_MB: Final = 16_384
"""DuckDB's most: what is spilled beyond it is read again in long stretches, and the kernel's cache of the
tables themselves is the better use of the rest (assumed)."""


def processors(root: Path = ROOT) -> int:
    """Those the process may run on, and no more than its cgroup pays for; at least one.

    Args:
        root: where `proc` and `sys` lie; a test's own folder, or the machine's.
    """
    paid = [math.ceil(share) for share in _quotas(root)]
    return max(1, min([_here(), *paid]))


def memory(root: Path = ROOT) -> int:
    """Bytes that the machine has, or that the process's cgroup grants, whichever is less."""
    granted = [
        int(said)
        for file in _limits(root, "memory", "memory.max", "memory.limit_in_bytes")
        if (said := _said(file)).isdigit()
    ]
    return min([_physical(root), *granted])


def engine_mb(root: Path = ROOT) -> int:
    """MB that DuckDB may hold before it spills: a share of `memory`, between a least and a most."""
    share = memory(root) // SHARE >> 20
    return min(max(share, LEAST_MB, LEAST_MB_A_THREAD * processors(root)), MOST_MB)


def bound_engine(connection: Any, memory_mb: int | None = None) -> None:
    """Set memory and threads of a connection to DuckDB; `engine_mb` where no memory is named."""
    connection.execute(f"SET memory_limit = '{memory_mb or engine_mb()}MiB'")
    connection.execute(f"SET threads = {processors()}")


def _here() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _physical(root: Path) -> int:
    """Bytes of the machine."""
    for line in _said(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) << 10
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _quotas(root: Path) -> Iterator[float]:
    """Processors' worth of time that each cgroup around the process grants."""
    for file in _limits(root, "cpu", "cpu.max", "cpu.cfs_quota_us"):
        words = _said(file).split()
        if len(words) == 1:
            words.append(_said(file.with_name("cpu.cfs_period_us")))
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):
            yield int(words[0]) / int(words[1])


def _limits(root: Path, controller: str, second: str, first: str) -> Iterator[Path]:
    """Files that bound one thing: those of the process's cgroup and of all above it, by both versions.

    A container may see its own group as the top of the tree, under a path of the machine's: what is not
    there bounds nothing.
    """
    tree = root / "sys/fs/cgroup"
    for line in _said(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        group = PurePosixPath(path.lstrip("/"))
        for above in (group, *group.parents):
            if number == "0" and not controllers:
                yield tree / above / second
            elif controller in controllers.split(","):
                yield tree / controllers / above / first
                yield tree / controller / above / first


def _said(file: Path) -> str:
    """The text of a file; nothing where there is none."""
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
