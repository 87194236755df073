"""Grids of K and λ on every target, and the setting that each way of choosing takes from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from threadpoolctl import threadpool_limits

from icm_core.projection import InvariantProjection
from icm_core.selection import (
    CONSISTENCY_WEIGHTS,
    Path,
    grid_accuracy,
    least_squares_path,
    logistic_path,
    zero_shot_path,
)
from icm_study.embedding.tables import EmbeddedData, pair_moments
from icm_study.experiments.task import predictors_for
from icm_study.testbeds.base import CONDITIONS, Split, TestBed

#: Linear probe of a grid -> its name in the table, and how it is fitted for every K.
PROBES: dict[str, tuple[str, Callable[..., Path]]] = {
    "logistic": ("linear probe", logistic_path),
    "least squares": ("least-squares probe", least_squares_path),
}
#: For each seed and target of a test bed, how its data are divided.
Splits = Mapping[int, Mapping[str, Split]]
#: What K and λ can be chosen by -> the held-out variable that it is judged on.
JUDGED_ON = {"intervened": "image", "held-out": "original", "re-rendered": "oracle"}


@dataclass(frozen=True)
class GridOptions:
    """What a grid spans, and what it is measured with.

    Attributes
    ----------
    n_components, consistency_weights, projection
        As for :func:`~icm_core.selection.grid_accuracy`.
    probe : {"logistic", "least squares"}
    probe_C : float
        Of either probe, see :class:`~icm_core.prediction.LinearProbe`.
    n_pairs : int, optional
        Estimate the projection from that many rows of pairs; by default from all.
    """

    n_components: Sequence[int | str] | None = None
    consistency_weights: Sequence[float] = CONSISTENCY_WEIGHTS
    projection: InvariantProjection | None = None
    probe: str = "logistic"
    probe_C: float = 0.316
    n_pairs: int | None = None


def grid_on_targets(
    bed: TestBed, data: EmbeddedData, intervention: str, options: GridOptions, seed: int
) -> pd.DataFrame:
    """Accuracy at every K and λ with each domain as the target, on held-out and test sets alike.

    Parameters
    ----------
    bed : TestBed
    data : EmbeddedData
        What the test bed's ``embed`` gave.
    intervention : str
        As for :func:`~icm_study.embedding.tables.pair_moments`.
    options : GridOptions
    seed : int
        Seed of the split, and of the choice of pairs.

    Returns
    -------
    DataFrame
        Columns target, intervention, seed, predictor, K, consistency_weight, auto; the
        accuracies that settings can be chosen by (keys of :data:`JUDGED_ON`, as far as the
        data have them), and those under each condition, in percent.

    Raises
    ------
    ValueError
        If the probe is unknown, there is nothing to try, or there are not that many pairs.
    """
    return grids_over(splits_of(bed, {seed: data}), [intervention], options)


def splits_of(bed: TestBed, data: Mapping[int, EmbeddedData]) -> Splits:
    """Leave out each domain in turn, with every seed.

    Parameters
    ----------
    bed : TestBed
    data : mapping of int to EmbeddedData
        For each seed what the test bed's ``embed`` gave.

    Returns
    -------
    dict of int to dict of str to Split
    """
    return {
        seed: {target or "none": bed.split(embedded, target, seed) for target in bed.targets()}
        for seed, embedded in data.items()
    }


@threadpool_limits.wrap(
    limits=1, user_api="blas"
)  # the matrices are too small to gain from threads
def _grid_on(
    target: str,
    split: Split,
    intervention: str,
    options: GridOptions,
    seed: int,
    predictors: Mapping[Any, Path] | None = None,
) -> pd.DataFrame:
    """Run one grid; by default with the predictors of :func:`paths`."""
    held_out, label = split.held_out, split.held_out["label"].to_numpy()
    kinds = {
        name: "oracle" if (name, intervention) == ("intervened", "oracle") else variable
        for name, variable in JUDGED_ON.items()
    }
    sets = {
        name: (held_out[variable].to_numpy(), label)
        for name, variable in kinds.items()
        if variable in held_out
    }
    sets |= {
        name: (test["original"].to_numpy(), test["label"].to_numpy())
        for name, test in split.tests.items()
    }
    grid = grid_accuracy(
        pair_moments(_some(split, options.n_pairs, seed), intervention),
        paths(split, options.probe, options.probe_C) if predictors is None else predictors,
        sets,
        n_components=options.n_components,
        consistency_weights=options.consistency_weights,
        projection=options.projection,
    )
    grid[list(sets)] *= 100
    return grid.assign(target=target, intervention=intervention, seed=seed)


def _probe_on(
    target: str,
    split: Split,
    intervention: str,
    options: GridOptions,
    seed: int,
    penalties: Sequence[float],
) -> pd.DataFrame:
    """Run one grid with the linear probe at several penalties, behind the same projections."""
    train = split.train["original"].to_numpy(), split.train["label"].to_numpy()
    probes = {C: logistic_path(*train, C) for C in sorted(penalties)}
    grid = _grid_on(target, split, intervention, options, seed, probes)
    return grid.assign(predictor="linear probe", C=grid["predictor"])


def grids_over(splits: Splits, kinds: Sequence[str], options: GridOptions) -> pd.DataFrame:
    """Run a grid for several kinds of interventions and every seed.

    Parameters
    ----------
    splits : dict
        What :func:`splits_of` gave.
    kinds : sequence of str
        Interventions, as for :func:`grid_on_targets`.
    options : GridOptions

    Returns
    -------
    DataFrame
        The rows of :func:`grid_on_targets`.
    """
    grids = [
        _grid_on(target, split, kind, options, seed)
        for target, split, kind, seed in _runs(splits, kinds)
    ]
    return pd.concat(grids, ignore_index=True)


def _runs(splits: Splits, kinds: Sequence[str]) -> list[tuple[str, Split, str, int]]:
    """List what one grid is run on: target, split, kind of interventions, and seed."""
    return [
        (target, one, kind, seed)
        for kind in kinds
        for seed, of_targets in splits.items()
        for target, one in of_targets.items()
    ]


def grids_by_pairs(
    splits: Splits, kinds: Sequence[str], options: GridOptions, n_pairs: Sequence[int]
) -> pd.DataFrame:
    """Run a grid for several numbers of pairs, and for as many as every run has.

    Parameters
    ----------
    splits, kinds, options
        As for :func:`grids_over`.
    n_pairs : sequence of int
        Those that some run does not have are left out.

    Returns
    -------
    DataFrame
        The rows of :func:`grids_over`, with a column n_pairs.
    """
    every = min(
        split.paired.sizes["row"] for of_targets in splits.values() for split in of_targets.values()
    )
    grids = [
        grids_over(splits, kinds, replace(options, n_pairs=n)).assign(n_pairs=n)
        for n in [*(n for n in n_pairs if n < every), every]
    ]
    return pd.concat(grids, ignore_index=True)


def probes_by_penalty(
    splits: Splits, kinds: Sequence[str], penalties: Sequence[float]
) -> pd.DataFrame:
    """Accuracy of the linear probe at several penalties, behind the projection and without it.

    For the projection λ is 1 and K the number of positive eigenvalues.

    Parameters
    ----------
    splits, kinds
        As for :func:`grids_over`.
    penalties : sequence of float
        Values of C, the inverse penalty.

    Returns
    -------
    DataFrame
        The rows of :func:`to_conditions`, with columns C; side (``"ICM"`` or ``"plain"``); and
        penalty, C in words, or ``"chosen"``: of each side that which is best on intervened
        source images, of equals the strongest.
    """
    split = next(iter(next(iter(splits.values())).values()))
    whole = split.train.sizes["feature"]  # so many directions change nothing
    options = GridOptions(["auto", whole], [1.0])
    grids = [
        _probe_on(target, split, kind, options, seed, penalties)
        for target, split, kind, seed in _runs(splits, kinds)
    ]
    every = pd.concat(grids).sort_values("C", kind="stable")
    rows = []
    for side, mask in {"ICM": every["auto"], "plain": every["K"] == whole}.items():
        part = every[mask].assign(side=side)
        rows.append(part.assign(penalty=part["C"].map("{:g}".format)))
        rows.append(choose(part, "intervened").drop(columns="choice").assign(penalty="chosen"))
    return to_conditions(pd.concat(rows, ignore_index=True))


def choose_penalty(
    splits: Splits,
    chosen: pd.DataFrame,
    penalties: Sequence[float],
    objectives: Mapping[str, InvariantProjection],
) -> pd.DataFrame:
    """Choose the penalty of the logistic probe too, after K and λ, by what chose these.

    Parameters
    ----------
    splits : dict
        What :func:`splits_of` gave.
    chosen : DataFrame
        Rows of :func:`choose`. Where K and λ were chosen by no accuracy, the penalty is by that
        on intervened source images. Without a column objective it is ``"trace"``.
    penalties : sequence of float
        Values of C; of equals the strongest wins.
    objectives : mapping of str to InvariantProjection
        Unfitted, by the names in the column objective.

    Returns
    -------
    DataFrame
        The rows of the linear probe, measured anew, with a column C.
    """
    rows = []
    for row in chosen[chosen["predictor"] == "linear probe"].to_dict("records"):
        weight = row["consistency_weight"]
        options = GridOptions(
            [row["K"]],
            [1.0 if np.isnan(weight) else weight],  # an objective may have none
            objectives[row.get("objective", "trace")],
        )
        kept = {name: row[name] for name in ("choice", "objective") if name in row}
        one = row["target"], splits[row["seed"]][row["target"]], row["intervention"]
        tried = _probe_on(*one, options, row["seed"], penalties).assign(**kept)
        by = row["choice"] if row["choice"] in JUDGED_ON else "intervened"
        rows.append(tried.loc[[tried[by].idxmax()]])
    return pd.concat(rows, ignore_index=True)


def paths(split: Split, probe: str = "logistic", probe_C: float = 0.316) -> dict[str, Path]:
    """Give the predictors of a grid on a split, by the names that its rows have.

    Where the tests have classes that no probe has seen, there is zero-shot alone.

    Raises
    ------
    ValueError
        If the probe is unknown.
    """
    if probe not in PROBES:
        raise ValueError(f"probe={probe!r} is unknown; choose one of {tuple(PROBES)}.")
    prompts, train = split.prompts, split.train
    given = {"zero-shot": zero_shot_path(prompts["prompt"].to_numpy(), prompts["label"].to_numpy())}
    if "linear probe" in predictors_for(train, split.tests):
        name, path = PROBES[probe]
        given[name] = path(train["original"].to_numpy(), train["label"].to_numpy(), probe_C)
    return given


def _some(split: Split, n_pairs: int | None, seed: int) -> xr.Dataset:
    pairs = split.paired
    if n_pairs is None:
        return pairs
    if not 1 <= n_pairs <= pairs.sizes["row"]:
        raise ValueError(
            f"n_pairs={n_pairs!r}; expected 1 to {pairs.sizes['row']}, the rows of pairs."
        )
    return pairs.isel(row=np.random.default_rng(seed).permutation(pairs.sizes["row"])[:n_pairs])


def choose(grid: pd.DataFrame, choice: str) -> pd.DataFrame:
    """Take K and λ in each run of a grid by an accuracy; of equals the first row wins.

    Parameters
    ----------
    grid : DataFrame
        Rows of :func:`grid_on_targets`.
    choice : str
        Column to maximise, such as ``"intervened"``; ``"unseen"`` peeks at the target.

    Returns
    -------
    DataFrame
        One row for each run and predictor, with a column choice.
    """
    runs = [
        name
        for name in ("target", "intervention", "objective", "seed", "predictor")
        if name in grid
    ]
    grid = grid.reset_index(drop=True)  # of grids put together, whose row numbers occur twice
    best = grid.groupby(runs, sort=False)[choice].idxmax()
    return grid.loc[best].assign(choice=choice)


def to_conditions(grid: pd.DataFrame) -> pd.DataFrame:
    """Turn the test accuracies of a grid into rows, with columns condition and value."""
    conditions = [name for name in CONDITIONS if name in grid]
    keys = [name for name in grid.columns if name not in (*conditions, *JUDGED_ON)]
    return grid.melt(keys, conditions, var_name="condition", value_name="value")


def mean_cells(grid: pd.DataFrame) -> pd.DataFrame:
    """Average the runs of a grid: a row for each intervention, predictor, condition, K and λ."""
    cell = ["intervention", "predictor", "condition", "K", "consistency_weight"]
    return to_conditions(grid).groupby(cell)["value"].mean().reset_index()


def rank_agreement(cells: pd.DataFrame, others: pd.DataFrame) -> tuple[int, float]:
    """Compare two predictors over the cells that both have, under the shifts.

    Parameters
    ----------
    cells, others : DataFrame
        Rows of :func:`mean_cells`, of one predictor each.

    Returns
    -------
    n_cells : int
    correlation : float
        Spearman's.
    """
    cell = ["intervention", "condition", "K", "consistency_weight"]
    both = cells.merge(others, on=cell, suffixes=("", "_other"))
    both = both[both["condition"] != "in_distribution"]
    return len(both), float(both["value"].corr(both["value_other"], "spearman"))
