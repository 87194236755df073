"""Whether there are images enough of each class to leave a domain out and learn from the others.

These are counts of a table, taken before anything is embedded. The check of a folder
tells them for every domain, and the protocols refuse what cannot be divided. Where images
come in groups (a column *group*), it is groups that are counted.
"""

from __future__ import annotations

import pandas as pd

#: Of a class in the sources: eight to train, one to choose and one to measure.
LEAST_IMAGES = 10

#: Of groups, which may be many images each: three to train, one to choose, one to measure.
LEAST_GROUPS = 5

#: How many classes a sentence names.
SHOWN = 5


def too_few(images: pd.DataFrame, is_tested: pd.Series) -> dict[str, int]:
    """Count the images, beside those that are tested, of the classes that have too few there.

    Parameters
    ----------
    images : DataFrame
        Columns *label* and *domain*, and *group* where images come in groups.
    is_tested : Series of bool
        The images that are left out; the others of their groups are left out with them.

    Returns
    -------
    dict of str to int
        The number of images of each class that has fewer than `LEAST_IMAGES`; of groups,
        where there are some, if fewer than `LEAST_GROUPS`.
    """
    outside = images[~is_tested]
    if "group" in images:
        outside = outside[~outside["group"].isin(images.loc[is_tested, "group"])]
        outside = outside.drop_duplicates(["label", "group"])
    counts = outside["label"].value_counts()
    counts = counts.reindex(sorted(images["label"].unique()), fill_value=0)
    least, _ = least_of(images)
    return {str(label): int(n) for label, n in counts[counts < least].items()}


def least_of(images: pd.DataFrame) -> tuple[int, str]:
    """Say how many of what a class needs in the sources: images, or groups of images."""
    return (LEAST_GROUPS, "groups") if "group" in images else (LEAST_IMAGES, "images")


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
        for label in too_few(images, images["domain"] == target)
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
        if few := too_few(images, images["domain"] == target):
            listing = ", ".join(f"{name!r} has {n:,}" for name, n in list(few.items())[:SHOWN])
            listing += f" and {len(few) - SHOWN:,} more" if len(few) > SHOWN else ""
            least, what = least_of(images)
            found.append(f"outside {target!r} each class needs {least} {what} or more: {listing}")
    return tuple(found)
