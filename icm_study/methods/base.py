"""What every method is given, and what it gives back.

A method is fitted on :class:`Sources`, the labelled images of the source domains with
their interventional pairs, and scores :class:`Images`. Most methods need embeddings
only; those that change the encoder also load pixels. A method answers for one predictor
or for two: *zero-shot*, where prompts tell what the classes are, and *linear probe*,
where labelled images do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator

from icm_core.prediction import LinearProbe, ZeroShotClassifier, principal_axes
from icm_study.encoders.encoder import Encoder
from icm_study.fingerprint import fingerprint
from icm_study.methods.ridge import IndicatorRidge, LinearScores
from icm_study.methods.sources import LEAST_SQUARES, PART, Images, Sources

#: Of a probe on sources that are large: it lies within as much of the smallest loss.
LARGE_TOL = 1e-3


class Method(BaseEstimator, ABC):
    """A way to adapt an encoder: its parameters are its hyperparameters, as in scikit-learn.

    Attributes
    ----------
    predictors : tuple of str
        What it answers for: ``"zero-shot"``, ``"linear probe"`` or both.
    has_stand_in : bool
        Whether its probe is one of :func:`fit_probe`, in whose place a quick one can be judged.
    n_parameters_ : dict of str to int
        For each predictor, how many numbers were learnt.
    """

    predictors: ClassVar[tuple[str, ...]] = ("zero-shot",)
    has_stand_in: ClassVar[bool] = False

    @property
    def sees_interventions(self) -> frozenset[str]:
        """The kinds of interventions that fitting looks at, such as ``"image"``."""
        return frozenset()

    @abstractmethod
    def fit(self, sources: Sources) -> Self:
        """Fit on the sources."""

    @abstractmethod
    def scores(self, images: Images) -> dict[str, np.ndarray]:
        """For each fitted predictor, class scores (n, n_classes); the largest is predicted."""


class EmbeddingMap(Method):
    """A map of the embedding, with a zero-shot classifier and a linear probe behind it.

    A subclass tells how the map is fitted, and how it acts on embeddings of images and of texts.
    """

    predictors: ClassVar[tuple[str, ...]] = ("zero-shot", "linear probe")
    has_stand_in: ClassVar[bool] = True
    #: Inverse penalty of the probe: LinearProbe's default, which says what it is, unless given.
    C: float = 0.316

    @abstractmethod
    def fit_map(self, sources: Sources) -> int:
        """Fit the map, and return how many numbers were learnt."""

    def map_text(self, embedded: np.ndarray) -> np.ndarray:
        """Map embeddings of texts, (n, D) to (n, K)."""
        return embedded

    def map_images(self, images: Images) -> np.ndarray:
        """Map images, to (n, K); by default their embeddings, as texts are."""
        return self.map_text(images.embedded)

    def fit(self, sources: Sources) -> Self:
        """Fit the map, and both predictors behind it."""
        learnt = self.fit_map(sources)
        self.n_classes_ = len(sources.words)
        self.heads_: dict[str, Any] = {}
        self.n_parameters_ = {}
        if "zero-shot" in sources.predictors:
            self.heads_["zero-shot"] = self._zero_shot(sources)
            self.n_parameters_["zero-shot"] = learnt
        if "linear probe" in sources.predictors:
            probe = self._probe(sources)
            self.heads_["linear probe"] = probe
            self.n_parameters_["linear probe"] = learnt + n_weights(probe)
        return self

    def _probe(self, sources: Sources) -> Any:
        return fit_probe(*self._labelled(sources), self.C, sources)

    def _zero_shot(self, sources: Sources) -> ZeroShotClassifier:
        return ZeroShotClassifier().fit(self.map_text(sources.prompts), sources.prompt_label)

    def _labelled(self, sources: Sources) -> tuple[np.ndarray, np.ndarray]:
        return self.map_images(sources.images), sources.images.label

    def scores(self, images: Images) -> dict[str, np.ndarray]:
        """Cosines with the prompts of each class, and the probe's logits."""
        mapped = self.map_images(images)
        return {name: spread(head, mapped, self.n_classes_) for name, head in self.heads_.items()}


def fit_probe(
    X: np.ndarray, y: np.ndarray, C: float, sources: Sources
) -> LinearProbe | LinearScores:
    """Fit the probe, or what stands in for it while settings are chosen on large sources.

    It has single precision, as embeddings have that come from an encoder.

    Parameters
    ----------
    X : ndarray of shape (n, K)
    y : ndarray of shape (n,)
    C : float
        Inverse penalty, as of :class:`~icm_core.prediction.LinearProbe`.
    sources : Sources
        Where `X` is from.

    Returns
    -------
    LinearProbe or LinearScores
        The same one for the same rows, labels and penalty, of whichever method. That of least
        squares has a penalty in the same units. That of a part has every s-th image of each
        class, and the same penalty for each image.
    """
    if sources.stand_in == LEAST_SQUARES:
        return IndicatorRidge(X, y).behind(np.eye(X.shape[1]), C)
    if sources.stand_in == PART:
        part = sources.part(y, X.shape[1])
        C *= len(y) / len(part)
        X, y = X[part], y[part]
    X = X.astype(np.float32, copy=False)
    of, shared = fingerprint(X), sources.shared

    tol = LARGE_TOL if sources.is_large else LinearProbe().tol

    def fit() -> LinearProbe:  # penalties are tried one after the other
        axes = shared.once(("axes", of), lambda: principal_axes(X), latest="axes")
        return LinearProbe(C=C, tol=tol, device=sources.device).fit(X, y, axes)

    return shared.once(("probe", of, fingerprint(y), C), fit)


def spread(fitted: Any, X: np.ndarray, n_classes: int) -> np.ndarray:
    """Scores by a fitted classifier, (n, n_classes); none for the classes that it never saw."""
    decision = fitted.decision_function(X)
    if decision.ndim == 1:  # of two classes, scikit-learn gives one number
        decision = np.stack([-decision, decision], axis=1)
    if decision.shape[1] == n_classes:
        return decision.astype(float, copy=False)
    scores = np.full((len(X), n_classes), -np.inf)
    scores[:, fitted.classes_] = decision
    return scores


def n_weights(linear: Any) -> int:
    """Count the weights and intercepts of a linear classifier of scikit-learn."""
    return linear.coef_.size + linear.intercept_.size


def class_prototypes(sources: Sources) -> np.ndarray:
    """For each class the mean of its unit prompts, at unit length: (n_classes, D), float32."""
    fitted = ZeroShotClassifier().fit(sources.prompts, sources.prompt_label)
    return fitted.prototypes_.astype(np.float32)


def spurious_prompts(sources: Sources) -> np.ndarray:
    """Embed the prompts that name a variant value and no class, once: (n, D), float64, unit rows.

    Raises
    ------
    ValueError
        If the data have none.
    """
    if not sources.spurious:
        raise ValueError(
            "These data have no prompts that name a variant value and no class, and the method "
            "learns from such prompts. Leave it out here."
        )

    def embed() -> np.ndarray:
        return sources.encoder.encode_text(sources.spurious).astype(np.float64)

    return sources.shared.once("spurious prompts", embed, of_pairs=False)


def logit_scale(encoder: Encoder) -> float:
    """Give the model's own factor on cosines; 100, CLIP's, where it has none."""
    learnt = getattr(encoder.model, "logit_scale", None)
    return 100.0 if learnt is None else float(learnt.detach().exp())
