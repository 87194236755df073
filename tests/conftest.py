"""What tests share: the notebooks, executed once with tiny parameters, and the report of them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import hypothesis
import pyarrow  # noqa: F401  before scripts that leave it out where it is not there yet
import pytest
import yaml

# as in workflow/scripts/execute.py: checks of formats that nobody asks for take two seconds
sys.modules.setdefault("rfc3987_syntax", None)
os.environ.pop("TQDM_DISABLE", None)  # some tests look at bars, whatever the user has set
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # tests in the background: after nohup, or &
    signal.signal(signal.SIGINT, signal.default_int_handler)  # else none could be interrupted
ROOT = Path(__file__).resolve().parent.parent
PACS = Path(os.environ.get("ICM_PACS", ROOT.parent / "shared/data/PACS"))  # where it is at hand
REAL_CLIP = Path(os.environ.get("ICM_REAL_CLIP", PACS.parent / "real_clip"))
# no test depends on the machine's speed
hypothesis.settings.register_profile("study", deadline=None)
hypothesis.settings.load_profile("study")
sys.path.insert(0, str(ROOT / "workflow/scripts"))  # the workflow's scripts, tested as modules
import warm  # noqa: E402

#: Files of which the tests take longest, or wait: they start first, so that at the end all
#: processors work.
LONG = ("test_report", "test_slurm", "test_notebooks", "test_workflow", "test_steps", "test_files")


#: What the driver of the study imports, beside what processes of the study do.
DRIVER = ("snakemake.cli", "snakemake.executors.local", "snakemake.report", "pyarrow.dataset")


def pytest_configure(config: pytest.Config) -> None:
    """Have one server of forked processes, which all workers share."""
    running = ExitStack()
    running.enter_context(warm.serving(*DRIVER))
    config.add_cleanup(running.close)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    place = {name: i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONG)))


@pytest.fixture(scope="session", autouse=True)
def _kernels_find_the_library() -> Any:
    """Let notebook kernels and scripts import this checkout, wherever they run."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (warm.ENVIRONMENT | {"PYTHONPATH": str(ROOT)}).items():
            patch.setenv(name, value)
        yield


#: The options of pandas that the report's style sets.
SET = ("display.max_colwidth", "display.max_rows", "display.show_dimensions")


@pytest.fixture(autouse=True)
def _style_is_put_back() -> Any:
    """Undo what a test sets of how figures and tables look: none depends on which ran before."""
    import matplotlib as mpl
    import pandas as pd

    with (
        mpl.rc_context(),
        pd.option_context(*(part for name in SET for part in (name, pd.get_option(name)))),
    ):
        yield


#: Two seeds and two targets: the fewest of which means and intervals are taken.
SMALL: dict[str, Any] = {"seeds": [0, 1], "n_images": 240}
SPLIT = SMALL | {"targets": ["photo", "sketch"]}
RECORDED = ROOT / "reports" / "recorded"
CONFIG = yaml.safe_load((ROOT / "workflow" / "config.yaml").read_text())
METHODS = {name: run | {"notebook": "06_methods"} for name, run in CONFIG["methods"].items()}
RUNS = CONFIG["recorded"] | METHODS | CONFIG["questions"]  # of which some are recorded

#: Each page of the report but the first: its notebook, and parameters with which that
#: runs in seconds. Files are added when it is executed.
PAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "01_theory": (
        "01_theory",
        {"n_seeds": 2, "n_pairs": 300, "n_models": 10, "n_worlds": 2, "n_images": 300},
    ),
    "02_domain_generalization_animal-world": (
        "02_domain_generalization",
        {"worlds": [["coat+scene", 0.9], ["coat", 0.9]], **SPLIT},
    ),
    "02_domain_generalization_animal-world-strengths": (
        "02_domain_generalization",
        {
            "methods": CONFIG["domain_generalization"]["animal-world-strengths"]["methods"],
            "worlds": [["coat+scene", 0.9], ["coat+scene", 0.0], ["coat+scene", 1.0]],
            **SPLIT,
            "n_images": 480,
        },
    ),
    "02_domain_generalization_animal-world-biased": (
        "02_domain_generalization",
        {"encoder": "animal-world-biased", "worlds": [["coat+scene", 0.9]], **SPLIT},
    ),
    "02_domain_generalization_animal-world-open": (
        "02_domain_generalization",
        {
            "protocol": "domain shift with open classes",
            "worlds": [["coat+scene", 0.9]],
            **SPLIT,
        },
    ),
    **{
        path.stem: (
            RUNS[path.stem]["notebook"],
            {k: v for k, v in RUNS[path.stem].items() if k not in ("notebook", "seeds")}
            | {"tables": [str(path)]},
        )
        for path in sorted(RECORDED.glob("*.parquet"))
    },
    "03_ablations": (
        "03_ablations",
        {
            "n_components": [8, 64],
            "consistency_weights": [1.0],
            "n_pairs": [30],
            "fine_components": [4, 16, 64],
            "fine_weights": [0.0, 1.0, 10.0],
            "penalties": [0.01, 0.316],
            "single_seeds": 1,
            **SMALL,
        },
    ),
    "04_imagenet_variants": ("04_imagenet_variants", SMALL),
    "05_your_data": ("05_your_data", {"seeds": [0]}),
    "07_explore": ("07_explore", {"worlds": [["coat+scene", 0.9]], "n_images": 240}),
}

#: The pages that show what the others found: notebook -> page.
FRONT = {
    "00_summary": "index.ipynb",
    "00_claims": "results/claims.ipynb",
    "00_numbers": "results/all_numbers.ipynb",
}


