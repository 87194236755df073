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
from icm_core.claims import claim, judge
from icm_core.embeddings import EmbeddingStore
from icm_core.encoders import Encoder, load_encoder
from icm_core.environments import Environments, animal_world
from icm_core.evaluation import (
    CONDITIONS,
    CONSISTENCY_WEIGHTS,
    N_COMPONENTS,
    contrast,
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
        accuracies intervened, plain and re-rendered (the oracle's images); the test accuracies in_distribution, unseen and reversed, in percent.
    """
    rows = []
    for target, style in enumerate(STYLES):
        data = split(environments, target, seed=seed)
        sets = {name: validation_set(data, name, intervention) for name in ("intervened", "plain")}
        sets["re-rendered"] = validation_set(data, "intervened", "oracle")
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
    validation : {"intervened", "plain", "re-rendered", "unseen"}
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
    keys = [name for name in runs.columns if name not in (*CONDITIONS, "intervened", "plain", "re-rendered")]
    return runs.melt(keys, list(CONDITIONS), var_name="condition", value_name="value")


def domain_generalization_claims(table: pd.DataFrame, encoder: str, world: Sequence[Any]) -> pd.DataFrame:
    """Judge what CLIP-ICM gains in one world, against each rival.

    Parameters
    ----------
    table : DataFrame
        Rows of :func:`run_leave_one_domain_out` for at least the world.
    encoder : str
        The encoder of the probes; of every other encoder in the table only zero-shot is judged.
    world : (shortcut, strength)

    Returns
    -------
    DataFrame
        Columns claim, statement, measured, threshold, verdict.
    """
    table = table[(table["shortcut"] == world[0]) & (table["strength"] == world[1])]
    is_probe = table["predictor"] == "linear probe"
    table = table.assign(method=table["method"].where(is_probe, "zero-shot " + table["method"]))
    choices = {
        "ICM": "K and λ chosen on intervened source images",
        "ICM auto": "λ fixed at 1, K = positive eigenvalues",
    }
    plain, augmented, zero = ("plain", "none"), ("augmentation", "image"), ("zero-shot plain", "none")
    names = {
        plain: "the plain probe",
        augmented: "the probe trained on augmented images",
        zero: "plain zero-shot",
    }
    questions = [
        (encoder, "", choice, kind, plain, "reversed")
        for choice in choices
        for kind in ("image", "text", "image+text")
    ]
    for choice in choices:
        rivals = ((plain, "unseen"), (augmented, "reversed"), (zero, "reversed"))
        questions += [(encoder, "", choice, "image+text", *rival) for rival in rivals]
        for name in table["encoder"].unique():
            questions += [
                (name, "zero-shot ", choice, kind, zero, condition)
                for kind in ("text", "image+text")
                for condition in ("unseen", "reversed")
            ]
    rows = []
    for name, prefix, choice, kind, rival, condition in questions:
        part = table[(table["encoder"] == name) & (table["condition"] == condition)]
        where = "an unseen style" + (" with the shortcut reversed" if condition == "reversed" else "")
        rows.append(
            _gain_claim(
                f"{'Zero-shot' if prefix else 'T5.6, probe' if rival == plain else 'Probe'}, {name}",
                f"ICM {prefix.strip() or 'probe'}, {kind.replace('+', ' and ')} interventions, {choices[choice]}: "
                f"beats {names[rival]} on {where}",
                contrast(part, (prefix + choice, kind), rival, ["condition"]),
            )
        )
    return pd.DataFrame(rows)


def ablation_claims(
    selections: pd.DataFrame, objectives: pd.DataFrame, kind: str = "image+text"
) -> pd.DataFrame:
    """Judge the choices of the method by the probe's accuracy with the shortcut reversed.

    Parameters
    ----------
    selections : DataFrame
        Rows of :func:`to_conditions` with a column selection ("intervened", "plain", "auto").
    objectives : DataFrame
        Rows of :func:`to_conditions` with a column objective.
    kind : str
        The intervention that is judged.

    Returns
    -------
    DataFrame
        Columns claim, statement, measured, threshold, verdict.
    """
    questions = [
        (selections, "selection", "intervened", "plain", "choosing K and λ on intervened source images beats plain ones"),
        (selections, "selection", "auto", "intervened", "choosing K by the spectrum (λ fixed at 1, positive eigenvalues) "
         "beats choosing on intervened source images"),
        (objectives, "objective", "trace", "released_code", "keeping the largest eigenvalues beats the released order"),
        (objectives, "objective", "trace", "generalized", "the trace objective beats the generalised one, which has no λ"),
    ]  # fmt: skip
    rows = []
    for table, column, first, second, statement in questions:
        part = table[(table["predictor"] == "linear probe") & (table["intervention"] == kind)]
        part = part[part["condition"] == "reversed"].assign(method=part[column])
        gain = contrast(part, (first, kind), (second, kind), ["condition"])
        rows.append(
            _gain_claim(column.capitalize(), f"{kind} interventions, shortcut reversed: {statement}", gain)
        )
    return pd.DataFrame(rows)


def _gain_claim(name: str, statement: str, gains: pd.DataFrame) -> dict[str, str]:
    gain = gains.iloc[0]
    measured = f"{gain['value']:+.1f} points"
    if pd.notna(gain["low"]):
        measured += f" ({gain['low']:+.1f} to {gain['high']:+.1f})"
    return claim(name, statement, measured, "above 0", judge(gain["low"], gain["high"], above=0))
