"""The animal world: real silhouettes, rendered so that every latent factor is known.

A silhouette of an animal is the invariant factor ``z_inv``. Everything else is variant and is drawn by
us: style, coat colour, scene, light, blur and pose. A row of a *latents* table says what one image
shows; :func:`render` is a pure function of that table, so an image can be rendered again with new variant
factors (the exact intervention ``do(z_var)``), and :func:`captions` puts the same row into words.

Styles are the environments. In a data set with a *shortcut*, coat colour and scene follow the class with
a given probability; in a *reversed* one they point to another class.

The silhouettes come from the package ``animal-mnist`` (MIT licence): 10,000 images of 28 × 28, ten classes.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import os
import pickle
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy import ndimage
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from torch.nn import functional as F

CLASSES = ("bear", "bird", "cat", "cow", "dog", "elephant", "giraffe", "horse", "sheep", "zebra")
STYLES = ("photo", "cartoon", "sketch", "painting")
COATS = {
    "brown": (0.45, 0.27, 0.12),
    "red": (0.85, 0.12, 0.12),
    "blue": (0.15, 0.30, 0.80),
    "white": (0.95, 0.95, 0.95),
    "green": (0.15, 0.60, 0.22),
    "yellow": (0.93, 0.82, 0.15),
    "purple": (0.50, 0.15, 0.65),
    "orange": (0.95, 0.52, 0.10),
    "gray": (0.52, 0.52, 0.54),
    "black": (0.06, 0.06, 0.07),
}
# Each scene is two colours and the way they alternate.
SCENES = {
    "grass": ((0.33, 0.58, 0.22), (0.22, 0.45, 0.14), "grain"),
    "sand": ((0.90, 0.80, 0.55), (0.80, 0.68, 0.42), "ripple"),
    "snow": ((0.93, 0.95, 0.98), (0.78, 0.84, 0.93), "cloud"),
    "water": ((0.20, 0.48, 0.70), (0.35, 0.66, 0.85), "ripple"),
    "forest": ((0.10, 0.24, 0.10), (0.24, 0.36, 0.15), "trunk"),
    "night": ((0.09, 0.09, 0.24), (0.16, 0.16, 0.38), "cloud"),
    "stripes": ((0.95, 0.85, 0.70), (0.80, 0.30, 0.30), "stripe"),
    "checks": ((0.88, 0.88, 0.95), (0.30, 0.35, 0.72), "check"),
}
LIGHTS = {"dim": 0.6, "normal": 1.0, "bright": 1.3}
BLURS = ("sharp", "blurry")
PARTS = {"encoder": 0.6, "source": 0.2, "test": 0.2}
SHORTCUTS = ("aligned", "none", "reversed")

IMAGE_SIZE = 64
TEXTURES = 96  # texture variants of each scene
GRAINS = 256  # noise patches shared by all images
NEAR_DUPLICATE = 0.98  # cosine similarity at which two silhouettes count as the same animal

#: The variant factors that a caption can name, with the words for their values.
LEXICON = {
    "style": STYLES,
    "coat": tuple(COATS),
    "scene": (
        "on grass", "on sand", "in snow", "in water", "in a forest", "at night", "on stripes", "on checks",
    ),
    "light": ("dim light", "normal light", "bright light"),
    "blur": BLURS,
}  # fmt: skip

_SHA256 = {
    "data": "0a13908291891bf5b97b18427cf0eceedcb720959826cc85f7e06dc89e5eaf77",
    "label": "3d826227c39b7dba09abb8273cf07928443fec2c56b6396b4872741b7b332f93",
}


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickle numpy arrays and nothing else."""

    _ALLOWED = frozenset(
        {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"refused to load {module}.{name}: only numpy arrays are allowed.")
        module = module.replace("numpy.core", "numpy._core") if np.__version__ >= "2" else module
        return super().find_class(module, name)


def _read_array(name: str) -> np.ndarray:
    spec = importlib.util.find_spec("animal_mnist")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            "The silhouettes were not found: the package 'animal-mnist' is not installed. "
            "Run `pip install --no-deps animal-mnist==0.4` (its tensorflow dependency is not needed)."
        )
    folder = Path(spec.submodule_search_locations[0]) / "data" / "Animal_MNIST"
    path = folder / f"animal_{name}_version_3.gz"
    try:
        raw = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise FileNotFoundError(
            f"Could not read {path.name} of the package 'animal-mnist' ({error}). "
            "Reinstall it: `pip install --no-deps --force-reinstall animal-mnist==0.4`."
        ) from error
    found = hashlib.sha256(raw).hexdigest()
    if found != _SHA256[name]:
        raise ValueError(
            f"{path.name} has SHA-256 {found[:12]}…, expected {_SHA256[name][:12]}…: another version of "
            "the package 'animal-mnist'? Install version 0.4."
        )
    return np.asarray(_ArrayUnpickler(io.BytesIO(raw)).load())


