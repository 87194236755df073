"""The record of a run: what it takes to repeat it, and nothing that differs when it is repeated.

It travels with the table of results, in its attributes; the tables of several runs are
put together with theirs.
"""

from __future__ import annotations

import ast
import json
import math
import os
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml
from IPython import get_ipython

from icm_study.experiments.names import check_names
from icm_study.experiments.settings import ANIMALS, NOTEBOOKS, check_no_animals, check_settings
from icm_study.parquet import read_parquet, write_parquet

if TYPE_CHECKING:
    from icm_study.encoders.encoder import Encoder

PACKAGES = ("clip-icm", "numpy", "scipy", "scikit-learn", "torch", "torchvision", "open_clip_torch")


#: Parameters that name where things are kept: no part of what a run is.
FILES = ("cache", "tables", "results", "claims", "projection", "example", "parts")


def parameters(notebook: str, folder: str | Path = ".") -> dict[str, Any]:
    """Give the parameters that the running notebook was given, by its own cell of parameters.

    That cell is the one list of a notebook's parameters. The first cell after it calls this.

    Parameters
    ----------
    notebook : str
        The notebook's name, without its ending.
    folder : path-like
        Where the notebook is; it runs there.

    Returns
    -------
    dict
        Every parameter with its value. A ``~`` in a path is expanded.

    Raises
    ------
    ValueError
        If papermill was given a parameter that the notebook does not have (the message
        tells the nearest), or a file could not be written where results are to go.
    FileNotFoundError
        If the notebook is not in the folder.
    """
    namespace = get_ipython().user_ns
    known = default_parameters(Path(folder) / f"{notebook}.ipynb")
    for cell in namespace["In"]:
        if cell.startswith("# Parameters\n"):  # papermill's own cell
            check_names(assigned(cell), known, notebook)
    given = checked(notebook, {name: namespace[name] for name in known})
    if given.get("dataset", ANIMALS) != ANIMALS:
        changed = [name for name, usual in known.items() if namespace[name] != usual]
        check_no_animals(changed, notebook)
    namespace.update(given)
    return given


def checked(notebook: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Check the parameters of a notebook, and return them typed, a ``~`` in paths expanded.

    Raises
    ------
    ValueError
        If a parameter has another type or range than it should, or a file could not be
        written where results are to go.
    """
    settings = {name: value for name, value in given.items() if name not in FILES}
    if notebook in NOTEBOOKS:
        settings = check_settings(NOTEBOOKS[notebook], settings, notebook)
    files = {name: _expanded(value) for name, value in given.items() if name in FILES}
    for name in ("results", "claims", "projection"):
        if isinstance(files.get(name), str):
            check_writable(name, Path(files[name]))
    return {name: {**settings, **files}[name] for name in given}


def default_parameters(notebook: Path) -> dict[str, Any]:
    """Read the parameters of a notebook with their defaults, from its cell that is tagged so.

    Raises
    ------
    FileNotFoundError
        If there is no such notebook.
    ValueError
        If no cell is tagged 'parameters'.
    """
    if not notebook.is_file():
        raise FileNotFoundError(
            f"{notebook} was not found, whose cell of parameters says what this run may be given. "
            "Run the notebook in its own folder (papermill: --cwd notebooks)."
        )
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            return assigned("".join(cell["source"]))
    raise ValueError(
        f"{notebook} has no cell that is tagged 'parameters'; tag the one that has them."
    )


def assigned(code: str) -> dict[str, Any]:
    """Give the names that code assigns plain values to, in order, with their values."""
    return {
        target.id: ast.literal_eval(node.value)
        for node in ast.parse(code).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _expanded(value: Any) -> Any:
    if isinstance(value, str):
        return os.path.expanduser(value)
    if isinstance(value, dict):
        return {name: _expanded(path) for name, path in value.items()}
    return [_expanded(path) for path in value] if isinstance(value, list) else value


def check_writable(name: str, path: Path) -> None:
    """Find out now, and not after all the work, whether a file can be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab"):
            pass
        if not path.stat().st_size:
            path.unlink()
    except OSError as error:
        raise ValueError(
            f"{name}={str(path)!r} cannot be written: {error.strerror or error}. Give the path of "
            "a file in a folder that can be written."
        ) from error


def write_table(table: pd.DataFrame, path: str | Path | None) -> None:
    """Write a table as Parquet, whole or not at all; without a path, nothing."""
    if path is None:
        return
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_parquet(table, path)


def join_tables(
    tables: Mapping[str, pd.DataFrame], key: str, record: Mapping[str, Any]
) -> pd.DataFrame:
    """Put the tables of one run under each other, with its record.

    Parameters
    ----------
    tables : mapping of str to DataFrame
    key : str
        The column that tells which table a row is of.
    record : mapping
        As :func:`run_record` gives it; the attributes of the whole.

    Returns
    -------
    DataFrame
    """
    parts = [table.assign(**{key: name}) for name, table in tables.items()]
    whole = pd.concat(parts, ignore_index=True)
    whole.attrs.update(record)
    return whole


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a table of results with its record.

    Raises
    ------
    ValueError
        If the file is damaged or no table; the message says which to delete.
    FileNotFoundError
        If there is no such file.
    """
    try:
        return read_parquet(Path(path))
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(
            f"{path} is no whole table of results ({type(error).__name__}: {error}). Delete it, "
            "and run again what makes it."
        ) from error


def run_record(
    notebook: str,
    given: Mapping[str, Any],
    encoders: Sequence[Encoder] = (),
    data: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Describe a run: commit, command, parameters, versions, fingerprints of data and weights.

    Parameters
    ----------
    notebook : str
        The notebook's name, without its ending.
    given : mapping
        The notebook's parameters, JSON values; those in :data:`FILES` are left out.
    encoders : sequence of Encoder
        Those that were used.
    data : mapping of str to str, optional
        For each data set its fingerprint.

    Returns
    -------
    dict of JSON values
        Keys commit, command, parameters, versions, weights and data. Put it into
        ``DataFrame.attrs``: pandas keeps it in the Parquet file. The command repeats the
        run, in the folder ``notebooks``.

    Raises
    ------
    TypeError
        If a parameter is no JSON value.
    """
    told = {name: value for name, value in given.items() if name not in FILES}
    told = json.loads(json.dumps(told))
    return {
        "commit": commit(),
        "command": repeat_command(notebook, told),
        "parameters": told,
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in PACKAGES},
        "weights": {encoder.name: encoder.fingerprint for encoder in encoders},
        "data": dict(data or {}),
    }


