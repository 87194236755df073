"""Interventions on the variant factors of an image or of a caption.

An intervention ``do(z_var)`` gives the variant factors of a sample new values (colour,
contrast, sharpness, background, style) and keeps the invariant ones (what makes a dog a
dog). An original and its intervened copy form an *interventional pair*; pairs are all
that is needed to estimate the invariant subspace of an encoder.

Two kinds of intervention are used (arXiv 2405.15289, section on collecting interventional data):

- *Image-based*: one of seven augmentations, drawn at random for each image (`intervene_images`).
- *Text-based*: in a caption, the words for variant factors are exchanged (`intervene_captions`).

Both are pure functions of content and seed. The same image (or caption) and seed give
the same intervention in any batch, order or worker process, so that stored embeddings
stay valid. It also means that two identical images get the same intervention; ask for
another seed to have another draw.

torch is imported when an image is intervened on, not with this module.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import operator
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from torchvision.transforms import v2

# The paper names the seven augmentations and leaves their parameters open; the values
# below are ours. Each is strong enough to change what it is about, and weak enough for
# a human to still name the class. The exception is solarize on line drawings: it turns
# white paper as black as the lines. Such a pair leaks: z_inv moves.
JITTER = 0.5  # factor of brightness, contrast and saturation: uniform in [1 - JITTER, 1 + JITTER]
JITTER_HUE = (
    0.5  # half a turn either way: the hue is re-drawn uniformly from the whole colour circle
)
BLUR_KERNEL = (
    7  # pixels; three standard deviations each way at sigma = 1, for images of 64 pixels or more
)
BLUR_SIGMA = (0.5, 2.0)  # pixels; the standard deviation is uniform in this range
POSTERIZE_BITS = 2  # bits kept for each channel: four levels
SOLARIZE_THRESHOLD = 128  # pixel values from here on are inverted

IMAGE_INTERVENTIONS = (
    "color_jitter",
    "grayscale",
    "gaussian_blur",
    "invert",
    "posterize",
    "solarize",
    "equalize",
)
"""The names of the paper's seven image-based interventions."""
RANDOM_INTERVENTIONS = ("color_jitter", "gaussian_blur")  # those with parameters to draw


@functools.cache
def image_transforms() -> dict[str, v2.Transform]:
    """Give the transform behind each name in `IMAGE_INTERVENTIONS`, with random parameters.

    Returns
    -------
    dict of str to torchvision.transforms.v2.Transform
    """
    from torchvision.transforms import v2

    return {
        "color_jitter": v2.ColorJitter(JITTER, JITTER, JITTER, JITTER_HUE),
        "grayscale": v2.Grayscale(num_output_channels=3),
        "gaussian_blur": v2.GaussianBlur(BLUR_KERNEL, BLUR_SIGMA),
        "invert": v2.RandomInvert(p=1.0),
        "posterize": v2.RandomPosterize(POSTERIZE_BITS, p=1.0),
        "solarize": v2.RandomSolarize(SOLARIZE_THRESHOLD, p=1.0),
        "equalize": v2.RandomEqualize(p=1.0),
    }


def intervene_images(
    images: torch.Tensor, names: Sequence[str] = IMAGE_INTERVENTIONS, seed: int = 0
) -> torch.Tensor:
    """Apply one randomly drawn intervention to each image.

    Parameters
    ----------
    images : Tensor of shape (n, 3, H, W), uint8
        RGB images.
    names : sequence of str
        Some of `IMAGE_INTERVENTIONS` to draw from, with equal probability. Their order
        is part of the draw.
    seed : int
        Together with an image's content, decides which intervention it gets and with
        what parameters.

    Returns
    -------
    Tensor of shape (n, 3, H, W), uint8
        The intervened images, in the same order; `images` itself is not changed.

    Raises
    ------
    TypeError
        If `images` is not a uint8 tensor, or `names` is a single string.
    ValueError
        If `images` has another shape, `names` is empty, or a name is unknown.

    Notes
    -----
    torchvision draws parameters from torch's global CPU generator. It is re-seeded for
    each image, and its state is put back afterwards; do not call this function from
    several threads of one process at once. Images with an intervention that has no
    parameters are changed together.
    """
    import torch

    draws = _draw(images, names, seed)
    transforms = image_transforms()
    intervened = torch.empty_like(images, memory_format=torch.contiguous_format)
    # One fork for the batch, and the generator's own `manual_seed`: `torch.manual_seed`
    # visits every device and costs more than most of the augmentations.
    with torch.random.fork_rng(devices=[]):
        for name in dict(draws):
            rows = [i for i, (drawn, _) in enumerate(draws) if drawn == name]
            if name not in RANDOM_INTERVENTIONS:
                intervened[rows] = transforms[name](images[rows])
                continue
            for i in rows:
                torch.default_generator.manual_seed(draws[i][1])
                intervened[i] = transforms[name](images[i])
    return intervened


