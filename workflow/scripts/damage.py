"""Find results that a full disk, a lost power supply or a bad block spoilt: dates do not tell."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

PLACES = ("results/**/*", "cache/*", "cache/plans/*", "cache/embeddings/**/*.json")
PLACES += ("reports/recorded/*", "*.ipynb")


def is_parquet(path: Path) -> bool:
    """Say whether a file is a whole table: its parts are read, and its checksums compared."""
    from pyarrow import ArrowException  # slow, and only where there are tables

    from icm_study.parquet import read_parquet

    try:
        read_parquet(path)
    except (ArrowException, OSError, ValueError):
        return False
    return True


def is_archive(path: Path) -> bool:
    """Say whether a file is a zip archive whose parts have their checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError, zlib.error, EOFError, ValueError, NotImplementedError):
        return False


def is_json(path: Path) -> bool:
    """Say whether a file is whole JSON with something in it, as a notebook is."""
    try:
        return json.loads(path.read_bytes()) is not None
    except ValueError:
        return False


def is_safetensors(path: Path) -> bool:
    """Say whether a file has the tensors that its head announces."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    try:
        head = json.loads(content[8:end])
        ends = [entry["data_offsets"][1] for name, entry in head.items() if name != "__metadata__"]
        return len(content) == end + max(ends, default=0)
    except (ValueError, LookupError, TypeError, AttributeError):  # no JSON, or another kind of head
        return False


#: How each kind of file that a step leaves is known to be whole.
WHOLE: dict[str, Callable[[Path], bool]] = {
    ".ipynb": is_json,
    ".json": is_json,
    ".npz": is_archive,
    ".parquet": is_parquet,
    ".safetensors": is_safetensors,
}


def damaged_files(root: Path) -> list[Path]:
    """List the results of the study in `root` that are not whole."""
    paths = sorted(path for place in PLACES for path in root.glob(place) if path.is_file())
    return [path for path in paths if path.suffix in WHOLE and not WHOLE[path.suffix](path)]
