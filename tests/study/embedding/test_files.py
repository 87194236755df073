"""Image files to embeddings: right, in order, however they are computed, and only once."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import traceback
import warnings
import weakref
from pathlib import Path

import h5py
import numpy as np
import open_clip
import pandas as pd
import psutil
import pytest
import torch
import tqdm
import warm
import xarray as xr
from conftest import PACS, ROOT
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from icm_core.interventions import (
    IMAGE_INTERVENTIONS,
    draw_interventions,
    image_transforms,
    intervene_images,
)
from icm_study.embedding import files
from icm_study.embedding.files import cut, embed_files
from icm_study.embedding.store import EmbeddingStore
from icm_study.encoders.encoder import Encoder
from icm_study.photographs.folders import index_folder, read_image
from icm_study.photographs.seen import hash_files, read_unchanged

VIT = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 16, "width": 32, "heads": 2, "layers": 1},
}
PREPROCESS = {
    "size": 32,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "mean": [0.5, 0.4, 0.3],
    "std": [0.3, 0.2, 0.1],
}


class Counted(Encoder):
    """An encoder that counts what it embeds, and can be interrupted."""

    embedded = 0
    interrupted_at: int | None = None

    def encode_images(self, images):
        if self.interrupted_at is not None and self.embedded >= self.interrupted_at:
            raise KeyboardInterrupt
        self.embedded += len(images)
        return super().encode_images(images)


def make_encoder(seed=0, **preprocess):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = open_clip.CLIP(**VIT).eval()
    return Counted("tiny", model, open_clip.get_tokenizer("ViT-B-32", 16), PREPROCESS | preprocess)


def make_image(rng, path):
    width, height = rng.integers(20, 70, size=2)
    coarse = Image.fromarray(rng.integers(256, size=(5, 4, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for domain in ("photo", "sketch"):
        for label in ("cat", "dög"):
            for i in range(15):
                make_image(
                    rng, root / domain / label / f'{i}\'s "picture" é.{("jpg", "png")[i % 2]}'
                )
    return root


@pytest.fixture(scope="module")
def table(folder):
    return index_folder(folder)


@pytest.fixture
def encoder():
    return make_encoder()


@pytest.fixture
def store(tmp_path):
    return EmbeddingStore(tmp_path / "store", SHARD)


SHARD = 16
SMALL = {"batch_size": 6, "workers": 0}


@pytest.fixture(scope="module")
def whole(table, tmp_path_factory):
    return embed_files(
        make_encoder(), table, EmbeddingStore(tmp_path_factory.mktemp("whole"), SHARD), **SMALL
    )


# What comes out


def test_each_row_is_the_image_and_its_intervened_copy(encoder, table, store):
    shuffled = table.sample(frac=1, random_state=0)
    result = embed_files(encoder, shuffled, store, seed=5, batch_size=7, workers=1)
    assert result.sizes == {"row": 60, "feature": 16}
    assert set(result.data_vars) == {"original", "image"}
    for name in ("path", "label", "domain"):
        assert result[name].values.tolist() == shuffled[name].tolist()
    for row, path in enumerate(shuffled["path"]):
        pixels = torch.from_numpy(np.array(read_image(path))).permute(2, 0, 1)[None]
        original = encoder.resize(pixels)
        intervened = intervene_images(original, seed=5)
        np.testing.assert_allclose(
            result["original"][row], encoder.encode_images(original)[0], atol=1e-5
        )
        np.testing.assert_allclose(
            result["image"][row], encoder.encode_images(intervened)[0], atol=1e-5
        )


def test_only_the_interventions_asked_for(encoder, table, store, whole):
    inverted = embed_files(encoder, table, store, interventions=["invert"], **SMALL)
    xr.testing.assert_equal(inverted["original"], whole["original"])
    pixels = torch.from_numpy(np.array(read_image(table["path"][3]))).permute(2, 0, 1)[None]
    expected = encoder.encode_images(255 - encoder.resize(pixels))[0]
    np.testing.assert_allclose(inverted["image"][3], expected, atol=1e-5)


def test_originals_only(encoder, table, store, whole):
    result = embed_files(encoder, table, store, interventions=(), **SMALL)
    assert set(result.data_vars) == {"original"}
    np.testing.assert_allclose(result["original"], whole["original"], atol=1e-6)
    assert encoder.embedded == len(table)


def test_provenance(encoder, table, whole):
    assert whole.attrs["encoder"] == "tiny"
    assert whole.attrs["weights"] == encoder.fingerprint
    assert whole.attrs["precision"] == "float32"
    assert whole.attrs["interventions"] == list(IMAGE_INTERVENTIONS)
    assert whole.attrs["seed"] == 0


def test_images_of_every_kind(tmp_path, encoder, store):
    rng = np.random.default_rng(1)
    rgb = Image.fromarray(rng.integers(256, size=(40, 50, 3), dtype=np.uint8))
    kinds = {
        "palette.png": rgb.quantize(16),
        "cmyk.jpg": rgb.convert("CMYK"),
        "gray16.png": Image.fromarray(rng.integers(65536, size=(40, 50), dtype=np.uint16)),
        "one pixel.png": rgb.crop((0, 0, 1, 1)),
        "long.png": rgb.resize((300, 3)),
        "alpha.webp": rgb.convert("RGBA"),
    }
    for name, image in kinds.items():
        image.save(tmp_path / name)
    paths = [str(tmp_path / name) for name in kinds]
    table = pd.DataFrame({"path": paths, "label": "thing", "domain": "photo"})
    result = embed_files(encoder, table, store, workers=1)
    for name in result.data_vars:
        np.testing.assert_allclose(np.linalg.norm(result[name], axis=1), 1, atol=1e-5)


# The same, however it was computed


@pytest.mark.parametrize("workers", [None, 1, 2])
def test_workers_do_not_change_a_bit(encoder, table, store, whole, workers):
    result = embed_files(encoder, table, store, **SMALL | {"workers": workers})
    xr.testing.assert_identical(result, whole)


def test_the_global_generator_is_left_alone(encoder, table, store):
    before = torch.get_rng_state()
    embed_files(encoder, table, store, workers=1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("at", [0, 12, 50, 100])
def test_interrupted_and_resumed(encoder, table, store, whole, at):
    encoder.interrupted_at = at
    with pytest.raises(KeyboardInterrupt) as caught:
        embed_files(encoder, table, store, **SMALL | {"workers": 2})
    assert traceback.extract_tb(caught.tb)  # alive, as in a notebook, and yet:
    assert multiprocessing.active_children() == []
    encoder.interrupted_at = None
    result = embed_files(encoder, table, store, **SMALL)
    xr.testing.assert_identical(result, whole)
    assert 2 * len(table) <= encoder.embedded <= 2 * (len(table) + SHARD)


def test_nothing_is_embedded_twice(encoder, table, store, whole):
    embed_files(encoder, table, store, **SMALL)
    assert encoder.embedded == 2 * len(table)
    again = make_encoder()
    xr.testing.assert_identical(embed_files(again, table, store, **SMALL), whole)
    assert again.embedded == 0


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"interventions": ["invert"]},
        {"batch_size": 5},
        {"precision": "bfloat16"},
        {"encoder": make_encoder(seed=1)},
        {"encoder": make_encoder(interpolation="bilinear")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_changes_the_embeddings_changes_the_key(table, store, monkeypatch, change):
    embed_files(make_encoder(), table, store, **SMALL)
    encoder = change.pop("encoder", None) or make_encoder()
    encoder.embedded = 0
    if "precision" in change:
        monkeypatch.setattr(Encoder, "precision", change.pop("precision"))
    embed_files(encoder, table, store, **SMALL | change)
    assert encoder.embedded == 2 * len(table)


def test_a_change_in_the_interventions_changes_the_key(encoder, table, store, monkeypatch):
    embed_files(encoder, table, store, **SMALL)
    monkeypatch.setitem(image_transforms(), "solarize", image_transforms()["invert"])
    embed_files(encoder, table, store, **SMALL)
    assert encoder.embedded == 2 * 2 * len(table)


def test_renaming_recomputes_nothing(encoder, table, store, whole, tmp_path, folder):
    embed_files(encoder, table, store, **SMALL)
    (tmp_path / "moved").symlink_to(folder)
    moved = index_folder(tmp_path / "moved").assign(label="other", domain="elsewhere")
    result = embed_files(encoder, moved, store, **SMALL)
    assert encoder.embedded == 2 * len(table)
    xr.testing.assert_equal(
        result.drop_vars(["path", "label", "domain"]), whole.drop_vars(["path", "label", "domain"])
    )
    assert set(result["domain"].values) == {"elsewhere"}


@pytest.mark.parametrize("position", [0, 41, 80])
def test_an_added_image_recomputes_the_shards_near_it(encoder, store, tmp_path, position):
    rng = np.random.default_rng(0)
    paths = [
        tmp_path / f"{i}.ppm" for i in range(81)
    ]  # files whose bytes are the same with every Pillow
    for path in paths:
        make_image(rng, path)
    longer = pd.DataFrame({"path": paths, "label": "cat", "domain": "photo"})
    before = embed_files(encoder, longer.drop(position), store, **SMALL)
    encoder.embedded = 0
    after = embed_files(encoder, longer, store, **SMALL)
    assert 0 < encoder.embedded <= 2 * 2 * SHARD
    old = after.isel(row=[row for row in range(81) if row != position])
    np.testing.assert_allclose(old["image"], before["image"], atol=1e-6)


hashes = st.lists(st.integers(0, 2**256 - 1).map("{:064x}".format), max_size=60)


@given(hashes=hashes, size=st.integers(1, 20))
def test_shards_cut_a_table_into_runs(hashes, size):
    shards = cut(hashes, size)
    assert [row for shard in shards for row in range(shard.start, shard.stop)] == list(
        range(len(hashes))
    )
    assert all(0 < shard.stop - shard.start <= size for shard in shards)


def test_shards_are_large_and_a_change_stays_local():
    rng = np.random.default_rng(0)
    hashes = [rng.bytes(32).hex() for _ in range(20_000)]
    before = [tuple(hashes[shard]) for shard in cut(hashes, 1024)]
    assert 300 < len(hashes) / len(before) < 600
    for position in rng.integers(len(hashes), size=50):
        changed = hashes.copy()
        if position % 2:
            changed.insert(position, rng.bytes(32).hex())
        else:
            del changed[position]
        after = [tuple(changed[shard]) for shard in cut(changed, 1024)]
        assert sum(map(len, set(after) - set(before))) <= 5 * 1024


# Damage


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def alter(path):
    with h5py.File(path, "r+") as file:
        file["image"][0, 0] += 1


@pytest.mark.parametrize("damage", [truncate, alter])
def test_a_damaged_shard_is_detected_and_rebuilt(encoder, table, store, whole, damage):
    embed_files(encoder, table, store, **SMALL)
    before = encoder.embedded
    damage(sorted(store.root.iterdir())[1])
    with pytest.warns(UserWarning, match="damaged and are computed again"):
        rebuilt = embed_files(encoder, table, store, **SMALL)
    xr.testing.assert_identical(rebuilt, whole)
    assert 0 < encoder.embedded - before <= 2 * SHARD
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        xr.testing.assert_identical(embed_files(encoder, table, store, **SMALL), whole)


def test_a_damaged_and_a_missing_shard_at_once(encoder, table, store, whole):
    embed_files(encoder, table, store, **SMALL)
    damaged, missing, *_ = sorted(store.root.iterdir())
    truncate(damaged)
    missing.unlink()
    with pytest.warns(UserWarning, match="damaged"):
        xr.testing.assert_identical(
            embed_files(encoder, table, store, **SMALL | {"workers": 1}), whole
        )


def test_shards_that_another_process_stores_meanwhile(encoder, table, store, whole, monkeypatch):
    """The other process is quicker by one shard at each step."""
    finished = EmbeddingStore(store.root.with_name("finished"), SHARD)
    embed_files(make_encoder(), table, finished, **SMALL)
    get, calls = EmbeddingStore.get, []

    def quicker(self, key, compute):
        calls.append(key)
        if len(calls) % 2:
            store.root.mkdir(exist_ok=True)
            store.path(key).write_bytes(finished.path(key).read_bytes())
        return get(self, key, compute)

    monkeypatch.setattr(EmbeddingStore, "get", quicker)
    result = embed_files(encoder, table, store, **SMALL | {"workers": 1})
    xr.testing.assert_identical(result, whole)
    assert 0 < encoder.embedded < 2 * len(table)


# Errors


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_and_finished_shards_are_kept(
    encoder, table, store, whole, tmp_path, workers
):
    (tmp_path / "half.jpg").write_bytes(Path(table["path"][40]).read_bytes()[:200])
    broken = table.copy()
    broken.loc[40, "path"] = str(tmp_path / "half.jpg")
    with pytest.raises(ValueError, match=r"^image .*half\.jpg' cannot be read"):
        embed_files(encoder, broken, store, **SMALL | {"workers": workers})
    assert multiprocessing.active_children() == []
    finished = len(list(store.root.glob("*.nc")))
    assert finished > 0
    good = make_encoder()
    xr.testing.assert_identical(embed_files(good, table, store, **SMALL), whole)
    assert good.embedded < 2 * len(table)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_changed_after_it_was_hashed_is_refused_by_name(
    encoder, folder, store, whole, tmp_path, monkeypatch, workers
):
    images = index_folder(shutil.copytree(folder, tmp_path / "data"))
    changed = Path(images["path"][40])
    content = changed.read_bytes()

    def hash_and_change(paths, cache):
        hashes = hash_files(paths, cache)
        changed.write_bytes(Path(paths[0]).read_bytes())
        return hashes

    shards = cut(hash_files(images["path"].tolist(), store.root), SHARD)
    with monkeypatch.context() as patch:
        patch.setattr(files, "hash_files", hash_and_change)
        message = (
            rf"^image {re.escape(repr(str(changed)))} changed since it was listed: .*run again"
        )
        with pytest.raises(ValueError, match=message):
            embed_files(encoder, images, store, **SMALL | {"workers": workers})
    assert multiprocessing.active_children() == []
    finished = [rows for rows in shards if rows.stop <= 40]
    assert len(list(store.root.glob("*.nc"))) == len(finished) > 0
    changed.write_bytes(content)
    good = make_encoder()
    result = embed_files(good, images, store, **SMALL | {"workers": workers})
    xr.testing.assert_identical(result.drop_vars("path"), whole.drop_vars("path"))
    assert good.embedded == 2 * (len(images) - finished[-1].stop)


def test_a_damaged_shard_is_not_rebuilt_from_an_image_that_changed(
    encoder, folder, store, tmp_path, monkeypatch
):
    images = index_folder(shutil.copytree(folder, tmp_path / "data"))
    hashes = hash_files(images["path"].tolist(), store.root)
    embed_files(encoder, images, store, **SMALL)
    for path in store.root.glob("*.nc"):
        truncate(path)
    shutil.copy(images["path"][1], images["path"][0])
    monkeypatch.setattr(files, "hash_files", lambda *_: hashes)
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(ValueError, match="changed since it was listed"),
    ):
        embed_files(encoder, images, store, **SMALL)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"images": ["a.jpg"]}, TypeError, r"DataFrame as index_folder gives; got list"),
        (
            {"images": pd.DataFrame({"file": ["a.jpg"], "label": [1]})},
            ValueError,
            r"lacks \['path', 'domain'\]",
        ),
        ({"images": pd.DataFrame(columns=["path", "label", "domain"])}, ValueError, "no rows"),
        ({"interventions": "invert"}, TypeError, r"Write \['invert'\]"),
        ({"interventions": ["inverse"]}, ValueError, "unknown intervention 'inverse'"),
        ({"seed": 0.5}, TypeError, "integer"),
        ({"batch_size": -1}, ValueError, "batch_size is -1; expected 1 or more"),
        ({"workers": -1}, ValueError, "workers is -1; expected 0 or more"),
    ],
)
def test_bad_arguments(encoder, table, store, options, error, message):
    with pytest.raises(error, match=message):
        embed_files(encoder, options.pop("images", table), store, **options)
    assert not store.root.exists()


def test_files_that_are_gone(encoder, table, store, tmp_path):
    gone = table.assign(path=[*table["path"][:-1], str(tmp_path / "gone.jpg")])
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg' does not exist.*index the folder"):
        embed_files(encoder, gone, store)
    folder = table.assign(path=[*table["path"][:-1], str(tmp_path)])
    with pytest.raises(ValueError, match="not an image file but a pipe, a folder or a device"):
        embed_files(encoder, folder, store)
    os.mkfifo(tmp_path / "pipe.jpg")
    pipe = table.assign(path=[*table["path"][:-1], str(tmp_path / "pipe.jpg")])
    with pytest.raises(ValueError, match=r"pipe\.jpg' is not an image file"):
        embed_files(encoder, pipe, store)


# Progress


def test_the_bar_counts_what_is_stored(encoder, table, store, monkeypatch, capsys):
    monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0)
    encoder.interrupted_at = 90
    with pytest.raises(KeyboardInterrupt):
        embed_files(encoder, table, store, **SMALL)
    first = capsys.readouterr().err
    assert "embedding by tiny:   0%|" in first
    encoder.interrupted_at = None
    embed_files(encoder, table, store, **SMALL)
    shown = capsys.readouterr().err
    assert "| 0/60 [" in first
    assert "image/s" in shown
    assert "100%|" in shown
    assert "| 60/60 [" in shown
    assert "embedding by tiny:   0%|" not in shown
    embed_files(encoder, table, store, **SMALL)
    assert "embedding by tiny: 100%|" in capsys.readouterr().err


# Processes

SCRIPT = """
    import multiprocessing, os, sys, time
    from icm_study.photographs.folders import index_folder
    from icm_study.embedding.store import EmbeddingStore
    from icm_study.embedding.files import embed_files
    from test_files import make_encoder

    if __name__ == "__main__":
        folder, root, method, pause = sys.argv[1:]
        multiprocessing.set_start_method(method)
        encoder = make_encoder()
        encode = encoder.encode_images
        encoder.encode_images = lambda images: (time.sleep(float(pause)), encode(images))[1]
        result = embed_files(
            encoder, index_folder(folder), EmbeddingStore(root, 16),
            batch_size=6, workers=1,
        )
        result.to_netcdf(f"{root}-{os.getpid()}.nc", engine="h5netcdf")