def draw_interventions(
    images: torch.Tensor, names: Sequence[str] = IMAGE_INTERVENTIONS, seed: int = 0
) -> list[str]:
    """Tell which intervention `intervene_images` draws for each image.

    Parameters
    ----------
    images, names, seed
        As for `intervene_images`.

    Returns
    -------
    list of n str
        The name drawn for each image.

    Raises
    ------
    TypeError, ValueError
        As `intervene_images`.
    """
    return [name for name, _ in _draw(images, names, seed)]


def intervene_captions(
    captions: Sequence[str],
    lexicon: Mapping[str, Sequence[str]],
    seed: int = 0,
    keep: Sequence[str] = (),
) -> list[str]:
    """Give the variant factors that a caption mentions other values.

    Every value of a variant factor found in a caption (as whole words, the longest
    first, in any case) is replaced by another value of the same factor, drawn uniformly
    among the *others*: a mentioned factor always changes. Within one caption a value is
    replaced by the same new value wherever it occurs. All other words, the class word
    above all, stay as they are; articles too ("a red" may become "a orange").

    Parameters
    ----------
    captions : sequence of str
        The captions.
    lexicon : mapping of str to sequence of str
        For each variant factor, the words or phrases that are its interchangeable
        values, for example ``{"coat": ("red", "blue"), "scene": ("on grass", "in
        snow")}``.
    seed : int
        Together with a caption's content, decides the draw.
    keep : sequence of str
        Words or phrases that must survive, such as the class names. A value that is a part of one
        ("white" in "great white shark") is left alone there.

    Returns
    -------
    list of n str
        The edited captions. One without a variant word comes back unchanged.

    Raises
    ------
    TypeError
        If `captions`, `keep` or a factor's values are a single string or contain
        something else than strings.
    ValueError
        If the lexicon is empty, a factor has fewer than two values, a value is blank,
        is listed twice, or belongs to two factors, or if a word to keep is also a
        variant value.

    Notes
    -----
    The text-based interventions of arXiv 2405.15289. A hyphen joins words: "red" is not
    in "red-haired".
    """
    _check_strings("captions", captions)
    _check_phrases("keep", keep)
    factor_of = _factor_of_values(lexicon)
    for word in keep:
        if word.lower() in factor_of:
            raise ValueError(
                f"{word!r} must be kept, but it is also a value of the variant factor "
                f"{factor_of[word.lower()]!r}. Remove it from one of the two."
            )
    seed = operator.index(seed)
    values = _whole_words([value for of_factor in lexicon.values() for value in of_factor])
    kept = _whole_words(keep) if keep else None
    return [_edit(caption, lexicon, factor_of, values, kept, seed) for caption in captions]


def _draw(images: torch.Tensor, names: Sequence[str], seed: int) -> list[tuple[str, int]]:
    """Draw (name, parameter seed) for each image from the hash of its content and `seed`."""
    import torch

    if not isinstance(images, torch.Tensor) or images.dtype != torch.uint8:
        got = (
            f"a {images.dtype} tensor"
            if isinstance(images, torch.Tensor)
            else type(images).__name__
        )
        raise TypeError(f"images must be a torch.uint8 tensor of shape (n, 3, H, W); got {got}.")
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"images must have shape (n, 3, H, W); got {tuple(images.shape)}. "
            "Add a batch dimension with images[None], or move channels first with "
            "images.permute(0, 3, 1, 2)."
        )
    _check_names(names)
    salt = f"{operator.index(seed)} {tuple(images.shape[1:])}".encode()
    draws = []
    for image in np.ascontiguousarray(images.cpu().numpy()):
        digest = hashlib.sha256(salt + image.tobytes()).digest()
        name = names[int.from_bytes(digest[:8], "little") % len(names)]
        draws.append(
            (name, int.from_bytes(digest[8:16], "little") >> 1)
        )  # torch takes seeds of 63 bits
    return draws


