"""Linear probes that use more than labelled images: interventions, domains, a model of classes.

All stand on the plain embedding. Those learnt by gradients use full batches, L-BFGS and
double precision, so that their results do not depend on an order of the images. torch
is imported when one of these is fitted, not with this module.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from icm_core.prediction import LinearProbe
from icm_study.methods.base import Method, fit_probe, n_weights, spread
from icm_study.methods.sources import Images, Sources

if TYPE_CHECKING:
    import torch

_STEPS = 200


class _Probe(Method):
    """A classifier with scikit-learn's interface on the plain embedding."""

    predictors: ClassVar[tuple[str, ...]] = ("linear probe",)

    def scores(self, images: Images) -> dict[str, np.ndarray]:
        """Logit of each class."""
        return {"linear probe": spread(self.probe_, images.embedded, self.n_classes_)}


class Augmentation(_Probe):
    """A probe trained on the source images and on their intervened copies.

    Source: the usual use of the same seven augmentations, for example Shorten &
    Khoshgoftaar 2019, *A survey on image data augmentation for deep learning*.

    Parameters
    ----------
    C : float
        Inverse penalty.
    intervention : {"image", "oracle"}
    """

    has_stand_in: ClassVar[bool] = True

    def __init__(self, C: float = 0.316, intervention: str = "image"):
        self.C = C
        self.intervention = intervention

    @property
    def sees_interventions(self) -> frozenset[str]:
        """It is trained on them."""
        return frozenset([self.intervention])

    def fit(self, sources: Sources) -> Augmentation:
        """Fit on both."""
        parts = [sources.images, sources.copied(self.intervention)[1]]
        X = np.concatenate([part.embedded for part in parts])
        self.n_classes_ = len(sources.words)
        label = np.concatenate([part.label for part in parts])
        self.probe_ = fit_probe(X, label, self.C, sources)
        self.n_parameters_ = {"linear probe": n_weights(self.probe_)}
        return self


class LDA(_Probe):
    """Linear discriminant analysis: Gaussian classes with one covariance, shrunk (Ledoit-Wolf).

    Source: Fisher 1936, *The use of multiple measurements in taxonomic problems*;
    Ledoit & Wolf 2004 for the shrinkage.
    """

    def fit(self, sources: Sources) -> LDA:
        """Fit on the source images."""
        images = sources.images
        self.n_classes_ = len(sources.words)
        self.probe_ = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        self.probe_.fit(images.embedded.astype(np.float64), images.label)
        self.n_parameters_ = {"linear probe": n_weights(self.probe_)}
        return self


class CORAL(_Probe):
    """Give each source domain the mean and the covariance of all sources, then train a probe.

    x' = Σ^½ Σ_e^-½ (x - m_e) + m for an image of domain e. An image of the unseen
    domain is classified as it is: its moments are not known.

    Source: Sun, Feng & Saenko 2016, *Return of frustratingly easy domain adaptation*,
    arXiv 1511.05547, which aligns one source with one target; here the sources are
    aligned with each other.

    Parameters
    ----------
    shrinkage : float
        Every covariance gets this fraction of the mean variance on its diagonal.
    C : float
        Inverse penalty of the probe.
    """

    def __init__(self, shrinkage: float = 0.1, C: float = 0.316):
        self.shrinkage = shrinkage
        self.C = C

    def fit(self, sources: Sources) -> CORAL:
        """Align the source images, and fit on them."""
        images = sources.images
        aligned = self.align(images.embedded.astype(np.float64), images.domain)
        self.n_classes_ = len(sources.words)
        self.probe_ = LinearProbe(C=self.C, device=sources.device).fit(aligned, images.label)
        self.n_parameters_ = {"linear probe": n_weights(self.probe_)}
        return self

    def align(self, X: np.ndarray, domain: np.ndarray) -> np.ndarray:
        """Give every domain the mean and the (shrunk) covariance of all rows: (n, D) to (n, D)."""
        aligned = np.empty_like(X)
        pooled, mean = self._root(X, 0.5), X.mean(axis=0)
        for one in np.unique(domain):
            rows = domain == one
            whiten = self._root(X[rows], -0.5)
            aligned[rows] = (X[rows] - X[rows].mean(axis=0)) @ whiten @ pooled + mean
        return aligned

    def _root(self, X: np.ndarray, power: float) -> np.ndarray:
        covariance = np.cov(X.T, bias=True)
        ridge = self.shrinkage * np.trace(covariance) / len(covariance)
        values, vectors = np.linalg.eigh(covariance + ridge * np.eye(len(covariance)))
        return (vectors * values**power) @ vectors.T


