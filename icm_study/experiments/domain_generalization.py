"""The experiments: which data, which targets, which seeds, one tidy table.

A *world* is a pair ``(shortcut, strength)``: the shortcut is ``"coat"``, ``"scene"`` or
``"coat+scene"``, and the strength is the probability with which these factors follow the class.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from icm_core.selection import CONSISTENCY_WEIGHTS
from icm_study.animals.silhouettes import Silhouettes
from icm_study.embedding.store import EmbeddingStore
from icm_study.embedding.tables import Environments
from icm_study.encoders.animal_clip import SHIPPED
from icm_study.encoders.encoder import Encoder
from icm_study.experiments.evaluation import grid_accuracy, leave_one_domain_out, validation_set
from icm_study.testbeds.animal_world import animal_world
from icm_study.testbeds.image_folder import image_folder
from icm_study.testbeds.splits import CONDITIONS, PROTOCOLS, split
from icm_study.text.pairs import text_pairs

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
        If the shortcut is none of "coat", "scene" and "coat+scene", or the strength is
        no probability.
    """
    return animal_world(encoder, silhouettes, store, seed=seed, n=n, **strengths(world))


def strengths(world: World | Sequence[Any]) -> dict[str, float]:
    """Turn a world into the strengths of its shortcuts, ``coat_strength`` and ``scene_strength``."""
    shortcut, strength = world
    if shortcut not in ("coat", "scene", "coat+scene"):
        raise ValueError(
            f"The shortcut {shortcut!r} is unknown; choose 'coat', 'scene' or 'coat+scene'."
        )
    return {
        f"{factor}_strength": strength * (factor in shortcut.split("+"))
        for factor in ("coat", "scene")
    }


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

    A folder is embedded once: its interventions have seed 0, whatever `seed` is. It has
    text interventions unless the encoder is one that ships with the project, since
    these know the words of the animal world only.

    Parameters
    ----------
    dataset, encoder, store, silhouettes, n
        As for :func:`run_domain_generalization`.
    images : DataFrame, optional
        For a folder, as :func:`~icm_study.photographs.check.load_folder` returns it.
    captioner, editor
        For a folder, as for :func:`~icm_study.text.pairs.text_pairs`.
    seed : int
    world : (shortcut, strength), optional

    Returns
    -------
    Environments

    Raises
    ------
    ValueError
        If there are neither images nor silhouettes and a world, or as :func:`embed_world` and
        :func:`~icm_study.testbeds.image_folder.image_folder`.
    """
    if images is not None:
        texts = None
        if encoder.name not in SHIPPED:
            texts = text_pairs(
                images, name=dataset, captioner=captioner, editor=editor, cache=store.root
            )
        return image_folder(encoder, images, store, name=dataset, texts=texts)
    if silhouettes is None or world is None:
        raise ValueError(
            f"Nothing to embed: silhouettes={silhouettes!r}, world={world!r}, "
            f"images={images!r}. Give the images of a "
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

    In the animal world each seed draws new images in every world. A folder is embedded
    once, and each seed splits it anew.

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
        One of :data:`~icm_study.testbeds.splits.PROTOCOLS`.
    silhouettes : Silhouettes, optional
        For the animal world.
    folder : Environments, optional
        For a folder of images, as :func:`load_environments` returns them.
    n : int, optional
        For the animal world, images in each table.
    **options
        Passed to :func:`~icm_study.experiments.evaluation.evaluate`.

    Returns
    -------
    DataFrame
        The rows of :func:`~icm_study.experiments.evaluation.leave_one_domain_out`, with
        dataset, encoder, world, shortcut, strength, and the target by name. Of a folder
        the world is the data set, and no shortcut is known.

    Raises
    ------
    ValueError
        If there is nothing to run, a target is unknown, or as :func:`load_environments` and
        :func:`~icm_study.experiments.evaluation.leave_one_domain_out`.
    """
    seeds = tuple(seeds)
    if not (seeds and (worlds or folder)):
        raise ValueError(
            f"Nothing to run: worlds={list(worlds)}, seeds={seeds}. Give seeds, and worlds "
            f"of the animals or a folder."
        )
    if folder is not None:
        columns = {"world": dataset, "shortcut": "unknown", "strength": float("nan")}
        jobs: list[tuple[Environments, dict[str, Any], int]] = [
            (folder, columns, seed) for seed in seeds
        ]
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


