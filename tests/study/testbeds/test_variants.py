"""Variants of one data set: numbered as the source, never fitted on, judged among their own classes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from icm_study.experiments.evaluation import evaluate
from icm_study.experiments.variants import example_images, load_variants, run_variants
from PIL import Image

from icm_core.prediction import LinearProbe, class_prompts
from icm_study.animals.latents import STYLES, redraw_variant, sample_latents
from icm_study.animals.rendering import render
from icm_study.animals.silhouettes import load_silhouettes
from icm_study.embedding.files import embed_files
from icm_study.embedding.store import EmbeddingStore
from icm_study.encoders.loading import load_encoder
from icm_study.experiments.intervals import aggregate, unpack
from icm_study.fingerprint import fingerprint
from icm_study.photographs.folders import index_classes, index_images
from icm_study.photographs.imagenet import imagenet_classes, imagenet_templates
from icm_study.report.claims import variant_claims
from icm_study.report.figures import variants_figure
from icm_study.testbeds import animal_variants as variants
from icm_study.testbeds import imagenet_variants as imagenet_module
from icm_study.testbeds.animal_variants import animal_variants
from icm_study.testbeds.animal_world import animal_world, pixel_fingerprint
from icm_study.testbeds.imagenet_variants import imagenet_variants
from icm_study.testbeds.splits import variant_split

D = 24
SMALL = {"n_components": (4, 8, 16), "consistency_weights": (0.3, 3.0)}
WORLD = ("coat+scene", 0.9)


class StandInEncoder:
    """Embeds by fixed random maps of thumbnails and of letters, so that equal inputs have equal embeddings."""

    precision = "float32"
    embedding_dim = D

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.name, self.fingerprint = f"stand-in {seed}", f"weights {seed}"
        self._pixels = rng.normal(size=(3 * 4 * 4, D))
        self._letters = rng.normal(size=(128, D))

    def text_key(self, *texts):
        return {"weights": self.fingerprint, "tokens": fingerprint(*texts)}

    def resize(self, images):
        return torch.nn.functional.interpolate(images, size=(64, 64))

    def encode_images(self, images):
        small = torch.nn.functional.avg_pool2d(images.float(), 16).flatten(1).double().numpy()
        return self._unit((1 + small) @ self._pixels)  # 1: an image may be black all over

    def encode_text(self, texts):
        counts = np.array(
            [np.bincount(list(text.encode("ascii")), minlength=128) for text in texts]
        )
        return self._unit(counts @ self._letters)

    @staticmethod
    def _unit(X):
        return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def silhouettes():
    return load_silhouettes()


@pytest.fixture(scope="module", autouse=True)
def _hash_the_pixels_once(silhouettes):
    """Spare each test the rendering that the key in the store is made of; it is the same in all of them."""
    found = pixel_fingerprint(silhouettes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(variants, "pixel_fingerprint", lambda _: found)
        yield


@pytest.fixture
def store(tmp_path):
    return EmbeddingStore(tmp_path / "store")


# ---- ImageNet
# -------------------------------------------------------------------------------------------------

PLACES = (0, 1, 7, 30)  # of the classes, among ImageNet's 1,000
NAMES = [imagenet_classes()["wnid"].iloc[place] for place in PLACES]


def write_images(folder: Path, name: str, place: int, n: int, seed: int) -> None:
    """Write pictures of a class: its colour, and noise of its own."""
    rng = np.random.default_rng([seed, place])
    colour = np.random.default_rng(place).integers(60, 190, 3)
    (folder / name).mkdir(parents=True)
    for i in range(n):
        pixels = (colour + rng.normal(0, 40, (12, 16, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name / f"{i}.png")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Write the source (40 images of 4 classes), V2 (folders are numbers) and R (2 of the classes)."""
    root = tmp_path_factory.mktemp("imagenet")
    for place, name in zip(PLACES, NAMES, strict=True):
        write_images(root / "train", name, place, 20, seed=0)
        write_images(root / "V2", str(place), place, 6, seed=1)
    for place, name in list(zip(PLACES, NAMES, strict=True))[::2]:
        write_images(root / "R", name, place, 9, seed=2)
    return root