def _check_names(names: Sequence[str]) -> None:
    _check_strings("names", names)
    known = ", ".join(IMAGE_INTERVENTIONS)
    if not names:
        raise ValueError(f"zero interventions: names is empty. Give one or more of: {known}.")
    for name in names:
        if name not in IMAGE_INTERVENTIONS:
            closest = difflib.get_close_matches(name.lower(), IMAGE_INTERVENTIONS, n=1)
            hint = f" Did you mean {closest[0]!r}?" if closest else ""
            raise ValueError(f"unknown intervention {name!r}; the known ones are: {known}.{hint}")


def _check_strings(what: str, strings: Sequence[str]) -> None:
    if isinstance(strings, str):
        raise TypeError(f"{what} must be a sequence of strings; got a string. Write [{strings!r}].")
    for string in strings:
        if not isinstance(string, str):
            raise TypeError(
                f"{what} must hold strings; got {string!r} of type {type(string).__name__}."
            )


def _check_phrases(what: str, phrases: Sequence[str]) -> None:
    _check_strings(what, phrases)
    for phrase in phrases:
        if not phrase or phrase != phrase.strip():
            raise ValueError(
                f"{what} must hold words or phrases with no blanks around them; got {phrase!r}."
            )


def _factor_of_values(lexicon: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Map each value, in lower case, to its factor; raise where the lexicon is ambiguous."""
    if not lexicon:
        raise ValueError(
            "the lexicon is empty: zero interventions. Give at least one variant factor."
        )
    factor_of: dict[str, str] = {}
    for factor, values in lexicon.items():
        _check_phrases(f"variant factor {factor!r}", values)
        if len(values) < 2:
            raise ValueError(
                f"variant factor {factor!r} has {len(values)} value(s); it needs two or more, to "
                "have another one to change to. Add values, or remove the factor."
            )
        for value in values:
            earlier = factor_of.get(value.lower())
            if earlier is not None:
                where = (
                    f"twice in {factor!r}"
                    if earlier == factor
                    else f"in both {earlier!r} and {factor!r}"
                )
                raise ValueError(
                    f"the value {value!r} is {where}; a value belongs to one factor, once."
                )
            factor_of[value.lower()] = factor
    return factor_of


def _whole_words(phrases: Sequence[str]) -> re.Pattern[str]:
    """Match any of the phrases as whole words in any case; the longest wins."""
    longest_first = sorted(phrases, key=len, reverse=True)
    return re.compile(
        rf"(?<![\w-])({'|'.join(map(re.escape, longest_first))})(?![\w-])", re.IGNORECASE
    )


def _edit(
    caption: str,
    lexicon: Mapping[str, Sequence[str]],
    factor_of: Mapping[str, str],
    values: re.Pattern[str],
    kept: re.Pattern[str] | None,
    seed: int,
) -> str:
    digest = hashlib.sha256(f"{seed} {caption}".encode("utf-8", "surrogatepass")).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:16], "little"))
    replacements: dict[str, str] = {}

    def replace(match: re.Match[str]) -> str:
        found = match.group()
        key = found.lower()
        if key not in factor_of:  # equal for the regular expression only, such as a dotless i
            return found
        values_of_factor = lexicon[factor_of[key]]
        if key not in replacements:
            others = [value for value in values_of_factor if value.lower() != key]
            replacements[key] = others[rng.integers(len(others))]
        return replacements[key] if found in values_of_factor else _like(found, replacements[key])

    # Splitting on a pattern with one group leaves the kept phrases at the odd places.
    parts = kept.split(caption) if kept else [caption]
    return "".join(part if i % 2 else values.sub(replace, part) for i, part in enumerate(parts))


def _like(found: str, value: str) -> str:
    """Write `value` in the case of the words it replaces: RED gives BLUE, Red gives Blue."""
    if len(found) > 1 and found.isupper():
        return value.upper()
    if found[0].isupper():
        return value[0].upper() + value[1:]
    return value
