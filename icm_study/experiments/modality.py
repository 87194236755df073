"""The modality as the environment: a probe is trained on images and tested on captions, or back.

A pair is an image and its own caption: what they share is what both show, and what differs is
that one is a picture and one a text. So the pairs are interventions on the modality, and
CLIP-ICM should make a probe carry over. What it costs is measured on the task that CLIP is
trained for: to find the caption of an image, and the image of a caption.

Pairs are dealt into five folds. Everything is fitted without a fold and tested on it, so
each pair is tested once.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import clone

from icm_core.moments import PairMoments
from icm_core.prediction import LinearProbe, unit_rows
from icm_core.projection import InvariantProjection
from icm_core.selection import logistic_path
from icm_study.experiments.agreement import folds
from icm_study.experiments.intervals import pack
from icm_study.experiments.retrieval import recall
from icm_study.photographs.real_clip import RealClip
from icm_study.text.keywords import CLASSINGS, label_by_keywords

DIRECTIONS = {"images to captions": ("image", "text"), "captions to images": ("text", "image")}
PENALTIES = (0.01, 0.316, 10.0)  # values of the probe's C
TUNED = "chosen on the sources"
AFTER = "recall@1, centred after"
ICM, AUTO, SHUFFLED = "ICM", "ICM auto", "ICM, shuffled pairs"
PLAIN, CENTRED, DROPPED = "plain", "centred", "mean difference dropped"
SAME_K, AUTO_K = "PCA, K of ICM", "PCA, K of ICM auto"
RELEASED, RELEASED_DEFAULT = "released order, K and λ of ICM", "released order, λ = 1000, K = 16"
WEIGHTS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
SIZES = (8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class SharedMap:
    """A linear map of both modalities, each about a point of its own.

    Attributes
    ----------
    components : ndarray of shape (K, D)
    centres : mapping of str to ndarray of shape (D,)
        What is subtracted before, by modality; nothing where it is not named.
    K, consistency_weight : float
        Of a projection, as far as it has them.
    """

    components: NDArray[np.floating]
    centres: Mapping[str, NDArray[np.floating]]
    K: float = np.nan
    consistency_weight: float = np.nan

    def __call__(self, rows: NDArray[np.floating], modality: str) -> NDArray[np.floating]:
        """Map embeddings of a modality."""
        return (rows - self.centres.get(modality, 0.0)) @ self.components.T


@dataclass(frozen=True)
class Fold:
    """Pairs to fit on and pairs to test on; `source` is the modality that is trained on."""

    direction: str
    train: Mapping[str, NDArray[np.floating]]
    test: Mapping[str, NDArray[np.floating]]
    rows: tuple[NDArray[np.intp], NDArray[np.intp]]

    @property
    def source(self) -> str:
        """The modality that a probe is trained on."""
        return DIRECTIONS[self.direction][0]

    @property
    def target(self) -> str:
        """The modality that it has not seen."""
        return DIRECTIONS[self.direction][1]

    def moments(self, order: NDArray[np.intp] | slice = slice(None)) -> PairMoments:
        """Moments of the pairs, from the source to the target, in another order of the latter."""
        source, target = self.train[self.source], self.train[self.target][order]
        return PairMoments(source.shape[1]).update(source, target)


def run_modality(clip: RealClip, released: InvariantProjection) -> dict[str, pd.DataFrame]:
    """Run all of it.

    Parameters
    ----------
    clip : RealClip
    released : InvariantProjection
        Unfitted; keeps what the code released with the paper keeps.

    Returns
    -------
    dict of str to DataFrame
        ``"probe"``: classes, target (the direction), seed, method, penalty, condition ("unseen":
        the other modality, "in_distribution": the same), n, value (percent), correct (see
        :func:`~icm_study.experiments.intervals.pack`). ``"retrieval"``: the same with the
        conditions "recall@1" and so on, and :data:`AFTER`, where each modality is centred behind
        the map; its target "images to captions" searches captions with images.
        ``"kept"``: direction, method, K, consistency_weight, and, fold by fold, the shares that a
        map keeps of the scatter between classes, of what images and captions have in common, and
        of what differs within pairs. ``"grid"``: direction, K, consistency_weight, unseen,
        recall (percent).
    """
    labels = {name: label_by_keywords(clip.caption, words) for name, words in CLASSINGS.items()}
    kept, grid = [], []
    hits: dict[tuple[str, ...], list[tuple[NDArray, NDArray]]] = {}
    for fold in pair_folds(clip):
        maps = _maps(fold, released)
        for method, mapped in maps.items():
            train = {name: mapped(rows, name) for name, rows in fold.train.items()}
            test = {name: mapped(rows, name) for name, rows in fold.test.items()}
            means = {name: rows.mean(axis=0) for name, rows in train.items()}
            centred = {name: rows - means[name] for name, rows in test.items()}
            found = searched(fold, test) | {AFTER: searched(fold, centred)["recall@1"]}
            for condition, right in found.items():
                key = ("", fold.direction, method, "", condition)
                hits.setdefault(key, []).append((fold.rows[1], right))
            for classes, label in labels.items():
                for (penalty, condition), tested in _probed(fold, train, test, label).items():
                    key = (classes, fold.direction, method, penalty, condition)
                    hits.setdefault(key, []).append(tested)
            kept.append(_kept(fold, mapped, labels["things"]) | {"method": method})
        grid += _grid(fold, labels["things"])
    told = pd.DataFrame([_row(key, parts) for key, parts in hits.items()])
    is_probe = told["classes"] != ""
    cells = ["direction", "K", "consistency_weight"]
    return {
        "probe": told[is_probe].reset_index(drop=True),
        "retrieval": told[~is_probe].drop(columns=["classes", "penalty"]).reset_index(drop=True),
        "kept": pd.DataFrame(kept),
        "grid": pd.DataFrame(grid).groupby(cells, as_index=False).mean(),
    }


def count_classes(clip: RealClip) -> pd.DataFrame:
    """Count the captions of each class, for each way to make classes; "none" is left out."""
    rows = []
    for name, words in CLASSINGS.items():
        label = label_by_keywords(clip.caption, words)
        counts = {key: int((label == i).sum()) for i, key in enumerate(words)}
        rows += [
            {"classes": name, "class": key, "n": n, "words": ", ".join(words.get(key, ()))}
            for key, n in {**counts, "none": int((label < 0).sum())}.items()
        ]
    return pd.DataFrame(rows)


def pair_folds(clip: RealClip) -> Iterator[Fold]:
    """Deal the pairs of an image and its caption into folds, once for each direction."""
    whole = {"image": clip.image, "text": clip.text}
    for direction in DIRECTIONS:
        for _, train, test in folds(len(clip.image)):
            fitted, tested = (
                {name: rows[part] for name, rows in whole.items()} for part in (train, test)
            )
            yield Fold(direction, fitted, tested, (train, test))


def _maps(fold: Fold, released: InvariantProjection) -> dict[str, SharedMap]:
    moments = fold.moments()
    eye = np.eye(moments.n_features)
    means = {name: rows.mean(axis=0, dtype=np.float64) for name, rows in fold.train.items()}
    gap = unit_rows((means["image"] - means["text"])[None])
    icm = InvariantProjection().fit_moments(moments)
    k, weight = icm.n_components_, icm.consistency_weight_
    shuffled = np.random.default_rng(0).permutation(len(fold.rows[0]))
    auto = fit_quietly(InvariantProjection("auto", consistency_weight=1.0), moments)
    fitted = {
        ICM: icm,
        AUTO: auto,
        SAME_K: InvariantProjection(k, consistency_weight=0.0).fit_moments(moments),
        AUTO_K: InvariantProjection(auto.n_components_, consistency_weight=0.0).fit_moments(
            moments
        ),
        SHUFFLED: fit_quietly(InvariantProjection(), fold.moments(shuffled)),
        RELEASED: _with(released, k, weight).fit_moments(moments),
        RELEASED_DEFAULT: _with(released, 16, 1000.0).fit_moments(moments),
    }
    return {
        PLAIN: SharedMap(eye, {}),
        CENTRED: SharedMap(eye, means),
        DROPPED: SharedMap(eye - gap.T @ gap, {}),
        **{
            name: SharedMap(one.components_, {}, one.n_components_, one.consistency_weight_)
            for name, one in fitted.items()
        },
    }


def _with(projection: InvariantProjection, k: int, weight: float) -> InvariantProjection:
    return clone(projection).set_params(n_components=k, consistency_weight=weight)


def fit_quietly(projection: InvariantProjection, moments: PairMoments) -> InvariantProjection:
    """Fit where it warns of what this experiment is about: few pairs, or nothing invariant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="On pairs held out")
        warnings.filterwarnings("ignore", message="n_components='auto' keeps")
        return projection.fit_moments(moments)


