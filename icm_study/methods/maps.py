"""Maps of the embedding in closed form: CLIP-ICM, its closest rivals, and no map at all.

Each map is a matrix A that acts on embeddings of images and of texts alike; a zero-shot
classifier and a linear probe stand behind it. K, `n_components`, is the dimension that
is kept. Nothing here is learnt by gradient descent, and only LEACE imports torch.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from icm_core.prediction import ZeroShotClassifier
from icm_core.projection import InvariantProjection
from icm_core.spectrum import generalized_spectrum, trace_spectrum
from icm_study.methods.base import EmbeddingMap, spurious_prompts
from icm_study.methods.ridge import IndicatorRidge
from icm_study.methods.sources import LEAST_SQUARES, Sources


class _LinearMap(EmbeddingMap):
    """A map by one matrix, ``components_`` of shape (K, D), that a subclass estimates."""

    @abstractmethod
    def _matrix(self, sources: Sources) -> np.ndarray:
        """Estimate the map, shape (K, D)."""

    def fit_map(self, sources: Sources) -> int:
        """Estimate the map."""
        A = self._matrix(sources)
        identity = np.eye(*A.shape)
        # all directions, turned: that changes neither predictor, and the probe is the plain one
        is_rotation = A.shape[0] == A.shape[1] and np.allclose(A @ A.T, identity, atol=1e-6)
        self.components_ = identity if is_rotation else A
        return self.components_.size

    def map_text(self, embedded: np.ndarray) -> np.ndarray:
        """Apply the map, (n, D) to (n, K)."""
        return embedded @ self.components_.T

    def _probe(self, sources: Sources) -> Any:
        if sources.stand_in != LEAST_SQUARES:
            return super()._probe(sources)
        images = sources.images  # summed once for all maps

        def add_up() -> IndicatorRidge:
            return IndicatorRidge(images.embedded, images.label)

        sums = sources.shared.once("indicator ridge", add_up, of_pairs=False)
        return sums.behind(self.components_, self.C)


def checked_directions(name: str, value: int, n_features: int, least: int = 1) -> int:
    """Give a number of directions as it is; raise a ValueError where there are not as many."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not (whole and least <= value <= n_features):
        raise ValueError(
            f"{name} is {value!r}; expected a whole number from {least} to {n_features}, the "
            "dimension of the embeddings."
        )
    return value


class Plain(EmbeddingMap):
    """The embedding as it is: CLIP's own two predictors.

    Source: Radford et al. 2021, *Learning transferable visual models from natural
    language supervision*, arXiv 2103.00020.

    Parameters
    ----------
    C : float
        Inverse penalty of the probe.
    prompts : {"ensemble", "single"}
        Whether all prompts of a class tell what it is, or the first one alone.
    """

    def __init__(self, C: float = 0.316, prompts: str = "ensemble"):
        self.C = C
        self.prompts = prompts

    def fit_map(self, sources: Sources) -> int:
        """Nothing is learnt."""
        return 0

    def _zero_shot(self, sources: Sources) -> ZeroShotClassifier:
        if self.prompts != "single":
            return super()._zero_shot(sources)
        labels, first = np.unique(sources.prompt_label, return_index=True)
        return ZeroShotClassifier().fit(sources.prompts[first], labels)


class PCA(_LinearMap):
    """Uncentred principal components of the source images: CLIP-ICM without interventions (λ = 0).

    Source: Pearson 1901, *On lines and planes of closest fit to systems of points in space*.

    Parameters
    ----------
    n_components : int
    """

    def __init__(self, n_components: int = 16):
        self.n_components = n_components

    def _matrix(self, sources: Sources) -> np.ndarray:
        X = sources.images.embedded.astype(np.float64)
        kept = checked_directions("n_components", self.n_components, X.shape[1])
        return trace_spectrum(X.T @ X / len(X), np.zeros((X.shape[1],) * 2), 0.0)[1][:kept]


class RandomProjection(_LinearMap):
    """A subspace drawn at random: what a smaller dimension does by itself.

    Source: Dasgupta & Gupta 2003, *An elementary proof of a theorem of Johnson and Lindenstrauss*.

    Parameters
    ----------
    n_components : int
    random_state : int
    """

    def __init__(self, n_components: int = 16, random_state: int = 0):
        self.n_components = n_components
        self.random_state = random_state

    def fit_map(self, sources: Sources) -> int:
        """Draw the subspace; nothing is learnt."""
        super().fit_map(sources)
        return 0

    def _matrix(self, sources: Sources) -> np.ndarray:
        n_features = sources.prompts.shape[1]
        kept = checked_directions("n_components", self.n_components, n_features)
        drawn = np.random.default_rng(self.random_state).normal(size=(n_features, kept))
        return np.linalg.qr(drawn)[0].T


