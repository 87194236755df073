"""Images of more than 8 bits: the check sees few levels, and another range can be chosen."""

import struct
import zlib
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from icm_study.photographs.check import check_folder, load_folder, load_images, main
from icm_study.photographs.folders import read_image
from icm_study.text.answers import JsonlCache


def gradient(top, dtype, seed=0, bottom=0):
    """Make a picture of 64 x 64 pixels that reaches from `bottom` to `top`."""
    noise = np.random.default_rng(seed).uniform(bottom, top, (64, 64))
    noise[0, :2] = bottom, top
    return noise.astype(dtype)


def write(root, picture, suffix="png", domains=("hospital_1", "hospital_2"), n=10):
    """Write a folder of two classes; `picture(domain, seed)` gives the pixels."""
    numbers = iter(range(10_000))
    for domain, label, i in product(domains, ("normal", "pneumonia"), range(n)):
        path = root / domain / label / f"{i}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(domain, next(numbers))).save(path)
    return root


def levels(path):
    return len(np.unique(np.asarray(read_image(path))))


def test_12_bits_in_a_file_of_16_are_told(tmp_path, capsys):
    root = write(tmp_path / "xray", lambda _, seed: gradient(4095, np.uint16, seed))
    assert levels(root / "hospital_1" / "normal" / "0.png") == 17
    report = check_folder(root)
    assert report.few_levels == tuple(
        f"hospital_{i}: 20 gray images have values from 0 to 4,095 of 0 to 65,535, 16 of 256 levels"
        for i in (1, 2)
    )
    assert not report.sound
    assert main([str(root)]) == 1
    assert "give value_range: 'used'" in capsys.readouterr().out
    with pytest.raises(ValueError, match="read with few levels"):
        load_folder(root)
    assert main([str(root), "--value-range", "used"]) == 0
    assert main([str(root), "--value-range", "0", "4095"]) == 0


@pytest.mark.parametrize("value_range", ["used", (0, 4095)])
def test_12_bits_are_read_by_their_range(tmp_path, value_range):
    root = write(tmp_path / "xray", lambda _, seed: gradient(4095, np.uint16, seed))
    images = load_folder(root, value_range=value_range, cache=tmp_path / "cache")
    plain = check_folder(root).images
    assert images[["label", "domain"]].equals(plain[["label", "domain"]])
    for before, after in zip(plain["path"], images["path"], strict=True):
        values = np.asarray(Image.open(before)).astype(float)
        expected = np.round(values / 4095 * 255)
        got = np.asarray(read_image(after))
        assert np.abs(got - expected[..., None]).max() <= 0.5 + 1e-9
        np.testing.assert_array_equal(got, np.asarray(read_image(before, (0, 4095))))
    assert min(map(levels, images["path"])) > 200


def test_a_tilde_in_the_place_of_the_copies_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    root = write(tmp_path / "xray", lambda _, seed: gradient(4095, np.uint16, seed), n=2)
    images = load_folder(root, value_range="used", cache="~/cache", accept_problems=True)
    assert all(path.startswith(str(tmp_path / "home" / "cache")) for path in images["path"])
    cache = JsonlCache("~/answers.jsonl")
    cache.put({"key": 1}, "text")
    assert (tmp_path / "home" / "answers.jsonl").is_file()
    assert not (tmp_path / "~").exists()


def test_copies_are_made_once_and_another_range_is_another_file(tmp_path):
    root = write(tmp_path / "xray", lambda _, seed: gradient(4095, np.uint16, seed), n=2)
    given = {"cache": tmp_path / "cache", "accept_problems": True}
    first = load_folder(root, value_range="used", **given)
    times = [Path(path).stat().st_mtime_ns for path in first["path"]]
    again = load_folder(root, value_range=(0, 4095), **given)
    assert again["path"].tolist() == first["path"].tolist()
    assert [Path(path).stat().st_mtime_ns for path in again["path"]] == times
    other = load_folder(root, value_range=(0, 8000), **given)
    assert not set(other["path"]) & set(first["path"])
    assert max(np.asarray(read_image(path)).max() for path in other["path"]) == 131  # of 4095
    (root / "hospital_1" / "normal" / "0.png").write_bytes(
        (root / "hospital_1" / "normal" / "1.png").read_bytes()
    )
    with pytest.warns(UserWarning, match="more than once in a domain"):
        changed = load_folder(root, value_range="used", **given)
    assert (changed["path"] != first["path"]).tolist() == [True] + [False] * 7


