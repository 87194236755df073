import os
import socket
import struct
import subprocess
import sys
import unicodedata
import zlib
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import PACS, ROOT
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import ImageFolder

from icm_study.photographs.check import check_folder, load_folder, load_images, main
from icm_study.photographs.folders import (
    index_classes,
    index_folder,
    index_images,
    is_split,
    read_image,
)
from icm_study.photographs.known import CATALOG


@pytest.fixture
def pacs_root():
    if not PACS.is_dir():
        pytest.skip("the PACS images are not beside this checkout")
    return PACS


def pixels(path):
    return np.asarray(read_image(path))


# --------------------------------------------------------------------------------------------
# read_image


def test_rgb_is_read_exactly(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "a b 'ü\".png")
    image = read_image(tmp_path / "a b 'ü\".png")
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), values)


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=30))
def test_16_bit_gray_is_scaled_not_clipped(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("gray") / "gray.png"
    Image.fromarray(np.array([values], dtype=np.uint16)).save(path)
    expected = np.round(np.array(values) / 65535 * 255)
    np.testing.assert_array_equal(pixels(path)[0], np.repeat(expected[:, None], 3, axis=1))


def test_16_bit_gray_stored_as_32_bit_integers(tmp_path):
    Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.int32)).save(tmp_path / "gray.tif")
    assert pixels(tmp_path / "gray.tif")[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(("mode", "colour"), [("L", 77), ("1", 255), ("LA", (77, 255))])
def test_gray(tmp_path, mode, colour):
    Image.new(mode, (2, 2), colour).save(tmp_path / "gray.png")
    expected = 255 if mode == "1" else 77
    assert (pixels(tmp_path / "gray.png") == expected).all()


def test_palette(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "palette.png")
    assert pixels(tmp_path / "palette.png").tolist() == [[[10, 20, 30], [200, 100, 50]]]
    image.save(tmp_path / "transparent.png", transparency=0)
    assert pixels(tmp_path / "transparent.png").tolist() == [[[255, 255, 255], [200, 100, 50]]]


def test_transparent_parts_become_white(tmp_path):
    values = np.array([[[0, 0, 0, 0], [0, 0, 0, 255], [255, 0, 0, 51]]], dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "alpha.png")
    assert pixels(tmp_path / "alpha.png").tolist() == [
        [[255, 255, 255], [0, 0, 0], [255, 204, 204]]
    ]


def test_cmyk_jpeg(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=95)
    assert np.abs(pixels(tmp_path / "cmyk.jpg").astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    upright = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    stored = {  # how a camera stores the upright picture, for each value of the EXIF tag
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "image.png", exif=exif)
    np.testing.assert_array_equal(pixels(tmp_path / "image.png"), upright)


def test_the_file_is_closed_and_the_image_stays_usable(tmp_path):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "red.png")
    image = read_image(tmp_path / "red.png")
    (tmp_path / "red.png").unlink()
    assert image.getpixel((3, 3)) == (255, 0, 0)


def test_missing_image(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg' does not exist"):
        read_image(tmp_path / "nowhere.jpg")


def test_zero_bytes(tmp_path):
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ValueError, match=r"empty\.jpg' is empty \(zero bytes\)"):
        read_image(tmp_path / "empty.jpg")


def test_not_a_regular_file(tmp_path):
    with pytest.raises(ValueError, match="folder or a device"):
        read_image(tmp_path)
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ValueError, match="folder or a device"):
        read_image(tmp_path / "pipe.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "gif", "webp", "tif"])
def test_truncated_image(tmp_path, suffix):
    path = tmp_path / f"half.{suffix}"
    values = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ValueError, match=rf"half\.{suffix}' cannot be read; it is corrupt"):
        read_image(path)


def test_no_image_at_all(tmp_path):
    (tmp_path / "page.jpg").write_text("<html>404 Not Found</html>")
    with pytest.raises(ValueError, match=r"page\.jpg' cannot be read.*not an image"):
        read_image(tmp_path / "page.jpg")


