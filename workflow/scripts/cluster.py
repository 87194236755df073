"""The study's jobs on Slurm: known by their name, waited for, cancelled, never two of one step.

A driver that was killed, or lost its connection, leaves jobs behind that still write. So
it leaves a note in the folder, too: the next run waits until none of these jobs is left.
A job that was on its way into the queue when its driver died looks at the note before it
starts, and ends where that names another run, or is gone.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

NOTE = Path(".snakemake", "slurm_run")
RUN = "STUDY_SLURM_RUN"  # the environment variable by which jobs know their run
POLL_SECONDS = 2.0
LOST_SECONDS = 600.0
STEP = "workflow/scripts/job.py"  # what each step is started with, on Slurm and here
#: How the names begin of variables by which a user narrows what these commands of Slurm see.
FILTERS = ("SQUEUE_", "SCANCEL_")
#: Why Slurm holds a job that its controller, started again, found running and did not know.
LAUNCH_FAILED = "launch failed requeued held"


class SlurmJobs:
    """The jobs of the study in one folder, of whichever run.

    Parameters
    ----------
    root : Path
        The folder of the project.
    """

    def __init__(self, root: Path) -> None:
        self.note = root / NOTE
        self.name = f"study-{hashlib.sha256(os.fsencode(root)).hexdigest()[:12]}"

    def live(self) -> list[str]:
        """List the ids of the jobs that wait or run.

        Raises
        ------
        OSError
            If Slurm does not say.
        """
        return [number for number, _ in self._queued()]

    def _queued(self) -> list[tuple[str, str]]:
        """List the ids of the jobs that wait or run, and what each waits for."""
        command = ["squeue", "--noheader", f"--user={getpass.getuser()}", "--format=%i|%r|%j"]
        try:
            said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        except subprocess.CalledProcessError as error:
            raise OSError(f"squeue: {error.stderr.strip()}") from None
        except subprocess.TimeoutExpired:
            raise OSError("squeue does not answer") from None
        jobs = [line.split("|", 2) for line in said.stdout.splitlines() if line.strip()]
        return [(number, reason) for number, reason, name in jobs if name.startswith(self.name)]

    def watch(
        self,
        when_lost: Callable[[], None],
        after: float = LOST_SECONDS,
        poll: float = 10 * POLL_SECONDS,
    ) -> None:
        """Call `when_lost` when Slurm has lost this run's jobs; return at once.

        A controller that was killed has forgotten what was submitted in its last seconds, or
        holds it. Snakemake waits for such jobs for ever.

        Parameters
        ----------
        when_lost : callable
        after : float
            Seconds in which no job of the run was known that waits or runs, though there had
            been some, and none of its steps ran here.
        poll : float
            Seconds between two looks.
        """

        def look() -> None:
            been, since = False, time.monotonic()
            while time.monotonic() - since <= after:
                time.sleep(poll)
                try:
                    queued = self._queued()
                except OSError:  # it may be started again
                    since = time.monotonic()
                    continue
                been = been or bool(queued)
                can_run = any(reason != LAUNCH_FAILED for _, reason in queued)
                if not been or can_run or has_local_step():
                    since = time.monotonic()
            when_lost()

        threading.Thread(target=look, daemon=True).start()

    def wait_for_former(self) -> None:
        """Wait until no job of a former run is left; end the program if Slurm does not say."""
        told: list[str] = []
        while self.note.exists():
            try:
                jobs = self.live()
            except OSError as error:
                sys.exit(
                    f"study: a former run may have left jobs on Slurm, and {error}. Run again "
                    f"when Slurm answers; or delete {NOTE}, if no job of it is left."
                )
            if not jobs:
                self.note.unlink()
            elif jobs != told:
                print(
                    f"study: waiting for {len(jobs)} jobs of a former run, which may still write; "
                    f"to end them: scancel {' '.join(jobs)}",
                    file=sys.stderr,
                )
                told = jobs
            if jobs:
                time.sleep(POLL_SECONDS)

    def begin(self) -> None:
        """Leave the note, and let this run's jobs know their run."""
        os.environ[RUN] = uuid.uuid4().hex
        self.note.parent.mkdir(exist_ok=True)
        self.note.write_text(os.environ[RUN])

    def end(self) -> None:
        """Cancel what is left of this run's jobs, and take back the note when they are gone."""
        try:
            while jobs := self.live():
                subprocess.run(["scancel", *jobs], capture_output=True, timeout=120)
                time.sleep(POLL_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            print(
                f"study: jobs may be left on Slurm ({error}); the next run waits for them",
                file=sys.stderr,
            )
        else:
            self.note.unlink(missing_ok=True)


def drop_filters() -> None:
    """Let this process, and what it starts, see and cancel all jobs, whatever the user filters."""
    for name in [name for name in os.environ if name.startswith(FILTERS)]:
        del os.environ[name]


def has_local_step() -> bool:
    """Say whether a step runs that this process started here, not on Slurm."""
    import psutil

    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            if STEP in process.cmdline():
                return True
    return False


def is_on_slurm() -> bool:
    """Say whether this process belongs to a run on Slurm: its driver, or one of its jobs."""
    return RUN in os.environ


def is_stray(folder: Path) -> bool:
    """Say whether this process belongs to a job of Slurm whose run is over."""
    if not is_on_slurm():
        return False
    try:
        return (folder / NOTE).read_text() != os.environ[RUN]
    except FileNotFoundError:
        return True
