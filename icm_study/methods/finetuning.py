"""Fine-tune the image tower, and interpolate the result with the encoder as it came.

Classes are told by frozen prompts (see :mod:`icm_study.methods.tuning`), so that a
zero-shot classifier and a linear probe both stand on the tuned embedding. Only the
weights that were trained are kept, never a second model. torch is imported when a tower
is tuned, not with this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from icm_study.methods.base import EmbeddingMap
from icm_study.methods.sources import Images, Sources

if TYPE_CHECKING:
    from icm_study.methods.tuning import Weights


class FineTuning(EmbeddingMap):
    """Train the image tower on the sources, by the cross-entropy with frozen class prompts.

    Source: Wortsman et al. 2022, *Robust fine-tuning of zero-shot models*, arXiv
    2109.01903, whose optimiser this is, AdamW with weight decay 0.1, but without its
    warm-up and its clipping of gradients; the classifier here is frozen, as its text tower.

    Parameters
    ----------
    part : {"all", "last block"}
        What is trained: the whole image tower; or its last block with what follows it,
        that is the last of the four layers of a ResNet and its attention pool, or the
        last transformer block, its norm and its projection.
    learning_rate : float
        It falls to zero by a half cosine.
    epochs : int
    batch_size : int
    random_state : int

    Attributes
    ----------
    weights_ : dict of str to Tensor
        The tuned weights, by their names in the model.
    losses_ : list of float
        The mean cross-entropy of each epoch.
    """

    def __init__(
        self,
        part: str = "all",
        learning_rate: float = 1e-4,
        epochs: int = 3,
        batch_size: int = 64,
        random_state: int = 0,
    ):
        self.part = part
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.random_state = random_state

    def fit_map(self, sources: Sources) -> int:
        """Train on the pixels of the sources.

        Raises
        ------
        ValueError
            If `part` is unknown, or ``"last block"`` of a tower that has no such blocks.
        """
        from icm_study.methods.tuning import PARTS, Training, tower_weights, train_tower

        if self.part not in PARTS:
            raise ValueError(
                f"part is {self.part!r}; expected one of {', '.join(map(repr, PARTS))}."
            )
        names = tower_weights(sources.encoder, self.part)
        training = Training.of(self, weight_decay=0.1)

        def tune() -> tuple[Weights, list[float]]:
            own = dict(sources.encoder.model.named_parameters())
            weights = {name: own[name].detach().clone().requires_grad_() for name in names}
            losses = train_tower(sources, list(weights.values()), lambda: weights, training)
            return {name: weight.detach() for name, weight in weights.items()}, losses

        self.encoder_ = sources.encoder
        self.weights_, self.losses_ = sources.shared.once(
            ("fine-tuning", self.part, training), tune, of_pairs=False
        )
        return sum(weight.numel() for weight in self.weights_.values())

    def map_images(self, images: Images) -> np.ndarray:
        """Embed the pixels of images by the tuned tower, to unit rows (n, D)."""
        from icm_study.methods.tuning import embed_pixels

        return embed_pixels(self.encoder_, self.weights_, images)


class WiSEFT(FineTuning):
    """Fine-tune, then interpolate every weight between the encoder as it came and the tuned one.

    Fine-tuning is done once for all values of `alpha`.

    Source: Wortsman et al. 2022, *Robust fine-tuning of zero-shot models*, arXiv 2109.01903.

    Parameters
    ----------
    alpha : float
        From 0, the encoder as it came, to 1, the fine-tuned one.
    part, learning_rate, epochs, batch_size, random_state
        As of :class:`FineTuning`.

    Attributes
    ----------
    weights_ : dict of str to Tensor
        The interpolated weights, by their names in the model.
    losses_ : list of float
        The mean cross-entropy of each epoch of the fine-tuning.
    """

    def __init__(
        self,
        alpha: float = 0.5,
        part: str = "all",
        learning_rate: float = 1e-4,
        epochs: int = 3,
        batch_size: int = 64,
        random_state: int = 0,
    ):
        super().__init__(part, learning_rate, epochs, batch_size, random_state)
        self.alpha = alpha

    def fit_map(self, sources: Sources) -> int:
        """Train as :class:`FineTuning` does, and interpolate.

        Raises
        ------
        ValueError
            If `alpha` is not in [0, 1], or as :meth:`FineTuning.fit_map`.
        """
        import torch

        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is {self.alpha!r}; expected a number from 0 to 1.")
        learnt = super().fit_map(sources)
        own = dict(sources.encoder.model.named_parameters())
        self.weights_ = {
            name: torch.lerp(own[name].detach(), tuned, self.alpha)
            for name, tuned in self.weights_.items()
        }
        return learnt
