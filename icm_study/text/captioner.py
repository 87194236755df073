"""Captions of images, written by one of open_clip's CoCa models.

A captioner is named the open_clip way, like an encoder: ``model/pretrained``, or a
local folder. It looks at each image and describes it, so that its captions name what
varies in *these* images: "a painting of two dogs on a red couch". An editor
(`icm_study.text.editors`) then makes the other half of each pair.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from torchvision.transforms.v2.functional import pil_to_tensor
from tqdm import tqdm

from icm_study.encoders.encoder import Encoder
from icm_study.encoders.loading import load_encoder
from icm_study.photographs.folders import open_image, read_image
from icm_study.text.answers import JsonlCache

CAPTION_TOKENS = 30  # the longest caption with its start and end marks, as in CoCa's own generation

MIN_TOKENS = 5  # and the shortest: four tokens and the start mark

START, END = 49406, 49407  # the marks in the vocabulary of open_clip's `SimpleTokenizer`


def caption_images(
    model_name: str,
    paths: Sequence[str | os.PathLike[str]],
    cache: str | os.PathLike[str],
    *,
    batch_size: int = 32,
    progress: bool = True,
) -> list[str]:
    """Describe images with one of open_clip's CoCa models (arXiv 2205.01917).

    Each image gets the model's greedy caption. Captions are kept in a JSONL file as
    they come, so a run may be killed and started again, and one whose captions are all
    there needs no model. A caption may lack the class word; see
    `icm_study.text.captions.with_class_word`.

    Parameters
    ----------
    model_name : str
        ``"model/pretrained"`` of open_clip, such as
        ``"coca_ViT-L-14/mscoco_finetuned_laion2b_s13b_b90k"``; or a local folder with
        ``open_clip_config.json`` and the weights.
    paths : sequence of path-like
        The image files.
    cache : path-like
        The JSONL file, keyed by the content of the image files and the model: its name,
        or for a local folder the hash of its weights.
    batch_size : int
    progress : bool
        Show a progress bar.

    Returns
    -------
    list of str
        One caption for each path, in lower case as CoCa writes them.

    Raises
    ------
    TypeError
        If `paths` is a single path.
    ValueError
        If open_clip has no such captioner, the model is no CoCa model or not one over
        CLIP's own vocabulary, `batch_size` is not positive, or an image cannot be read.
    FileNotFoundError
        If an image, or the config of a local folder, does not exist.
    RuntimeError
        If the weights cannot be had.

    Notes
    -----
    CoCa's own ``generate`` needs parts of the transformers library that its fifth
    version no longer has, and draws from torch's global generator. The greedy caption
    is what it gives with ``generation_type="top_k", top_k=1``.
    """
    if isinstance(paths, str | os.PathLike):
        raise TypeError(f"paths must be a sequence of paths; got one path. Write [{str(paths)!r}].")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be 1 or more.")
    captioner = _load_captioner(model_name) if Path(model_name).expanduser().exists() else None
    model = captioner.fingerprint if captioner else _check_captioner(model_name)
    stored = JsonlCache(cache)
    keys = [{"model": model, "image": _content_hash(path)} for path in paths]
    missing = {key["image"]: row for row, key in enumerate(keys) if stored.get(key) is None}
    rows = sorted(missing.values())
    for start in tqdm(
        range(0, len(rows), batch_size), "captions", disable=not progress or not rows
    ):
        captioner = captioner or _load_captioner(model_name)
        batch = rows[start : start + batch_size]
        for row, caption in zip(
            batch, _describe(captioner, [paths[row] for row in batch]), strict=True
        ):
            stored.put(keys[row], caption)
    return [stored.get(key) or "" for key in keys]


def _content_hash(path: str | os.PathLike[str]) -> str:
    with open_image(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_captioner(model_name: str) -> str:
    known = [
        f"{name}/{tag}" for name, tag in open_clip.list_pretrained() if name.startswith("coca_")
    ]
    if model_name not in known:
        raise ValueError(
            f"Unknown captioner {model_name!r}: no folder has this path, and open_clip's "
            f"captioners are {', '.join(known)}."
        )
    return model_name


def _load_captioner(model_name: str) -> Encoder:
    captioner = load_encoder(model_name)
    is_coca, is_simple = (
        isinstance(captioner.model, open_clip.CoCa),
        isinstance(captioner.tokenizer, SimpleTokenizer),
    )
    if not (is_coca and is_simple):
        raise ValueError(
            f"{model_name!r} is no captioner: expected a CoCa model with open_clip's "
            f"SimpleTokenizer, got {type(captioner.model).__name__} with "
            f"{type(captioner.tokenizer).__name__}."
        )
    return captioner


def _describe(captioner: Encoder, paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Write the greedy caption of each image."""
    images = torch.cat([captioner.resize(pil_to_tensor(read_image(path))[None]) for path in paths])
    tokens = _greedy(captioner.model, captioner.normalize(images.to(captioner.device)))
    captions = []
    for row in tokens.cpu():
        end = (row == END).nonzero()[0, 0]
        captions.append(" ".join(open_clip.decode(row[1:end]).split()))
    return captions


def _greedy(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Take the most probable next token until every caption has its end mark; shape (n, length)."""
    with torch.inference_mode():
        seen = model(images)
        tokens = torch.full((len(images), 1), START, device=images.device)
        while tokens.shape[1] < CAPTION_TOKENS - 1 and not (tokens == END).any(1).all():
            logits = model(
                images, tokens, image_latent=seen["image_features"], image_embs=seen["image_embs"],
                output_labels=False,
            )["logits"][:, -1]  # fmt: skip
            if tokens.shape[1] < MIN_TOKENS:
                logits[:, END] = -torch.inf
            tokens = torch.cat([tokens, logits.argmax(1, keepdim=True)], 1)
        return torch.nn.functional.pad(tokens, (0, 1), value=END)
