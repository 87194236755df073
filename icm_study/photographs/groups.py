"""Images that belong together: frames of a burst, pictures of one patient, shots of a session.

Such images say the same thing more than once. So a group is never on two sides of a split,
and an interval counts it as one image (see `icm_study.experiments.intervals`). What a group
is, only the user knows: a folder below the class folder, or a column of a table.
"""

from __future__ import annotations

import os
import unicodedata
import warnings
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

#: The groups that folders below a class folder make: each one, or all of one name together.
BY_FOLDER = ("folder", "folder name")

COLUMNS = ["file", "group"]


def check_groups(groups: str) -> None:
    """Refuse what is neither a way to make groups of folders nor a file.

    Raises
    ------
    FileNotFoundError
    """
    if groups not in BY_FOLDER and not Path(groups).is_file():
        raise FileNotFoundError(
            f"groups={groups!r} is no file; expected {BY_FOLDER[0]!r}, {BY_FOLDER[1]!r}, or the "
            "path of a CSV file with the columns file and group."
        )


def group_images(
    images: pd.DataFrame, root: str | os.PathLike[str], groups: str, *, depth: int = 2
) -> pd.Series:
    """Tell the group of each image.

    Parameters
    ----------
    images : DataFrame
        Column *path*, of images below `root`.
    root : path-like
        The data folder.
    groups : str
        ``"folder"``: each folder right below a class folder is a group. ``"folder
        name"``: the same, and folders of one name are one group, in whatever class or
        domain they are. An image that lies in the class folder itself is a group of its
        own. Or the path of a CSV file with the columns *file*, a path below `root`, and
        *group*, one row for each image.
    depth : int
        How many folders below `root` the images of a class lie: 1 without domains.

    Returns
    -------
    Series of str, named *group*

    Raises
    ------
    ValueError
        If no image lies in a folder below a class folder, or the table lacks a column or
        an image, or has two groups for one.
    FileNotFoundError
        As :func:`check_groups`.

    Warns
    -----
    UserWarning
        If each folder is a group, and folders of one name are in several classes or
        domains.
    """
    check_groups(groups)
    files = [Path(path).relative_to(root) for path in images["path"]]
    if groups in BY_FOLDER:
        names = _by_folder(files, groups == "folder name", depth)
    else:
        listed = _listed(Path(groups))
        absent = [str(file) for file in files if _canonical(file.as_posix()) not in listed]
        if absent:
            raise ValueError(
                f"The table of groups {groups!r} lacks {len(absent)} of {len(files)} images, such "
                f"as {absent[0]!r}; expected a row for each, whose 'file' is the path below "
                f"{str(root)!r}, such as 'camera_1/fox/0001.jpg'."
            )
        names = [listed[_canonical(file.as_posix())] for file in files]
    return pd.Series(names, images.index, str, "group")


def _by_folder(files: list[Path], by_name: bool, depth: int) -> list[str]:
    is_below = [len(file.parts) > depth + 1 for file in files]
    if not any(is_below):
        raise ValueError(
            "No image lies in a folder below a class folder, so there are no such groups. Lay the "
            "images out as domain/class/group/*, or give a CSV file with the columns file and "
            "group."
        )
    folders = [
        "/".join(file.parts[: depth + 1]) if below else file.as_posix()
        for file, below in zip(files, is_below, strict=True)
    ]
    names = [file.parts[depth] for file in files]
    if by_name:
        chosen = zip(names, folders, is_below, strict=True)
        return [name if below else folder for name, folder, below in chosen]
    named = pd.DataFrame({"name": names, "folder": folders})[is_below].drop_duplicates()
    again = named["name"][named["name"].duplicated()]
    if len(again):
        warnings.warn(
            f"{again.nunique()} names of groups, such as {again.iloc[0]!r}, are in several classes "
            "or domains, and each folder counts as a group of its own. If one name is one "
            "patient or session, give groups='folder name'.",
            stacklevel=2,
        )
    return folders


def _listed(path: Path) -> Mapping[str, str]:
    """Read a table of groups: file -> group."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, pd.errors.ParserError) as error:
        raise ValueError(
            f"{str(path)!r} cannot be read as a table of groups: {error}. Expected CSV in UTF-8, "
            "with the columns file and group."
        ) from error
    if not set(COLUMNS) <= set(table):
        raise ValueError(
            f"The table of groups {str(path)!r} has the columns {list(table)}; expected {COLUMNS}, "
            "separated by commas."
        )
    table = table[COLUMNS].assign(file=table["file"].map(_canonical)).drop_duplicates()
    wrong = table[table["file"].duplicated(keep=False) | (table["group"].str.strip() == "")]
    if len(wrong):
        file, group = wrong.iloc[0]
        said = "no group" if not group.strip() else "several groups"
        raise ValueError(
            f"The table of groups {str(path)!r} has {said} for the file {file!r}; expected one."
        )
    return dict(zip(table["file"], table["group"], strict=True))


def _canonical(file: str) -> str:
    """Write a path in one form; systems disagree on accents and on the stroke between folders."""
    return unicodedata.normalize("NFC", file.strip().replace("\\", "/").removeprefix("./"))