@dataclass(frozen=True)
class Silhouettes:
    """Silhouettes with their class and the part of the study that may use them.

    Attributes
    ----------
    images : ndarray of shape (n, 28, 28), uint8
        Brightness inside the animal, 0 outside.
    label : ndarray of shape (n,), int
        Index into :data:`CLASSES`.
    part : ndarray of shape (n,), str
        ``"encoder"``, ``"source"`` or ``"test"``; no animal is in two parts.
    """

    images: np.ndarray
    label: np.ndarray
    part: np.ndarray

    def save(self, path: str | Path) -> None:
        """Write to an ``.npz`` file that holds no pickles."""
        with open(path, "wb") as file:
            np.savez_compressed(file, images=self.images, label=self.label, part=self.part)

    @classmethod
    def load(cls, path: str | Path) -> Silhouettes:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            return cls(file["images"], file["label"], file["part"])


@cache
def load_silhouettes() -> Silhouettes:
    """Read the silhouettes of ``animal-mnist`` and split them into disjoint parts.

    The package repeats some silhouettes, also mirrored or nearly so. Exact repeats are dropped, and near
    repeats (cosine similarity of at least ``NEAR_DUPLICATE``) stay in one part, so that no animal of
    the test part was seen in training.

    Returns
    -------
    Silhouettes

    Raises
    ------
    FileNotFoundError
        If the package is not installed or its files cannot be read.
    ValueError
        If the files are not those of version 0.4.
    """
    images = _read_array("data").reshape(-1, 28, 28)
    label = _read_array("label").astype(int)
    _, first = np.unique(images.reshape(len(images), -1), axis=0, return_index=True)
    first.sort()
    images, label = images[first], label[first]
    part = np.empty(len(images), dtype="<U7")
    rng = np.random.default_rng(20240515)
    for c in range(len(CLASSES)):
        mine = np.flatnonzero(label == c)
        group = _near_duplicates(images[mine])  # no two classes share a near repeat
        order = rng.permutation(np.unique(group))
        sizes = np.bincount(group)[order]
        ends = np.cumsum(list(PARTS.values()))
        share = (np.cumsum(sizes) - sizes / 2) / sizes.sum()
        for g, s in zip(order, share, strict=True):
            part[mine[group == g]] = list(PARTS)[int(np.searchsorted(ends, s))]
    return Silhouettes(images, label, part)