@pytest.fixture(scope="session")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Execute every page with tiny parameters, in a copy of the pages and the workflow."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "_quarto.yml", folder)
    for name in ("reports", "workflow"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    results = folder / "results"
    results.mkdir()
    for page, (notebook, parameters) in PAGES.items():
        files = {
            "results": f"{results}/{page}.parquet",
            "claims": f"{results}/{page}_claims.parquet",
        }
        files |= {
            "cache": f"{folder}/cache",
            "example": f"{folder}/example",
            "projection": f"{results}/{page}.safetensors",
        }
        known = parameters_of(notebook)
        files = {name: path for name, path in files.items() if name in known}
        execute(notebook, results / f"{page}.ipynb", parameters | files)
    claims = sorted(str(path) for path in results.glob("*_claims.parquet"))
    table = f"{results}/02_domain_generalization_animal-world.parquet"
    others = sorted(
        str(path) for path in results.glob("02_domain_generalization_animal-world-*.parquet")
    )
    others = [path for path in others if not path.endswith("_claims.parquet")]
    kept: dict[str, list[str]] = {}
    for path in sorted(RECORDED.glob("*.parquet")):
        kept.setdefault(RUNS[path.stem]["notebook"], []).append(str(path))
    recorded = [
        *kept.get("02_domain_generalization", []), *kept.get("04_imagenet_variants", []),
    ]  # fmt: skip
    comparisons = kept.get("06_methods", [])
    given = {
        "table": table,
        "others": others,
        "claims": claims,
        "recorded": recorded,
        "comparisons": comparisons,
    }
    for notebook, page in FRONT.items():
        known = parameters_of(notebook)
        execute(notebook, folder / page, {name: given[name] for name in given if name in known})
    return folder


@pytest.fixture(scope="module")
def encoder() -> Any:
    """Load the small CLIP."""
    from icm_study.encoders.loading import load_encoder

    return load_encoder("animal-world", "cpu")


@pytest.fixture(scope="module")
def task(encoder: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Give a tiny task of the animal world, for methods that change the encoder."""
    from icm_study.embedding.store import EmbeddingStore
    from icm_study.embedding.tables import Embedder
    from icm_study.experiments.task import make_task
    from icm_study.testbeds.animal_world import AnimalWorld

    bed = AnimalWorld("coat+scene", 0.9, n=240)
    embedder = Embedder(encoder, EmbeddingStore(tmp_path_factory.mktemp("store")))
    data = bed.embed(embedder, seed=0)
    return make_task(bed, embedder, data, bed.domains[0], seed=0, with_draws=True)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a method into the registry that is right where `answer(method, images)` says so.

    `answer` knows the setting (`method.value`) and the sources (`method.fitted_on`).
    """
    import numpy as np

    from icm_study.methods.base import Method
    from icm_study.methods.registry import METHODS, Entry

    class Fake(Method):
        predictors = ("linear probe",)
        sees_interventions: Any = frozenset()

        def __init__(self, value: int = 0):
            self.value = value

        def fit(self, sources: Any) -> Any:
            self.fitted_on, self.n_parameters_ = sources, {"linear probe": 1}
            return self

        def scores(self, images: Any) -> dict[str, Any]:
            right = np.broadcast_to(self.answer(images), len(images))
            scores = np.eye(len(self.fitted_on.words))[images.label]
            return {"linear probe": np.where(right[:, None], scores, np.roll(scores, 1, axis=1))}

    def put(answer: Any, *, sees: Any = (), values: Any = (0, 1), on_target: bool = False) -> None:
        kind = type("Fake", (Fake,), {"answer": answer, "sees_interventions": frozenset(sees)})
        entry = Entry(kind, "probe", {"value": list(values)}, on_target=on_target)
        monkeypatch.setitem(METHODS, "fake", entry)

    return put


def copy_workflow(folder: Path) -> None:
    """Copy the workflow, and what it imports of the library, into a folder."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "workflow", folder / "workflow", ignore=ignored)
    shutil.copy(ROOT / "_quarto.yml", folder)
    experiments = [f"experiments/{name}" for name in ("__init__", "names", "settings")]
    for name in ("__init__", "plain_yaml", *experiments):
        (folder / "icm_study" / "experiments").mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "icm_study" / f"{name}.py", folder / "icm_study" / f"{name}.py")


def parameters_of(name: str) -> set[str]:
    """Name the parameters of a notebook."""
    import papermill

    return set(papermill.inspect_notebook(ROOT / "notebooks" / f"{name}.ipynb"))


def execute(name: str, page: Path, parameters: dict[str, Any]) -> None:
    """Run a notebook in its own folder, as the workflow does."""
    import execute as workflow_execute

    workflow_execute.execute(ROOT / "notebooks" / f"{name}.ipynb", page, parameters)


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a command of this Python and keep what it says."""
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, capture_output=True, text=True, timeout=600
    )


def drive(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the driver of the study in a folder and keep what it says."""
    script = cwd / "workflow" / "scripts" / "study.py"
    return run_warm(script, *arguments, cwd=cwd)


def run_warm(*command: str | Path, cwd: Path = Path(".")) -> subprocess.CompletedProcess[str]:
    """Run a command of this Python, in a forked process where one can be had; keep what it says."""
    asked = [str(part) for part in command]
    with TemporaryFile("w+") as output, TemporaryFile("w+") as errors:
        process = warm.start(asked, cwd, output=[output.fileno(), errors.fileno()]) or (
            subprocess.Popen([sys.executable, *asked], cwd=cwd, stdout=output, stderr=errors)
        )
        try:
            status = process.wait(600)
        finally:
            process.kill()
        for file in (output, errors):
            file.seek(0)
        return subprocess.CompletedProcess(asked, status, output.read(), errors.read())