def repeat_command(notebook: str, given: Mapping[str, Any]) -> str:
    """Write the command that runs a notebook with parameters, in its own folder."""
    # papermill reads YAML, in which JSON's 1e-05 is a text, and some escapes say something else
    said = yaml.safe_dump(dict(given), default_flow_style=True, sort_keys=False, width=math.inf)
    return f"papermill {notebook}.ipynb out.ipynb -y {shlex.quote(said.strip())}"


def commit() -> str:
    """Name the commit of this checkout, with "+changes" if files differ; "unknown" without git."""
    folder = Path(__file__).resolve().parent
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--match=", "--dirty=+changes"],
            cwd=folder, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return said.stdout.strip()


def read_run(path: str | Path, notebook: str) -> pd.DataFrame:
    """Read the table of a run of a notebook, with its record.

    Raises
    ------
    ValueError
        If the table has no record, or that of another notebook's run, or as
        :func:`read_table`.
    FileNotFoundError
        If there is no such file.
    """
    table = read_table(path)
    command = str(table.attrs.get("command", "")).split()
    if len(command) < 2 or "parameters" not in table.attrs:
        raise ValueError(
            f"{path} is a table without the record of a run; expected what {notebook} wrote as its "
            "'results'."
        )
    if (found := Path(command[1]).stem) != notebook:
        raise ValueError(
            f"{path} is a table of {found}; expected one of {notebook}. Give another table, or "
            f"show this one by {found}."
        )
    return table


def read_only_run(paths: Sequence[str | Path], notebook: str) -> pd.DataFrame:
    """Read the table of a run as :func:`read_run`, where there can be one only.

    Raises
    ------
    ValueError
        If there are several.
    """
    if len(paths) > 1:
        raise ValueError(
            f"{notebook} shows the table of one run; got {len(paths)}: "
            f"{', '.join(map(str, paths))}. Give one."
        )
    return read_run(paths[0], notebook)


def gather(paths: Sequence[str | Path], notebook: str) -> pd.DataFrame:
    """Read tables of runs that differ in seeds and targets only, and join their records.

    Parameters
    ----------
    paths : sequence of path-like
        Parquet files, each with a record in its attributes (see
        :mod:`icm_study.experiments.record`).
    notebook : str
        The name of the notebook that all are of.

    Returns
    -------
    DataFrame
        All rows. Its attributes are the record of the first run, with every seed and
        target, and the diagnosis of all.

    Raises
    ------
    ValueError
        If the runs differ in more than seeds and targets: then their rows cannot be pooled.
        And as :func:`read_run`.
    """
    tables = [read_run(path, notebook) for path in paths]
    records = [table.attrs for table in tables]
    joined = dict(records[0])
    own = ("command", "diagnosis", "spectrum", "commit")
    alike = [
        {**{k: v for k, v in record.items() if k not in own},
         "parameters": record["parameters"] | {"seeds": [], "targets": None}}
        for record in records
    ]  # fmt: skip
    if any(record != alike[0] for record in alike):
        raise ValueError(
            f"The runs {[str(path) for path in paths]} differ in more than seeds and targets "
            "(settings, versions, weights or data); run the older ones again."
        )
    given = [record["parameters"] for record in records]
    seeds = sorted({seed for parameters in given for seed in parameters["seeds"]})
    targets = {target: None for parameters in given for target in parameters.get("targets") or ()}
    joined["parameters"] = (
        given[0] | {"seeds": seeds} | ({"targets": list(targets)} if targets else {})
    )
    joined["command"] = repeat_command(notebook, joined["parameters"])
    diagnoses = [pd.DataFrame(record.get("diagnosis", {})) for record in records]
    # runs on the same images, with other targets, have the same
    joined["diagnosis"] = pd.concat(diagnoses).drop_duplicates().to_dict("list")
    table = pd.concat(tables, ignore_index=True)
    table.attrs = joined
    return table
