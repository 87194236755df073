"""What is lost, repeated or damaged when a job, a node, the driver or the controller is killed.

Run it with ``python benchmarks/kills.py`` where Slurm is installed; ``--times 10`` kills
each so often (an hour or more). The study runs on a Slurm of two nodes on this machine,
with steps that only wait, as in the tests. After each kill it must come to its end, by
itself or, after a kill of the driver, when it is started again; every step must have ended
once, those that were not hit must not have run again, and no two may have run at once.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "pages"), str(ROOT)]
sys.path.append(str(ROOT / "workflow" / "scripts"))
from slurm import Cluster, cluster, wait_for  # noqa: E402
from test_slurm import (  # noqa: E402
    embeddings,
    events,
    job_of,
    prepare,
    said,
    start,
    wait_for_jobs,
)

SEEDS = (0, 1, 2)
KINDS = ("job", "node", "driver", "controller")


def kill_node(slurm: Cluster, job: str) -> None:
    """Kill the node of a job with all that runs there; start it again when Slurm knows."""
    node = slurm.call("squeue", "--noheader", f"--jobs={job}", "--format=%N").strip()
    log = str(slurm.folder / f"{node}.log")  # which all of Slurm on this node keeps open
    slurm.kill(node)
    for process in psutil.process_iter(["open_files"]):
        if log in [file.path for file in process.info["open_files"] or []]:
            for each in [*process.children(recursive=True), process]:
                with suppress(psutil.NoSuchProcess):  # it ended with the others
                    each.kill()
    wait_for(lambda: any(state.startswith("down") for state in slurm.states()), 90)
    slurm.start(node)


def once(kind: str, slurm: Cluster, study: Path) -> str:
    """Kill one thing while jobs run; say what went wrong, or nothing."""
    prepare(study)
    for seed in SEEDS:
        (study / "faults" / str(seed)).write_text("20")
    steps = embeddings(*SEEDS)
    driver = start(study, slurm, *steps)
    try:
        wait_for_jobs(driver, study, *SEEDS)
        if kind == "job":
            slurm.call("scancel", job_of(study, 1))
        elif kind == "node":
            kill_node(slurm, job_of(study, 1))
        elif kind == "driver":
            driver.kill()
            driver.wait()
            driver = start(study, slurm, *steps)
        else:
            slurm.kill("slurmctld")
            slurm.start("slurmctld")
        hit = {"job": 1, "node": len(SEEDS)}.get(kind, 0)
        if driver.wait(900) != 0:
            if "start the study again" not in said(study):
                return said(study)
            driver, hit = start(study, slurm, *steps), len(SEEDS)  # Slurm had lost its jobs
            if driver.wait(900) != 0:
                return said(study)
    finally:
        driver.kill()
    started, ended = events(study, "start"), events(study, "end")
    if sorted(seed for seed, *_ in ended) != [str(seed) for seed in SEEDS]:
        return f"ended: {ended}"
    if len(started) > len(ended) + hit:
        return f"repeated: {started}"
    if any((study / name).read_text() != "[]" for name in steps):
        return "damaged"
    return ""


def main() -> int:
    """Kill as often as the command line says; return 1 if something went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    given = parser.parse_args()
    wrong = 0
    for kind in given.kinds:
        for i in range(given.times):
            with tempfile.TemporaryDirectory() as folder:
                places = [Path(folder, name) for name in ("slurm", "study")]
                for place in places:
                    place.mkdir()
                with cluster(places[0]) as slurm:
                    fault = once(kind, slurm, places[1])
            wrong += bool(fault)
            print(
                f"{kind:10} {i + 1:3}: {fault or 'nothing lost, repeated or damaged'}", flush=True
            )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