def _probed(
    fold: Fold, train: Mapping[str, NDArray], test: Mapping[str, NDArray], label: NDArray[np.intp]
) -> dict[tuple[str, str], tuple[NDArray, NDArray]]:
    """Rows that were tested, and whether they were right, by penalty and condition."""
    known, tested = (rows[label[rows] >= 0] for rows in fold.rows)
    y, X = label[known], train[fold.source][label[fold.rows[0]] >= 0]
    sets = {
        name: test[modality][label[fold.rows[1]] >= 0]
        for name, modality in (("unseen", fold.target), ("in_distribution", fold.source))
    }
    scores = []
    for C in PENALTIES:
        parts = [np.arange(len(y)) % 5 == part for part in range(5)]
        scores.append(np.mean([LinearProbe(C).fit(X[~p], y[~p]).score(X[p], y[p]) for p in parts]))
    probes = {f"C = {C:g}": LinearProbe(C).fit(X, y) for C in PENALTIES}
    probes[TUNED] = list(probes.values())[int(np.argmax(scores))]
    return {
        (name, condition): (tested, probe.predict(rows) == label[tested])
        for name, probe in probes.items()
        for condition, rows in sets.items()
    }


def searched(fold: Fold, test: Mapping[str, NDArray]) -> dict[str, NDArray[np.bool_]]:
    """Tell for each k whether the own partner is among the first; a tie is no hit."""
    own = np.eye(len(test[fold.source]), dtype=bool)
    hits = recall(test[fold.source], test[fold.target], own)
    return {f"recall@{k}": hit for k, hit in hits.items()}


