"""Learn the words around the class name: CoOp, CoCoOp and domain prompts.

A prompt such as "a photo of a cat" is a row of token embeddings. These methods put
learnt vectors in the place of "a photo of a" and leave the class name; the gradient
goes through the frozen text tower. Image embeddings are those at hand, so no image is
loaded. All three start at the words themselves: before training, they are zero-shot.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from icm_study.encoders.encoder import Encoder
from icm_study.methods.base import Method, logit_scale
from icm_study.methods.sources import Images, Sources
from icm_study.methods.tuning import Function, train

CONTEXT = "a photo of a"


class PromptTower:
    """Class names to embeddings, with vectors of our own in the place of the words before them.

    Parameters
    ----------
    encoder : Encoder
    words : sequence of n_classes str
        The class names.

    Attributes
    ----------
    words_as_vectors : Tensor of shape (n_context, width)
        Token embeddings of "a photo of a".

    Raises
    ------
    ValueError
        If the text tower has no token embeddings to replace.
    """

    def __init__(self, encoder: Encoder, words: tuple[str, ...]):
        model = encoder.model
        tower = getattr(model, "text", model)
        if not hasattr(tower, "token_embedding"):
            raise ValueError(
                f"Prompts cannot be learnt for {encoder.name!r}: its text tower, "
                f"{type(tower).__name__}, has no `token_embedding`, which open_clip's own text "
                "towers have. Use an encoder that has one, or a method that works on embeddings "
                "or on the image tower, such as CLIPAdapter or FineTuning."
            )
        self._embedding = tower.token_embedding
        self._tower = Function(model, model.encode_text)
        tokens = encoder.tokenizer([f"{CONTEXT} {word}" for word in words]).to(encoder.device)
        self._other_weights: dict[str, torch.Tensor] = {}
        if _ignores_padding(tower):
            length = int((tokens != 0).any(dim=0).nonzero().max()) + 1
            tokens = tokens[:, :length]
            prefix = "" if tower is model else "text."
            self._other_weights = {
                f"{prefix}positional_embedding": tower.positional_embedding[:length],
                f"{prefix}attn_mask": tower.attn_mask[:length, :length],
            }
        empty, context = encoder.tokenizer(["", CONTEXT]).to(encoder.device)[:, : tokens.shape[1]]
        first, last = _agreement(empty, context), _agreement(context, tokens[0])
        self._tokens = tokens
        embedded = self._embedding(tokens).detach()
        self._before, self.words_as_vectors, self._after = (
            embedded[:, :first],
            embedded[0, first:last],
            embedded[:, last:],
        )

    def __call__(self, contexts: torch.Tensor) -> torch.Tensor:
        """Embed every class in every context: (g, n_context, width) to (g, n_classes, D)."""
        g, n_classes = len(contexts), len(self._tokens)
        embedded = torch.cat(
            [
                self._before.expand(g, -1, -1, -1),
                contexts[:, None].expand(-1, n_classes, -1, -1),
                self._after.expand(g, -1, -1, -1),
            ],
            dim=2,
        ).flatten(0, 1)
        with self._embedding.register_forward_hook(lambda *_: embedded):
            features = self._tower.call_with(self._other_weights, self._tokens.repeat(g, 1))
        return normalize(features.float(), dim=-1).unflatten(0, (g, n_classes))


def _ignores_padding(tower: nn.Module) -> bool:
    """Whether no token sees later ones and the end token speaks: padding can then be cut."""
    pool = getattr(tower, "pool_type", None) or getattr(tower, "text_pool_type", None)
    is_causal = tower.attn_mask is not None and getattr(tower, "cls_emb", None) is None
    return is_causal and pool == "argmax"


def _agreement(a: torch.Tensor, b: torch.Tensor) -> int:
    """How many tokens two rows have in common, from the first on."""
    return int((a == b).long().cumprod(0).sum())


class CoOp(Method):
    """Context optimisation: one context, learnt, for all classes.

    Four vectors stand before the class name; they start at "a photo of a".

    Source: Zhou et al. 2022, *Learning to prompt for vision-language models*, arXiv
    2109.01134, in the unified form, by Adam instead of plain gradient descent.

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

    @torch.no_grad()
    def scores(self, images: Images) -> dict[str, np.ndarray]:
        """Logits, (n, n_classes): cosines with the learnt prompts, times the encoder's scale."""
        scores = np.empty((len(images), self.n_classes_), dtype=np.float32)
        for rows in self._batches(images.domain):
            embedded = torch.from_numpy(images.embedded[rows]).to(
                self.prompts_.words_as_vectors.device
            )
            scores[rows] = self._logits(embedded).cpu().numpy()
        return {"zero-shot": scores}

    def _logits(self, embedded: torch.Tensor) -> torch.Tensor:
        prompts = self.prompts_(self.context_(embedded))  # (1 or n, n_classes, D)
        return self.scale_ * (prompts @ embedded[:, :, None]).squeeze(-1)

    def _context(self, n_features: int) -> nn.Module:
        return _Context(self.prompts_.words_as_vectors)

    def _training_batches(self, domain: np.ndarray) -> list[torch.Tensor]:
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
    arXiv 2203.05557.

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
        return _ConditionalContext(self.prompts_.words_as_vectors, n_features)

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
    unseen domains*, arXiv 2111.12853.

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
        return _DomainContext(self.prompts_.words_as_vectors, n_features)

    def _training_batches(self, domain: np.ndarray) -> list[torch.Tensor]:
        batches = []
        for rows in map(torch.from_numpy, self._batches(domain)):
            batches += rows[torch.randperm(len(rows))].split(self.batch_size)
        return [batches[i] for i in torch.randperm(len(batches))]

    def _batches(self, domain: np.ndarray) -> list[np.ndarray]:
        return [np.flatnonzero(domain == number) for number in np.unique(domain)]


class _Context(nn.Module):
    def __init__(self, start: torch.Tensor):
        super().__init__()
        self.vectors = nn.Parameter(start.clone())

    def forward(self, embedded: torch.Tensor) -> torch.Tensor:
        return self.vectors[None]


class _ConditionalContext(_Context):
    def __init__(self, start: torch.Tensor, n_features: int):
        super().__init__(start)
        self.meta_net = _network(n_features, [max(1, n_features // 16)], start.shape[1])

    def forward(self, embedded: torch.Tensor) -> torch.Tensor:
        return self.vectors + self.meta_net(embedded)[:, None]


class _DomainContext(nn.Module):
    def __init__(self, start: torch.Tensor, n_features: int):
        super().__init__()
        self.register_buffer("start", start)
        self.network = _network(n_features, [n_features, n_features], start.numel())

    def forward(self, embedded: torch.Tensor) -> torch.Tensor:
        return self.start + self.network(embedded).mean(dim=0).view_as(self.start)[None]


def _network(n_in: int, hidden: list[int], n_out: int) -> nn.Sequential:
    """Fully connected layers with ReLU between them; the last one starts at zero."""
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(n_in, size), nn.ReLU()]
        n_in = size
    last = nn.Linear(n_in, n_out)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)