def test_floating_point_pixels(tmp_path):
    Image.fromarray(np.ones((2, 2), dtype=np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match="floating-point"):
        read_image(tmp_path / "float.tif")


@pytest.mark.parametrize("side", [20_000, 30_000])
def test_decompression_bomb(tmp_path, side):
    write_bomb(tmp_path / "bomb.png", side)
    with pytest.raises(ValueError, match="decompression bomb"):
        read_image(tmp_path / "bomb.png")


def test_a_single_pixel(tmp_path):
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "pixel.png")
    assert pixels(tmp_path / "pixel.png").tolist() == [[[1, 2, 3]]]


# ------------------------------------------------------------------------------------------
# index_folder


def make_tree(root, files):
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


TREE = ("photo/dog/b.jpg", "photo/dog/a.PNG", "photo/cat/1.jpeg", "art/dog/x.webp", "art/cat/y.jpg")


def test_lists_images_sorted_with_label_and_domain(tmp_path):
    table = index_folder(make_tree(tmp_path, TREE))
    expected = [
        ("art/cat/y.jpg", "cat", "art"),
        ("art/dog/x.webp", "dog", "art"),
        ("photo/cat/1.jpeg", "cat", "photo"),
        ("photo/dog/a.PNG", "dog", "photo"),
        ("photo/dog/b.jpg", "dog", "photo"),
    ]
    expected = pd.DataFrame(
        [(str(tmp_path / path), label, domain) for path, label, domain in expected],
        columns=["path", "label", "domain"],
    )
    pd.testing.assert_frame_equal(table, expected)


def test_other_files_and_hidden_ones_are_ignored(tmp_path):
    make_tree(tmp_path, TREE)
    plain = index_folder(tmp_path)
    extra = (
        "README.txt",
        ".git/x/y.jpg",
        "photo/notes.jpg",
        "photo/.cache/z.jpg",
        "photo/dog/.b.jpg",
    )
    make_tree(
        tmp_path, [*extra, "photo/dog/labels.csv", "photo/dog/deeper/c.jpg", "photo/dog/Thumbs.db"]
    )
    pd.testing.assert_frame_equal(index_folder(tmp_path), plain)


def test_unusual_names(tmp_path):
    names = ['Real World/it\'s "a" dog/ä ö.jpg', "Real World/猫/#1 100%.jpg"]
    table = index_folder(make_tree(tmp_path, names))
    assert table["path"].tolist() == [str(tmp_path / name) for name in names]
    assert table["label"].tolist() == ['it\'s "a" dog', "猫"]
    assert set(table["domain"]) == {"Real World"}


def test_a_class_spelt_in_two_unicode_forms_is_one_class(tmp_path):
    forms = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    assert forms[0] != forms[1]
    table = index_folder(make_tree(tmp_path, [f"a/{forms[0]}/1.jpg", f"b/{forms[1]}/1.jpg"]))
    assert table["label"].tolist() == [forms[0]] * 2
    assert all(Path(path).is_file() for path in table["path"])


def test_an_absent_class_is_listed_with_its_domain(tmp_path):
    make_tree(tmp_path, [*TREE, "photo/emu/1.jpg", "photo/fox/1.jpg", "art/gnu/1.jpg"])
    with pytest.raises(
        ValueError, match=r"'art' lacks 'emu', 'fox'; 'photo' lacks 'gnu'.*allow_missing=True"
    ):
        index_folder(tmp_path)
    table = index_folder(tmp_path, allow_missing=True)
    assert len(table) == 8
    assert set(table["label"]) == {"dog", "cat", "emu", "fox", "gnu"}


def test_an_empty_class_folder(tmp_path):
    make_tree(tmp_path, [*TREE, "photo/emu/readme.txt", "art/emu/1.jpg"])
    with pytest.raises(
        ValueError, match=r"no images in the class folder.*photo/emu.*\.jpg.*allow_missing"
    ):
        index_folder(tmp_path)
    assert len(index_folder(tmp_path, allow_missing=True)) == 6


