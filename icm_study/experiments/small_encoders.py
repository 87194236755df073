"""Does the method survive poor identifiability? Narrow encoders, and briefly trained ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from icm_core.prediction import unit_rows
from icm_study.embedding.tables import EmbeddedData, pairs_in
from icm_study.encoders.animal_clip import SHIPPED
from icm_study.experiments.animal_encoders import Variants, train_variants
from icm_study.experiments.information import invariant_information
from icm_study.experiments.linearity import ALL, PAIRS, linearity, without_shortcut
from icm_study.experiments.questions import accuracies, open_animals, projected

TRAINED, NARROWED, AS_SHIPPED = "trained briefly", "narrowed", "shipped"


def narrowed(data: EmbeddedData, width: int) -> EmbeddedData:
    """Make the encoder narrower: both towers keep the directions that they share most.

    The last layer of a CLIP's tower is linear. Here each gets another one in front of the
    normalisation, the best of its width by the covariance of images and captions.

    Parameters
    ----------
    data : EmbeddedData
        With captions.
    width : int

    Returns
    -------
    EmbeddedData
        Images only, of unit length.

    Raises
    ------
    ValueError
        If the width is not between 1 and that of the embedding.
    """
    if not 1 <= width <= data.source.sizes["feature"]:
        raise ValueError(
            f"width is {width}; expected 1 to {data.source.sizes['feature']}, that of the encoder."
        )
    image, caption = (data.source[name].to_numpy() for name in ("original", "caption"))
    cross = (image - image.mean(axis=0)).T @ (caption - caption.mean(axis=0))
    kept = np.linalg.svd(cross)[0][:, :width]

    def narrow(table: xr.Dataset, names: tuple[str, ...]) -> xr.Dataset:
        rows = {name: (("row", "feature"), unit_rows(table[name].to_numpy() @ kept))
                for name in names}  # fmt: skip
        return xr.Dataset(rows, table.coords)

    source = narrow(data.source, ("original", "image", "oracle"))
    return replace(data, source=source, test=narrow(data.tested, ("original",)))


def run_encoders(given: Mapping[str, Any]) -> pd.DataFrame:
    """Set what each encoder identifies beside what CLIP-ICM gains with it.

    Parameters
    ----------
    given : mapping of str to value
        *seeds*, *n_compared*, *cache*, *encoders* (a folder), *encoder_seeds*, *widths*,
        *lengths* and *narrow*.

    Returns
    -------
    DataFrame
        Columns kind, encoder, seed, width; forward and with_pairs (R² of the embedding from the
        factors), r2_class and so on (R² of each factor from the embedding), r2 (their mean),
        bits (of the invariant factors, from the oracle's pairs); and for plain, image and
        oracle the K and the accuracies, such as image_reversed.
    """
    rows = []
    for kind, name, seed, data in _encoders(given):
        X, factors = without_shortcut(data)
        read = linearity(X, factors)
        ways = {way: part.set_index("factor") for way, part in read.groupby("way")}
        forward = ways["embedding from factors"]["r2"]
        back = ways["factor from embedding"].query("reading == 'linear'")["r2"]
        told = {
            "kind": kind, "encoder": name, "seed": seed, "width": X.shape[1],
            "forward": forward[ALL], "with_pairs": forward[PAIRS], "r2": back.mean(),
            "bits": invariant_information(*pairs_in(data.source, "oracle")).bits,
        }  # fmt: skip
        told |= {f"r2_{factor}": value for factor, value in back.items()}
        for way in ("plain", "image", "oracle"):
            got = accuracies(data, None if way == "plain" else projected(way))
            told |= {f"{way}_{condition}": value for condition, value in got.items()}
        rows.append(told)
    return pd.DataFrame(rows)


def _encoders(given: Mapping[str, Any]) -> Iterator[tuple[str, str, int, EmbeddedData]]:
    """Give kind, name, seed of the data and data of each encoder."""
    shared = {"n_images": given["n_images"], "cache": given["cache"], "seeds": given["seeds"]}
    for name in SHIPPED:
        for seed, _, _, data in open_animals({**shared, "encoder": name}):
            yield AS_SHIPPED, name, seed, data
            if name == given["encoder"]:
                for width in given["narrow"]:
                    yield NARROWED, f"{name}, width {width}", seed, narrowed(data, width)
    variants = Variants(given["encoder_seeds"], given["widths"], given["lengths"])
    for name, encoder in train_variants(variants, Path(given["encoders"])).items():
        own = {**shared, "seeds": given["seeds"][:1], "n_images": given["n_compared"]}
        for seed, _, _, data in open_animals(own, encoder):
            yield TRAINED, name, seed, data
