"""The experiments: which data, which targets, which seeds, one tidy table.

A *world* is a pair ``(shortcut, strength)``: the shortcut is ``"coat"``, ``"scene"`` or
``"coat+scene"``, and the strength is the probability with which these factors follow the class.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from icm_core.animal_world import Silhouettes
from icm_core.claims import claim, judge
from icm_core.embeddings import EmbeddingStore
from icm_core.encoders import SHIPPED, Encoder
from icm_core.environments import Environments, animal_world, image_folder, text_pairs
from icm_core.evaluation import (
    CONSISTENCY_WEIGHTS,
    grid_accuracy,
    leave_one_domain_out,
    validation_set,
)
from icm_core.intervals import contrast
from icm_core.record import repeat_command
from icm_core.splits import CONDITIONS, PROTOCOLS, split

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
    return animal_world(encoder, silhouettes, store, seed=seed, n=n, **strengths(world))


def strengths(world: World | Sequence[Any]) -> dict[str, float]:
    """Turn a world into the strengths of its shortcuts, ``coat_strength`` and ``scene_strength``."""
    shortcut, strength = world
    if shortcut not in ("coat", "scene", "coat+scene"):
        raise ValueError(f"The shortcut {shortcut!r} is unknown; choose 'coat', 'scene' or 'coat+scene'.")
    return {f"{factor}_strength": strength * (factor in shortcut.split("+")) for factor in ("coat", "scene")}


def world_name(world: World | Sequence[Any]) -> str:
    """Name a world as the tables do, for example ``coat+scene 0.9``."""
    return f"{world[0]} {world[1]:g}"


def load_environments(
    dataset: str,
    encoder: Encoder,
    store: EmbeddingStore,
    *,
    seed: int = 0,
    world: World | Sequence[Any] | None = None,
    silhouettes: Silhouettes | None = None,
    images: pd.DataFrame | None = None,
    n: int | None = None,
    captioner: str | None = None,
    editor: str = "rules",
) -> Environments:
    """Embed (or open) a world of the animals, or a folder of images.

    A folder is embedded once: its interventions have seed 0, whatever `seed` is. It has text interventions unless
    the encoder is one that ships with the project, since these know the words of the animal world only.

    Parameters
    ----------
    dataset, encoder, store, silhouettes, n
        As for :func:`run_domain_generalization`.
    images : DataFrame, optional
        For a folder, as :func:`~icm_core.data.check.load_folder` returns it.
    captioner, editor
        For a folder, as for :func:`~icm_core.environments.text_pairs`.
    seed : int
    world : (shortcut, strength), optional

    Returns
    -------
    Environments

    Raises
    ------
    ValueError
        If there are neither images nor silhouettes and a world, or as :func:`embed_world` and
        :func:`~icm_core.environments.image_folder`.
    """
    if images is not None:
        texts = None
        if encoder.name not in SHIPPED:
            texts = text_pairs(images, name=dataset, captioner=captioner, editor=editor, cache=store.root)
        return image_folder(encoder, images, store, name=dataset, texts=texts)
    if silhouettes is None or world is None:
        raise ValueError(
            f"Nothing to embed: silhouettes={silhouettes!r}, world={world!r}, images={images!r}. Give the images of a "
            "folder, or silhouettes and a world."
        )
    return embed_world(encoder, silhouettes, store, world, seed, n)


def run_domain_generalization(
    dataset: str,
    encoder: Encoder,
    store: EmbeddingStore,
    *,
    seeds: Iterable[int],
    worlds: Sequence[World | Sequence[Any]] = (),
    targets: Sequence[str] | None = None,
    protocol: str = PROTOCOLS[0],
    silhouettes: Silhouettes | None = None,
    folder: Environments | None = None,
    n: int | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Run a protocol for each target domain and seed, on the animal world or on a folder of images.

    In the animal world each seed draws new images in every world. A folder is embedded once, and each seed
    splits it anew.

    Parameters
    ----------
    dataset : str
        ``"animal-world"``, or the name of the folder's data set.
    encoder : Encoder
    store : EmbeddingStore
    seeds : iterable of int
    worlds : sequence of (shortcut, strength)
        For the animal world.
    targets : sequence of str, optional
        Domains to leave out in turn; by default every one.
    protocol : str
        One of :data:`~icm_core.splits.PROTOCOLS`.
    silhouettes : Silhouettes, optional
        For the animal world.
    folder : Environments, optional
        For a folder of images, as :func:`load_environments` returns them.
    n : int, optional
        For the animal world, images in each table.
    **options
        Passed to :func:`~icm_core.evaluation.evaluate`.

    Returns
    -------
    DataFrame
        The rows of :func:`~icm_core.evaluation.leave_one_domain_out`, with dataset, encoder, world, shortcut,
        strength, and the target by name. Of a folder the world is the data set, and no shortcut is known.

    Raises
    ------
    ValueError
        If there is nothing to run, a target is unknown, or as :func:`load_environments` and
        :func:`~icm_core.evaluation.leave_one_domain_out`.
    """
    seeds = tuple(seeds)
    if not (seeds and (worlds or folder)):
        raise ValueError(
            f"Nothing to run: worlds={list(worlds)}, seeds={seeds}. Give seeds, and worlds of the animals or a folder."
        )
    if folder is not None:
        columns = {"world": dataset, "shortcut": "unknown", "strength": float("nan")}
        jobs: list[tuple[Environments, dict[str, Any], int]] = [(folder, columns, seed) for seed in seeds]
    else:
        given: dict[str, Any] = {"silhouettes": silhouettes, "n": n}
        jobs = [
            (
                load_environments(dataset, encoder, store, seed=seed, world=world, **given),
                {"world": world_name(world), "shortcut": world[0], "strength": world[1]},
                seed,
            )
            for world in worlds
            for seed in seeds
        ]
    runs = [
        (environments, columns, seed, target)
        for environments, columns, seed in jobs
        for target in _targets(environments, targets, protocol)
    ]
    tables = []
    for environments, columns, seed, target in tqdm(runs, desc="runs", unit="run"):
        table = leave_one_domain_out(environments, target, protocol=protocol, seed=seed, **options)
        name = "none" if target is None else environments.domains[target]
        tables.append(table.assign(dataset=dataset, encoder=encoder.name, target=name, **columns))
    return pd.concat(tables, ignore_index=True)