@pytest.mark.parametrize("allow_missing", [False, True])
def test_folders_that_are_no_data_set(tmp_path, allow_missing):
    with pytest.raises(
        FileNotFoundError, match="nowhere' does not exist; expected root/domain/class/image"
    ):
        index_folder(tmp_path / "nowhere", allow_missing)
    make_tree(tmp_path, ["file.jpg"])
    with pytest.raises(ValueError, match="is a file"):
        index_folder(tmp_path / "file.jpg", allow_missing)
    with pytest.raises(ValueError, match="no domains"):
        index_folder(tmp_path, allow_missing)
    make_tree(tmp_path, [*TREE, "sketch/1.jpg"])
    with pytest.raises(ValueError, match=r"sketch' has no classes"):
        index_folder(tmp_path, allow_missing)


def test_a_domain_without_any_image(tmp_path):
    make_tree(tmp_path, [*TREE, "sketch/dog/1.txt", "sketch/cat/1.txt"])
    with pytest.raises(ValueError, match="the domain 'sketch' has no images"):
        index_folder(tmp_path, allow_missing=True)
    make_tree(tmp_path / "only", ["sketch/dog/1.txt"])
    with pytest.raises(ValueError, match="the domain 'sketch' has no images"):
        index_folder(tmp_path / "only", allow_missing=True)


def test_links_are_followed_and_loops_are_not(tmp_path):
    make_tree(tmp_path / "data", TREE)
    make_tree(tmp_path / "elsewhere", ["dog/1.jpg", "cat/1.jpg"])
    plain = index_folder(tmp_path / "data")
    (tmp_path / "data/photo/up").symlink_to(tmp_path / "data", target_is_directory=True)
    (tmp_path / "data/photo/here").symlink_to(".", target_is_directory=True)
    (tmp_path / "data/self").symlink_to("self")
    pd.testing.assert_frame_equal(index_folder(tmp_path / "data"), plain)
    (tmp_path / "data/sketch").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert (index_folder(tmp_path / "data")["domain"] == "sketch").sum() == 2


def test_a_name_that_is_not_utf8(tmp_path):
    make_tree(tmp_path, TREE)
    try:
        open(os.fsencode(tmp_path / "art/cat") + b"/\xff.jpg", "w").close()
    except OSError:
        pytest.skip("this file system accepts UTF-8 names only")
    with pytest.raises(ValueError, match=r"xff\.jpg' in .*cat' is not UTF-8; rename it"):
        index_folder(tmp_path)


def test_pacs(pacs_root):
    table = index_folder(pacs_root)
    counts = table["domain"].value_counts().to_dict()
    assert counts == {"art_painting": 2048, "cartoon": 2344, "photo": 1670, "sketch": 3929}
    assert table["label"].nunique() == 7
    for path in table.groupby(["domain", "label"])["path"].first():
        image = read_image(path)
        assert (image.mode, image.size) == ("RGB", (227, 227))


# -----------------------------------------------------------------------------------------
# index_classes


def test_classes_without_domains(tmp_path):
    root = make_tree(
        tmp_path / "imagenet-a", ["n02/b.JPEG", "n01/c.jpg", "n02/a.jpg", "README.txt", "n01/x.txt"]
    )
    table = index_classes(root)
    assert table["path"].tolist() == [
        str(root / name) for name in ("n01/c.jpg", "n02/a.jpg", "n02/b.JPEG")
    ]
    assert table["label"].tolist() == ["n01", "n02", "n02"]
    assert set(table["domain"]) == {"imagenet-a"}


def test_the_domain_of_classes_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(make_tree(tmp_path / "imagenet-r", ["n01/a.jpg"]))
    assert index_classes(".")["domain"].tolist() == ["imagenet-r"]


def test_classes_without_images(tmp_path):
    make_tree(tmp_path, ["n01/a.jpg", "n02/a.txt"])
    with pytest.raises(ValueError, match=r"no images in the class folder.*n02.*allow_missing"):
        index_classes(tmp_path)
    assert len(index_classes(tmp_path, allow_missing=True)) == 1


