"""Embeddings: computed once, kept on disk, opened as labelled arrays.

Embedding images is the slow step of the study. Its result depends on a few things only:
the encoder and its weights, the images, the intervention and its seed. These make up a
*key*. `EmbeddingStore` keeps one netCDF file for each key, named by the hash of the
key: ask for a key, and you get the stored arrays, or they are computed once and stored.
A changed encoder or data set has another `fingerprint`, hence another key, and is never
mixed up with the old one.

A file appears under its name only when it is complete, so a run may be killed at any
moment and several processes may share a directory, on a file system without locks too.
What a killed process leaves is cleared by the next one on its machine. Every file
carries a checksum; one that was truncated or altered is reported and computed again.
"""

import hashlib
import io
import json
import operator
import os
import platform
import re
import uuid
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import numpy as np
import xarray as xr
from xarray.backends import H5NetCDFStore

from icm_study.facts import Facts
from icm_study.fingerprint import fingerprint

KEY_ATTRIBUTE = "store_key"

CHECKSUM_ATTRIBUTE = "store_checksum"


class EmbeddingStore:
    """A directory of labelled arrays, addressed by what they were computed from.

    Parameters
    ----------
    root : path-like
        The directory; a leading ``~`` is the home directory. It is made when the first
        result is stored.
    shard_size : int
        Rows that one file holds, at most, of those that are embedded from files or texts; as
        many are lost when a run is killed.

    Attributes
    ----------
    facts : Facts
        What keys are made of, in a folder beside the arrays.

    Raises
    ------
    ValueError
        If `shard_size` is not positive.

    Examples
    --------
    >>> store = EmbeddingStore("cache")  # doctest: +SKIP
    >>> key = {"encoder": encoder.fingerprint, "seed": 0}  # doctest: +SKIP
    >>> dataset = store.get(key, compute=lambda: embed_everything(seed=0))  # doctest: +SKIP
    """

    def __init__(self, root: str | os.PathLike[str], shard_size: int = 1024) -> None:
        if operator.index(shard_size) < 1:
            raise ValueError(f"shard_size is {shard_size}; expected 1 or more.")
        self.root = Path(root).expanduser()
        self.shard_size = shard_size
        self.facts = Facts(self.root / "facts")

    def __repr__(self) -> str:
        return f"EmbeddingStore({str(self.root)!r})"

    def path(self, key: Mapping[str, Any]) -> Path:
        """Tell the file that belongs to a key, whether or not it exists.

        Parameters
        ----------
        key : mapping of str to JSON value
            Flat: strings, numbers, booleans, None, or lists of these. The order of its
            entries is irrelevant.

        Returns
        -------
        Path
            A readable prefix made of the key's texts, then the SHA-256 hash of the key.

        Raises
        ------
        TypeError
            If `key` is not a mapping, or holds something else than the values above.
        ValueError
            If `key` is empty, or holds a number that is not finite.
        """
        text = _canonical(key)
        words = [
            re.sub(r"[^\w.]+", "-", str(key[name]), flags=re.ASCII)[:12] for name in sorted(key)
        ]
        return self.root / f"{'_'.join(words)[:60]}-{hashlib.sha256(text.encode()).hexdigest()}.nc"

    def __contains__(self, key: Mapping[str, Any]) -> bool:
        return self.path(key).is_file()

    def get(self, key: Mapping[str, Any], compute: Callable[[], xr.Dataset]) -> xr.Dataset:
        """Open what is stored under a key, or compute and store it.

        Parameters
        ----------
        key : mapping of str to JSON value
            All that the result depends on; see `path`.
        compute : callable
            Makes the Dataset. Called, without arguments, only where the key has no valid
            file.

        Returns
        -------
        xarray.Dataset
            The arrays, in memory, as read back from the file.

        Raises
        ------
        TypeError
            If `key` is not valid, or `compute` returns something else than a Dataset.
        ValueError
            If a computed variable has values that are not finite; nothing is stored.
        OSError
            If the directory cannot be written, which is found before anything is computed,
            or the stored file cannot be read.

        Warns
        -----
        UserWarning
            If the stored file is damaged. It is then computed again and replaced.
        """
        path, text = self.path(key), _canonical(key)
        if path.is_file():
            content = path.read_bytes()
            try:
                return _read(content, text)
            except Exception as error:
                warnings.warn(
                    f"The stored embeddings {path} are damaged and are computed again: {error}",
                    stacklevel=2,
                )
        temporary = path.with_name(f".{path.stem}.{_writer()}.{uuid.uuid4().hex[:8]}.tmp")
        self._reserve(temporary)
        try:
            dataset = compute()
            _check_finite(dataset, text)
            content = _to_bytes(dataset, text)
            stored = _read_back(content, text, dataset)
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        return stored

    def _reserve(self, temporary: Path) -> None:
        """Create the file that will be written, to find out now whether that is possible."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            _clear_left(self.root)
            temporary.touch()
        except OSError as error:
            raise OSError(
                f"Cannot write to the cache directory {self.root}: {error.strerror or error}. "
                "Make it writable, or choose another directory: EmbeddingStore(root=...)."
            ) from error


def _writer() -> str:
    """Name this process: the machine and its space of process ids, the id, the start."""
    return f"{_machine()}.{os.getpid()}.{_start(os.getpid())}"


def _machine() -> str:
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return re.sub(r"[^\w-]+", "-", f"{platform.node()[:64]}-{space}")


def _start(pid: int) -> int:
    """When a process was started, in the kernel's ticks; 0 where that is not told."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[19])  # the name before ")" may hold blanks