def gather(paths: Sequence[str | Path]) -> pd.DataFrame:
    """Read the tables of several runs of one experiment that differ in their seeds, and join their records.

    Parameters
    ----------
    paths : sequence of path-like
        Parquet files, each with a record in its attributes (see :mod:`icm_core.record`).

    Returns
    -------
    DataFrame
        All rows. Its attributes are the record of the first run, with every seed and the diagnosis of all.

    Raises
    ------
    ValueError
        If the runs differ in more than their seeds: then their rows cannot be pooled.
    """
    tables = [pd.read_parquet(path) for path in paths]
    records = [table.attrs for table in tables]
    joined = dict(records[0])
    alike = [
        {**{k: v for k, v in record.items() if k not in ("command", "diagnosis", "commit")},
         "parameters": record["parameters"] | {"seeds": []}}
        for record in records
    ]  # fmt: skip
    if any(record != alike[0] for record in alike):
        raise ValueError(
            f"The runs {[str(path) for path in paths]} differ in more than their seeds (settings, versions, weights or "
            "data); run the older ones again."
        )
    seeds = sorted(seed for record in records for seed in record["parameters"]["seeds"])
    joined["parameters"] = records[0]["parameters"] | {"seeds": seeds}
    joined["command"] = repeat_command(joined["command"], joined["parameters"])
    joined["diagnosis"] = {
        name: [value for record in records for value in record["diagnosis"][name]]
        for name in records[0].get("diagnosis", {})
    }
    table = pd.concat(tables, ignore_index=True)
    table.attrs = joined
    return table


def _targets(environments: Environments, names: Sequence[str] | None, protocol: str) -> list[int | None]:
    if protocol == "open class":
        if names is not None:
            raise ValueError(
                f"targets={list(names)}: the protocol 'open class' leaves no domain out; pass None."
            )
        return [None]
    unknown = set(names or ()) - set(environments.domains)
    if unknown:
        raise ValueError(
            f"targets={sorted(unknown)} are no domains of the data; they are {list(environments.domains)}."
        )
    return [i for i, name in enumerate(environments.domains) if names is None or name in names]


