"""What was seen of image files: none is read twice, and a changed one is never taken for seen."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from icm_study.photographs import seen
from icm_study.photographs.check import load_folder
from icm_study.photographs.folders import read_image
from icm_study.photographs.seen import hash_files, look_at_all, read_unchanged


@pytest.fixture
def paths(tmp_path, monkeypatch):
    """Some images that were written long ago, as far as is looked at."""
    monkeypatch.setattr(seen, "SETTLED", -1.0)
    rng = np.random.default_rng(0)
    written = []
    for i in range(5):
        path = tmp_path / "data" / str(i % 2) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(path)
        written.append(str(path))
    return written


@pytest.fixture
def read(monkeypatch):
    """The paths of the files that are read."""
    opened = []

    def open_image(path):
        opened.append(str(path))
        return original(path)

    original = seen.open_image
    monkeypatch.setattr(seen, "open_image", open_image)
    return opened


def overwrite(path):
    """Change the last byte of a file, and put its date back."""
    before = os.stat(path)
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def true_hashes(paths):
    return [hashlib.sha256(open(path, "rb").read()).hexdigest() for path in paths]


def test_a_second_look_reads_nothing_and_is_the_same(paths, read, tmp_path):
    first = look_at_all(paths, "file", tmp_path / "cache")
    assert sorted(read) == sorted(paths)
    second = look_at_all(paths, "file", tmp_path / "cache")
    assert len(read) == len(paths)
    pd.testing.assert_frame_equal(first, second)
    pd.testing.assert_frame_equal(first, look_at_all(paths, "file"))


def test_hashes_are_those_of_the_contents_and_known_ones_are_not_computed(paths, read, tmp_path):
    assert hash_files(paths, tmp_path / "cache") == true_hashes(paths)
    look_at_all(paths, "file", tmp_path / "cache")
    read.clear()
    assert hash_files(paths[::-1], tmp_path / "cache") == true_hashes(paths[::-1])
    assert not read


def test_a_hashed_image_is_read_once_as_any_other_and_refused_when_it_changed(
    paths, read, tmp_path
):
    hashes = hash_files(paths, tmp_path / "cache")
    read.clear()
    for path, digest in zip(paths, hashes, strict=True):
        assert read_unchanged(path, digest) == read_image(path)
    assert read == paths
    os.replace(paths[0], paths[1])
    assert read_unchanged(paths[1], hashes[0])
    with pytest.raises(ValueError, match=rf"1\.png' changed .* expected {hashes[1][:12]}….*plans/"):
        read_unchanged(paths[1], hashes[1])


@pytest.mark.parametrize("kind", ["empty", "text", "half", "float", "folder", "pipe", "gone"])
def test_of_an_image_that_cannot_be_read_the_same_is_said(paths, kind):
    path = paths[0]
    content = {"empty": b"", "text": b"no image", "half": Path(path).read_bytes()[:-40]}
    if kind == "float":
        Image.fromarray(np.ones((4, 4), np.float32)).save(path, "TIFF")
    elif kind in content:
        Path(path).write_bytes(content[kind])
    else:
        os.remove(path)
        {"folder": os.mkdir, "pipe": os.mkfifo, "gone": str}[kind](path)
    with pytest.raises((ValueError, FileNotFoundError)) as expected:
        read_image(path)
    digest = true_hashes([path])[0] if os.path.isfile(path) else ""
    with pytest.raises(expected.type) as caught:
        read_unchanged(path, digest)
    assert str(caught.value) == str(expected.value)


@pytest.mark.parametrize("value_range", ["file", "used"])
def test_a_changed_file_is_read_again_although_size_and_date_are_the_same(
    paths, read, tmp_path, value_range
):
    look_at_all(paths, value_range, tmp_path / "cache")
    read.clear()
    overwrite(paths[2])
    assert hash_files(paths, tmp_path / "cache") == true_hashes(paths)
    assert read == [paths[2]]
    read.clear()
    found = look_at_all(paths, value_range, tmp_path / "cache")
    assert read == [paths[2]]
    assert found["digest"].tolist() == true_hashes(paths)
    assert found.index.tolist() == list(range(5))


def test_a_file_in_the_place_of_another_is_read_again(paths, read, tmp_path):
    look_at_all(paths, "file", tmp_path / "cache")
    os.replace(paths[0], paths[1])
    read.clear()
    assert hash_files(paths[1:], tmp_path / "cache") == true_hashes(paths[1:])


def test_what_was_changed_a_moment_ago_is_not_kept(paths, read, tmp_path, monkeypatch):
    monkeypatch.setattr(seen, "SETTLED", 60.0)
    for _ in range(2):
        look_at_all(paths, "file", tmp_path / "cache")
    assert len(read) == 2 * len(paths)
    assert not (tmp_path / "cache").exists()


def test_a_file_that_cannot_be_read_is_tried_again(paths, read, tmp_path):
    with open(paths[0], "wb"):
        pass
    for _ in range(2):
        found = look_at_all(paths, "file", tmp_path / "cache")
        assert "empty" in found["reason"][0]
    assert read.count(paths[0]) == 2
    assert read.count(paths[1]) == 1


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more"])
def test_a_damaged_table_is_made_again(paths, read, tmp_path, content):
    first = look_at_all(paths, "file", tmp_path / "cache")
    (table,) = (tmp_path / "cache" / "seen").iterdir()
    table.write_bytes(content)
    pd.testing.assert_frame_equal(look_at_all(paths, "file", tmp_path / "cache"), first)
    read.clear()
    look_at_all(paths, "file", tmp_path / "cache")
    assert not read


def test_where_nothing_can_be_kept_it_is_looked_at_all_the_same(paths, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder would be")
    pd.testing.assert_frame_equal(
        look_at_all(paths, "file", tmp_path / "cache"), look_at_all(paths, "file")
    )


def test_ways_of_looking_are_kept_apart(paths, tmp_path):
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "data" / "deep.tif")
    deep = [*paths, str(tmp_path / "data" / "deep.tif")]
    for _ in range(2):
        by_file = look_at_all(deep, "file", tmp_path / "cache")
        by_use = look_at_all(deep, "used", tmp_path / "cache")
        assert "floating-point" in by_file["reason"][5]
        assert by_use["reason"][5] == ""


def test_a_folder_is_loaded_without_being_read(paths, read, tmp_path):
    data = tmp_path / "domains"
    for domain in ("a", "b"):
        for label in ("0", "1"):
            (data / domain / label).mkdir(parents=True)
            for i in range(3):
                colour = tuple(hashlib.sha256(f"{domain}{label}{i}".encode()).digest()[:3])
                Image.new("RGB", (8, 8), colour).save(data / domain / label / f"{i}.png")
    first = load_folder(data, cache=tmp_path / "cache")
    assert len(read) == 12
    second = load_folder(data, cache=tmp_path / "cache")
    assert len(read) == 12
    pd.testing.assert_frame_equal(first, second)
