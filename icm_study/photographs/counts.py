"""Whether there are images enough of each class to leave a domain out and learn from the others.

These are counts of a table, taken before anything is embedded. The check of a folder
tells them for every domain, and the protocols refuse what cannot be divided.
"""

from __future__ import annotations

import pandas as pd

#: Of a class in the sources: eight to train, one to choose and one to measure.
LEAST_IMAGES = 10

#: How many classes a sentence names.
SHOWN = 5


def too_few(images: pd.DataFrame, target: str | None) -> dict[str, int]:
    """Count the images, outside a domain, of the classes that have too few there.

    Parameters
    ----------
    images : DataFrame
        Columns *label* and *domain*.
    target : str or None
        The domain that is left out; None leaves none out.

    Returns
    -------
    dict of str to int
        The number of images of each class that has fewer than `LEAST_IMAGES`.
    """
    counts = images.loc[images["domain"] != target, "label"].value_counts()
    counts = counts.reindex(sorted(images["label"].unique()), fill_value=0)
    return {str(label): int(n) for label, n in counts[counts < LEAST_IMAGES].items()}


def common_classes(images: pd.DataFrame) -> list[str]:
    """List the classes that are in every domain, with images enough to leave each out.

    Parameters
    ----------
    images : DataFrame
        Columns *label* and *domain*.

    Returns
    -------
    list of str
        Sorted. With a single domain, the classes that have enough images in it.
    """
    domains = images["domain"].unique()
    present = images.groupby("label")["domain"].nunique() == len(domains)
    few = {
        label
        for target in (domains if len(domains) > 1 else [None])
        for label in too_few(images, target)
    }
    return sorted(set(present.index[present]) - few)


def hindrances(images: pd.DataFrame) -> tuple[str, ...]:
    """Say why domains of a folder cannot be left out in turn.

    Parameters
    ----------
    images : DataFrame
        Columns *label* and *domain*.

    Returns
    -------
    tuple of str
        One sentence for each reason; empty if each domain can be left out.
    """
    domains, classes = sorted(images["domain"].unique()), sorted(images["label"].unique())
    found = []
    if len(classes) == 1:
        found.append(f"there is one class, {classes[0]!r}; to tell classes apart takes two")
    if len(domains) == 1:
        found.append(f"there is one domain, {domains[0]!r}; to leave one out takes two")
    for target in domains if len(domains) > 1 else []:
        if few := too_few(images, target):
            listing = ", ".join(f"{name!r} has {n:,}" for name, n in list(few.items())[:SHOWN])
            listing += f" and {len(few) - SHOWN:,} more" if len(few) > SHOWN else ""
            found.append(
                f"outside {target!r} each class needs {LEAST_IMAGES} images or more: {listing}"
            )
    return tuple(found)