def test_folders_that_are_no_classes(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="nowhere' does not exist; expected root/class/image"
    ):
        index_classes(tmp_path / "nowhere")
    make_tree(tmp_path, ["file.jpg"])
    with pytest.raises(ValueError, match="is a file"):
        index_classes(tmp_path / "file.jpg")
    with pytest.raises(ValueError, match="no images in the class folders"):
        index_classes(tmp_path)
    make_tree(tmp_path, ["photo/dog/a.jpg"])
    with pytest.raises(ValueError, match=r"may lie deeper, in folders such as 'photo/dog'"):
        index_classes(tmp_path, allow_missing=True)


# ------------------------------------------------------------------------------------------
# index_images


def test_images_of_any_layout(tmp_path):
    root = make_tree(
        tmp_path / "mine", ["b.jpg", "dog/a.png", "photo/cat/1.jpg", "x/y/z/2.jpg", "dog/a.txt"]
    )
    (root / "photo" / "again").symlink_to(root / "dog", target_is_directory=True)
    (root / "dog" / "again").symlink_to(
        root / "photo", target_is_directory=True
    )  # a loop of two links
    table = index_images(root).set_index("path")
    expected = {
        "b.jpg": ("", "mine"),
        "dog/a.png": ("dog", "mine"),
        "photo/cat/1.jpg": ("cat", "photo"),
        "x/y/z/2.jpg": ("z", "y"),
    }
    assert {str(root / name): pair for name, pair in expected.items()} == {
        path: tuple(row)
        for path, row in zip(table.index, table[["label", "domain"]].to_numpy(), strict=True)
    }


