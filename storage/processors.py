"""How many processors this process may use."""

import os


def processors() -> int:
    """Those it may run on where the system says so, else those that there are; at least one."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