def tables(folders: Path) -> dict[str, Any]:
    found = {name: index_classes(folders / name) for name in ("train", "V2", "R")}
    return {"train": found.pop("train"), "variants": found}


@pytest.fixture(scope="module")
def imagenet(folders, tmp_path_factory):
    return imagenet_variants(
        StandInEncoder(), store=EmbeddingStore(tmp_path_factory.mktemp("store")), **tables(folders)
    )


def test_variants_are_numbered_as_the_training_images(imagenet):
    """Every row against its own file: label, variant and embedding."""
    encoder, test = StandInEncoder(), imagenet.test
    assert imagenet.classes == tuple(sorted(NAMES))
    assert imagenet.domains == ("V2", "R")
    assert test.sizes == {"row": 4 * 6 + 2 * 9, "feature": D}
    assert list(test.data_vars) == ["original"]  # no intervention touches a variant
    for table in (test, imagenet.source):
        for row in range(table.sizes["row"]):
            path = Path(str(table["path"].to_numpy()[row]))
            wnid = (
                NAMES[PLACES.index(int(path.parent.name))]
                if path.parent.name.isdigit()
                else path.parent.name
            )
            assert imagenet.classes[table["label"].to_numpy()[row]] == wnid
            pixels = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None]
            expected = encoder.encode_images(encoder.resize(pixels))[0]
            np.testing.assert_allclose(table["original"].to_numpy()[row], expected, atol=1e-6)
            if table is test:
                assert path.parent.parent.name == imagenet.domains[test["domain"].to_numpy()[row]]


def test_imagenet_has_its_words_and_templates(imagenet):
    words = imagenet_classes().set_index("wnid")["word"][list(imagenet.classes)].tolist()
    texts, names = class_prompts(words, imagenet_templates())
    assert len(texts) == 80 * len(NAMES)
    np.testing.assert_array_equal(imagenet.prompts["prompt"], StandInEncoder().encode_text(texts))
    assert [words[label] for label in imagenet.prompts["label"].to_numpy()] == names


def test_a_photo_is_called_so_whatever_the_training_folder_is_called(folders, store):
    """The captions of two trees that differ in the folder's name alone are the same."""
    given = tables(folders)
    renamed = given | {"train": given["train"].assign(domain="ILSVRC2012")}
    first, second = (
        imagenet_variants(StandInEncoder(), store=store, **each) for each in (given, renamed)
    )
    assert first.provenance["texts"] == second.provenance["texts"]


def test_the_split_divides_the_source_and_leaves_the_variants_whole(imagenet):
    data = variant_split(imagenet, seed=3)
    parts = [data.train, data.held_out, data.tests["in_distribution"]]
    paths = [path for part in parts for path in part["path"].to_numpy()]
    assert sorted(paths) == sorted(imagenet.source["path"].to_numpy())
    assert [part.sizes["row"] for part in parts] == [64, 8, 8]
    for part in parts:
        assert len(set(np.bincount(part["label"]))) == 1  # each class in the same proportion
    assert list(data.tests) == ["in_distribution", "V2", "R"]
    assert {name: sorted(labels) for name, labels in data.candidates.items()} == {
        "V2": [0, 1, 2, 3],
        "R": sorted(imagenet.classes.index(name) for name in NAMES[::2]),
    }
    other = variant_split(imagenet, seed=4)
    assert set(other.train["path"].to_numpy()) != set(data.train["path"].to_numpy())


def test_a_classifier_chooses_among_the_classes_of_the_variant(imagenet):
    """Zero-shot accuracy against a nearest-prototype classifier written here."""
    data = variant_split(imagenet, seed=0)
    table = evaluate(data, **SMALL)
    plain = table[(table["method"] == "plain") & (table["predictor"] == "zero-shot")].set_index(
        "condition"
    )
    prompts, labels = data.prompts["prompt"].to_numpy(), data.prompts["label"].to_numpy()
    means = np.array([prompts[labels == label].mean(axis=0) for label in range(4)])
    cosine = (
        data.tests["R"]["original"].to_numpy()
        @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    )
    y, among = data.tests["R"]["label"].to_numpy(), data.candidates["R"]
    restricted = 100 * np.mean(among[cosine[:, among].argmax(axis=1)] == y)
    assert plain.loc["R", "value"] == pytest.approx(restricted)
    assert restricted != pytest.approx(100 * np.mean(cosine.argmax(axis=1) == y))


