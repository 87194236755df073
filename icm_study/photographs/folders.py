"""Image folders and the images in them.

Data sets for domain generalization come as ``root/domain/class/image``: one folder for
each domain (also called environment), and in it one for each class. `index_folder`
lists such a tree as a table, and `read_image` opens one of its images. Both say plainly
what is wrong with data that cannot be used, since a class that is absent from a domain,
or half an image, would otherwise show up as a puzzling accuracy.

ImageNet and its variants come as ``root/class/image``; `index_classes` lists these.
Where classes do not matter, `index_images` lists whatever images a folder holds. To
look at every image before anything is computed: ``python -m icm_study.photographs.check
ROOT``, or `icm_study.photographs.check.check_folder`.
"""

import io
import os
import re
import unicodedata
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
)

#: Suffixes of images that are not read: of phones, cameras, clinics and drawing programs.
UNREAD_SUFFIXES = frozenset(
    {".heic", ".heif", ".avif", ".jfif", ".jpe", ".jp2", ".j2k", ".jxl", ".svg", ".psd", ".tga"}
    | {".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2", ".raw", ".exr", ".dcm"}
)

#: Names of the parts that a data set is divided into, also as in "Train_set" and "val2017".
_SPLIT = re.compile(
    r"(?:train(?:ing)?|val(?:id|idation)?|crossval|dev|test(?:ing)?|full|fold|split)"
    r"(?:[\s_-]?(?:set|split|data|images|\d+))?",
    re.IGNORECASE,
)

#: The tag of a TIFF file that says what its zero is, and the value for white.
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0

LAYOUT = "expected root/domain/class/image"

FLAT_LAYOUT = "expected root/class/image"


def read_image(
    path: str | os.PathLike[str], value_range: tuple[float, float] | None = None
) -> Image.Image:
    """Open an image as upright 8-bit RGB.

    Gray, palette and CMYK images are converted; transparent parts become white; gray of
    more than 8 bits is scaled to 8 bits, and turned over where a TIFF file says that its
    zero is white; an EXIF orientation is applied. Of an animation, the first frame is taken.

    Parameters
    ----------
    path : path-like
        The image file.
    value_range : (low, high), optional
        The values that become black and white in a gray image of more than 8 bits;
        those beyond are cut. By default 0 and 65,535, of integers; floating-point
        pixels have no such default. Images of 8 bits, and of color, stay as they are.

    Returns
    -------
    PIL.Image.Image
        The image, in mode ``RGB``, loaded.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no regular file, is empty, corrupt, truncated or no image, holds
        floating-point pixels and no range is given, or has so many pixels that it may
        be a decompression bomb.
    """
    with open_image(path) as stream:
        return decode_image(stream, path, value_range=value_range)


def open_image(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open an image's file for reading, if it is a regular one: a pipe might never end.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    binary file

    Raises
    ------
    FileNotFoundError
        If there is no such file, or it is a link to none.
    ValueError
        If it is a folder, a named pipe, a socket or a device, or a link to one.
    OSError
        If it may not be read.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"image {str(path)!r} does not exist; check the path, or index the folder again."
        )
    if not path.is_file():
        raise ValueError(
            f"{str(path)!r} is not an image file but a pipe, a folder or a device; remove it."
        )
    return open(path, "rb")