@threadpool_limits.wrap(limits=1, user_api="blas")  # the matrices are too small to gain from threads
def ablation_grid(
    environments: Environments,
    intervention: str,
    *,
    seed: int,
    n_pairs: int | None = None,
    n_components: Sequence[int | str] | None = None,
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
    for target, style in enumerate(environments.domains):
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
    """Turn the test accuracies of a grid into rows, with columns condition and value."""
    conditions = [name for name in CONDITIONS if name in runs]
    keys = [name for name in runs.columns if name not in (*conditions, "intervened", "plain", "re-rendered")]
    return runs.melt(keys, conditions, var_name="condition", value_name="value")


#: What the verdicts call the conditions other than in distribution.
SHIFTS = {
    "unseen": "on an unseen domain",
    "reversed": "on an unseen domain with the shortcut reversed",
    "new_classes": "on classes that training has not seen",
}
CHOICES = {
    "ICM": "K and λ chosen on intervened source images",
    "ICM auto": "λ fixed at 1, K = positive eigenvalues",
}


def domain_generalization_claims(table: pd.DataFrame, over: str = "seeds") -> pd.DataFrame:
    """Judge what CLIP-ICM gains in one world with one encoder, against each rival.

    Parameters
    ----------
    table : DataFrame
        Rows of :func:`run_domain_generalization`, of one encoder and one world.
    over : {"seeds", "images"}
        What the intervals speak for, see :mod:`icm_core.intervals`.

    Returns
    -------
    DataFrame
        Columns claim, statement, measured, threshold, verdict.

    Raises
    ------
    ValueError
        If there are several encoders or worlds, or as :func:`~icm_core.intervals.contrast`.
    """
    if len(table[["encoder", "world"]].drop_duplicates()) != 1:
        raise ValueError("The table has several encoders or worlds, or none; judge them one at a time.")
    where = f"{table['world'].iloc[0]}, {table['encoder'].iloc[0]}"
    is_probe = table["predictor"] == "linear probe"
    table = table.assign(method=table["method"].where(is_probe, "zero-shot " + table["method"]))
    shifts = [name for name in SHIFTS if name in set(table["condition"])]
    kinds = [name for name in ("image", "text", "image+text") if name in set(table["intervention"])]
    plain, augmented, zero = ("plain", "none"), ("augmentation", "image"), ("zero-shot plain", "none")
    names = {
        plain: "the plain probe",
        augmented: "the probe trained on augmented images",
        zero: "plain zero-shot",
    }
    questions = []
    for choice in CHOICES:
        if is_probe.any():
            questions += [("", choice, kind, plain, shifts[-1]) for kind in kinds]
            questions += [("", choice, kinds[-1], plain, shift) for shift in shifts[:-1]]
            questions += [("", choice, kinds[-1], rival, shifts[-1]) for rival in (augmented, zero)]
        questions += [
            ("zero-shot ", choice, kind, zero, shift) for kind in (kinds[1:] or kinds) for shift in shifts
        ]
    rows = []
    for prefix, choice, kind, rival, condition in questions:
        part = table[table["condition"] == condition]
        kind_of = "Zero-shot" if prefix else "T5.6, probe" if rival == plain else "Probe"
        rows.append(
            gain_claim(
                f"{kind_of} ({where})",
                f"ICM {prefix.strip() or 'probe'}, {kind.replace('+', ' and ')} interventions, {CHOICES[choice]}: "
                f"beats {names[rival]} {SHIFTS[condition]}",
                contrast(part, (prefix + choice, kind), rival, ["condition"], over=over),
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
            gain_claim(column.capitalize(), f"{kind} interventions, shortcut reversed: {statement}", gain)
        )
    return pd.DataFrame(rows)


def gain_claim(name: str, statement: str, gains: pd.DataFrame) -> dict[str, str]:
    """Judge whether the gain in a row of :func:`~icm_core.intervals.contrast` is above zero."""
    gain = gains.iloc[0]
    measured = f"{gain['value']:+.1f} points"
    if pd.notna(gain["low"]):
        measured += f" ({gain['low']:+.1f} to {gain['high']:+.1f})"
    return claim(name, statement, measured, "above 0", judge(gain["low"], gain["high"], above=0))
