"""A notebook is executed with exactly the settings that were given, or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT, run, run_warm
from execute import add_to_heading, execute
from test_config import EXTREME

from icm_study.plain_yaml import read_parameters, write_yaml

SCRIPT = "workflow/scripts/execute.py"
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


def write_notebook(path: Path, code: str, text: str = "# A page\n\nIts text.") -> Path:
    """Write a notebook with the parameters `values` and `out`, and one cell of code."""
    cells = [
        nbformat.v4.new_markdown_cell(text),
        nbformat.v4.new_code_cell("values = []\nout = None", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(code),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=KERNEL), path)
    return path


@pytest.mark.slow
def test_values_of_any_size_reach_a_notebook_as_they_are(tmp_path: Path) -> None:
    code = "print(values)\nopen(out, 'w').write(repr(values))"
    notebook = write_notebook(tmp_path / "in" / "a.ipynb", code)
    given = [
        "-y",
        write_yaml({"values": EXTREME}),
        "-y",
        "out: values.txt",
        "--title",
        "Ä, encoder b",
    ]
    page = tmp_path / "new" / "page.ipynb"
    done = run_warm(SCRIPT, notebook, page, *given, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert (notebook.parent / "values.txt").read_text() == repr(EXTREME)
    cells = nbformat.read(page, as_version=4).cells
    assert cells[0].source == "# A page (Ä, encoder b)\n\nIts text."
    assert [path.name for path in page.parent.iterdir()] == ["page.ipynb"]


@pytest.mark.slow
def test_a_page_keeps_no_state_of_controls(tmp_path: Path) -> None:
    code = "from ipywidgets import IntSlider\nIntSlider(7)"
    execute(write_notebook(tmp_path / "a.ipynb", code), tmp_path / "page.ipynb", {})
    page = nbformat.read(tmp_path / "page.ipynb", as_version=4)
    assert "IntSlider" in page.cells[-1].outputs[0]["data"]["text/plain"]  # it was shown
    assert "widgets" not in page.metadata


@pytest.mark.slow
def test_a_failing_cell_is_told_and_leaves_no_page(tmp_path: Path) -> None:
    code = "print('so far')\nraise RuntimeError('the theory is broken')"
    notebook = write_notebook(tmp_path / "a.ipynb", code)
    failed = run_warm(SCRIPT, notebook, tmp_path / "page.ipynb", "--log-output", cwd=ROOT)
    assert failed.returncode == 1
    assert "RuntimeError: the theory is broken" in failed.stderr
    assert "so far" in failed.stderr + failed.stdout
    assert not (tmp_path / "page.ipynb").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["-y", "{valeus: [1]}"], "a.ipynb: 'valeus' is unknown; did you mean 'values'?"),
        (["-y", "values"], "--yaml: got 'values'; expected names and values"),
        (["-y", "{values: [1"], "--yaml, line 1, column 12: "),
        (["-f", "nowhere.yaml"], "No such file or directory: 'nowhere.yaml'"),
    ],
)
def test_what_cannot_be_given_is_refused(tmp_path: Path, given: list[str], said: str) -> None:
    notebook = write_notebook(tmp_path / "a.ipynb", "raise AssertionError('was executed')")
    refused = run_warm(SCRIPT, notebook, tmp_path / "page.ipynb", *given, cwd=ROOT)
    assert refused.returncode == 1
    assert said in refused.stderr
    assert "was executed" not in refused.stderr


def test_a_title_needs_a_heading(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "a.ipynb", "# no heading", text="## A section\n#tag")
    with pytest.raises(ValueError, match="no cell of text has a heading"):
        execute(notebook, tmp_path / "page.ipynb", {}, title="x")


def test_what_comes_later_counts(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("{a: 1, b: 1, c: 1}")
    assert read_parameters(["{b: 2, c: 2}", "c: 3"], [tmp_path / "a.yaml"]) == {
        "a": 1,
        "b": 2,
        "c": 3,
    }
    assert read_parameters([""], []) == {}


@pytest.mark.parametrize("name", ["02_domain_generalization", "04_imagenet_variants", "06_methods"])
def test_the_heading_of_a_notebook_of_many_pages_takes_a_title(name: str) -> None:
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    before = json.loads(json.dumps(notebook))
    add_to_heading(notebook, "one: run")
    changed = [
        (old["source"], new.source)
        for old, new in zip(before["cells"], notebook.cells, strict=True)
        if old["source"] != new.source
    ]
    assert len(changed) == 1
    old, new = changed[0]
    assert new == old.replace("\n", " (one: run)\n", 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "slow"), [("execute", ["lark"]), ("run_study", ["papermill", "nbformat", "torch"])]
)
def test_a_script_starts_without_what_it_does_not_use(script: str, slow: list[str]) -> None:
    code = f"import sys; sys.path.insert(0, 'workflow/scripts'); import {script}"
    done = run("-c", f"{code}; print({{*{slow}}} & {{*sys.modules}})")
    assert done.stdout == "set()\n", done.stderr
