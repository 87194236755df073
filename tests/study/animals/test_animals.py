"""The animal world: safe reading, disjoint parts, exact shortcuts, true captions."""

import builtins
import gzip
import io
import os
import pickle
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from icm_study.animals import rendering
from icm_study.animals import silhouettes as silhouettes_module
from icm_study.animals.latents import (
    COATS,
    LEXICON,
    LIGHTS,
    SCENES,
    STYLES,
    captions,
    redraw_variant,
    sample_latents,
)
from icm_study.animals.rendering import IMAGE_SIZE, render
from icm_study.animals.silhouettes import (
    CLASSES,
    NEAR_DUPLICATE,
    PARTS,
    Silhouettes,
    load_silhouettes,
)
from icm_study.encoders.animal_clip import AnimalTokenizer

SHOWN = ["coat", "scene"]
seeds = st.integers(0, 2**31)
few = settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def silhouettes():
    return load_silhouettes()


# Reading the silhouettes


class Malicious:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "payload",
    [
        Malicious(os.system, "touch {}"),
        Malicious(builtins.eval, "open('{}', 'w')"),
        Malicious(open, "{}", "w"),
        Malicious(np.fromfile, "{}"),
        Malicious(np.load, "{}"),
        np.array([Malicious(os.mkdir, "{}")], dtype=object),
    ],
    ids=["os.system", "eval", "open", "np.fromfile", "np.load", "inside an object array"],
)
def test_unpickler_runs_nothing_but_numpy(payload, tmp_path):
    inner = payload.item() if isinstance(payload, np.ndarray) else payload
    function, arguments = inner.call
    inner.call = function, tuple(a.format(tmp_path / "made") for a in arguments)
    data = pickle.dumps(payload, protocol=3).replace(
        b"numpy._core.multiarray", b"numpy.core.multiarray"
    )
    with pytest.raises(pickle.UnpicklingError, match="only numpy arrays are allowed"):
        silhouettes_module._ArrayUnpickler(io.BytesIO(data)).load()
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "array", [np.arange(6, dtype=np.uint8).reshape(2, 3), np.arange(3), np.ones((2, 2))]
)
def test_unpickler_reads_plain_arrays(array):
    data = pickle.dumps(array, protocol=3).replace(
        b"numpy._core.multiarray", b"numpy.core.multiarray"
    )
    read = silhouettes_module._ArrayUnpickler(io.BytesIO(data)).load()
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Put a stand-in where the package of silhouettes is looked for; give the data file."""
    folder = tmp_path / "data" / "Animal_MNIST"
    folder.mkdir(parents=True)
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(silhouettes_module.importlib.util, "find_spec", lambda name: spec)
    return folder / "animal_data_version_3.gz"


def test_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(silhouettes_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps animal-mnist==0\.4"):
        silhouettes_module._read_array("data")


def test_missing_file(package):
    with pytest.raises(FileNotFoundError, match=rf"{package.name}.*force-reinstall"):
        silhouettes_module._read_array("data")


def damaged(how):
    whole = bytearray(gzip.compress(np.random.default_rng(0).bytes(5000)))
    if how == "no gzip":
        return b"<html>not found</html>"
    if how == "truncated":
        return bytes(whole[:2000])
    if how == "checksum":
        whole[-6] ^= 0xFF
        return bytes(whole)
    return bytes(whole[:10]) + b"\xff" * 50 + bytes(whole[60:])  # no valid compressed data


@pytest.mark.parametrize("how", ["no gzip", "truncated", "checksum", "garbled"])
def test_corrupt_file(package, how):
    package.write_bytes(damaged(how))
    with pytest.raises(FileNotFoundError, match=rf"{package.name}.*force-reinstall"):
        silhouettes_module._read_array("data")


def test_another_version_is_refused_before_it_is_unpickled(package, tmp_path):
    package.write_bytes(gzip.compress(pickle.dumps(Malicious(os.mkdir, str(tmp_path / "made")))))
    with pytest.raises(ValueError, match=r"SHA-256 .* expected 0a1390829189.*0\.4"):
        silhouettes_module._read_array("data")
    assert not (tmp_path / "made").exists()


def test_silhouettes_are_what_is_documented(silhouettes):
    assert silhouettes.images.shape == (len(silhouettes.label), 28, 28)
    assert silhouettes.images.dtype == np.uint8
    assert len(np.unique(silhouettes.images.reshape(-1, 784), axis=0)) == len(silhouettes.images)
    for c in range(len(CLASSES)):
        part = silhouettes.part[silhouettes.label == c]
        for name, share in PARTS.items():
            assert np.mean(part == name) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize(
    ("first", "second"), [("encoder", "source"), ("encoder", "test"), ("source", "test")]
)
def test_parts_share_no_animal(silhouettes, first, second):
    """Brute force over all pairs: none equal, mirrored or nearly so."""
    flat = silhouettes.images.reshape(-1, 784).astype(np.float32)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    mirrored = flat.reshape(-1, 28, 28)[:, :, ::-1].reshape(-1, 784)
    one, other = silhouettes.part == first, silhouettes.part == second
    assert (flat[one] @ flat[other].T).max() < NEAR_DUPLICATE
    assert (flat[one] @ mirrored[other].T).max() < NEAR_DUPLICATE


def test_near_duplicates_are_grouped():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 28, 28), dtype=np.uint8)
    nearly = images[1].copy()
    nearly[0, 0] += 9
    chain = np.concatenate([images, images[:1, :, ::-1], nearly[None], nearly[None, :, ::-1]])
    group = silhouettes_module._near_duplicates(chain)
    assert group[0] == group[5]
    assert group[1] == group[6] == group[7]
    assert len(set(group)) == 5


def test_save_and_load(silhouettes, tmp_path):
    silhouettes.save(tmp_path / "silhouettes.npz")
    loaded = Silhouettes.load(tmp_path / "silhouettes.npz")
    for name in ("images", "label", "part"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(silhouettes, name))


# Latent factors


def share(hits):
    """Observed share, and five standard errors of it."""
    return np.mean(hits), 5 * np.sqrt(0.25 / len(hits))


@pytest.mark.parametrize("part", list(PARTS))
@pytest.mark.parametrize("shortcut", ["aligned", "reversed"])
@pytest.mark.parametrize("strengths", [(0.0, 1.0), (0.5, 0.9), (0.9, 0.0), (1.0, 0.5)])
def test_shortcut_has_the_asked_strength(silhouettes, part, shortcut, strengths):
    n = 8000
    table = sample_latents(
        silhouettes,
        part,
        shortcut=shortcut,
        strengths=(strengths[0], strengths[1]),
        n=n,
    )
    points_to = table["label"] if shortcut == "aligned" else (table["label"] + 5) % 10
    for factor, strength, values in zip(SHOWN, strengths, (len(COATS), len(SCENES)), strict=True):
        expected = strength + (1 - strength) / values
        observed, error = share(table[factor] == points_to % values)
        assert abs(observed - expected) <= (error if 0 < expected < 1 else 0)
        if shortcut == "reversed":
            own, error = share(table[factor] == table["label"] % values)
            assert abs(own - (1 - strength) / values) <= error  # never its own, but by chance


def dependence(table, factor, on="label"):
    return stats.chi2_contingency(pd.crosstab(table[on], table[factor])).pvalue


def test_without_a_shortcut_nothing_depends_on_the_class(silhouettes):
    table = sample_latents(silhouettes, "test", shortcut="none", strengths=(0.9, 0.9), n=20_000)
    for factor in ("style", "coat", "scene", "light", "blur", "mirror"):
        assert dependence(table, factor) > 1e-3
    for factor in ("angle", "scale", "dx", "dy", "texture", "grain"):
        assert stats.f_oneway(*(rows[factor] for _, rows in table.groupby("label"))).pvalue > 1e-3


def test_the_two_shortcuts_are_drawn_independently(silhouettes):
    table = sample_latents(silhouettes, "source", strengths=(0.5, 0.5), n=20_000)
    table["coat follows"] = table["coat"] == table["label"]
    table["scene follows"] = table["scene"] == table["label"] % len(SCENES)
    assert dependence(table, "coat follows", on="scene follows") > 1e-3


@few
@given(seeds, st.floats(0, 1), st.floats(0, 1))
def test_strengths_share_their_random_numbers(silhouettes, seed, one, other):
    weak, strong = (
        sample_latents(silhouettes, "source", strengths=(rho, rho), seed=seed, n=200)
        for rho in sorted((one, other))
    )
    pd.testing.assert_frame_equal(weak.drop(columns=SHOWN), strong.drop(columns=SHOWN))
    for factor, values in (("coat", len(COATS)), ("scene", len(SCENES))):
        follows = strong[factor] == strong["label"] % values
        assert (
            follows | (strong[factor] == weak[factor])
        ).all()  # a change is always towards the shortcut


def test_every_animal_is_in_one_environment(silhouettes):
    table = sample_latents(silhouettes, "test", seed=3)
    np.testing.assert_array_equal(
        np.sort(table["silhouette"]), np.flatnonzero(silhouettes.part == "test")
    )
    np.testing.assert_array_equal(silhouettes.label[table["silhouette"]], table["label"])
    assert np.ptp(table["style"].value_counts()) <= 1


def test_seed_and_part_decide_the_draw(silhouettes):
    draw = sample_latents(silhouettes, "test", seed=1)
    pd.testing.assert_frame_equal(draw, sample_latents(silhouettes, "test", seed=1))
    assert not draw.equals(sample_latents(silhouettes, "test", seed=2))


def test_styles_can_be_restricted(silhouettes):
    table = sample_latents(silhouettes, "test", styles=("sketch", "photo"), n=50)
    assert set(table["style"]) == {STYLES.index("sketch"), STYLES.index("photo")}
    redrawn = redraw_variant(sample_latents(silhouettes, "test", n=50), styles=("cartoon",))
    assert set(redrawn["style"]) == {STYLES.index("cartoon")}


@few
@given(seeds)
def test_redrawing_keeps_the_animal(silhouettes, seed):
    table = sample_latents(silhouettes, "source", strengths=(1, 1), n=60, seed=seed)
    redrawn = redraw_variant(table.set_index(np.arange(60)[::-1]), seed=seed)
    assert list(redrawn.columns) == list(table.columns)
    for kept in ("silhouette", "label"):
        np.testing.assert_array_equal(redrawn[kept], table[kept])
    pd.testing.assert_frame_equal(redrawn, redraw_variant(table, seed=seed))


def test_redrawing_breaks_the_shortcut(silhouettes):
    table = sample_latents(silhouettes, "source", strengths=(1, 1), n=20_000)
    redrawn = redraw_variant(table)
    for factor in ("style", "coat", "scene", "light", "blur", "mirror"):
        assert dependence(redrawn, factor) > 1e-3
        both = pd.DataFrame({"before": table[factor], "after": redrawn[factor]})
        assert dependence(both, "after", on="before") > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"part": "validation"}, "part='validation' is unknown.*encoder"),
        ({"shortcut": "inverted"}, "shortcut='inverted' is unknown.*reversed"),
        ({"styles": ("photo", "oil")}, "styles=.*'oil'.*painting"),
        ({"styles": ()}, "one or more of"),
        ({"styles": "photo"}, "sequence of one or more"),
        ({"strengths": (1.5, 0)}, r"strengths=\(1\.5, 0\), of coat and scene"),
        ({"strengths": (0, -0.1)}, r"-0\.1\)"),
        ({"strengths": (0, float("nan"))}, "nan"),
        ({"n": 0}, "n=0: expected at least one image"),
    ],
)
def test_bad_draws(silhouettes, change, message):
    with pytest.raises(ValueError, match=message):
        sample_latents(silhouettes, **{"part": "test"} | change)


def test_bad_styles_of_a_redraw(silhouettes):
    with pytest.raises(ValueError, match="'oil'"):
        redraw_variant(sample_latents(silhouettes, "test", n=2), styles=("oil",))


# Rendering


@pytest.fixture(scope="module")
def latents(silhouettes):
    return sample_latents(silhouettes, "test", n=300, seed=5)


@pytest.fixture(scope="module")
def images(latents, silhouettes):
    return render(latents, silhouettes)


def test_images_have_the_documented_form(images):
    assert images.shape == (300, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert images.dtype == torch.uint8
    assert len(torch.unique(images.flatten(1), dim=0)) == 300


@few
@given(st.lists(st.integers(0, 299), min_size=1, max_size=40))
def test_pixels_depend_on_the_row_alone(silhouettes, latents, images, rows):
    """Neither the order of the rows, nor their number, nor the table's index matters."""
    torch.testing.assert_close(
        render(latents.iloc[rows], silhouettes), images[rows], rtol=0, atol=0
    )


