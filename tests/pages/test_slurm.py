"""The study on a real Slurm: what is documented works, and what goes wrong loses nothing."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import NOTE, RUN, SlurmJobs, is_stray
from conftest import ROOT, copy_workflow
from slurm import Cluster, cluster, missing, wait_for

#: In place of what embeds: says when it starts and ends, and suffers what is asked for.
STEP = """
import os
import sys
import time
from pathlib import Path

given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
seed = given["--seed"]


def log(event):
    threads = {os.environ[f"{name}_NUM_THREADS"] for name in ("OMP", "MKL", "OPENBLAS")}
    with open("log", "a") as file:
        print(event, seed, os.environ["SLURM_JOB_ID"], len(os.sched_getaffinity(0)),
              "/".join(threads), os.environ["SLURM_JOB_PARTITION"], file=file)


log("start")
fault = Path("faults", seed)
if fault.exists():
    what = fault.read_text()
    if what == "memory":
        memory = bytearray(600 * 2**20)
        first = Path("log").read_text().count(f"start {seed} ") == 1
        time.sleep(300 if first else 4)
    else:
        fault.unlink()  # of the first attempt only
        time.sleep(float(what))
Path(given["--record"]).write_text("[]")
log("end")
"""
WORLD = "import sys, zipfile; zipfile.ZipFile(sys.argv[-1], 'w').close()"
QUICK = ["--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1"]
QUICK += ["--latency-wait", "5"]
#: What a user may have set for another purpose: jobs of the study are hidden, and not cancelled.
FILTERS = {"SQUEUE_STATES": "COMPLETING", "SQUEUE_FORMAT": "%j", "SCANCEL_STATE": "SUSPENDED"}

needs_slurm = pytest.mark.skipif(
    bool(missing()) or importlib.util.find_spec("snakemake_executor_plugin_slurm") is None,
    reason=f"no Slurm to start here; missing: {', '.join(missing()) or 'the plugin of Snakemake'}",
)


def documented() -> list[str]:
    """Give the arguments of the one command that the report's page tells."""
    page = (ROOT / "reports" / "reproduce.qmd").read_text(encoding="utf-8")
    (arguments,) = re.findall(r'^make study ARGS="(.*)"$', page, re.MULTILINE)
    return shlex.split(arguments)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("slurm")) as started:
        yield started


@pytest.fixture
def study(tmp_path: Path) -> Path:
    prepare(tmp_path)
    return tmp_path


def prepare(study: Path) -> None:
    """Put the real workflow and profile into a folder, with steps that compute nothing."""
    copy_workflow(study)
    scripts = study / "workflow" / "scripts"
    (scripts / "world.py").write_text(WORLD)
    (scripts / "embed.py").write_text(STEP)
    config: dict[str, Any] = {
        "seeds": [0, 1, 2],
        "notebooks": {},
        "domain_generalization": {"main": {"encoder": "animal-world", "worlds": [["coat", 0.9]]}},
        "data": "data",
        "embedding_jobs": 1,
        "recorded": {},
        "methods": {},
        "questions": {},
    }
    (study / "workflow" / "config.yaml").write_text(yaml.safe_dump(config))
    for folder in ("faults", "notebooks", "reports/recorded", "icm_core"):
        (study / folder).mkdir(parents=True)
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        (study / "notebooks" / notebook.name).write_text('{"cells": []}')


def embeddings(*seeds: int) -> list[str]:
    return [f"cache/embeddings/seed{seed}.json" for seed in seeds]


def start(study: Path, slurm: Cluster, *arguments: str) -> subprocess.Popen:
    """Start the study as documented, but for the times between its looks at the queue."""
    return launch(study, slurm.environment | FILTERS, *arguments, *documented(), *QUICK)


def launch(study: Path, environment: Mapping[str, str], *arguments: str) -> subprocess.Popen:
    """Start the study in a folder, and write down what it says."""
    command = [sys.executable, "workflow/scripts/study.py", *arguments]
    environment = {**environment, "PYTHONPATH": str(study)}
    with (study / "driver.log").open("a") as log:
        return subprocess.Popen(command, cwd=study, env=environment, stdout=log, stderr=log)


def said(study: Path) -> str:
    return (study / "driver.log").read_text()


def events(study: Path, event: str) -> list[list[str]]:
    """List what steps wrote into the log: seed, job, processors, threads, partition."""
    log = study / "log"
    lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return [words for first, *words in lines if first == event]


def wait_for_jobs(driver: subprocess.Popen, study: Path, *seeds: int) -> None:
    """Wait until a job of each seed has started."""
    wait_for(lambda: driver.poll() is not None or all(job_of(study, seed) for seed in seeds), 300)
    assert driver.poll() is None, said(study)