def test_nothing_of_a_variant_is_used_to_fit_or_to_choose(imagenet):
    """Variants may hold anything: what is chosen, and what is measured elsewhere, stays as it is."""
    rng = np.random.default_rng(0)
    is_r = (imagenet.test["domain"] == 1).to_numpy()
    labels, originals = imagenet.test["label"].to_numpy(), imagenet.test["original"].to_numpy()
    altered = imagenet.test.assign_coords(
        label=(
            "row",
            np.where(is_r, labels[is_r][rng.integers(is_r.sum(), size=len(labels))], labels),
        )
    ).assign(original=(("row", "feature"), np.where(is_r[:, None], -originals, originals)))
    before, after = (
        evaluate(variant_split(e, seed=0), **SMALL)
        for e in (imagenet, dataclasses.replace(imagenet, test=altered))
    )
    chosen = ["method", "predictor", "intervention", "K", "consistency_weight", "condition"]
    pd.testing.assert_frame_equal(before[chosen], after[chosen])
    elsewhere = before["condition"] != "R"
    pd.testing.assert_frame_equal(before[elsewhere], after[elsewhere])
    assert not before[~elsewhere].equals(after[~elsewhere])


def test_runs_are_repeatable_and_differ_by_seed(folders, tmp_path):
    given = tables(folders)
    data = {"images": given["train"], "variants": given["variants"]}
    first, again = (
        run_variants(
            "imagenet",
            StandInEncoder(),
            EmbeddingStore(tmp_path / name),
            seeds=[0, 1],
            interventions=["image"],
            **data,
            **SMALL,
        )
        for name in ("one", "two")
    )
    pd.testing.assert_frame_equal(first, again)
    assert list(first["condition"].unique()) == ["in_distribution", "V2", "R"]
    assert first[
        ["dataset", "world", "shortcut", "target"]
    ].drop_duplicates().to_numpy().tolist() == [["imagenet", "imagenet", "unknown", "none"]]
    zero, one = (
        first[first["seed"] == seed].drop(columns="seed").reset_index(drop=True) for seed in (0, 1)
    )
    assert not zero.equals(one)
    # the interval over images pools both seeds
    pooled = aggregate(first, ["predictor", "method", "intervention", "condition"], over="images")
    assert (pooled["n_runs"] == 2).all()


def test_a_tiny_imagenet_shows_examples(imagenet):
    shown = example_images(imagenet, n=5)
    assert {name: images.shape for name, images in shown.items()} == dict.fromkeys(
        ["source", "V2", "R"], (5, 3, 128, 128)
    )


LAYOUTS = {"flat": "", "classes": "dog", "domains": "photo/dog"}  # where an image lies


@pytest.fixture(scope="module", params=LAYOUTS)
def elsewhere(request, tmp_path_factory):
    """Write images of no class of ImageNet, in one of three layouts."""
    root = tmp_path_factory.mktemp("elsewhere") / "pets"
    write_images(root, LAYOUTS[request.param] or ".", 500, 30, seed=5)
    return SimpleNamespace(layout=request.param, images=index_images(root))