class _TorchProbe(Method):
    """A linear classifier learnt by gradients, with the penalty of :class:`LinearProbe`."""

    predictors: ClassVar[tuple[str, ...]] = ("linear probe",)
    C: float

    @abstractmethod
    def _minimize(
        self, domains: list[torch.Tensor], labels: list[torch.Tensor], n_classes: int
    ) -> torch.Tensor:
        """Learn weights (n_classes, D + 1) from each domain's embeddings, with a column of ones."""

    def fit(self, sources: Sources) -> _TorchProbe:
        """Learn the classifier."""
        import torch

        images = sources.images
        self.scale_ = 1 / np.sqrt(np.mean(np.square(images.embedded, dtype=np.float64)))
        X, y = (
            torch.as_tensor(self._features(images), device=sources.device),
            torch.as_tensor(images.label.astype(np.int64), device=sources.device),
        )
        masks = [torch.from_numpy(images.domain == d) for d in np.unique(images.domain)]
        weights = self._minimize([X[m] for m in masks], [y[m] for m in masks], len(sources.words))
        self.weights_ = weights.cpu().numpy()
        self.n_parameters_ = {"linear probe": self.weights_.size}
        return self

    def scores(self, images: Images) -> dict[str, np.ndarray]:
        """Logit of each class."""
        return {"linear probe": self._features(images) @ self.weights_.T}

    def _features(self, images: Images) -> np.ndarray:
        scaled = images.embedded.astype(np.float64) * self.scale_
        return np.hstack([scaled, np.ones((len(scaled), 1))])

    def _penalty(self, weights: torch.Tensor, n: int) -> torch.Tensor:
        return weights[:, :-1].square().sum() / (2 * self.C * n)


class IRM(_TorchProbe):
    """Invariant risk minimisation: one classifier that is optimal in every domain at once (IRMv1).

    The mean over domains of the risk R_e, and of the squared slope of R_e(s · w) in s
    at s = 1, is minimised, from the pooled probe on.

    Source: Arjovsky et al. 2019, *Invariant risk minimization*, arXiv 1907.02893, equation (IRMv1).

    Parameters
    ----------
    penalty_weight : float
        Weight of the second term against the first.
    C : float
        Inverse L2 penalty.
    """

    def __init__(self, penalty_weight: float = 10.0, C: float = 0.316):
        self.penalty_weight = penalty_weight
        self.C = C

    def _minimize(
        self, domains: list[torch.Tensor], labels: list[torch.Tensor], n_classes: int
    ) -> torch.Tensor:
        import torch
        from torch.nn.functional import cross_entropy

        n = sum(map(len, labels))

        def loss(weight: float) -> Callable[[torch.Tensor], torch.Tensor]:
            def of(w: torch.Tensor) -> torch.Tensor:
                logits = [X @ w.T for X in domains]
                risks = [cross_entropy(z, y) for z, y in zip(logits, labels, strict=True)]
                slopes = [risk_slope(z, y) for z, y in zip(logits, labels, strict=True)]
                mean, penalty = torch.stack(risks).mean(), torch.stack(slopes).square().mean()
                return (mean + weight * penalty + self._penalty(w, n)) / max(1.0, weight)

            return of

        start = domains[0].new_zeros(n_classes, domains[0].shape[1])
        return minimize(loss(self.penalty_weight), minimize(loss(0.0), start))


class GroupDRO(_TorchProbe):
    """Distributionally robust optimisation over the source domains: the worst one counts.

    The worst mixture q of the domains' risks is taken, less KL(q ‖ uniform) / η, which
    smooths the maximum: log Σ exp(η R_e) / η is minimised.

    Source: Sagawa et al. 2020, *Distributionally robust neural networks for group
    shifts*, arXiv 1911.08731, who find that it takes a strong penalty. There, groups
    are pairs of a class and an attribute; here they are the domains, since nothing else
    is known, and a shortcut that is the same in all of them is in every group.

    Parameters
    ----------
    sharpness : float
        η: near 0 the mean over domains is minimised, for large η the risk in the worst domain.
    C : float
        Inverse L2 penalty.
    """

    def __init__(self, sharpness: float = 10.0, C: float = 0.316):
        self.sharpness = sharpness
        self.C = C

    def _minimize(
        self, domains: list[torch.Tensor], labels: list[torch.Tensor], n_classes: int
    ) -> torch.Tensor:
        import torch
        from torch.nn.functional import cross_entropy

        n = sum(map(len, labels))

        def loss(w: torch.Tensor) -> torch.Tensor:
            risks = torch.stack(
                [cross_entropy(X @ w.T, y) for X, y in zip(domains, labels, strict=True)]
            )
            return torch.logsumexp(self.sharpness * risks, 0) / self.sharpness + self._penalty(w, n)

        return minimize(loss, domains[0].new_zeros(n_classes, domains[0].shape[1]))


def risk_slope(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Slope of the cross-entropy of ``s · logits`` at s = 1 (its square is IRMv1's penalty)."""
    chosen = logits.gather(1, labels[:, None])[:, 0]
    return ((logits.softmax(dim=1) * logits).sum(dim=1) - chosen).mean()


def minimize(loss: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor) -> torch.Tensor:
    """Minimise by L-BFGS from a start, and return the point."""
    import torch

    point = start.to(torch.float64).clone().requires_grad_()
    optimizer = torch.optim.LBFGS([point], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(point)
        value.backward()
        return value

    optimizer.step(closure)
    return point.detach()
