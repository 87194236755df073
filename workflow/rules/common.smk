# What all steps share: the settings, the environment, and how a script or a notebook is run.

import os
import re
import shlex
import sys
from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError

ROOT = Path(workflow.basedir).parent
sys.path[:0] = [str(ROOT), str(ROOT / "workflow" / "scripts")]
from cluster import is_on_slurm
from config import read_config
from pages import OVERVIEWS, pages_of, recorded_runs, shown_runs
from icm_study.plain_yaml import write_yaml
from provenance import digest
from warm import ENVIRONMENT

try:
    STUDY = read_config(given=config)
except ValueError as error:
    raise WorkflowError(str(error)) from None

os.environ.update(ENVIRONMENT | {"PYTHONPATH": str(ROOT)})  # kernels use this checkout

SCRIPTS = "workflow/scripts"
PYTHON = shlex.quote(sys.executable)
JOB = f"exec {PYTHON} {SCRIPTS}/job.py {PYTHON}"
EXECUTE = (
    "{JOB} {SCRIPTS}/execute.py {input.notebook} {output.page}"
    " -y {params.settings:q} -y {params.files:q} > {log} 2>&1"
)
# A run of one seed needs no page: its table is shown on the page of all seeds.
RUN_STUDY = (
    "{JOB} {SCRIPTS}/run_study.py NOTEBOOK"
    " -y {params.settings:q} -y {params.files:q} > {log} 2>&1"
)
TITLED = EXECUTE.replace(" > ", " --title {params.title:q} > ")
WEIGHTS = "icm_study/encoders/weights/animal-world*"  # the encoders that ship with the project
SEEDS = STUDY["seeds"]


wildcard_constraints:
    run="[^/]+",
    seed="[0-9]+",


def one_of(runs):
    """Only these names fit a wildcard; where there are none, no name does."""
    return "|".join(map(re.escape, runs)) or "(?!)"


@cache
def code(notebook, data=WEIGHTS):
    """Digest a notebook and what executes it."""
    scripts = [f"{SCRIPTS}/execute.py", f"{SCRIPTS}/run_study.py"]
    return digest(f"notebooks/{notebook}.ipynb", *scripts, data=data)


def growing(first):
    """A resource of a step that a cluster ends where it is not enough: more at each attempt."""
    return lambda wildcards, attempt: first * attempt


def all_cores():
    """The cores of this machine; on a cluster one, or what `set-threads` in the profile says."""
    try:
        return 1 if is_on_slurm() else workflow.cores
    except WorkflowError:  # another executor, which was given none
        return 1


def settings_of(notebook, **shared):
    """Settings of a notebook that is run once, over those that the study shares."""
    return shared | STUDY["notebooks"].get(notebook, {})


def as_yaml(value):
    """A parameter of a rule, recorded as it stands: in a plain text, braces would be wildcards."""
    return lambda wildcards: write_yaml(value)


def files(wildcards, input, output):
    """Named files of a notebook as seen from notebooks/; Snakemake records them itself."""
    named = {**dict(input.items()), **dict(output.items())}
    return write_yaml(
        {
            name: f"../{path}" if isinstance(path, str) else [f"../{one}" for one in path]
            for name, path in named.items()
            if name not in ("notebook", "page", "embeddings")
        }
    )


def title(run):
    """What the heading of a page adds: one notebook makes the pages of many runs."""
    said = [run.get("dataset", "animal-world")]
    said += [f"encoder {run['encoder']}"] if "encoder" in run else []
    shortcuts = [shortcut for shortcut, strength in run.get("worlds", [])]
    said += ["strengths of a shortcut"] if len(set(shortcuts)) < len(shortcuts) else []
    return ", ".join([*said, *filter(None, [run.get("protocol")])])