def test_folders_without_any_image(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a folder of images"):
        index_images(tmp_path / "nowhere")
    make_tree(tmp_path, ["a/b/notes.txt"])
    with pytest.raises(ValueError, match=r"no images in .* and the folders below it"):
        index_images(tmp_path)


# ------------------------------------------------------------------------------------------
# check_folder


def save(path, seed=0, size=(40, 30), **options):
    """Save an image that differs from all others, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).save(path, **options)
    return path


@pytest.fixture
def sound(tmp_path):
    """Two domains with two classes of two images each."""
    root = tmp_path / "pets"
    for seed, (domain, class_, image) in enumerate(
        product(("art", "photo"), ("cat", "dog"), ("1", "2"))
    ):
        save(root / domain / class_ / f"{image}.jpg", seed)
    return root


@pytest.fixture
def ample(tmp_path):
    """Two domains with two classes of ten images each: enough to leave either out."""
    root = tmp_path / "ample"
    for seed, (domain, class_, image) in enumerate(
        product(("art", "photo"), ("cat", "dog"), range(10))
    ):
        save(root / domain / class_ / f"{image}.png", seed, size=(4, 4))
    return root


def write_bomb(path, side):
    """Write a PNG whose header promises side x side pixels."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def test_a_sound_folder(sound):
    report = check_folder(sound)
    assert report.sound
    assert report.dataset is None
    pd.testing.assert_frame_equal(report.images, index_folder(sound))
    assert report.counts.loc["dog"].to_dict() == {"art": 2, "photo": 2}
    assert "8 readable images, 2 domain(s), 2 classes" in str(report)
    pd.testing.assert_frame_equal(load_folder(sound), report.images)


def test_a_folder_that_can_be_divided(ample):
    report = check_folder(ample)
    assert report.ok
    assert report.hindrances == ()
    assert str(report).endswith("No problems found.")


def test_unusual_images_are_fine(sound):
    folder = sound / "art" / "cat"
    save(folder / "one pixel.png", 100, size=(1, 1))
    save(folder / 'it\'s "ä" 猫 #1.jpg', 101)
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(folder / "cmyk.jpg")
    Image.new("P", (5, 5), 3).save(folder / "palette.png")
    gray = np.linspace(0, 65535, 100).astype(np.uint16).reshape(10, 10)
    Image.fromarray(gray).save(folder / "gray16.png")
    report = check_folder(sound)
    assert report.sound
    assert report.counts.loc["cat", "art"] == 7
    assert all(read_image(path).mode == "RGB" for path in report.images["path"])


def test_unreadable_images_are_listed_and_skipped(sound):
    folder = sound / "art" / "cat"
    (folder / "zero.jpg").touch()
    (folder / "page.jpg").write_text("<html>404 Not Found</html>")
    write_bomb(folder / "bomb.png", 20_000)
    os.truncate(save(folder / "half.jpg", 50, size=(300, 300)), 4000)
    Image.fromarray(np.ones((2, 2), dtype=np.float32)).save(folder / "float.tif")
    report = check_folder(sound)
    assert not report.ok
    reasons = {Path(path).name: reason for path, reason in report.unreadable}
    assert {name: (word in reasons[name]) for name, word in {
        "zero.jpg": "zero bytes",
        "page.jpg": "not an image",
        "bomb.png": "400000000 pixels",
        "half.jpg": "truncated",
        "float.tif": "floating-point",
    }.items()} == dict.fromkeys(reasons, True)  # fmt: skip
    assert "unreadable images (5)" in str(report)
    assert len(report.images) == 8
    assert all(read_image(path) for path in report.images["path"])


@given(st.integers(0, 2000), st.sampled_from(["jpg", "png", "webp", "gif", "tif"]))
def test_the_check_and_read_image_agree_on_damaged_files(tmp_path_factory, cut, suffix):
    folder = tmp_path_factory.mktemp("data") / "domain" / "class"
    damaged = save(folder / f"damaged.{suffix}", size=(20, 20))
    save(folder / "sound.jpg", 1)
    os.truncate(damaged, max(0, damaged.stat().st_size - cut))
    try:
        read_image(damaged)
        readable = True
    except ValueError:
        readable = False
    report = check_folder(folder.parents[1])
    assert (str(damaged) in set(report.images["path"])) == readable
    assert (str(damaged) in dict(report.unreadable)) != readable


def test_an_empty_class_folder_and_a_domain_with_one_class(sound):
    (sound / "art" / "emu").mkdir()
    save(sound / "sketch" / "dog" / "1.png", 30)
    report = check_folder(sound)
    assert report.missing == {"art": ["emu"], "photo": ["emu"], "sketch": ["cat", "emu"]}
    assert "sketch: cat, emu" in str(report)
    with pytest.raises(ValueError, match="domains without some of the classes"):
        load_folder(sound)


def test_a_class_of_which_no_image_can_be_read_is_missing(sound):
    for image in (sound / "photo" / "dog").iterdir():
        image.write_bytes(b"")
    assert check_folder(sound).missing == {"photo": ["dog"]}


def test_links_in_a_loop_do_not_disturb_the_check(sound):
    (sound / "photo" / "up").symlink_to(sound, target_is_directory=True)
    assert check_folder(sound).sound


def test_a_pipe_a_socket_and_a_device_are_reported_and_not_waited_for(sound, monkeypatch):
    folder = sound / "photo" / "dog"
    monkeypatch.chdir(folder)  # the path of a socket must be short
    os.mkfifo(folder / "pipe.jpg")
    (folder / "link.png").symlink_to("pipe.jpg")
    (folder / "endless.jpg").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.jpg")
        found = dict(check_folder(sound).unreadable)
        with pytest.raises(ValueError, match=r"unreadable images \(4\)"):
            load_images(sound)
    assert set(found) == {
        str(folder / name) for name in ("pipe.jpg", "link.png", "endless.jpg", "socket.jpg")
    }
    assert all("a pipe, a folder or a device" in reason for reason in found.values())


@pytest.mark.parametrize("target", ["loop.jpg", "nowhere.jpg"])
def test_a_link_to_no_image_is_reported(sound, target):
    link = sound / "photo" / "dog" / "loop.jpg"
    link.symlink_to(target)
    ((path, reason),) = check_folder(sound).unreadable
    assert path == str(link)
    assert "loop.jpg" in reason
    with pytest.warns(UserWarning, match="loop.jpg"):
        assert str(link) not in set(load_folder(sound, accept_problems=True)["path"])


@pytest.fixture
def bursts(sound):
    """The sound folder, with three more images below each class folder of `art`."""
    for label in ("cat", "dog"):
        for i in range(3):
            save(
                sound / "art" / label / "patient_7" / "day_1" / f"{i}.jpg",
                20 + i + 10 * (label == "dog"),
            )
    return sound


def test_images_below_a_class_folder_are_counted_and_named(bursts):
    report = check_folder(bursts)
    left_out = {str(bursts / "art" / label / "patient_7" / "day_1"): 3 for label in ("cat", "dog")}
    assert report.left_out == left_out
    assert len(report.images) == 8
    assert "6 images are left out" in str(report)
    assert "patient_7" in str(report)
    with pytest.raises(ValueError, match=r"(?s)6 images are left out.*`nested` takes"):
        load_folder(bursts)


def test_splits_below_a_class_folder_are_named(bursts, tmp_path):
    for class_ in ("dog", "cat"):
        folder = bursts / "photo" / class_
        for split in ("Train", "val_set"):
            save(folder / split / "0.png")
    report = str(check_folder(bursts))
    assert "below a class folder. Splits (Train, val_set) are among them. Their folders" in report
    for domain in ("a", "b"):
        for split in ("train", "test"):
            save(tmp_path / "deep" / domain / "dog" / split / "0.png")
    said = r"such as 'dog/test' \(test, train: splits, of which `nested` takes all\): if 'dog' is"
    with pytest.raises(ValueError, match=said):
        check_folder(tmp_path / "deep")


def test_images_below_a_class_folder_are_taken_if_one_says_so(bursts):
    images = load_folder(bursts, nested=True)
    assert images.groupby(["domain", "label"]).size().to_dict() == {
        ("art", "cat"): 5, ("art", "dog"): 5, ("photo", "cat"): 2, ("photo", "dog"): 2,
    }  # fmt: skip
    theirs = [  # what torchvision, and with it DomainBed, takes
        (path, folder.classes[label], domain)
        for domain in ("art", "photo")
        for folder in [ImageFolder(bursts / domain)]
        for path, label in folder.samples
    ]
    assert sorted(images.itertuples(index=False, name=None)) == sorted(theirs)
    assert check_folder(bursts, nested=True).sound


def test_images_above_the_class_folders_are_counted_and_named(sound):
    save(sound / "overview.jpg", 40)
    save(sound / "photo" / "sheet.png", 41)
    assert check_folder(sound).left_out == {str(sound): 1, str(sound / "photo"): 1}


def test_nested_images_of_a_flat_folder(tmp_path):
    root = tmp_path / "imagenet-a"
    save(root / "n01498041" / "a.jpg", 1)
    save(root / "n01498041" / "more" / "b.jpg", 2)
    assert check_folder(root).left_out == {str(root / "n01498041" / "more"): 1}
    report = check_folder(root, nested=True)
    assert (len(report.images), report.left_out) == (2, {})
    assert set(report.images["label"]) == {"n01498041"}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    "splits", [("train", "val"), ("crossval", "full", "test", "train"), ("Test_set", "train2017")]
)
def test_splits_where_classes_should_be_are_recognized(tmp_path, splits, nested):
    for domain, split, label in product(("mnist", "svhn"), splits, "01"):
        save(tmp_path / domain / split / label / "0.png")
    with pytest.raises(
        ValueError,
        match=rf"mnist' is divided into {', '.join(splits)}: .* such as '0', lie one level deeper",
    ):
        check_folder(tmp_path, nested=nested)


