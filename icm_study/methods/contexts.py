"""What stands before a class name in a prompt, once it is learnt, and the tower that reads it.

A context is a row of token embeddings. It is one for all images, or a network makes it
of their embeddings.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import normalize

from icm_study.encoders.encoder import Encoder
from icm_study.methods.tuning import Function

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


class Context(nn.Module):
    """One context for all images, that starts at given vectors."""

    def __init__(self, start: torch.Tensor):
        super().__init__()
        self.vectors = nn.Parameter(start.clone())

    def forward(self, embedded: torch.Tensor) -> torch.Tensor:
        """Give the context, (1, n_context, width)."""
        return self.vectors[None]


class ConditionalContext(Context):
    """A context that each image moves."""

    def __init__(self, start: torch.Tensor, n_features: int):
        super().__init__(start)
        self.meta_net = _network(n_features, [max(1, n_features // 16)], start.shape[1])

    def forward(self, embedded: torch.Tensor) -> torch.Tensor:
        """Give a context for each image, (n, n_context, width)."""
        return self.vectors + self.meta_net(embedded)[:, None]


class DomainContext(nn.Module):
    """A context that the images of a domain make together."""

    def __init__(self, start: torch.Tensor, n_features: int):
        super().__init__()
        self.register_buffer("start", start)
        self.network = _network(n_features, [n_features, n_features], start.numel())

    def forward(self, embedded: torch.Tensor) -> torch.Tensor:
        """Give the context of all images, (1, n_context, width)."""
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
