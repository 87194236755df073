"""Render rows of latents as images, and write an example folder of them."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy import ndimage
from torch.nn import functional as F

from icm_study.animals.latents import (
    COATS,
    GRAINS,
    LIGHTS,
    SCENES,
    STYLES,
    TEXTURES,
    sample_latents,
)
from icm_study.animals.silhouettes import (
    CLASSES,
    Silhouettes,
)

IMAGE_SIZE = 64


def render(latents: pd.DataFrame, silhouettes: Silhouettes) -> torch.Tensor:
    """Render each row of a latents table.

    Parameters
    ----------
    latents : DataFrame of n rows
    silhouettes : Silhouettes

    Returns
    -------
    Tensor of shape (n, 3, 64, 64), uint8

    Raises
    ------
    ValueError
        If a style is none of the four.
    """
    unknown = set(latents["style"]) - set(range(len(STYLES)))
    if unknown:
        raise ValueError(
            f"The latents have styles {sorted(unknown)}; expected 0 to {len(STYLES) - 1}."
        )
    out = torch.empty((len(latents), 3, IMAGE_SIZE, IMAGE_SIZE), dtype=torch.uint8)
    style = latents["style"].to_numpy()
    for number, draw in enumerate((_photo, _cartoon, _sketch, _painting)):
        rows = np.flatnonzero(style == number)
        for start in range(0, len(rows), 128):
            batch = rows[start : start + 128]
            out[batch] = _render_style(latents.iloc[batch], silhouettes, draw)
    return out


def outlines(latents: pd.DataFrame, silhouettes: Silhouettes) -> torch.Tensor:
    """Give the mask of each animal where :func:`render` puts it: (n, 1, 64, 64), in [0, 1]."""
    parts = [latents.iloc[start : start + 128] for start in range(0, len(latents), 128)]
    return torch.cat([_pose(part, silhouettes)[0] for part in parts])


def _render_style(latents: pd.DataFrame, silhouettes: Silhouettes, draw: Any) -> torch.Tensor:
    alpha, shade = _pose(latents, silhouettes)
    column = {name: torch.from_numpy(latents[name].to_numpy(np.int64, copy=True)) for name in
              ("coat", "scene", "light", "blur", "texture", "grain")}  # fmt: skip
    coat = torch.tensor(list(COATS.values()))[column["coat"]][:, :, None, None]
    scene = _textures()[column["scene"], column["texture"]].float().div_(255)
    grain = _grains()[column["grain"]]
    image = draw(alpha, shade, coat, scene, grain)
    image *= torch.tensor(list(LIGHTS.values()))[column["light"]][:, None, None, None]
    blurry = column["blur"] == 1
    if blurry.any():
        image[blurry] = _blur(_blur(image[blurry]))
    return image.mul_(255).clamp_(0, 255).to(torch.uint8)


def _pose(latents: pd.DataFrame, silhouettes: Silhouettes) -> tuple[torch.Tensor, torch.Tensor]:
    """Outline (soft mask) and shade of each animal, turned, scaled, shifted: (n, 1, 64, 64)."""
    shade = (
        torch.from_numpy(silhouettes.images[latents["silhouette"].to_numpy()])
        .float()
        .div_(255)[:, None]
    )
    outline = -F.max_pool2d(-F.max_pool2d(shade, 3, 1, 1), 3, 1, 1)  # closing: stripes stay inside
    angle, scale, dx, dy, mirror = (
        torch.from_numpy(latents[c].to_numpy(np.float32, copy=True))
        for c in ("angle", "scale", "dx", "dy", "mirror")
    )
    cos, sin, flip = angle.cos() / scale, angle.sin() / scale, 1 - 2 * mirror
    theta = torch.stack([flip * cos, -flip * sin, dx, sin, cos, dy], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta, [len(theta), 1, IMAGE_SIZE, IMAGE_SIZE], align_corners=False)
    warped = F.grid_sample(torch.cat([outline, shade], 1), grid, align_corners=False)
    return warped[:, :1], warped[:, 1:]


def _blur(image: torch.Tensor) -> torch.Tensor:
    """Mean over 3 × 3 pixels, as sums along rows and columns: faster than average pooling."""
    image = F.pad(image, (1, 1, 1, 1), mode="replicate")
    image = image[:, :, :-2] + image[:, :, 1:-1] + image[:, :, 2:]
    return (image[..., :-2] + image[..., 1:-1] + image[..., 2:]).div_(9)


def _edge(alpha: torch.Tensor, width: float) -> torch.Tensor:
    """One on the outline of the animal, falling to zero away from it."""
    soft = _blur(alpha)
    return (4 * soft * (1 - soft) * width).clamp_(0, 1)


def _photo(alpha: torch.Tensor, shade: torch.Tensor, coat: torch.Tensor, scene: torch.Tensor,
           grain: torch.Tensor) -> torch.Tensor:  # fmt: skip
    inside = _blur(shade)
    fur = coat * (0.45 + 0.55 * inside) + 0.10 * (grain - 0.5)
    return torch.lerp(scene + 0.06 * (grain - 0.5), fur, alpha)


def _cartoon(alpha: torch.Tensor, shade: torch.Tensor, coat: torch.Tensor, scene: torch.Tensor,
             grain: torch.Tensor) -> torch.Tensor:  # fmt: skip
    flat = scene.mean((2, 3), keepdim=True).mul(6).round_().div_(6)
    hard = ((alpha - 0.4) * 6).clamp(0, 1)
    ink = ((shade - 0.4) * 6).clamp(0, 1)
    flat = torch.lerp(flat, (scene * 3).round() / 3, 0.4)
    picture = torch.lerp(flat, coat * (0.4 + 0.6 * ink), hard)
    return picture * (1 - _edge(hard, 1.4))


def _sketch(alpha: torch.Tensor, shade: torch.Tensor, coat: torch.Tensor, scene: torch.Tensor,
            grain: torch.Tensor) -> torch.Tensor:  # fmt: skip
    paper = 0.80 + 0.16 * scene.mean(1, keepdim=True) + 0.08 * (grain - 0.5)
    wash = 0.70 + 0.28 * coat.mean(1, keepdim=True) + 0.30 * (grain - 0.5) * (0.4 + shade)
    lines = torch.maximum(_edge(alpha, 1.1), 0.8 * (alpha - shade).clamp(0, 1))
    return (torch.lerp(paper, wash, alpha) * (1 - 0.9 * lines)).repeat(1, 3, 1, 1)


def _painting(alpha: torch.Tensor, shade: torch.Tensor, coat: torch.Tensor, scene: torch.Tensor,
              grain: torch.Tensor) -> torch.Tensor:  # fmt: skip
    stroke = _blur(_blur(grain))
    wet = ((alpha + 1.2 * (stroke - 0.5) * _edge(alpha, 1.0) - 0.3) * 2.5).clamp(0, 1)
    daub = torch.where(stroke > 0.5, 1.15, 0.75)
    ground = scene * torch.where(stroke.flip(-1) > 0.5, 1.08, 0.88)
    return torch.lerp(ground, coat * daub * (0.5 + 0.5 * shade) + 0.08, 0.92 * wet)


@cache
def _grains() -> torch.Tensor:
    """Noise patches at two grain sizes, (GRAINS, 1, 64, 64) in [0, 1]."""
    rng = np.random.default_rng(3)
    fine = rng.random((GRAINS, IMAGE_SIZE, IMAGE_SIZE))
    coarse = ndimage.gaussian_filter(rng.normal(size=fine.shape), (0, 2.2, 2.2), mode="wrap")
    coarse = 0.5 + 0.25 * coarse / coarse.std((1, 2), keepdims=True)
    return torch.from_numpy((0.35 * fine + 0.65 * coarse).clip(0, 1)[:, None]).float()


@cache
def _textures() -> torch.Tensor:
    """Backgrounds of each scene, (8, TEXTURES, 3, 64, 64) uint8."""
    rng = np.random.default_rng(4)
    out = np.empty((len(SCENES), TEXTURES, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    for s, (first, second, pattern) in enumerate(SCENES.values()):
        for t in range(TEXTURES):
            mix = _pattern(pattern, rng)
            tint = 1 + rng.normal(0, 0.04, 3)
            rgb = np.multiply.outer(1 - mix, first) + np.multiply.outer(mix, second)
            out[s, t] = (255 * (rgb * tint).clip(0, 1)).astype(np.uint8).transpose(2, 0, 1)
    return torch.from_numpy(out)


def _pattern(name: str, rng: np.random.Generator) -> np.ndarray:
    """How a scene's two colours alternate: (64, 64) in [0, 1]."""
    y, x = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE] + rng.uniform(0, 64, (2, 1, 1))
    size = {"grain": (1.5, 1.5), "cloud": (9, 9), "ripple": (2, 9), "trunk": (14, 2)}.get(
        name, (6, 6)
    )
    noise = ndimage.gaussian_filter(rng.normal(size=(IMAGE_SIZE, IMAGE_SIZE)), size, mode="wrap")
    noise = 0.5 + 0.28 * noise / noise.std()
    period, angle = rng.uniform(7, 11), rng.uniform(-0.5, 0.5)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    if name == "stripe":
        return (0.5 + 2.5 * np.sin(2 * np.pi * across / period)).clip(0, 1)
    if name == "check":
        waves = np.sin(2 * np.pi * across / period) * np.sin(2 * np.pi * along / period)
        return (0.5 + 4 * waves).clip(0, 1)
    if name == "trunk":
        noise = noise + 0.25 * np.sin(2 * np.pi * x / period)
    return noise.clip(0, 1)


