import errno
import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from icm_study.embedding import store as store_module
from icm_study.embedding.store import EmbeddingStore
from icm_study.fingerprint import fingerprint

KEY = {"encoder": "ViT-B-16/openai", "data": "a" * 64, "intervention": None, "seed": 3}


def labelled(values):
    values = np.asarray(values)
    return xr.Dataset(
        {"embedding": (("image", "feature"), values), "latent": ("image", np.arange(len(values)))},
        coords={
            "label": ("image", [f"class {i % 3}" for i in range(len(values))]),
            "domain": ("image", ["Ünïcode"] * len(values)),
            "held_out": ("image", np.arange(len(values)) % 2 == 0),
        },
        attrs={"source": "test", "sizes": [1, 2], "one": [5]},
    )


def example():
    return labelled(np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32))


class Counted:
    """A compute function that counts its calls."""

    def __init__(self, make=example):
        self.make, self.calls = make, 0

    def __call__(self):
        self.calls += 1
        return self.make()


def test_computes_once_and_gives_the_same_arrays_for_ever(tmp_path):
    compute = Counted()
    store = EmbeddingStore(tmp_path / "deep" / "cache")
    assert KEY not in store
    first = store.get(KEY, compute)
    assert KEY in store
    second = EmbeddingStore(tmp_path / "deep" / "cache").get(KEY, compute)
    assert compute.calls == 1
    xr.testing.assert_identical(first, second)
    xr.testing.assert_equal(second, example())
    assert second["embedding"].dtype == np.float32
    assert second["held_out"].dtype == bool
    assert second.attrs["source"] == "test"
    assert [file.name for file in store.root.iterdir()] == [store.path(KEY).name]


def test_a_dataset_read_from_one_key_can_be_stored_under_another(tmp_path):
    store = EmbeddingStore(tmp_path)
    first = store.get(KEY, example)
    second = store.get({**KEY, "seed": 4}, lambda: first)
    assert json.loads(second.attrs["store_key"])["seed"] == 4
    xr.testing.assert_equal(first, second)


json_values = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
keys = st.dictionaries(
    st.text(), json_values | st.lists(json_values, max_size=3), min_size=1, max_size=5
)


@given(key=keys, data=st.data())
def test_path_depends_on_the_entries_and_not_on_their_order(key, data):
    store = EmbeddingStore("cache")
    path = store.path(key)
    assert store.path(dict(data.draw(st.permutations(list(key.items()))))) == path
    assert path.parent == Path("cache")
    assert len(path.name.encode()) < 180
    canonical = json.dumps(key, sort_keys=True, separators=(",", ":"))
    assert path.stem.endswith(hashlib.sha256(canonical.encode()).hexdigest())
    name = data.draw(st.sampled_from(sorted(key)))
    assert (
        store.path({**key, name: [key[name], "changed"] if not isinstance(key[name], list) else 0})
        != path
    )


def test_file_name_starts_with_readable_parts():
    assert EmbeddingStore("cache").path(KEY).name.startswith("aaaaaaaaaaaa_ViT-B-16-ope_None_3-")


@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        ({}, ValueError, "empty"),
        ("encoder", TypeError, "mapping.*str"),
        ({1: "a"}, TypeError, "strings; got 1"),
        ({"seed": np.int64(3)}, TypeError, r"'seed' holds a int64.*\.item\(\)"),
        ({"options": {"nested": 1}}, TypeError, "'options' holds a dict"),
        ({"options": [[1]]}, TypeError, "'options' holds a list"),
        ({"weight": float("nan")}, ValueError, "not finite"),
    ],
)
def test_bad_keys(tmp_path, key, error, message):
    with pytest.raises(error, match=message):
        EmbeddingStore(tmp_path).get(key, example)


# --------------------------------------------------------------------------------------------
# damage


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    path.write_bytes(b"")


def not_netcdf(path):
    path.write_text("not a netCDF file")


def change_a_value(path):
    with h5py.File(path, "r+") as file:
        file["embedding"][2, 1] += 1


def change_a_label(path):
    with h5py.File(path, "r+") as file:
        file["label"][0] = "class 1"


def drop_a_variable(path):
    with h5py.File(path, "r+") as file:
        del file["latent"]


def change_an_attribute(path):
    with h5py.File(path, "r+") as file:
        file.attrs["source"] = "elsewhere"


