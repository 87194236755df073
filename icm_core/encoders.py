"""Encoders: images and text to embeddings, by name.

An encoder is named the open_clip way. ``"animal-world"`` and ``"animal-world-biased"`` are the small CLIPs
that ship with the project; ``"lite0-minilm"`` is made of two packages that are an optional extra, and embeds photographs
without a download; ``"ViT-B-16/openai"`` is any ``model/pretrained`` pair that open_clip
knows; a path is a local checkpoint. :func:`load_encoder` is the one factory. Embeddings are unit vectors in
numpy; nothing after this module needs torch.
"""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
PHOTO = "lite0-minilm"
NOTES = {  # what a page says beside a result of an encoder
    "animal-world": (
        "This encoder is a small CLIP that ships with the study. It was trained on rendered animals of all four styles, so a style is "
        "*unseen* by what is fitted on its embeddings, not by the encoder itself (model card: `icm_core/weights/README.md`)."
    ),
    "animal-world-biased": (
        "This encoder is a small CLIP that ships with the study. In its own training coat and scene followed the class six times in ten, so it "
        "has learnt a shortcut itself. It was also trained on fewer images than `animal-world`, so that it is the weaker of the two is not the "
        "shortcut's doing alone (model card: `icm_core/weights/README.md`)."
    ),
    PHOTO: (
        "**This encoder is not CLIP**: it joins a classifier's image tower and a sentence encoder by a regression, and no "
        "image was ever seen together with a caption. The linear probe is its serious use; its zero-shot and its text "
        "interventions say little about CLIP (model card: `icm_core/weights/lite0-minilm.md`)."
    ),
}

#: What an `Encoder` is made of: model, tokenizer and preprocessing.
Parts = tuple[Any, Callable[[Sequence[str]], torch.Tensor], dict[str, Any]]


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
    device : str or torch.device
        Where the model computes.

    Attributes
    ----------
    embedding_dim : int
        D.
    fingerprint : str
        SHA-256 of the model, its weights and the preprocessing; two encoders that share it and the `precision` give
        the same embeddings of images, and of texts that their tokenizers read alike.
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
            f"Encoder({self.name!r}: images are resized to {p['size']} ({p['resize_mode']}, {p['interpolation']}) and "
            f"normalized with mean {p['mean']} and std {p['std']}; {self.precision} on {self.device})"
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
            The `fingerprint`, the `precision`, and the texts as this encoder's tokenizer reads them.
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
                f"images is of type {type(images).__name__}; expected a torch uint8 tensor of shape (n, 3, H, W). "
                "torch.from_numpy(array).permute(0, 3, 1, 2) converts an array of shape (n, H, W, 3), and "
                "torchvision.transforms.v2.functional.pil_to_tensor(image)[None] a PIL image."
            )
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"images has shape {tuple(images.shape)} and type {images.dtype}; expected (n, 3, H, W), uint8 RGB."
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
                f"texts is {texts!r:.80}; expected a sequence of strings, such as ['a photo of a cat']."
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
        f"The model resizes by {mode!r} to {size}; only 'squash' and, to a square, 'shortest' are supported."
    )


def load_encoder(name: str, device: str | torch.device | None = None) -> Encoder:
    """Load a frozen encoder by name.

    Parameters
    ----------
    name : str
        ``"animal-world"`` or ``"animal-world-biased"`` (they ship with the project); ``"lite0-minilm"`` (for
        photographs; an optional extra); ``"model/pretrained"`` of open_clip, for example ``"ViT-B-16/openai"`` or
        ``"ViT-B-32/laion2b_s34b_b79k"``; or a local checkpoint: a folder with ``open_clip_config.json`` and the
        weights, or a weights file in such a folder.
    device : str or torch.device, optional
        Where the model computes. By default ``"cuda"`` if there is such a device, else ``"cpu"``.

    Returns
    -------
    Encoder
        Its ``repr`` tells which preprocessing it uses.

    Raises
    ------
    TypeError
        If the name is not a string.
    ValueError
        If the name is empty or unknown (the message lists close names), or a local checkpoint's config does not
        tell the preprocessing.
    FileNotFoundError
        If a local checkpoint has no config, so that its preprocessing would have to be guessed.
    RuntimeError
        If the weights cannot be had; the message names the model, the cause and the ways out.
    """
    if not isinstance(name, str):
        raise TypeError(f"the encoder's name must be a string; got {name!r} of type {type(name).__name__}.")
    if not name.strip():
        raise ValueError(
            "the encoder's name is empty; give one, such as 'animal-world' or 'ViT-B-16/openai'."
        )
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return Encoder(name, *_load(name), device)