def job_of(study: Path, seed: int) -> str:
    """Give the id of the job that was last started for a seed; empty before."""
    jobs = [job for one, job, *_ in events(study, "start") if one == str(seed)]
    return jobs[-1] if jobs else ""


@needs_slurm
@pytest.mark.slow
def test_a_job_that_ends_before_its_time_is_tried_again_with_more(
    study: Path, slurm: Cluster
) -> None:
    for seed, fault in enumerate(("memory", "300", "301")):
        (study / "faults" / str(seed)).write_text(fault)
    memory = ["--set-resources", "embeddings:mem_mb=700*attempt", "embeddings:runtime=2*attempt"]
    driver = start(study, slurm, *embeddings(0, 1, 2), *memory)
    try:
        wait_for_jobs(driver, study, 0, 1, 2)
        slurm.save(job_of(study, 2))  # a step that it forgets is not ended for its memory
        slurm.kill("slurmctld")  # the controller is away for a while, too
        slurm.start("slurmctld")
        wait_for(lambda: job_of(study, 1) in slurm.call("squeue", "--noheader"), 60)
        slurm.call("scancel", job_of(study, 1))
        slurm.call("scontrol", "update", f"JobId={job_of(study, 2)}", "EndTime=now")
        assert driver.wait(600) == 0, said(study)
    finally:
        driver.kill()
    assert sorted(seed for seed, *_ in events(study, "end")) == ["0", "1", "2"]
    assert sorted(seed for seed, *_ in events(study, "start")) == ["0", "0", "1", "1", "2", "2"]
    for status in ("FAILED", "CANCELLED", "TIMEOUT"):
        assert f"SLURM status is: '{status}'" in said(study)
    assert {(threads, partition) for *_, threads, partition in events(study, "end")} == {
        ("1", "all")
    }
    assert {cores for _, _, cores, *_ in events(study, "end")} == {"1"}  # a job keeps to its own
    assert not (study / NOTE).exists()
    assert (study / "results" / "logs" / "embeddings_seed0.log").exists()


@needs_slurm
@pytest.mark.slow
def test_a_driver_that_is_told_to_end_cancels_its_jobs(study: Path, slurm: Cluster) -> None:
    (study / "faults" / "0").write_text("300")
    driver = start(study, slurm, *embeddings(0))
    try:
        wait_for_jobs(driver, study, 0)
        driver.terminate()  # which ends it as Ctrl-C does
        assert driver.wait(300) != 0
    finally:
        driver.kill()
    assert not slurm.call("squeue", "--noheader"), said(study)
    assert not events(study, "end")
    assert not (study / NOTE).exists()


@needs_slurm
@pytest.mark.slow
def test_what_others_wait_for_is_first_in_the_queue(study: Path, slurm: Cluster) -> None:
    slurm.call("scontrol", "update", "PartitionName=all", "State=DOWN")
    driver = start(study, slurm, "results/01_theory.ipynb", *embeddings(0))
    try:  # the theory can be submitted at once, the embeddings when there are silhouettes
        queue = ["squeue", "--noheader", "--sort=-p", "--format=%k"]
        wait_for(lambda: len(slurm.call(*queue).split()) == 2, 300)
        first, second = slurm.call(*queue).split()
        assert "embeddings" in first
        assert "theory" in second
        driver.terminate()
        driver.wait(300)
    finally:
        driver.kill()
        slurm.call("scontrol", "update", "PartitionName=all", "State=UP")
    assert not slurm.call("squeue", "--noheader"), said(study)


@needs_slurm
@pytest.mark.slow
def test_after_a_kill_the_next_run_waits_for_jobs_that_still_write(
    study: Path, slurm: Cluster
) -> None:
    (study / "faults" / "0").write_text("25")
    first = start(study, slurm, *embeddings(0))
    try:
        wait_for_jobs(first, study, 0)
    finally:
        first.kill()
        first.wait()
    assert (study / NOTE).exists()
    again = start(study, slurm, *embeddings(0, 1), "--set-threads", "embeddings=2")
    try:
        assert again.wait(300) == 0, said(study)
    finally:
        again.kill()
    assert (
        f"waiting for 1 jobs of a former run, which may still write; to end them: scancel "
        f"{job_of(study, 0)}" in said(study)
    )
    assert [seed for seed, *_ in events(study, "start")] == ["0", "1"]  # nothing is repeated
    allotted = [(cores, threads) for _, _, cores, threads, _ in events(study, "end")]
    assert allotted == [("1", "1"), ("2", "2")]  # libraries follow what a job is given
    assert not slurm.call("squeue", "--noheader")


