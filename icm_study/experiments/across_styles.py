"""Retrieval across styles: what a projection gives and costs where partners are searched.

*Another picture of the animal*: an image in the unseen style searches for the same animal,
rendered in a seen style with another coat and scene. *An image of the class*: a text that
names the class, and variant values that the image does not have, searches among images of the
unseen style. *The image of the caption*: a caption searches for its own image, and all that
it says counts, also what an intervention would change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from icm_core.moments import PairMoments
from icm_core.projection import InvariantProjection
from icm_study.experiments.animal_tasks import AnimalTask, animal_tasks
from icm_study.experiments.intervals import pack
from icm_study.experiments.modality import fit_quietly
from icm_study.experiments.retrieval import recall

PLAIN, PCA, CONTROL = "plain", "PCA, K of ICM image+text", "ICM, shuffled pairs"
KINDS = ("image", "text", "image+text", "oracle")
ANIMAL, CLASS, OWN = (
    "image to image: the same animal", "text to image: the class", "caption to its own image",
)  # fmt: skip


def across_styles(given: Mapping[str, Any]) -> pd.DataFrame:
    """Search across styles before and after the projection; each style is unseen in turn.

    λ is 1 and K the number of positive eigenvalues, so nothing is chosen.

    Returns
    -------
    DataFrame
        Columns target, seed, method, task, condition ("recall@1" and so on), K, n, value
        (percent) and correct.
    """
    rows = []
    for one in animal_tasks(given):
        searches = _searches(one)
        for name, components in _maps(one).items():
            for task, (queries, gallery, relevant) in searches.items():
                found = recall(queries @ components.T, gallery @ components.T, relevant)
                rows += [
                    one.where
                    | {"method": name, "task": task, "condition": f"recall@{k}"}
                    | {"K": len(components), "n": len(hit), "value": 100 * float(hit.mean())}
                    | {"correct": pack(hit)}
                    for k, hit in found.items()
                ]
    return pd.DataFrame(rows)


def _searches(one: AnimalTask) -> dict[str, tuple[NDArray, NDArray, NDArray[np.bool_]]]:
    """Give queries, gallery and what is relevant; no row of these was fitted on."""
    source = one.data.source
    crossing = (source["domain"] == one.target) & (source["oracle_domain"] != one.target)
    rows = source.isel(row=crossing.to_numpy())
    image, other, caption, edit = (
        rows[name].to_numpy().astype(np.float64)
        for name in ("original", "oracle", "caption", "edit")
    )
    label = rows["label"].to_numpy()
    itself = np.eye(len(label), dtype=bool)
    return {
        ANIMAL: (image, other, itself),
        CLASS: (edit, image, label[:, None] == label),
        OWN: (caption, image, itself),
    }


def _maps(one: AnimalTask) -> dict[str, NDArray[np.floating]]:
    sources, seed = one.task.sources, one.where["seed"]
    d = sources.prompts.shape[1]
    before, after = sources.pairs("oracle")[:2]
    order = np.random.default_rng(seed).permutation(len(before))
    moments = {f"ICM {kind}": sources.moments(kind) for kind in KINDS}
    moments[CONTROL] = PairMoments(d).update(before, after[order])
    maps: dict[str, NDArray[np.floating]] = {PLAIN: np.eye(d)}
    for name, pairs in moments.items():
        fitted = fit_quietly(InvariantProjection("auto", consistency_weight=1.0), pairs)
        maps[name] = fitted.components_
    k = len(maps["ICM image+text"])
    same = InvariantProjection(k, consistency_weight=0.0)
    maps[PCA] = same.fit_moments(moments["ICM image+text"]).components_
    return maps