def decode_image(
    stream: BinaryIO,
    path: str | os.PathLike[str],
    small: bool = False,
    value_range: tuple[float, float] | None = None,
) -> Image.Image:
    """Decode an opened image, as `read_image` does.

    Parameters
    ----------
    stream : binary file
        The image's bytes.
    path : path-like
        What to call it in messages.
    small : bool
        Decode a JPEG at one eighth of its size: all of the file is read, with less work
        on the pixels.
    value_range : (low, high), optional
        As in `read_image`.

    Returns
    -------
    PIL.Image.Image
        The image, in mode ``RGB``, loaded.

    Raises
    ------
    ValueError
        As `read_image`.
    """
    if stream.seek(0, os.SEEK_END) == 0:
        raise ValueError(f"image {str(path)!r} is empty (zero bytes); download or copy it again.")
    stream.seek(0)
    try:
        with Image.open(stream) as image:
            if small:
                image.draft(image.mode, (1, 1))
            image.load()
            if image.mode != "F" or value_range:
                upright = _to_rgb(ImageOps.exif_transpose(image), value_range)
                return ImageOps.invert(upright) if _is_negative(image) else upright
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"image {str(path)!r} is too large, it may be a decompression bomb: {error} "
            "If you trust it, make it smaller or raise PIL.Image.MAX_IMAGE_PIXELS."
        ) from error
    except Exception as error:
        raise ValueError(
            f"image {str(path)!r} cannot be read; it is corrupt, truncated or not an image: "
            f"{error}. Download or copy it again, or remove it."
        ) from error
    raise ValueError(
        f"image {str(path)!r} has floating-point pixels, which have no agreed range. Give "
        "value_range=(low, high), or 'used' to load a folder; or save it with 8 bits."
    )


def index_folder(
    root: str | os.PathLike[str], allow_missing: bool = False, nested: bool = False
) -> pd.DataFrame:
    """List the images in ``root/domain/class/``.

    Files whose suffix is not one of `IMAGE_SUFFIXES`, hidden files and folders, and
    links back to a folder that contains them are ignored.

    Parameters
    ----------
    root : path-like
        The data set's folder.
    allow_missing : bool
        Accept that some classes have no images in some of the domains.
    nested : bool
        Take the images in folders below a class folder too, as images of that class.
        By default they are left out; `images_left_out` counts them.

    Returns
    -------
    pandas.DataFrame
        One row for each image, sorted by domain, class and file name, with the columns
        *path*, *label* (the class folder's name) and *domain*.

    Raises
    ------
    FileNotFoundError
        If `root` does not exist.
    ValueError
        If `root` is not a folder, has no domains, a domain has no classes, no images or
        splits where classes should be, or, unless `allow_missing`, a class has no
        images in a domain; or if a name is not UTF-8.
    """
    root = _data_folder(root, LAYOUT)
    rows: list[tuple[str, str, str]] = []
    empty: list[str] = []
    domains = subfolders(root)
    if not domains:
        raise ValueError(f"the data folder {str(root)!r} has no domains (folders in it); {LAYOUT}.")
    for domain in domains:
        classes = subfolders(domain)
        if not classes:
            raise ValueError(
                f"the domain {str(domain)!r} has no classes (folders in it); {LAYOUT}."
            )
        _check_no_splits(domain, classes)
        for class_ in classes:
            images = _class_images(class_, nested)
            rows += [(str(image), folder_name(class_), folder_name(domain)) for image in images]
            if not images:
                empty.append(str(class_))
    if not allow_missing:
        _check_filled(empty)
    table = pd.DataFrame(rows, columns=["path", "label", "domain"])
    _check_classes(table, domains, allow_missing)
    return table


def index_classes(
    root: str | os.PathLike[str], allow_missing: bool = False, nested: bool = False
) -> pd.DataFrame:
    """List the images in ``root/class/``, as ImageNet and its variants lay them out.

    Parameters
    ----------
    root : path-like
        The data set's folder.
    allow_missing : bool
        Accept class folders without images.
    nested : bool
        As in `index_folder`.

    Returns
    -------
    pandas.DataFrame
        One row for each image, sorted by class and file name, with the columns *path*,
        *label* (the class folder's name) and *domain* (the name of `root`, for all).

    Raises
    ------
    FileNotFoundError
        If `root` does not exist.
    ValueError
        If `root` is not a folder, has no classes or no images, or, unless
        `allow_missing`, a class has no images; or if a name is not UTF-8.
    """
    root = _data_folder(root, FLAT_LAYOUT)
    classes = subfolders(root)
    images = {class_: _class_images(class_, nested) for class_ in classes}
    if not any(images.values()):
        raise ValueError(
            f"no images in the class folders of {str(root)!r}; {FLAT_LAYOUT}.{_deeper(root)}"
        )
    if not allow_missing:
        _check_filled([str(class_) for class_ in classes if not images[class_]])
    domain = folder_name(root.absolute())
    rows = [
        (str(image), folder_name(class_), domain) for class_ in classes for image in images[class_]
    ]
    return pd.DataFrame(rows, columns=["path", "label", "domain"])


