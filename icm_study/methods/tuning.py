"""Train parts of an encoder without touching it.

An encoder is shared by all methods, so none may change its weights. What a method
trains is its own, and the encoder's model is called with that in the place of its
weights.

The image tower is trained by the cross-entropy with frozen class prompts, so that it
still shares its space with the text tower. The model stays in evaluation mode: batch
norms keep their statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, normalize

from icm_study.encoders.encoder import Encoder
from icm_study.methods.base import class_prototypes, logit_scale
from icm_study.methods.sources import Images, Sources

PARTS = ("all", "last block")

_BATCH = 256

#: Weights of a model, by their names in it.
Weights = dict[str, torch.Tensor]


class Function(nn.Module):
    """A function of a model, callable with other weights; the model itself never changes.

    Parameters
    ----------
    model : nn.Module
    function : callable
        Of one tensor, such as ``model.encode_text``.
    """

    def __init__(self, model: nn.Module, function: Callable[[torch.Tensor], Any]):
        super().__init__()
        self.model = model
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        """Call the function, with the weights that the model has now."""
        return self.function(x)

    def call_with(self, weights: Mapping[str, torch.Tensor], x: torch.Tensor) -> Any:
        """Call the function with these weights, by their names, and otherwise the model's own."""
        replaced = {f"model.{name}": weight for name, weight in weights.items()}
        return functional_call(self, replaced, (x,), tie_weights=False)


def train(
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[torch.Tensor], torch.Tensor],
    batches: Callable[[], Iterable[torch.Tensor]],
    epochs: int,
) -> list[float]:
    """Minimise a loss; the learning rate falls from epoch to epoch by a half cosine.

    Only what the optimiser trains gets a gradient.

    Parameters
    ----------
    optimizer : Optimizer
        Of what is trained.
    loss_of : callable
        From the rows of a batch to its loss.
    batches : callable
        Gives the batches of an epoch, each a tensor of rows.
    epochs : int
        With 0, nothing is trained.

    Returns
    -------
    list of float
        The mean loss of the batches in each epoch.
    """
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda epoch: 0.5 * (1 + math.cos(math.pi * epoch / max(1, epochs)))
    )
    trained = [weight for group in optimizer.param_groups for weight in group["params"]]
    means = []
    for _ in range(epochs):
        losses = []
        for rows in batches():
            loss = loss_of(rows)
            optimizer.zero_grad()
            loss.backward(inputs=trained)
            optimizer.step()
            losses.append(loss.item())
        schedule.step()
        means.append(sum(losses) / len(losses))
    return means


def tower_weights(encoder: Encoder, part: str = "all") -> list[str]:
    """Name the weights of the image tower, or of a part of it.

    Parameters
    ----------
    encoder : Encoder
    part : {"all", "last block", "attention"}
        The last block comes with what follows it; of attention, the matrices.

    Returns
    -------
    list of str
        Names in the encoder's model.

    Raises
    ------
    ValueError
        If the tower has no such part, or it is not known which it is.
    """
    model = encoder.model
    own = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    blank = encoder.normalize(
        encoder.resize(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)).to(encoder.device)
    )
    gradients = torch.autograd.grad(
        model.encode_image(blank).sum(), list(own.values()), allow_unused=True
    )
    # what gets no gradient is of the text tower, or unused
    tower = [name for name, gradient in zip(own, gradients, strict=True) if gradient is not None]
    if part == "all":
        return tower
    if part == "last block":
        last = _last_block(encoder)
        return [name for name in tower if name.startswith(last)]
    attention = [
        name
        for name in tower
        if own[name].ndim == 2 and name.endswith("weight") and ".attn" in name
    ]
    if not attention:
        raise ValueError(
            f"The image tower of {encoder.name!r} has no attention matrices. Use FineTuning, or an "
            "encoder with a ViT or one of CLIP's ResNets."
        )
    return attention


def _last_block(encoder: Encoder) -> tuple[str, ...]:
    """How the names of weights begin that are in the last block or after it."""
    visual = getattr(encoder.model, "visual", None)
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", None)
    last: tuple[str, ...]
    if blocks is not None:
        last = (f"transformer.resblocks.{len(blocks) - 1}.", "attn_pool", "ln_post.", "proj")
    elif hasattr(visual, "layer4") and hasattr(visual, "attnpool"):
        last = ("layer4.", "attnpool.")
    else:
        raise ValueError(
            f"part is 'last block', but the image tower of {encoder.name!r} is neither open_clip's "
            "own ViT nor CLIP's ResNet, and which of its blocks is the last is not guessed. Use "
            "part='all'."
        )
    return tuple(f"visual.{name}" for name in last)


