"""How many processors this process may use: a job on a shared machine has some of them only."""

import os


def available_cores() -> int:
    """Count the processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # Linux; a batch system binds its jobs to their share
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