def test_a_folder_whose_images_all_lie_deeper_is_told_the_way_out(tmp_path):
    for domain, label, patient in product(("north", "south"), ("cat", "dog"), "ab"):
        save(tmp_path / domain / label / patient / "0.png", len(label + domain) + ord(patient))
    with pytest.raises(ValueError, match="such as 'cat/a': if 'cat' is a class, `nested`") as error:
        check_folder(tmp_path)
    assert "Add images" not in str(error.value)
    assert len(check_folder(tmp_path, nested=True).images) == 8


@pytest.mark.parametrize("name", ["trainer", "test tube", "valley", "fulmar", "train_station"])
def test_a_class_may_begin_like_a_split(name):
    assert not is_split(name)


def test_a_class_may_be_called_train(tmp_path):
    for domain, label in product(("real", "sketch"), ("train", "bus")):
        save(tmp_path / domain / label / "0.png", len(domain + label))
    save(tmp_path / "real" / "train" / "burst" / "1.png", 2000)
    assert set(check_folder(tmp_path).images["label"]) == {"train", "bus"}


def test_splits_where_domains_should_be_are_recognized(sound, tmp_path):
    (sound / "art").rename(sound / "Train")
    (sound / "photo").rename(sound / "val")
    report = check_folder(sound)
    assert report.splits == ("the domains are Train, val",)
    assert "names that the splits of one data set have" in str(report)
    assert not report.sound
    for split, domain in product(("train", "test"), ("photo", "sketch")):
        save(tmp_path / "deep" / split / domain / "dog" / "0.png")
    message = r"'test' has no images.*such as 'photo/dog'.* name of a split.* give '.*deep/test'"
    with pytest.raises(ValueError, match=message):
        check_folder(tmp_path / "deep")


