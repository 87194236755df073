"""Run the study: Snakemake on ``workflow/Snakefile``, one run at a time, resumable at any time.

Arguments go on to Snakemake, for instance ``--dry-run`` or ``--workflow-profile slurm``.
Snakemake's own lock outlives a killed run, so this script takes one that the operating
system drops with the process. Tables of ``photographs``, ``methods`` and ``questions`` are kept in
``reports/recorded/``.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

import warm
from cluster import LOST_SECONDS, SlurmJobs, drop_filters
from damage import damaged_files
from job import POLL_SECONDS, watch_parent

ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 5.0
ENDING = (signal.SIGINT, signal.SIGTERM)
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


def recorded() -> dict[Path, int]:
    """Map each recorded table to the time, in nanoseconds, at which it was written."""
    tables = sorted((ROOT / "results" / "recorded").glob("*.parquet"))
    return {table: table.stat().st_mtime_ns for table in tables}


def keep_recorded(before: Mapping[Path, int]) -> bool:
    """Copy the recorded tables that are new to where git keeps them; say whether there are any.

    New is what this run wrote, which was not there `before` or has another time. So is what a
    former run wrote that was killed before it could copy: what is kept is older than it, or
    nothing is and a step of the study makes it. What git brought is later than the run was.
    """
    tables = recorded()
    for table, written in tables.items():
        kept = ROOT / "reports" / "recorded" / table.name
        is_new = before.get(table) != written
        if kept.exists():
            is_new = is_new or written > kept.stat().st_mtime_ns
            is_new = is_new and kept.read_bytes() != table.read_bytes()
        else:
            is_new = is_new or is_made(str(table.relative_to(ROOT)))
        if is_new:
            shutil.copyfile(table, kept)
            print(f"study: {kept.relative_to(ROOT)} is new", file=sys.stderr)
    return bool(tables)


def end_on_signals() -> None:
    """Let SIGTERM and Ctrl-C end the run at once: Snakemake would wait for all jobs that run.

    Python answers a signal in the main thread. That may be asleep until a job ends: a signal
    that comes while it falls asleep, or that another thread receives, does not wake it. So it
    is signalled until it has answered.
    """
    import psutil
    from snakemake.workflow import JobScheduler

    main, answered = threading.main_thread().ident, threading.Event()
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)

    def interrupt(*_: object) -> None:
        for number in ENDING:
            signal.signal(number, lambda *_: None)  # it ends already
        answered.set()
        for job in psutil.Process().children():
            with suppress(psutil.NoSuchProcess):
                job.terminate()
        raise KeyboardInterrupt

    def watch() -> None:
        while os.read(read, 1)[0] not in ENDING:
            pass
        while not answered.wait(POLL_SECONDS):
            signal.pthread_kill(main, signal.SIGINT)

    for number in ENDING:
        signal.signal(number, interrupt)
    JobScheduler.exit_gracefully = staticmethod(interrupt)  # what Snakemake does at SIGTERM
    threading.Thread(target=watch, daemon=True).start()


def end_as_lost() -> None:
    """End the run whose jobs Slurm has lost, and say so."""
    print(
        f"study: for {LOST_SECONDS / 60:.0f} minutes Slurm has known no job of this run that can "
        "run, while steps are waited for: it has lost them, as a controller does that is killed. "
        "What is done is kept; start the study again.",
        file=sys.stderr,
    )
    os.kill(os.getpid(), signal.SIGTERM)


def end_with_parent(how: signal.Signals) -> None:
    """Signal this process when its parent ends; not under nohup, which is to outlive it."""
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        watch_parent(lambda: os.kill(os.getpid(), how))


def main(arguments: list[str]) -> None:
    """Run Snakemake in this process with the settings of the study."""
    from snakemake.cli import main as snakemake
    from snakemake.cli import parse_args

    drop_filters()
    _, given = parse_args([*SNAKEMAKE, *arguments])
    on_slurm = given.executor == "slurm" and not given.dryrun
    lock = take_lock(ROOT / ".snakemake" / "study.lock", 0 if given.dryrun else WAIT_SECONDS)
    if lock is None and not given.dryrun:
        sys.exit(
            "study: another run is active in this folder; wait for it, or stop it and run again"
        )
    end_with_parent(signal.SIGTERM if on_slurm else signal.SIGKILL)
    jobs = SlurmJobs(ROOT)
    if not given.dryrun:
        jobs.wait_for_former()
    # while another run writes, a file may be half there
    again = find_damaged(ROOT) if lock else []
    if lock and given.dryrun:
        lock.close()

    # An option that takes any number of values, as --quiet does, must not stand before
    # a target.
    settings = ["--forcerun", *again] if again else []
    settings += ["--quiet", "host", "reason", *SNAKEMAKE, "--rerun-incomplete"]
    settings += ["--show-failed-logs"]
    if given.cores is None and given.jobs is None and given.executor is None:
        settings += ["--cores", "all"]
    if on_slurm:
        settings += ["--slurm-jobname-prefix", jobs.name]
        jobs.begin()
    end_on_signals()
    if on_slurm:
        jobs.watch(end_as_lost)
    before = recorded()
    try:
        with warm.serving():
            snakemake([*settings, *arguments])
    finally:
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)  # it ends already
        if on_slurm:
            jobs.end()
        records = not given.dryrun and {"photographs", "methods", "questions"} & set(given.targets)
        if records and not keep_recorded(before):
            print("study: nothing was recorded; the log says why", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