def test_the_projection_can_be_estimated_on_any_folder(folders, elsewhere, imagenet, tmp_path):
    """Zero-shot behind a projection that is computed here, from the images of that folder alone."""
    encoder, store = StandInEncoder(), EmbeddingStore(tmp_path)
    found = imagenet_variants(
        encoder, store=store, projection_images=("pets", elsewhere.images), **tables(folders)
    )
    data = variant_split(found, seed=0)
    table = evaluate(data, **SMALL)

    pairs = embed_files(encoder, elsewhere.images, store)
    original, image = (
        pairs["original"].to_numpy().astype(float),
        pairs["image"].to_numpy().astype(float),
    )
    moved = original - image
    values, vectors = np.linalg.eigh((original.T @ original - moved.T @ moved) / len(moved))
    kept = vectors[:, values > 0]
    prompts, labels = data.prompts["prompt"].to_numpy() @ kept, data.prompts["label"].to_numpy()
    prompts /= np.linalg.norm(prompts, axis=1, keepdims=True)
    means = np.array([prompts[labels == label].mean(axis=0) for label in range(4)])
    test, among = data.tests["V2"], data.candidates["V2"]
    cosine = (
        test["original"].to_numpy()
        @ kept
        @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    )
    rows = table.set_index(["method", "predictor", "intervention", "condition"])
    row = rows.loc[("ICM auto", "zero-shot", "image", "V2")]
    assert row["K"] == kept.shape[1]
    right = among[cosine.argmax(axis=1)] == test["label"].to_numpy()
    np.testing.assert_array_equal(unpack(row), right)

    own = evaluate(variant_split(imagenet, seed=0), **SMALL)
    learnt = ["plain", "augmentation"]  # on the training images, as ever
    pd.testing.assert_frame_equal(
        *(each[each["method"].isin(learnt)].reset_index(drop=True) for each in (table, own))
    )
    assert not table[table["intervention"] == "image"].equals(own[own["intervention"] == "image"])
    kinds = ["image"] if elsewhere.layout == "flat" else ["image", "text", "image+text"]
    assert list(table["intervention"].unique()) == ["none", *kinds]


@pytest.mark.parametrize("named", [False, True])
def test_captioner_and_editor_get_the_images_of_the_projection(
    folders, store, tmp_path, monkeypatch, named
):
    asked = []

    def write(images, **options):
        asked.append((images["path"].tolist(), options))
        return ["a red dog"] * len(images), ["a blue dog"] * len(images)

    monkeypatch.setattr(imagenet_module, "text_pairs", write)
    write_images(tmp_path / "pets", "dog", 500, 5, seed=5)
    given, other = tables(folders), index_images(tmp_path / "pets")
    run_variants(
        "imagenet", StandInEncoder(), store, seeds=[0], images=given["train"], variants=given["variants"],
        projection_images=("pets", other) if named else None, captioner="some/coca", editor="llm", **SMALL,
    )  # fmt: skip
    options = {"captioner": "some/coca", "editor": "llm", "seed": 0, "cache": store.root}
    images, name = (other, "pets") if named else (given["train"], "imagenet")
    assert asked == [(images["path"].tolist(), {"name": name, **options})]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            lambda folders: index_classes(folders / "R"),
            "The variant 'R' has images in .*R.*projection are",
        ),
        (lambda folders: index_images(folders / "R" / NAMES[0]), "The variant 'R' has images in"),
        (
            lambda folders: index_images(folders),
            "The variant 'V2' has images in",
        ),  # all of them are below it
        (
            lambda folders: index_classes(folders / "train"),
            "for the projection has .*where the training images",
        ),
    ],
)
def test_the_projection_is_never_estimated_on_what_is_tested(
    folders, store, monkeypatch, images, message
):
    monkeypatch.setattr(
        StandInEncoder, "encode_images", None
    )  # it is said before anything is embedded
    with pytest.raises(ValueError, match=message):
        imagenet_variants(
            StandInEncoder(),
            store=store,
            projection_images=("other", images(folders)),
            **tables(folders),
        )