def test_splits_in_the_place_of_the_classes_are_recognized(tmp_path):
    for domain, split, i in product(("north", "south"), ("train", "Test"), range(2)):
        save(tmp_path / domain / split / f"{i}.png", len(domain + split) + 7 * i)
    report = check_folder(tmp_path)
    assert report.splits == ("the classes are Test, train",)
    assert not report.sound


@pytest.mark.parametrize("names", [["a.heic", "b.HEIC"], ["a.dng", "deep/b.DCM"]])
def test_images_of_kinds_that_are_not_read_are_counted(sound, names):
    folder = next(sound.glob("*/*"))
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not for us")
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.heic").write_bytes(b"")
    report = check_folder(sound)
    suffixes = [f".{name.split('.')[1].lower()}" for name in names]
    assert dict(report.not_read) == {suffix: suffixes.count(suffix) for suffix in suffixes}
    assert not report.ok
    assert f"  {suffixes[0]}: {suffixes.count(suffixes[0])} files" in str(report)
    with pytest.raises(ValueError, match="kinds of images that are not read"):
        load_folder(sound)
    with pytest.warns(UserWarning, match="kinds of images that are not read"):
        load_folder(sound, accept_problems=True)


def test_the_same_file_in_two_domains(sound):
    original, copy = sound / "art" / "cat" / "1.jpg", sound / "photo" / "dog" / "9.jpg"
    copy.write_bytes(original.read_bytes())
    report = check_folder(sound)
    assert report.duplicates == ((str(original), str(copy)),)
    assert report.repeats == ()
    assert "the same file in several domains (1)" in str(report)


def test_the_same_file_twice_in_a_domain(sound):
    cat, dog = sound / "art" / "cat", sound / "art" / "dog"
    (cat / "99.jpg").write_bytes((cat / "1.jpg").read_bytes())  # in one class
    (dog / "98.jpg").write_bytes((cat / "2.jpg").read_bytes())  # under two classes
    report = check_folder(sound)
    groups = [(cat / "1.jpg", cat / "99.jpg"), (cat / "2.jpg", dog / "98.jpg")]
    assert report.repeats == tuple(tuple(map(str, group)) for group in groups)
    assert report.duplicates == ()
    assert "the same file more than once in a domain" in str(report)
    assert f"{cat / '2.jpg'} = {dog / '98.jpg'}" in str(report)
    with pytest.raises(ValueError, match="more than once in a domain"):
        load_folder(sound)


def test_files_that_a_known_data_set_repeats_are_told_and_no_problem(sound, monkeypatch):
    (sound / "art" / "dog" / "98.jpg").write_bytes((sound / "art" / "cat" / "2.jpg").read_bytes())
    pets = replace(CATALOG["PACS"], name="pets", n_classes=2, versions=({"art": 5, "photo": 4},))
    monkeypatch.setitem(CATALOG, "pets", pets)
    report = check_folder(sound)
    assert len(report.repeats) == 1
    assert "(so it is in pets) (1)" in str(report)
    assert report.is_known
    assert len(load_folder(sound)) == 9


