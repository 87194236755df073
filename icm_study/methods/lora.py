"""Low-rank updates of the image tower, alone and with CLIP-ICM before, during or after them.

torch is imported when a tower is tuned, not with this module.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from icm_core.moments import PairMoments
from icm_core.projection import InvariantProjection
from icm_study.embedding.tables import Pairs, moments_of
from icm_study.encoders.encoder import Encoder
from icm_study.methods.base import EmbeddingMap
from icm_study.methods.sources import Images, Sources

if TYPE_CHECKING:
    import torch

    from icm_study.methods.tuning import Training, Weights

#: For a weight, by its name in the model: B of shape (rows, rank) and A of shape (rank, columns).
Factors = dict[str, tuple["torch.Tensor", "torch.Tensor"]]


class LoRA(EmbeddingMap):
    """Low-rank updates W + BA of the attention weights of the image tower.

    Every attention matrix has one (stacked matrices of queries, keys and values have
    one together). A starts at random and B at zero. A CLIP ResNet has attention in its
    last pooling only.

    Source: Hu et al. 2022, *LoRA: low-rank adaptation of large language models*, arXiv
    2106.09685, without its factor α/r.

    Parameters
    ----------
    rank : int
        Of each update, at most.
    learning_rate : float
        Of AdamW without weight decay; it falls to zero by a half cosine.
    epochs : int
    batch_size : int
    random_state : int

    Attributes
    ----------
    factors_ : dict of str to (Tensor, Tensor)
        B of shape (rows, rank) and A of shape (rank, columns), by the names of the
        weights in the model.
    losses_ : list of float
        The mean cross-entropy of each epoch.
    """

    _learns_from_pairs: ClassVar[bool] = False

    def __init__(
        self,
        rank: int = 4,
        learning_rate: float = 1e-3,
        epochs: int = 3,
        batch_size: int = 64,
        random_state: int = 0,
    ):
        self.rank = rank
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.random_state = random_state

    def fit_map(self, sources: Sources) -> int:
        """Train on the pixels of the sources.

        Raises
        ------
        ValueError
            If `rank` is not positive, or the image tower has no attention.
        """
        if self.rank < 1:
            raise ValueError(f"rank is {self.rank!r}; expected a positive integer.")
        self.encoder_ = sources.encoder
        self.factors_, self.losses_ = sources.shared.once(
            self._key(), lambda: self._tune(sources), of_pairs=self._learns_from_pairs
        )
        return sum(B.numel() + A.numel() for B, A in self.factors_.values())

    def map_images(self, images: Images) -> np.ndarray:
        """Embed the pixels of images by the tuned tower, to unit rows (n, D)."""
        from icm_study.methods.tuning import embed_pixels

        return embed_pixels(self.encoder_, _updated(self.encoder_, self.factors_), images)

    def _key(self) -> tuple:
        return ("LoRA", self.rank, self._training())

    def _training(self) -> Training:
        from icm_study.methods.tuning import Training

        return Training.of(self, weight_decay=0.0)

    def _components(self) -> np.ndarray | None:
        """Give the map behind which classes are told while the tower is trained; none here."""
        return None

    def _tune(self, sources: Sources) -> tuple[Factors, list[float]]:
        import torch

        from icm_study.methods.tuning import tower_weights, train_tower

        own = dict(sources.encoder.model.named_parameters())
        generator = torch.Generator().manual_seed(self.random_state)
        factors = {}
        for name in tower_weights(sources.encoder, "attention"):
            rows, columns = own[name].shape
            A = torch.randn(self.rank, columns, generator=generator).to(own[name]) / columns**0.5
            factors[name] = own[name].new_zeros(rows, self.rank), A
        losses = train_tower(
            sources,
            [factor.requires_grad_() for pair in factors.values() for factor in pair],
            lambda: _updated(sources.encoder, factors),
            self._training(),
            self._components(),
        )
        return {name: (B.detach(), A.detach()) for name, (B, A) in factors.items()}, losses


class LoRAThenICM(LoRA):
    """Low-rank updates, then the invariant subspace of the tuned embedding.

    The projection is estimated on image pairs that are embedded again by the tuned
    tower, and on the text pairs where there are any, both in equal parts. Tuning is
    done once for all subspaces, and is the same as that of :class:`LoRA`.

    Source: Hu et al. 2022, arXiv 2106.09685, and CLIP-ICM, arXiv 2405.15289.

    Parameters
    ----------
    n_components, consistency_weight
        K and λ, as of :class:`~icm_core.projection.InvariantProjection`.
    rank, learning_rate, epochs, batch_size, random_state
        As of :class:`LoRA`.

    Attributes
    ----------
    projection_ : InvariantProjection
    factors_, losses_
        As of :class:`LoRA`.
    """

    def __init__(
        self,
        n_components: int | str = "auto",
        consistency_weight: float | str = 1.0,
        rank: int = 4,
        learning_rate: float = 1e-3,
        epochs: int = 3,
        batch_size: int = 64,
        random_state: int = 0,
    ):
        super().__init__(rank, learning_rate, epochs, batch_size, random_state)
        self.n_components = n_components
        self.consistency_weight = consistency_weight

    @property
    def sees_interventions(self) -> frozenset[str]:
        """Both kinds, where there are both."""
        return frozenset(["image", "text"])

    def fit_map(self, sources: Sources) -> int:
        """Train on the pixels of the sources, and estimate the projection.

        Raises
        ------
        ValueError
            As :meth:`LoRA.fit_map` and :class:`~icm_core.projection.InvariantProjection`.
        """
        learnt = super().fit_map(sources)
        self.projection_ = InvariantProjection(
            n_components=self.n_components, consistency_weight=self.consistency_weight
        ).fit_moments(self._moments(sources))
        return learnt + self.projection_.components_.size

    def map_text(self, embedded: np.ndarray) -> np.ndarray:
        """Project embeddings, (n, D) to (n, K)."""
        return self.projection_.transform(embedded)

    def map_images(self, images: Images) -> np.ndarray:
        """Embed the pixels of images by the tuned tower and project them, to (n, K)."""
        return self.map_text(super().map_images(images))

    def _moments(self, sources: Sources) -> PairMoments:
        before, after = self._tuned(sources)
        usable = sources.drawn != ""
        group = sources.images.group
        pairs: dict[str, Pairs] = {
            "image": (before[usable], after[usable], None if group is None else group[usable]),
            "text": (*sources.texts, None),
        }
        has_texts = len(sources.texts[0]) > 0
        return moments_of("image+text" if has_texts else "image", pairs.__getitem__)

    def _labelled(self, sources: Sources) -> tuple[np.ndarray, np.ndarray]:
        return self.map_text(self._tuned(sources)[0]), sources.images.label

    def _tuned(self, sources: Sources) -> tuple[np.ndarray, np.ndarray]:
        """Embed the source images and all of their copies by the tuned tower, each (n, D)."""

        def compute() -> tuple[np.ndarray, np.ndarray]:
            copies = sources.copies["image"]
            return LoRA.map_images(self, sources.images), LoRA.map_images(self, copies)

        return sources.shared.once(("tuned", self._key()), compute, of_pairs=False)


class ICMThenLoRA(LoRAThenICM):
    """The invariant subspace of the encoder as it came, then low-rank updates within it.

    While the tower is trained, images and prompts are compared behind the projection, which
    stays as it is.

    Source: CLIP-ICM, arXiv 2405.15289, and Hu et al. 2022, arXiv 2106.09685.

    Parameters
    ----------
    n_components, consistency_weight, rank, learning_rate, epochs, batch_size, random_state
        As of :class:`LoRAThenICM`.

    Attributes
    ----------
    projection_, factors_, losses_
        As of :class:`LoRAThenICM`.
    """

    _learns_from_pairs: ClassVar[bool] = True

    def fit_map(self, sources: Sources) -> int:
        """Estimate the projection, and train on the pixels of the sources behind it.

        Raises
        ------
        ValueError
            As :meth:`LoRA.fit_map` and :class:`~icm_core.projection.InvariantProjection`.
        """
        kind = "image+text" if len(sources.texts[0]) else "image"
        self.projection_ = InvariantProjection(
            n_components=self.n_components, consistency_weight=self.consistency_weight
        ).fit_moments(sources.moments(kind))
        return LoRA.fit_map(self, sources) + self.projection_.components_.size

    def _key(self) -> tuple:
        return (*super()._key(), "behind", self.n_components, self.consistency_weight)

    def _labelled(self, sources: Sources) -> tuple[np.ndarray, np.ndarray]:
        return self.map_images(sources.images), sources.images.label

    def _components(self) -> np.ndarray:
        return self.projection_.components_


class LoRAWithPenalty(LoRA):
    """Low-rank updates that are penalised where an image intervention moves the embedding.

    To the cross-entropy comes CLIP-ICM's second term, ``penalty · E‖f - f_do‖²`` of unit
    embeddings over the image pairs; there is no projection.

    Source: Hu et al. 2022, arXiv 2106.09685, with the consistency term of CLIP-ICM, arXiv
    2405.15289.

    Parameters
    ----------
    penalty : float
        Weight of the change against the cross-entropy; 0 is :class:`LoRA`.
    rank, learning_rate, epochs, batch_size, random_state
        As of :class:`LoRA`.

    Attributes
    ----------
    factors_, losses_
        As of :class:`LoRA`; the losses have the penalty in them.
    """

    _learns_from_pairs: ClassVar[bool] = True

    def __init__(
        self,
        penalty: float = 1.0,
        rank: int = 4,
        learning_rate: float = 1e-3,
        epochs: int = 3,
        batch_size: int = 64,
        random_state: int = 0,
    ):
        super().__init__(rank, learning_rate, epochs, batch_size, random_state)
        self.penalty = penalty

    @property
    def sees_interventions(self) -> frozenset[str]:
        """The image interventions."""
        return frozenset(["image"])

    def fit_map(self, sources: Sources) -> int:
        """Train on the pixels of the sources and of their intervened copies.

        Raises
        ------
        ValueError
            If the penalty is negative or no number, or as :meth:`LoRA.fit_map`.
        """
        if not 0 <= self.penalty < np.inf:
            raise ValueError(f"penalty is {self.penalty!r}; expected a number, at least 0.")
        return super().fit_map(sources)

    def _training(self) -> Training:
        return replace(super()._training(), consistency_weight=self.penalty)


def _updated(encoder: Encoder, factors: Factors) -> Weights:
    own = dict(encoder.model.named_parameters())
    return {name: own[name].detach() + B @ A for name, (B, A) in factors.items()}
