"""Write downloaded data sets in the folder layout that the study reads.

Each function takes the files that one kind of source offers: Parquet files as the
``datasets`` library writes them, an archive of class folders, or the camera traps'
images with their annotations. Images keep their bytes. One that is there already is
skipped and none is ever half written, so a conversion that was interrupted goes on
where it stopped.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow
import pyarrow.parquet
from PIL import Image
from tqdm import tqdm

from icm_study.photographs.folders import IMAGE_SUFFIXES
from icm_study.photographs.known import known_dataset

#: The categories of the Caltech camera traps that Terra Incognita has.
CAMERA_TRAP_CLASSES = frozenset(
    ("bird", "bobcat", "cat", "coyote", "dog", "empty", "opossum", "rabbit", "raccoon", "squirrel")
)

SUFFIX_OF_FORMAT = {
    "JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "BMP": ".bmp", "WEBP": ".webp", "TIFF": ".tif",
}  # fmt: skip

STRINGS = (pyarrow.string(), pyarrow.large_string())


def parquet_to_folder(
    files: Sequence[str | os.PathLike[str]],
    destination: str | os.PathLike[str],
    dataset: str | None = None,
) -> int:
    """Write the images of a data set in Parquet files as root/domain/class/image.

    The files have the columns *image* (a struct of *bytes* and *path*), *domain* and
    *label*, as the ``datasets`` library writes them. Names of classes and domains that
    are stored as numbers are read from the files' metadata. Each image keeps its bytes
    and is named by its row and its own name; images that are there already are skipped,
    so an interrupted conversion goes on.

    Parameters
    ----------
    files : sequence of path-like
        The Parquet files, in order.
    destination : path-like
        The data set's folder.
    dataset : str, optional
        A name in `icm_study.photographs.known.CATALOG`; the domains then get its folder names.

    Returns
    -------
    int
        The number of images, those that were there included.

    Raises
    ------
    ValueError
        If a column is missing, has numbers without names, names a domain that the data
        set has not, has a name that cannot be a folder's, or an image has no bytes.
    """
    domains = known_dataset(dataset).domains if dataset is not None else ()
    opened = [pyarrow.parquet.ParquetFile(file, pre_buffer=False) for file in files]
    row = 0
    with tqdm(
        total=sum(file.metadata.num_rows for file in opened), desc="writing", unit="image"
    ) as bar:
        for path, file in zip(files, opened, strict=True):
            names = _category_names(file, path)
            for batch in file.iter_batches(batch_size=64, columns=["image", "domain", "label"]):
                for entry in batch.to_pylist():
                    domain, label = (
                        _folder_name(entry[key], names[key], key) for key in ("domain", "label")
                    )
                    data, stored = entry["image"]["bytes"], entry["image"]["path"]
                    if data is None:
                        raise ValueError(
                            f"row {row} of {path} has no image bytes, only the path {stored!r}."
                        )
                    folder = Path(destination) / _known_domain(domain, domains) / label
                    write_whole(folder / _image_name(row, stored, data), data)
                    row += 1
                bar.update(len(batch))
    return row


def archive_to_folder(archive: str | os.PathLike[str], destination: str | os.PathLike[str]) -> int:
    """Unpack a tar or zip archive of class folders as root/class/image.

    Only images are unpacked, and of their paths only the last two parts are used, so
    nothing is written elsewhere. Images that are there already are skipped.

    Parameters
    ----------
    archive : path-like
        The archive; a tar archive may be compressed.
    destination : path-like
        The data set's folder.

    Returns
    -------
    int
        The number of images, those that were there included.

    Raises
    ------
    ValueError
        If it is neither, or has no images in class folders.
    """
    n_images = 0
    with tqdm(desc="unpacking", unit="image") as bar:
        for path, data in _members(Path(archive), _is_class_image):
            write_whole(Path(destination) / path.parent.name / path.name, data)
            n_images += 1
            bar.update()
    if not n_images:
        raise ValueError(f"the archive {str(archive)!r} has no images in class folders.")
    return n_images


def camera_traps_to_folder(
    images: str | os.PathLike[str],
    annotations: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    domains: Sequence[str],
) -> int:
    """Write the Caltech camera traps' images as DomainBed's Terra Incognita.

    An image goes into the folder of each of the ten categories that its annotations name.

    Parameters
    ----------
    images : path-like
        The tar archive of images.
    annotations : path-like
        The tar archive of annotations: JSON files in the COCO format, with a location
        for each image.
    destination : path-like
        The data set's folder.
    domains : sequence of str
        The locations to take, as "location_38".

    Returns
    -------
    int
        The number of images, those that were there included.

    Raises
    ------
    ValueError
        If an archive cannot be read.
    """
    folders: dict[str, set[Path]] = defaultdict(set)
    for _, data in _members(Path(annotations), lambda path: path.suffix == ".json"):
        content = json.loads(data)
        category = {entry["id"]: entry["name"] for entry in content["categories"]}
        place = {
            entry["id"]: (f"location_{entry['location']}", entry["file_name"])
            for entry in content["images"]
        }
        for entry in content["annotations"]:
            domain, file = place.get(entry["image_id"], ("", ""))
            if domain in domains and category[entry["category_id"]] in CAMERA_TRAP_CLASSES:
                folders[file].add(Path(destination) / domain / category[entry["category_id"]])
    n_images = 0
    with tqdm(total=sum(map(len, folders.values())), desc="unpacking", unit="image") as bar:
        for path, data in _members(Path(images), lambda path: path.name in folders):
            for folder in folders[path.name]:
                write_whole(folder / path.name, data)
            n_images += len(folders[path.name])
            bar.update(len(folders[path.name]))
    return n_images


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, with its folder, unless it is there; under its name it is always whole."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def _is_class_image(path: PurePosixPath) -> bool:
    """Tell whether a file is an image in a class folder; hidden ones and ".." are not."""
    parts = (path.parent.name, path.name)
    return all(part and part[0] != "." for part in parts) and path.suffix.lower() in IMAGE_SUFFIXES


def _members(
    archive: Path, wanted: Callable[[PurePosixPath], bool]
) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Go through the regular files of an archive that are wanted, one after the other."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                for entry in zipped.infolist():
                    path = PurePosixPath(entry.filename)
                    if not entry.is_dir() and wanted(path):
                        yield path, zipped.read(entry)
        else:
            with tarfile.open(archive, "r:*") as tar:
                for member in tar:
                    path = PurePosixPath(member.name)
                    content = tar.extractfile(member) if member.isreg() and wanted(path) else None
                    if content is not None:
                        yield path, content.read()
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(
            f"{str(archive)!r} is no archive, or damaged: {error}. Delete it and start again."
        ) from error


def _category_names(file: pyarrow.parquet.ParquetFile, path: object) -> dict[str, list[str] | None]:
    """Read, for the columns that hold numbers, the names that the numbers stand for."""
    schema = file.schema_arrow
    absent = {"image", "domain", "label"} - set(schema.names)
    if absent:
        raise ValueError(f"{path} has no column {sorted(absent)}; it has {schema.names}.")
    features = (
        json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        .get("info", {})
        .get("features", {})
    )
    names = {key: features.get(key, {}).get("names") for key in ("domain", "label")}
    for key, known in names.items():
        if known is None and schema.field(key).type not in STRINGS:
            raise ValueError(
                f"the column {key!r} of {path} holds {schema.field(key).type} values without "
                "names; expected strings, or numbers whose names are in the metadata of the "
                "datasets library."
            )
    return names


def _folder_name(value: Any, names: Sequence[str] | None, column: str) -> str:
    name = (
        names[value]
        if names is not None and isinstance(value, int) and 0 <= value < len(names)
        else value
    )
    if not isinstance(name, str) or not name or name.startswith(".") or "/" in name or "\\" in name:
        raise ValueError(f"the {column} {value!r} cannot be a folder's name.")
    return name


def _known_domain(name: str, domains: Sequence[str]) -> str:
    """Find the domain's folder name, however its words are joined."""
    if not domains:
        return name
    plain = {"".join(filter(str.isalnum, domain)).lower(): domain for domain in domains}
    key = "".join(filter(str.isalnum, name)).lower()
    if key not in plain:
        raise ValueError(f"the domain {name!r} is none of {', '.join(domains)}.")
    return plain[key]


def _image_name(row: int, stored: str | None, data: bytes) -> str:
    own = PurePosixPath((stored or "").replace("\\", "/"))
    suffix = own.suffix if own.suffix.lower() in IMAGE_SUFFIXES else _suffix(data)
    return f"{row:06d}{f'_{own.stem}' if own.stem else ''}{suffix}"


def _suffix(data: bytes) -> str:
    """Tell the suffix by the bytes; what is no image is left to the check of the folder."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return SUFFIX_OF_FORMAT.get(image.format or "", ".jpg")
    except OSError:
        return ".jpg"
