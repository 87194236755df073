"""Look at every image of a data folder before anything is computed from it.

`check_folder` opens each image, counts them by domain and class, finds the same picture
twice, and compares the counts with what is known of the data set. It is one
pass over the files and keeps nothing, so it can be run as often as one likes.
`load_folder` is the way to use a folder: it goes on only if the check found no problem,
or if the caller accepts the problems. It keeps what it saw, and opens a file again only
when that has changed (see `icm_study.photographs.seen`).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from icm_study.photographs.counts import common_classes, hindrances
from icm_study.photographs.depth import (
    ValueRange,
    check_value_range,
    eight_bit_copies,
    flaws,
    summarize,
)
from icm_study.photographs.folders import (
    folder_name,
    images_left_out,
    images_not_read,
    index_classes,
    index_folder,
    index_images,
    is_split,
    subfolders,
)
from icm_study.photographs.groups import BY_FOLDER, check_groups, group_images
from icm_study.photographs.known import guess_dataset, known_dataset, name_flaws
from icm_study.photographs.seen import look_at_all

#: How many entries of a long list a report prints; `FolderReport` has them all.
SHOWN = 10


@dataclass(frozen=True)
class Reading:
    """How a data folder is read.

    Attributes
    ----------
    nested : bool
        Take the images in folders below a class folder too (bursts, patients), as
        images of that class.
    classes : {"all", "common"}
        Take all classes, or those only that are in every domain, with images enough to
        leave each domain out (see `icm_study.photographs.counts.common_classes`).
    value_range : {"file", "used"} or (low, high)
        The values that become black and white in gray images of more than 8 bits:
        "file", 0 and 65,535; "used", the lowest and the highest in the images of the
        domain; or two numbers, for all.
    groups : str, optional
        Which images belong together: "folder", "folder name" (both take the images below
        class folders) or a CSV file (see `icm_study.photographs.groups.group_images`).

    Raises
    ------
    ValueError
        If `classes` or `value_range` is none of these.
    FileNotFoundError
        If there is no such table of groups.
    """

    nested: bool = False
    classes: str = "all"
    value_range: ValueRange = "file"
    groups: str | None = None

    def __post_init__(self) -> None:
        if self.classes not in ("all", "common"):
            raise ValueError(f"classes is {self.classes!r}; expected 'all' or 'common'.")
        check_value_range(self.value_range)
        if self.groups is not None:
            check_groups(self.groups)

    @property
    def is_deep(self) -> bool:
        """Whether the images below a class folder are taken."""
        return self.nested or self.groups in BY_FOLDER


@dataclass(frozen=True)
class FolderReport:
    """What `check_folder` found.

    Attributes
    ----------
    root : str
        The folder.
    dataset : str or None
        The known data set that it was compared with.
    images : pandas.DataFrame
        The readable images, with the columns *path*, *label*, *domain*, and *group*
        where they come in groups.
    counts : pandas.DataFrame of shape (n_classes, n_domains)
        The number of readable images.
    unreadable : tuple of (str, str)
        Path and reason of each image that cannot be read.
    missing : mapping of str to list of str
        For each domain that lacks some, the classes of which it has no readable image.
    duplicates : tuple of tuple of str
        Groups of files with the same bytes that are in more than one domain.
    repeats : tuple of tuple of str
        Groups of files with the same bytes within one domain, under one class or under
        several.
    few_levels : tuple of str
        Domains with images of more than 8 bits of which few levels are left, or whose
        values are cut, and those whose images of 8 bits use few (see
        `icm_study.photographs.depth.flaws`).
    differences : tuple of str
        How the folder differs from what is known of the data set.
    names : tuple of str
        Folders whose names give no word, or cannot be told apart (see
        `icm_study.photographs.known.name_flaws`).
    not_read : mapping of str to int
        Files of images of kinds that are not read (.heic of phones, .dcm of clinics), and how
        many of each.
    left_out : mapping of str to int
        Folders with images that were not taken, and how many: they lie in no class
        folder, or deeper.
    splits : tuple of str
        The domains, or classes, if all are named as the parts of one data set are ("train",
        "val").
    hindrances : tuple of str
        Why domains cannot be left out in turn; the images may be sound all the same.
    dropped : mapping of str to int
        The classes that were left out as asked, and their images.
    """

    root: str
    dataset: str | None
    images: pd.DataFrame
    counts: pd.DataFrame
    unreadable: tuple[tuple[str, str], ...]
    missing: Mapping[str, Sequence[str]]
    duplicates: tuple[tuple[str, ...], ...]
    repeats: tuple[tuple[str, ...], ...]
    few_levels: tuple[str, ...]
    differences: tuple[str, ...]
    names: tuple[str, ...]
    not_read: Mapping[str, int]
    left_out: Mapping[str, int]
    splits: tuple[str, ...]
    hindrances: tuple[str, ...]
    dropped: Mapping[str, int]

    @property
    def is_known(self) -> bool:
        """Whether the folder has the images of a known data set, in number."""
        return self.dataset is not None and not self.differences

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong, and each domain can be left out."""
        return self.sound and not self.hindrances

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong with the images and their folders."""
        return not (
            self.unreadable
            or self.missing
            or self.duplicates
            or (self.repeats and not self.is_known)
            or self.few_levels
            or self.differences
            or self.names
            or self.not_read
            or self.left_out
            or self.splits
        )

    @property
    def _grouped(self) -> str:
        return f", {self.images['group'].nunique():,} groups" if "group" in self.images else ""

    def __str__(self) -> str:
        compared = (
            f"compared with {self.dataset}" if self.dataset else "no known data set to compare with"
        )
        lines = [
            f"{self.root}: {len(self.images):,} readable images, {self.counts.shape[1]} domain(s), "
            f"{self.counts.shape[0]} classes{self._grouped}; {compared}",
            "",
            _table(self.counts),
        ]
        lines += _section("unreadable images", [f"{path}: {why}" for path, why in self.unreadable])
        lines += _section(
            "domains without some of the classes",
            [f"{domain}: {', '.join(names)}" for domain, names in self.missing.items()],
        )
        lines += _section(
            "the same file in several domains", [" = ".join(group) for group in self.duplicates]
        )
        lines += _section(
            "the same file more than once in a domain: one may train and the other measure"
            + (f" (so it is in {self.dataset})" if self.is_known else ""),
            [" = ".join(group) for group in self.repeats],
        )
        lines += _section(
            "images that are read with few levels, or cut; of more than 8 bits, give value_range: "
            "'used' for the values that they have, or (low, high)",
            self.few_levels,
        )
        lines += _section("differences from what is known", self.differences)
        lines += _section("names of folders; rename them, or put them together", self.names)
        lines += _section(
            "kinds of images that are not read, and are left out; convert them to PNG or JPEG",
            [f"{suffix}: {n:,} files" for suffix, n in self.not_read.items()],
        )
        if self.left_out:
            names = {Path(folder).name for folder in self.left_out}
            splits = ", ".join(sorted(filter(is_split, names)))
            named = f" Splits ({splits}) are among them." if splits else ""
            lines += _section(
                f"{sum(self.left_out.values()):,} images are left out, since they lie in no class "
                f"folder, or deeper; `nested` takes those below a class folder.{named} Their "
                "folders",
                [f"{folder}: {n:,}" for folder, n in self.left_out.items()],
            )
        if self.splits:
            lines += _section(
                "names that the splits of one data set have: between these there is no shift of "
                "domain, and no class to tell. Give each camera, site or style a folder, and in it "
                "one for each class",
                self.splits,
            )
        lines += _section(
            "classes that are not in every domain with images enough, left out as asked",
            [f"{label}: {n:,} images" for label, n in self.dropped.items()],
        )
        lines += _section("domains cannot be left out in turn", self.hindrances)
        return "\n".join(
            [*lines, "", "No problems found." if self.ok else "See the problems above."]
        )


def check_folder(
    root: str | os.PathLike[str], dataset: str | None = None, **reading: Any
) -> FolderReport:
    """Open every image of a data folder and compare the folder with what is known.

    Parameters
    ----------
    root : path-like
        A folder of images as root/domain/class/image, or root/class/image for ImageNet
        and its variants.
    dataset : str, optional
        A name in `icm_study.photographs.known.CATALOG`. If it is not given and the
        folder's name is one, it is that.
    **reading
        The attributes of `Reading`.

    Returns
    -------
    FolderReport

    Raises
    ------
    FileNotFoundError
        If `root` does not exist, or as `Reading`.
    ValueError
        If the data set is unknown, the folder has not the layout (see
        `icm_study.photographs.folders.index_folder`), or as `Reading` and
        `icm_study.photographs.groups.group_images`.
    """
    report, _ = _check_folder(root, dataset, Reading(**reading))
    return report


def _check_folder(
    root: str | os.PathLike[str],
    dataset: str | None,
    reading: Reading,
    cache: str | os.PathLike[str] | None = None,
) -> tuple[FolderReport, pd.DataFrame]:
    """Give the report, and the readable images with all that was seen of them."""
    name = dataset or guess_dataset(root)
    known = known_dataset(name) if name else None
    flat = known is not None and known.flat
    table = (index_classes if flat else index_folder)(root, True, reading.is_deep)
    if reading.groups is not None:
        depth = 1 if flat else 2
        table["group"] = group_images(table, root, reading.groups, depth=depth)
    seen = table.join(look_at_all(table["path"].tolist(), reading.value_range, cache))
    bad = seen["reason"] != ""
    images = seen[~bad]
    all_classes = reading.classes == "all"
    names = _class_names(Path(root), flat) if all_classes else common_classes(images)
    is_taken = images["label"].isin(names)
    dropped = images["label"][~is_taken].value_counts().sort_index()
    images = images[is_taken].reset_index(drop=True)
    domains = sorted(set(table["domain"]))
    counts = pd.crosstab(images["label"], images["domain"]).reindex(
        index=names, columns=domains, fill_value=0
    )
    alike = _same_bytes(images)
    report = FolderReport(
        root=str(root),
        dataset=name,
        images=images[list(table)],
        counts=counts,
        unreadable=tuple(zip(seen["path"][bad], seen["reason"][bad], strict=True)),
        missing={
            domain: lacks
            for domain in domains
            if (lacks := counts.index[counts[domain] == 0].tolist())
        },
        duplicates=tuple(tuple(files["path"]) for files in alike if files["domain"].nunique() > 1),
        repeats=tuple(tuple(files["path"]) for files in alike if files["domain"].nunique() == 1),
        few_levels=flaws(summarize(images), reading.value_range),
        differences=known.differences(table) if known else (),
        names=tuple(name_flaws(name, domains, names)),
        not_read=images_not_read(root),
        left_out=images_left_out(root, table),
        splits=tuple(
            f"the {what} are {', '.join(found)}"
            for what, found in (("domains", [] if flat else domains), ("classes", names))
            if len(found) > (what == "classes") and all(map(is_split, found))
        ),
        hindrances=() if flat else hindrances(images),
        dropped={str(label): int(n) for label, n in dropped.items()},
    )
    return report, images


def load_folder(
    root: str | os.PathLike[str],
    dataset: str | None = None,
    *,
    accept_problems: bool = False,
    cache: str | os.PathLike[str] = "cache",
    **reading: Any,
) -> pd.DataFrame:
    """Check a data folder and list its images.

    That a domain cannot be left out is no problem here, since there are protocols that
    leave none out; `icm_study.testbeds.splits.check_counts` tells it of a protocol.

    Parameters
    ----------
    root, dataset
        As in `check_folder`.
    accept_problems : bool
        Go on without the unreadable images, and with a warning, where the check found
        problems.
    cache : path-like
        Where what was seen of each image is kept, and 8-bit copies of images that are
        read by another range than "file" (see
        `icm_study.photographs.depth.eight_bit_copies`).
    **reading
        The attributes of `Reading`.

    Returns
    -------
    pandas.DataFrame
        The readable images, with the columns *path*, *label*, *domain*, and *group*
        where they come in groups. The path is that of the copy where there is one, so
        all that reads the image reads the copy.

    Raises
    ------
    ValueError
        If there are problems that are not accepted, or not one readable image; the
        message is the report. And as `check_folder`.
    FileNotFoundError
        As `check_folder`.

    Warns
    -----
    UserWarning
        If there are problems and they are accepted; the text is the report.
    """
    how = Reading(**reading)
    report, images = _check_folder(root, dataset, how, cache)
    if report.images.empty or not (report.sound or accept_problems):
        raise ValueError(
            f"{report}\nNothing was computed. Repair the folder, or pass accept_problems=True to "
            "go on without the unreadable images."
        )
    if not report.sound:
        warnings.warn(f"going on in spite of problems, as asked:\n{report}", stacklevel=2)
    return _by_range(images, how.value_range, root, cache)[list(report.images)]


def load_images(
    root: str | os.PathLike[str],
    *,
    accept_problems: bool = False,
    value_range: ValueRange = "file",
    cache: str | os.PathLike[str] = "cache",
) -> pd.DataFrame:
    """List the images of a folder in whatever layout, and open each.

    Parameters
    ----------
    root : path-like
    accept_problems : bool
        Go on without the unreadable images, and with a warning.
    value_range, cache
        As in `load_folder`.

    Returns
    -------
    pandas.DataFrame
        The readable images, with the columns *path*, *label*, *domain*, see
        :func:`~icm_study.photographs.folders.index_images`.

    Raises
    ------
    ValueError
        If an image cannot be read, or few of its levels would be left, and that is not
        accepted, or none can be read.
    FileNotFoundError
        If `root` does not exist.

    Warns
    -----
    UserWarning
        If there are such problems and they are accepted.
    """
    check_value_range(value_range)
    table = index_images(root)
    seen = table.join(look_at_all(table["path"].tolist(), value_range, cache))
    unreadable = seen["reason"][seen["reason"] != ""].tolist()
    images = seen[seen["reason"] == ""].reset_index(drop=True)
    few_levels = flaws(summarize(images), value_range)
    listing = "\n".join(
        [
            *_section("unreadable images", unreadable),
            *_section("images with few levels; of more than 8 bits, give value_range", few_levels),
        ]
    )
    if images.empty or (listing and not accept_problems):
        raise ValueError(
            f"{root}:{listing}\nNothing was computed. Repair the folder, or pass "
            "accept_problems=True to go on without the unreadable images."
        )
    if listing:
        warnings.warn(f"{root}: going on in spite of problems, as asked:{listing}", stacklevel=2)
    return _by_range(images, value_range, root, cache)[list(table)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``python -m icm_study.photographs.check ROOT``.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line's words.

    Returns
    -------
    int
        0 if the folder is in order, 1 otherwise.
    """
    parser = argparse.ArgumentParser(
        prog="python -m icm_study.photographs.check",
        description="Open every image of a folder; compare with what is known.",
    )
    parser.add_argument("root", help="the folder: root/domain/class/image")
    parser.add_argument(
        "--dataset", help="compare with this data set (default: guessed from the folder's name)"
    )
    parser.add_argument(
        "--nested", action="store_true", help="take the images below a class folder too"
    )
    parser.add_argument(
        "--classes", choices=("all", "common"), default="all",
        help="common: only classes that are in every domain, with images enough",
    )  # fmt: skip
    parser.add_argument(
        "--value-range", nargs="+", default=["file"], metavar="RANGE",
        help="of gray images of more than 8 bits: file, used, or two numbers",
    )  # fmt: skip
    parser.add_argument(
        "--groups", metavar="GROUPS",
        help="images that belong together: folder, 'folder name', or a CSV file",
    )  # fmt: skip
    options = vars(parser.parse_args(arguments))
    words = options["value_range"]
    try:
        options["value_range"] = words[0] if len(words) == 1 else tuple(map(float, words))
        report = check_folder(**options)
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    print(report)
    return 0 if report.ok else 1


