"""The workflow: only what is stale runs again, and a killed run leaves nothing behind."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import nbformat
import papermill
import psutil
import pytest
import yaml
from conftest import ROOT, copy_workflow, drive, run
from provenance import digest, source_files
from study import take_lock

from icm_study.experiments.names import check_names


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A library of three modules: the step imports `first`, which imports `second`."""
    package = tmp_path / "icm_core"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "first.py").write_text(
        "from icm_core.second import x\nfrom icm_core.inner import third\n"
    )
    (package / "inner").mkdir()
    (package / "inner" / "__init__.py").write_text("")
    (package / "inner" / "third.py").write_text("x = 1\n")
    (package / "second.py").write_text("x = 1\n")
    (package / "other.py").write_text("x = 1\n")
    (tmp_path / "step.py").write_text("def main():\n    from icm_core import first\n")
    return tmp_path


@pytest.mark.parametrize(
    "changed",
    [
        "step.py",
        *(
            f"icm_core/{name}.py"
            for name in ("__init__", "first", "second", "inner/__init__", "inner/third")
        ),
    ],
)
def test_digest_follows_imports(library: Path, changed: str) -> None:
    before = digest("step.py", root=library)
    (library / changed).write_text((library / changed).read_text() + "y = 2\n")
    assert digest("step.py", root=library) != before


def test_digest_ignores_what_is_not_imported_and_dates(library: Path) -> None:
    before = digest("step.py", root=library)
    (library / "icm_core" / "other.py").write_text("x = 2\n")
    os.utime(library / "icm_core" / "first.py", (0, 0))
    assert digest("step.py", root=library) == before


def test_digest_follows_relative_imports(library: Path) -> None:
    (library / "icm_core" / "first.py").write_text("from .second import x\nfrom . import other\n")
    names = {path.name for path in source_files(library / "step.py", root=library)}
    assert names == {"step.py", "__init__.py", "first.py", "second.py", "other.py"}


def test_digest_follows_relative_imports_of_a_package_within(library: Path) -> None:
    (library / "icm_core" / "inner" / "third.py").write_text("from . import fourth\nimport other\n")
    (library / "icm_core" / "inner" / "fourth.py").write_text("from ..other import x\n")
    names = {path.name for path in source_files(library / "step.py", root=library)}
    assert {"fourth.py", "other.py"} <= names


def test_digest_follows_both_packages_and_what_stands_beside_a_script(library: Path) -> None:
    (library / "icm_study" / "text").mkdir(parents=True)
    for path in ("icm_study/__init__.py", "icm_study/text/__init__.py", "beside.py", "tests.py"):
        (library / path).write_text("x = 1\n")
    (library / "step.py").write_text("import beside\nfrom icm_study import text\n")
    before = digest("step.py", root=library)
    files = source_files(library / "step.py", root=library)
    names = {str(path.relative_to(library)) for path in files}
    assert names == {"step.py", "beside.py", "icm_study/__init__.py", "icm_study/text/__init__.py"}
    assert digest("step.py", "tests.py", root=library) != before


def test_digest_covers_data(library: Path) -> None:
    before = digest("step.py", root=library, data="weights/*")
    (library / "weights").mkdir()
    (library / "weights" / "small.bin").write_bytes(b"1")
    one = digest("step.py", root=library, data="weights/*")
    (library / "weights" / "small.bin").write_bytes(b"2")
    assert len({before, one, digest("step.py", root=library, data="weights/*")}) == 3


