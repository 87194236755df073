"""The experiment on variants: what CLIP-ICM gains where the images change and the classes stay.

The data and their split are those of :mod:`icm_core.variants`; here they are run, judged and shown. Every method is
fitted once on the source, and measured on each variant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import ImageOps
from tqdm import tqdm

from icm_core.animal_world import Silhouettes, render
from icm_core.data.folders import read_image
from icm_core.embeddings import EmbeddingStore
from icm_core.encoders import Encoder
from icm_core.environments import Environments
from icm_core.evaluation import BASELINE, evaluate
from icm_core.experiments import CHOICES, World, gain_claim, strengths, world_name
from icm_core.figures import CONTEXT, INVARIANT, axis_floor, condition_name, method_name
from icm_core.intervals import contrast
from icm_core.variants import animal_variants, imagenet_variants, variant_split


def load_variants(
    encoder: Encoder,
    store: EmbeddingStore,
    *,
    seed: int = 0,
    world: World | Sequence[Any] | None = None,
    silhouettes: Silhouettes | None = None,
    reference: Encoder | None = None,
    images: pd.DataFrame | None = None,
    variants: Mapping[str, pd.DataFrame] | None = None,
    n: int | None = None,
) -> Environments:
    """Embed (or open) the variants of the animal world, or of ImageNet.

    ImageNet is embedded once: its interventions have seed 0, whatever `seed` is.

    Parameters
    ----------
    encoder, store, world, silhouettes, reference, images, variants, n
        As for :func:`run_variants`.
    seed : int

    Returns
    -------
    Environments

    Raises
    ------
    ValueError
        If there are neither images nor silhouettes and a world, the world's shortcut is unknown, or as
        :func:`animal_variants` and :func:`imagenet_variants`.
    """
    if images is not None:
        return imagenet_variants(encoder, images, variants or {}, store)
    if silhouettes is None or world is None:
        raise ValueError(
            f"Nothing to embed: silhouettes={silhouettes!r}, world={world!r}, images={images!r}. Give the training images "
            "of ImageNet and its variants, or silhouettes and a world."
        )
    return animal_variants(
        encoder, silhouettes, store, seed=seed, n=n, reference=reference, **strengths(world)
    )


def run_variants(
    dataset: str,
    encoder: Encoder,
    store: EmbeddingStore,
    *,
    seeds: Iterable[int],
    world: World | Sequence[Any] | None = None,
    silhouettes: Silhouettes | None = None,
    reference: Encoder | None = None,
    images: pd.DataFrame | None = None,
    variants: Mapping[str, pd.DataFrame] | None = None,
    n: int | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Evaluate every method on each variant, for each seed.

    In the animal world each seed draws new images. ImageNet is embedded once, and each seed splits its training
    images anew.

    Parameters
    ----------
    dataset : str
        ``"animal-world"``, or the name of the folder of training images.
    encoder : Encoder
    store : EmbeddingStore
    seeds : iterable of int
    world : (shortcut, strength)
        For the animal world.
    silhouettes, reference, n
        For the animal world, see :func:`animal_variants`.
    images, variants
        For ImageNet, see :func:`imagenet_variants`.
    **options
        Passed to :func:`~icm_core.evaluation.evaluate`; there is no target that ``validations`` could name.

    Returns
    -------
    DataFrame
        The rows of :func:`~icm_core.evaluation.evaluate`, whose conditions are ``in_distribution`` and the names of the
        variants, with dataset, encoder, world, shortcut, strength, target ("none") and seed.

    Raises
    ------
    ValueError
        If there is no seed, K and λ are to be chosen on a target, or as :func:`load_variants`.
    """
    seeds = tuple(seeds)
    if not seeds:
        raise ValueError("Nothing to run: there are no seeds. Give at least one.")
    if "target" in options.get("validations", ()):
        raise ValueError(
            "validations has 'target', but no variant is the target: nothing may be chosen on the images that are "
            "tested. Leave it out."
        )
    columns = {
        "dataset": dataset,
        "encoder": encoder.name,
        "world": dataset,
        "shortcut": "unknown",
        "strength": np.nan,
    }
    given: dict[str, Any] = {"images": images, "variants": variants}
    if images is None:
        given = {"world": world, "silhouettes": silhouettes, "reference": reference, "n": n}
    if images is None and world is not None:
        columns |= {"world": world_name(world), "shortcut": world[0], "strength": world[1]}
    tables = []
    for seed in tqdm(seeds, desc="seeds", unit="seed"):
        environments = load_variants(encoder, store, seed=seed, **given)
        table = evaluate(variant_split(environments, seed), **options)
        tables.append(table.assign(**columns, target="none", seed=seed))
    return pd.concat(tables, ignore_index=True)


