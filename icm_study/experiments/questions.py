"""What experiments on the paper's open questions share: how they run, and the animals they ask."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm.auto import tqdm

from icm_core.moments import PairMoments
from icm_core.prediction import LinearProbe
from icm_core.projection import InvariantProjection
from icm_study.embedding.tables import EmbeddedData, Embedder
from icm_study.experiments.real_clip_runs import experiments_of
from icm_study.experiments.record import (
    FILES,
    commit,
    join_tables,
    read_only_run,
    read_table,
    run_record,
    write_table,
)
from icm_study.fingerprint import fingerprint
from icm_study.testbeds.base import PROTOCOLS

if TYPE_CHECKING:
    from icm_study.encoders.encoder import Encoder
    from icm_study.testbeds.animal_world import AnimalWorld

#: From the parameters of a notebook to the runs of an experiment.
Experiment = Callable[[Mapping[str, Any]], pd.DataFrame]
#: From embedded data and the rows that may be seen to a fitted projection.
Fit = Callable[[EmbeddedData, NDArray[np.bool_]], InvariantProjection]
PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)  # inverse penalties of the probe


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
        run, *results*, where to write, and maybe *parts*, a folder where the table of each
        experiment is kept, for a run that is interrupted.
    experiments : mapping of str to callable
        From the parameters to a table; its attributes may name *data* and *weights* that it
        has used, each with its fingerprint.

    Returns
    -------
    DataFrame
        The runs under each other, with the column experiment, and the record.
    """
    if given["tables"]:
        return read_only_run(given["tables"], notebook)
    from icm_study.encoders.loading import load_encoder

    record = run_record(notebook, given, [load_encoder(given["encoder"], "cpu")])
    shown = tqdm(experiments.items(), desc="experiments", unit="experiment")
    runs = {name: _part(notebook, name, given, experiment) for name, experiment in shown}
    for runs_of_one in runs.values():  # what an experiment has used beside the encoder
        for what in ("data", "weights"):
            record[what] |= runs_of_one.attrs.get(what, {})
    table = join_tables(runs, "experiment", record)
    write_table(table, given["results"])
    return table


def _part(
    notebook: str, name: str, given: Mapping[str, Any], experiment: Experiment
) -> pd.DataFrame:
    """Run one experiment, or read what an interrupted run of the same code has left."""
    if not given.get("parts"):
        return experiment(given)
    told = {key: value for key, value in given.items() if key not in FILES}
    code = commit()
    key = fingerprint(json.dumps([notebook, name, told, code]))
    path = Path(given["parts"], f"{notebook}_{name}_{key}.parquet")
    is_known_code = len(code) == 40  # neither changed nor unknown
    if is_known_code and path.is_file():
        return read_table(path)
    table = experiment(given)
    if is_known_code:
        write_table(table, path)
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


def open_animals(
    given: Mapping[str, Any], encoder: Encoder | None = None, protocol: str = PROTOCOLS[0]
) -> Iterator[tuple[int, Embedder, AnimalWorld, EmbeddedData]]:
    """Open the animal world of each seed: its number, the embedder, the test bed and the data.

    Coat and scene follow the class nine times in ten in the sources. Parameters that count:
    *encoder* (a name, where no encoder is given), *seeds*, *n_images* and *cache*.
    """
    from icm_study.embedding.store import EmbeddingStore
    from icm_study.encoders.loading import load_encoder
    from icm_study.testbeds.animal_world import AnimalWorld

    store = EmbeddingStore(given["cache"])
    embedder = Embedder(encoder or load_encoder(given["encoder"], "cpu"), store)
    world = AnimalWorld(n=given["n_images"], protocol=protocol)
    for seed in tqdm(given["seeds"], desc="seeds", unit="seed", leave=False):
        yield seed, embedder, world, world.embed(embedder, seed)


def projected(name: str) -> Fit:
    """Fit CLIP-ICM by its held-out rule on the pairs of one intervention of the source table."""

    def fit(data: EmbeddedData, rows: NDArray[np.bool_]) -> InvariantProjection:
        before, after = (data.source[one].to_numpy()[rows] for one in ("original", name))
        return InvariantProjection().fit_moments(PairMoments(before.shape[1]).update(before, after))

    return fit


def accuracies(data: EmbeddedData, fit: Fit | None = None) -> dict[str, float]:
    """Probe what a projection keeps, each style left out in turn.

    The projection and the probe see the other styles only, also where the oracle drew a new
    style; the inverse penalty of the probe, of :data:`PENALTIES`, is the one that does best on
    every fifth of these images, fitted on the others.

    Parameters
    ----------
    data : EmbeddedData
        Of the animal world.
    fit : callable, optional
        Without, the embedding stays as it is.

    Returns
    -------
    dict of str to float
        Accuracies in percent, the mean over the styles: ``"in_distribution"`` (other animals
        in the styles seen, with the shortcut), ``"unseen"`` (the style left out, without it)
        and ``"reversed"`` (the style left out, the shortcut pointing elsewhere). And ``"K"``.
    """
    source, test = data.source, data.tested
    domain, label = (source[name].to_numpy() for name in ("domain", "label"))
    shortcut = test["shortcut"].to_numpy()
    found = []
    for target in range(len(data.domains)):
        seen, left_out = domain != target, test["domain"].to_numpy() == target
        A = np.eye(source.sizes["feature"])
        if fit is not None:
            A = fit(data, seen & (source["oracle_domain"].to_numpy() != target)).components_
        probe = _probe(source["original"].to_numpy()[seen] @ A.T, label[seen])
        tested = {
            "in_distribution": ~left_out & (shortcut == "aligned"),
            "unseen": left_out & (shortcut == "none"),
            "reversed": left_out & (shortcut == "reversed"),
        }
        right = probe.predict(test["original"].to_numpy() @ A.T) == test["label"].to_numpy()
        found.append({name: 100 * right[rows].mean() for name, rows in tested.items()})
        found[-1]["K"] = len(A)
    return {str(name): float(value) for name, value in pd.DataFrame(found).mean().items()}


def _probe(X: NDArray[np.floating], y: NDArray[np.integer]) -> LinearProbe:
    judged = np.arange(len(y)) % 5 == 0
    scores = [LinearProbe(C).fit(X[~judged], y[~judged]).score(X[judged], y[judged])
              for C in PENALTIES]  # fmt: skip
    return LinearProbe(PENALTIES[int(np.argmax(scores))]).fit(X, y)