def _by_range(
    images: pd.DataFrame,
    value_range: ValueRange,
    root: str | os.PathLike[str],
    cache: str | os.PathLike[str],
) -> pd.DataFrame:
    if value_range == "file":
        return images
    place = Path(root).absolute()
    name = f"{place.name}-{hashlib.sha256(os.fsencode(place)).hexdigest()[:8]}"
    return eight_bit_copies(images, value_range, Path(cache).expanduser() / "eight_bits" / name)


def _class_names(root: Path, flat: bool) -> list[str]:
    """Name the class folders, those without images too."""
    parents = [root] if flat else subfolders(root)
    return sorted({folder_name(class_) for parent in parents for class_ in subfolders(parent)})


def _same_bytes(images: pd.DataFrame) -> list[pd.DataFrame]:
    """Group the rows of the files that occur more than once."""
    several = images[images.duplicated("digest", keep=False)]
    return [group for _, group in several.groupby("digest", sort=False)]


def _table(counts: pd.DataFrame) -> str:
    """Print the counts, domains in columns; of many classes only the sums."""
    total = counts.sum().rename("all classes")
    return pd.concat(
        [counts if len(counts) <= 80 else counts.iloc[:0], total.to_frame().T]
    ).to_string()


def _section(title: str, entries: Sequence[str]) -> list[str]:
    if not entries:
        return []
    more = [f"  ... and {len(entries) - SHOWN:,} more"] if len(entries) > SHOWN else []
    return ["", f"{title} ({len(entries):,}):", *(f"  {entry}" for entry in entries[:SHOWN]), *more]


if __name__ == "__main__":
    sys.exit(main())