def test_an_empty_table_renders_to_no_image(silhouettes, latents):
    assert render(latents.iloc[:0], silhouettes).shape == (0, 3, IMAGE_SIZE, IMAGE_SIZE)


@pytest.mark.parametrize("factor", ["style", "coat", "scene", "light", "blur", "mirror", "texture"])
def test_every_factor_shows(silhouettes, latents, images, factor):
    other = latents.copy()
    values = {
        "style": 4,
        "coat": 10,
        "scene": 8,
        "light": 3,
        "blur": 2,
        "mirror": 2,
        "texture": 96,
    }[factor]
    other[factor] = (other[factor] + 1) % values
    changed = (render(other, silhouettes) != images).flatten(1).any(1)
    assert changed.float().mean() > 0.95


def test_sketches_have_no_colour(latents, images):
    sketch = torch.tensor((latents["style"] == STYLES.index("sketch")).tolist())
    assert (images[sketch] == images[sketch][:, :1]).all()
    assert (images[~sketch] != images[~sketch][:, :1]).flatten(1).any(1).all()


def test_dim_light_is_darker_than_bright(silhouettes, latents):
    dim, normal, bright = (
        render(latents.assign(light=level), silhouettes).float().mean((1, 2, 3))
        for level in range(len(LIGHTS))
    )
    assert (dim < normal).all()
    assert (normal < bright).all()


