"""Encoders: images and text to embeddings, by name.

An encoder is named the open_clip way. ``"animal-world"`` and ``"animal-world-biased"``
are the small CLIPs that ship with the project; ``"lite0-minilm"`` is made of two
packages that are an optional extra, and embeds photographs without a download;
``"ViT-B-16/openai"`` is any ``model/pretrained`` pair that open_clip knows; a path is a
local checkpoint. :func:`load_encoder` is the one factory. Embeddings are unit vectors
in numpy; nothing after this module needs torch. torch and open_clip are imported when
an encoder is loaded, not with this module.
"""

from __future__ import annotations

import argparse
import difflib
import importlib.util
import json
import logging
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icm_study.encoders.animal_clip import SHIPPED, load_shipped
from icm_study.encoders.encoder import Encoder, Parts
from icm_study.encoders.shipped import ShippedEncoder, has_no_gpu

if TYPE_CHECKING:
    import torch

    from icm_study.facts import Facts

PHOTO = "lite0-minilm"
SAME = 0.999  # least cosine between embeddings of the same pixels by the same encoder

OPEN_CLIP_SUFFIXES = {".safetensors", ".bin", ".pth"}  # of weights that it finds in a folder
OTHER_SUFFIXES = {".pt", ".ckpt", ".npz"}  # of weights that are to be named themselves
_PART = re.compile(r"-\d+-of-\d+\.\w+$")  # of a file of weights that are in several


def load_encoder(
    name: str,
    device: str | torch.device | None = None,
    precision: str | None = None,
    facts: Facts | None = None,
) -> Encoder:
    """Load a frozen encoder by name.

    Parameters
    ----------
    name : str
        ``"animal-world"`` or ``"animal-world-biased"`` (they ship with the project);
        ``"lite0-minilm"`` (for photographs; an optional extra); ``"model/pretrained"``
        of open_clip, for example ``"ViT-B-16/openai"`` or
        ``"ViT-B-32/laion2b_s34b_b79k"``; a local checkpoint: a folder with
        ``open_clip_config.json`` and the weights, or a weights file in such a folder; or a
        folder that ``icm fold`` wrote.
    device : str or torch.device, optional
        Where the model computes. By default ``"cuda"`` if there is such a device, else
        ``"cpu"``.
    precision : {"float32", "bfloat16", "float16"}, optional
        Floating-point type in which the model computes; by default float32, on every
        device. It is a part of the key of stored embeddings.
    facts : Facts, optional
        Where the keys of a shipped encoder are kept. With them, and where it computes on a
        CPU, its model is loaded when something is embedded, not before.

    Returns
    -------
    Encoder
        Its ``repr`` tells which preprocessing it uses.

    Raises
    ------
    TypeError
        If the name is not a string.
    ValueError
        If the name is empty or unknown (the message lists close names), a local
        checkpoint's config does not tell the preprocessing, or the precision is unknown.
    FileNotFoundError
        If a local checkpoint has no config, so that its preprocessing would have to be
        guessed.
    RuntimeError
        If the weights cannot be had; the message names the model, the cause and the ways
        out.
    """
    if not isinstance(name, str):
        raise TypeError(
            f"the encoder's name must be a string; got {name!r} of type {type(name).__name__}."
        )
    if not name.strip():
        raise ValueError(
            "the encoder's name is empty; give one, such as 'animal-world' or 'ViT-B-16/openai'."
        )
    precision = precision or "float32"
    if facts and name in SHIPPED and (str(device) == "cpu" or (device is None and has_no_gpu())):
        return ShippedEncoder(name, precision, facts)
    import torch

    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return Encoder(name, *_load(name), device, precision)


def open_clip_arguments(name: str) -> dict[str, Any]:
    """Give what ``open_clip.create_model`` takes to build an encoder.

    Parameters
    ----------
    name : str
        As :func:`load_encoder` takes it.

    Returns
    -------
    dict
        *model_name*, and *pretrained* and *force_quick_gelu* of what is no local checkpoint.

    Raises
    ------
    ValueError
        If open_clip cannot build it.
    """
    if name in (*SHIPPED, PHOTO):
        raise ValueError(
            f"open_clip cannot build {name!r}, whose tokenizer is this project's own. Name an "
            "encoder of open_clip, such as 'ViT-B-16/openai', or a local checkpoint."
        )
    path = Path(name).expanduser()
    if path.exists():
        folder = path if path.is_dir() else path.parent
        return {"model_name": f"local-dir:{folder.absolute()}"}
    import open_clip

    model_name, _, tag = name.partition("/")
    quick_gelu = (open_clip.get_pretrained_cfg(model_name, tag) or {}).get("quick_gelu", False)
    return {"model_name": model_name, "pretrained": tag, "force_quick_gelu": quick_gelu}


