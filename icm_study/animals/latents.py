"""The animal world: real silhouettes, rendered so that every latent factor is known.

A silhouette of an animal is the invariant factor ``z_inv``. Everything else is variant
and is drawn by us: style, coat colour, scene, light, blur and pose. A row of a
*latents* table says what one image shows; :func:`render` is a pure function of that
table, so an image can be rendered again with new variant factors (the exact
intervention ``do(z_var)``), and :func:`captions` puts the same row into words.

Styles are the environments. In a data set with a *shortcut*, coat colour and scene
follow the class with a given probability; in a *reversed* one they point to another
class.

The silhouettes come from the package ``animal-mnist`` (MIT licence): 10,000 images of
28 × 28, ten classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from icm_study.animals.silhouettes import (
    CLASSES,
    PARTS,
    Silhouettes,
)

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

SHORTCUTS = ("aligned", "none", "reversed")

TEXTURES = 96  # texture variants of each scene

GRAINS = 256  # noise patches shared by all images

#: The variant factors that a caption can name, with the words for their values.
LEXICON = {
    "style": STYLES,
    "coat": tuple(COATS),
    "scene": (
        "on grass", "on sand", "in snow", "in water", "in a forest", "at night", "on stripes",
        "on checks",
    ),
    "light": ("dim light", "normal light", "bright light"),
    "blur": BLURS,
}  # fmt: skip


def sample_latents(
    silhouettes: Silhouettes,
    part: str,
    *,
    strengths: tuple[float, float] = (0.0, 0.0),
    shortcut: str = "aligned",
    styles: Sequence[str] = STYLES,
    n: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Draw what each image shows.

    The silhouettes of `part` are dealt out to the styles in turn, so no animal is in
    two environments. With the first of the strengths as its probability the coat colour is
    the one that belongs to the class (for ``shortcut="reversed"``: to another class), else
    it is drawn uniformly; likewise the scene with the second. The same seed gives the same
    draws at every strength, so that strengths can be compared image by image.

    Parameters
    ----------
    silhouettes : Silhouettes
    part : {"encoder", "source", "test"}
    strengths : (coat, scene), floats in [0, 1]
    shortcut : {"aligned", "none", "reversed"}
        Where the shortcut points; ``"none"`` ignores the strengths.
    styles : sequence of str
    n : int, optional
        Number of images, each of another silhouette as long as there are enough; more are
        drawn with replacement. By default every silhouette once.
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
        raise ValueError(
            f"n={n!r}: expected at least one image, or None for every silhouette once."
        )
    if not all(0 <= strength <= 1 for strength in strengths):
        raise ValueError(
            f"strengths={strengths!r}, of coat and scene, are no probabilities; expected numbers "
            "in [0, 1]."
        )
    rng = np.random.default_rng([seed, list(PARTS).index(part)])
    mine = np.flatnonzero(silhouettes.part == part)
    if n is not None and n > len(mine):
        silhouette = rng.choice(mine, n)
    else:
        silhouette = rng.permutation(mine)[:n]
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
        table["coat"] = np.where(pull[:, 0] < strengths[0], points_to, table["coat"])
        table["scene"] = np.where(
            pull[:, 1] < strengths[1], points_to % len(SCENES), table["scene"]
        )
    return table


def redraw_variant(
    latents: pd.DataFrame, *, styles: Sequence[str] = STYLES, seed: int = 0
) -> pd.DataFrame:
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
        raise ValueError(
            f"left_out={left_out!r} is not a probability; expected a number in [0, 1]."
        )
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