def test_digest_of_a_notebook_is_that_of_its_sources(library: Path) -> None:
    cells = [
        nbformat.v4.new_code_cell(
            "%matplotlib inline\nimport icm_core.first as first\nprint(first.x)"
        )
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbformat.write(notebook, library / "step.ipynb")
    before = digest("step.ipynb", root=library)

    notebook.cells[0].outputs = [nbformat.v4.new_output("stream", text="1")]
    notebook.cells[0].execution_count = 7
    nbformat.write(notebook, library / "step.ipynb")
    assert digest("step.ipynb", root=library) == before

    (library / "icm_core" / "second.py").write_text("x = 3\n")
    assert digest("step.ipynb", root=library) != before


def test_only_one_run_holds_the_lock(tmp_path: Path) -> None:
    lock = take_lock(tmp_path / "state" / "lock")
    assert lock is not None
    assert take_lock(tmp_path / "state" / "lock", wait=0) is None
    lock.close()
    again = take_lock(tmp_path / "state" / "lock", wait=0)
    assert again is not None
    again.close()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_without_locks_the_study_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, number: int
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    lock = take_lock(tmp_path / "state" / "lock")
    assert lock is not None
    lock.close()
    said = capsys.readouterr().err
    assert f"cannot be locked: {os.strerror(number)}" in said
    assert "start one at a time" in said


SLEEPER = """
import os
import signal
import threading
import time

import snakemake.cli
from snakemake.workflow import JobScheduler
from study import ENDING, end_on_signals


def another_thread_receives(number):
    time.sleep(0.2)
    signal.pthread_kill(threading.get_ident(), number)


for number in ENDING:
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        end_on_signals()
        scheduler = JobScheduler.__new__(JobScheduler)
        signal.signal(signal.SIGTERM, scheduler.exit_gracefully)  # as when it is made
        threading.Thread(target=another_thread_receives, args=[number], daemon=True).start()
        try:
            threading.Semaphore(0).acquire()  # as the scheduler sleeps until a job ends
        except KeyboardInterrupt:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, number
"""


@pytest.mark.slow
def test_a_signal_ends_a_run_that_is_asleep_whoever_receives_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "workflow" / "scripts"))
    done = run("-c", SLEEPER)
    assert done.returncode == 0, done.stderr


def alive(pid: int) -> bool:
    """Say whether a process runs; one that has ended and was not collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="reads the state of processes from /proc"
)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_job_ends_with_the_process_that_started_it(tmp_path: Path, how: signal.Signals) -> None:
    tell = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))"
    work = f"import os, time; {tell}; time.sleep(60)"
    job = [
        sys.executable,
        str(ROOT / "workflow" / "scripts" / "job.py"),
        sys.executable,
        "-c",
        work,
    ]
    starter = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess; subprocess.run({job!r})"]
    )
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    worker = int((tmp_path / "pid").read_text())
    assert alive(worker)
    starter.send_signal(how)
    starter.wait()
    wait_for(lambda: not alive(worker))


def test_a_job_hands_on_the_exit_code() -> None:
    assert (
        run("workflow/scripts/job.py", sys.executable, "-c", "raise SystemExit(3)").returncode == 3
    )


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait until `condition` is true; fail when it is not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


SCRIPT = """
import sys
import zipfile
import icm_core.{module}

if sys.argv[-1].endswith("npz"):
    zipfile.ZipFile(sys.argv[-1], "w").close()
else:
    open(sys.argv[-1], "w").write("[]")
"""
NAMES = ("world", "worlds", "encoder", "table", "others", "recorded", "comparisons")
NAMES += ("results", "claims", "projection")
PARAMETERS = "\n".join(["seeds = []", "tables = []", *(f"{name} = None" for name in NAMES)])
NOTEBOOK = """
import time

import pandas as pd
from safetensors.numpy import save_file

import icm_core.{module}


def log(event):
    with open("../log", "a") as file:
        print(event, {name!r}, *seeds, file=file)


log("start")
time.sleep(1)
for path in [results, claims if isinstance(claims, str) else None]:
    if path is not None:
        pd.DataFrame({{"seed": seeds}}).to_parquet(path)
if projection is not None:
    save_file({{}}, projection)
log("end")
"""


RUN_STUDY = """
import sys

import icm_core.evaluation
import pandas as pd
import yaml

given = {key: value for text in sys.argv[3::2] for key, value in yaml.safe_load(text).items()}
for event in ("start", "end"):
    with open("log", "a") as file:
        print(event, "run of", sys.argv[1], *given["seeds"], file=file)
