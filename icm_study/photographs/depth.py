"""What values images have, and by what range those of more than 8 bits a channel are read.

A file of 16 bits may hold 12, as those of X-ray machines and microscopes do. Read by
the range of the file, 0 to 65,535, these are nearly black, with 17 gray levels left.
Floating-point pixels have no agreed range at all. So one can choose the range: that of
the file, the one that the images of a domain use, or one's own. A domain is taken by
itself, since it is often a machine. Images of 8 bits are what they are, but where all of a
domain use a small part of them, they were made from such a file, and it is told. Encoders
read 8 bits: images that are read by
another range than their file's are written once as 8-bit copies, and it is these that
are embedded, captioned and shown.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from icm_study.cores import available_cores
from icm_study.photographs.conversion import write_whole
from icm_study.photographs.folders import is_deep, read_image

#: The range of a 16-bit file, by which integers are read if nothing else is said.
FILE_RANGE = (0.0, 65535.0)

#: Fewer of the 256 levels than this, over a whole domain, and something is wrong.
LEAST_LEVELS = 128
#: Of images that have 8 bits themselves, and may show dim scenes.
LEAST_OF_8_BITS = 32

ValueRange = str | tuple[float, float]


#: Share of an image's pixels that may be spoilt, at either end.
SPOILT = 0.001


def deep_values(stream: BinaryIO) -> tuple[str, float, float]:
    """Find the lowest and the highest value of an image of more than 8 bits a channel.

    Where the range would be less than half without one pixel in a thousand at either end,
    these are taken to be spoilt (hot pixels of a sensor), and do not count.

    Parameters
    ----------
    stream : binary file
        An image that can be decoded.

    Returns
    -------
    kind : {"", "gray", "color"}
        Empty for an image of 8 bits. Of 16-bit color, Pillow reads the upper 8 bits.
    low, high : float
        In units of the file; not a number for an image of 8 bits.
    """
    with Image.open(stream) as image:
        if is_deep(image.mode):
            return "gray", *_ends(np.asarray(image))
        if ";16" in str(image.tile):
            bands = np.asarray(image.convert("RGB"), dtype=float) * 257
            return "color", *_ends(bands)
    return "", math.nan, math.nan


def _ends(values: NDArray[Any]) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    usual_low = float(np.quantile(values, SPOILT, method="lower"))
    usual_high = float(np.quantile(values, 1 - SPOILT, method="higher"))
    is_spoilt = 2 * (usual_high - usual_low) < high - low
    return (usual_low, usual_high) if is_spoilt else (low, high)


def check_value_range(value_range: ValueRange) -> None:
    """Refuse what is no range; see `icm_study.photographs.check.load_folder`."""
    if value_range in ("file", "used"):
        return
    if not isinstance(value_range, str) and len(value_range) == 2:
        low, high = value_range
        if math.isfinite(low) and math.isfinite(high) and low < high:
            return
    raise ValueError(
        f"value_range is {value_range!r}; expected 'file', 'used', or two finite numbers, "
        "the lower first."
    )


def summarize(images: pd.DataFrame) -> pd.DataFrame:
    """Sum up the images of each domain whose values are known.

    Parameters
    ----------
    images : DataFrame
        Columns *domain*, *kind*, *low* and *high*, as `deep_values` gives the last three; of
        8-bit images the ends of all channels.

    Returns
    -------
    DataFrame
        One row for each domain and kind, with these columns and the number of images, *n*.
    """
    known = images[images["low"].notna()].groupby(["domain", "kind"])
    return known.agg(n=("low", "size"), low=("low", "min"), high=("high", "max")).reset_index()


def flaws(summary: pd.DataFrame, value_range: ValueRange) -> tuple[str, ...]:
    """Say of which domains few levels are left by a range, or values are cut.

    Parameters
    ----------
    summary : DataFrame
        As `summarize` gives it.
    value_range : {"file", "used"} or (low, high)

    Returns
    -------
    tuple of str
        One sentence for each domain and kind of image with a flaw.
    """
    found = []
    for domain, kind, n, lowest, highest in summary.to_numpy().tolist():
        if kind == "":
            if highest - lowest + 1 < LEAST_OF_8_BITS:
                found.append(
                    f"{domain}: {n:,} images of 8 bits have values from {lowest:,g} to "
                    f"{highest:,g} of 0 to 255; they were saved by a wider range than they use. "
                    "Save them again by their own: value_range cannot give back what is lost"
                )
            continue
        by_file = value_range == "file" or kind == "color"
        low, high = FILE_RANGE if by_file else _range(lowest, highest, value_range)
        start, end = (min(max(value, low), high) for value in (lowest, highest))
        levels = math.floor(255 * (end - start) / (high - low)) + 1
        said = f"{domain}: {n:,} {kind} images have values from {lowest:,g} to {highest:,g}"
        if levels < LEAST_LEVELS:
            hint = "; save them with 8 bits, of 16-bit color no other range can be read"
            found.append(
                f"{said} of {low:,g} to {high:,g}, {levels} of 256 levels{hint * (kind == 'color')}"
            )
        elif by_file and not low <= lowest <= highest <= high:
            found.append(f"{said}, which are cut to {low:,g} to {high:,g}")
    return tuple(found)


def eight_bit_copies(
    images: pd.DataFrame, value_range: ValueRange, destination: str | os.PathLike[str]
) -> pd.DataFrame:
    """Write gray images of more than 8 bits as 8-bit PNG files, read by another range.

    A copy is named by the content of the image and the range; one that is there already
    is not written again.

    Parameters
    ----------
    images : DataFrame
        Columns *path*, *label*, *domain*, *digest*, *kind*, *low* and *high*.
    value_range : "used" or (low, high)
    destination : path-like
        The folder in which they are laid out by domain and class.

    Returns
    -------
    DataFrame
        The same rows; *path* is that of the copy where there is one.

    Raises
    ------
    ValueError
        If an image cannot be read, or has values that are no finite numbers.
    OSError
        If a copy cannot be written.
    """
    ranges = {
        domain: _range(lowest, highest, value_range)
        for domain, kind, _, lowest, highest in summarize(images).to_numpy().tolist()
        if kind == "gray"
    }

    def copy(image: Sequence[str]) -> str:
        path, label, domain, digest = image
        key = hashlib.sha256(f"{digest} {ranges[domain]}".encode()).hexdigest()[:12]
        target = Path(destination) / domain / label / f"{Path(path).stem}-{key}.png"
        if not target.exists():
            data = io.BytesIO()
            read_image(path, ranges[domain]).convert("L").save(data, "PNG")
            write_whole(target, data.getvalue())
        return str(target)

    gray = images["kind"] == "gray"
    rows = images.loc[gray, ["path", "label", "domain", "digest"]].to_numpy().tolist()
    with ThreadPoolExecutor(available_cores()) as pool:
        paths = list(tqdm(pool.map(copy, rows), "8-bit copies", len(rows), disable=not rows))
    copied = images.copy()
    copied.loc[gray, "path"] = paths
    return copied


def _range(low: float, high: float, value_range: ValueRange) -> tuple[float, float]:
    if isinstance(value_range, str):
        return low, max(high, math.nextafter(low, math.inf))
    return float(value_range[0]), float(value_range[1])
