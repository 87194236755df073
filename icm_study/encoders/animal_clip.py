"""The small CLIPs that ship with the project: their tokenizer, model and weights.

open_clip and torch are imported when one is made, not with this module.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import open_clip
    import torch

    from icm_study.encoders.encoder import Parts

WEIGHTS_FOLDER = Path(__file__).parent / "weights"

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
        from open_clip.tokenizer import SimpleTokenizer

        self.vocabulary = list(vocabulary)
        self.context_length = context_length
        self.vocab_size = len(self.vocabulary) + 3  # padding, start, words, end
        self._full = SimpleTokenizer()
        self._compact = {full: i + 2 for i, full in enumerate(self.vocabulary)}
        self._of_word: dict[str, list[int]] = {}

    @classmethod
    def from_lexicon(cls, context_length: int) -> AnimalTokenizer:
        """Vocabulary of every caption and prompt of the animal world."""
        from open_clip.tokenizer import SimpleTokenizer

        from icm_study.animals.latents import LEXICON
        from icm_study.animals.silhouettes import CLASSES

        words = ["a an the of in on at image picture animal", *CLASSES]
        words += [value for values in LEXICON.values() for value in values]
        full = SimpleTokenizer()
        return cls(sorted({i for text in words for i in full.encode(text)}), context_length)

    def __call__(self, texts: Sequence[str], context_length: int | None = None) -> torch.Tensor:
        """Token ids (n, context_length); the end token has the highest id, as CLIP expects."""
        import torch

        context_length = context_length or self.context_length
        out = torch.zeros((len(texts), context_length), dtype=torch.long)
        for row, text in enumerate(texts):
            ids = self._ids(text)
            if -1 in ids:
                known = sorted({self._full.decode([i]).strip() for i in self.vocabulary})
                raise ValueError(
                    f"{text!r} has a word this encoder never saw; its words are {known}."
                )
            if len(ids) > context_length - 2:
                raise ValueError(
                    f"{text!r} has {len(ids)} tokens, at most {context_length - 2} fit; shorten it."
                )
            ids = [1, *ids, self.vocab_size - 1]
            out[row, : len(ids)] = torch.tensor(ids)
        return out

    def _ids(self, text: str) -> list[int]:
        """Compact ids of a text's words, each encoded once; -1 is no word of the vocabulary."""
        if not (text.isascii() and text.isprintable()):  # its words may not stand alone
            return [self._compact.get(i, -1) for i in self._full.encode(text)]
        words = text.split()
        for word in words:
            if word not in self._of_word:
                full = self._full.encode(word)
                self._of_word[word] = [self._compact.get(i, -1) for i in full]
        return [i for word in words for i in self._of_word[word]]


def build_clip(config: dict[str, Any], vocab_size: int) -> open_clip.CLIP:
    """Build open_clip's CLIP for a small config and vocabulary."""
    import open_clip

    text = config["text_cfg"] | {"vocab_size": vocab_size}
    return open_clip.CLIP(config["embed_dim"], config["vision_cfg"], text)


def shipped_files(name: str) -> tuple[Path, Path]:
    """Name the config and the weights of a shipped CLIP.

    Raises
    ------
    RuntimeError
        If one is missing.
    """
    config, weights = (WEIGHTS_FOLDER / f"{name}.{ending}" for ending in ("json", "safetensors"))
    if not (config.exists() and weights.exists()):
        raise RuntimeError(
            f"The weights of {name!r} should be in {WEIGHTS_FOLDER} and are not: the installation "
            f"is not whole. Ways out: "
            f"install again; or train the encoder, `python -m "
            f"icm_study.encoders.animal_pretraining {name}`, and copy the two files "
            "that it writes."
        )
    return config, weights


def load_shipped(name: str) -> Parts:
    """Load a shipped CLIP: model, tokenizer and preprocessing.

    Raises
    ------
    RuntimeError
        If its files are missing.
    """
    from safetensors.torch import load_file

    config_path, weights_path = shipped_files(name)
    config = json.loads(config_path.read_text())
    tokenizer = AnimalTokenizer(config["vocabulary"], config["model"]["text_cfg"]["context_length"])
    model = build_clip(config["model"], tokenizer.vocab_size)
    model.load_state_dict({k: v.float() for k, v in load_file(weights_path).items()})
    model.eval()
    return model, tokenizer, config["preprocess"]