def open_clip_config(encoder: Encoder) -> dict[str, Any]:
    """Give what open_clip keeps of a model in ``open_clip_config.json``.

    Raises
    ------
    ValueError
        If open_clip cannot build the encoder.
    """
    import open_clip

    model_name = open_clip_arguments(encoder.name)["model_name"]
    return {
        "model_cfg": open_clip.get_model_config(model_name),
        "preprocess_cfg": dict(encoder.preprocess),
    }


def _load(name: str) -> Parts:
    if name in SHIPPED:
        return load_shipped(name)
    if name == PHOTO:
        from icm_study.encoders import lite0_minilm  # its packages are optional

        return lite0_minilm.load()
    if Path(name).expanduser().exists():
        return _load_local(name, Path(name).expanduser())
    if name.startswith("hf-hub:"):
        repository = name.removeprefix("hf-hub:")
        folder = Path("models", Path(repository).name).absolute()
        raise ValueError(
            f"{name!r} names a repository of the Hugging Face hub. Download it once, `hf "
            f"download {repository} --local-dir {shlex.quote(str(folder))}`, and give that "
            f"folder as the encoder's name: its config tells the preprocessing."
        )
    import open_clip

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


def encoder_told(encoder: Encoder) -> dict[str, Any]:
    """Tell in JSON values how an encoder is built, and what it does to images first.

    Returns
    -------
    dict
        *name*, as :func:`load_encoder` takes it; *preprocess*; and *open_clip*, what
        ``open_clip.create_model`` takes, where open_clip can build it.
    """
    told = {"name": encoder.name, "preprocess": encoder.preprocess}
    if encoder.name in (*SHIPPED, PHOTO):
        return told
    return told | {"open_clip": open_clip_arguments(encoder.name)}


def _load_projected(folder: Path) -> Parts:
    """Load an encoder with a projection behind it, and check that it is the right one."""
    from icm_core.deploy import ProjectedCLIP, load_projected

    projection, told, example = load_projected(folder)
    model, tokenizer, preprocess = _load(told["name"])
    plain = Encoder(told["name"], model, tokenizer, preprocess, precision="float32")
    if plain.example() @ example < SAME:
        raise RuntimeError(
            f"{folder} has a projection for another encoder than what {told['name']!r} is now. "
            "Make it again, with `icm fit` and `icm fold`."
        )
    return ProjectedCLIP(model, projection).eval(), tokenizer, preprocess


def _load_local(name: str, path: Path) -> Parts:
    from icm_core.deploy import PROJECTED

    folder = path if path.is_dir() else path.parent
    if (folder / PROJECTED).exists():
        return _load_projected(folder)
    config = folder / "open_clip_config.json"
    if not config.exists():
        raise FileNotFoundError(
            f"The local checkpoint {name!r} has no open_clip_config.json beside it. Its "
            f"architecture and preprocessing "
            "are unknown and are not guessed. Save the model with open_clip's "
            "`save_for_hf`/`push_to_hf_hub`, or write "
            "the config with 'model_cfg' and 'preprocess_cfg'."
            + " (Its config.json is that of another library, such as transformers, which cannot be "
            "read.)" * (folder / "config.json").exists()
        )
    _check_preprocessing(config)
    suffixes = {file.suffix for file in folder.iterdir()}
    if path.is_dir() and not suffixes & OPEN_CLIP_SUFFIXES:
        others = sorted(file.name for file in folder.iterdir() if file.suffix in OTHER_SUFFIXES)
        way_out = (
            f"give the file itself as the encoder's name, {str(folder / others[0])!r}."
            if others
            else "copy them there, for example as open_clip_model.safetensors."
        )
        raise RuntimeError(
            f"The weights of {name!r} could not be loaded: the folder has no file that ends in "
            f"{', '.join(sorted(OPEN_CLIP_SUFFIXES))}; it has {others or 'no weights'}. "
            f"Ways out: {way_out}"
        )
    weights = None if path.is_dir() else path
    return _load_open_clip(name, f"local-dir:{folder}", weights=weights)