def test_a_job_whose_run_is_over_knows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RUN, raising=False)
    assert not is_stray(tmp_path)  # a job on this machine
    jobs = SlurmJobs(tmp_path)
    monkeypatch.setenv(RUN, "is put back afterwards")
    jobs.begin()
    assert not is_stray(tmp_path)
    monkeypatch.setenv(RUN, "another")
    assert is_stray(tmp_path)
    jobs.note.unlink()
    assert is_stray(tmp_path)


def test_a_stray_job_does_not_start(tmp_path: Path) -> None:
    script = ROOT / "workflow" / "scripts" / "job.py"
    done = subprocess.run(
        [sys.executable, script, "touch", "started"],
        cwd=tmp_path, env=os.environ | {RUN: "former"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0
    assert "the run that submitted this job is over" in done.stderr
    assert not (tmp_path / "started").exists()


def test_where_slurm_does_not_say_whether_jobs_are_left_nothing_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = SlurmJobs(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))  # no squeue there
    jobs.wait_for_former()  # no run was on Slurm: nothing to wait for
    monkeypatch.setenv(RUN, "is put back afterwards")
    jobs.begin()
    with pytest.raises(SystemExit, match="may have left jobs on Slurm"):
        jobs.wait_for_former()
    assert jobs.note.exists()


@pytest.mark.slow
def test_what_a_user_filters_hides_no_job_of_a_former_run(study: Path) -> None:
    given = FILTERS | {"SLURM_CONF": "theirs", "SBATCH_PARTITION": "theirs"}
    (study / "squeue").write_text(f"#!/bin/sh\nenv > {study}/environment\n")
    (study / "squeue").chmod(0o755)
    (study / NOTE).parent.mkdir()
    (study / NOTE).touch()
    path = f"{study}{os.pathsep}{os.environ['PATH']}"
    driver = launch(study, os.environ | given | {"PATH": path}, "cache/silhouettes.npz")
    assert driver.wait(120) == 0, said(study)
    seen = dict(
        line.split("=", 1)
        for line in (study / "environment").read_text().splitlines()
        if line.startswith(tuple(given))
    )
    assert seen == {"SLURM_CONF": "theirs", "SBATCH_PARTITION": "theirs"}


@pytest.mark.parametrize(
    ("later", "is_lost"),
    [
        ("", True),
        ("7|launch failed requeued held|{name}-x", True),
        ("7|JobHeldUser|{name}-x", False),
        ("7|None|{name}-x", False),
        ("7|None|another", True),
    ],
)
def test_jobs_that_slurm_has_forgotten_or_holds_are_noticed(
    later: str, is_lost: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue is empty, then has jobs, then what a controller knows that was killed."""
    jobs, queue, lost = SlurmJobs(tmp_path), tmp_path / "queue", threading.Event()
    queue.write_text("")
    (tmp_path / "squeue").write_text(f"#!/bin/sh\ncat {queue}\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    jobs.watch(lost.set, after=0.6, poll=0.02)
    assert not lost.wait(1)  # nothing was submitted yet
    queue.write_text(f"6|Priority|{jobs.name}-x\n")
    assert not lost.wait(1)
    queue.write_text(later.format(name=jobs.name))
    assert lost.wait(20 if is_lost else 1.5) == is_lost
    queue.write_text("")
    assert lost.wait(10)


def test_while_a_step_runs_here_no_job_counts_as_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There was a job; then Snakemake's shell runs a step, as the rules start it."""
    monkeypatch.delenv(RUN, raising=False)
    jobs, queue, lost = SlurmJobs(tmp_path), tmp_path / "queue", threading.Event()
    queue.write_text(f"6|Priority|{jobs.name}-x\n")
    (tmp_path / "squeue").write_text(f"#!/bin/sh\ncat {queue}\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    rules = (ROOT / "workflow" / "rules" / "common.smk").read_text()
    (job,) = re.findall('^JOB = f"(.*)"$', rules, re.MULTILINE)
    job = job.format(PYTHON=shlex.quote(sys.executable), SCRIPTS="workflow/scripts")
    step = subprocess.Popen(
        f"set -euo pipefail; {job} -c 'import time; time.sleep(600)'",
        shell=True, executable="/bin/bash", cwd=ROOT,
    )  # fmt: skip
    try:
        jobs.watch(lost.set, after=0.6, poll=0.02)
        assert not lost.wait(1)
        queue.write_text("")
        assert not lost.wait(3)
    finally:
        step.terminate()
        step.wait()
    assert lost.wait(20)