def drop_the_checksum(path):
    with h5py.File(path, "r+") as file:
        del file.attrs["store_checksum"]


def put_in_another_keys_file(path):
    store = EmbeddingStore(path.parent)
    other = {**KEY, "seed": 99}
    store.get(other, example)
    os.replace(store.path(other), path)


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        empty,
        not_netcdf,
        change_a_value,
        change_a_label,
        drop_a_variable,
        change_an_attribute,
        drop_the_checksum,
        put_in_another_keys_file,
    ],
)
def test_a_damaged_file_is_reported_and_rebuilt(tmp_path, damage):
    store = EmbeddingStore(tmp_path)
    compute = Counted()
    whole = store.get(KEY, compute)
    damage(store.path(KEY))
    with pytest.warns(UserWarning, match=r"damaged and are computed again"):
        rebuilt = store.get(KEY, compute)
    assert compute.calls == 2
    xr.testing.assert_identical(rebuilt, whole)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        xr.testing.assert_identical(store.get(KEY, compute), whole)
    assert compute.calls == 2


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # h5netcdf's, on broken files
def test_any_flipped_byte_is_harmless_or_noticed(tmp_path):
    store = EmbeddingStore(tmp_path)
    whole = store.get(KEY, example)
    content = store.path(KEY).read_bytes()
    noticed = 0
    for position in np.random.default_rng(0).integers(len(content), size=40):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        store.path(KEY).write_bytes(damaged)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            xr.testing.assert_identical(store.get(KEY, example), whole)
        noticed += any("damaged" in str(warning.message) for warning in caught)
    assert noticed > 0


# -------------------------------------------------------------------------------------
# refused results


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_embeddings_are_refused(tmp_path, bad):
    def compute():
        values = np.ones((5, 3), dtype=np.float32)
        values[1, 2] = values[1, 0] = values[4, 0] = bad
        return labelled(values)

    store = EmbeddingStore(tmp_path)
    with pytest.raises(
        ValueError, match=r"'embedding' has NaN or infinite values in 2 of 5 rows; nothing"
    ):
        store.get(KEY, compute)
    assert list(tmp_path.iterdir()) == []


def test_compute_must_return_a_dataset(tmp_path):
    with pytest.raises(TypeError, match=r"xarray\.Dataset; got ndarray"):
        EmbeddingStore(tmp_path).get(KEY, lambda: np.zeros(3))
    assert list(tmp_path.iterdir()) == []


def test_a_failure_in_compute_leaves_nothing_behind(tmp_path):
    def compute():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        EmbeddingStore(tmp_path).get(KEY, compute)
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_that_netcdf_would_change_is_refused(tmp_path):
    labels = np.array(["a", None], dtype=object)
    with pytest.raises(TypeError, match="netCDF does not give"):
        EmbeddingStore(tmp_path).get(KEY, lambda: xr.Dataset({"label": ("image", labels)}))
    assert list(tmp_path.iterdir()) == []


def test_unwritable_directory_is_reported_before_computing(tmp_path):
    (tmp_path / "file").write_text("in the way")
    compute = Counted()
    with pytest.raises(
        OSError, match=r"cache directory .*file.*(exists|directory).*EmbeddingStore\(root="
    ):
        EmbeddingStore(tmp_path / "file").get(KEY, compute)
    assert compute.calls == 0


def test_read_only_directory(tmp_path, monkeypatch):
    def touch(self):
        raise PermissionError(errno.EACCES, "Permission denied")

    store = EmbeddingStore(tmp_path)
    store.get(KEY, example)
    monkeypatch.setattr(Path, "touch", touch)
    with pytest.raises(OSError, match=r"Permission denied.*another directory"):
        store.get({**KEY, "seed": 4}, example)
    xr.testing.assert_equal(
        store.get(KEY, Counted()), example()
    )  # reading what is there still works


def write_in_a_process(root, barrier):
    barrier.wait()
    for seed in range(4):
        EmbeddingStore(root).get(
            {"seed": seed}, lambda seed=seed: labelled(np.full((500, 50), float(seed)))
        )


