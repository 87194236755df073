"""Every notebook is in the form that papermill and readers expect. (That the pages run is tested with the report.)"""

from __future__ import annotations

from pathlib import Path

import nbformat
import pandas as pd
import pytest
from conftest import PAGES, ROOT, execute

from icm_core.animal_world import load_silhouettes, write_folder

PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> nbformat.NotebookNode:
    """Give each notebook in turn."""
    return nbformat.read(request.param, as_version=4)


def test_every_notebook_has_tiny_parameters() -> None:
    assert {path.stem for path in PATHS} == {"00_summary", *(notebook for notebook, _ in PAGES.values())}


def test_is_valid(notebook: nbformat.NotebookNode) -> None:
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"


def test_opens_with_a_title_and_prose(notebook: nbformat.NotebookNode) -> None:
    first = next(cell for cell in notebook.cells if cell.cell_type != "raw")  # raw: settings of the page
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert sum(cell.source.startswith("# ") for cell in notebook.cells if cell.cell_type == "markdown") == 1


def test_has_one_cell_of_commented_parameters(notebook: nbformat.NotebookNode) -> None:
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    for line in tagged[0].source.splitlines():
        if line and not line.startswith((" ", "]", "}", ")", "#")):
            assert "#" in line, f"{line!r} does not say what it is for"


def test_is_stored_without_outputs(notebook: nbformat.NotebookNode) -> None:
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def test_calls_the_library_in_short_cells(notebook: nbformat.NotebookNode) -> None:
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    long = {source.splitlines()[0]: len(source.splitlines()) for source in code if source.count("\n") >= 30}
    assert long == {}, "cells of more than 30 lines; move code into the library, or split"


@pytest.mark.slow
def test_the_comparison_runs_anew_on_the_animal_world(tmp_path: Path) -> None:
    names = ["plain", "tuned penalty", "ICM text", "ICM auto text", "CoOp", "LoRA + ICM"]
    given = {"methods": names, "targets": ["photo", "sketch"], "n_images": 400, "seeds": [0, 1]}
    files = {key: str(tmp_path / f"{key}.parquet") for key in ("results", "claims")}
    execute("06_methods", tmp_path / "page.ipynb", given | files | {"cache": str(tmp_path / "cache")})
    table = pd.read_parquet(files["results"])
    assert list(table["method"].unique()) == names
    assert set(zip(table["target"], table["seed"], strict=True)) == {
        (t, s) for t in ("photo", "sketch") for s in (0, 1)
    }
    assert table.attrs["parameters"]["methods"] == names
    assert set(pd.read_parquet(files["claims"])) == {"claim", "statement", "measured", "threshold", "verdict"}


@pytest.mark.slow
def test_the_comparison_runs_on_a_folder_as_documented(tmp_path: Path) -> None:
    documented = ["plain", "LDA", "ICM auto image"]
    assert (
        f'"methods": {str(documented).replace(chr(39), chr(34))}'
        in (ROOT / "reports" / "reproduce.qmd").read_text()
    )
    root = write_folder(tmp_path / "animals", load_silhouettes(), per_class=5)
    given = {"dataset": str(root), "methods": documented, "cache": str(tmp_path / "cache")}
    execute("06_methods", tmp_path / "page.ipynb", given | {"results": str(tmp_path / "results.parquet")})
    table = pd.read_parquet(tmp_path / "results.parquet")
    assert list(table["method"].unique()) == documented
    assert table["target"].nunique() == 4