def test_mirroring_mirrors_the_outline(silhouettes, latents):
    upright = latents.assign(angle=0.0, dx=0.0, dy=0.0)
    left, _ = rendering._pose(upright.assign(mirror=0), silhouettes)
    right, _ = rendering._pose(upright.assign(mirror=1), silhouettes)
    torch.testing.assert_close(left.flip(-1), right, rtol=0, atol=1e-4)


def test_an_unknown_style_is_refused(silhouettes, latents):
    with pytest.raises(ValueError, match=r"styles \[7\]; expected 0 to 3"):
        render(latents.iloc[:2].assign(style=[0, 7]), silhouettes)


# Captions


@few
@given(seeds, st.floats(0, 1))
def test_captions_tell_the_truth(silhouettes, seed, left_out):
    table = sample_latents(silhouettes, "test", n=80, seed=seed)
    for text, row in zip(
        captions(table, left_out=left_out, seed=seed), table.itertuples(), strict=True
    ):
        words = text.split()
        assert [w for w in words if w in CLASSES] == [CLASSES[row.label]]
        assert not (row.style == STYLES.index("sketch") and set(words) & set(COATS))
        for factor, values in LEXICON.items():
            named = [v for v in values if re.search(rf"\b{v}\b", text)]
            assert named in ([], [values[getattr(row, factor)]])


