"""Silhouettes of animals: read safely from their package, and split into disjoint parts."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import pickle
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

CLASSES = ("bear", "bird", "cat", "cow", "dog", "elephant", "giraffe", "horse", "sheep", "zebra")

PARTS = {"encoder": 0.6, "source": 0.2, "test": 0.2}

NEAR_DUPLICATE = 0.98  # cosine similarity at which two silhouettes count as the same animal

_SHA256 = {
    "data": "0a13908291891bf5b97b18427cf0eceedcb720959826cc85f7e06dc89e5eaf77",
    "label": "3d826227c39b7dba09abb8273cf07928443fec2c56b6396b4872741b7b332f93",
}


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickle numpy arrays and nothing else."""

    _ALLOWED = frozenset(
        {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(
                f"refused to load {module}.{name}: only numpy arrays are allowed."
            )
        module = module.replace("numpy.core", "numpy._core") if np.__version__ >= "2" else module
        return super().find_class(module, name)


def _read_array(name: str) -> np.ndarray:
    spec = importlib.util.find_spec("animal_mnist")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            "The silhouettes were not found: the package 'animal-mnist' is not installed. "
            "Run `pip install --no-deps animal-mnist==0.4` (its tensorflow dependency is not "
            "needed)."
        )
    folder = Path(spec.submodule_search_locations[0]) / "data" / "Animal_MNIST"
    path = folder / f"animal_{name}_version_3.gz"
    try:
        raw = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise FileNotFoundError(
            f"Could not read {path.name} of the package 'animal-mnist' ({error}). "
            "Reinstall it: `pip install --no-deps --force-reinstall animal-mnist==0.4`."
        ) from error
    found = hashlib.sha256(raw).hexdigest()
    if found != _SHA256[name]:
        raise ValueError(
            f"{path.name} has SHA-256 {found[:12]}…, expected {_SHA256[name][:12]}…: another "
            "version of the package 'animal-mnist'? Install version 0.4."
        )
    return np.asarray(_ArrayUnpickler(io.BytesIO(raw)).load())


@dataclass(frozen=True)
class Silhouettes:
    """Silhouettes with their class and the part of the study that may use them.

    Attributes
    ----------
    images : ndarray of shape (n, 28, 28), uint8
        Brightness inside the animal, 0 outside.
    label : ndarray of shape (n,), int
        Index into :data:`CLASSES`.
    part : ndarray of shape (n,), str
        ``"encoder"``, ``"source"`` or ``"test"``; no animal is in two parts.
    """

    images: np.ndarray
    label: np.ndarray
    part: np.ndarray

    def save(self, path: str | Path) -> None:
        """Write to an ``.npz`` file that holds no pickles."""
        with open(path, "wb") as file:
            np.savez_compressed(file, images=self.images, label=self.label, part=self.part)

    @classmethod
    def load(cls, path: str | Path) -> Silhouettes:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            return cls(file["images"], file["label"], file["part"])


@cache
def load_silhouettes() -> Silhouettes:
    """Read the silhouettes of ``animal-mnist`` and split them into disjoint parts.

    The package repeats some silhouettes, also mirrored or nearly so. Exact repeats are
    dropped, and near repeats (cosine similarity of at least ``NEAR_DUPLICATE``) stay in
    one part, so that no animal of the test part was seen in training.

    Returns
    -------
    Silhouettes

    Raises
    ------
    FileNotFoundError
        If the package is not installed or its files cannot be read.
    ValueError
        If the files are not those of version 0.4.
    """
    images = _read_array("data").reshape(-1, 28, 28)
    label = _read_array("label").astype(int)
    once = {image.tobytes(): i for i, image in reversed([*enumerate(images)])}  # the first of each
    first = sorted(once.values())
    images, label = images[first], label[first]
    part = np.empty(len(images), dtype="<U7")
    rng = np.random.default_rng(20240515)
    for c in range(len(CLASSES)):
        mine = np.flatnonzero(label == c)
        group = _near_duplicates(images[mine])  # no two classes share a near repeat
        order = rng.permutation(np.unique(group))
        sizes = np.bincount(group)[order]
        ends = np.cumsum(list(PARTS.values()))
        share = (np.cumsum(sizes) - sizes / 2) / sizes.sum()
        for g, s in zip(order, share, strict=True):
            part[mine[group == g]] = list(PARTS)[int(np.searchsorted(ends, s))]
    return Silhouettes(images, label, part)


def _near_duplicates(images: np.ndarray) -> np.ndarray:
    """Group number of each silhouette; mirrored and nearly equal ones share a group."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    mirrored = flat.reshape(images.shape)[:, :, ::-1].reshape(flat.shape)
    near = np.maximum(flat @ flat.T, flat @ mirrored.T) >= NEAR_DUPLICATE
    return connected_components(csr_array(near), directed=False)[1]