def _targets(
    environments: Environments, names: Sequence[str] | None, protocol: str
) -> list[int | None]:
    if protocol == "open class":
        if names is not None:
            raise ValueError(
                f"targets={list(names)}: the protocol 'open class' leaves no domain out; pass None."
            )
        return [None]
    unknown = set(names or ()) - set(environments.domains)
    if unknown:
        raise ValueError(
            f"targets={sorted(unknown)} are no domains of the data; they are "
            f"{list(environments.domains)}."
        )
    return [i for i, name in enumerate(environments.domains) if names is None or name in names]


@threadpool_limits.wrap(
    limits=1, user_api="blas"
)  # the matrices are too small to gain from threads
def ablation_grid(
    environments: Environments,
    intervention: str,
    *,
    seed: int,
    n_pairs: int | None = None,
    n_components: Sequence[int | str] | None = None,
    consistency_weights: Sequence[float] = CONSISTENCY_WEIGHTS,
    objective: str = "trace",
    probe: str = "logistic",
) -> pd.DataFrame:
    """Accuracy at every K and λ with each style as the target, on validation and test sets alike.

    Parameters
    ----------
    environments : Environments
    intervention : str
    seed : int
        Seed of the split, and of the choice of pairs.
    n_pairs, n_components, consistency_weights, objective, probe
        As for :func:`~icm_study.experiments.evaluation.grid_accuracy`.

    Returns
    -------
    DataFrame
        Columns target, intervention, objective, seed, predictor, K, consistency_weight,
        auto; the validation accuracies intervened, plain and re-rendered (the oracle's
        images); the test accuracies in_distribution, unseen and reversed, in percent.
    """
    rows = []
    for target, style in enumerate(environments.domains):
        data = split(environments, target, seed=seed)
        sets = {name: validation_set(data, name, intervention) for name in ("intervened", "plain")}
        sets["re-rendered"] = validation_set(data, "intervened", "oracle")
        sets |= {
            name: (t["original"].to_numpy(), t["label"].to_numpy())
            for name, t in data.tests.items()
        }
        grid = grid_accuracy(
            data, intervention, n_components=n_components, consistency_weights=consistency_weights,
            objective=objective, probe=probe, evaluate_on=sets, n_pairs=n_pairs, seed=seed,
        )  # fmt: skip
        grid[list(sets)] *= 100
        rows.append(
            grid.assign(target=style, intervention=intervention, objective=objective, seed=seed)
        )
    return pd.concat(rows, ignore_index=True)


def select(grid: pd.DataFrame, validation: str) -> pd.DataFrame:
    """Pick K and λ in each run of a grid by a validation accuracy.

    Parameters
    ----------
    grid : DataFrame
        Rows of :func:`ablation_grid`.
    validation : {"intervened", "plain", "re-rendered", "unseen"}
        Column to maximise; of equals the first row wins. ``"unseen"`` peeks at the
        target: an upper bound.

    Returns
    -------
    DataFrame
        One row for each target, intervention, objective, seed and predictor, with a
        column selection.
    """
    runs = ["target", "intervention", "objective", "seed", "predictor"]
    grid = grid.reset_index(drop=True)  # of grids put together, whose row numbers occur twice
    best = grid.groupby(runs, sort=False)[validation].idxmax()
    return grid.loc[best].assign(selection=validation)


def to_conditions(runs: pd.DataFrame) -> pd.DataFrame:
    """Turn the test accuracies of a grid into rows, with columns condition and value."""
    conditions = [name for name in CONDITIONS if name in runs]
    keys = [
        name
        for name in runs.columns
        if name not in (*conditions, "intervened", "plain", "re-rendered")
    ]
    return runs.melt(keys, conditions, var_name="condition", value_name="value")