pd.DataFrame({"seed": given["seeds"]}).to_parquet("notebooks/" + given["results"])
"""


RUNS = [
    "00_claims",
    "00_numbers",
    "00_summary",
    "01_theory",
    "02_domain_generalization 0 1",
    "03_ablations 0 1",
    "04_imagenet_variants 0 1",
    "05_your_data",
    "07_explore",  # of one seed, which it knows itself
    "run of 02_domain_generalization 0",
    "run of 02_domain_generalization 1",
]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """The real workflow, over an empty library and quick notebooks that log their runs."""
    copy_workflow(tmp_path)
    shutil.copytree(ROOT / "reports", tmp_path / "reports")
    for name in ("icm_core", "notebooks"):
        (tmp_path / name).mkdir()
    for module in ("__init__", "world", "encoder", "theory", "evaluation"):
        (tmp_path / "icm_core" / f"{module}.py").touch()
    scripts = tmp_path / "workflow" / "scripts"
    (scripts / "world.py").write_text(SCRIPT.format(module="world"))
    (scripts / "embed.py").write_text(SCRIPT.format(module="encoder"))
    (scripts / "run_study.py").write_text(RUN_STUDY)
    worlds = [["coat", 0.9], ["scene", 0.9]]
    config = {
        "seeds": [0, 1],
        "notebooks": {},
        "domain_generalization": {"main": {"encoder": "animal-world", "worlds": worlds}},
        "data": "data",
        "embedding_jobs": 1,
        "recorded": {},
        "methods": {},
        "questions": {},
    }
    (tmp_path / "workflow" / "config.yaml").write_text(yaml.safe_dump(config))
    for name in {name.split()[0] for name in RUNS if not name.startswith("run of")}:
        module = "theory" if name == "01_theory" else "evaluation"
        cells = [
            nbformat.v4.new_markdown_cell(f"# {name}\n\nText."),
            nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(NOTEBOOK.format(name=name, module=module)),
        ]
        kernel = {
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        }
        notebook = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
        nbformat.write(notebook, tmp_path / "notebooks" / f"{name}.ipynb")
    return tmp_path


def events(study: Path, kind: str) -> list[str]:
    """List the notebook runs that started or ended, sorted."""
    log = study / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    return sorted(line.removeprefix(kind + " ") for line in lines if line.startswith(kind))


def recorded(study: Path) -> int:
    """Count the notebook runs that the first study has recorded as finished."""
    rules = "theory|domain_generalization|gather_domain_generalization|ablations"
    rules += "|summary|claims|numbers"
    return len(
        re.findall(rf"Finished jobid: \d+ \(Rule: ({rules})\)", (study / "first.log").read_text())
    )


def in_the_middle(study: Path) -> bool:
    """Say whether some notebooks have run and one is running."""
    return recorded(study) >= 2 and events(study, "start") != events(study, "end")


@pytest.mark.slow
def test_a_killed_study_goes_on_and_computes_nothing_twice(study: Path) -> None:
    command = [sys.executable, "workflow/scripts/study.py", "--cores", "2"]
    with (study / "first.log").open("w") as log:
        first = subprocess.Popen(command, cwd=study, stdout=log, stderr=log)
        wait_for(lambda: first.poll() is not None or in_the_middle(study), seconds=120)
        assert first.poll() is None, (study / "first.log").read_text()
        its_processes = psutil.Process(first.pid).children(recursive=True)
        first.kill()
        first.wait()
    assert its_processes
    left = psutil.wait_procs(its_processes, timeout=60)[1]
    assert not left, f"still computing after the kill: {left}"
    finished = events(study, "end")
    assert len(finished) < len(RUNS)
    # their last cell had run, their page was being written
    unrecorded = len(finished) - recorded(study)

    again = drive("--cores", "2", cwd=study)
    assert again.returncode == 0, again.stderr
    ended = events(study, "end")
    assert sorted(set(ended)) == RUNS
    assert len(RUNS) <= len(ended) <= len(RUNS) + unrecorded  # what was recorded did not run again
    assert (study / "_site" / "index.html").is_file()
    page = nbformat.read(study / "results" / "02_domain_generalization_main.ipynb", 4)
    heading = "# 02_domain_generalization (animal-world, encoder animal-world)\n"
    assert page.cells[0].source.startswith(heading)
    front = (study / "_site" / "index.html").read_text()
    assert "02_domain_generalization_main.html" in front  # the menus follow the settings
    assert "02_domain_generalization_animal-world" not in front

    third = drive("--cores", "2", cwd=study)
    assert "Nothing to be done" in third.stderr
    assert events(study, "end") == ended

    (study / "icm_core" / "theory.py").write_text("changed = True\n")
    (study / "notebooks" / "03_ablations.ipynb").touch()
    assert drive("--cores", "2", cwd=study).returncode == 0
    assert events(study, "end") == sorted([*ended, "01_theory", "00_summary", "00_claims"])


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("warm", [True, False])
def test_a_study_that_is_told_to_end_does_not_wait_for_its_jobs(
    study: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals, warm: bool
) -> None:
    if not warm:
        monkeypatch.setenv("STUDY_WARM", str(study / "nowhere"))
    tell = "open('../begun', 'w').write(str(os.getpid()))"
    (study / "icm_core" / "theory.py").write_text(f"import os, time\n{tell}\ntime.sleep(600)\n")
    command = [
        sys.executable,
        "workflow/scripts/study.py",
        "--cores",
        "1",
        "results/01_theory.ipynb",
    ]
    with (study / "first.log").open("w") as log:
        first = subprocess.Popen(command, cwd=study, stdout=log, stderr=log)
    begun = study / "begun"
    wait_for(
        lambda: first.poll() is not None or (begun.exists() and begun.read_text()), seconds=120
    )
    assert first.poll() is None, (study / "first.log").read_text()
    works = [psutil.Process(first.pid), psutil.Process(int(begun.read_text()))]
    works += works[0].children(recursive=True)
    first.send_signal(how)
    assert first.wait(120) != 0
    assert psutil.wait_procs(works, timeout=60)[1] == []
    assert not (study / "results" / "01_theory.ipynb").exists()


@pytest.mark.slow
def test_a_failing_notebook_is_reported_and_leaves_no_page(study: Path) -> None:
    (study / "icm_core" / "theory.py").write_text("raise RuntimeError('the theory is broken')\n")
    failed = drive("--cores", "2", "results/01_theory.ipynb", cwd=study)
    assert failed.returncode != 0
    assert "the theory is broken" in failed.stderr
    assert not (study / "results" / "01_theory.ipynb").exists()


@pytest.mark.slow
def test_the_graph_of_the_real_study_names_every_step() -> None:
    planned = drive("--dry-run", "--forceall")
    config = yaml.safe_load((ROOT / "workflow" / "config.yaml").read_text())
    seeds, runs = len(config["seeds"]), config["domain_generalization"].values()
    split = sum(len(run.get("seeds", config["seeds"])) for run in runs if len(run["worlds"]) > 1)
    said = (planned.stdout + planned.stderr).splitlines()
    counts = dict(line.split() for line in said if len(line.split()) == 2)
    assert planned.returncode == 0, planned.stderr
    assert (counts["embeddings"], counts["domain_generalization"]) == (
        str(seeds),
        str(split),
    )
    assert counts["gather_domain_generalization"] == str(len(runs))
    assert counts["recorded_page"] == str(
        len(list((ROOT / "reports" / "recorded").glob("*.parquet")))
    )
    for step in (
        "world",
        "theory",
        "ablations",
        "imagenet_variants",
        "your_data",
        "summary",
        "claims",
        "numbers",
        "report",
    ):
        assert counts[step] == "1"


@pytest.mark.slow
def test_every_notebook_knows_its_names_and_each_of_its_pages_has_a_title() -> None:
    asked = ("all", "methods", "questions", "--dry-run", "--forceall")
    planned = drive(*asked, "--printshellcmds")
    lines = (planned.stdout + planned.stderr).splitlines()
    given: dict[str, set[str]] = {}
    titles: dict[str, dict[str, str]] = {}  # of the pages of each notebook
    for words in (shlex.split(line) for line in lines if "/execute.py " in line):
        notebook = words[words.index("workflow/scripts/execute.py") + 1]
        texts = [text for option, text in pairwise(words) if option == "-y"]
        given.setdefault(notebook, set()).update(*map(yaml.safe_load, texts))
        page = words[words.index(notebook) + 1]
        if page.startswith("results/") and page.count("/") == 1:  # no part of a run
            title = words[words.index("--title") + 1] if "--title" in words else ""
            titles.setdefault(notebook, {})[page] = title
    assert set(given) == {f"notebooks/{path.name}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    for notebook, names in given.items():
        check_names(names, papermill.inspect_notebook(str(ROOT / notebook)), notebook)
    assert max(map(len, titles.values())) > 4
    for notebook, of_pages in titles.items():
        assert len(set(of_pages.values())) == len(of_pages), notebook