def load_batches(images: Images) -> Iterator[torch.Tensor]:
    """Load the pixels of images, a batch at a time."""
    for start in range(0, len(images), _BATCH):
        yield images.take(slice(start, start + _BATCH)).pixels()


def embed_pixels(encoder: Encoder, weights: Weights, images: Images) -> np.ndarray:
    """Embed the pixels of images with other weights of the image tower, to unit rows (n, D)."""
    tower = Function(encoder.model, encoder.encode_images)
    return np.concatenate([tower.call_with(weights, batch) for batch in load_batches(images)])


@dataclass(frozen=True)
class Training:
    """How a tower is trained, by AdamW: the learning rate falls to zero by a half cosine.

    The loss may have a penalty, `consistency_weight` times the mean squared change of the unit
    embedding under an image intervention.
    """

    learning_rate: float
    epochs: int
    batch_size: int
    random_state: int
    weight_decay: float
    consistency_weight: float = 0.0

    @classmethod
    def of(cls, method: Any, weight_decay: float) -> Training:
        """Read it off the parameters of a method."""
        return cls(
            learning_rate=method.learning_rate,
            epochs=method.epochs,
            batch_size=method.batch_size,
            random_state=method.random_state,
            weight_decay=weight_decay,
        )


def train_tower(
    sources: Sources,
    trained: list[torch.Tensor],
    weights: Callable[[], Weights],
    training: Training,
    components: np.ndarray | None = None,
) -> list[float]:
    """Train the image tower on the pixels of the sources.

    Parameters
    ----------
    sources : Sources
    trained : list of Tensor
    weights : callable
        Makes weights of the tower of what is trained.
    training : Training
    components : ndarray of shape (K, D), optional
        Images and prompts are compared after this map; by default as they are.

    Returns
    -------
    list of float
        The mean loss in each epoch: the cross-entropy, and the penalty if there is one.
    """
    encoder = sources.encoder
    tower = Function(encoder.model, encoder.model.encode_image)
    frozen = {name: weight.detach() for name, weight in encoder.model.named_parameters()}
    scale = logit_scale(encoder)
    prototypes = torch.from_numpy(class_prototypes(sources)).to(encoder.device)
    kept = None if components is None else torch.from_numpy(components).to(prototypes)
    if kept is not None:
        prototypes = normalize(prototypes @ kept.T, dim=-1)
    label = torch.from_numpy(sources.images.label).long().to(encoder.device)
    pixels = torch.cat([encoder.resize(batch) for batch in load_batches(sources.images)])
    copies = None
    if training.consistency_weight:
        intervened = load_batches(sources.copies["image"])
        copies = torch.cat([encoder.resize(batch) for batch in intervened])
    usable = torch.from_numpy(sources.drawn != "").to(encoder.device)
    generator = torch.Generator().manual_seed(training.random_state)

    def embed(images: torch.Tensor) -> torch.Tensor:
        batch = encoder.normalize(images.to(encoder.device)).contiguous(
            memory_format=torch.channels_last
        )
        return tower.call_with(frozen | weights(), batch)

    def loss_of(rows: torch.Tensor) -> torch.Tensor:
        embedded = embed(pixels[rows])
        found = normalize(embedded if kept is None else embedded @ kept.T, dim=-1)
        loss = cross_entropy(scale * found @ prototypes.T, label[rows])
        if copies is None or not usable[rows].any():
            return loss
        change = normalize(embedded, dim=-1) - normalize(embed(copies[rows]), dim=-1)
        size = change.square().sum(dim=1)[usable[rows]]
        return loss + training.consistency_weight * size.mean()

    def batches() -> Iterable[torch.Tensor]:
        return torch.randperm(len(pixels), generator=generator).split(training.batch_size)

    optimizer = torch.optim.AdamW(
        trained, lr=training.learning_rate, weight_decay=training.weight_decay
    )
    return train(optimizer, loss_of, batches, training.epochs)
