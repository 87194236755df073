"""ImageNet's classes, and those of its variants.

ImageNet has 1,000 classes, numbered in the order of their WordNet ids. Its folders are
named by these ids, those of ImageNet-V2 by the numbers; R and A have 200 of the classes
each. A classifier for a variant compares its images with the words of the variant's
classes only. Ids and subsets come with timm, words and prompt templates with open_clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

import numpy as np
import pandas as pd

VARIANTS = ("imagenet", "imagenet-v2", "imagenet-r", "imagenet-sketch", "imagenet-a")


def imagenet_classes(variant: str = "imagenet") -> pd.DataFrame:
    """List the classes of ImageNet or of one of its variants.

    The WordNet ids and the subsets of R and A are those that timm ships, the words
    those of open_clip, which stand in the order of the sorted ids.

    Parameters
    ----------
    variant : {'imagenet', 'imagenet-v2', 'imagenet-r', 'imagenet-sketch', 'imagenet-a'}

    Returns
    -------
    pandas.DataFrame
        One row for each class, with the columns *folder* (the class folder's name: the
        number for V2, the WordNet id otherwise), *wnid*, *index* (0 to 999, the place
        among all classes of ImageNet) and *word*.

    Raises
    ------
    ValueError
        If the variant is unknown.
    """
    if variant not in VARIANTS:
        raise ValueError(
            f"unknown ImageNet variant {variant!r}; expected one of {', '.join(VARIANTS)}."
        )
    from open_clip import IMAGENET_CLASSNAMES  # slow to import, and needed here only

    wnids = _synsets("imagenet")
    table = pd.DataFrame(
        {"folder": wnids, "wnid": wnids, "index": range(len(wnids)), "word": IMAGENET_CLASSNAMES}
    )
    if variant == "imagenet-v2":
        table["folder"] = table["index"].astype(str)
    if variant in ("imagenet-r", "imagenet-a"):
        subset = _synsets(variant.replace("-", "_"))
        table = table[table["wnid"].isin(subset)].reset_index(drop=True)
    return table


def imagenet_templates() -> list[str]:
    """List the 80 ImageNet prompt templates that open_clip ships, as format strings.

    Returns
    -------
    list of str
        Each with one ``{}``, where the class's word goes.
    """
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return [template("{}") for template in OPENAI_IMAGENET_TEMPLATES]


def imagenet_index(labels: Sequence[str]) -> np.ndarray:
    """Map class folders' names to ImageNet's class numbers.

    Parameters
    ----------
    labels : sequence of str of length n
        WordNet ids ("n01440764"), or numbers ("0" to "999") as in ImageNet-V2.

    Returns
    -------
    ndarray of shape (n,), int64
        Places among the 1,000 classes.

    Raises
    ------
    ValueError
        If a label is neither.
    """
    places = {wnid: index for index, wnid in enumerate(_synsets("imagenet"))}
    places |= {str(index): index for index in range(len(places))}
    unknown = sorted({str(label) for label in labels if label not in places})
    if unknown:
        raise ValueError(
            "no ImageNet classes: "
            f"{', '.join(map(repr, unknown[:5]))}{' ...' if len(unknown) > 5 else ''}; expected "
            "WordNet ids such as 'n01440764', or numbers from '0' to '999'."
        )
    return np.array([places[label] for label in labels], dtype=np.int64)


def _synsets(subset: str) -> list[str]:
    return (
        (resources.files("timm") / "data" / "_info" / f"{subset}_synsets.txt").read_text().split()
    )
