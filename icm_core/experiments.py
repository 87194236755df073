"""The experiments on the animal world: which worlds, which seeds, one tidy table.

A *world* is a pair ``(shortcut, strength)``: the shortcut is ``"coat"``, ``"scene"`` or
``"coat+scene"``, and the strength is the probability with which these factors follow the class.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from icm_core.animal_world import STYLES, Silhouettes
from icm_core.embeddings import EmbeddingStore
from icm_core.encoders import Encoder, load_encoder
from icm_core.environments import Environments, animal_world
from icm_core.evaluation import (
    CONDITIONS,
    CONSISTENCY_WEIGHTS,
    N_COMPONENTS,
    grid_accuracy,
    leave_one_domain_out,
    split,
    validation_set,
)

World = tuple[str, float]


def embed_world(
    encoder: Encoder,
    silhouettes: Silhouettes,
    store: EmbeddingStore,
    world: World | Sequence[Any],
    seed: int,
    n: int | None = None,
) -> Environments:
    """Embed (or open) one world.

    Parameters
    ----------
    encoder : Encoder
    silhouettes : Silhouettes
    store : EmbeddingStore
    world : (shortcut, strength)
    seed : int
    n : int, optional
        Images in each table.

    Returns
    -------
    Environments

    Raises
    ------
    ValueError
        If the shortcut is none of "coat", "scene" and "coat+scene", or the strength is no probability.
    """
    shortcut, strength = world
    if shortcut not in ("coat", "scene", "coat+scene"):
        raise ValueError(f"The shortcut {shortcut!r} is unknown; choose 'coat', 'scene' or 'coat+scene'.")
    factors = shortcut.split("+")
    return animal_world(
        encoder, silhouettes, store, seed=seed, n=n,
        coat_strength=strength * ("coat" in factors), scene_strength=strength * ("scene" in factors),
    )  # fmt: skip


def run_leave_one_domain_out(
    worlds: Mapping[str, Iterable[World | Sequence[Any]]],
    seeds: Iterable[int],
    silhouettes: Silhouettes,
    store: EmbeddingStore,
    *,
    n: int | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Leave each style out in turn, in every world, for every encoder and seed.

    Parameters
    ----------
    worlds : mapping of str to iterable of (shortcut, strength)
        For each encoder, by name, the worlds to run it in.
    seeds : iterable of int
    silhouettes : Silhouettes
    store : EmbeddingStore
    n : int, optional
        Images in each table.
    **options
        Passed to :func:`~icm_core.evaluation.leave_one_domain_out`.

    Returns
    -------
    DataFrame
        The rows of :func:`~icm_core.evaluation.leave_one_domain_out`, with dataset, encoder, shortcut,
        strength, and the target by name.

    Raises
    ------
    ValueError
        If there is no world or no seed, or as :func:`embed_world` and
        :func:`~icm_core.evaluation.leave_one_domain_out`.
    """
    seeds = tuple(seeds)
    jobs = [(name, world, seed) for name, listed in worlds.items() for world in listed for seed in seeds]
    if not jobs:
        raise ValueError(f"Nothing to run: worlds={dict(worlds)}, seeds={seeds}; name at least one of each.")
    encoders = {name: load_encoder(name) for name in worlds}
    tables = []
    for name, world, seed in tqdm(jobs, desc="worlds", unit="world"):
        environments = embed_world(encoders[name], silhouettes, store, world, seed, n)
        for target, style in enumerate(STYLES):
            table = leave_one_domain_out(environments, target, seed=seed, **options)
            tables.append(
                table.assign(
                    dataset="animal-world", encoder=name, shortcut=world[0], strength=world[1], target=style
                )
            )
    return pd.concat(tables, ignore_index=True)


@threadpool_limits.wrap(limits=1, user_api="blas")  # the matrices are too small to gain from threads
def ablation_grid(
    environments: Environments,
    intervention: str,
    *,
    seed: int,
    n_pairs: int | None = None,
    n_components: Sequence[int | str] = N_COMPONENTS,
    consistency_weights: Sequence[float] = CONSISTENCY_WEIGHTS,
    objective: str = "trace",
) -> pd.DataFrame:
    """Accuracy at every K and λ with each style as the target, on validation and test sets alike.

    Parameters
    ----------
    environments : Environments
    intervention : str
    seed : int
        Seed of the split, and of the choice of pairs.
    n_pairs, n_components, consistency_weights, objective
        As for :func:`~icm_core.evaluation.grid_accuracy`.

    Returns
    -------
    DataFrame
        Columns target, intervention, objective, seed, predictor, K, consistency_weight, auto; the validation
        accuracies intervened and plain; the test accuracies in_distribution, unseen and reversed, in percent.
    """
    rows = []
    for target, style in enumerate(STYLES):
        data = split(environments, target, seed=seed)
        sets = {name: validation_set(data, name, intervention) for name in ("intervened", "plain")}
        sets |= {name: (t["original"].to_numpy(), t["label"].to_numpy()) for name, t in data.tests.items()}
        grid = grid_accuracy(
            data, intervention, n_components=n_components, consistency_weights=consistency_weights,
            objective=objective, evaluate_on=sets, n_pairs=n_pairs, seed=seed,
        )  # fmt: skip
        grid[list(sets)] *= 100
        rows.append(grid.assign(target=style, intervention=intervention, objective=objective, seed=seed))
    return pd.concat(rows, ignore_index=True)


def select(grid: pd.DataFrame, validation: str) -> pd.DataFrame:
    """Pick K and λ in each run of a grid by a validation accuracy.

    Parameters
    ----------
    grid : DataFrame
        Rows of :func:`ablation_grid`.
    validation : {"intervened", "plain", "unseen"}
        Column to maximise; of equals the first row wins. ``"unseen"`` peeks at the target: an upper bound.

    Returns
    -------
    DataFrame
        One row for each target, intervention, objective, seed and predictor, with a column selection.
    """
    runs = ["target", "intervention", "objective", "seed", "predictor"]
    grid = grid.reset_index(drop=True)  # of grids put together, whose row numbers occur twice
    best = grid.groupby(runs, sort=False)[validation].idxmax()
    return grid.loc[best].assign(selection=validation)


def to_conditions(runs: pd.DataFrame) -> pd.DataFrame:
    """Turn the three test accuracies of a grid into rows, with columns condition and value."""
    keys = [name for name in runs.columns if name not in (*CONDITIONS, "intervened", "plain")]
    return runs.melt(keys, list(CONDITIONS), var_name="condition", value_name="value")
