import os
import struct
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from icm_core.datasets import index_folder, read_image

PACS = Path(__file__).parents[2] / "shared/data/PACS"


@pytest.fixture
def pacs_root():
    if not PACS.is_dir():
        pytest.skip("the PACS images are not beside this checkout")
    return PACS


def pixels(path):
    return np.asarray(read_image(path))


# -------------------------------------------------------------------------------------------- read_image


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
    assert pixels(tmp_path / "alpha.png").tolist() == [[[255, 255, 255], [0, 0, 0], [255, 204, 204]]]


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


def test_decompression_bomb(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    (tmp_path / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )
    with pytest.raises(ValueError, match="decompression bomb"):
        read_image(tmp_path / "bomb.png")


# ------------------------------------------------------------------------------------------ index_folder


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
    extra = ("README.txt", ".git/x/y.jpg", "photo/notes.jpg", "photo/.cache/z.jpg", "photo/dog/.b.jpg")
    make_tree(tmp_path, [*extra, "photo/dog/labels.csv", "photo/dog/deeper/c.jpg", "photo/dog/Thumbs.db"])
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
    with pytest.raises(ValueError, match=r"no images in the class folder.*photo/emu.*\.jpg.*allow_missing"):
        index_folder(tmp_path)
    assert len(index_folder(tmp_path, allow_missing=True)) == 6


@pytest.mark.parametrize("allow_missing", [False, True])
def test_folders_that_are_no_data_set(tmp_path, allow_missing):
    with pytest.raises(FileNotFoundError, match="nowhere' does not exist; expected root/domain/class/image"):
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
    (tmp_path / "data/photo/dog/broken.jpg").symlink_to("nowhere.jpg")
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
