"""Embed image files, each with its intervened copy, once.

`embed_files` takes the table that `icm_study.photographs.folders.index_folder` makes
and gives the embeddings in the same order. Worker processes read each image, bring it
to the encoder's input resolution, one after the other, and intervene on the result;
meanwhile this process embeds. Original and intervened images go through the encoder in
the same pass.

The embeddings are stored in *shards*, runs of images that follow each other in the
table. A shard is addressed by the content of its image files and by all else that its
embeddings depend on, never by where the files are. A shard ends where the content of an
image says so (about two images in a shard's size do), or when it is full. So an image
that is added or removed moves the borders near it only, and the other shards are still
valid. A run that was killed goes on with the shard it was at.
"""

from __future__ import annotations

import operator
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from icm_core.interventions import IMAGE_INTERVENTIONS, intervene_images
from icm_study.cores import available_cores
from icm_study.embedding.store import EmbeddingStore
from icm_study.encoders.allocator import give_back_freed_memory
from icm_study.fingerprint import fingerprint
from icm_study.photographs.folders import read_image
from icm_study.photographs.seen import hash_files, read_unchanged

if TYPE_CHECKING:
    from PIL import Image

    from icm_study.encoders.encoder import Encoder

COLUMNS = ("path", "label", "domain")
BATCH_SIZE = 64


def embed_files(
    encoder: Encoder,
    images: pd.DataFrame,
    store: EmbeddingStore,
    *,
    interventions: Sequence[str] = IMAGE_INTERVENTIONS,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    workers: int | None = None,
) -> xr.Dataset:
    """Embed image files and their intervened copies, or open what is stored.

    Parameters
    ----------
    encoder : Encoder
    images : DataFrame
        One row for each image, with the columns *path*, *label* and *domain*, as
        :func:`~icm_study.photographs.folders.index_folder` gives.
    store : EmbeddingStore
        Where the embeddings are kept.
    interventions : sequence of str
        Some of :data:`~icm_core.interventions.IMAGE_INTERVENTIONS` to draw from. Empty: embed
        the originals only.
    seed : int
        Seed of the interventions.
    batch_size : int
        Rows embedded at a time, each with its intervened copy. Another size is another
        key in the store, since it may change the last bits of the embeddings.
    workers : int, optional
        Processes that read images; 0 reads them in this one. By default half of the
        cores, at most 8.

    Returns
    -------
    Dataset
        Dimensions ``row`` and ``feature``, rows as in `images`. Variables ``original``
        and, with interventions, ``image`` (the embedding after the intervention);
        coordinates ``path``, ``label`` and ``domain``. The attributes tell what the
        embeddings were computed from; those of each variable, *weights*, the encoder's
        fingerprint.

    Raises
    ------
    TypeError
        If `images` is not a DataFrame, or `interventions` is a single string.
    ValueError
        If `images` has no rows or lacks a column, an image cannot be read or changes
        before it is embedded, an intervention is unknown or a size is not positive.
        Shards that were finished before stay stored.
    FileNotFoundError
        If an image does not exist.
    OSError
        If the store's directory cannot be written.

    Examples
    --------
    >>> images, store = index_folder("PACS"), EmbeddingStore("cache")  # doctest: +SKIP
    >>> table = embed_files(encoder, images, store)  # doctest: +SKIP
    """
    _check(images, interventions)
    paths = images["path"].astype(str).tolist()
    embedding = Embedding(encoder, tuple(interventions), seed, batch_size, workers)
    hashes = hash_files(paths, store.root)
    result = {
        name: np.empty((len(paths), encoder.embedding_dim), np.float32)
        for name in embedding.reader.variables
    }
    shards = cut(hashes, store.shard_size)
    parts = [Shard(paths[rows], hashes[rows]) for rows in shards]
    for rows, embedded in zip(shards, embedding.run(parts, store), strict=True):
        for name, values in result.items():
            values[rows] = embedded[name]
    told = {"weights": encoder.fingerprint}  # by which a projection of another encoder refuses them
    return xr.Dataset(
        {name: (("row", "feature"), values, told) for name, values in result.items()},
        {name: ("row", images[name].to_numpy(str)) for name in COLUMNS},
        embedding.key | {"encoder": encoder.name, "images": fingerprint(*hashes)},
    )


def count_missing(
    encoder: Encoder,
    images: pd.DataFrame,
    store: EmbeddingStore,
    interventions: Sequence[str] = IMAGE_INTERVENTIONS,
) -> int:
    """Count the images that :func:`embed_files` would embed now, with its other defaults.

    Parameters
    ----------
    encoder, images, store, interventions
        As for :func:`embed_files`.

    Returns
    -------
    int

    Raises
    ------
    ValueError, FileNotFoundError
        If an image cannot be read.
    """
    hashes = hash_files(images["path"].astype(str).tolist(), store.root)
    key = Embedding(encoder, tuple(interventions)).key
    return sum(
        shard.stop - shard.start
        for shard in cut(hashes, store.shard_size)
        if key | {"images": fingerprint(*hashes[shard])} not in store
    )