def _load(name: str) -> Parts:
    if name in SHIPPED:
        return _load_shipped(name)
    if name == PHOTO:
        from icm_core import lite0_minilm  # its packages are optional

        return lite0_minilm.load()
    if Path(name).expanduser().exists():
        return _load_local(name, Path(name).expanduser())
    if name.startswith("hf-hub:"):
        repository = name.removeprefix("hf-hub:")
        raise ValueError(
            f"{name!r} names a repository of the Hugging Face hub. Download it once, `hf download {repository} --local-dir "
            f"models/{Path(repository).name}`, and give that folder as the encoder's name: its config tells the preprocessing."
        )
    model_name, _, pretrained = name.partition("/")
    if (model_name, pretrained) not in open_clip.list_pretrained():
        known = [*SHIPPED, PHOTO, *(f"{m}/{p}" for m, p in open_clip.list_pretrained())]
        close = difflib.get_close_matches(name, known, n=5, cutoff=0.4)
        raise ValueError(
            f"Unknown encoder {name!r}: it is not shipped, no file or folder has this path, and open_clip has no such "
            f"model/pretrained pair. Close names: {', '.join(close) or 'none'}. "
            "open_clip.list_pretrained() lists all pairs."
        )
    return _load_open_clip(name, model_name, pretrained=pretrained)


def _load_shipped(name: str) -> Parts:
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
    model.eval()
    return model, tokenizer, config["preprocess"]


def _load_local(name: str, path: Path) -> Parts:
    folder = path if path.is_dir() else path.parent
    config = folder / "open_clip_config.json"
    if not config.exists():
        raise FileNotFoundError(
            f"The local checkpoint {name!r} has no open_clip_config.json beside it. Its architecture and preprocessing "
            "are unknown and are not guessed. Save the model with open_clip's `save_for_hf`/`push_to_hf_hub`, or write "
            "the config with 'model_cfg' and 'preprocess_cfg'."
        )
    try:
        preprocess = json.loads(config.read_text())["preprocess_cfg"]
        missing = [key for key in ("mean", "std") if key not in preprocess]
    except (ValueError, LookupError, TypeError):
        missing = ["preprocess_cfg"]
    if missing:  # open_clip would take its own default
        raise ValueError(
            f"{config} does not tell {' and '.join(map(repr, missing))}, and the preprocessing is not guessed. Add a "
            "'preprocess_cfg' with 'mean' and 'std', and with 'interpolation' and 'resize_mode' unless these are "
            "open_clip's usual 'bicubic' and 'shortest'."
        )
    return _load_open_clip(name, f"local-dir:{folder}", weights=None if path.is_dir() else path)


def _load_open_clip(
    name: str, model_name: str, *, pretrained: str | None = None, weights: Path | None = None
) -> Parts:
    """Load the weights of a tag (`pretrained`), of a file (`weights`), or those that lie in a local folder."""
    tag = open_clip.get_pretrained_cfg(model_name, pretrained) if pretrained else {}
    # open_clip only warns where a model's activation function is not the one its weights were trained with
    quick_gelu = tag.get("quick_gelu", False)
    try:
        with _without_alarm():
            model = open_clip.create_model(
                model_name, pretrained, load_weights=weights is None, require_pretrained=weights is None,
                pretrained_text=False, force_quick_gelu=quick_gelu,
            )  # fmt: skip
        if weights is not None:
            open_clip.load_checkpoint(model, str(weights), strict=True, weights_only=True)
    except Exception as error:
        cause = " ".join(str(error).split())
        ways_out = (
            "connect to the internet once, so that they are cached; copy a Hugging Face cache and set HF_HOME; or give "
            "the path of a local folder with open_clip_config.json and the weights."
            if pretrained
            else "check that the weights are whole, and that 'model_cfg' in open_clip_config.json is their architecture."
        )
        raise RuntimeError(
            f"The weights of {name!r} could not be loaded: {type(error).__name__}: {cause:.300}. Ways out: {ways_out}"
        ) from error
    keys = ("size", "interpolation", "resize_mode", "mean", "std")
    config = open_clip.get_model_preprocess_cfg(model)
    preprocess = {key: list(value) if isinstance(value := config[key], tuple) else value for key in keys}
    return model.eval(), open_clip.get_tokenizer(model_name), preprocess


@contextmanager
def _without_alarm() -> Iterator[None]:
    """Keep open_clip from saying that a model has random weights: where it has, they are loaded next, or it raises."""

    def is_no_alarm(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("No pretrained weights loaded")

    logger = logging.getLogger()
    logger.addFilter(is_no_alarm)
    try:
        yield
    finally:
        logger.removeFilter(is_no_alarm)
