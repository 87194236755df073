"""Every notebook is in the form that papermill and readers expect. (That it runs is tested with the report.)"""

from __future__ import annotations

import nbformat
import pytest
from conftest import PAGES, ROOT

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
