"""Tables on disk that tell whether a single bit of them has changed.

Parquet has checksums for its pages only: a flipped bit in the footer can give a column
another name, or hide rows, without a word. So a checksum of all the other bytes stands in
front of the footer, in a place that no reader looks at.
"""

from __future__ import annotations

import hashlib
import io
import os
import uuid
from pathlib import Path
from typing import Any

import pandas as pd

_SEAL = b"sha256 of all other bytes:"
_END = 8  # bytes behind the footer: its length, and Parquet's mark


def write_parquet(table: pd.DataFrame, path: Path, **options: Any) -> None:
    """Write a table without its index, whole or not at all, with a checksum.

    Parameters
    ----------
    table : DataFrame
    path : Path
        In a folder that exists.
    **options
        Of pandas' ``to_parquet``.
    """
    stream = io.BytesIO()
    table.to_parquet(stream, index=False, write_page_checksum=True, **options)
    whole = stream.getvalue()
    footer = len(whole) - _END - int.from_bytes(whole[-_END:-4], "little")
    seal = _SEAL + hashlib.sha256(whole).digest()
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        aside.write_bytes(whole[:footer] + seal + whole[footer:])
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def read_whole(path: Path) -> bytes:
    """Read a Parquet file's bytes, if it has the checksum that it should.

    One that :func:`write_parquet` did not write has none, and its pages may have theirs.

    Raises
    ------
    ValueError
        If the bytes have another checksum.
    OSError
        If the file cannot be read.
    """
    content = path.read_bytes()
    rest, seal, behind = content.rpartition(_SEAL)
    size = hashlib.sha256().digest_size
    if seal and hashlib.sha256(rest + behind[size:]).digest() != behind[:size]:
        raise ValueError("its checksum does not match its contents")
    return content


def read_parquet(path: Path, **options: Any) -> pd.DataFrame:
    """Read a table.

    Parameters
    ----------
    path : Path
    **options
        Of pandas' ``read_parquet``.

    Raises
    ------
    ValueError, OSError
        As :func:`read_whole`; and as pandas.
    """
    stream = io.BytesIO(read_whole(path))
    return pd.read_parquet(stream, page_checksum_verification=True, **options)
