"""A reduced study on a Slurm of two nodes and on this machine: same tables, and the speed-up.

Run it with ``python benchmarks/two_nodes.py`` where Slurm is installed (a quarter of an
hour). Every page of the study but those of recorded runs, with few seeds and images, is
made on this machine, and on a Slurm of two nodes of two processors that the machine
emulates; every table and every embedding must be the same to the bit. Both nodes share
the machine's processors, so the speed-up is taken from a replay: each step waits in
proportion to what it took on this machine, ``--seconds`` in all, and leaves what it had
left. The replay runs on one node and on both. Beside its time stand the longest path
through the graph, and the steps' total over the processors: no run is faster than either.
``--of FOLDER`` replays instead the whole study that was finished in another checkout.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "pages"), str(ROOT)]
sys.path.append(str(ROOT / "workflow" / "scripts"))
from conftest import CONFIG, PAGES  # noqa: E402
from slurm import Cluster, cluster  # noqa: E402
from test_slurm import launch, said, start  # noqa: E402

#: The report is not rendered: its links name runs that the reduced study has not.
TARGETS = ("index.ipynb", "results/claims.ipynb", "results/all_numbers.ipynb")
TARGETS += ("results/05_your_data.ipynb", "results/07_explore.ipynb")
#: In place of what runs a step: waits, and leaves what the step had left.
REPLAY = """
if __name__ == "__main__":
    import json
    import shutil

    steps = json.load(open("steps.json"))
    step = steps[os.path.relpath(os.readlink("/proc/self/fd/1"))]
    time.sleep(step["seconds"])
    for source, output in step["outputs"]:
        shutil.copyfile(source, output)
"""


def copy_project(folder: Path, of: Path = ROOT) -> Path:
    """Copy the project as it is."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("icm_core", "icm_study", "notebooks", "reports", "workflow"):
        shutil.copytree(of / name, folder / name, ignore=ignored)
    shutil.copy(of / "_quarto.yml", folder)
    return folder


def copy_reduced(folder: Path) -> Path:
    """Copy the project, with settings as in the tests of the pages, and without recorded runs."""
    copy_project(folder)
    run = {"encoder": "animal-world"} | PAGES["02_domain_generalization_animal-world"][1]
    notebooks = {name: own for name, (notebook, own) in PAGES.items() if name == notebook}
    settings = {
        "seeds": run["seeds"], "domain_generalization": {"main": run},
        "notebooks": {name: notebooks[name] for name in CONFIG["notebooks"]},
    }  # fmt: skip
    none = {"recorded": {}, "methods": {}, "questions": {}}
    config = yaml.safe_dump(CONFIG | none | settings)
    (folder / "workflow" / "config.yaml").write_text(config)
    return folder


def differences(one: Path, other: Path) -> list[str]:
    """Name the tables, projections and embeddings of two studies that are not the same to the bit.

    Of a table all but its column of seconds is compared.
    """
    kinds = ("results/**/*.parquet", "results/*.safetensors", "cache/embeddings/*.nc")
    names, others = (
        {str(path.relative_to(study)) for kind in kinds for path in study.glob(kind)}
        for study in (one, other)
    )
    found = sorted(names ^ others)
    for name in sorted(names & others):
        if name.endswith("parquet"):
            tables = [pd.read_parquet(study / name) for study in (one, other)]
            first, second = (table.drop(columns="fit_seconds", errors="ignore") for table in tables)
            same = first.equals(second)
        else:
            same = (one / name).read_bytes() == (other / name).read_bytes()
        found += [] if same else [name]
    assert names, f"{one} holds no results"
    return found


def timed(study: Path, started: subprocess.Popen) -> float:
    """Wait for a run of a study; give its seconds, or end the program if it failed."""
    before = time.perf_counter()
    if started.wait() != 0:
        sys.exit(f"two_nodes: the study failed: {said(study)}")
    return time.perf_counter() - before


def steps_of(study: Path) -> dict[str, dict[str, Any]]:
    """Give the steps of a finished study by their logs: seconds, inputs and outputs."""
    steps: dict[str, dict[str, Any]] = {}
    for path in (study / ".snakemake" / "metadata").iterdir():
        told = json.loads(path.read_text())
        step = {"seconds": told["endtime"] - told["starttime"], "inputs": told["input"]}
        step = steps.setdefault(told["log"][0], step | {"outputs": []})
        step["outputs"].append(base64.b64decode(path.name).decode())
    return steps


def longest_path(steps: dict[str, dict[str, Any]]) -> float:
    """Add up the seconds along the path through the graph that takes longest."""
    makers = {output: log for log, step in steps.items() for output in step["outputs"]}

    @cache
    def until(log: str) -> float:
        before = [until(makers[name]) for name in steps[log]["inputs"] if name in makers]
        return steps[log]["seconds"] + max(before, default=0.0)

    return max(map(until, steps))


def replay(of: Path, targets: Sequence[str], seconds: float, slurm: Cluster) -> None:
    """Replay a finished study on one node and on two; print how long it takes."""
    steps = steps_of(of)
    stretch = seconds / sum(step["seconds"] for step in steps.values())
    for step in steps.values():
        step["seconds"] *= stretch
    longest = longest_path(steps)
    print(f"a replay of {len(steps)} steps, of {seconds:.0f} s together; "
          f"the longest path through the graph takes {longest:.0f} s", flush=True)  # fmt: skip
    told = {
        log: step | {"outputs": [[str(of / name), name] for name in step["outputs"]]}
        for log, step in steps.items()
    }
    taken = {}
    for nodes, state in ((1, "drain"), (2, "resume")):
        slurm.call("scontrol", "update", "NodeName=n2", f"State={state}", "Reason=replay")
        with tempfile.TemporaryDirectory() as folder:
            study = copy_project(Path(folder), of)
            job = study / "workflow" / "scripts" / "job.py"
            job.write_text(job.read_text().partition("\nif __name__")[0] + REPLAY)
            (study / "steps.json").write_text(json.dumps(told))
            taken[nodes] = timed(study, start(study, slurm, *targets))
        least = max(longest, seconds / (2 * nodes))
        print(f"nodes: {nodes}; {taken[nodes]:.0f} s, where {least:.0f} s are the least",
              flush=True)  # fmt: skip
    print(f"speed-up {taken[1] / taken[2]:.2f}")


def main() -> int:
    """Compare and measure; return 1 if a table differs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=600, help="of all steps of the replay")
    parser.add_argument("--of", type=Path, help="a checkout with a finished study to replay")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryDirectory() as place,
        cluster(Path(place)) as slurm,
    ):
        if given.of:
            replay(given.of.resolve(), (), given.seconds, slurm)
            return 0
        here, there = (copy_reduced(Path(folder, name)) for name in ("here", "there"))
        taken = timed(here, launch(here, os.environ, *TARGETS, "--cores", "2"))
        print(f"on this machine: {taken:.0f} s", flush=True)
        taken = timed(there, start(there, slurm, *TARGETS))
        different = differences(here, there)
        print(f"on Slurm: {taken:.0f} s; tables, projections and embeddings that differ: "
              f"{', '.join(different) or 'none'}", flush=True)  # fmt: skip
        replay(here, TARGETS, given.seconds, slurm)
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main())
