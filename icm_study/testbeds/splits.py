"""Who trains, who chooses and who is tested: the protocols, as splits of the data.

Three protocols of the paper:

- ``leave-one-domain-out``: one domain is the target, the others are the sources;
- ``open class``: no domain is set aside, but only the first half of the classes is seen
  in training;
- ``domain shift with open classes``: both at once.

Fitting sees ``train`` only (a projection may be estimated from pairs of other images
instead), choosing K and λ sees ``held_out`` only, and ``tests`` are for measuring. The
*conditions* that are measured depend on the protocol and the data:

- ``in_distribution``: source domains (with the shortcut of the sources, where there is one);
- ``unseen``: the target domain (without the shortcut);
- ``reversed``: the target domain, with the shortcut pointing to another class (the
  animal world only);
- ``seen_classes`` and ``new_classes``: under the two open protocols, the two halves of the classes.

In the animal world the tests show other animals. In a folder of images every image can
train or test, so the rows that are held out are halved: one half chooses, the other
measures. So a source domain is divided 80/10/10, class by class, and all of the target is
tested; DomainBed divides every domain 80/20 at random. Where images come in groups, a group
is on one side only: no source shares one with the target, and rows are held out by groups.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from icm_study.embedding.tables import EmbeddedData
from icm_study.photographs.counts import LEAST_IMAGES, least_of, too_few
from icm_study.testbeds.base import PROTOCOLS, Split


def split(
    data: EmbeddedData,
    target: int | None,
    *,
    protocol: str = "leave-one-domain-out",
    held_out: float = 0.2,
    seed: int = 0,
) -> Split:
    """Divide data by a protocol.

    Source rows whose oracle re-rendering falls into the target domain are left out, and
    those of a group that has a row there, so that no method sees an image of the target.

    Parameters
    ----------
    data : EmbeddedData
    target : int or None
        The domain to set aside; None for the protocol ``"open class"``, which sets none aside.
    protocol : {"leave-one-domain-out", "open class", "domain shift with open classes"}
    held_out : float
        Share of the source rows that are not trained on; about that share, of groups.
    seed : int

    Returns
    -------
    Split

    Raises
    ------
    ValueError
        If the protocol is unknown or does not go with the target, the target is not a
        domain, no source domain is left, a class is absent from a domain of the animal
        world, from the source rows that are left or from the prompts, too few rows are
        left to split, a condition has no test image, or embeddings are not finite.
    """
    _check_protocol(data, target, protocol)
    source = data.source
    for name, table in {"source": source, "test": data.test}.items():
        if table is not None:
            _check_table(name, table, every_domain=data.test is not None)
    is_source = _rows(source, "domain", target, equal=False) & _rows(
        source, "oracle_domain", target, equal=False
    )
    classes = np.unique(data.tested["label"])
    seen = classes if protocol == PROTOCOLS[0] else classes[: (len(classes) + 1) // 2]
    if "group" in source.coords:
        is_tested = ~np.isin(source["label"], seen) if target is None else ~is_source
        is_source &= ~np.isin(source["group"], source["group"][is_tested])
    if not is_source.any():
        raise ValueError(
            "No source domain is left beside the target; leave-one-domain-out needs two domains."
        )
    usable = np.flatnonzero(is_source & np.isin(source["label"], seen))
    _check_classes(seen, classes, source.isel(row=usable), data.prompts)
    if "group" in source.coords:
        train, rest, measure = _hold_out_groups(source, usable, held_out, seed)
    else:
        train, rest = hold_out(source, usable, held_out, seed)
        if data.test is None:
            rest, measure = hold_out(source, rest, 0.5, seed)
    if data.test is None:
        tests = _folder_tests(source, target, seen, protocol, measure)
    else:
        tests = _animal_tests(data.test, target, seen, protocol)
    for condition, table in tests.items():
        if not table.sizes["row"]:
            raise ValueError(
                f"There is no image for the condition {condition!r} of the target "
                f"{'none' if target is None else data.domains[target]!r}; expected some in every "
                "domain, of the classes that are trained on and of those that are not (in the "
                "animal world with each shortcut: 'aligned', 'none' and 'reversed'). Add images, "
                "or name other targets."
            )
    return Split(
        train=source.isel(row=train),
        held_out=source.isel(row=rest),
        tests=tests,
        prompts=data.prompts,
        target="unseen" if protocol == PROTOCOLS[0] else "new_classes",
    )


def check_counts(images: pd.DataFrame, protocol: str = PROTOCOLS[0]) -> None:
    """Check, before a folder is embedded, that a protocol can divide it.

    Parameters
    ----------
    images : DataFrame
        Columns label and domain.
    protocol : str

    Raises
    ------
    ValueError
        If the protocol is unknown, fewer than two classes are trained on, a domain must be
        left out and there is one only, or a class that is trained on has too few images in
        the sources (see :func:`~icm_study.photographs.counts.too_few`). The message names
        them.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol={protocol!r} is unknown; choose one of {PROTOCOLS}.")
    domains, classes = sorted(images["domain"].unique()), sorted(images["label"].unique())
    if protocol != "open class" and len(domains) < 2:
        raise ValueError(
            f"The images have one domain, {domains[0]!r}; to leave one out takes two or more. Lay "
            "them out as folder/domain/class/*, a folder for each camera, site or style."
        )
    seen = classes if protocol == PROTOCOLS[0] else classes[: (len(classes) + 1) // 2]
    if len(seen) < 2:
        raise ValueError(
            f"The protocol {protocol!r} trains on {len(seen)} of the {len(classes)} class(es) "
            f"{', '.join(map(repr, classes))}; to tell classes apart takes two or more. Add "
            "folders of other classes."
        )
    for target in domains if protocol != "open class" else [None]:
        is_tested = ~images["label"].isin(seen) if target is None else images["domain"] == target
        few = {name: n for name, n in too_few(images, is_tested).items() if name in seen}
        if few:
            listing = ", ".join(f"{name!r} has {n}" for name, n in few.items())
            least, what = least_of(images)
            shared = " (Groups that are tested too do not count.)" * ("group" in images)
            raise ValueError(
                f"Each class needs {least} {what} or more outside the target {target!r}, to "
                f"train, to choose and to measure: {listing}.{shared} Add images, or remove these "
                "classes."
            )


def _check_protocol(data: EmbeddedData, target: int | None, protocol: str) -> None:
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol={protocol!r} is unknown; choose one of {PROTOCOLS}.")
    domains = np.unique(data.tested["domain"])
    if protocol == "open class":
        if target is not None:
            raise ValueError(
                f"target={target!r}: the protocol 'open class' sets no domain aside; pass None."
            )
    elif target not in domains:
        raise ValueError(f"target={target!r} is not among the domains {domains.tolist()}.")


def _rows(table: xr.Dataset, name: str, value: object, *, equal: bool = True) -> np.ndarray:
    """Rows whose coordinate is (or is not) a value; every row where there is nothing to compare."""
    if value is None or name not in table.coords:
        return np.ones(table.sizes["row"], dtype=bool)
    return (table[name].to_numpy() == value) == equal


def hold_out(
    table: xr.Dataset, rows: np.ndarray, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Divide rows at random, each class in the same proportion; `share` goes to the second part.

    Where it is known which animal an image shows, no animal is in both parts.
    """
    label = table["label"].to_numpy()[rows]
    animal = table["silhouette"].to_numpy()[rows] if "silhouette" in table.coords else rows
    _, first_row, group = np.unique(animal, return_index=True, return_inverse=True)
    first_row, order = np.sort(first_row), np.argsort(np.argsort(first_row))
    group = order[group]  # numbered as the animals come
    try:
        kept, held = train_test_split(
            np.arange(len(first_row)), test_size=share, stratify=label[first_row], random_state=seed
        )
    except ValueError as error:
        raise ValueError(
            f"The sources have too few images to train, to choose and to test on: {len(rows)} rows "
            f"cannot be divided ({error}) Each class needs about {LEAST_IMAGES} images outside the "
            "target. Add images, or drop the classes with few."
        ) from error
    return rows[np.isin(group, kept)], rows[np.isin(group, held)]


def group_folds(
    label: NDArray[np.integer], group: NDArray[np.integer], n: int, seed: int
) -> list[NDArray[np.intp]]:
    """Divide rows into n parts, each class in about the same proportion, each group in one part.

    Raises
    ------
    ValueError
        If a class has fewer than n groups, or all of its groups come into one part.
    """
    n_groups = _groups_of_each(label, group)
    if n_groups.min() < n:
        raise ValueError(
            f"A class has images in {n_groups.min()} group(s), which cannot be divided into {n} "
            "parts, each group in one; expected as many. Add images of other groups, or leave the "
            "class out."
        )
    folds = StratifiedGroupKFold(n, shuffle=True, random_state=seed)
    parts = [part for _, part in folds.split(label, label, group)]
    if min(len(np.unique(np.delete(label, part))) for part in parts) < len(n_groups):
        raise ValueError(
            f"The groups are so unequal that no {n} parts of them have all classes. Make smaller "
            "groups, or leave out the classes with few."
        )
    return parts


def _groups_of_each(label: NDArray[np.integer], group: NDArray[np.integer]) -> pd.Series:
    return pd.Series(group).groupby(label).nunique()


def _hold_out_groups(
    source: xr.Dataset, rows: NDArray[np.intp], share: float, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Divide rows by groups into those that train, choose and measure.

    Of a class with few groups each of these gets one at least, so that more than `share` is
    held out.
    """
    label, group = (source[name].to_numpy()[rows] for name in ("label", "group"))
    n = min(round(2 / share), int(_groups_of_each(label, group).min()))
    choose, measure, *train = group_folds(label, group, max(n, 3), seed)
    return rows[np.sort(np.concatenate(train))], rows[choose], rows[measure]


def _animal_tests(
    test: xr.Dataset, target: int | None, seen: np.ndarray, protocol: str
) -> dict[str, xr.Dataset]:
    is_target, is_seen = _rows(test, "domain", target), np.isin(test["label"], seen)
    shortcut = test["shortcut"].to_numpy()
    if protocol == PROTOCOLS[0]:
        masks = {
            "in_distribution": ~is_target & (shortcut == "aligned"),
            "unseen": is_target & (shortcut == "none"),
            "reversed": is_target & (shortcut == "reversed"),
        }
    else:
        rows = is_target & (shortcut == ("aligned" if target is None else "none"))
        masks = {"seen_classes": rows & is_seen, "new_classes": rows & ~is_seen}
    return {name: test.isel(row=mask) for name, mask in masks.items()}


def _folder_tests(
    images: xr.Dataset, target: int | None, seen: np.ndarray, protocol: str, measure: np.ndarray
) -> dict[str, xr.Dataset]:
    is_target, is_seen = _rows(images, "domain", target), np.isin(images["label"], seen)
    if protocol == PROTOCOLS[0]:
        rows = {"in_distribution": measure, "unseen": np.flatnonzero(is_target)}
    else:
        rows = {
            "seen_classes": measure if target is None else np.flatnonzero(is_target & is_seen),
            "new_classes": np.flatnonzero(is_target & ~is_seen),
        }
    return {name: images.isel(row=chosen) for name, chosen in rows.items()}


def _check_table(name: str, table: xr.Dataset, *, every_domain: bool) -> None:
    for variable in table.data_vars:
        if not np.isfinite(table[variable].to_numpy()).all():
            raise ValueError(
                f"The {name} table has NaN or infinite values in {variable!r}; expected finite "
                "embeddings. Embed the data again, and look for corrupt images."
            )
    # of a folder, the check before embedding has told, and the user has decided
    if not every_domain:
        return
    domains, domain = np.unique(table["domain"], return_inverse=True)
    labels, label = np.unique(table["label"], return_inverse=True)
    present = np.zeros((len(domains), len(labels)), dtype=bool)
    present[domain, label] = True
    for domain, row in zip(domains, present, strict=True):
        absent = labels[~row].tolist()
        if absent:
            raise ValueError(
                f"The {name} table has no image of class {absent} in domain {domain}; every class "
                "must be in every domain. Add images, or drop the class from all domains."
            )


def _check_classes(
    seen: np.ndarray, classes: np.ndarray, usable: xr.Dataset, prompts: xr.Dataset
) -> None:
    for name, table, wanted, least in (
        ("sources", usable, seen, 2),
        ("prompts", prompts, classes, 1),
    ):
        counts = (table["label"].to_numpy()[:, None] == wanted).sum(axis=0)
        if (counts < least).any():
            raise ValueError(
                f"The {name} have fewer than {least} rows of class "
                f"{wanted[counts < least].tolist()}, which the test table has. (Source rows of the "
                "target domain do not count.) Add some, or drop the class."
            )


def variant_split(data: EmbeddedData, seed: int, held_out: float = 0.2) -> Split:
    """Divide the source into what trains, chooses and is measured; every variant is a test.

    Parameters
    ----------
    data : EmbeddedData
        What the ``embed`` of :class:`~icm_study.testbeds.animal_variants.AnimalVariants` or
        :class:`~icm_study.testbeds.imagenet_variants.ImageNetVariants` gave.
    seed : int
    held_out : float
        Share of the source rows that are not trained on. Half of them chooses K and λ,
        the other half is the test ``in_distribution``.

    Returns
    -------
    Split
        One test for each variant, by its name, with the variant's own classes as
        candidates. There is no single target, so nothing can be tuned on it.

    Raises
    ------
    ValueError
        If these are no variants, or too few rows are left to split.
    """
    source, test = data.source, data.test
    if test is None or "domain" in source.coords:
        raise ValueError(
            f"The data {data.domains} are no variants of one source; expected what the test bed "
            "`AnimalVariants` or `ImageNetVariants` embeds. For domains that are left out in turn "
            "use `icm_study.testbeds.splits.split`."
        )
    train, rest = hold_out(source, np.arange(source.sizes["row"]), held_out, seed)
    choose, measure = hold_out(source, rest, 0.5, seed)
    variants = {
        name: test.isel(row=np.flatnonzero(test["domain"] == number))
        for number, name in enumerate(data.domains)
    }
    return Split(
        train=source.isel(row=train),
        held_out=source.isel(row=choose),
        tests={"in_distribution": source.isel(row=measure)} | variants,
        prompts=data.prompts,
        target="none",
        candidates={name: np.unique(table["label"]) for name, table in variants.items()},
        pairs=data.pairs,
    )


def check_variant_classes(name: str, labels: np.ndarray, known: np.ndarray) -> None:
    """Refuse a variant of fewer than two classes, or with classes that are not `known`."""
    found, absent = np.unique(labels), np.setdiff1d(labels, known)
    if len(found) < 2:
        raise ValueError(
            f"{name} has images of {len(found)} class(es); expected at least two. Add images."
        )
    if len(absent):
        raise ValueError(
            f"{name} has {len(absent)} classes that the source has not, such as number "
            f"{absent[0]}; expected classes of the source only. Add training images of these, or "
            "drop them."
        )
