"""Learn the words around the class name: CoOp, CoCoOp and domain prompts.

A prompt such as "a photo of a cat" is a row of token embeddings. These methods put
learnt vectors in the place of "a photo of a" and leave the class name; the gradient
goes through the frozen text tower. Image embeddings are those at hand, so no image is
loaded. All three start at the words themselves: before training, they are zero-shot.
torch is imported when one is fitted, not with this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np

from icm_study.methods.base import Method, logit_scale
from icm_study.methods.sources import Images, Sources

if TYPE_CHECKING:
    import torch
    from torch import nn


class CoOp(Method):
    """Context optimisation: one context, learnt, for all classes.

    Four vectors stand before the class name; they start at "a photo of a".

    Source: Zhou et al. 2022, *Learning to prompt for vision-language models*, arXiv
    2109.01134, in the unified form, by Adam instead of plain gradient descent. There a full
    stop follows the class name; here nothing does, as in all prompts of the study.

    Parameters
    ----------
    learning_rate : float
        Of Adam; it falls to zero by a half cosine.
    epochs : int
        With 0, this is zero-shot with "a photo of a {}".
    batch_size : int
    random_state : int

    Attributes
    ----------
    context_ : nn.Module
        From image embeddings (n, D) to contexts: here one, (1, n_context, width),
        whatever the images.
    losses_ : list of float
        The mean cross-entropy of each epoch.
    """

    def __init__(
        self,
        learning_rate: float = 2e-3,
        epochs: int = 30,
        batch_size: int = 128,
        random_state: int = 0,
    ):
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.random_state = random_state

    def fit(self, sources: Sources) -> Self:
        """Learn the context on the labelled images of the sources.

        Raises
        ------
        ValueError
            If the encoder's text tower has no token embeddings to replace.
        """
        import torch
        from torch.nn.functional import cross_entropy

        from icm_study.methods.contexts import PromptTower
        from icm_study.methods.tuning import train

        device = sources.encoder.device
        self.prompts_ = PromptTower(sources.encoder, sources.words)
        self.scale_ = logit_scale(sources.encoder)
        self.n_classes_ = len(sources.words)
        embedded = torch.from_numpy(sources.images.embedded).to(device)
        label = torch.from_numpy(sources.images.label).long().to(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            self.context_ = self._context(embedded.shape[1]).to(device)
            self.losses_ = train(
                torch.optim.Adam(self.context_.parameters(), lr=self.learning_rate),
                lambda rows: cross_entropy(self._logits(embedded[rows]), label[rows]),
                lambda: self._training_batches(sources.images.domain),
                self.epochs,
            )
        self.n_parameters_ = {"zero-shot": sum(p.numel() for p in self.context_.parameters())}
        return self

    def scores(self, images: Images) -> dict[str, np.ndarray]:
        """Logits, (n, n_classes): cosines with the learnt prompts, times the encoder's scale."""
        import torch

        scores = np.empty((len(images), self.n_classes_), dtype=np.float32)
        device = self.prompts_.words_as_vectors.device
        with torch.no_grad():
            for rows in self._batches(images.domain):
                embedded = torch.from_numpy(images.embedded[rows]).to(device)
                scores[rows] = self._logits(embedded).cpu().numpy()
        return {"zero-shot": scores}

    def _logits(self, embedded: torch.Tensor) -> torch.Tensor:
        prompts = self.prompts_(self.context_(embedded))  # (1 or n, n_classes, D)
        return self.scale_ * (prompts @ embedded[:, :, None]).squeeze(-1)

    def _context(self, n_features: int) -> nn.Module:
        from icm_study.methods.contexts import Context

        return Context(self.prompts_.words_as_vectors)

    def _training_batches(self, domain: np.ndarray) -> list[torch.Tensor]:
        import torch

        return list(torch.randperm(len(domain)).split(self.batch_size))

    def _batches(self, domain: np.ndarray) -> list[np.ndarray]:
        """Rows that are scored together."""
        return [np.arange(len(domain))]


class CoCoOp(CoOp):
    """Conditional context optimisation: each image moves the learnt context.

    A small network, the *meta-net*, maps the image's embedding to one vector that is
    added to every vector of the context; its hidden layer has D/16 units, and its last
    one starts at zero. Every image has prompts of its own, so an epoch embeds n ×
    n_classes prompts.

    Source: Zhou et al. 2022, *Conditional prompt learning for vision-language models*,
    arXiv 2203.05557. The full stop is missing as in :class:`CoOp`.

    Parameters
    ----------
    learning_rate, epochs, batch_size, random_state
        As of :class:`CoOp`.

    Attributes
    ----------
    context_ : nn.Module
        From image embeddings (n, D) to a context for each, (n, n_context, width).
    losses_ : list of float
        The mean cross-entropy of each epoch.
    """

    def __init__(
        self,
        learning_rate: float = 2e-3,
        epochs: int = 3,
        batch_size: int = 8,
        random_state: int = 0,
    ):
        super().__init__(learning_rate, epochs, batch_size, random_state)

    def _context(self, n_features: int) -> nn.Module:
        from icm_study.methods.contexts import ConditionalContext

        return ConditionalContext(self.prompts_.words_as_vectors, n_features)

    def _batches(self, domain: np.ndarray) -> list[np.ndarray]:
        return [np.arange(i, min(i + 32, len(domain))) for i in range(0, len(domain), 32)]


class DPL(CoOp):
    """Domain prompt learning: the images of a domain together make its context.

    A network of three layers maps each image to a context, and the mean over images of
    one domain is used for all of them: over a batch in training, and over all images
    that are scored together at test. So it is *transductive*: the scores of an image
    depend on the other images of its domain, though on no label. The context is what
    the network adds to "a photo of a"; its last layer starts at zero, and its hidden
    layers are as wide as the embedding.

    Source: Zhang et al. 2021, *Domain prompt learning for efficiently adapting CLIP to
    unseen domains*, arXiv 2111.12853. Here the network is given embeddings of unit length.

    Parameters
    ----------
    learning_rate, epochs, batch_size, random_state
        As of :class:`CoOp`.

    Attributes
    ----------
    context_ : nn.Module
        From image embeddings of one domain (n, D) to its context, (1, n_context, width).
    losses_ : list of float
        The mean cross-entropy of each epoch.
    """

    def _context(self, n_features: int) -> nn.Module:
        from icm_study.methods.contexts import DomainContext

        return DomainContext(self.prompts_.words_as_vectors, n_features)

    def _training_batches(self, domain: np.ndarray) -> list[torch.Tensor]:
        import torch

        batches = []
        for rows in map(torch.from_numpy, self._batches(domain)):
            batches += rows[torch.randperm(len(rows))].split(self.batch_size)
        return [batches[i] for i in torch.randperm(len(batches))]

    def _batches(self, domain: np.ndarray) -> list[np.ndarray]:
        return [np.flatnonzero(domain == number) for number in np.unique(domain)]
