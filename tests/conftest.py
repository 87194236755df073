"""What several tests share: the notebooks, executed once with tiny parameters, and the report made of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "workflow"))  # the workflow's scripts are tested as modules


@pytest.fixture(scope="session", autouse=True)
def _kernels_find_the_library() -> Any:
    """Let notebook kernels and scripts import this checkout, wherever they run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
        patch.setenv("PYTHONWARNINGS", "ignore:IProgress not found")
        patch.setenv("TQDM_DISABLE", "1")
        yield


#: Parameters with which each notebook runs in seconds. Files are added when it is executed.
NOTEBOOKS: dict[str, dict[str, Any]] = {
    "00_summary": {},
    "01_theory": {"n_seeds": 2, "n_pairs": 300, "n_models": 10, "n_worlds": 2, "n_images": 300},
    "02_domain_generalization": {
        "worlds": {"animal-world": [["coat+scene", 0.9]]},
        "seeds": [0, 1],
        "n_images": 600,
        "cache": "cache",
    },
    "03_ablations": {
        "seeds": [0, 1],
        "n_images": 600,
        "n_components": [8, 64],
        "consistency_weights": [1.0],
        "n_pairs": [30],
        "cache": "cache",
    },
}


@pytest.fixture(scope="session")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Execute every notebook with tiny parameters, in a copy of the pages and the workflow."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "_quarto.yml", folder)
    for name in ("reports", "workflow"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    results = folder / "results"
    results.mkdir()
    *experiments, summary = sorted(NOTEBOOKS, reverse=True)
    for name in experiments:
        files = {"results": f"{results}/{name}.parquet", "claims": f"{results}/{name}_claims.parquet"}
        if "cache" in NOTEBOOKS[name]:
            files["cache"] = f"{folder}/{NOTEBOOKS[name]['cache']}"
        execute(name, results / f"{name}.ipynb", files)
    claims = [f"{results}/{name}_claims.parquet" for name in sorted(experiments)]
    table = f"{results}/02_domain_generalization.parquet"
    execute(summary, folder / "index.ipynb", {"table": table, "claims": claims})
    return folder


def execute(name: str, page: Path, files: dict[str, Any]) -> None:
    """Run a notebook through papermill, in its own folder, as the workflow does."""
    import papermill

    papermill.execute_notebook(
        ROOT / "notebooks" / f"{name}.ipynb", page, {**NOTEBOOKS[name], **files},
        cwd=ROOT / "notebooks", kernel_name="python3", progress_bar=False,
    )  # fmt: skip


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a command of this Python and keep what it says."""
    return subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, text=True, timeout=600)