def _kept(fold: Fold, mapped: SharedMap, label: NDArray[np.intp]) -> dict[str, Any]:
    """Shares of three second moments of the test pairs that lie in the subspace of a map."""
    _, size, axes = np.linalg.svd(mapped.components, full_matrices=False)
    basis = axes[size > 1e-9].T
    rows = {name: part.astype(np.float64) for name, part in fold.test.items()}
    centred = {name: part - part.mean(axis=0) for name, part in rows.items()}
    y = label[fold.rows[1]]
    means = [
        np.sqrt((y == one).sum()) * centred[fold.source][y == one].mean(axis=0)
        for one in np.unique(y[y >= 0])
    ]
    common = centred["image"].T @ centred["text"]
    change = rows["image"] - rows["text"]
    if mapped.centres:
        change = change - change.mean(axis=0)
    whole = rows["image"] - rows["text"]
    return {
        "direction": fold.direction,
        "K": mapped.K,
        "consistency_weight": mapped.consistency_weight,
        "between classes": _share(np.array(means), basis),
        "in common": float(np.trace(basis.T @ common @ basis) / np.trace(common)),
        "within pairs": float(np.square(change @ basis).sum() / np.square(whole).sum()),
    }


def _share(rows: NDArray[np.floating], basis: NDArray[np.floating]) -> float:
    return float(np.square(rows @ basis).sum() / np.square(rows).sum())


def _grid(fold: Fold, label: NDArray[np.intp]) -> list[dict[str, Any]]:
    moments = fold.moments()
    known, tested = (label[rows] >= 0 for rows in fold.rows)
    path = logistic_path(fold.train[fold.source][known], label[fold.rows[0]][known], 0.316)
    y, rows = label[fold.rows[1]][tested], fold.test[fold.target][tested]
    sizes = [k for k in SIZES if k <= moments.n_features]
    cells = []
    for weight in WEIGHTS:
        whole = InvariantProjection(sizes[-1], consistency_weight=weight).fit_moments(moments)
        predicted = path(whole, rows, sizes)
        for k, labels in zip(sizes, predicted, strict=True):
            mapped = whole.truncate(k)
            test = {name: mapped.transform(part) for name, part in fold.test.items()}
            recall = searched(fold, test)["recall@1"]
            scores = {"unseen": (labels == y).mean(), "recall": recall.mean()}
            cells.append(
                {"direction": fold.direction, "K": k, "consistency_weight": weight}
                | {name: 100 * float(value) for name, value in scores.items()}
            )
    return cells


def _row(key: tuple[str, ...], parts: list[tuple[NDArray, NDArray]]) -> dict[str, Any]:
    """Put the folds of a run in the order of the pairs."""
    classes, direction, method, penalty, condition = key
    rows, hits = (np.concatenate(part) for part in zip(*parts, strict=True))
    correct = hits[np.argsort(rows)]
    return {
        "classes": classes, "target": direction, "seed": 0, "method": method, "penalty": penalty,
        "condition": condition, "n": len(correct), "value": 100 * float(correct.mean()),
        "correct": pack(correct),
    }  # fmt: skip
