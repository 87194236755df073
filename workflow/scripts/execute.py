"""Execute a notebook with settings, through papermill, and keep the page when it ran to its end.

    python workflow/scripts/execute.py notebooks/01_theory.ipynb page.ipynb -y
    "{n_seeds: 3}"

The notebook runs in its own folder, as it does in JupyterLab. A name that its cell of
parameters does not have is an error.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icm_study.experiments.names import check_names
from icm_study.plain_yaml import read_parameters

# nbformat validates with jsonschema, which takes rfc3987_syntax along where it is installed, to
# check formats that nbformat asks nobody to check; that package compiles grammars for two seconds.
sys.modules.setdefault("rfc3987_syntax", None)
# papermill takes pyarrow along, to read notebooks from a Hadoop cluster.
sys.modules.setdefault("pyarrow", None)
import nbformat  # noqa: E402
import papermill  # noqa: E402
import warm  # noqa: E402
from jupyter_client.provisioning import local_provisioner  # noqa: E402

local_provisioner.launch_kernel = warm.launch_kernel  # kernels are forked, where that can be


def add_to_heading(page: nbformat.NotebookNode, addition: str) -> None:
    """Put `addition` in brackets behind the first heading of a page, in place."""
    for cell in page.cells:
        lines = cell.source.split("\n")
        for i, line in enumerate(lines):
            if cell.cell_type == "markdown" and line.startswith("# "):
                lines[i] = f"{line} ({addition})"
                cell.source = "\n".join(lines)
                return
    raise ValueError(f"no cell of text has a heading '# …' to which {addition!r} can be added.")


def execute(
    notebook: Path,
    page: Path,
    parameters: Mapping[str, Any],
    title: str | None = None,
    log_output: bool = False,
) -> None:
    """Execute `notebook` with `parameters` and write it to `page`.

    Parameters
    ----------
    notebook, page : Path
        The page is written aside and renamed, and only if no cell failed.
    parameters : mapping
        Plain values for names in the notebook's cell of parameters.
    title : str, optional
        Stands in brackets behind the heading of the page: one notebook makes many
        pages.
    log_output : bool
        Whether what the cells print goes to the log while they run.

    Raises
    ------
    ValueError
        If a parameter is unknown, or there is no heading for the title.
    papermill.PapermillExecutionError
        If a cell fails.
    """
    check_names(parameters, papermill.inspect_notebook(str(notebook)), str(notebook))
    source = nbformat.read(notebook, as_version=4)
    if title:
        add_to_heading(source, title)
    page.parent.mkdir(parents=True, exist_ok=True)
    executed = papermill.execute_notebook(
        source, None, dict(parameters),
        cwd=str(notebook.parent), kernel_name="python3", progress_bar=False, log_output=log_output,
    )  # fmt: skip
    executed.metadata.pop("widgets", None)  # controls are nothing without a kernel
    aside = page.with_name(f".{page.name}")
    nbformat.write(executed, aside)
    os.replace(aside, page)


def main() -> int:
    """Execute what the command line names; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("page", type=Path, help="where the executed notebook is kept")
    parser.add_argument("-y", "--yaml", action="append", default=[], help="parameters, as YAML")
    parser.add_argument(
        "-f", "--file", action="append", default=[], type=Path, help="a file of them"
    )
    parser.add_argument("--title", help="stands in brackets behind the heading of the page")
    parser.add_argument("--log-output", action="store_true", help="log what the cells print")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        parameters = read_parameters(given.yaml, given.file)
        execute(given.notebook, given.page, parameters, given.title, given.log_output)
    except (ValueError, OSError, papermill.PapermillExecutionError) as error:
        print(f"execute: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
