"""Embedder: rows embedded once, batches that do not show, texts in shards; pairs, moments."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import tqdm
import xarray as xr
from linear_world import table
from PIL import Image
from stand_ins import D, StandInEncoder, linear_data

from icm_core.moments import PairMoments
from icm_study.embedding.files import embed_files
from icm_study.embedding.store import EmbeddingStore
from icm_study.embedding.tables import (
    INTERVENTIONS,
    PAIRS,
    Embedder,
    available,
    moments_of,
    pair_moments,
    pairs_in,
)
from icm_study.testbeds.splits import split


@pytest.fixture
def embedder(tmp_path):
    return Embedder(StandInEncoder(), EmbeddingStore(tmp_path / "store"), batch_size=4)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Six small images with their table."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(6):
        path = folder / f"{i}.png"
        Image.fromarray(rng.integers(256, size=(8, 10, 3), dtype=np.uint8)).save(path)
        rows.append((str(path), ("cat", "dog")[i % 2], "photo"))
    return pd.DataFrame(rows, columns=["path", "label", "domain"])


def pictures(n=10):
    pixels = np.random.default_rng(1).integers(256, size=(n, 3, 64, 64), dtype=np.uint8)
    return torch.from_numpy(pixels)


# Images in memory


@pytest.mark.parametrize("batch_size", [1, 3, 4, 10, 128])
def test_rows_are_as_given_whatever_the_batches(embedder, batch_size):
    pixels, encoder = pictures(), embedder.encoder
    order = np.array([3, 1, 1, 9, 0, 4, 3, 2])
    found = Embedder(encoder, embedder.store, batch_size).images(
        [f"picture {i}" for i in order], lambda rows: pixels[order[rows]]
    )
    assert found.shape == (8, 1, D)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, 0], encoder.encode_images(pixels[order]), atol=1e-6)


def test_the_bar_counts_images_that_are_new(embedder, monkeypatch, capsys):
    monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0)
    pixels = pictures()
    embedder.images(list("abcab"), lambda rows: pixels[rows])
    assert "| 0/3 [" in capsys.readouterr().err
    embedder.images(list("abcdefab"), lambda rows: pixels[rows])
    shown = capsys.readouterr().err
    assert "embedding by stand-in 0:   0%|" in shown
    assert "| 0/3 [" in shown


def test_a_key_can_stand_for_several_images(embedder):
    """Loaded as all first ones, then all second ones; given as rows of both."""
    pixels = pictures()
    flipped = pixels.flip(3)
    found = embedder.images(
        [str(i) for i in range(10)], lambda rows: torch.cat([pixels[rows], flipped[rows]])
    )
    assert found.shape == (10, 2, D)
    for place, expected in enumerate((pixels, flipped)):
        expected = embedder.encoder.encode_images(expected)
        np.testing.assert_allclose(found[:, place], expected, atol=1e-6)


def test_no_image_is_embedded_twice(embedder):
    pixels, loaded = pictures(), []

    def load(rows):
        loaded.append(rows.tolist())
        return pixels[rows]

    one_by_one = Embedder(embedder.encoder, embedder.store, batch_size=1)
    first = one_by_one.images(["a", "b", "a", "b", "c"], load)
    assert embedder.encoder.seen_images == 3
    np.testing.assert_array_equal(first[0], first[2])
    second = one_by_one.images(["c", "a", "d"], lambda rows: pixels[rows + 5])
    assert embedder.encoder.seen_images == 4
    np.testing.assert_array_equal(second[:2, 0], first[[4, 0], 0])
    assert sum(len(rows) for rows in loaded) == 3
    Embedder(embedder.encoder, embedder.store, batch_size=1).images(["a"], load)
    assert embedder.encoder.seen_images == 5  # what is in memory lives no longer than its owner


def test_what_others_embed_too_is_made_once(embedder, tmp_path):
    pixels, loaded = pictures(), []
    other = Embedder(StandInEncoder(seed=1), EmbeddingStore(tmp_path / "other"), batch_size=4)

    def load(rows):
        loaded.append(rows.tolist())
        return torch.cat([pixels[rows], pixels[rows].flip(3)])

    keys = list("abcabd")
    embedder.with_others([other]).images(keys, load)
    assert len(loaded) == 1
    found = other.images(keys, lambda rows: pytest.fail("it is known"))
    alone = Embedder(other.encoder, other.store, batch_size=4).images(keys, load)
    np.testing.assert_allclose(found, alone, atol=1e-6)
    embedder.images(["e"], load)  # without others they are not asked
    with pytest.raises(pytest.fail.Exception):
        other.images(["e"], lambda rows: pytest.fail("it is not known"))


def test_batches_are_always_full(embedder, monkeypatch):
    sizes, encode = [], embedder.encoder.encode_images
    monkeypatch.setattr(
        embedder.encoder, "encode_images", lambda batch: sizes.append(len(batch)) or encode(batch)
    )
    embedder.images([str(i) for i in range(10)], lambda rows: pictures()[rows])
    assert sizes == [4, 4, 4]


def test_rows_that_fill_a_batch_count_for_nothing(embedder, monkeypatch):
    """What is kept of a row is its first embedding, not that of a repetition."""
    pixels, encode = pictures(), embedder.encoder.encode_images
    noise = np.arange(4)[:, None].astype(np.float32)  # another place in the batch, other numbers
    monkeypatch.setattr(embedder.encoder, "encode_images", lambda batch: encode(batch) + noise)
    found = embedder.images(["a", "b", "c"], lambda rows: pixels[rows])
    np.testing.assert_allclose(found[:, 0] - encode(pixels[:3]), np.tile(noise[:3], D), atol=1e-5)


# Texts


def test_no_text_is_embedded_twice(embedder):
    one_by_one = Embedder(embedder.encoder, embedder.store, batch_size=1)
    words = ["a cat", "a dog", "a cat"]
    found = one_by_one.texts(words)
    assert embedder.encoder.seen_texts == 2
    np.testing.assert_array_equal(found, StandInEncoder().encode_text(words))
    one_by_one.texts(["a dog", "a cow"])
    assert embedder.encoder.seen_texts == 3


def test_prompts_are_numbered_by_class_and_stored(embedder):
    templates = ("a photo of a {}", "a sketch of a {}")
    prompts = embedder.prompts(["cat", "dog"], templates)
    texts = ["a photo of a cat", "a sketch of a cat", "a photo of a dog", "a sketch of a dog"]
    np.testing.assert_array_equal(prompts["prompt"], StandInEncoder().encode_text(texts))
    assert prompts["label"].to_numpy().tolist() == [0, 0, 1, 1]
    encoder = StandInEncoder()
    again = Embedder(encoder, embedder.store).prompts(["cat", "dog"], templates)
    assert encoder.seen_texts == 0
    xr.testing.assert_identical(again, prompts)


# Image files, with texts


def test_pairs_of_files_are_those_of_embed_files_and_their_texts(embedder, images):
    captions = [f"a red {label}" for label in images["label"]]
    edits = [f"a blue {label} {i}" for i, label in enumerate(images["label"])]
    found = embedder.pairs(images, (captions, edits))
    direct = embed_files(embedder.encoder, images, embedder.store)
    xr.testing.assert_identical(found.drop_vars(["caption", "edit"]), direct)
    np.testing.assert_array_equal(found["caption"], StandInEncoder().encode_text(captions))
    np.testing.assert_array_equal(found["edit"], StandInEncoder().encode_text(edits))
    xr.testing.assert_identical(embedder.pairs(images), direct)


def test_the_seed_is_that_of_the_image_interventions(embedder, images):
    zero, one = (embedder.pairs(images, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(zero["original"], one["original"])
    assert not zero["image"].equals(one["image"])


def test_what_is_stored_is_not_embedded_again(embedder, images):
    texts = [f"text {i}" for i in range(6)], [f"edit {i}" for i in range(6)]
    first = embedder.pairs(images, texts)
    encoder = StandInEncoder()
    again = Embedder(encoder, embedder.store).pairs(images, texts)
    assert encoder.seen_images == encoder.seen_texts == 0
    xr.testing.assert_identical(again, first)


@pytest.mark.parametrize(
    ("captions", "edits", "message"),
    [(2, 1, "2 captions and 1 edits for 6 images"), (6, 5, "6 captions and 5 edits for 6 images")],
)
def test_one_caption_and_edit_for_each_image(embedder, images, captions, edits, message):
    with pytest.raises(ValueError, match=message):
        embedder.pairs(images, (["a dog"] * captions, ["a cat"] * edits))
    assert embedder.encoder.seen_texts == embedder.encoder.seen_images == 0


@pytest.fixture
def small_shards(embedder):
    embedder.store.shard_size = 2


TEXTS = [f"caption {i}" for i in range(6)], [f"edit {i}" for i in range(6)]


@pytest.mark.usefixtures("small_shards")
def test_a_kill_loses_the_shard_of_texts_that_it_was_at_and_no_other(embedder, images, monkeypatch):
    whole = Embedder(StandInEncoder(), EmbeddingStore(embedder.store.root / "other"))
    expected = whole.pairs(images, TEXTS)
    encoder, encode = embedder.encoder, embedder.encoder.encode_text

    def killed(texts):
        if "edit 3" in texts:  # the second of three shards of edits
            raise KeyboardInterrupt
        return encode(texts)

    monkeypatch.setattr(encoder, "encode_text", killed)
    with pytest.raises(KeyboardInterrupt):
        embedder.pairs(images, TEXTS)
    assert len(list(embedder.store.root.glob("*.nc"))) == 4  # three of captions, one of edits

    fresh = StandInEncoder()
    found = Embedder(fresh, embedder.store, batch_size=2).pairs(images, TEXTS)
    assert fresh.seen_texts == 4  # of six captions and six edits
    xr.testing.assert_identical(found, expected)


@pytest.mark.usefixtures("small_shards")
def test_a_changed_text_costs_its_own_shard(embedder, images):
    embedder.pairs(images, TEXTS)
    captions = [*TEXTS[0][:-1], "another caption"]
    fresh = StandInEncoder()
    found = Embedder(fresh, embedder.store, batch_size=2).pairs(images, (captions, TEXTS[1]))
    assert fresh.seen_texts == 2
    np.testing.assert_array_equal(found["caption"], StandInEncoder().encode_text(captions))


@pytest.mark.usefixtures("small_shards")
def test_texts_of_another_encoder_are_other_texts(embedder, images):
    found = embedder.pairs(images, TEXTS)
    other = Embedder(StandInEncoder(1), embedder.store).pairs(images, TEXTS)
    assert not found["caption"].equals(other["caption"])


# Not finite


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("what", ["images", "text"])
def test_embeddings_that_are_not_finite_are_not_kept(embedder, images, monkeypatch, what, bad):
    encode = getattr(embedder.encoder, f"encode_{what}")

    def broken(given):
        rows = encode(given).copy()
        rows[-1, 0] = bad
        return rows

    monkeypatch.setattr(embedder.encoder, f"encode_{what}", broken)
    with pytest.raises(ValueError, match="NaN or infinite"):
        embedder.pairs(images, TEXTS)
    with pytest.raises(ValueError, match="NaN or infinite"):
        embedder.pairs(images, TEXTS if what == "text" else None)
    stored = [xr.load_dataset(path) for path in embedder.store.root.glob("*.nc")]
    assert all(np.isfinite(one.to_dataarray()).all() for one in stored)
    assert len(stored) == (0 if what == "text" else 2)  # the texts came first


# Moments of pairs


@pytest.fixture(scope="module")
def train():
    return split(linear_data(), 2).train


def test_a_table_says_what_it_has_pairs_of(train):
    assert available(train) == INTERVENTIONS
    assert available(train.drop_vars("oracle")) == ("image", "text", "image+text")
    assert available(train.drop_vars("caption")) == ("image", "oracle")
    assert available(train.drop_vars("original")) == ("text",)
    assert available(table({"label": [0]}, original=np.ones((1, 2)))) == ()


@pytest.mark.parametrize("kind", PAIRS)
def test_moments_are_those_of_the_pairs(train, kind):
    before, after = (train[name].to_numpy() for name in PAIRS[kind])
    direct = PairMoments(6).update(before, after)
    found = pair_moments(train, kind)
    np.testing.assert_allclose(found.S, direct.S)
    np.testing.assert_allclose(found.C, direct.C)
    np.testing.assert_array_equal(pairs_in(train, kind), (before, after))


@pytest.mark.parametrize("kind", PAIRS)
def test_images_of_one_group_are_held_out_together(train, kind):
    grouped = train.assign_coords(group=("row", np.arange(train.sizes["row"]) // 9))
    found, alone = pair_moments(grouped, kind), pair_moments(train, kind)
    np.testing.assert_allclose(found.S, alone.S)
    own = found._sum_pairs
    by_group = PairMoments(6).update(*pairs_in(train, kind), grouped["group"].to_numpy())._sum_pairs
    np.testing.assert_array_equal(own, alone._sum_pairs if kind == "text" else by_group)


def test_a_single_image_intervention_is_a_kind_of_pair(train):
    moved = train.assign(rotation=train["image"] + 1, invert=train["image"])
    found = pair_moments(moved, "invert")
    np.testing.assert_allclose(found.S, pair_moments(train, "image").S)
    with pytest.raises(ValueError, match="Unknown intervention 'rotation'"):
        pair_moments(moved, "rotation")


def test_moments_of_joined_interventions_count_equally(train):
    image, text, both = (pair_moments(train, kind) for kind in ("image", "text", "image+text"))
    np.testing.assert_allclose(both.S, (image.S + text.S) / 2)
    np.testing.assert_allclose(both.C, (image.C + text.C) / 2)


def test_text_pairs_that_change_nothing_do_not_count(train):
    odd = (np.arange(train.sizes["row"]) % 2)[:, None]
    half = train.assign(edit=train["edit"].where(odd, train["caption"]))
    changed = train.isel(row=slice(1, None, 2))
    np.testing.assert_allclose(pair_moments(half, "text").S, pair_moments(changed, "text").S)
    still = train.assign(image=train["image"].where(odd, train["original"]))
    direct = PairMoments(6).update(still["original"].to_numpy(), still["image"].to_numpy())
    np.testing.assert_allclose(pair_moments(still, "image").S, direct.S)  # an image's pairs do


def test_moments_of_any_pairs():
    rng = np.random.default_rng(0)
    given = {kind: (*rng.normal(size=(2, 9, 3)), None) for kind in ("a", "b")}
    each = [PairMoments(3).update(*pairs) for pairs in given.values()]
    np.testing.assert_allclose(moments_of("a+b", given.__getitem__).S, (each[0].S + each[1].S) / 2)


def test_pairs_of_other_data_stand_beside_those_of_the_source():
    data = linear_data()
    assert data.pairs is None
    assert replace(data, pairs=data.source).pairs is data.source