class ICM(_LinearMap):
    """CLIP-ICM: the subspace that interventions leave invariant.

    Source: *Learning Invariant Causal Mechanism from Vision-Language Models*, ICML
    2025, arXiv 2405.15289.

    Parameters
    ----------
    intervention : {"image", "text", "image+text"}
    n_components : int, "auto" or "held-out"
        K.
    consistency_weight : float, "auto" or "held-out"
        λ; "auto" looks for the gap in what the interventions re-draw, "held-out" takes what
        does best on pairs that were not fitted on.
    C : float
        Inverse penalty of the probe.
    """

    def __init__(
        self,
        intervention: str = "image+text",
        n_components: int | str = "auto",
        consistency_weight: float | str = 1.0,
        C: float = 0.316,
    ):
        self.intervention = intervention
        self.n_components = n_components
        self.consistency_weight = consistency_weight
        self.C = C

    @property
    def sees_interventions(self) -> frozenset[str]:
        """Those that it learns from."""
        return frozenset(self.intervention.split("+"))

    def _matrix(self, sources: Sources) -> np.ndarray:
        moments = sources.moments(self.intervention)
        is_rule = isinstance(self.n_components, str)

        def solve() -> InvariantProjection:
            # one spectrum serves every K: the subspaces are nested
            k = self.n_components if is_rule else moments.n_features
            projection = InvariantProjection(k, consistency_weight=self.consistency_weight)
            with warnings.catch_warnings():  # that a rule can err is what is measured here
                warnings.simplefilter("ignore", ConvergenceWarning)
                warnings.filterwarnings("ignore", message="n_components='auto' keeps")
                return projection.fit_moments(moments)

        key = ("ICM", self.intervention, self.consistency_weight, is_rule and self.n_components)
        projection = sources.shared.once(key, solve)
        if not is_rule:
            projection = projection.truncate(int(self.n_components))
        self.n_components_ = projection.n_components_
        self.consistency_weight_ = projection.consistency_weight_
        return projection.components_


class FukunagaKoontz(_LinearMap):
    """Directions that the images share with their intervened copies, whitened.

    With C and S whitened together, A (C + S) Aᵀ = I, both have the same eigenvectors,
    and their eigenvalues add up to one. Kept are those with the smallest share of S.
    They span what CLIP-ICM's generalised objective keeps; what differs is the scale of
    each axis. Both matrices include the noise of `shrinkage`, σ² in C and 2σ² in S.

    Source: Fukunaga & Koontz 1970, *Application of the Karhunen-Loève expansion to
    feature selection and ordering*.

    Parameters
    ----------
    intervention : {"image", "text", "image+text"}
    n_components : int
    shrinkage : float
        As for :func:`~icm_core.spectrum.generalized_spectrum`.
    """

    def __init__(
        self, intervention: str = "image+text", n_components: int = 16, shrinkage: float = 1e-4
    ):
        self.intervention = intervention
        self.n_components = n_components
        self.shrinkage = shrinkage

    @property
    def sees_interventions(self) -> frozenset[str]:
        """Those that it learns from."""
        return frozenset(self.intervention.split("+"))

    def _matrix(self, sources: Sources) -> np.ndarray:
        moments = sources.moments(self.intervention)
        kept = checked_directions("n_components", self.n_components, len(moments.C))
        rows = generalized_spectrum(moments.C, moments.S, self.shrinkage)[1][:kept]
        total = moments.C + moments.S
        total += 3 * self.shrinkage * np.trace(moments.C) / len(total) * np.eye(len(total))
        return rows / np.sqrt(((rows @ total) * rows).sum(axis=1, keepdims=True))


class LEACE(EmbeddingMap):
    """Erase the domain: the least change after which no linear classifier finds it.

    Source: Belrose et al. 2023, *LEACE: perfect linear concept erasure in closed form*,
    arXiv 2306.03819, by the authors' package. Its tolerance for directions that tell of the
    domain is absolute, and would pass over a domain of few images; so here each domain's
    indicator has unit variance, and the tolerance is that of rounding.
    """

    def fit_map(self, sources: Sources) -> int:
        """Fit the eraser on the domains of the source images."""
        import torch

        with warnings.catch_warnings():  # its use of `torch.jit.script` is no matter of ours
            warnings.simplefilter("ignore", FutureWarning)
            from concept_erasure import LeaceFitter

        domain = np.unique(sources.images.domain, return_inverse=True)[1]
        indicator = np.eye(domain.max() + 1)[domain]
        spread = indicator.std(axis=0)  # 0 where all images are of one domain: nothing to erase
        one_hot = torch.from_numpy(indicator / np.where(spread > 0, spread, 1.0))
        X = torch.from_numpy(sources.images.embedded.astype(np.float64))
        self.eraser_ = LeaceFitter.fit(X, one_hot, svd_tol=1e-6).eraser
        return self.eraser_.P.numel()

    def map_text(self, embedded: np.ndarray) -> np.ndarray:
        """Erase the domain, (n, D) to (n, D)."""
        import torch

        return self.eraser_(torch.from_numpy(embedded.astype(np.float64))).numpy()


class BiasedPrompts(_LinearMap):
    """Project out what prompts for variant factors span, and calibrate on edited captions.

    A = P₀ (I + γ S)⁻¹, where P₀ removes the leading principal directions of prompts
    that name a variant factor and no class, and S is the second moment of the
    differences between captions of the same class.

    Source: after Chuang et al. 2023, *Debiasing vision-language models via biased
    prompts*, arXiv 2302.00070. They project texts only, on the complement of all
    spurious prompts; here images are projected too, so that a probe can use it, and
    prompts are centred and only their leading directions removed.

    Parameters
    ----------
    n_directions : int
        How many directions are removed.
    calibration : float
        γ; 0 leaves the calibration out.
    """

    def __init__(self, n_directions: int = 4, calibration: float = 0.0):
        self.n_directions = n_directions
        self.calibration = calibration

    @property
    def sees_interventions(self) -> frozenset[str]:
        """The edited captions, where it is calibrated on them."""
        return frozenset(["text"] if self.calibration else [])

    def _matrix(self, sources: Sources) -> np.ndarray:
        prompts = spurious_prompts(sources)
        erased = checked_directions("n_directions", self.n_directions, prompts.shape[1], least=0)
        spurious = np.linalg.svd(prompts - prompts.mean(axis=0))[2][:erased]
        identity = np.eye(prompts.shape[1])
        removed = identity - spurious.T @ spurious
        if not self.calibration:
            return removed
        return removed @ np.linalg.inv(identity + self.calibration * sources.moments("text").S)
