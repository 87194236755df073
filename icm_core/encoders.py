"""Encoders: images and text to embeddings, by name.

An encoder is named the open_clip way. ``"animal-world"`` and ``"animal-world-biased"`` are the small CLIPs
that ship with the project; ``"ViT-B-16/openai"`` is any ``model/pretrained`` pair that open_clip
knows; a path is a local checkpoint. :func:`load_encoder` is the one factory. Embeddings are unit vectors in
numpy; nothing after this module needs torch.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file
from torchvision.transforms import v2

from icm_core.animal_world import CLASSES, LEXICON
from icm_core.embeddings import fingerprint

WEIGHTS = Path(__file__).parent / "weights"
SHIPPED = ("animal-world", "animal-world-biased")


class AnimalTokenizer:
    """open_clip's ``SimpleTokenizer`` with only the ids that the animal world's captions use.

    Parameters
    ----------
    vocabulary : sequence of int
        The ids in use; position + 2 is the compact id.
    context_length : int
    """

    def __init__(self, vocabulary: Sequence[int], context_length: int):
        self.vocabulary = list(vocabulary)
        self.context_length = context_length
        self.vocab_size = len(self.vocabulary) + 3  # padding, start, words, end
        self._full = SimpleTokenizer()
        self._compact = {full: i + 2 for i, full in enumerate(self.vocabulary)}

    @classmethod
    def from_lexicon(cls, context_length: int) -> AnimalTokenizer:
        """Vocabulary of every caption and prompt of the animal world."""
        words = ["a an the of in on at image picture animal", *CLASSES]
        words += [value for values in LEXICON.values() for value in values]
        full = SimpleTokenizer()
        return cls(sorted({i for text in words for i in full.encode(text)}), context_length)

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Token ids of shape (n, context_length); the end token has the highest id, as CLIP expects."""
        out = torch.zeros((len(texts), self.context_length), dtype=torch.long)
        for row, text in enumerate(texts):
            ids = [self._compact.get(i, -1) for i in self._full.encode(text)]
            if -1 in ids:
                known = sorted({self._full.decode([i]).strip() for i in self.vocabulary})
                raise ValueError(f"{text!r} has a word this encoder never saw; its words are {known}.")
            if len(ids) > self.context_length - 2:
                raise ValueError(
                    f"{text!r} has {len(ids)} tokens, at most {self.context_length - 2} fit; shorten it."
                )
            ids = [1, *ids, self.vocab_size - 1]
            out[row, : len(ids)] = torch.tensor(ids)
        return out