def _is_alive(pid: int, start: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # there is one, of another user
        pass
    return _start(pid) == start


def _clear_left(root: Path) -> None:
    """Remove the unfinished files of this machine's processes that are gone."""
    pattern = re.compile(rf"\..*\.{re.escape(_machine())}\.(\d+)\.(\d+)\.[0-9a-f]{{8}}\.tmp")
    for path in root.glob(".*.tmp"):
        named = pattern.fullmatch(path.name)
        if named and not _is_alive(int(named[1]), int(named[2])):
            path.unlink(missing_ok=True)


def _canonical(key: Mapping[str, Any]) -> str:
    """Write a key as JSON that is the same for equal keys."""
    if not isinstance(key, Mapping):
        raise TypeError(f"a key must be a mapping of names to values; got {type(key).__name__}.")
    if not key:
        raise ValueError(
            "the key is empty; name at least the encoder and the data it was applied to."
        )
    for name, value in key.items():
        if not isinstance(name, str):
            raise TypeError(f"the names in a key must be strings; got {name!r}.")
        for item in value if isinstance(value, list | tuple) else [value]:
            if not isinstance(item, str | int | float | bool | None):
                raise TypeError(
                    f"the key's {name!r} holds a {type(item).__name__}; expected a string, "
                    f"number, boolean, "
                    "None or a flat list of these. Use .item() on NumPy scalars, and "
                    "fingerprint() on arrays."
                )
    try:
        return json.dumps(dict(key), sort_keys=True, allow_nan=False, separators=(",", ":"))
    except ValueError as error:
        raise ValueError(f"the key {dict(key)} holds a number that is not finite.") from error


def _check_finite(dataset: xr.Dataset, key: str) -> None:
    if not isinstance(dataset, xr.Dataset):
        raise TypeError(f"compute must return an xarray.Dataset; got {type(dataset).__name__}.")
    for name, variable in dataset.data_vars.items():
        if variable.dtype.kind not in "fc":
            continue
        bad = np.atleast_1d(~np.isfinite(variable.values))
        if bad.any():
            rows = int(bad.reshape(len(bad), -1).any(axis=1).sum())
            raise ValueError(
                f"{name!r} has NaN or infinite values in {rows} of {len(bad)} rows; nothing "
                f"was stored for "
                f"the key {key}. Check the images, and the encoder's weights and precision (half "
                "precision can overflow)."
            )


def _checksum(dataset: xr.Dataset) -> str:
    """Hash names, dimensions, attributes and values, in a form that netCDF does not change."""
    parts: list[Any] = [_attributes(dataset.attrs)]
    for name in sorted(map(str, dataset.variables)):
        variable = dataset[name]
        values = variable.values
        if values.dtype.kind in "OTU":  # strings: netCDF knows no width
            values = values.astype("U")
            parts += [json.dumps(values.ravel().tolist()), str(values.shape)]
        else:
            parts.append(values)
        parts += [
            name,
            str(variable.dims),
            str(name in dataset.coords),
            _attributes(variable.attrs),
        ]
    return fingerprint(*parts)


def _attributes(attributes: Mapping[Any, Any]) -> str:
    """Write attributes as text; netCDF makes a list an array, and a list of one a scalar."""
    return json.dumps(
        {
            str(name): np.ravel(value).tolist()
            for name, value in attributes.items()
            if name != CHECKSUM_ATTRIBUTE
        },
        sort_keys=True,
        default=str,
    )


def _to_bytes(dataset: xr.Dataset, key: str) -> bytes:
    """Write netCDF in memory: HDF5 would lock a file, which some file systems refuse."""
    labelled = dataset.drop_encoding().assign_attrs({KEY_ATTRIBUTE: key})
    labelled = labelled.assign_attrs({CHECKSUM_ATTRIBUTE: _checksum(labelled)})
    content = io.BytesIO()
    with h5netcdf.File(content, "w") as file:
        labelled.dump_to_store(H5NetCDFStore(file))
    return content.getvalue()


def _read_back(content: bytes, key: str, dataset: xr.Dataset) -> xr.Dataset:
    """Give what was written; raise if that is not the same."""
    try:
        return _read(content, key)
    except ValueError as error:
        raise TypeError(
            f"netCDF does not give this Dataset back unchanged; use numeric and string "
            f"arrays:\n{dataset}"
        ) from error


class _Members(h5py.File):
    """An HDF5 file that looks for each member once: h5netcdf asks for it some thirty times."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._found: dict[Any, Any] = {}

    def __getitem__(self, name: Any) -> Any:
        if name not in self._found:
            self._found[name] = super().__getitem__(name)
        return self._found[name]


def _read(content: bytes, key: str) -> xr.Dataset:
    """Read a file's content; raise if it is not whole or does not belong to the key."""
    with _Members(io.BytesIO(content), "r") as file:
        arrays = h5netcdf.File(file, "r", decode_vlen_strings=True)
        dataset = xr.load_dataset(H5NetCDFStore(arrays))
    if dataset.attrs.get(KEY_ATTRIBUTE) != key:
        raise ValueError("it was stored under another key")
    if dataset.attrs.get(CHECKSUM_ATTRIBUTE) != _checksum(dataset):
        raise ValueError("its checksum does not match its contents")
    return dataset
