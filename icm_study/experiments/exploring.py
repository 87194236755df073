"""One setting of CLIP-ICM at a time, answered at once from cached embeddings."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from icm_core.projection import InvariantProjection
from icm_study.embedding.tables import EmbeddedData, Embedder, available
from icm_study.experiments.task import Task, make_task
from icm_study.methods.base import Method
from icm_study.methods.maps import ICM, Plain
from icm_study.methods.sources import Images
from icm_study.testbeds.base import TestBed


@dataclass(frozen=True)
class Setting:
    """What is turned: the domain left out, the pairs, λ, K, and what predicts."""

    target: str | None
    intervention: str
    consistency_weight: float
    n_components: int
    predictor: str


@dataclass(frozen=True)
class Answer:
    """What a setting does.

    Attributes
    ----------
    shares : ndarray of shape (D,)
        What the interventions re-draw of each component, in the order in which they are kept.
    accuracy : dict of str to (plain, projected)
        In percent, under each condition.
    condition : str
        The one that `confusion` and `changed` are about: the target.
    confusion : ndarray of shape (n_classes, n_classes)
        How many images of each class (rows) the projection takes for each (columns).
    changed : Images
        Those that the two predict differently, at most twelve.
    before, after : ndarray of int
        The labels that the plain embedding and the projection give to these.
    """

    shares: NDArray[np.float64]
    accuracy: dict[str, tuple[float, float]]
    condition: str
    confusion: NDArray[np.intp]
    changed: Images
    before: NDArray[np.intp]
    after: NDArray[np.intp]


class Exploration:
    """A test bed that is divided once for each target, and then answers for any setting.

    Parameters
    ----------
    bed : TestBed
    embedder : Embedder
    seed : int
        Of the images that a simulator draws, and of the split.

    Raises
    ------
    ValueError, OSError
        As the test bed's ``embed``.
    """

    def __init__(self, bed: TestBed, embedder: Embedder, seed: int) -> None:
        self.bed, self.seed = bed, seed
        self._embedder = embedder
        self._data: EmbeddedData = bed.embed(embedder, seed)
        self._tasks: dict[str | None, Task] = {}
        self._plain: dict[tuple[str | None, str], Method] = {}

    @property
    def interventions(self) -> tuple[str, ...]:
        """The kinds of pairs that there are."""
        return available(self._data.source if self._data.pairs is None else self._data.pairs)

    @property
    def n_features(self) -> int:
        """Dimension D of the embedding."""
        return self._data.source.sizes["feature"]

    def predictors(self, target: str | None) -> tuple[str, ...]:
        """Name what can predict for a target."""
        return self._task(target).sources.predictors

    def answer(self, setting: Setting) -> Answer:
        """Fit a setting on the sources, and measure it beside the plain embedding.

        Parameters
        ----------
        setting : Setting

        Returns
        -------
        Answer

        Raises
        ------
        ValueError
            If there are no such pairs, or λ or K are out of range.
        """
        task = self._task(setting.target)
        sources = replace(task.sources, predictors=(setting.predictor,))
        key = setting.target, setting.predictor
        if key not in self._plain:
            self._plain[key] = Plain().fit(sources)
        projected = ICM(setting.intervention, setting.n_components, setting.consistency_weight)
        projected.fit(sources)

        labels = {
            condition: tuple(
                _labels(method, setting.predictor, images, task.candidates.get(condition))
                for method in (self._plain[key], projected)
            )
            for condition, images in task.tests.items()
        }
        accuracy = {
            condition: (100 * float(np.mean(plain == own)), 100 * float(np.mean(new == own)))
            for condition, (plain, new) in labels.items()
            for own in [task.tests[condition].label]
        }
        condition = task.target if task.target in task.tests else next(iter(task.tests))
        images, (plain, new) = task.tests[condition], labels[condition]
        confusion = np.zeros((len(sources.words),) * 2, dtype=np.intp)
        np.add.at(confusion, (images.label, new), 1)
        changed = np.flatnonzero(plain != new)
        changed = np.sort(np.random.default_rng(0).permutation(changed)[:12])
        return Answer(
            self._shares(task, setting), accuracy, condition, confusion,
            images.take(changed), plain[changed], new[changed],
        )  # fmt: skip

    def _task(self, target: str | None) -> Task:
        if target not in self._tasks:
            self._tasks[target] = make_task(self.bed, self._embedder, self._data, target, self.seed)
        return self._tasks[target]

    def _shares(self, task: Task, setting: Setting) -> NDArray[np.float64]:
        """Give the shares of all components; they depend on λ and the pairs, and not on K."""
        whole = InvariantProjection(self.n_features, consistency_weight=setting.consistency_weight)
        whole.fit_moments(task.sources.moments(setting.intervention))
        return whole.intervention_share_


def _labels(
    method: Method, predictor: str, images: Images, among: NDArray[np.integer] | None
) -> NDArray[np.intp]:
    scores = method.scores(images)[predictor]
    if among is not None:
        scores[:, np.setdiff1d(np.arange(scores.shape[1]), among)] = -np.inf
    return scores.argmax(axis=1)