def bad(folders, what):
    """Arguments that are to be refused."""
    given = tables(folders)
    train, others = given["train"], given["variants"]
    r = others["R"]
    return {
        "no variant": (train, {}),
        "no ImageNet class": (train, {"R": r.assign(label="cat")}),
        "number out of range": (train, {"V2": others["V2"].replace({"label": {"30": "1000"}})}),
        "training labels of no ImageNet class": (
            train.replace({"label": {NAMES[0]: "cat"}}),
            others,
        ),
        "absent class": (train[train["label"] != NAMES[0]], others),
        "one class": (train, {"R": r[r["label"] == NAMES[0]]}),
        "the training folder": (train, {"R": train}),
        "some training images": (train, {"R": pd.concat([r, train.iloc[:1]])}),
    }[what]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no variant", "No variant is given"),
        ("no ImageNet class", "no ImageNet classes: 'cat'"),
        ("number out of range", "no ImageNet classes: '1000'"),
        ("training labels of no ImageNet class", "no ImageNet classes: 'cat'"),
        (
            "absent class",
            "The variant 'V2' has 1 classes that the source has not, such as number 0",
        ),
        ("one class", "The variant 'R' has images of 1 class"),
        ("the training folder", "where the training images are"),
        ("some training images", "where the training images are"),
    ],
)
def test_bad_imagenet_variants_are_refused(folders, store, what, message):
    train, others = bad(folders, what)
    with pytest.raises(ValueError, match=message):
        imagenet_variants(StandInEncoder(), train, others, store)


def test_a_link_to_the_training_folder_is_refused(folders, store, tmp_path):
    (tmp_path / "link").symlink_to(folders / "train", target_is_directory=True)
    train = index_classes(folders / "train")
    linked = train.assign(
        path=[
            path.replace(str(folders / "train"), str(tmp_path / "link")) for path in train["path"]
        ]
    )
    with pytest.raises(ValueError, match="where the training images are"):
        imagenet_variants(StandInEncoder(), train, {"R": linked}, store)


# ---- animal world
# ---------------------------------------------------------------------------------------------

N, SEED = 250, 3
STRENGTHS = {"coat_strength": 0.9, "scene_strength": 0.9}


def embed(silhouettes, store, **changes):
    given = {
        "encoder": StandInEncoder(),
        "reference": StandInEncoder(1),
        "seed": SEED,
        "n": N,
        **STRENGTHS,
    }
    return animal_variants(silhouettes=silhouettes, store=store, **given | changes)


@pytest.fixture(scope="module")
def animals(silhouettes, tmp_path_factory):
    store = EmbeddingStore(tmp_path_factory.mktemp("store"))
    return SimpleNamespace(store=store, environments=embed(silhouettes, store))


def variant(environments, name):
    return environments.test.isel(
        row=(environments.test["domain"] == environments.domains.index(name)).to_numpy()
    )


def drawn(silhouettes, part, **options):
    return sample_latents(silhouettes, part, seed=SEED, n=N, **STRENGTHS, **options)


def test_the_source_is_photos_and_so_are_its_oracle_pairs(animals, silhouettes):
    source, encoder = animals.environments.source, StandInEncoder()
    latents = drawn(silhouettes, "source", styles=["photo"])
    assert set(source["style"].to_numpy()) == {STYLES.index("photo")}
    redrawn = redraw_variant(latents, styles=["photo"], seed=SEED)
    np.testing.assert_array_equal(
        source["original"], encoder.encode_images(render(latents, silhouettes))
    )
    np.testing.assert_array_equal(
        source["oracle"], encoder.encode_images(render(redrawn, silhouettes))
    )
    assert set(source.data_vars) == {"original", "image", "oracle", "caption", "edit"}
    assert "domain" not in source.coords


@pytest.mark.parametrize(
    ("name", "styles", "shortcut"),
    [
        ("V2", ["photo"], "aligned"),
        ("R", ["cartoon", "painting"], "none"),
        ("Sketch", ["sketch"], "none"),
    ],
)
def test_a_variant_shows_test_animals_in_its_styles(animals, silhouettes, name, styles, shortcut):
    table = variant(animals.environments, name)
    latents = drawn(silhouettes, "test", styles=styles, shortcut=shortcut)
    np.testing.assert_array_equal(
        table["original"], StandInEncoder().encode_images(render(latents, silhouettes))
    )
    for column in latents:
        np.testing.assert_array_equal(table[column], latents[column])
    assert set(silhouettes.part[table["silhouette"].to_numpy()]) == {"test"}
    follows = (table["coat"] == table["label"]).to_numpy().mean()
    assert (follows > 0.8) == (shortcut == "aligned")


