"""A frozen pair of image and text encoders: images and texts to unit rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torchvision.transforms import v2

from icm_study.animals.silhouettes import CLASSES
from icm_study.fingerprint import fingerprint

#: What an `Encoder` is made of: model, tokenizer and preprocessing.
Parts = tuple[Any, Callable[[Sequence[str]], torch.Tensor], dict[str, Any]]


class Encoder:
    """A frozen pair of image and text encoders, f_I and f_T.

    Parameters
    ----------
    name : str
    model : open_clip.CLIP
        In evaluation mode.
    tokenizer : callable
        List of str to a tensor of token ids.
    preprocess : dict
        The model's own preprocessing: ``size``, ``interpolation``, ``resize_mode``,
        ``mean`` and ``std``, as in open_clip's model configs.
    device : str or torch.device
        Where the model computes.

    Attributes
    ----------
    embedding_dim : int
        D.
    fingerprint : str
        SHA-256 of the model, its weights and the preprocessing; two encoders that share
        it and the `precision` give the same embeddings of images, and of texts that
        their tokenizers read alike.
    precision : str
        ``"float32"``, or on a GPU ``"bfloat16"`` or ``"float16"``.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        tokenizer: Callable[[Sequence[str]], torch.Tensor],
        preprocess: dict[str, Any],
        device: str | torch.device = "cpu",
    ):
        self.name = name
        self.device = torch.device(device)
        self.model = model.to(self.device, memory_format=torch.channels_last)  # faster convolutions
        self.tokenizer: Any = tokenizer
        self.preprocess = preprocess
        self.resize = _resizer(preprocess)
        self._dtype = _compute_dtype(self.device)
        self._mean = torch.tensor(preprocess["mean"], device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocess["std"], device=self.device).view(1, 3, 1, 1)

    def __repr__(self) -> str:
        p = self.preprocess
        return (
            f"Encoder({self.name!r}: images are resized to {p['size']} ({p['resize_mode']}, "
            f"{p['interpolation']}) and "
            f"normalized with mean {p['mean']} and std {p['std']}; {self.precision} on "
            f"{self.device})"
        )

    @property
    def precision(self) -> str:
        """Floating-point type in which the model computes; embeddings are float32 in any case."""
        return str(self._dtype).removeprefix("torch.")

    @cached_property
    def embedding_dim(self) -> int:
        """Dimension D of the embeddings."""
        return self.encode_text([f"a {CLASSES[0]}"]).shape[1]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of model, weights and preprocessing."""
        # the text of the modules tells what the weights do not, such as the activation function
        parts: list[Any] = [json.dumps(self.preprocess, sort_keys=True), repr(self.model)]
        for key, value in sorted(self.model.state_dict().items()):
            parts += [key, value.float().cpu()]
        return fingerprint(*parts)

    def text_key(self, *texts: str) -> dict[str, str]:
        """Tell what the embeddings of texts depend on, as a part of a key for the store.

        Parameters
        ----------
        *texts : str

        Returns
        -------
        dict of str
            The `fingerprint`, the `precision`, and the texts as this encoder's
            tokenizer reads them.
        """
        batches = (list(texts[i : i + 256]) for i in range(0, len(texts), 256))
        tokens = fingerprint(*(self.tokenizer(batch).cpu() for batch in batches))
        return {"weights": self.fingerprint, "precision": self.precision, "tokens": tokens}

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Scale uint8 images of shape (n, 3, H, W) to the range that the model was trained on."""
        return images.float().div_(255).sub_(self._mean).div_(self._std)

    @torch.inference_mode()
    def encode_images(self, images: torch.Tensor) -> np.ndarray:
        """Embed images.

        Parameters
        ----------
        images : Tensor of shape (n, 3, H, W), uint8

        Returns
        -------
        ndarray of shape (n, D), float32
            Rows of unit length.

        Raises
        ------
        TypeError
            If the images are not a tensor.
        ValueError
            If the images have another shape or type.
        """
        if not isinstance(images, torch.Tensor):
            raise TypeError(
                f"images is of type {type(images).__name__}; expected a torch uint8 tensor "
                f"of shape (n, 3, H, W). "
                "torch.from_numpy(array).permute(0, 3, 1, 2) converts an array of shape (n, "
                "H, W, 3), and "
                "torchvision.transforms.v2.functional.pil_to_tensor(image)[None] a PIL image."
            )
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"images has shape {tuple(images.shape)} and type {images.dtype}; expected "
                f"(n, 3, H, W), uint8 RGB."
            )
        out = []
        for batch in images.split(256):
            pixels = self.normalize(self.resize(batch).to(self.device)).contiguous(
                memory_format=torch.channels_last
            )
            with self._autocast():
                embedded = self.model.encode_image(pixels, normalize=False)
            out.append(_unit_rows(embedded))
        return np.concatenate(out) if out else np.empty((0, self.embedding_dim), dtype=np.float32)

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts.

        Parameters
        ----------
        texts : sequence of n str

        Returns
        -------
        ndarray of shape (n, D), float32
            Rows of unit length.

        Raises
        ------
        TypeError
            If `texts` is a single string, or holds something else than strings.
        ValueError
            If the shipped encoders do not know a word, or a text is too long for them.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise TypeError(
                f"texts is {texts!r:.80}; expected a sequence of strings, such as ['a photo "
                f"of a cat']."
            )
        if len(texts) == 0:
            return np.empty((0, self.embedding_dim), dtype=np.float32)
        out = []
        for i in range(0, len(texts), 256):
            tokens = self.tokenizer(list(texts[i : i + 256])).to(self.device)
            with self._autocast():
                embedded = self.model.encode_text(tokens, normalize=False)
            out.append(_unit_rows(embedded))
        return np.concatenate(out)

    def _autocast(self) -> AbstractContextManager:
        if self._dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self._dtype)


def _unit_rows(embedded: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(embedded.float(), dim=-1).cpu().numpy()


def _compute_dtype(device: torch.device) -> torch.dtype:
    """Half precision where a GPU has it; float32 elsewhere, so that results on a CPU are the same bit for bit."""
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


def _resizer(preprocess: dict[str, Any]) -> v2.Transform:
    """Resize a batch of uint8 images as open_clip does one image at a time."""
    size, mode = preprocess["size"], preprocess["resize_mode"]
    size = [size, size] if isinstance(size, int) else list(size)
    interpolation = v2.InterpolationMode(preprocess["interpolation"])
    if mode == "squash":
        return v2.Resize(size, interpolation, antialias=True)
    if mode == "shortest" and size[0] == size[1]:
        return v2.Compose([v2.Resize(size[0], interpolation, antialias=True), v2.CenterCrop(size)])
    raise ValueError(
        f"The model resizes by {mode!r} to {size}; only 'squash' and, to a square, "
        f"'shortest' are supported."
    )
