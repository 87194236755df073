"""Run a command, and end it when the process that started it is gone.

A study that is killed must leave nothing behind that still computes or writes: the next
run would do the same work beside it. A killed process cannot clean up, so each process
of the workflow watches its parent instead.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import warm
from cluster import is_stray

POLL_SECONDS = 0.2


def watch_parent(when_gone: Callable[[], None]) -> None:
    """Call `when_gone` once the parent of this process has ended; return at once."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        when_gone()

    threading.Thread(target=watch, daemon=True).start()


def run(command: list[str]) -> int:
    """Run `command` and return its exit code; kill it when this process is told to end."""
    forked = warm.start(command[1:]) if command[0] == sys.executable else None
    child = forked or subprocess.Popen(command)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    watch_parent(child.kill)
    try:
        return child.wait()
    finally:
        child.kill()


if __name__ == "__main__":
    if is_stray(Path.cwd()):
        sys.exit("job: the run that submitted this job is over; it is not started")
    sys.exit(run(sys.argv[1:]))
