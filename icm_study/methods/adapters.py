"""Adapters: what labelled images say of a class beside its prompts.

Two correct zero-shot, one adds it to a probe. torch is imported when one is fitted, not
with this module.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from icm_study.methods.base import Method, class_prototypes, logit_scale, spread
from icm_study.methods.maps import checked_directions
from icm_study.methods.sources import Images, Sources

if TYPE_CHECKING:
    import torch


class CLIPAdapter(Method):
    """A small network on the image embedding, mixed with the embedding itself.

    f' = α A(f) + (1 - α) f, where A has two layers without bias, a bottleneck of D / 4,
    and ReLU after both.

    Source: Gao et al. 2021, *CLIP-Adapter: better vision-language models with feature
    adapters*, arXiv 2110.04544.

    Parameters
    ----------
    ratio : float in [0, 1]
        α; 0 is zero-shot.
    learning_rate : float
        Of Adam.
    steps : int
        Each over all source images.
    random_state : int
        Seed of the start.
    """

    def __init__(
        self,
        ratio: float = 0.2,
        learning_rate: float = 1e-3,
        steps: int = 100,
        random_state: int = 0,
    ):
        self.ratio = ratio
        self.learning_rate = learning_rate
        self.steps = steps
        self.random_state = random_state

    def fit(self, sources: Sources) -> CLIPAdapter:
        """Train the network on the source images."""
        import torch
        from torch import nn
        from torch.nn.functional import cross_entropy

        size = sources.prompts.shape[1]
        hidden = max(1, size // 4)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            self.network_ = nn.Sequential(
                nn.Linear(size, hidden, bias=False),
                nn.ReLU(),
                nn.Linear(hidden, size, bias=False),
                nn.ReLU(),
            )
        self.prototypes_ = class_prototypes(sources)
        X, y, prototypes = (
            torch.as_tensor(part, device=sources.device)
            for part in (
                sources.images.embedded,
                sources.images.label.astype(np.int64),
                self.prototypes_,
            )
        )
        scale = logit_scale(sources.encoder)
        self.network_.to(sources.device)
        optimizer = torch.optim.Adam(self.network_.parameters(), lr=self.learning_rate)
        for _ in range(self.steps):
            loss = cross_entropy(scale * self._adapt(X) @ prototypes.T, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        self.network_.cpu()
        self.n_parameters_ = {"zero-shot": sum(p.numel() for p in self.network_.parameters())}
        return self

    def scores(self, images: Images) -> dict[str, np.ndarray]:
        """Cosine of the adapted embedding with each class."""
        import torch

        with torch.no_grad():
            adapted = self._adapt(torch.from_numpy(images.embedded)).numpy()
        return {"zero-shot": adapted @ self.prototypes_.T}

    def _adapt(self, X: torch.Tensor) -> torch.Tensor:
        from torch.nn.functional import normalize

        return normalize(self.ratio * self.network_(X) + (1 - self.ratio) * X, dim=1)


class TipAdapter(Method):
    """A cache of the labelled source images beside the prompts; nothing is trained.

    The logit of a class is s cos(f, w) + α Σ exp(-β (1 - f·f_i)), summed over the
    source images f_i of the class.

    Source: Zhang et al. 2022, *Tip-Adapter: training-free adaption of CLIP for few-shot
    classification*, arXiv 2207.09519, with every source image in the cache.

    Parameters
    ----------
    alpha : float
        Weight of the cache; 0 is zero-shot.
    beta : float
        Sharpness of the likeness.
    """

    def __init__(self, alpha: float = 1.0, beta: float = 5.5):
        self.alpha = alpha
        self.beta = beta

    def fit(self, sources: Sources) -> TipAdapter:
        """Keep the source images."""
        self.prototypes_ = class_prototypes(sources)
        self.scale_ = logit_scale(sources.encoder)
        self.keys_ = sources.images.embedded
        self.values_ = np.eye(len(sources.words), dtype=np.float32)[sources.images.label]
        self.n_parameters_ = {"zero-shot": self.keys_.size}
        return self

    def scores(self, images: Images) -> dict[str, np.ndarray]:
        """Logit of each class."""
        likeness = np.exp(-self.beta * (1 - images.embedded @ self.keys_.T))
        zero_shot = self.scale_ * images.embedded @ self.prototypes_.T
        return {"zero-shot": zero_shot + self.alpha * likeness @ self.values_}


class ICAAdapter(Method):
    """Unmix the images into independent components, and tell classes by a few of these and by text.

    The logit of a class is that of a probe with an L1 penalty on the components, plus
    α s cos(w, x), as zero-shot has it. To a probe with an L2 penalty the rotation that
    independence asks for makes no difference: it would be a probe on whitened components.

    Source: Jiang et al. 2025, *Causal disentanglement and cross-modal alignment for
    enhanced few-shot learning* (CCA), arXiv 2508.03102, as far as its abstract says: without
    tuning the text classifier, and without cross-attention. The components are those of
    FastICA, Hyvärinen 1999, by scikit-learn.

    Parameters
    ----------
    text_weight : float
        α.
    C : float
        Inverse penalty of the probe.
    n_components : int
    random_state : int
        Where the unmixing starts.
    """

    predictors: ClassVar[tuple[str, ...]] = ("linear probe",)

    def __init__(
        self,
        text_weight: float = 0.1,
        C: float = 0.316,
        n_components: int = 16,
        random_state: int = 0,
    ):
        self.text_weight = text_weight
        self.C = C
        self.n_components = n_components
        self.random_state = random_state

    def fit(self, sources: Sources) -> ICAAdapter:
        """Unmix the source images, and fit the probe."""
        X, labels = sources.images.embedded.astype(np.float64), sources.images.label
        kept = checked_directions("n_components", self.n_components, X.shape[1])

        def unmix() -> FastICA:
            with warnings.catch_warnings():  # any rotation of the whitened components will do
                warnings.simplefilter("ignore", ConvergenceWarning)
                return FastICA(kept, random_state=self.random_state).fit(X)

        def fit_probe() -> LogisticRegression:
            probe = LogisticRegression(
                C=self.C, l1_ratio=1, solver="saga", tol=1e-3, max_iter=1000, random_state=0
            )
            return probe.fit(self.unmixing_.transform(X), labels)

        key = kept, self.random_state
        self.unmixing_ = sources.shared.once(("ICA", key), unmix, of_pairs=False)
        self.probe_ = sources.shared.once(("ICA probe", key, self.C), fit_probe, of_pairs=False)
        self.prototypes_ = class_prototypes(sources)
        self.scale_ = logit_scale(sources.encoder)
        learnt = self.unmixing_.components_.size + np.count_nonzero(self.probe_.coef_)
        self.n_parameters_ = {"linear probe": int(learnt) + self.probe_.intercept_.size}
        return self

    def scores(self, images: Images) -> dict[str, np.ndarray]:
        """Logit of each class."""
        components = self.unmixing_.transform(images.embedded.astype(np.float64))
        told = spread(self.probe_, components, len(self.prototypes_))
        zero_shot = self.scale_ * images.embedded @ self.prototypes_.T
        return {"linear probe": told + self.text_weight * zero_shot}