def test_the_reference_gets_all_of_a_wrong_and_the_rest_of_the_pool_right(animals, silhouettes):
    reference = StandInEncoder(1)
    source = drawn(silhouettes, "source", styles=["photo"])
    pool = drawn(silhouettes, "test", styles=["photo"], shortcut="none")
    probe = LinearProbe().fit(reference.encode_images(render(source, silhouettes)), source["label"])
    found = variant(animals.environments, "A")
    rows = found.coords.to_dataset().to_dataframe()
    on_a = probe.predict(reference.encode_images(render(rows, silhouettes)))
    assert np.mean(on_a == rows["label"]) == 0
    on_pool = probe.predict(reference.encode_images(render(pool, silhouettes))) == pool["label"]
    assert 0 < on_pool.sum() == len(pool) - len(rows)
    np.testing.assert_array_equal(rows["silhouette"], pool.loc[~on_pool, "silhouette"])
    np.testing.assert_array_equal(
        found["original"], StandInEncoder().encode_images(render(rows, silhouettes))
    )


def test_candidates_of_a_are_the_classes_that_it_has(animals):
    test = animals.environments.test
    keep = ~((test["domain"] == 3) & (test["label"] >= 6)).to_numpy()
    fewer = dataclasses.replace(animals.environments, test=test.isel(row=keep))
    data = variant_split(fewer, seed=0)
    assert data.candidates["A"].max() == 5
    assert data.candidates["V2"].max() == 9


def test_animals_are_embedded_once(animals, silhouettes, monkeypatch):
    monkeypatch.setattr(StandInEncoder, "encode_images", None)
    again = embed(silhouettes, animals.store)
    assert again.test.identical(animals.environments.test)
    assert again.source.identical(animals.environments.source)


@pytest.mark.parametrize(
    "change", [{"seed": 4}, {"coat_strength": 0.5}, {"reference": StandInEncoder(2)}]
)
def test_what_matters_changes_the_variants(animals, silhouettes, change):
    other = embed(silhouettes, animals.store, **change)
    assert not variant(other, "A").identical(variant(animals.environments, "A"))


def test_the_reference_is_not_the_encoder(silhouettes, store):
    with pytest.raises(ValueError, match="0 % on the variant A by construction"):
        embed(silhouettes, store, reference=StandInEncoder(0))


def test_by_default_the_biased_encoder_is_the_reference(silhouettes, store):
    environments = animal_variants(StandInEncoder(), silhouettes, store, n=60)
    assert environments.provenance["reference"] == "animal-world-biased"
    assert (
        environments.provenance["reference_weights"]
        == load_encoder("animal-world-biased").fingerprint
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 1}, "has images of 1 class"),
        ({"n": 12}, "classes that the source has not"),
        ({"scene_strength": 2.0}, "scene_strength=2.0 is not a probability"),
    ],
)
def test_bad_animal_variants_are_refused(silhouettes, store, change, message):
    with pytest.raises(ValueError, match=message):
        embed(silhouettes, store, **change)


def test_environments_that_are_no_variants_are_refused(silhouettes, store, imagenet):
    world = animal_world(StandInEncoder(), silhouettes, store, n=20)
    for environments in (world, dataclasses.replace(imagenet, test=None)):
        with pytest.raises(ValueError, match="are no variants of one source"):
            variant_split(environments, seed=0)


def test_too_few_rows_to_split_are_refused(imagenet):
    few = dataclasses.replace(imagenet, source=imagenet.source.isel(row=slice(0, 80, 20)))
    with pytest.raises(ValueError, match="too few"):
        variant_split(few, seed=0)


# ---- runs, verdicts, figures
# ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(animals, silhouettes):
    data = {"world": WORLD, "silhouettes": silhouettes, "reference": StandInEncoder(1), "n": N}
    return run_variants(
        "animal-world", StandInEncoder(), animals.store, seeds=[3, 4], interventions=["image", "image+text"],
        **data, **SMALL,
    )  # fmt: skip


