"""Concept shift: classes that no pair has shown appear together with a domain that none has shown.

The subspace is fitted on half of the classes in three styles. Zero-shot is then asked in the
fourth style for the other half: *open*, where only new classes are among the answers, and
*mixed*, where images and answers are of all classes. What newness costs is the difference to
a subspace that is fitted on all classes in the same styles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from icm_core.moments import PairMoments
from icm_core.prediction import ZeroShotClassifier
from icm_core.projection import InvariantProjection
from icm_study.embedding.tables import pair_moments
from icm_study.experiments.animal_tasks import AnimalTask, animal_tasks
from icm_study.experiments.intervals import pack
from icm_study.experiments.modality import fit_quietly
from icm_study.testbeds.base import PROTOCOLS

PLAIN, CONTROL = "plain", "pairs of different classes"
KINDS = ("image", "text", "image+text", "oracle")
OPEN, MIXED, SEEN = "open", "mixed", "seen"
ALL = ", fitted on all classes"


def zero_shot_hits(
    prompts: NDArray[np.floating],
    prompt_label: NDArray[np.integer],
    X: NDArray[np.floating],
    label: NDArray[np.integer],
    among: NDArray[np.integer],
) -> NDArray[np.bool_]:
    """Whether zero-shot finds the class of each image among some of the classes.

    Parameters
    ----------
    prompts : ndarray of shape (n_prompts, K)
    prompt_label : ndarray of shape (n_prompts,)
    X : ndarray of shape (n, K)
        Embeddings of images, in the space of the prompts.
    label : ndarray of shape (n,)
    among : ndarray
        The classes to choose among.

    Raises
    ------
    ValueError
        If no prompt names a class of these.
    """
    known = np.isin(prompt_label, among)
    if not known.any():
        raise ValueError(f"No prompt names a class of {sorted(among)}; expected one for each.")
    fitted = ZeroShotClassifier().fit(prompts[known], prompt_label[known])
    return fitted.predict(X) == label


def new_classes(given: Mapping[str, Any]) -> pd.DataFrame:
    """Measure zero-shot on classes and in a style that the subspace has not seen.

    λ is 1 and K the number of positive eigenvalues, so nothing is chosen.

    Returns
    -------
    DataFrame
        Columns target, seed, method, condition (:data:`OPEN`, :data:`MIXED`, or :data:`SEEN`,
        the classes that were fitted on, among themselves), K, n, value (percent), correct.
    """
    rows = []
    for one in animal_tasks(given, PROTOCOLS[2]):
        task = one.task
        moments = {f"ICM {kind}": task.sources.moments(kind) for kind in KINDS}
        moments |= {f"ICM {kind}{ALL}": _of_all_classes(one, kind) for kind in KINDS}
        images = task.sources.images
        moments[CONTROL] = _of_different_classes(images.embedded, images.label, one.where["seed"])
        maps = {PLAIN: np.eye(task.sources.prompts.shape[1])}
        for name, pairs in moments.items():
            fitted = fit_quietly(InvariantProjection("auto", consistency_weight=1.0), pairs)
            maps[name] = fitted.components_
        for name, components in maps.items():
            for condition, correct in _tested(task, components).items():
                rows.append(
                    one.where
                    | {"method": name, "condition": condition, "K": len(components)}
                    | {"n": len(correct), "value": 100 * float(correct.mean())}
                    | {"correct": pack(correct)}
                )
    return pd.DataFrame(rows)


def _tested(task: Any, components: NDArray[np.floating]) -> dict[str, NDArray[np.bool_]]:
    prompts, prompt_label = task.sources.prompts @ components.T, task.sources.prompt_label
    seen, new = task.tests["seen_classes"], task.tests["new_classes"]
    X = {name: part.embedded @ components.T for name, part in (("seen", seen), ("new", new))}
    everything = np.concatenate([X["seen"], X["new"]])
    labels = np.concatenate([seen.label, new.label])
    asked = {
        OPEN: (X["new"], new.label, np.unique(new.label)),
        MIXED: (everything, labels, np.unique(labels)),
        SEEN: (X["seen"], seen.label, np.unique(seen.label)),
    }
    return {name: zero_shot_hits(prompts, prompt_label, *of) for name, of in asked.items()}


def _of_all_classes(one: AnimalTask, kind: str) -> PairMoments:
    source = one.data.source
    kept = (source["domain"] != one.target) & (source["oracle_domain"] != one.target)
    return pair_moments(source.isel(row=kept.to_numpy()), kind)


def _of_different_classes(
    X: NDArray[np.floating], label: NDArray[np.integer], seed: int
) -> PairMoments:
    """Moments of pairs that change everything: each image with one of another class."""
    rng = np.random.default_rng(seed)
    partner = np.array([rng.choice(np.flatnonzero(label != own)) for own in label])
    return PairMoments(X.shape[1]).update(X, X[partner])
