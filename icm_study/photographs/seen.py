"""What is seen of image files, and kept: each is read once, as long as it stays the same.

A data set of half a million files takes minutes to read and seconds to list. So what was
seen of each file, its hash among it, is kept beside the embeddings, a Parquet table for
each folder, with the file's size, its number and the times at which its content and its
entry were changed. As long as these are the same, so is the file. One that was changed a
moment ago is not kept: a second change might bear the same time.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from icm_study.cores import available_cores
from icm_study.parquet import read_parquet, write_parquet
from icm_study.photographs.depth import ValueRange, check_value_range, deep_values
from icm_study.photographs.folders import decode_image, open_image

#: Seconds after which a change of a file bears another time than the one before.
SETTLED = 2.0

BLOCK = 1000
Result = TypeVar("Result")


class Look(NamedTuple):
    """What is seen of a file: its hash, and why it cannot be read, or its values."""

    digest: str = ""
    reason: str = ""
    kind: str = ""
    low: float = math.nan
    high: float = math.nan


def look_at_all(
    paths: Sequence[str], value_range: ValueRange, cache: str | os.PathLike[str] | None = None
) -> pd.DataFrame:
    """Look at image files, but for those that were seen before and did not change.

    Parameters
    ----------
    paths : sequence of n str
    value_range : {"file", "used"} or (low, high)
        By another range than that of the file, floating-point pixels can be read too.
    cache : path-like, optional
        Where it is kept what was seen; by default nowhere.

    Returns
    -------
    DataFrame
        A row for each file, in order, with the columns of :class:`Look`.
    """
    check_value_range(value_range)
    any_range = value_range != "file"
    look = partial(_look, any_range=any_range)
    if cache is None or not paths:
        return pd.DataFrame(_each(look, paths, "checking"), columns=Look._fields)
    seen, marks = Seen(paths, cache, "any" if any_range else "file"), _marks(paths)
    found = seen.known(paths, marks)
    if new := np.setdiff1d(np.arange(len(paths)), found.index).tolist():
        each = _each(look, [paths[place] for place in new], "checking")
        looks = pd.DataFrame(each, new, columns=Look._fields)
        found = pd.concat([found, looks]).sort_index() if len(found) else looks
        seen.keep(paths, marks, found)
    return found


def hash_files(paths: Sequence[str], cache: str | os.PathLike[str]) -> list[str]:
    """Hash image files, but for those that were seen before and did not change.

    Parameters
    ----------
    paths : sequence of n str
    cache : path-like
        Where it is kept what was seen, by :func:`look_at_all`.

    Returns
    -------
    list of n str
        The SHA-256 hash of each file's content.

    Raises
    ------
    ValueError
        If a file may not be read, or is no regular file.
    FileNotFoundError
        If a file does not exist.
    """
    hashes, marks = [""] * len(paths), _marks(paths)
    for how in ("file", "any"):
        known = Seen(paths, cache, how).known(paths, marks)
        for place, digest in zip(known.index, known["digest"], strict=True):
            hashes[place] = digest
    new = [place for place, digest in enumerate(hashes) if not digest]
    found = _each(_hash, [paths[place] for place in new], "hashing")
    for place, digest in zip(new, found, strict=True):
        hashes[place] = digest
    return hashes


def read_unchanged(path: str, digest: str) -> Image.Image:
    """Open an image as `read_image` does, if its content is still that which was hashed.

    The file is read once: what is compared is what is decoded.

    Parameters
    ----------
    path : str
        The image file.
    digest : str
        What :func:`hash_files` gave for it.

    Raises
    ------
    ValueError
        If its content has another hash. And as `read_image`.
    OSError
        If it may not be read.
    """
    with open_image(path) as file:
        content = _Content(file)
    image = decode_image(content, path)
    if (found := _digest(content)) != digest:
        raise ValueError(
            f"image {path!r} changed since it was listed: its content has the hash "
            f"{found[:12]}…, expected {digest[:12]}…. Let the files be as they are while they "
            "are embedded: delete the plan in cache/plans/, if there is one, and run again."
        )
    return image


class Seen:
    """The table of what was seen of the files of one folder.

    Parameters
    ----------
    paths : sequence of str
        The files; the folder that all are in names the table.
    cache : path-like
        Where the tables are kept.
    how : str
        A word for the way in which files are looked at; each has its table.
    """

    def __init__(self, paths: Sequence[str], cache: str | os.PathLike[str], how: str) -> None:
        folder = Path(os.path.commonpath({os.path.abspath(os.path.dirname(p)) for p in paths}))
        name = f"{folder.name}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]}-{how}"
        self.path = Path(cache).expanduser() / "seen" / f"{name}.parquet"

    def known(self, paths: Sequence[str], marks: Sequence[str]) -> pd.DataFrame:
        """Give what is known of the files that did not change.

        Parameters
        ----------
        paths, marks : sequences of n str
            The files, and what changes with each; empty where that is not sure.

        Returns
        -------
        DataFrame
            A row for each known file, by its place in `paths`.
        """
        try:
            kept = read_parquet(self.path).set_index(["path", "mark"])
        except (OSError, ValueError, KeyError):  # none yet, or damaged: all is looked at again
            return pd.DataFrame(columns=Look._fields)
        asked = pd.MultiIndex.from_arrays([list(map(os.path.abspath, paths)), list(marks)])
        rows = kept[~kept.index.duplicated()].index.get_indexer(asked)
        found = kept[~kept.index.duplicated()].iloc[rows[rows >= 0]]
        return found.set_axis(pd.Index(np.flatnonzero(rows >= 0)))

    def keep(self, paths: Sequence[str], marks: Sequence[str], found: pd.DataFrame) -> None:
        """Keep what was seen, a row for each file in order, in the place of all before.

        What is not sure is left out, and so is a file that could not be read, since the
        reason may lie elsewhere, and pass. Where nothing can be written, nothing is kept.
        """
        table = found.assign(path=list(map(os.path.abspath, paths)), mark=list(marks))
        table = table[(table["mark"] != "") & (table["reason"] == "")]
        if not len(table):
            return
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_parquet(table, self.path)


def _marks(paths: Sequence[str]) -> list[str]:
    """Give for each file what changes with its content; empty where that is not sure."""
    found = []
    for path in paths:
        try:
            stat = os.stat(path)
        except OSError:
            found.append("")
            continue
        mark = f"{stat.st_size} {stat.st_ino} {stat.st_mtime_ns} {stat.st_ctime_ns}"
        settled = time.time() - max(stat.st_mtime, stat.st_ctime) > SETTLED
        found.append(mark if settled else "")
    return found


def _each(function: Callable[[str], Result], paths: Sequence[str], said: str) -> list[Result]:
    found: list[Result] = []
    with (
        ThreadPoolExecutor(available_cores()) as pool,
        tqdm(total=len(paths), desc=said, unit="image", leave=False) as bar,
    ):
        for start in range(
            0, len(paths), BLOCK
        ):  # in blocks, so that a waiting task for each file is not kept
            found += pool.map(function, paths[start : start + BLOCK])
            bar.update(len(found) - start)
    return found


def _look(path: str, any_range: bool) -> Look:
    try:
        with open_image(path) as stream:
            data = stream.read()
        # floating-point pixels can be read by some range, which is not known yet
        given = (0.0, 1.0) if any_range else None
        image = decode_image(io.BytesIO(data), path, small=True, value_range=given)
    except (OSError, ValueError) as error:
        return Look(reason=str(error))
    kind, low, high = deep_values(io.BytesIO(data))
    if not kind:
        lowest, highest = zip(*image.getextrema(), strict=True)  # of each channel
        low, high = min(lowest), max(highest)
    return Look(hashlib.sha256(data).hexdigest(), "", kind, low, high)


def _hash(path: str) -> str:
    try:
        with open_image(path) as file:
            return _digest(file)
    except PermissionError as error:
        raise ValueError(
            f"image {path!r} cannot be read: {error.strerror}. Index the folder again."
        ) from error


def _digest(stream: io.BufferedIOBase) -> str:
    return hashlib.file_digest(stream, "sha256").hexdigest()


class _Content(io.BytesIO):
    """All bytes of an opened file; Pillow's messages call them what they call the file."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        super().__init__(file.read())
        self._name = repr(file)

    def __repr__(self) -> str:
        return self._name
