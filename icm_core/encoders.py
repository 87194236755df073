"""Encoders: images and text to embeddings, by name.

An encoder is named the open_clip way. ``"animal-world"`` and ``"animal-world-biased"`` are the small CLIPs
that ship with the project; ``"ViT-B-16/openai"`` is any ``model/pretrained`` pair that open_clip
knows; a path is a local checkpoint. :func:`load_encoder` is the one factory. Embeddings are unit vectors in
numpy; nothing after this module needs torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from torchvision.transforms import v2

from icm_core.animal_world import CLASSES, LEXICON


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
    tokenizer : callable
        List of str to a tensor of token ids.
    preprocess : dict
        ``size``, ``interpolation``, ``resize_mode``, ``mean`` and ``std``, as in open_clip's model configs.
    """

    def __init__(
        self, name: str, model: Any, tokenizer: Callable[[Sequence[str]], torch.Tensor], preprocess: dict[str, Any]
    ):
        self.name = name
        self.model = model
        self.tokenizer: Any = tokenizer
        self.preprocess = preprocess
        self._mean = torch.tensor(preprocess["mean"]).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocess["std"]).view(1, 3, 1, 1)
        self._resize = v2.Resize(preprocess["size"], v2.InterpolationMode(preprocess["interpolation"]), antialias=True)

    def resize(self, images: torch.Tensor) -> torch.Tensor:
        return self._resize(images)

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        return (images.float().div_(255) - self._mean) / self._std

    @torch.inference_mode()
    def encode_images(self, images: torch.Tensor) -> np.ndarray:
        self.model.eval()
        out = []
        for batch in images.split(256):
            pixels = self.normalize(self.resize(batch)).contiguous(memory_format=torch.channels_last)
            out.append(self.model.encode_image(pixels, normalize=True).float().numpy())
        return np.concatenate(out)

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        self.model.eval()
        return self.model.encode_text(self.tokenizer(list(texts)), normalize=True).float().numpy()