def index_images(root: str | os.PathLike[str]) -> pd.DataFrame:
    """List the images in a folder and in all folders below it, in whatever layout.

    Parameters
    ----------
    root : path-like

    Returns
    -------
    pandas.DataFrame
        One row for each image, in a fixed order, with the columns *path*, *label* (the
        name of the folder it lies in; empty for an image that lies in `root` itself)
        and *domain* (the name of the folder above that one; of `root` where there is
        none).

    Raises
    ------
    FileNotFoundError
        If `root` does not exist.
    ValueError
        If `root` is not a folder or there is no image in it, or a name is not UTF-8.
    """
    root = _data_folder(root, "expected a folder of images").absolute()
    rows: list[tuple[str, str, str]] = []
    for folder in _folders_below(root):
        label = folder_name(folder) if folder != root else ""
        domain = folder_name(folder.parent if root in folder.parent.parents else root)
        rows += [(str(image), label, domain) for image in _images(folder)]
    if not rows:
        raise ValueError(
            f"no images in {str(root)!r} and the folders below it. Add images ({_suffixes()})."
        )
    return pd.DataFrame(rows, columns=["path", "label", "domain"])


def images_left_out(root: str | os.PathLike[str], table: pd.DataFrame) -> dict[str, int]:
    """Count the images in a folder, and in all below it, that a table of it does not list.

    Parameters
    ----------
    root : path-like
    table : pandas.DataFrame
        As `index_folder` or `index_classes` gives it, with the column *path*.

    Returns
    -------
    dict of str to int
        For each folder that has images, and none in the table, their number.
    """
    taken = {Path(folder).resolve() for folder in {os.path.dirname(path) for path in table["path"]}}
    return {
        str(folder): n
        for folder in _folders_below(Path(root))
        if folder.resolve() not in taken and (n := len(_images(folder)))
    }


def images_not_read(root: str | os.PathLike[str]) -> dict[str, int]:
    """Count the files of images that cannot be read, by suffix, in a folder and all below it."""
    found: dict[str, int] = {}
    for folder in _folders_below(Path(root)):
        for file in _visible(folder):
            if file.suffix.lower() in UNREAD_SUFFIXES and not file.is_dir():
                found[file.suffix.lower()] = found.get(file.suffix.lower(), 0) + 1
    return dict(sorted(found.items()))


def _data_folder(root: str | os.PathLike[str], layout: str) -> Path:
    root = Path(root)
    if not root.exists():
        raise FileNotFoundError(f"the data folder {str(root)!r} does not exist; {layout}.")
    if not root.is_dir():
        raise ValueError(f"{str(root)!r} is a file, not a data folder; {layout}.")
    return root


def _check_filled(empty: list[str]) -> None:
    if empty:
        raise ValueError(
            f"no images in the class folder(s) {', '.join(map(repr, empty))}. Add images "
            f"({_suffixes()}), remove the folder(s), or pass allow_missing=True."
        )


def is_split(name: str) -> bool:
    """Tell whether a folder has the name of a part of a data set: no domain and no class."""
    return _SPLIT.fullmatch(name) is not None


def _check_no_splits(domain: Path, classes: list[Path]) -> None:
    below = sorted({folder_name(folder) for class_ in classes for folder in subfolders(class_)})
    if (
        below
        and all(is_split(class_.name) for class_ in classes)
        and not any(_images(class_) for class_ in classes)
    ):
        names = ", ".join(class_.name for class_ in classes)
        raise ValueError(
            f"the domain {str(domain)!r} is divided into {names}: these are splits, not classes; "
            f"the classes, such as {below[0]!r}, lie one level deeper. {LAYOUT}: move the class "
            "folders up, or give a folder with one of the splits of each domain."
        )


