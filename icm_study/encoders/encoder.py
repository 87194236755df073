"""A frozen pair of image and text encoders: images and texts to unit rows.

Torch is imported when an encoder is made, not with this module.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from icm_study.encoders.allocator import keep_freed_memory
from icm_study.encoders.identity import encoder_fingerprint
from icm_study.fingerprint import fingerprint

if TYPE_CHECKING:
    import torch
    from torchvision.transforms import v2

#: What an `Encoder` is made of: model, tokenizer and preprocessing.
Parts = tuple[Any, Callable[[Sequence[str]], "torch.Tensor"], dict[str, Any]]

PRECISIONS = ("float32", "bfloat16", "float16")

_BATCH = 256


class Encoder:
    """A frozen pair of image and text encoders, f_I and f_T.

    Parameters
    ----------
    name : str
    model : open_clip.CLIP
        In evaluation mode.
    tokenizer : callable
        List of str to a tensor of token ids. One that cuts long texts has an attribute
        ``context_length``, and takes another as an argument of this name.
    preprocess : dict
        The model's own preprocessing: ``size``, ``interpolation``, ``resize_mode``,
        ``mean`` and ``std``, as in open_clip's model configs.
    device : str or torch.device
        Where the model computes.
    precision : {"float32", "bfloat16", "float16"}, default="float32"
        Floating-point type in which the model computes, whatever the device: embeddings that
        one machine has stored are found by another. Half precision is quicker on a GPU.

    Attributes
    ----------
    embedding_dim : int
        D.
    fingerprint : str
        SHA-256 of the preprocessing, the model's weights, its settings, and what it
        makes of fixed inputs; two encoders that share it and the `precision` give the
        same embeddings of images, and of texts that their tokenizers read alike.
    precision : str
    device : str
        As torch names it, such as ``"cuda:0"``.

    Raises
    ------
    ValueError
        If the precision is unknown, or the preprocessing is none that is supported.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        tokenizer: Callable[[Sequence[str]], torch.Tensor],
        preprocess: dict[str, Any],
        device: str | torch.device = "cpu",
        precision: str = "float32",
    ):
        import torch

        check_precision(precision)
        self.name = name
        self.device = str(torch.device(device))
        self.model = model.to(self.device, memory_format=torch.channels_last)  # faster convolutions
        self.tokenizer: Any = tokenizer
        self.preprocess = preprocess
        self.resize = _resizer(preprocess)
        self._dtype = getattr(torch, precision)
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
        """Floating-point type in which the model computes; embeddings are float32."""
        return str(self._dtype).removeprefix("torch.")

    @cached_property
    def embedding_dim(self) -> int:
        """Dimension D of the embeddings."""
        return self.encode_text(["a"]).shape[1]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of preprocessing, weights, settings, and the answers to fixed inputs."""
        return encoder_fingerprint(self)

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
        tokens = self._tokens(texts)
        return {"weights": self.fingerprint, "precision": self.precision, "tokens": tokens}

    def _tokens(self, texts: Sequence[str]) -> str:
        """Hash texts as the tokenizer reads them."""
        batches = (list(texts[i : i + _BATCH]) for i in range(0, len(texts), _BATCH))
        return fingerprint(*(self.tokenizer(batch).cpu() for batch in batches))

    def is_cut(self, texts: Sequence[str]) -> np.ndarray:
        """Tell which texts are too long for the encoder, so that it does not see their end.

        Parameters
        ----------
        texts : sequence of n str

        Returns
        -------
        ndarray of shape (n,), bool
        """
        length = getattr(self.tokenizer, "context_length", None)
        cut = np.zeros(len(texts), dtype=bool)
        if length is None:
            return cut
        for i in range(0, len(texts), _BATCH):
            batch = list(texts[i : i + _BATCH])
            read = self.tokenizer(["", *batch])  # what differs from no text is the text's own
            full = (read[1:, -4:] != read[0, -4:]).any(dim=1).nonzero()[:, 0]  # up to the end
            if len(full):
                rest = ["", *(batch[row] for row in full)]
                whole = self.tokenizer(rest, context_length=2 * length)
                own = (read[1:][full] != read[0]).sum(dim=1)
                cut[i + full.numpy()] = (own < (whole[1:] != whole[0]).sum(dim=1)).numpy()
        return cut

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Scale uint8 images (n, 3, H, W) to the range that the model was trained on."""
        return images.float().div_(255).sub_(self._mean).div_(self._std)

    def encode_images(self, images: torch.Tensor, *, unit: bool = True) -> np.ndarray:
        """Embed images.

        Parameters
        ----------
        images : Tensor of shape (n, 3, H, W), uint8
        unit : bool
            Whether rows are scaled to unit length; otherwise they are as the model gives them.

        Returns
        -------
        ndarray of shape (n, D), float32

        Raises
        ------
        TypeError
            If the images are not a tensor.
        ValueError
            If the images have another shape or type.
        """
        import torch

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
        keep_freed_memory()
        out = []
        with torch.inference_mode():
            for batch in images.split(_BATCH):
                resized = self.resize(batch).to(self.device)
                pixels = self.normalize(resized.contiguous(memory_format=torch.channels_last))
                with self._autocast():
                    embedded = self.model.encode_image(pixels, normalize=False)
                out.append(_unit_rows(embedded) if unit else embedded.float().cpu().numpy())
        return np.concatenate(out) if out else np.empty((0, self.embedding_dim), dtype=np.float32)

    def example(self) -> np.ndarray:
        """Embed the fixed pixels of :func:`~icm_core.deploy.example_pixels`: (D,), unit length."""
        import torch

        from icm_core.deploy import example_pixels

        size = self.preprocess["size"]
        pixels = example_pixels((size, size) if isinstance(size, int) else size)
        with torch.inference_mode(), self._autocast():
            embedded = self.model.encode_image(pixels.to(self.device), normalize=False)
        return _unit_rows(embedded)[0]

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

        Warns
        -----
        UserWarning
            If texts are too long, so that the encoder does not see their end.
        """
        import torch

        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise TypeError(
                f"texts is {texts!r:.80}; expected a sequence of strings, such as ['a photo "
                f"of a cat']."
            )
        if len(texts) == 0:
            return np.empty((0, self.embedding_dim), dtype=np.float32)
        warn_of_cuts(self, texts)
        keep_freed_memory()
        out = []
        with torch.inference_mode():
            for i in range(0, len(texts), _BATCH):
                tokens = self.tokenizer(list(texts[i : i + _BATCH])).to(self.device)
                with self._autocast():
                    embedded = self.model.encode_text(tokens, normalize=False)
                out.append(_unit_rows(embedded))
        return np.concatenate(out)

    def _autocast(self) -> AbstractContextManager:
        import torch

        if self._dtype != torch.float32:
            return torch.autocast(self.device.partition(":")[0], self._dtype)
        if self.device.startswith("cuda"):  # where convolutions would round to ten bits
            return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        return nullcontext()


def check_precision(precision: str) -> None:
    """Raise a ValueError if it is none that a model can compute in."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; expected one of {PRECISIONS}.")


