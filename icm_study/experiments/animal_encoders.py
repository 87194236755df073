"""Compare small CLIPs that differ in seed, width and length of training.

In the animal world every factor of an image is known. So it can be measured how well the
factors are read from each encoder, and set beside how well one encoder is a linear map of
another: does agreement between encoders tell whether the factors are identified?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from icm_study.animals.latents import LEXICON, captions, sample_latents
from icm_study.animals.silhouettes import load_silhouettes
from icm_study.experiments.agreement import OWN, SHUFFLED, agreement
from icm_study.experiments.diagnosis import read_factor
from icm_study.experiments.diversity import text_span

if TYPE_CHECKING:
    from icm_study.encoders.encoder import Encoder

FACTORS = ("label", *LEXICON)
UNTRAINED = "untrained"  # of an encoder that has seen a single batch: its rate is zero


@dataclass(frozen=True)
class Variants:
    """The encoders that are trained, each from a seed of its own.

    Attributes
    ----------
    seeds : sequence of int
    widths : sequence of int
        Dimensions of the embedding; the first is that of all lengths and seeds, the others
        are trained for the longest time from the first seed.
    lengths : sequence of int
        Image-caption pairs to see; a single batch is no training at all.
    """

    seeds: Sequence[int]
    widths: Sequence[int]
    lengths: Sequence[int]

    def recipes(self) -> list[dict[str, int]]:
        """List what differs between them: seed, embed_dim and samples."""
        own, *others = self.widths
        usual = [(seed, own, length) for seed in self.seeds for length in self.lengths]
        wide = [(self.seeds[0], width, max(self.lengths)) for width in others]
        keys = ("seed", "embed_dim", "samples")
        return [dict(zip(keys, values, strict=True)) for values in [*usual, *wide]]


def train_variants(variants: Variants, folder: str | Path) -> dict[str, Encoder]:
    """Train the encoders, or take them from the folder, where each is kept when it is trained."""
    from icm_study.encoders.animal_pretraining import TRAINING, train

    trained = {}
    for recipe in variants.recipes():
        seed, width, samples = (recipe[key] for key in ("seed", "embed_dim", "samples"))
        seen = f"{samples:,} pairs" if samples >= 2 * TRAINING["batch_size"] else UNTRAINED
        trained[f"seed {seed}, width {width}, {seen}"] = train(
            f"seed{seed}_width{width}_{samples}pairs",
            Path(folder),
            samples=samples,
            images=samples,
            checkpoint_every=samples,
            recipe={**recipe, "coat_strength": 0.0, "scene_strength": 0.0},
        )
    return trained


def compare(encoders: Mapping[str, Encoder], n_images: int) -> dict[str, pd.DataFrame]:
    """Measure what is read from each encoder, and what each two of them agree on.

    Parameters
    ----------
    encoders : mapping of str to Encoder
    n_images : int
        Images without a shortcut, of animals that no encoder was trained on.

    Returns
    -------
    dict of str to DataFrame
        ``"read"``: encoder, factor, r2 (of a ridge regression on new images).
        ``"spans"``: encoder, dimension, text_rank (directions that captions span), outside
        (share of the images' variance that lies in none of these), and class_outside and
        scene_outside (R² of these two from that part alone).
        ``"pairs"``: first, second, control, agreement (R² of a linear map of one to the
        other, the mean of both ways), and read (the mean R² of the factors, of the encoder
        from which they are read worse).
    """
    from icm_study.animals.rendering import render

    silhouettes = load_silhouettes()
    latents = sample_latents(silhouettes, "test", n=n_images, seed=0)
    pixels = render(latents, silhouettes)
    texts = captions(latents, left_out=0.3, seed=0)
    half = np.random.default_rng(0).permutation(n_images) % 2 == 0
    images, read, spans = {}, [], []
    for name, encoder in encoders.items():
        images[name] = encoder.encode_images(pixels)
        values = {factor: latents[factor].to_numpy() for factor in FACTORS}
        r2 = {factor: read_factor(images[name], values[factor], half)[1] for factor in FACTORS}
        read += [{"encoder": name, "factor": key, "r2": value} for key, value in r2.items()]
        spans.append({"encoder": name, **_outside(encoder, images[name], texts, values, half)})
    known = pd.DataFrame(read)
    mean = known.groupby("encoder")["r2"].mean()
    pairs = [
        {
            "first": one, "second": other, "control": control,
            "agreement": float(
                np.mean([_agreement(images[a], images[b], control)
                         for a, b in ((one, other), (other, one))])
            ),
            "read": min(mean[one], mean[other]),
        }
        for one, other in combinations(images, 2)
        for control in (OWN, SHUFFLED)
    ]  # fmt: skip
    return {"read": known, "spans": pd.DataFrame(spans), "pairs": pd.DataFrame(pairs)}


def _outside(
    encoder: Encoder,
    images: NDArray[np.floating],
    texts: Sequence[str],
    values: Mapping[str, NDArray[np.integer]],
    half: NDArray[np.bool_],
) -> dict[str, float]:
    """Measure the part of the images' embeddings that lies in no direction of the texts."""
    inside = text_span(encoder.encode_text(texts))
    told = {"dimension": images.shape[1], "text_rank": len(inside), "outside": 0.0}
    read = {"class_outside": "label", "scene_outside": "scene"}
    if len(inside) == images.shape[1]:
        return told | dict.fromkeys(read, np.nan)
    centred = images.astype(np.float64) - images.mean(axis=0, dtype=np.float64)
    outside = centred - centred @ inside.T @ inside
    share = float(np.square(outside).sum() / np.square(centred).sum())
    r2 = {name: read_factor(outside, values[factor], half)[1] for name, factor in read.items()}
    return told | {"outside": share} | r2


def _agreement(X: NDArray[np.floating], Y: NDArray[np.floating], control: str) -> float:
    return float(agreement(X, Y, control=control)["r2"].mean())