def test_runs_of_the_animal_world_are_tidy(runs, animals):
    assert list(runs["condition"].unique()) == ["in_distribution", "V2", "R", "Sketch", "A"]
    assert runs[
        ["world", "shortcut", "strength", "encoder", "target"]
    ].drop_duplicates().to_numpy().tolist() == [
        ["coat+scene 0.9", "coat+scene", 0.9, "stand-in 0", "none"]
    ]
    one = evaluate(
        variant_split(animals.environments, SEED), interventions=["image", "image+text"], **SMALL
    )
    pd.testing.assert_frame_equal(runs[runs["seed"] == SEED][one.columns], one)


@pytest.mark.parametrize(("shortcut", "coat", "scene"), [("coat", 0.7, 0.0), ("scene", 0.0, 0.7)])
def test_a_world_names_what_the_shortcut_is_on(silhouettes, store, shortcut, coat, scene):
    found = load_variants(
        StandInEncoder(),
        store,
        world=(shortcut, 0.7),
        silhouettes=silhouettes,
        reference=StandInEncoder(1),
        n=60,
    )
    assert [found.provenance[f"{factor}_strength"] for factor in ("coat", "scene")] == [coat, scene]


def test_claims_are_about_each_variant_and_both_choices(runs):
    found = variant_claims(runs)
    assert len(found) == 2 * 2 * 4  # choices, predictors, variants
    assert found["statement"].is_unique
    wide = (
        runs[(runs["predictor"] == "linear probe") & (runs["condition"] == "A")]
        .set_index(["method", "intervention", "seed"])["value"]
        .sort_index()
    )
    gain = (wide["ICM auto", "image+text"] - wide["plain", "none"]).mean()
    row = found[
        found["statement"].str.contains("ICM linear probe, image and text")
        & found["statement"].str.contains("positive eigenvalues")
        & found["statement"].str.endswith("on A of animal-world")
    ]
    assert row["measured"].item().startswith(f"{gain:+.1f} points (")
    assert set(found["verdict"]) <= {"supported", "refuted", "not shown"}
    assert not found["statement"].str.contains("in_distribution").any()


def test_claims_of_several_encoders_are_refused(runs):
    with pytest.raises(ValueError, match="several encoders or worlds"):
        variant_claims(pd.concat([runs, runs.assign(encoder="another")]))


def test_the_figure_has_a_panel_for_each_variant(runs):
    means = aggregate(runs, ["predictor", "method", "intervention", "condition"])
    figure = variants_figure(means, "title")
    assert [axis.get_title(loc="left") or axis.get_title() for axis in figure.axes] == [
        "in distribution", "V2", "R", "Sketch", "A",
    ]  # fmt: skip
    drawn_values = sorted(
        x
        for box in figure.axes[2].containers
        for x in np.asarray(box.lines[0].get_xdata(), dtype=float)
    )
    expected = sorted(means.loc[means["condition"] == "R", "value"])
    np.testing.assert_allclose(drawn_values, expected)
    plt.close(figure)


def test_examples_of_the_animal_world_are_its_images(animals, silhouettes):
    shown = example_images(animals.environments, silhouettes, n=4)
    assert list(shown) == ["source", "V2", "R", "Sketch", "A"]
    for name, images in shown.items():
        table = (
            animals.environments.source if name == "source" else variant(animals.environments, name)
        )
        embedded = StandInEncoder().encode_images(torch.from_numpy(images))
        distance = (
            np.abs(embedded[:, None] - table["original"].to_numpy()[None]).max(axis=2).min(axis=1)
        )
        assert distance.max() < 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": []}, "there are no seeds"),
        ({"validations": ("intervened", "target")}, "no variant is the target"),
        ({"world": None}, "Nothing to embed"),
        ({"silhouettes": None}, "Nothing to embed"),
        ({"world": ("shape", 0.9)}, "The shortcut 'shape' is unknown"),
    ],
)
def test_bad_runs_are_refused(silhouettes, store, change, message):
    given = {
        "seeds": [0],
        "world": WORLD,
        "silhouettes": silhouettes,
        "reference": StandInEncoder(1),
        "n": 60,
    }
    with pytest.raises(ValueError, match=message):
        run_variants("animal-world", StandInEncoder(), store, **given | change)
