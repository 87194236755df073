"""Run the study: Snakemake on ``workflow/Snakefile``, one run at a time, resumable at any time.

Arguments go on to Snakemake, for instance ``--dry-run`` or ``--executor slurm --jobs
20``. Snakemake's own lock outlives a killed run, so this script takes one that the
operating system drops with the process.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from damage import damaged_files
from job import watch_parent

ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 5.0
SNAKEMAKE = [
    "--snakefile",
    str(ROOT / "workflow" / "Snakefile"),
    "--directory",
    str(ROOT),
    "--nolock",
]


def take_lock(path: Path, wait: float = WAIT_SECONDS) -> IO[str] | None:
    """Lock `path` until this process ends; None if another one keeps it for `wait` seconds.

    Where the file system has no locks (some network file systems have none), this says so, and
    the study goes on: that no second one runs beside it is then for the user to see to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("w")
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() > deadline:
                file.close()
                return None
            time.sleep(0.2)
        except OSError as error:
            print(
                f"study: {path} cannot be locked: {error.strerror}. The file system seems to have "
                "no locks, so a second study in this folder would not be noticed: start one at "
                "a time, or work in a folder on a local disk.",
                file=sys.stderr,
            )
            return file


def find_damaged(root: Path) -> list[str]:
    """Name the damaged results, and say so; ends the program over one that is kept in git.

    They stay until their steps, which must be told to run, replace them: of a file that is gone
    Snakemake asks only whether something still lacks it, and a study that is stopped before
    would not know any more.
    """
    again: list[str] = []
    for path in damaged_files(root):
        name = path.relative_to(root)
        if name.parts[0] == "reports":
            sys.exit(
                f"study: {name} is damaged: get it back with `git checkout {name}`, "
                "or delete it, and the report goes without it"
            )
        if is_made(str(name)):
            again.append(str(name))
            print(f"study: {name} is damaged, and is made again", file=sys.stderr)
        else:
            print(f"study: {name} is damaged, and no step makes it: delete it", file=sys.stderr)
    return again


def is_made(name: str) -> bool:
    """Say whether a step of the study makes the file; of another, Snakemake would end the run."""
    command = [sys.executable, "-m", "snakemake", *SNAKEMAKE, "--dry-run", "--forcerun", name]
    return subprocess.run(command, capture_output=True).returncode == 0


def main(arguments: list[str]) -> None:
    """Run Snakemake in this process with the settings of the study."""
    looks_only = bool({"--dry-run", "--dryrun", "-n"} & set(arguments))
    lock = take_lock(ROOT / ".snakemake" / "study.lock", 0 if looks_only else WAIT_SECONDS)
    if lock is None and not looks_only:
        sys.exit(
            "study: another run is active in this folder; wait for it, or stop it and run again"
        )
    watch_parent(lambda: os.kill(os.getpid(), signal.SIGKILL))
    # while another run writes, a file may be half there
    again = find_damaged(ROOT) if lock else []
    if lock and looks_only:
        lock.close()

    from snakemake.cli import main as snakemake

    # An option that takes any number of values, as --quiet does, must not stand before
    # a target.
    settings = ["--forcerun", *again] if again else []
    settings += ["--quiet", "host", "reason", *SNAKEMAKE, "--rerun-incomplete"]
    settings += ["--show-failed-logs"]
    if not {"--cores", "-c", "--executor", "-e", "--jobs", "-j"} & set(arguments):
        settings += ["--cores", "all"]
    snakemake([*settings, *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