def test_every_word_of_a_caption_is_in_the_vocabulary(silhouettes):
    tokenizer = AnimalTokenizer.from_lexicon(context_length=24)
    table = sample_latents(silhouettes, "test", n=1000)
    ids = tokenizer(captions(table, left_out=0.0) + captions(table, left_out=0.5))
    assert (ids.max(1).values == tokenizer.vocab_size - 1).all()


@pytest.mark.parametrize("left_out", [0.0, 0.3, 1.0])
def test_factors_are_left_out_as_often_as_asked(silhouettes, left_out):
    table = sample_latents(silhouettes, "test", n=5000, styles=("photo", "cartoon", "painting"))
    texts = captions(table, left_out=left_out)
    for values in LEXICON.values():
        named, error = share([any(re.search(rf"\b{v}\b", text) for v in values) for text in texts])
        assert abs(named - (1 - left_out)) <= (error if 0 < left_out < 1 else 0)


def test_captions_depend_on_the_seed_only(silhouettes):
    table = sample_latents(silhouettes, "test", n=100)
    assert captions(table, seed=1) == captions(table, seed=1)
    assert captions(table, seed=1) != captions(table, seed=2)


def test_a_caption_reads_as_documented(silhouettes):
    row = sample_latents(silhouettes, "test", n=1).assign(
        label=2, style=0, coat=1, scene=0, light=0, blur=1
    )
    assert captions(row, left_out=0.0) == ["a blurry photo of a red cat on grass in dim light"]
    assert captions(row, left_out=1.0) == ["a image of a cat"]


def test_left_out_must_be_a_probability(silhouettes):
    with pytest.raises(ValueError, match=r"left_out=1\.5 is not a probability"):
        captions(sample_latents(silhouettes, "test", n=1), left_out=1.5)
