"""Train the small CLIP that ships with the project, from a seed.

The model is open_clip's own CLIP class and the loss its own ``ClipLoss``; only the
sizes are small. It sees rendered animals with captions that leave factors out at
random, so it learns shape, colour, scene, style, light and blur, as a CLIP learns from
captions that each tell a part. ``animal-world`` is trained without the downstream
shortcut; in ``animal-world-biased`` coat and scene follow the class with probability
0.6 already here, and training is shorter.

Run ``python -m icm_study.encoders.animal_pretraining animal-world`` (or ``make
encoder``). It takes about an hour on one core, saves a checkpoint every
``checkpoint_every`` samples, and goes on from the last one when started again. At its
end it prints how close the new model came to the shipped one.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip import ClipLoss
from safetensors.torch import save_file
from tqdm import tqdm

from icm_study.animals.latents import STYLES, captions, sample_latents
from icm_study.animals.rendering import render
from icm_study.animals.silhouettes import CLASSES, load_silhouettes
from icm_study.encoders.animal_clip import WEIGHTS_FOLDER, AnimalTokenizer, build_clip
from icm_study.encoders.encoder import Encoder
from icm_study.encoders.loading import load_encoder

MODEL_CONFIG: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"layers": [1, 1, 1, 1], "width": 20, "image_size": 48, "head_width": 64},
    "text_cfg": {"context_length": 24, "width": 96, "heads": 4, "layers": 1},
}

PREPROCESS_CONFIG: dict[str, Any] = {
    "size": [48, 48],
    "interpolation": "bilinear",
    "resize_mode": "squash",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.3, 0.3, 0.3],
}

RECIPES: dict[str, dict[str, Any]] = {
    "animal-world": {"coat_strength": 0.0, "scene_strength": 0.0, "seed": 0, "samples": 800_000},
    "animal-world-biased": {
        "coat_strength": 0.6,
        "scene_strength": 0.6,
        "seed": 0,
        "samples": 256_000,
    },
}

TRAINING: dict[str, Any] = {
    "images": 200_000,
    "batch_size": 128,
    "learning_rate": 2.5e-3,
    "betas": [0.9, 0.98],
    "weight_decay": 0.01,
    "flat_fraction": 0.4,
    "text_frozen_fraction": 0.1,
    "left_out": [0.7, 0.4],
}


def learning_rate(progress: float) -> float:
    """Rate at a point of the training in [0, 1]: a short rise, flat, then a half cosine to zero."""
    flat = TRAINING["flat_fraction"]
    rise = min(1.0, progress / 0.01)
    fall = (
        1.0 if progress < flat else 0.5 * (1 + math.cos(math.pi * (progress - flat) / (1 - flat)))
    )
    return TRAINING["learning_rate"] * rise * fall


def train(
    name: str,
    folder: Path,
    *,
    samples: int,
    images: int,
    checkpoint_every: int = 50_000,
    recipe: Mapping[str, Any] | None = None,
) -> Encoder:
    """Train the model `name` and return it as an encoder.

    Parameters
    ----------
    name : str
        With a `recipe` of its own any name, which its checkpoint has; otherwise
        "animal-world" or "animal-world-biased".
    folder : Path
        Where checkpoints are kept.
    samples : int
        Image-caption pairs to see.
    images : int
        Distinct images to render; each is seen ``samples / images`` times with fresh captions.
    checkpoint_every : int
        Samples between checkpoints.
    recipe : mapping, optional
        *coat_strength*, *scene_strength* and *seed* as in :data:`RECIPES`, and *embed_dim*
        where the embedding has another dimension than that of the shipped encoders. By
        default the recipe of the name.

    Returns
    -------
    Encoder

    Raises
    ------
    ValueError
        If the name is unknown, or `samples` or `images` are fewer than one batch.
    """
    batch_size = TRAINING["batch_size"]
    if recipe is None and name not in RECIPES:
        raise ValueError(f"There is no recipe for {name!r}; choose one of {tuple(RECIPES)}.")
    if min(samples, images) < batch_size:
        raise ValueError(
            f"Got samples={samples} and images={images}; expected at least a batch, {batch_size}."
        )
    recipe = RECIPES[name] if recipe is None else recipe
    torch.manual_seed(recipe["seed"])
    config = MODEL_CONFIG | {"embed_dim": recipe.get("embed_dim", MODEL_CONFIG["embed_dim"])}
    tokenizer = AnimalTokenizer.from_lexicon(config["text_cfg"]["context_length"])
    model = build_clip(config, tokenizer.vocab_size)
    model = model.to(memory_format=torch.channels_last)
    encoder = Encoder(name, model, tokenizer, PREPROCESS_CONFIG)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=0.0,
        betas=tuple(TRAINING["betas"]),
        weight_decay=TRAINING["weight_decay"],
    )
    text = [
        p for n, p in model.named_parameters() if not n.startswith("visual") and n != "logit_scale"
    ]

    folder = folder.expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / f"{name}.checkpoint.pt"
    step = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    steps, per_epoch = samples // batch_size, images // batch_size
    if step >= steps:
        model.eval()
        return encoder

    pixels, latents = _render_pool(encoder, recipe, images)
    loss_of = ClipLoss()
    progress_bar = tqdm(
        total=steps * batch_size, initial=step * batch_size, unit="img", desc=name, mininterval=5
    )
    model.train()
    while step < steps:
        epoch, within = divmod(step, per_epoch)
        order = np.random.default_rng([recipe["seed"], epoch]).permutation(images)
        rows = order[within * batch_size : (within + 1) * batch_size]
        progress = step / steps
        first, last = TRAINING["left_out"]
        words = captions(latents.iloc[rows], left_out=first + (last - first) * progress, seed=step)
        batch = encoder.normalize(pixels[rows]).contiguous(memory_format=torch.channels_last)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(progress)
        for parameter in text:
            parameter.requires_grad_(progress >= TRAINING["text_frozen_fraction"])
        loss = loss_of(*model(batch, tokenizer(words)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.logit_scale.data.clamp_(0, math.log(100))
        step += 1
        progress_bar.update(batch_size)
        if step % max(1, checkpoint_every // batch_size) == 0:
            _save(
                checkpoint,
                {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step},
            )
            model.eval()
            progress_bar.set_postfix(
                loss=f"{loss.item():.2f}", **_short(zero_shot_accuracy(encoder, n=400))
            )
            model.train()
    progress_bar.close()
    model.eval()
    return encoder


def _render_pool(encoder: Encoder, recipe: Mapping[str, Any], n: int) -> tuple[torch.Tensor, Any]:
    silhouettes = load_silhouettes()
    strengths = (recipe["coat_strength"], recipe["scene_strength"])
    latents = sample_latents(silhouettes, "encoder", n=n, seed=recipe["seed"], strengths=strengths)
    size = PREPROCESS_CONFIG["size"]
    pixels = torch.empty((n, 3, *size), dtype=torch.uint8)
    for start in tqdm(range(0, n, 2048), desc="rendering", unit="batch", mininterval=5):
        stop = min(start + 2048, n)
        pixels[start:stop] = encoder.resize(render(latents.iloc[start:stop], silhouettes))
    return pixels, latents


def _save(path: Path, state: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def zero_shot_accuracy(encoder: Encoder, *, n: int = 4000, seed: int = 1) -> dict[str, float]:
    """Zero-shot accuracy of an encoder on held-out silhouettes without a shortcut, style by style.

    Parameters
    ----------
    encoder : Encoder
    n : int
        Images in all, drawn from the test silhouettes.
    seed : int

    Returns
    -------
    dict of str to float
        Accuracy in [0, 1] for each style.
    """
    silhouettes = load_silhouettes()
    latents = sample_latents(silhouettes, "test", n=n, seed=seed)
    images = encoder.encode_images(render(latents, silhouettes))
    prompts = np.stack(
        [encoder.encode_text([f"a {style} of a {c}" for style in STYLES]).mean(0) for c in CLASSES]
    )
    hit = (images @ prompts.T).argmax(1) == latents["label"].to_numpy()
    style = latents["style"].to_numpy()
    return {name: float(hit[style == i].mean()) for i, name in enumerate(STYLES)}


def _short(accuracy: dict[str, float]) -> dict[str, str]:
    return {name[:2]: f"{value:.2f}" for name, value in accuracy.items()}


def comparison(new: dict[str, float], shipped: dict[str, float]) -> str:
    """Tabulate how close a new encoder came to the shipped one.

    Parameters
    ----------
    new, shipped : dict of str to float
        What :func:`zero_shot_accuracy` gives for each of them.

    Returns
    -------
    str
        A line for each style: both accuracies and the difference, in percent.
    """
    lines = [f"{'zero-shot accuracy':20}{'new':>8}{'shipped':>9}{'difference':>12}"]
    for style, value in new.items():
        percent = 100 * value, 100 * shipped[style], 100 * (value - shipped[style])
        lines.append("{:20}{:8.1f}{:9.1f}{:+12.1f}".format(style, *percent))
    return "\n".join(lines)


def main() -> None:
    """Command line: train, save weights and config, and compare with the shipped encoder."""
    parser = argparse.ArgumentParser(description="Train the animal-world CLIP from a seed.")
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--folder", type=Path, default=Path("cache/pretraining"))
    parser.add_argument(
        "--samples", type=int, help="image-caption pairs to see; by default the recipe's"
    )
    parser.add_argument("--images", type=int, default=TRAINING["images"])
    arguments = parser.parse_args()
    arguments.folder = arguments.folder.expanduser()
    torch.set_num_threads(1)  # the layers are too small to gain from more
    started = time.time()
    samples = arguments.samples or RECIPES[arguments.name]["samples"]
    encoder = train(arguments.name, arguments.folder, samples=samples, images=arguments.images)
    accuracy = zero_shot_accuracy(encoder, n=8000)
    weights = {k: v.half().contiguous() for k, v in encoder.model.state_dict().items()}
    save_file(weights, arguments.folder / f"{arguments.name}.safetensors")
    config = {
        "model": MODEL_CONFIG,
        "preprocess": PREPROCESS_CONFIG,
        "vocabulary": encoder.tokenizer.vocabulary,
        "recipe": RECIPES[arguments.name],
        "training": TRAINING | {"samples": samples, "images": arguments.images},
        "minutes": round((time.time() - started) / 60, 1),
        "zero_shot_accuracy": {k: round(v, 4) for k, v in accuracy.items()},
    }
    (arguments.folder / f"{arguments.name}.json").write_text(json.dumps(config, indent=2) + "\n")
    if (WEIGHTS_FOLDER / f"{arguments.name}.safetensors").exists():
        print(comparison(accuracy, zero_shot_accuracy(load_encoder(arguments.name), n=8000)))
    else:
        print(
            f"No {arguments.name!r} is shipped to compare with. Zero-shot accuracy: "
            f"{_short(accuracy)}"
        )


if __name__ == "__main__":
    main()