"""


@pytest.fixture
def start(tmp_path, folder, store):
    """Start a process that embeds the folder."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    started = []

    def start(method="fork", pause=0.0):
        scripts = ROOT / "workflow" / "scripts"
        folders = [str(ROOT), str(ROOT / "tests"), str(scripts), str(Path(__file__).parent)]
        path = os.pathsep.join([*folders, os.environ.get("PYTHONPATH", "")])
        command = [str(script), str(folder), str(store.root), method, str(pause)]
        env = os.environ | {"PYTHONPATH": path}
        started.append(
            warm.start(command, tmp_path, env)
            or subprocess.Popen([sys.executable, *command], cwd=tmp_path, env=env)
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_two_processes_embed_the_same_folder_at_once(start, store, whole):
    processes = [start(pause=0.05), start(pause=0.05)]
    assert [process.wait(300) for process in processes] == [0, 0]
    for process in processes:
        with xr.open_dataset(f"{store.root}-{process.pid}.nc", engine="h5netcdf") as result:
            xr.testing.assert_identical(result.load(), whole)
    assert [path for path in store.root.iterdir() if path.suffix != ".nc"] == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_killed_and_resumed_by_spawned_workers(start, store, whole, encoder, table):
    process = start("spawn", pause=0.3)
    while len(list(store.root.glob("*.nc"))) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert workers
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    left = make_encoder()
    finished = len(list(store.root.glob("*.nc")))
    xr.testing.assert_identical(embed_files(left, table, store, **SMALL), whole)
    assert left.embedded < 2 * len(table)
    assert len(list(store.root.glob("*.nc"))) > finished
    assert psutil.wait_procs(workers, timeout=30)[1] == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("interrupt", [os.kill, os.killpg], ids=["process", "terminal"])
def test_an_interrupt_ends_the_workers(start, store, interrupt):
    process = start(pause=0.3)
    while len(list(store.root.glob("*.nc"))) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert workers
    interrupt(process.pid, signal.SIGINT)
    assert process.wait(30) != 0
    assert psutil.wait_procs(workers, timeout=30)[1] == []
    assert [path for path in store.root.iterdir() if path.suffix != ".nc"] == []


# Real photographs


@pytest.mark.slow
def test_real_photographs(encoder, store):
    root = PACS
    if not root.is_dir():
        pytest.skip(f"no PACS at {root}")
    table = index_folder(root).groupby(["domain", "label"]).head(3)
    result = embed_files(encoder, table, store)
    assert len(result["row"]) == 4 * 7 * 3
    row = 50
    pixels = torch.from_numpy(np.array(read_image(table["path"].iloc[row]))).permute(2, 0, 1)[None]
    original = encoder.resize(pixels)
    assert draw_interventions(original)[0] in IMAGE_INTERVENTIONS
    expected = encoder.encode_images(torch.cat([original, intervene_images(original)]))
    np.testing.assert_allclose(result["original"][row], expected[0], atol=1e-5)
    np.testing.assert_allclose(result["image"][row], expected[1], atol=1e-5)


# ---------------------------------------------------------------------------------------
# memory


@pytest.mark.parametrize("free", [0, 100_000, 1 << 40])
def test_little_shared_memory_changes_nothing(encoder, table, store, whole, monkeypatch, free):
    sent = []
    monkeypatch.setattr(files, "free_shared_memory", lambda: free)
    monkeypatch.setattr(
        encoder, "encode_images", lambda images: (sent.append(images), encode(images))[1]
    )
    encode = type(encoder).encode_images.__get__(encoder)
    found = embed_files(encoder, table, store, batch_size=6, workers=1)
    xr.testing.assert_identical(found, whole)
    room = free > 4 * 12 * 3 * 32 * 32  # of images and copies, in four batches
    assert {images.is_shared() for images in sent} == {room}


@pytest.mark.parametrize("n", [2, 7])
def test_one_photograph_at_a_time_is_in_memory_at_its_full_size(table, store, n):
    photographs, most = [], []
    paths = table["path"][:n].tolist()

    def read(path, digest):
        image = read_unchanged(path, digest)
        photographs.append(weakref.ref(image))
        most.append(sum(ref() is not None for ref in photographs))
        return image

    files._read_resized(make_encoder().resize, read, paths, hash_files(paths, store.root))
    assert len(most) == n
    assert max(most) <= 2  # the next is read before the last one's name is free