def _check_preprocessing(config: Path) -> None:
    """Refuse a config that is no JSON, or from which open_clip would take another preprocessing."""
    try:
        told = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{config} cannot be read as JSON ({error}). Save it again, in UTF-8 without a byte "
            "order mark."
        ) from error
    preprocess = told.get("preprocess_cfg") if isinstance(told, dict) else None
    if isinstance(preprocess, dict):
        missing = [key for key in ("mean", "std") if key not in preprocess]
    else:
        preprocess, missing = {}, ["preprocess_cfg"]
    if missing:  # open_clip would take its own default
        raise ValueError(
            f"{config} does not tell {' and '.join(map(repr, missing))}, and "
            "the preprocessing is not guessed. Add a "
            "'preprocess_cfg' with 'mean' and 'std', and with 'interpolation' and "
            "'resize_mode' unless these are "
            "open_clip's usual 'bicubic' and 'shortest'."
        )
    for key in ("mean", "std"):
        values = preprocess[key]
        numbers = values if isinstance(values, list) else []
        is_good = [isinstance(x, int | float) and (x > 0 or key == "mean") for x in numbers]
        if len(numbers) != 3 or not all(is_good) or not 0 <= min(numbers) <= max(numbers) <= 1:
            raise ValueError(
                f"{config} tells {values!r} as {key!r} of the preprocessing; expected three "
                "numbers, of red, green and blue, for pixels from 0 to 1. Those for pixels from 0 "
                "to 255 are to be divided by 255."
            )


def _load_open_clip(
    name: str, model_name: str, *, pretrained: str | None = None, weights: Path | None = None
) -> Parts:
    """Load the weights of a tag (`pretrained`), of a file, or those in a local folder."""
    import open_clip

    tag = open_clip.get_pretrained_cfg(model_name, pretrained) if pretrained else {}
    # open_clip only warns where a model's activation function is not the one its
    # weights were trained with
    quick_gelu = tag.get("quick_gelu", False)
    try:
        with _without_alarm(), _plain_values_allowed():
            model = open_clip.create_model(
                model_name,
                pretrained,
                load_weights=weights is None,
                require_pretrained=weights is None,
                pretrained_text=False,
                force_quick_gelu=quick_gelu,
            )
            if weights is not None:
                open_clip.load_checkpoint(model, str(weights), strict=True, weights_only=True)
    except Exception as error:
        cause = " ".join(str(error).split())
        raise RuntimeError(
            f"The weights of {name!r} could not be loaded: {type(error).__name__}: "
            f"{cause:.300}. Ways out: {_ways_out(error, model_name, pretrained)}"
        ) from error
    try:
        tokenizer = open_clip.get_tokenizer(model_name)
    except Exception as error:
        cause = " ".join(str(error).split())
        raise RuntimeError(
            f"The tokenizer of {name!r} could not be loaded: {type(error).__name__}: "
            f"{cause:.300}. Ways out: {_ways_to_a_tokenizer(model_name)}"
        ) from error
    keys = ("size", "interpolation", "resize_mode", "mean", "std")
    config = open_clip.get_model_preprocess_cfg(model)
    preprocess = {
        key: list(value) if isinstance(value := config[key], tuple) else value for key in keys
    }
    return model.eval(), tokenizer, preprocess


def _text_config(model_name: str) -> tuple[dict[str, Any], Path | None]:
    """Read the text tower's config, and the local folder that it comes from."""
    import open_clip

    if model_name.startswith("local-dir:"):
        folder = Path(model_name.removeprefix("local-dir:"))
        config = json.loads((folder / "open_clip_config.json").read_text()).get("model_cfg", {})
        return config.get("text_cfg", {}), folder
    return (open_clip.get_model_config(model_name) or {}).get("text_cfg", {}), None