def variant_claims(table: pd.DataFrame, over: str = "seeds") -> pd.DataFrame:
    """Judge what CLIP-ICM gains over the plain predictor of the same kind, on each variant.

    Parameters
    ----------
    table : DataFrame
        Rows of :func:`run_variants`, of one encoder and one world.
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
    kind = [name for name in ("image", "text", "image+text") if name in set(table["intervention"])][-1]
    rows = []
    for choice, how in CHOICES.items():
        for (predictor, variant), part in table.groupby(["predictor", "condition"], sort=False):
            if variant == "in_distribution":
                continue
            gain = contrast(part, (choice, kind), (BASELINE, "none"), ["condition"], over=over)
            statement = f"ICM {predictor}, {kind.replace('+', ' and ')} interventions, {how}: beats the plain {predictor} on {variant}"
            rows.append(gain_claim(f"Variants, {predictor} ({where})", statement, gain))
    return pd.DataFrame(rows)


def variants_figure(means: pd.DataFrame, title: str) -> Figure:
    """Accuracy of each method, one panel a variant; a line marks the plain predictor.

    Parameters
    ----------
    means : DataFrame
        Rows of :func:`icm_core.intervals.aggregate` with columns predictor, method, intervention, condition, value,
        low, high.
    title : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    looks = {"zero-shot": (CONTEXT, "o", -0.15), "linear probe": (INVARIANT, "s", 0.15)}
    means = means.assign(name=[method_name(*pair) for pair in means[["method", "intervention"]].to_numpy()])
    names, conditions = (list(means[column].unique()) for column in ("name", "condition"))
    figure, axes = plt.subplots(
        1, len(conditions), figsize=(9, 0.36 * len(names) + 1.4), sharex=True, sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis, condition in zip(axes[0], conditions, strict=True):
        for predictor, (color, marker, shift) in looks.items():
            rows = means[(means["condition"] == condition) & (means["predictor"] == predictor)]
            error = np.nan_to_num(np.abs(rows[["low", "high"]].to_numpy().T - rows["value"].to_numpy()))
            y = [names.index(name) + shift for name in rows["name"]]
            axis.errorbar(rows["value"], y, xerr=error, fmt=marker, color=color, markersize=5, linewidth=1.6)
            for plain in rows.loc[rows["method"] == BASELINE, "value"]:
                axis.axvline(plain, color=color, linewidth=1, linestyle=":")
        axis.set(xlim=(axis_floor(means["value"]), 101), yticks=range(len(names)), yticklabels=names)
        axis.set_xlabel("accuracy (%)", fontsize=10)
        axis.set_title(condition_name.get(condition, condition), fontsize=11)
        axis.grid(axis="x")
    axes[0, 0].invert_yaxis()
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="", label=name)
        for name, (color, marker, _) in looks.items() if name in set(means["predictor"])
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def example_images(
    environments: Environments, silhouettes: Silhouettes | None = None, n: int = 12, seed: int = 0
) -> dict[str, np.ndarray]:
    """Show a few images of the source and of each variant.

    Parameters
    ----------
    environments : Environments
        As :func:`animal_variants` or :func:`imagenet_variants` returns them.
    silhouettes : Silhouettes, optional
        Those of the animal world, to render its images again; image files are read.
    n : int
        Images of each.
    seed : int

    Returns
    -------
    dict of str to ndarray of shape (n, 3, height, width), uint8
        For :func:`~icm_core.figures.image_grid`.
    """
    tests = variant_split(environments, seed).tests
    shown = {}
    for name, table in (
        {"source": environments.source} | {key: tests[key] for key in environments.domains}
    ).items():
        size = table.sizes["row"]
        rows = table.isel(row=np.random.default_rng(seed).permutation(size)[:n])
        if silhouettes is not None:
            shown[name] = render(rows.coords.to_dataset().to_dataframe(), silhouettes).numpy()
        else:
            squares = [ImageOps.fit(read_image(path), (128, 128)) for path in rows["path"].to_numpy()]
            shown[name] = np.stack([np.asarray(image).transpose(2, 0, 1) for image in squares])
    return shown