def write_folder(
    root: str | os.PathLike[str], silhouettes: Silhouettes, *, per_class: int = 20
) -> Path:
    """Write a small example, ``root/style/class/*.png``, as a stand-in for a user's folder.

    Coat and scene follow the class in every style, with strength 0.9: in the first two
    styles one way, in the other two the other way. So what gives the class away in some
    of the domains misleads in the others.

    Parameters
    ----------
    root : path-like
        Folder to write to; images of the same name are replaced.
    silhouettes : Silhouettes
        Those of the part "source" are rendered.
    per_class : int
        Images of each class in each style.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ValueError
        If it cannot be written.
    """
    try:
        Path(root).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"The example cannot be written to {str(root)!r}: {error.strerror}. Name a folder that "
            "can be made, and no file."
        ) from error
    for style, shortcut in zip(STYLES, ("aligned", "aligned", "reversed", "reversed"), strict=True):
        latents = sample_latents(
            silhouettes,
            "source",
            strengths=(0.9, 0.9),
            shortcut=shortcut,
            seed=0,
        )
        for label, name in enumerate(CLASSES):
            rows = latents[(latents["style"] == STYLES.index(style)) & (latents["label"] == label)][
                :per_class
            ]
            folder = Path(root) / style / name
            folder.mkdir(parents=True, exist_ok=True)
            for number, image in enumerate(render(rows, silhouettes)):
                Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number:03d}.png")
    return Path(root)