def test_each_domain_is_read_by_its_own_range(tmp_path):
    """One hospital stores 12 bits, the other 16: by one range, the first would stay dark."""
    top = {"hospital_1": 4095, "hospital_2": 65535}
    root = write(tmp_path / "mixed", lambda domain, seed: gradient(top[domain], np.uint16, seed))
    assert [line[:10] for line in check_folder(root).few_levels] == ["hospital_1"]
    assert len(check_folder(root, value_range=(0, 65535)).few_levels) == 1
    images = load_folder(root, value_range="used", cache=tmp_path / "cache")
    brightest = {
        domain: max(np.asarray(read_image(path)).max() for path in paths)
        for domain, paths in images.groupby("domain")["path"]
    }
    assert brightest == {"hospital_1": 255, "hospital_2": 255}


def test_integers_beyond_16_bits_are_told_and_read(tmp_path):
    """Computed tomography: from -1,024, for air, to some 3,000, in 32-bit integers."""
    root = write(
        tmp_path / "ct", lambda _, seed: gradient(3000, np.int32, seed, bottom=-1024), "tif"
    )
    assert (
        "values from -1,024 to 3,000 of 0 to 65,535, 12 of 256" in check_folder(root).few_levels[0]
    )
    window = load_folder(root, value_range=(-160, 240), cache=tmp_path / "cache")
    values = np.asarray(Image.open(root / "hospital_1" / "normal" / "0.tif"))
    got = np.asarray(read_image(window["path"][0]))[..., 0]
    assert (got[values <= -160] == 0).all()
    assert (got[values >= 240] == 255).all()
    inside = (values > -160) & (values < 240)
    np.testing.assert_allclose(got[inside], (values[inside] + 160) / 400 * 255, atol=0.5)
    large = write(tmp_path / "large", lambda _, seed: gradient(10**6, np.int32, seed), "tif")
    assert "which are cut to 0 to 65,535" in check_folder(large).few_levels[0]
    assert check_folder(large, value_range="used").ok


def test_floating_point_pixels_are_read_by_a_range(tmp_path):
    root = write(tmp_path / "float", lambda _, seed: gradient(1, np.float32, seed), "tif")
    report = check_folder(root)
    assert len(report.unreadable) == 40
    assert "value_range=(low, high), or 'used'" in report.unreadable[0][1]
    for value_range in ("used", (0, 1)):
        images = load_folder(root, value_range=value_range, cache=tmp_path / "cache")
        values = np.asarray(Image.open(root / "hospital_2" / "normal" / "3.tif"))
        path = images["path"][23]
        assert Path(path).name.startswith("3-")
        np.testing.assert_allclose(np.asarray(read_image(path))[..., 1], values * 255, atol=0.501)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_picture_whose_zero_is_white_is_turned_over(tmp_path, dtype):
    top = 65535 if dtype == np.uint16 else 255
    path, values = tmp_path / "negative.tif", gradient(top, dtype)
    Image.fromarray(values).save(path)
    given = (0, 255) if dtype == np.float32 else None
    plain = np.asarray(read_image(path, given))
    zero_is = [struct.pack("<HHII", 262, 3, 1, white) for white in (1, 0)]
    assert path.read_bytes().count(zero_is[0]) == 1
    path.write_bytes(path.read_bytes().replace(*zero_is))
    np.testing.assert_array_equal(np.asarray(read_image(path, given)), 255 - plain)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_unreadable(tmp_path, value):
    root = write(tmp_path / "float", lambda _, seed: gradient(1, np.float32, seed), "tif")
    broken = gradient(1, np.float32)
    broken[3, 3] = value
    Image.fromarray(broken).save(root / "hospital_1" / "normal" / "0.tif")
    ((path, reason),) = check_folder(root, value_range="used").unreadable
    assert path.endswith("hospital_1/normal/0.tif")
    assert "no finite numbers" in reason


def test_images_of_8_bits_and_16_bits_that_are_full_stay_as_they_are(tmp_path):
    def picture(domain, seed):
        dtype, top = (np.uint8, 40) if domain == "dark" else (np.uint16, 65535)
        return gradient(top, dtype, seed)

    root = write(tmp_path / "set", picture, domains=("dark", "full"))
    assert check_folder(root).ok
    plain = load_folder(root)
    used = load_folder(root, value_range="used", cache=tmp_path / "cache")
    dark = plain["domain"] == "dark"
    assert used["path"][dark].tolist() == plain["path"][dark].tolist()
    for before, after in zip(plain["path"], used["path"], strict=True):
        np.testing.assert_array_equal(np.asarray(read_image(before)), np.asarray(read_image(after)))