def build_clip(config: dict[str, Any], vocab_size: int) -> open_clip.CLIP:
    """Build open_clip's CLIP for a small config and vocabulary."""
    text = config["text_cfg"] | {"vocab_size": vocab_size}
    return open_clip.CLIP(config["embed_dim"], config["vision_cfg"], text)


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
        The model's own preprocessing: ``size``, ``interpolation``, ``resize_mode``, ``mean`` and ``std``, as in
        open_clip's model configs.

    Attributes
    ----------
    embedding_dim : int
        D.
    fingerprint : str
        SHA-256 of the model, its weights and the preprocessing; two encoders that share it give the same embeddings.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        tokenizer: Callable[[Sequence[str]], torch.Tensor],
        preprocess: dict[str, Any],
    ):
        self.name = name
        self.model = model
        self.tokenizer: Any = tokenizer
        self.preprocess = preprocess
        self.resize = _resizer(preprocess)
        self._mean = torch.tensor(preprocess["mean"]).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocess["std"]).view(1, 3, 1, 1)

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
            parts += [key, value.float()]
        return fingerprint(*parts)

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Scale uint8 images of shape (n, 3, H, W) to the range that the model was trained on."""
        return (images.float().div_(255) - self._mean) / self._std

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
        ValueError
            If the images have another shape or type.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"images has shape {tuple(images.shape)} and type {images.dtype}; expected (n, 3, H, W), uint8 RGB."
            )
        out = []
        for batch in images.split(256):
            pixels = self.normalize(self.resize(batch)).contiguous(memory_format=torch.channels_last)
            out.append(self.model.encode_image(pixels, normalize=True).float().numpy())
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
                f"texts is {texts!r:.80}; expected a sequence of strings, such as ['a photo of a cat']."
            )
        if len(texts) == 0:
            return np.empty((0, self.embedding_dim), dtype=np.float32)
        out = [
            self.model.encode_text(self.tokenizer(list(texts[i : i + 256])), normalize=True).float().numpy()
            for i in range(0, len(texts), 256)
        ]
        return np.concatenate(out)


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
        f"The model resizes by {mode!r} to {size}; only 'squash' and, to a square, 'shortest' are supported."
    )


def load_encoder(name: str) -> Encoder:
    """Load a frozen encoder by name.

    Parameters
    ----------
    name : str
        ``"animal-world"`` or ``"animal-world-biased"`` (they ship with the project); ``"model/pretrained"`` of
        open_clip, for example ``"ViT-B-16/openai"`` or ``"ViT-B-32/laion2b_s34b_b79k"``; or a local checkpoint:
        a folder with ``open_clip_config.json`` and the weights, or a weights file in such a folder.

    Returns
    -------
    Encoder

    Raises
    ------
    ValueError
        If the name is unknown; the message lists close names.
    FileNotFoundError
        If a local checkpoint has no config, so that its preprocessing would have to be guessed.
    RuntimeError
        If the weights cannot be had; the message names the model, the cause and the ways out.
    """
    if name in SHIPPED:
        return _load_shipped(name)
    if Path(name).expanduser().exists():
        return _load_local(name, Path(name).expanduser())
    model_name, _, pretrained = name.partition("/")
    if (model_name, pretrained) not in open_clip.list_pretrained():
        known = [*SHIPPED, *(f"{m}/{p}" for m, p in open_clip.list_pretrained())]
        close = difflib.get_close_matches(name, known, n=5, cutoff=0.4)
        raise ValueError(
            f"Unknown encoder {name!r}: it is not shipped, no file or folder has this path, and open_clip has no such "
            f"model/pretrained pair. Close names: {', '.join(close) or 'none'}. "
            "open_clip.list_pretrained() lists all pairs."
        )
    return _load_open_clip(name, model_name, pretrained=pretrained)


def _load_shipped(name: str) -> Encoder:
    config_path, weights_path = WEIGHTS / f"{name}.json", WEIGHTS / f"{name}.safetensors"
    if not (config_path.exists() and weights_path.exists()):
        raise RuntimeError(
            f"The weights of {name!r} should be in {WEIGHTS} and are not: the installation is not whole. Ways out: "
            f"install again; or train the encoder, `python -m icm_core.pretraining {name}`, and copy the two files "
            "that it writes."
        )
    config = json.loads(config_path.read_text())
    tokenizer = AnimalTokenizer(config["vocabulary"], config["model"]["text_cfg"]["context_length"])
    model = build_clip(config["model"], tokenizer.vocab_size)
    model.load_state_dict({k: v.float() for k, v in load_file(weights_path).items()})
    model.eval().to(memory_format=torch.channels_last)
    return Encoder(name, model, tokenizer, config["preprocess"])


def _load_local(name: str, path: Path) -> Encoder:
    folder = path if path.is_dir() else path.parent
    if not (folder / "open_clip_config.json").exists():
        raise FileNotFoundError(
            f"The local checkpoint {name!r} has no open_clip_config.json beside it. Its architecture and preprocessing "
            "are unknown and are not guessed. Save the model with open_clip's `save_for_hf`/`push_to_hf_hub`, or write "
            "the config with 'model_cfg' and 'preprocess_cfg'."
        )
    return _load_open_clip(name, f"local-dir:{folder}", weights=None if path.is_dir() else path)


def _load_open_clip(
    name: str, model_name: str, *, pretrained: str | None = None, weights: Path | None = None
) -> Encoder:
    """Load the weights of a tag (`pretrained`), of a file (`weights`), or those that lie in a local folder."""
    tag = open_clip.get_pretrained_cfg(model_name, pretrained) if pretrained else {}
    # open_clip only warns where a model's activation function is not the one its weights were trained with
    quick_gelu = tag.get("quick_gelu", False)
    try:
        model = open_clip.create_model(
            model_name, pretrained, load_weights=weights is None, require_pretrained=weights is None,
            pretrained_text=False, force_quick_gelu=quick_gelu,
        )  # fmt: skip
        if weights is not None:
            open_clip.load_checkpoint(model, str(weights), strict=True, weights_only=True)
    except Exception as error:
        cause = " ".join(str(error).split())
        raise RuntimeError(
            f"The weights of {name!r} could not be loaded: {type(error).__name__}: {cause:.300}. Ways out: connect to the "
            "internet once, so that they are cached; copy a Hugging Face cache and set HF_HOME; or give the path "
            "of a local folder with open_clip_config.json and the weights."
        ) from error
    keys = ("size", "interpolation", "resize_mode", "mean", "std")
    config = open_clip.get_model_preprocess_cfg(model)
    preprocess = {key: list(value) if isinstance(value := config[key], tuple) else value for key in keys}
    return Encoder(name, model.eval(), open_clip.get_tokenizer(model_name), preprocess)