def test_counts_are_compared_with_a_known_data_set(sound):
    report = check_folder(sound, dataset="PACS")
    assert "2 classes; PACS has 7" in report.differences
    assert "photo: 4 images; PACS has 1,670" in report.differences
    assert check_folder(sound.rename(sound.with_name("VLCS"))).dataset == "VLCS"
    with pytest.raises(ValueError, match="unknown data set 'PAX'"):
        check_folder(sound.with_name("VLCS"), dataset="PAX")


def test_a_flat_folder_is_checked_by_its_name(tmp_path):
    root = tmp_path / "imagenet-a"
    for seed in range(3):
        save(root / "n01498041" / f"{seed}.jpg", seed)
    report = check_folder(root)
    assert report.images["domain"].unique().tolist() == ["imagenet-a"]
    assert report.differences == (
        "1 classes; imagenet-a has 200",
        "imagenet-a: 3 images; imagenet-a has 7,500",
    )


def test_it_goes_on_only_if_told_to(sound):
    (sound / "art" / "cat" / "zero.jpg").touch()
    with pytest.raises(
        ValueError, match=r"(?s)zero bytes.*Nothing was computed.*accept_problems=True"
    ):
        load_folder(sound)
    with pytest.warns(UserWarning, match=r"(?s)in spite of problems.*zero\.jpg"):
        images = load_folder(sound, accept_problems=True)
    assert len(images) == 8


def test_every_image_of_any_layout_is_opened(sound):
    pd.testing.assert_frame_equal(load_images(sound), index_images(sound))
    save(sound / "top.jpg", 20)
    (sound / "art" / "zero.jpg").touch()
    with pytest.raises(
        ValueError, match=r"(?s)images \(1\):.*zero bytes.*Nothing was computed.*accept_problems"
    ):
        load_images(sound)
    with pytest.warns(UserWarning, match=r"(?s)in spite of problems.*zero\.jpg"):
        images = load_images(sound, accept_problems=True)
    assert len(images) == 9
    assert str(sound / "art" / "zero.jpg") not in set(images["path"])
    for image in images["path"]:
        os.truncate(image, 0)
    with pytest.raises(ValueError, match="Nothing was computed"):
        load_images(sound, accept_problems=True)


def test_nothing_readable_is_never_accepted(tmp_path):
    make_tree(tmp_path, TREE)
    with pytest.raises(ValueError, match="0 readable images"):
        load_folder(tmp_path, accept_problems=True)


def test_long_lists_are_cut_in_print_only(sound):
    for i in range(30):
        (sound / "art" / "cat" / f"zero{i}.jpg").touch()
    report = check_folder(sound)
    assert len(report.unreadable) == 30
    assert "... and 20 more" in str(report)


def test_more_images_than_one_block(sound, monkeypatch):
    monkeypatch.setattr("icm_study.photographs.seen.BLOCK", 3)
    assert len(check_folder(sound).images) == 8


def test_command_line(ample, capsys):
    assert main([str(ample)]) == 0
    assert "No problems found" in capsys.readouterr().out
    (ample / "art" / "cat" / "zero.jpg").touch()
    assert main([str(ample)]) == 1
    assert "zero bytes" in capsys.readouterr().out
    assert main([str(ample / "nowhere")]) == 1
    assert "does not exist" in capsys.readouterr().err
    assert main([str(ample), "--dataset", "PAX"]) == 1
    assert "unknown data set" in capsys.readouterr().err


def test_the_module_is_the_command(ample):
    command = [sys.executable, "-m", "icm_study.photographs.check", str(ample)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, "No problems found" in done.stdout) == (0, True), done.stderr


@pytest.mark.slow
def test_pacs_is_sound(pacs_root):
    report = check_folder(pacs_root)
    assert report.dataset == "PACS"
    assert report.ok
    assert len(report.images) == 9991