class Shard(NamedTuple):
    """Images that follow each other in a table and are stored together; also a batch of them."""

    paths: Sequence[str]
    hashes: Sequence[str]


def cut(hashes: Sequence[str], size: int) -> list[slice]:
    """Cut a table of images into shards of at most `size`, by the hashes near each cut only."""
    shards, start = [], 0
    for row, digest in enumerate(hashes, start=1):
        if (
            row - start == size
            or row == len(hashes)
            or int(digest[:16], 16) % max(size // 2, 1) == 0
        ):
            shards.append(slice(start, row))
            start = row
    return shards


@dataclass(frozen=True)
class Embedding:
    """How image files become embeddings; the parameters are those of :func:`embed_files`.

    Raises
    ------
    ValueError
        If an intervention is unknown, or a size is not positive.
    """

    encoder: Encoder
    interventions: tuple[str, ...] = IMAGE_INTERVENTIONS
    seed: int = 0
    batch_size: int = 64
    workers: int | None = None

    def __post_init__(self) -> None:
        sizes = {"batch_size": (self.batch_size, 1), "workers": (self.workers, 0)}
        for name, (size, least) in sizes.items():
            if size is not None and operator.index(size) < least:
                raise ValueError(f"{name} is {size}; expected {least} or more.")

    @cached_property
    def reader(self) -> _Reader:
        """What reads the images."""
        return _Reader(self.encoder.resize, self.interventions, operator.index(self.seed))

    @cached_property
    def key(self) -> dict[str, Any]:
        """All that the embeddings depend on, but the images."""
        return {
            "weights": self.encoder.fingerprint,
            "precision": self.encoder.precision,
            "interventions": list(self.interventions),
            "seed": self.reader.seed,
            "pixels": self.reader.fingerprint(),
            "batch_size": self.batch_size,
        }

    def run(self, shards: Sequence[Shard], store: EmbeddingStore) -> Iterator[xr.Dataset]:
        """Embed each shard, or open what is stored, one after the other.

        Raises
        ------
        ValueError
            If an image cannot be read, or its content has another hash than its shard
            says. Shards that were finished before stay stored.
        FileNotFoundError
            If an image does not exist.
        OSError
            If the store's directory cannot be written.
        """
        keys = [self.key | {"images": fingerprint(*shard.hashes)} for shard in shards]
        new = [i for i, key in enumerate(keys) if key not in store]
        n = sum(len(shard.paths) for shard in shards)
        stored = n - sum(len(shards[i].paths) for i in new)
        batches = [batch for i in new for batch in self._batches(shards[i])]
        with (
            tqdm(
                total=n, initial=stored, desc=f"embedding by {self.encoder.name}", unit="image"
            ) as bar,
            _read_ahead(self.reader, batches, self.workers) as ahead,
        ):
            for i, (shard, key) in enumerate(zip(shards, keys, strict=True)):
                own = self._batches(shard)
                # a stored shard that turns out to be damaged was not read ahead
                read = islice(ahead, len(own)) if i in new else map(self.reader.__getitem__, own)
                compute = partial(_embed_shard, self.encoder, read, self.reader.variables, bar)
                yield store.get(key, compute)
                if i in new:
                    for _ in read:  # another process stored this shard in the meantime
                        pass

    def _batches(self, shard: Shard) -> list[Shard]:
        starts = range(0, len(shard.paths), self.batch_size)
        batches = [slice(start, start + self.batch_size) for start in starts]
        return [Shard(shard.paths[rows], shard.hashes[rows]) for rows in batches]


class _Reader(Dataset):
    """Image files to uint8 images at the encoder's resolution, and their intervened copies.

    It travels to the worker processes, so it holds little. An error is returned rather
    than raised: raised in a worker, it would come with a long text about that worker.
    """

    def __init__(
        self,
        resize: Callable[[torch.Tensor], torch.Tensor],
        interventions: tuple[str, ...],
        seed: int,
    ):
        self.resize = resize
        self.interventions = interventions
        self.seed = seed

    @property
    def variables(self) -> list[str]:
        return ["original", "image"] if self.interventions else ["original"]

    def __getitem__(self, batch: Shard) -> torch.Tensor | Exception:
        """Give a batch as (variables × images, 3, H, W)."""
        try:
            originals = _read_resized(self.resize, read_unchanged, *batch)
        except (ValueError, FileNotFoundError) as error:
            return error
        return self.intervene(originals)

    def intervene(self, originals: torch.Tensor) -> torch.Tensor:
        if not self.interventions:
            return originals
        return torch.cat([originals, intervene_images(originals, self.interventions, self.seed)])

    def fingerprint(self) -> str:
        """Hash what becomes of 64 fixed images when they are resized and intervened on."""
        pixels = np.random.default_rng(0).integers(256, size=(64, 3, 32, 48), dtype=np.uint8)
        return fingerprint(
            self.resize(torch.from_numpy(pixels[:1])), self.intervene(torch.from_numpy(pixels))
        )


def read_images(encoder: Encoder, paths: Sequence[str]) -> torch.Tensor:
    """Read images as :func:`embed_files` sees them before an intervention.

    Parameters
    ----------
    encoder : Encoder
    paths : sequence of n str

    Returns
    -------
    Tensor of shape (n, 3, H, W), uint8
        At the encoder's input resolution.

    Raises
    ------
    ValueError
        If an image cannot be read.
    FileNotFoundError
        If an image does not exist.
    """
    return _read_resized(encoder.resize, read_image, paths)


def _read_resized(
    resize: Callable[[torch.Tensor], torch.Tensor],
    read: Callable[..., Image.Image],
    *given: Sequence[str],
) -> torch.Tensor:
    """Read images one at a time, so that only one is in memory at its full size."""
    small = []
    for one in zip(*given, strict=True):
        pixels = torch.from_numpy(np.array(read(*one)))
        small.append(resize(pixels.permute(2, 0, 1)[None]).contiguous())
    return torch.cat(small)


@contextmanager
def _read_ahead(
    reader: _Reader, batches: list[Shard], workers: int | None
) -> Iterator[Iterator[Any]]:
    """Read batches in worker processes, a few ahead of their use; end them on leaving."""
    if workers is None:
        workers = min(max(available_cores() // 2, 1), 8)
    if not batches:
        workers = 0
    give_back_freed_memory()  # else a forked worker keeps a copy of it
    loader = DataLoader(
        reader,
        batch_size=None,
        sampler=batches,
        num_workers=workers,
        collate_fn=partial(_sent, shared=_fits_shared_memory(reader, batches, workers)),
        generator=torch.Generator(),  # else torch's global one is drawn from
    )
    ahead = iter(loader)
    try:
        yield ahead
    finally:
        # after an error, its traceback would keep `ahead` and its workers alive
        getattr(ahead, "_shutdown_workers", lambda: None)()
        give_back_freed_memory()


def _fits_shared_memory(reader: _Reader, batches: list[Shard], workers: int) -> bool:
    """Tell whether all that workers read ahead fits where they share tensors."""
    if not workers:
        return True
    image = reader.resize(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    largest = max(len(batch.paths) for batch in batches) * len(reader.variables) * image.numel()
    return free_shared_memory() > (2 * workers + 2) * largest  # each reads two ahead


def free_shared_memory() -> float:
    """Bytes that are free in shared memory; containers often have 64 MB in all."""
    folder = Path("/dev/shm")
    return shutil.disk_usage(folder).free if folder.is_dir() else float("inf")


def _sent(batch: Any, shared: bool) -> Any:
    """Choose how a batch leaves a worker: tensors go through shared memory, arrays a pipe.

    A worker that finds no room in shared memory would wait for ever.
    """
    return batch if shared or isinstance(batch, Exception) else batch.numpy()


def _embed_shard(
    encoder: Encoder,
    batches: Iterable[torch.Tensor | np.ndarray | Exception],
    variables: list[str],
    bar: tqdm,
) -> xr.Dataset:
    parts = []
    for batch in batches:
        if isinstance(batch, Exception):
            raise batch
        embedded = encoder.encode_images(torch.as_tensor(batch))
        parts.append(embedded.reshape(len(variables), -1, embedded.shape[1]))
        bar.update(parts[-1].shape[1])
    return xr.Dataset(
        {
            name: (("row", "feature"), values)
            for name, values in zip(variables, np.concatenate(parts, axis=1), strict=True)
        }
    )


def _check(images: pd.DataFrame, interventions: Sequence[str]) -> None:
    if not isinstance(images, pd.DataFrame):
        raise TypeError(
            f"images must be a DataFrame as index_folder gives; got {type(images).__name__}."
        )
    missing = [name for name in COLUMNS if name not in images]
    if missing:
        raise ValueError(
            f"images has the columns {list(images.columns)} and lacks {missing}; "
            f"index_folder gives {list(COLUMNS)}."
        )
    if images.empty:
        raise ValueError(
            "images has no rows: there is nothing to embed. Check the folder that was indexed."
        )
    if isinstance(interventions, str):
        raise TypeError(
            f"interventions is {interventions!r}; expected a sequence. Write [{interventions!r}]."
        )