def _near_duplicates(images: np.ndarray) -> np.ndarray:
    """Group number of each silhouette; mirrored and nearly equal ones share a group."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    mirrored = flat.reshape(images.shape)[:, :, ::-1].reshape(flat.shape)
    near = np.maximum(flat @ flat.T, flat @ mirrored.T) >= NEAR_DUPLICATE
    return connected_components(csr_array(near), directed=False)[1]


def sample_latents(
    silhouettes: Silhouettes,
    part: str,
    *,
    coat_strength: float = 0.0,
    scene_strength: float = 0.0,
    shortcut: str = "aligned",
    styles: Sequence[str] = STYLES,
    n: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Draw what each image shows.

    The silhouettes of `part` are dealt out to the styles in turn, so no animal is in two environments.
    With probability `coat_strength` the coat colour is the one that belongs to the class (for
    ``shortcut="reversed"``: to another class), else it is drawn uniformly; likewise the scene. The same
    seed gives the same draws at every strength, so that strengths can be compared image by image.

    Parameters
    ----------
    silhouettes : Silhouettes
    part : {"encoder", "source", "test"}
    coat_strength, scene_strength : float in [0, 1]
    shortcut : {"aligned", "none", "reversed"}
        Where the shortcut points; ``"none"`` ignores the strengths.
    styles : sequence of str
    n : int, optional
        Number of images, drawn with replacement (an animal may then be in two environments); by default every
        silhouette once.
    seed : int

    Returns
    -------
    DataFrame with one row an image
        silhouette, label, style, coat, scene, light, blur (indices), angle (radians), scale, dx, dy
        (in half widths), mirror, texture, grain.

    Raises
    ------
    ValueError
        On an unknown part, style or shortcut, a strength outside [0, 1], or n below 1.
    """
    if part not in PARTS:
        raise ValueError(f"part={part!r} is unknown; choose one of {tuple(PARTS)}.")
    if shortcut not in SHORTCUTS:
        raise ValueError(f"shortcut={shortcut!r} is unknown; choose one of {SHORTCUTS}.")
    style_numbers = _style_numbers(styles)
    if n is not None and n < 1:
        raise ValueError(f"n={n!r}: expected at least one image, or None for every silhouette once.")
    for name, strength in {"coat_strength": coat_strength, "scene_strength": scene_strength}.items():
        if not 0 <= strength <= 1:
            raise ValueError(f"{name}={strength!r} is not a probability; expected a number in [0, 1].")
    rng = np.random.default_rng([seed, list(PARTS).index(part)])
    mine = np.flatnonzero(silhouettes.part == part)
    silhouette = rng.permutation(mine) if n is None else rng.choice(mine, n)
    n = len(silhouette)
    label = silhouettes.label[silhouette]
    table = pd.DataFrame(
        {
            "silhouette": silhouette,
            "label": label,
            "style": style_numbers[np.arange(n) % len(style_numbers)],
        }
    )
    pull = rng.random((n, 2))
    table = pd.concat([table, _draw_variant(n, rng)], axis=1)
    if shortcut != "none":
        points_to = label if shortcut == "aligned" else (label + 5) % len(CLASSES)
        table["coat"] = np.where(pull[:, 0] < coat_strength, points_to, table["coat"])
        table["scene"] = np.where(pull[:, 1] < scene_strength, points_to % len(SCENES), table["scene"])
    return table


def redraw_variant(latents: pd.DataFrame, *, styles: Sequence[str] = STYLES, seed: int = 0) -> pd.DataFrame:
    """Intervene exactly: the same silhouettes with every variant factor drawn anew.

    Parameters
    ----------
    latents : DataFrame
        As :func:`sample_latents` returns it.
    styles : sequence of str
        Styles to draw from; give the source styles to keep the target style unseen.
    seed : int

    Returns
    -------
    DataFrame of the same length, ``do(z_var)`` of each row.

    Raises
    ------
    ValueError
        On an unknown style.
    """
    rng = np.random.default_rng([seed, 7])
    drawn = _draw_variant(len(latents), rng)
    style = rng.choice(_style_numbers(styles), len(latents))
    kept = latents[["silhouette", "label"]].reset_index(drop=True)
    return pd.concat([kept, pd.DataFrame({"style": style}), drawn], axis=1)


def _style_numbers(styles: Sequence[str]) -> np.ndarray:
    if not styles or isinstance(styles, str) or any(style not in STYLES for style in styles):
        raise ValueError(f"styles={styles!r}: expected a sequence of one or more of {STYLES}.")
    return np.array([STYLES.index(style) for style in styles])


