"""Must image and text share one subspace? One map for both, one for each, and centred ones.

The paper projects images and texts by one matrix. The alternatives: each modality keeps the
directions that its own pairs leave alone (*separate*; both stay in the common space, x becomes
AᵀA x, so cosines still mean something), and each is *centred* on its own mean first. As the
control, each is written in the basis of its own subspace (*own bases*): then nothing says
which of its coordinates belongs to which of the other's, and zero-shot must fail.

On real CLIP a pair is an image and its own caption, so there are no pairs of one modality.
There the separate maps are the two sides of the cross-covariance (its singular vectors), and
what is asked is retrieval.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from icm_core.moments import PairMoments, combine
from icm_core.projection import InvariantProjection
from icm_study.experiments.animal_tasks import animal_tasks
from icm_study.experiments.intervals import pack
from icm_study.experiments.modality import Fold, SharedMap, fit_quietly, pair_folds, searched
from icm_study.experiments.new_classes import zero_shot_hits
from icm_study.experiments.redrawing import Pairs
from icm_study.photographs.real_clip import open_real_clip

PLAIN, SHARED, SEPARATE = "plain", "shared", "separate"
OF_IMAGES, OF_TEXTS = "shared, image pairs alone", "shared, text pairs alone"
CENTRED, BOTH = "shared, centred", "separate, centred"
ONLY_CENTRED, CONTROL = "centred, no projection", "separate, own bases"
IMAGE, TEXT = "image", "text"

#: A map of each modality.
Maps = dict[str, SharedMap]


def arrangements(
    pairs: Mapping[str, Pairs], means: Mapping[str, NDArray[np.floating]]
) -> dict[str, Maps]:
    """Fit the ways in which the modalities can share a subspace, or not.

    λ is 1 and K the number of positive eigenvalues.

    Parameters
    ----------
    pairs : mapping of "image" and "text" to (before, after), each (n, D)
        Interventional pairs of each modality.
    means : mapping of "image" and "text" to ndarray of shape (D,)
        What each modality is centred on.

    Returns
    -------
    dict of str to dict of str to SharedMap
        For each way, the map of each modality.
    """
    own = {name: PairMoments(len(means[name])).update(*part) for name, part in pairs.items()}
    centred = {
        name: PairMoments(len(means[name])).update(*(side - means[name] for side in part))
        for name, part in pairs.items()
    }
    both, both_centred = (combine([of[IMAGE], of[TEXT]], [1.0, 1.0]) for of in (own, centred))
    eye = np.eye(len(means[IMAGE]))
    alone = {name: _components(part) for name, part in own.items()}
    k = min(map(len, alone.values()))
    return {
        PLAIN: _same(eye),
        ONLY_CENTRED: _same(eye, means),
        SHARED: _same(_components(both)),
        OF_IMAGES: _same(alone[IMAGE]),
        OF_TEXTS: _same(alone[TEXT]),
        SEPARATE: {name: SharedMap(A.T @ A, {}, len(A)) for name, A in alone.items()},
        CENTRED: _same(_components(both_centred), means),
        BOTH: {
            name: SharedMap(A.T @ A, means, len(A))
            for name, A in ((name, _components(part)) for name, part in centred.items())
        },
        CONTROL: {name: SharedMap(A[:k], {}, k) for name, A in alone.items()},
    }


def shared_subspace(given: Mapping[str, Any]) -> pd.DataFrame:
    """Zero-shot in the animal world, for each way to share a subspace.

    Images are centred on the mean of the source images, texts on that of the prompts.

    Returns
    -------
    DataFrame
        Columns target, seed, method, condition, K (of images), n, value (percent), correct.
    """
    rows = []
    for one in animal_tasks(given):
        sources = one.task.sources
        pairs = {name: sources.pairs(name)[:2] for name in (IMAGE, TEXT)}
        means = {
            IMAGE: sources.images.embedded.mean(axis=0, dtype=np.float64),
            TEXT: sources.prompts.mean(axis=0, dtype=np.float64),
        }
        for method, maps in arrangements(pairs, means).items():
            prompts = maps[TEXT](sources.prompts, TEXT)
            for condition, images in one.task.tests.items():
                X = maps[IMAGE](images.embedded, IMAGE)
                among = np.unique(sources.prompt_label)
                correct = zero_shot_hits(prompts, sources.prompt_label, X, images.label, among)
                rows.append(
                    one.where
                    | {"method": method, "condition": condition, "K": maps[IMAGE].K}
                    | {"n": len(correct), "value": 100 * float(correct.mean())}
                    | {"correct": pack(correct)}
                )
    return pd.DataFrame(rows)


def shared_on_real_clip(given: Mapping[str, Any]) -> pd.DataFrame:
    """Search with real CLIP, for each way to share a subspace, each pair tested once.

    Parameters
    ----------
    given : mapping of str to value
        *real_clip*, a folder as :func:`~icm_study.photographs.real_clip.open_real_clip` takes.

    Returns
    -------
    DataFrame
        Columns target (the direction), seed, method, condition ("recall@1" and so on), K, n,
        value (percent) and correct.
    """
    parts: dict[tuple[str, str, str], list[tuple[NDArray, NDArray, float]]] = {}
    clip = open_real_clip(given["real_clip"])
    for fold in pair_folds(clip):
        for method, maps in _of_captions(fold).items():
            test = {name: maps[name](rows, name) for name, rows in fold.test.items()}
            for condition, hit in searched(fold, test).items():
                key = fold.direction, method, condition
                parts.setdefault(key, []).append((fold.rows[1], hit, maps[IMAGE].K))
    rows = []
    for (direction, method, condition), folds in parts.items():
        place, hit = (np.concatenate([fold[i] for fold in folds]) for i in range(2))
        correct = hit[np.argsort(place)]
        rows.append(
            {"target": direction, "seed": 0, "method": method, "condition": condition}
            | {"K": float(np.mean([k for _, _, k in folds])), "n": len(correct)}
            | {"value": 100 * float(correct.mean()), "correct": pack(correct)}
        )
    table = pd.DataFrame(rows)
    table.attrs = {"data": {"real_clip": clip.fingerprint}}
    return table


def _of_captions(fold: Fold) -> dict[str, Maps]:
    """Fit the ways on pairs of an image and its caption."""
    means = {name: rows.mean(axis=0, dtype=np.float64) for name, rows in fold.train.items()}
    centred = {name: rows - means[name] for name, rows in fold.train.items()}
    eye = np.eye(len(means[IMAGE]))
    shared = _components(fold.moments())
    moments = PairMoments(len(eye)).update(centred[IMAGE], centred[TEXT])
    left, _, right = np.linalg.svd(centred[IMAGE].T @ centred[TEXT])
    k = len(shared)
    sides = {IMAGE: left[:, :k].T, TEXT: right[:k]}
    axes = {name: np.linalg.svd(rows, full_matrices=False)[2][:k] for name, rows in centred.items()}
    return {
        PLAIN: _same(eye),
        ONLY_CENTRED: _same(eye, means),
        SHARED: _same(shared),
        CENTRED: _same(_components(moments), means),
        SEPARATE: {name: SharedMap(A, {}, k) for name, A in sides.items()},
        BOTH: {name: SharedMap(A, means, k) for name, A in sides.items()},
        CONTROL: {name: SharedMap(A, means, k) for name, A in axes.items()},
    }


def _components(moments: PairMoments) -> NDArray[np.floating]:
    return fit_quietly(InvariantProjection("auto", consistency_weight=1.0), moments).components_


def _same(
    components: NDArray[np.floating], means: Mapping[str, NDArray[np.floating]] | None = None
) -> Maps:
    one = SharedMap(components, means or {}, len(components))
    return {IMAGE: one, TEXT: one}
