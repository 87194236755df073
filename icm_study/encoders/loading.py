"""Encoders: images and text to embeddings, by name.

An encoder is named the open_clip way. ``"animal-world"`` and ``"animal-world-biased"``
are the small CLIPs that ship with the project; ``"lite0-minilm"`` is made of two
packages that are an optional extra, and embeds photographs without a download;
``"ViT-B-16/openai"`` is any ``model/pretrained`` pair that open_clip knows; a path is a
local checkpoint. :func:`load_encoder` is the one factory. Embeddings are unit vectors
in numpy; nothing after this module needs torch.
"""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import open_clip
import torch

from icm_study.encoders.animal_clip import SHIPPED, _load_shipped
from icm_study.encoders.encoder import Encoder, Parts

PHOTO = "lite0-minilm"


def load_encoder(name: str, device: str | torch.device | None = None) -> Encoder:
    """Load a frozen encoder by name.

    Parameters
    ----------
    name : str
        ``"animal-world"`` or ``"animal-world-biased"`` (they ship with the project);
        ``"lite0-minilm"`` (for photographs; an optional extra); ``"model/pretrained"``
        of open_clip, for example ``"ViT-B-16/openai"`` or
        ``"ViT-B-32/laion2b_s34b_b79k"``; or a local checkpoint: a folder with
        ``open_clip_config.json`` and the weights, or a weights file in such a folder.
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
        If the name is empty or unknown (the message lists close names), or a local
        checkpoint's config does not tell the preprocessing.
    FileNotFoundError
        If a local checkpoint has no config, so that its preprocessing would have to be guessed.
    RuntimeError
        If the weights cannot be had; the message names the model, the cause and the ways out.
    """
    if not isinstance(name, str):
        raise TypeError(
            f"the encoder's name must be a string; got {name!r} of type {type(name).__name__}."
        )
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
        from icm_study.encoders import lite0_minilm  # its packages are optional

        return lite0_minilm.load()
    if Path(name).expanduser().exists():
        return _load_local(name, Path(name).expanduser())
    if name.startswith("hf-hub:"):
        repository = name.removeprefix("hf-hub:")
        raise ValueError(
            f"{name!r} names a repository of the Hugging Face hub. Download it once, `hf "
            f"download {repository} --local-dir "
            f"models/{Path(repository).name}`, and give that folder as the encoder's name: "
            f"its config tells the preprocessing."
        )
    model_name, _, pretrained = name.partition("/")
    if (model_name, pretrained) not in open_clip.list_pretrained():
        known = [*SHIPPED, PHOTO, *(f"{m}/{p}" for m, p in open_clip.list_pretrained())]
        close = difflib.get_close_matches(name, known, n=5, cutoff=0.4)
        raise ValueError(
            f"Unknown encoder {name!r}: it is not shipped, no file or folder has this path, "
            f"and open_clip has no such "
            f"model/pretrained pair. Close names: {', '.join(close) or 'none'}. "
            "open_clip.list_pretrained() lists all pairs."
        )
    return _load_open_clip(name, model_name, pretrained=pretrained)


def _load_local(name: str, path: Path) -> Parts:
    folder = path if path.is_dir() else path.parent
    config = folder / "open_clip_config.json"
    if not config.exists():
        raise FileNotFoundError(
            f"The local checkpoint {name!r} has no open_clip_config.json beside it. Its "
            f"architecture and preprocessing "
            "are unknown and are not guessed. Save the model with open_clip's "
            "`save_for_hf`/`push_to_hf_hub`, or write "
            "the config with 'model_cfg' and 'preprocess_cfg'."
        )
    try:
        preprocess = json.loads(config.read_text())["preprocess_cfg"]
        missing = [key for key in ("mean", "std") if key not in preprocess]
    except (ValueError, LookupError, TypeError):
        missing = ["preprocess_cfg"]
    if missing:  # open_clip would take its own default
        raise ValueError(
            f"{config} does not tell {' and '.join(map(repr, missing))}, and the "
            f"preprocessing is not guessed. Add a "
            "'preprocess_cfg' with 'mean' and 'std', and with 'interpolation' and "
            "'resize_mode' unless these are "
            "open_clip's usual 'bicubic' and 'shortest'."
        )
    return _load_open_clip(name, f"local-dir:{folder}", weights=None if path.is_dir() else path)


def _load_open_clip(
    name: str, model_name: str, *, pretrained: str | None = None, weights: Path | None = None
) -> Parts:
    """Load the weights of a tag (`pretrained`), of a file (`weights`), or those that lie in a local folder."""
    tag = open_clip.get_pretrained_cfg(model_name, pretrained) if pretrained else {}
    # open_clip only warns where a model's activation function is not the one its
    # weights were trained with
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
            "connect to the internet once, so that they are cached; copy a Hugging Face "
            "cache and set HF_HOME; or give "
            "the path of a local folder with open_clip_config.json and the weights."
            if pretrained
            else "check that the weights are whole, and that 'model_cfg' in "
            "open_clip_config.json is their architecture."
        )
        raise RuntimeError(
            f"The weights of {name!r} could not be loaded: {type(error).__name__}: "
            f"{cause:.300}. Ways out: {ways_out}"
        ) from error
    keys = ("size", "interpolation", "resize_mode", "mean", "std")
    config = open_clip.get_model_preprocess_cfg(model)
    preprocess = {
        key: list(value) if isinstance(value := config[key], tuple) else value for key in keys
    }
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