def _draw_variant(n: int, rng: np.random.Generator) -> pd.DataFrame:
    """Every variant factor but the style, uniform and independent of the class."""
    return pd.DataFrame(
        {
            "coat": rng.integers(len(COATS), size=n),
            "scene": rng.integers(len(SCENES), size=n),
            "light": rng.integers(len(LIGHTS), size=n),
            "blur": (rng.random(n) < 0.25).astype(int),
            "angle": rng.normal(0, 0.12, n),
            "scale": rng.uniform(0.72, 1.0, n),
            "dx": rng.uniform(-0.15, 0.15, n),
            "dy": rng.uniform(-0.15, 0.15, n),
            "mirror": rng.integers(2, size=n),
            "texture": rng.integers(TEXTURES, size=n),
            "grain": rng.integers(GRAINS, size=n),
        }
    )


def captions(latents: pd.DataFrame, *, left_out: float = 0.5, seed: int = 0) -> list[str]:
    """Describe each image, with each variant factor left out with probability `left_out`.

    The class is always named. A sketch is grey, so its coat colour is never named.

    Parameters
    ----------
    latents : DataFrame
    left_out : float in [0, 1]
    seed : int

    Returns
    -------
    list of str
        For example ``"a blurry photo of a red cat on grass in dim light"``.

    Raises
    ------
    ValueError
        If `left_out` is not a probability.
    """
    if not 0 <= left_out <= 1:
        raise ValueError(f"left_out={left_out!r} is not a probability; expected a number in [0, 1].")
    rng = np.random.default_rng([seed, 11])
    named = rng.random((len(latents), len(LEXICON))) >= left_out
    named[:, 1] &= latents["style"].to_numpy() != STYLES.index("sketch")
    columns = latents[["label", *LEXICON]].to_numpy(int)
    return [_caption(row, mask) for row, mask in zip(columns, named, strict=True)]


def _caption(row: np.ndarray, named: np.ndarray) -> str:
    label, *values = row
    words = {
        factor: LEXICON[factor][value] if say else ""
        for factor, value, say in zip(LEXICON, values, named, strict=True)
    }
    kind = " ".join(filter(None, [words["blur"], words["style"] or "image"]))
    animal = " ".join(filter(None, [words["coat"], CLASSES[label]]))
    light = f"in {words['light']}" if words["light"] else ""
    return " ".join(filter(None, [f"a {kind} of a {animal}", words["scene"], light]))


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
        raise ValueError(f"The latents have styles {sorted(unknown)}; expected 0 to {len(STYLES) - 1}.")
    out = torch.empty((len(latents), 3, IMAGE_SIZE, IMAGE_SIZE), dtype=torch.uint8)
    style = latents["style"].to_numpy()
    for number, draw in enumerate((_photo, _cartoon, _sketch, _painting)):
        rows = np.flatnonzero(style == number)
        for start in range(0, len(rows), 128):
            batch = rows[start : start + 128]
            out[batch] = _render_style(latents.iloc[batch], silhouettes, draw)
    return out


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
    """Outline (soft mask) and shade of each animal, turned, scaled and shifted: two (n, 1, 64, 64)."""
    shade = torch.from_numpy(silhouettes.images[latents["silhouette"].to_numpy()]).float().div_(255)[:, None]
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
    """Mean over 3 × 3 pixels, as sums along rows and columns: a quarter of the time of torch's average pooling."""
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
    size = {"grain": (1.5, 1.5), "cloud": (9, 9), "ripple": (2, 9), "trunk": (14, 2)}.get(name, (6, 6))
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


def write_folder(root: str | os.PathLike[str], silhouettes: Silhouettes, *, per_class: int = 20) -> Path:
    """Write a small example data set, ``root/style/class/*.png``, as a stand-in for a user's own folder.

    Coat and scene follow the class in every style, with strength 0.9: in the first two styles one way, in the
    other two the other way. So what gives the class away in some of the domains misleads in the others.

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
    """
    for style, shortcut in zip(STYLES, ("aligned", "aligned", "reversed", "reversed"), strict=True):
        latents = sample_latents(
            silhouettes, "source", coat_strength=0.9, scene_strength=0.9, shortcut=shortcut, n=4000, seed=0
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