def color_png(values):
    """Write a PNG file of 16-bit color by hand, since Pillow cannot."""

    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    height, width = values.shape
    rows = np.repeat(values[..., None], 3, axis=2).astype(">u2").reshape(height, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_16_bit_color_is_told_and_cannot_be_read_otherwise(tmp_path):
    places = list(product(("a", "b"), ("cat", "dog"), range(10)))
    for seed, (domain, label, i) in enumerate(places):
        path = tmp_path / "color" / domain / label / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(color_png(gradient(4095, np.uint16, seed)))
    for value_range in ("file", "used"):
        first, _ = check_folder(tmp_path / "color", value_range=value_range).few_levels
        assert first.startswith("a: 20 color images have values from 0 to 3,855 of 0 to 65,535")
        assert first.endswith("of 16-bit color no other range can be read")


def test_images_of_any_layout_are_read_by_a_range_too(tmp_path):
    root = write(tmp_path / "loose", lambda _, seed: gradient(1023, np.uint16, seed), n=2)
    with pytest.raises(ValueError, match=r"give value_range \(2\):"):
        load_images(root)
    with pytest.warns(UserWarning, match="give value_range"):
        assert len(load_images(root, accept_problems=True)) == 8
    images = load_images(root, value_range="used", cache=tmp_path / "cache")
    assert min(map(levels, images["path"])) > 200


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20),
    st.floats(-1e6, 1e6),
    st.floats(1e-3, 1e6),
)
def test_the_scale_is_linear_between_the_ends_and_cut_beyond(tmp_path_factory, values, low, width):
    path = tmp_path_factory.mktemp("float") / "row.tif"
    Image.fromarray(np.array([values], dtype=np.float32)).save(path)
    got = np.asarray(read_image(path, (low, low + width)))[0, :, 0]
    exact = [255 * min(max((float(np.float32(v)) - low) / width, 0.0), 1.0) for v in values]
    np.testing.assert_allclose(got, exact, atol=0.501)


@pytest.mark.parametrize("value_range", ["auto", (1, 1), (5, 0), (0, np.inf), (0, 1, 2)])
def test_what_is_no_range(tmp_path, value_range):
    root = write(tmp_path / "set", lambda _, seed: gradient(255, np.uint8, seed), n=1)
    with pytest.raises(ValueError, match=r"value_range is .*; expected 'file', 'used', or two"):
        load_folder(root, value_range=value_range)
    with pytest.raises(ValueError, match="value_range is"):
        load_images(root, value_range=value_range)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("n_spoilt", [1, 4])
def test_a_few_hot_pixels_hide_no_narrow_range(tmp_path, suffix, n_spoilt):
    """Twelve bits in sixteen, and in each image pixels at the end of the file's range."""
    for i, (domain, label) in enumerate(product("ab", ("cat", "dog"))):
        for j in range(10):
            values = np.random.default_rng(100 * i + j).integers(0, 4096, (64, 64))
            values.flat[: 4 + n_spoilt] = [0, 0, 0, 0, *[65535] * n_spoilt]
            path = tmp_path / "chest" / domain / label / f"{j}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values.astype(np.uint16)).save(path)
    report = check_folder(tmp_path / "chest")
    assert [flaw.split(":")[0] for flaw in report.few_levels] == ["a", "b"]
    assert all("16 of 256 levels" in flaw for flaw in report.few_levels)
    images = load_folder(tmp_path / "chest", value_range="used", cache=tmp_path / "cache")
    for path in images["path"]:
        levels = np.unique(np.asarray(read_image(path)))
        assert len(levels) > 200


def dim(seed, top):
    """Fall off from `top` to black, each image a little farther: smooth, as JPEG likes it."""
    ramp = np.linspace(0, 1, 40)
    return (top * np.outer(ramp, ramp ** (1 + seed / 20))).round().astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_12_bits_that_were_saved_as_8_by_the_range_of_16_are_told(tmp_path, suffix, channels):
    """Nothing in such a file says so, but that a whole domain is nearly black."""
    top = {"hospital_1": 16, "hospital_2": 255}

    def picture(domain, seed):
        gray = dim(seed, top[domain])
        return gray if channels == 1 else np.stack([gray] * 3, axis=-1)

    root = write(tmp_path / "xray", picture, suffix)
    (said,) = check_folder(root).few_levels
    assert said.startswith("hospital_1: 20 images of 8 bits have values from 0 to ")
    assert "were saved by a wider range than they use" in said
    with pytest.raises(ValueError, match="images of 8 bits have values"):
        load_folder(root, cache=tmp_path / "cache")
    for _ in range(2):  # the second time what was seen is read
        with pytest.warns(UserWarning, match="images of 8 bits have values"):
            load_folder(root, cache=tmp_path / "cache", accept_problems=True)


def test_one_bright_image_is_enough_for_a_dim_domain(tmp_path):
    night = write(tmp_path / "n", lambda _, i: dim(i, 9 if i % 20 else 90))
    ink = write(tmp_path / "i", lambda _, i: 255 * dim(i, 1))
    assert check_folder(night).few_levels == check_folder(ink).few_levels == ()