def _ways_out(error: Exception, model_name: str, pretrained: str | None) -> str:
    """Advise by what went wrong while a model was built and its weights were read."""
    text, folder = _text_config(model_name)
    for file in sorted(folder.iterdir()) if folder else []:
        if file.suffix in OPEN_CLIP_SUFFIXES | OTHER_SUFFIXES and (words := _begins_as_text(file)):
            what = "a web page (HTML)" if words.startswith("<") else "a text"
            return (
                f"{str(file)!r} holds no weights: it is {what}, which a server sends in the place "
                f"of a file, and begins with {words!r}. Download the file itself, and compare its "
                "size with the one that is told there."
            )
    if "TorchScript" in str(error):
        return (
            "the file is a TorchScript archive, a program, and is not run. If you trust where "
            'it is from, take the weights out of it once: `python -c "import sys, torch, '
            "safetensors.torch as s; w = torch.jit.load(sys.argv[1], 'cpu').float()."
            "state_dict(); s.save_file({k: v.contiguous() for k, v in w.items() "
            "if k not in ('attn_mask', 'input_resolution', 'context_length', 'vocab_size')}, "
            'sys.argv[2])" FILE open_clip_model.safetensors`.'
        )
    if folder and "Missing key(s)" in str(error):
        parts = sorted(file.name for file in folder.iterdir() if _PART.search(file.name))
        if parts:
            return (
                f"the weights are in {len(parts)} files, such as {parts[0]!r}, and open_clip reads "
                "one: put them together in open_clip_model.safetensors."
            )
        return (
            "check that the weights are whole, and that 'model_cfg' in open_clip_config.json is "
            "their architecture. Where a file has them in an entry of its own, such as 'model', "
            "beside others, save that entry with safetensors, and give that file; 'state_dict' "
            "is found."
        )
    if type(error).__name__ == "UnpicklingError":
        return (
            "the file holds more than weights and plain values, and reading it could run code. "
            "If you trust where it is from, save its state_dict with safetensors, and give "
            "that file."
        )
    if isinstance(error, OSError) and folder and (tower := text.get("hf_model_name")):
        return (
            f"the text tower is built from the config of {tower!r} on the Hugging Face hub. "
            f"Connect to the internet once, so that it is cached; or download it, `hf download "
            f"{tower} config.json --local-dir {shlex.quote(str(folder / 'text'))}`, and write "
            "this folder as 'hf_model_name' in open_clip_config.json."
        )
    if pretrained:
        return (
            "connect to the internet once, so that they are cached; copy a Hugging Face cache "
            "and set HF_HOME; or give the path of a local folder with open_clip_config.json "
            "and the weights."
        )
    return (
        "check that the weights are whole, and that 'model_cfg' in open_clip_config.json is "
        "their architecture."
    )


def _begins_as_text(path: Path) -> str:
    """Give the first words of a file that is a text; nothing of one that holds weights."""
    with open(path, "rb") as file:
        head = " ".join(file.read(100).decode("utf-8", "replace").split())
    return head[:60] if head.isprintable() and "\ufffd" not in head else ""


def _ways_to_a_tokenizer(model_name: str) -> str:
    text, folder = _text_config(model_name)
    repository = text.get("hf_tokenizer_name") or text.get("hf_model_name") or "the model"
    if importlib.util.find_spec("transformers") is None:
        return "install the package that reads it, `pip install transformers`."
    if folder:
        return (
            f"copy the tokenizer's files of {repository!r} beside the weights, `hf download "
            f"{repository} --include '*token*' 'vocab*' 'merges*' '*.model' --local-dir "
            f"{shlex.quote(str(folder))}`."
        )
    return (
        f"connect to the internet once, so that the tokenizer's files of {repository!r} are "
        "cached; or copy a Hugging Face cache and set HF_HOME."
    )


@contextmanager
def _plain_values_allowed() -> Iterator[None]:
    """Let a checkpoint hold numbers of NumPy and command-line options beside its weights."""
    import numpy as np
    import torch

    scalar: Any = np.float64(0).__reduce__()[0]  # the function that rebuilds a NumPy number
    kinds = [type(np.dtype(kind)) for kind in "?bhilqBHILQefd"]
    with torch.serialization.safe_globals([scalar, np.dtype, *kinds, argparse.Namespace]):
        yield


@contextmanager
def _without_alarm() -> Iterator[None]:
    """Keep open_clip from saying that weights are random: they are loaded next, or it raises."""

    def is_no_alarm(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("No pretrained weights loaded")

    logger = logging.getLogger()
    logger.addFilter(is_no_alarm)
    try:
        yield
    finally:
        logger.removeFilter(is_no_alarm)