@pytest.mark.slow
def test_concurrent_writers_of_the_same_keys(tmp_path):
    context = multiprocessing.get_context("fork")  # spawned ones import for seconds
    barrier = context.Barrier(3)
    writers = [
        context.Process(target=write_in_a_process, args=(tmp_path, barrier)) for _ in range(3)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert len(list(tmp_path.iterdir())) == 4
    for seed in range(4):
        stored = EmbeddingStore(tmp_path).get(
            {"seed": seed}, Counted(lambda: pytest.fail("not stored"))
        )
        assert (stored["embedding"] == seed).all()


# -------------------------------------------------------------------------------
# fingerprint


def test_fingerprint_is_stable_and_sees_kind_shape_dtype_and_bytes():
    array = np.arange(6, dtype=np.float32)
    different = [
        (array,),
        (array.reshape(2, 3),),
        (array.reshape(3, 2),),
        (array.astype(np.float64),),
        (array.view(np.int32),),
        (array.tobytes(),),
        (array[:3], array[3:]),
        (np.zeros((0, 3)),),
        (np.zeros((0, 2)),),
        ("ab",),
        (b"ab",),
        ("a", "b"),
        (np.array(["ab"]),),
        (np.array("2020-01-01", dtype="datetime64[D]"),),
        (),
    ]
    hashes = [fingerprint(*parts) for parts in different]
    assert len(set(hashes)) == len(different)
    assert all(len(hash_) == 64 and int(hash_, 16) >= 0 for hash_ in hashes)
    assert fingerprint("ab") == hashlib.sha256(b"str 2;ab").hexdigest()


@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=3), elements=st.floats(width=32)))
def test_fingerprint_ignores_memory_layout(array):
    assert (
        fingerprint(np.asfortranarray(array))
        == fingerprint(array)
        == fingerprint(torch.tensor(array))
    )


@pytest.mark.parametrize("part", [np.array(["a", None], dtype=object), 3, {"a": 1}, None])
def test_fingerprint_refuses_what_has_no_stable_bytes(part):
    with pytest.raises(TypeError, match="cannot fingerprint"):
        fingerprint(part)


# -------------------------------------------------------------------------------
# file systems and killed processes


@pytest.mark.parametrize("root", ["~/scratch/embeddings", "~"])
def test_a_home_folder_is_found_once(tmp_path, monkeypatch, root):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    store = EmbeddingStore(root)
    store.get(KEY, example)
    assert KEY in EmbeddingStore(tmp_path / "home" / root.removeprefix("~").lstrip("/"))
    assert not any((tmp_path / "work").iterdir())


def test_hdf5_opens_no_file_by_its_name_and_so_locks_none(tmp_path, monkeypatch):
    opened = []

    open_file = h5py.File.__init__

    def spy(self, name, *arguments, **options):
        if not hasattr(name, "valid"):  # what is open has another name
            opened.append(name)
        open_file(self, name, *arguments, **options)

    monkeypatch.setattr(h5py.File, "__init__", spy)
    store = EmbeddingStore(tmp_path)
    whole = store.get(KEY, example)
    xr.testing.assert_identical(store.get(KEY, Counted()), whole)
    assert len(opened) == 3  # written, read back, read again
    assert not any(isinstance(name, str | bytes | os.PathLike) for name in opened)


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES])
def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path, monkeypatch, error):
    def read_bytes(self):
        raise OSError(error, os.strerror(error))

    store = EmbeddingStore(tmp_path)
    store.get(KEY, example)
    compute = Counted()
    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with pytest.raises(OSError, match=os.strerror(error)):
        store.get(KEY, compute)
    assert compute.calls == 0


def test_what_a_killed_process_left_is_cleared(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    alive = (os.getpid(), store_module._start(os.getpid()))
    writers = {"gone": (gone.pid, 1), "id used again": (alive[0], alive[1] + 1), "alive": alive}
    machine = store_module._machine()
    for name, (pid, start) in writers.items():
        (tmp_path / f".{name}.{machine}.{pid}.{start}.0123abcd.tmp").touch()
    (tmp_path / f".elsewhere.other-{machine}.{gone.pid}.1.0123abcd.tmp").touch()
    EmbeddingStore(tmp_path).get(KEY, example)
    left = {path.name.split(".")[1] for path in tmp_path.glob(".*.tmp")}
    assert left == {"alive", "elsewhere"}


@pytest.mark.parametrize("size", [0, -3])
def test_a_shard_has_a_row_at_least(size):
    with pytest.raises(ValueError, match=f"shard_size is {size}; expected 1 or more"):
        EmbeddingStore("cache", size)
