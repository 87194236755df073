"""The record of a run: what it takes to repeat it, without anything that differs when it is repeated.

It travels with the table of results, in its attributes; the tables of several runs are
put together with theirs.
"""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from icm_study.encoders.encoder import Encoder

PACKAGES = ("clip-icm", "numpy", "scipy", "scikit-learn", "torch", "torchvision", "open_clip_torch")


def run_record(
    notebook: str,
    parameters: dict[str, Any],
    encoders: Sequence[Encoder] = (),
    data: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Describe a run: commit, command, parameters and seeds, versions, fingerprints of data and weights.

    Parameters
    ----------
    notebook : str
        The notebook's name, without its ending.
    parameters : dict
        What the run was given, seeds included; JSON values.
    encoders : sequence of Encoder
        Those that were used.
    data : mapping of str to str, optional
        For each data set its fingerprint.

    Returns
    -------
    dict of JSON values
        Keys commit, command, parameters, versions, weights and data. Put it into
        ``DataFrame.attrs``: pandas keeps it in the Parquet file. The command repeats
        the run, in the folder ``notebooks``.

    Raises
    ------
    TypeError
        If a parameter is no JSON value.
    """
    return {
        "commit": commit(),
        "command": repeat_command(f"papermill {notebook}.ipynb", parameters),
        "parameters": json.loads(json.dumps(parameters)),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in PACKAGES},
        "weights": {encoder.name: encoder.fingerprint for encoder in encoders},
        "data": dict(data or {}),
    }


def repeat_command(command: str, parameters: dict[str, Any]) -> str:
    """Write the command that runs a notebook with parameters; of a command that has some, they are replaced."""
    return " ".join(command.split()[:2]) + f" out.ipynb -y {shlex.quote(json.dumps(parameters))}"


def commit() -> str:
    """Name the commit of this checkout, with "+changes" if files differ from it; "unknown" where git cannot tell."""
    folder = Path(__file__).resolve().parent
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--match=", "--dirty=+changes"],
            cwd=folder, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return said.stdout.strip()


def gather(paths: Sequence[str | Path]) -> pd.DataFrame:
    """Read the tables of several runs of one experiment that differ in seeds and targets, and join their records.

    Parameters
    ----------
    paths : sequence of path-like
        Parquet files, each with a record in its attributes (see
        :mod:`icm_study.experiments.record`).

    Returns
    -------
    DataFrame
        All rows. Its attributes are the record of the first run, with every seed and
        target, and the diagnosis of all.

    Raises
    ------
    ValueError
        If the runs differ in more than seeds and targets: then their rows cannot be pooled.
    """
    tables = [pd.read_parquet(path) for path in paths]
    records = [table.attrs for table in tables]
    joined = dict(records[0])
    alike = [
        {**{k: v for k, v in record.items() if k not in ("command", "diagnosis", "commit")},
         "parameters": record["parameters"] | {"seeds": [], "targets": None}}
        for record in records
    ]  # fmt: skip
    if any(record != alike[0] for record in alike):
        raise ValueError(
            f"The runs {[str(path) for path in paths]} differ in more than seeds and targets "
            f"(settings, versions, weights or "
            "data); run the older ones again."
        )
    given = [record["parameters"] for record in records]
    seeds = sorted({seed for parameters in given for seed in parameters["seeds"]})
    targets = {target: None for parameters in given for target in parameters.get("targets") or ()}
    joined["parameters"] = (
        given[0] | {"seeds": seeds} | ({"targets": list(targets)} if targets else {})
    )
    joined["command"] = repeat_command(joined["command"], joined["parameters"])
    joined["diagnosis"] = {
        name: [value for record in records for value in record["diagnosis"][name]]
        for name in records[0].get("diagnosis", {})
    }
    table = pd.concat(tables, ignore_index=True)
    table.attrs = joined
    return table
