"""Find results that are cut, by a full disk or a lost power supply: their dates do not tell."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

PLACES = ("results/**/*", "cache/*", "cache/plans/*", "cache/embeddings/**/*.json")
PLACES += ("reports/recorded/*", "*.ipynb")


def is_parquet(path: Path) -> bool:
    """Say whether a file begins and ends as Parquet does."""
    content = path.read_bytes()
    return len(content) >= 12 and content[:4] == content[-4:] == b"PAR1"


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
    ".npz": zipfile.is_zipfile,
    ".parquet": is_parquet,
    ".safetensors": is_safetensors,
}


def damaged_files(root: Path) -> list[Path]:
    """List the results of the study in `root` that are not whole."""
    paths = sorted(path for place in PLACES for path in root.glob(place) if path.is_file())
    return [path for path in paths if path.suffix in WHOLE and not WHOLE[path.suffix](path)]
