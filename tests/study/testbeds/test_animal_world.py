"""The animal world as a test bed: aligned, keyed by all that matters, each image embedded once."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from stand_ins import D, StandInEncoder

from icm_core.interventions import IMAGE_INTERVENTIONS, intervene_captions, intervene_images
from icm_core.prediction import class_prompts
from icm_study.animals import rendering
from icm_study.animals.latents import LEXICON, STYLES, captions, redraw_variant, sample_latents
from icm_study.animals.rendering import render
from icm_study.animals.silhouettes import CLASSES, load_silhouettes
from icm_study.embedding.store import EmbeddingStore
from icm_study.embedding.tables import Embedder
from icm_study.encoders.loading import load_encoder
from icm_study.testbeds import animal_world
from icm_study.testbeds.animal_world import TEMPLATES, AnimalWorld, pixel_fingerprint
from icm_study.testbeds.base import PROTOCOLS

N, SEED = 24, 3
STRENGTHS = (0.9, 0.9)


@pytest.fixture(scope="module")
def silhouettes():
    return load_silhouettes()


@pytest.fixture(scope="module", autouse=True)
def _hash_the_pixels_once(silhouettes):
    """Spare each test the rendering that the key in the store is made of."""
    found = pixel_fingerprint(silhouettes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            animal_world,
            "pixel_fingerprint",
            lambda given: found if given is silhouettes else pixel_fingerprint(given),
        )
        yield


@pytest.fixture(scope="module")
def bed(silhouettes):
    return AnimalWorld(n=N, silhouettes=silhouettes)


@pytest.fixture
def embedder(tmp_path):
    return Embedder(StandInEncoder(), EmbeddingStore(tmp_path / "store"), batch_size=N)


@pytest.fixture(scope="module")
def embedded(bed, tmp_path_factory):
    """Give data with the embedder that they come from."""
    store = EmbeddingStore(tmp_path_factory.mktemp("store"))
    embedder = Embedder(StandInEncoder(), store, batch_size=N)
    return SimpleNamespace(embedder=embedder, data=bed.embed(embedder, SEED))


# The tables


def test_source_rows_are_aligned(embedded, silhouettes):
    """Every variable against the embedding of what it should show, made here step by step."""
    source, encoder = embedded.data.source, embedded.embedder.encoder
    latents = sample_latents(silhouettes, "source", seed=SEED, n=N, strengths=STRENGTHS)
    redrawn = redraw_variant(latents, seed=SEED)
    words = captions(latents, left_out=0.0, seed=SEED)
    expected = {
        "original": encoder.encode_images(render(latents, silhouettes)),
        "image": encoder.encode_images(intervene_images(render(latents, silhouettes), seed=SEED)),
        "oracle": encoder.encode_images(render(redrawn, silhouettes)),
        "caption": encoder.encode_text(words),
        "edit": encoder.encode_text(intervene_captions(words, LEXICON, seed=SEED, keep=CLASSES)),
    }
    assert set(source.data_vars) == set(expected)
    for name, rows in expected.items():
        assert source[name].dims == ("row", "feature")
        np.testing.assert_array_equal(source[name], rows)
    np.testing.assert_array_equal(source["domain"], latents["style"])
    np.testing.assert_array_equal(source["oracle_domain"], redrawn["style"])
    for name in ("silhouette", "label", "coat", "scene", "light", "blur"):
        np.testing.assert_array_equal(source[name], latents[name])


def test_test_rows_come_under_three_conditions(embedded, silhouettes):
    test, encoder = embedded.data.test, embedded.embedder.encoder
    assert test.sizes == {"row": 3 * N, "feature": D}
    for shortcut in ("aligned", "none", "reversed"):
        rows = test.isel(row=(test["shortcut"] == shortcut).to_numpy())
        latents = sample_latents(
            silhouettes, "test", shortcut=shortcut, seed=SEED, n=N, strengths=STRENGTHS
        )
        images = encoder.encode_images(render(latents, silhouettes))
        np.testing.assert_array_equal(rows["original"], images)
        words = encoder.encode_text(captions(latents, left_out=0.0))
        np.testing.assert_array_equal(rows["caption"], words)
        for name in ("silhouette", "label", "coat", "scene"):
            np.testing.assert_array_equal(rows[name], latents[name])
    trained_on = embedded.data.source["silhouette"].to_numpy()
    assert not set(test["silhouette"].to_numpy()) & set(trained_on)


def test_prompts_name_the_classes(embedded):
    prompts, encoder = embedded.data.prompts, embedded.embedder.encoder
    texts, names = class_prompts(CLASSES, TEMPLATES)
    np.testing.assert_array_equal(prompts["prompt"], encoder.encode_text(texts))
    assert [CLASSES[i] for i in prompts["label"].to_numpy()] == names


def test_numbers_stand_for_styles_and_animals(embedded, bed):
    assert embedded.data.domains == bed.domains == STYLES
    assert embedded.data.classes == bed.words == CLASSES


@pytest.mark.parametrize(
    ("shortcut", "strength", "coat", "scene"),
    [("coat", 0.9, 0.9, 0), ("scene", 0.5, 0, 0.5), ("coat+scene", 1, 1, 1)],
)
def test_a_world_sets_the_strengths(bed, embedder, shortcut, strength, coat, scene):
    world = replace(bed, shortcut=shortcut, strength=strength, n=12)
    provenance = world.embed(embedder, 1).provenance
    assert (provenance["coat_strength"], provenance["scene_strength"]) == (coat, scene)
    assert (provenance["seed"], provenance["n"]) == (1, 12)
    assert world.world == f"{shortcut} {strength}"
    assert world.columns == {
        "dataset": "animal-world", "protocol": "leave-one-domain-out", "world": world.world,
        "shortcut": shortcut, "strength": strength,
    }  # fmt: skip


def test_single_interventions_join_the_source_table(bed, embedded, silhouettes):
    embedder, data = embedded.embedder, embedded.data
    more = bed.with_single_interventions(embedder, data)
    latents = sample_latents(silhouettes, "source", seed=SEED, n=N, strengths=STRENGTHS)
    images = render(latents, silhouettes)
    for name in IMAGE_INTERVENTIONS:
        expected = embedder.encoder.encode_images(intervene_images(images, [name], SEED))
        np.testing.assert_allclose(more.source[name], expected, atol=1e-6)
    xr.testing.assert_identical(more.source.drop_vars(list(IMAGE_INTERVENTIONS)), data.source)
    seen = embedder.encoder.seen_images
    bed.with_single_interventions(Embedder(embedder.encoder, embedder.store), data)
    assert embedder.encoder.seen_images == seen


# Embedded once


def test_batches_do_not_show(bed, embedded, embedder):
    whole = embedded.data
    pieces = bed.embed(Embedder(embedder.encoder, embedder.store, batch_size=7), SEED)
    for name in ("original", "image", "oracle", "caption", "edit"):
        np.testing.assert_allclose(pieces.source[name], whole.source[name], atol=1e-6)
    np.testing.assert_allclose(pieces.test["original"], whole.test["original"], atol=1e-6)


def test_nothing_is_embedded_twice(bed, embedder, silhouettes):
    encoder = embedder.encoder
    one_by_one = Embedder(encoder, embedder.store, batch_size=1)  # no batch is filled up
    first = bed.embed(one_by_one, SEED)
    seen = encoder.seen_images
    assert seen <= 6 * N  # original, image, oracle; three conditions
    again = bed.embed(Embedder(encoder, embedder.store), SEED)
    assert encoder.seen_images == seen
    for name in ("source", "test", "prompts"):
        xr.testing.assert_identical(getattr(again, name), getattr(first, name))
    assert again.provenance == first.provenance

    # another strength: only images that look different are new, the oracle's are all the same
    before, after = (
        sample_latents(silhouettes, "source", seed=SEED, n=N, strengths=(s, s)) for s in (0.9, 0.8)
    )
    changed = int((before != after).any(axis=1).sum())
    replace(bed, strength=0.8).embed(one_by_one, SEED)
    assert 0 < changed < N
    # the source with its intervention, and two test conditions
    assert encoder.seen_images - seen <= 2 * changed + 2 * N


def test_an_embedding_has_the_same_bits_whatever_is_embedded_with_it(bed, tmp_path):
    small = load_encoder("animal-world", "cpu")
    after_another = Embedder(small, EmbeddingStore(tmp_path / "a"), batch_size=16)
    replace(bed, strength=0.2).embed(after_another, SEED)
    one = bed.embed(after_another, SEED)
    alone = Embedder(small, EmbeddingStore(tmp_path / "b"), batch_size=16)
    other = bed.embed(alone, SEED)
    xr.testing.assert_identical(one.source.drop_attrs(), other.source.drop_attrs())
    xr.testing.assert_identical(one.test.drop_attrs(), other.test.drop_attrs())


def another_animal(bed):
    images = bed.silhouettes.images.copy()
    images[-1, 0, 0] ^= 1  # of an animal that is not shown
    return replace(bed, silhouettes=replace(bed.silhouettes, images=images))


@pytest.mark.parametrize(
    ("change", "encoder", "seed"),
    [
        (lambda bed: bed, StandInEncoder(), 4),
        (lambda bed: bed, StandInEncoder(1), SEED),
        (lambda bed: replace(bed, n=N + 1), StandInEncoder(), SEED),
        (lambda bed: replace(bed, strength=0.8), StandInEncoder(), SEED),
        (lambda bed: replace(bed, shortcut="coat"), StandInEncoder(), SEED),
        (another_animal, StandInEncoder(), SEED),
    ],
)
def test_whatever_changes_the_embeddings_changes_the_key(embedded, bed, change, encoder, seed):
    store = embedded.embedder.store
    files = set(store.root.iterdir())
    after = change(bed).embed(Embedder(encoder, store), seed)
    assert files < set(store.root.iterdir())
    assert after.provenance != embedded.data.provenance


@pytest.mark.parametrize("what", ["render", "captions", "intervene_images", "intervene_captions"])
def test_a_change_of_the_world_itself_changes_the_key(embedded, silhouettes, monkeypatch, what):
    place = rendering if what == "render" else animal_world  # where it is looked up
    made = getattr(place, what)
    others = {
        "render": lambda *a, **k: made(*a, **k) // 2,
        "intervene_images": lambda *a, **k: made(*a, **k) // 2,
    }
    words = lambda *a, **k: [f"{text} at last" for text in made(*a, **k)]  # noqa: E731
    monkeypatch.setattr(place, what, others.get(what, words))
    assert pixel_fingerprint(silhouettes) != embedded.data.provenance["pixels"]


def test_without_a_shortcut_one_stored_table_serves_every_strength(bed, embedder):
    bed.embed(embedder, SEED)
    before = set(embedder.store.root.iterdir())
    replace(bed, strength=0.5).embed(embedder, SEED)
    assert len(set(embedder.store.root.iterdir()) - before) == 3  # source, aligned, reversed


def test_embeddings_that_are_not_finite_are_not_kept(bed, embedder, monkeypatch):
    healthy = embedder.encoder.encode_images

    def broken(images):
        rows = healthy(images)
        rows[0, 0] = np.nan
        return rows

    monkeypatch.setattr(embedder.encoder, "encode_images", broken)
    with pytest.raises(ValueError, match="NaN or infinite"):
        bed.embed(embedder, SEED)
    assert [path.name for path in embedder.store.root.iterdir()] == ["facts"]


def test_a_store_that_cannot_be_written(bed, embedder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="Cannot write to the cache directory"):
        bed.embed(Embedder(embedder.encoder, EmbeddingStore(tmp_path / "file")), SEED)
    assert embedder.encoder.seen_images == 0


# What a page and an experiment ask


def test_a_target_is_a_style(bed, embedded, monkeypatch):
    assert bed.targets() == list(STYLES)
    monkeypatch.setattr(animal_world, "split", lambda data, target, **how: (data, target, how))
    for protocol, name, number in (
        ("leave-one-domain-out", "sketch", STYLES.index("sketch")), ("open class", None, None)
    ):  # fmt: skip
        split = replace(bed, protocol=protocol).split(embedded.data, name, 7)
        assert split == (embedded.data, number, {"protocol": protocol, "seed": 7})
    with pytest.raises(ValueError, match=r"Unknown: \['cubism'\]"):
        bed.targets(["cubism"])


def test_pixels_are_those_that_were_embedded(bed, embedded):
    encoder = embedded.embedder.encoder
    load, load_test = bed.loaders(encoder, SEED)
    rows = np.array([5, 0, 17, 5])
    for loader, table in ((load, embedded.data.source), (load_test, embedded.data.test)):
        given = [rows, table.sizes["row"] - 1 - rows]
        for some in given:
            expected = table["original"].to_numpy()[some]
            np.testing.assert_array_equal(encoder.encode_images(loader(some)), expected)


def test_images_are_rendered_once(bed, monkeypatch):
    load, _ = bed.loaders(StandInEncoder(), SEED)
    first = load(np.arange(3))
    monkeypatch.setattr("icm_study.animals.rendering.render", None)
    np.testing.assert_array_equal(load(np.array([2, 1])), first[[2, 1]])


def test_examples_are_images_by_what_they_show(bed):
    shown = bed.examples(n=5)
    assert list(shown) == [
        "source", "image intervention", "oracle", "test, no shortcut", "test, reversed",
    ]  # fmt: skip
    assert {images.shape for images in shown.values()} == {(5, 3, 64, 64)}
    assert {images.dtype for images in shown.values()} == {np.dtype(np.uint8)}
    assert not (shown["source"] == shown["image intervention"]).all()


def test_a_page_shows_the_tests_of_its_protocol_alone(bed, tmp_path):
    store = EmbeddingStore(tmp_path)
    every = bed.examples(n=2)
    for protocol, tests in zip(
        PROTOCOLS, (["test, no shortcut", "test, reversed"], [], ["test, no shortcut"]), strict=True
    ):
        shown = replace(bed, protocol=protocol).stored_examples(store, n=2)
        assert list(shown) == ["source", "image intervention", "oracle", *tests]
        for name, images in shown.items():
            np.testing.assert_array_equal(images, every[name])


def test_spurious_prompts_name_a_value_and_no_class(bed):
    assert len(bed.spurious) == sum(len(values) for values in LEXICON.values())
    assert "a sketch of an animal" in bed.spurious
    assert "an image of an animal in snow" in bed.spurious
    assert not any(name in prompt.split() for prompt in bed.spurious for name in CLASSES)


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shortcut": "light"}, "'light' is unknown; choose 'coat', 'scene' or 'coat"),
        ({"strength": 1.2}, r"The strength 1\.2 of the shortcut .* is no probability"),
        ({"strength": -1}, "The strength -1 of the shortcut"),
        ({"strength": np.nan}, "The strength nan of the shortcut"),
        ({"protocol": "open classes"}, "protocol='open classes' is unknown; choose one of"),
    ],
)
def test_bad_worlds_are_told_at_once(silhouettes, options, message):
    with pytest.raises(ValueError, match=message):
        AnimalWorld(silhouettes=silhouettes, **options)


def test_no_images_at_all(bed, embedder):
    with pytest.raises(ValueError, match="n=0: expected at least one image"):
        replace(bed, n=0).embed(embedder, 0)
    assert embedder.encoder.seen_images == 0