def warn_of_cuts(encoder: Encoder, texts: Sequence[str]) -> np.ndarray:
    """Warn where an encoder does not see the end of texts, with the share and an example.

    Parameters
    ----------
    encoder : Encoder
    texts : sequence of n str

    Returns
    -------
    ndarray of shape (n,), bool
        Which texts are cut, as :meth:`Encoder.is_cut`.
    """
    cut = encoder.is_cut(texts)
    if cut.any():
        warnings.warn(
            f"{encoder.name!r} reads {encoder.tokenizer.context_length} tokens of a text: "
            f"{cut.sum()} of {len(cut)} texts ({100 * cut.mean():.0f} %) are longer and lose "
            f"their end, first {texts[int(cut.argmax())]!r}. Shorten them.",
            stacklevel=3,
        )
    return cut


def check_prompts(encoder: Encoder, prompts: Sequence[str], labels: Sequence[int]) -> None:
    """Raise where an encoder cuts the prompts of two classes to the same words.

    Parameters
    ----------
    encoder : Encoder
    prompts : sequence of n str
    labels : sequence of n int
        The class that each prompt is of; classes have their prompts in the same order.

    Raises
    ------
    ValueError
        If two classes have the same prompts once these are cut.

    Warns
    -----
    UserWarning
        If prompts are cut, and yet no two classes become alike.
    """
    cut = encoder.is_cut(prompts)
    if not cut.any():
        return
    tokens = encoder.tokenizer(list(prompts)).cpu().numpy()
    of_class: dict[bytes, int] = {}
    for label in dict.fromkeys(labels):
        rows = np.flatnonzero(np.asarray(labels) == label)
        first = of_class.setdefault(tokens[rows].tobytes(), int(rows[0]))
        if first != rows[0] and (cut[first] or cut[rows[0]]):
            raise ValueError(
                f"{encoder.name!r} reads {encoder.tokenizer.context_length} tokens of a text, "
                f"and so two classes are the same to it: {prompts[first]!r} and "
                f"{prompts[rows[0]]!r}. Give the classes shorter names, or take an encoder "
                "that reads longer texts."
            )
    warn_of_cuts(encoder, prompts)


def _unit_rows(embedded: torch.Tensor) -> np.ndarray:
    from torch.nn.functional import normalize

    return normalize(embedded.float(), dim=-1).cpu().numpy()


def _resizer(preprocess: dict[str, Any]) -> v2.Transform:
    """Resize a batch of uint8 images as open_clip does one image at a time."""
    from torchvision.transforms import v2

    size, mode = preprocess["size"], preprocess["resize_mode"]
    size = [size, size] if isinstance(size, int) else list(size)
    known = [mode.value for mode in v2.InterpolationMode]
    if preprocess["interpolation"] not in known:
        raise ValueError(
            f"The model resizes with the interpolation {preprocess['interpolation']!r}; expected "
            f"one of {', '.join(known)}. Correct it in its preprocessing."
        )
    interpolation = v2.InterpolationMode(preprocess["interpolation"])
    if mode == "squash":
        return v2.Resize(size, interpolation, antialias=True)
    if mode == "shortest" and size[0] == size[1]:
        return v2.Compose([v2.Resize(size[0], interpolation, antialias=True), v2.CenterCrop(size)])
    raise ValueError(
        f"The model resizes by {mode!r} to {size}; only 'squash' and, to a square, "
        f"'shortest' are supported."
    )