def _check_classes(table: pd.DataFrame, domains: list[Path], allow_missing: bool) -> None:
    everywhere = set(table["label"])
    absent = {}
    for folder in domains:
        domain = folder_name(folder)
        there = set(table["label"][table["domain"] == domain])
        if not there:
            split = (
                f" {domain!r} is the name of a split: if the domains lie below it, give "
                f"{str(folder)!r} as the folder."
                if is_split(domain)
                else ""
            )
            raise ValueError(
                f"the domain {domain!r} has no images in its class folders."
                f"{_deeper(folder) or f' Add images ({_suffixes()}), or remove it.'}{split}"
            )
        absent[domain] = sorted(everywhere - there)
    if any(absent.values()) and not allow_missing:
        listing = "; ".join(
            f"{domain!r} lacks {', '.join(map(repr, missing))}"
            for domain, missing in absent.items()
            if missing
        )
        raise ValueError(
            f"not every class is in every domain: {listing}. Check the names of the class folders, "
            "or pass allow_missing=True to go on."
        )


def subfolders(parent: Path) -> list[Path]:
    """List the visible folders in a folder, but for links back to one that contains it."""
    ancestors = {parent.resolve(), *parent.resolve().parents}
    return [
        folder
        for folder in _visible(parent)
        if folder.is_dir() and folder.resolve() not in ancestors
    ]


def _folders_below(root: Path) -> list[Path]:
    """List a folder and all below it; one that several links lead to is listed once."""
    waiting, seen, found = [root], set(), []
    for folder in waiting:  # it grows on the way
        if folder.resolve() not in seen:
            seen.add(folder.resolve())
            found.append(folder)
            waiting += subfolders(folder)
    return found


def _deeper(folder: Path) -> str:
    """Say where below the class folders of an otherwise empty folder there are images."""
    below = [
        place.relative_to(folder)
        for place in _folders_below(folder)
        if len(place.relative_to(folder).parts) > 1 and _images(place)
    ]
    if not below:
        return ""
    splits = sorted({place.name for place in below if is_split(place.name)})
    named = f" ({', '.join(splits)}: splits, of which `nested` takes all)" if splits else ""
    return (
        f" The images may lie deeper, in folders such as {str(below[0])!r}{named}: if "
        f"{below[0].parts[0]!r} is a class, `nested` takes them as its images; else move the "
        "class folders up."
    )


def _class_images(class_: Path, nested: bool) -> list[Path]:
    folders = _folders_below(class_) if nested else [class_]
    return [image for folder in folders for image in _images(folder)]


def _images(parent: Path) -> list[Path]:
    return [
        file
        for file in _visible(parent)
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.is_dir()
    ]


def _visible(parent: Path) -> list[Path]:
    names = sorted(name for name in os.listdir(parent) if not name.startswith("."))
    for name in names:
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise ValueError(
                f"the name {os.fsencode(name)!r} in {str(parent)!r} is not UTF-8; rename it."
            )
    return [parent / name for name in names]


def folder_name(folder: Path) -> str:
    """Give a folder's name in one Unicode form; file systems disagree on how accents are stored."""
    return unicodedata.normalize("NFC", folder.name)


def _suffixes() -> str:
    return " ".join(sorted(IMAGE_SUFFIXES))


def is_deep(mode: str) -> bool:
    """Tell whether Pillow's mode is gray of more than 8 bits."""
    return mode in ("I", "F") or mode.startswith("I;16")


def _is_negative(image: Image.Image) -> bool:
    """Tell whether zero is white, which Pillow heeds in images of 8 bits only."""
    tags = getattr(image, "tag_v2", {})
    return is_deep(image.mode) and tags.get(_PHOTOMETRIC, 1) == _WHITE_IS_ZERO


def _to_rgb(image: Image.Image, value_range: tuple[float, float] | None) -> Image.Image:
    if is_deep(image.mode) and value_range:
        low, high = value_range
        values = np.asarray(image, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError("some of its values are no finite numbers")
        scaled = (np.clip(values, low, high) - low) / (high - low)
        return Image.fromarray((255 * scaled + 0.5).astype(np.uint8)).convert("RGB")
    if is_deep(image.mode):
        values = np.clip(np.asarray(image, dtype=np.int64), 0, 65535)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        foreground = image.convert("RGBA")
        background = Image.new("RGBA", foreground.size, "white")
        return Image.alpha_composite(background, foreground).convert("RGB")
    return image.convert("RGB")
