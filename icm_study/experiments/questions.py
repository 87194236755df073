"""Run the experiments of a notebook on the paper's open questions, or read their tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from icm_study.experiments.real_clip_runs import experiments_of
from icm_study.experiments.record import join_tables, read_table, run_record, write_table

#: From the parameters of a notebook to the runs of an experiment.
Experiment = Callable[[Mapping[str, Any]], pd.DataFrame]


def answered_table(
    notebook: str, given: Mapping[str, Any], experiments: Mapping[str, Experiment]
) -> pd.DataFrame:
    """Read the table that is given, or run every experiment; write the table.

    Parameters
    ----------
    notebook : str
        The notebook's name, without its ending.
    given : mapping of str to value
        Its parameters: *encoder*, those of the experiments, *tables*, the path of an earlier
        run, and *results*, where to write.
    experiments : mapping of str to callable
        From the parameters to a table.

    Returns
    -------
    DataFrame
        The runs under each other, with the column experiment, and the record.
    """
    if given["tables"]:
        return read_table(given["tables"][0])
    from icm_study.encoders.loading import load_encoder

    record = run_record(notebook, given, [load_encoder(given["encoder"], "cpu")])
    shown = tqdm(experiments.items(), desc="experiments", unit="experiment")
    runs = {name: experiment(given) for name, experiment in shown}
    table = join_tables(runs, "experiment", record)
    write_table(table, given["results"])
    return table


def runs_of(table: pd.DataFrame, experiments: Mapping[str, Experiment]) -> dict[str, pd.DataFrame]:
    """Take the table apart; an experiment that it does not have is an error.

    Raises
    ------
    ValueError
        If the table is of an earlier state of the notebook.
    """
    runs = experiments_of(table)
    if missing := [name for name in experiments if name not in runs]:
        raise ValueError(
            f"The table has no runs of {', '.join(missing)}: it was recorded by an earlier state "
            "of the notebook. Record it again with `make questions`."
        )
    return runs
