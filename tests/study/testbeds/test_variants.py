"""Variants of one data set: numbered as the source, never fitted on, judged among their classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from stand_ins import D, StandInEncoder

from icm_core.prediction import LinearProbe, class_prompts
from icm_study.animals.latents import STYLES, redraw_variant, sample_latents
from icm_study.animals.rendering import render
from icm_study.animals.silhouettes import load_silhouettes
from icm_study.embedding.files import embed_files
from icm_study.embedding.store import EmbeddingStore
from icm_study.embedding.tables import Embedder
from icm_study.experiments.intervals import aggregate, unpack
from icm_study.experiments.run import Plan, run, run_task
from icm_study.experiments.task import make_task
from icm_study.photographs.folders import index_classes, index_images
from icm_study.photographs.imagenet import imagenet_classes, imagenet_templates
from icm_study.testbeds import animal_world
from icm_study.testbeds.animal_variants import AnimalVariants
from icm_study.testbeds.animal_world import AnimalWorld, pixel_fingerprint
from icm_study.testbeds.imagenet_variants import ImageNetVariants
from icm_study.testbeds.splits import variant_split
from icm_study.text.pairs import Texts

KINDS = ("image", "text", "image+text")
FEW = {"n_components": [16, 8, 4], "consistency_weight": [0.3, 3.0]}
PLAN = Plan(settings={f"ICM {kind}": FEW for kind in KINDS} | {"augmentation": {"C": [0.316]}})


@pytest.fixture(scope="module")
def silhouettes():
    return load_silhouettes()


@pytest.fixture(scope="module", autouse=True)
def _hash_the_pixels_once(silhouettes):
    """Spare each test the rendering that the key in the store is made of."""
    found = pixel_fingerprint(silhouettes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(animal_world, "pixel_fingerprint", lambda _: found)
        yield


@pytest.fixture
def store(tmp_path):
    return EmbeddingStore(tmp_path / "store")


def embedder(store, seed=0):
    return Embedder(StandInEncoder(seed), store)


def evaluate(bed, store, data=None, seed=0):
    """Measure CLIP-ICM and the simplest rivals on the variants of a test bed."""
    by = embedder(store)
    data = bed.embed(by, seed) if data is None else data
    return run_task(make_task(bed, by, data, None, seed), PLAN).drop(columns="fit_seconds")


CHOSEN = ["method", "predictor", "choice", "K", "consistency_weight", "condition"]


# ImageNet

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
    """Write the source (80 images of 4 classes), V2 (folders are numbers) and R (2 classes)."""
    root = tmp_path_factory.mktemp("imagenet")
    for place, name in zip(PLACES, NAMES, strict=True):
        write_images(root / "train", name, place, 20, seed=0)
        write_images(root / "V2", str(place), place, 6, seed=1)
    for place, name in list(zip(PLACES, NAMES, strict=True))[::2]:
        write_images(root / "R", name, place, 9, seed=2)
    return root


def tables(folders: Path) -> dict[str, pd.DataFrame]:
    return {name: index_classes(folders / name) for name in ("train", "V2", "R")}


def variants_in(folders: Path, **options) -> ImageNetVariants:
    found = tables(folders)
    return ImageNetVariants("imagenet", found.pop("train"), found, **options)


@pytest.fixture(scope="module")
def bed(folders):
    return variants_in(folders)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return EmbeddingStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def imagenet(bed, kept):
    return bed.embed(embedder(kept), 0)


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


def test_a_photo_is_called_so_whatever_the_training_folder_is_called(bed, store):
    """The captions of two trees that differ in the folder's name alone are the same."""
    renamed = replace(bed, name="ILSVRC2012", images=bed.images.assign(domain="ILSVRC2012"))
    first, second = (each.embed(embedder(store), 0) for each in (bed, renamed))
    assert first.provenance["texts"] == second.provenance["texts"]
    np.testing.assert_array_equal(first.source["caption"], second.source["caption"])


def test_the_outline_of_folders_has_all_that_a_split_goes_by(bed, imagenet):
    (foreseen,) = bed.foreseen(bed.targets(), 0)
    split = bed.split(imagenet, None, 0)
    for name, test in split.tests.items():
        np.testing.assert_array_equal(foreseen.tests[name]["label"], test["label"])
    np.testing.assert_array_equal(foreseen.train["label"], split.train["label"])


def test_the_split_divides_the_source_and_leaves_the_variants_whole(bed, imagenet):
    data = bed.split(imagenet, None, seed=3)
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


def test_a_classifier_chooses_among_the_classes_of_the_variant(bed, imagenet, kept):
    """Zero-shot accuracy against a nearest-prototype classifier written here."""
    data, table = bed.split(imagenet, None, 0), evaluate(bed, kept, imagenet)
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


def test_nothing_of_a_variant_is_used_to_fit_or_to_choose(bed, imagenet, kept):
    """Variants may hold anything: what is chosen, and measured elsewhere, stays as it is."""
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
        evaluate(bed, kept, data) for data in (imagenet, replace(imagenet, test=altered))
    )
    pd.testing.assert_frame_equal(before[CHOSEN], after[CHOSEN])
    elsewhere = before["condition"] != "R"
    pd.testing.assert_frame_equal(before[elsewhere], after[elsewhere])
    assert not before[~elsewhere].equals(after[~elsewhere])


def test_runs_are_repeatable_and_differ_by_seed(bed, tmp_path):
    first, again = (
        run([bed], embedder(EmbeddingStore(tmp_path / name)), [0, 1], plan=PLAN).drop(
            columns="fit_seconds"
        )
        for name in ("one", "two")
    )
    pd.testing.assert_frame_equal(first, again)
    assert list(first["condition"].unique()) == ["in_distribution", "V2", "R"]
    told = ["dataset", "world", "shortcut", "target", "protocol"]
    assert first[told].drop_duplicates().to_numpy().tolist() == [
        ["imagenet", "imagenet", "unknown", "none", "variants"]
    ]
    zero, one = (
        first[first["seed"] == seed].drop(columns="seed").reset_index(drop=True) for seed in (0, 1)
    )
    assert not zero.equals(one)
    # the interval over images pools both seeds
    pooled = aggregate(first, ["predictor", "method", "choice", "condition"], over="images")
    assert (pooled["n_runs"] == 2).all()


def test_a_tiny_imagenet_shows_examples(bed):
    shown = bed.examples(n=5)
    assert {name: images.shape for name, images in shown.items()} == dict.fromkeys(
        ["source", "V2", "R"], (5, 3, 128, 128)
    )


def test_pixels_of_imagenet_are_those_that_were_embedded(bed, imagenet):
    encoder, rows = StandInEncoder(), np.array([2, 0, 41])
    for load, table in zip(bed.loaders(encoder, 0), (imagenet.source, imagenet.test), strict=True):
        found = encoder.encode_images(load(rows))
        np.testing.assert_allclose(found, table["original"].to_numpy()[rows], atol=1e-6)


LAYOUTS = {"flat": "", "classes": "dog", "domains": "photo/dog"}  # where an image lies


@pytest.fixture(scope="module", params=LAYOUTS)
def elsewhere(request, tmp_path_factory):
    """Write images of no class of ImageNet, in one of three layouts."""
    root = tmp_path_factory.mktemp("elsewhere") / "pets"
    write_images(root, LAYOUTS[request.param] or ".", 500, 30, seed=5)
    return SimpleNamespace(layout=request.param, images=index_images(root))


def test_a_choice_without_the_images_that_are_fitted_on_is_told_before_anything_is_embedded(
    folders, elsewhere
):
    bed = variants_in(folders, others=("pets", elsewhere.images))
    with pytest.raises(ValueError, match="pairs of other images, and the choice 'unseen"):
        run([bed], None, [0], plan=Plan(choices=["unseen intervention"]))
    with pytest.raises(ValueError, match="The sources have one domain"):
        run([bed], None, [0], plan=Plan(choices=["left-out domain"]))


def test_the_projection_can_be_estimated_on_any_folder(folders, elsewhere, bed, imagenet, tmp_path):
    """Zero-shot behind a projection that is computed here, from that folder's images alone."""
    by = embedder(EmbeddingStore(tmp_path))
    other = variants_in(folders, others=("pets", elsewhere.images))
    found = other.embed(by, 0)
    data, table = other.split(found, None, 0), evaluate(other, by.store, found)

    pairs = embed_files(by.encoder, elsewhere.images, by.store)
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
    rows = table.set_index(["method", "predictor", "condition"])
    row = rows.loc[("ICM auto image", "zero-shot", "V2")]
    assert row["K"] == kept.shape[1]
    right = among[cosine.argmax(axis=1)] == test["label"].to_numpy()
    np.testing.assert_array_equal(unpack(row), right)

    own = evaluate(bed, by.store, imagenet)
    learnt = ["plain", "tuned penalty", "augmentation"]  # on the training images, as ever
    pd.testing.assert_frame_equal(
        *(each[each["method"].isin(learnt)].reset_index(drop=True) for each in (table, own))
    )
    icm = [each[each["method"] == "ICM auto image"] for each in (table, own)]
    assert icm[0]["correct"].tolist() != icm[1]["correct"].tolist()
    kinds = KINDS[:1] if elsewhere.layout == "flat" else KINDS
    icm = {f"{way} {kind}" for way in ("ICM", "ICM auto") for kind in kinds}
    icm |= {f"tuned penalty, {way} {kind}" for way in ("ICM", "chosen ICM") for kind in kinds}
    assert set(table["method"]) == {*learnt, *icm}


@pytest.mark.parametrize("named", [False, True])
def test_captioner_and_editor_get_the_images_of_the_projection(
    folders, store, tmp_path, monkeypatch, named
):
    asked = []

    def write(texts, images, name, cache):
        asked.append((texts, images["path"].tolist(), name, cache))
        return ["a red dog"] * len(images), ["a blue dog"] * len(images)

    monkeypatch.setattr(Texts, "write", write)
    write_images(tmp_path / "pets", "dog", 500, 5, seed=5)
    given, other, texts = tables(folders), index_images(tmp_path / "pets"), Texts("coca", "llm")
    bed = variants_in(folders, texts=texts, others=("pets", other) if named else None)
    bed.embed(embedder(store), 0)
    images, name = (other, "pets") if named else (given["train"], "imagenet")
    assert asked == [(texts, images["path"].tolist(), name, store.root)]
    assert ("`pets`" in bed.note) == named


def below(folders, *names):
    """List the images of some folders, in a table."""
    return pd.concat([index_images(folders / name) for name in names], ignore_index=True)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            lambda folders: index_classes(folders / "R"),
            "The variant 'R' has images in .*R.*projection are",
        ),
        (lambda folders: index_images(folders / "R" / NAMES[0]), "The variant 'R' has images in"),
        (lambda folders: below(folders, "V2", "R"), "The variant 'V2' has images in"),
        (
            lambda folders: index_classes(folders / "train"),
            "for the projection has .*where the training images",
        ),
        (index_images, "for the projection has .*where the training images"),  # all are below it
    ],
)
def test_the_projection_is_never_estimated_on_what_is_tested(folders, images, message):
    with pytest.raises(ValueError, match=message):  # before anything is embedded
        variants_in(folders, others=("other", images(folders)))


def bad(folders, what):
    """Arguments that are to be refused."""
    others = tables(folders)
    train, r = others.pop("train"), others["R"]
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
def test_bad_imagenet_variants_are_refused(folders, what, message):
    with pytest.raises(ValueError, match=message):
        ImageNetVariants("imagenet", *bad(folders, what))


@pytest.mark.parametrize("names", [["V2"], []])
def test_every_variant_is_a_test_and_none_is_left_out(bed, names):
    assert bed.targets() == [None]
    with pytest.raises(ValueError, match="every variant is a test, and none is left out"):
        bed.targets(names)


def test_a_link_to_the_training_folder_is_refused(folders, tmp_path):
    (tmp_path / "link").symlink_to(folders / "train", target_is_directory=True)
    train = index_classes(folders / "train")
    linked = train.assign(
        path=[
            path.replace(str(folders / "train"), str(tmp_path / "link")) for path in train["path"]
        ]
    )
    with pytest.raises(ValueError, match="where the training images are"):
        ImageNetVariants("imagenet", train, {"R": linked})


# Animals

N, SEED = 250, 3
STRENGTHS = (0.9, 0.9)


@pytest.fixture(scope="module")
def animals(silhouettes):
    return AnimalVariants(StandInEncoder(1), n=N, silhouettes=silhouettes)


@pytest.fixture(scope="module")
def farm(animals, tmp_path_factory):
    store = EmbeddingStore(tmp_path_factory.mktemp("store"))
    return SimpleNamespace(store=store, data=animals.embed(embedder(store), SEED))


def variant(data, name):
    return data.test.isel(row=(data.test["domain"] == data.domains.index(name)).to_numpy())


def drawn(silhouettes, part, **options):
    return sample_latents(silhouettes, part, seed=SEED, n=N, strengths=STRENGTHS, **options)


def test_the_source_is_photos_and_so_are_its_oracle_pairs(farm, silhouettes):
    source, encoder = farm.data.source, StandInEncoder()
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
def test_a_variant_shows_test_animals_in_its_styles(farm, silhouettes, name, styles, shortcut):
    table = variant(farm.data, name)
    latents = drawn(silhouettes, "test", styles=styles, shortcut=shortcut)
    np.testing.assert_array_equal(
        table["original"], StandInEncoder().encode_images(render(latents, silhouettes))
    )
    for column in latents:
        np.testing.assert_array_equal(table[column], latents[column])
    assert set(silhouettes.part[table["silhouette"].to_numpy()]) == {"test"}
    follows = (table["coat"] == table["label"]).to_numpy().mean()
    assert (follows > 0.8) == (shortcut == "aligned")


def test_the_reference_gets_all_of_a_wrong_and_the_rest_of_the_pool_right(farm, silhouettes):
    reference = StandInEncoder(1)
    source = drawn(silhouettes, "source", styles=["photo"])
    pool = drawn(silhouettes, "test", styles=["photo"], shortcut="none")
    probe = LinearProbe().fit(reference.encode_images(render(source, silhouettes)), source["label"])
    found = variant(farm.data, "A")
    rows = found.coords.to_dataset().to_dataframe()
    on_a = probe.predict(reference.encode_images(render(rows, silhouettes)))
    assert np.mean(on_a == rows["label"]) == 0
    on_pool = probe.predict(reference.encode_images(render(pool, silhouettes))) == pool["label"]
    assert 0 < on_pool.sum() == len(pool) - len(rows)
    np.testing.assert_array_equal(rows["silhouette"], pool.loc[~on_pool, "silhouette"])
    np.testing.assert_array_equal(
        found["original"], StandInEncoder().encode_images(render(rows, silhouettes))
    )


def test_candidates_of_a_are_the_classes_that_it_has(animals, farm):
    test = farm.data.test
    keep = ~((test["domain"] == 3) & (test["label"] >= 6)).to_numpy()
    fewer = replace(farm.data, test=test.isel(row=keep))
    data = animals.split(fewer, None, seed=0)
    assert data.candidates["A"].max() == 5
    assert data.candidates["V2"].max() == 9


def test_animals_are_embedded_once(animals, farm, monkeypatch):
    monkeypatch.setattr(StandInEncoder, "encode_images", None)
    again = animals.embed(embedder(farm.store), SEED)
    assert again.test.identical(farm.data.test)
    assert again.source.identical(farm.data.source)


@pytest.mark.parametrize(
    ("change", "seed"),
    [({}, 4), ({"strength": 0.5}, SEED), ({"reference": StandInEncoder(2)}, SEED)],
)
def test_what_matters_changes_the_variants(animals, farm, change, seed):
    other = replace(animals, **change).embed(embedder(farm.store), seed)
    assert not variant(other, "A").identical(variant(farm.data, "A"))


def test_the_reference_is_not_the_encoder(animals, store):
    with pytest.raises(ValueError, match=r"by construction.*such as 'animal-world'"):
        replace(animals, reference=StandInEncoder(0)).embed(embedder(store), SEED)


def test_the_reference_is_told_where_its_weights_are_needed(animals, farm):
    provenance = farm.data.provenance
    assert (provenance["reference"], provenance["reference_weights"]) == ("stand-in 1", "weights 1")
    assert animals.encoders == [animals.reference]
    assert "`stand-in 1`" in animals.note


@pytest.mark.parametrize(
    ("change", "message"),
    [({"n": 1}, "has images of 1 class"), ({"n": 12}, "classes that the source has not")],
)
def test_too_few_animals_are_refused(animals, store, change, message):
    with pytest.raises(ValueError, match=message):
        replace(animals, **change).embed(embedder(store), SEED)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strength": 2.0}, r"The strength 2\.0 of the shortcut .* is no probability"),
        ({"shortcut": "shape"}, "The shortcut 'shape' is unknown"),
    ],
)
def test_bad_worlds_of_variants_are_told_at_once(animals, change, message):
    with pytest.raises(ValueError, match=message):
        replace(animals, **change)


def test_data_that_are_no_variants_are_refused(silhouettes, store, imagenet):
    world = AnimalWorld(n=20, silhouettes=silhouettes).embed(embedder(store), 0)
    for data in (world, replace(imagenet, test=None)):
        with pytest.raises(ValueError, match="are no variants of one source"):
            variant_split(data, seed=0)


def test_too_few_rows_to_split_are_refused(imagenet):
    few = replace(imagenet, source=imagenet.source.isel(row=slice(0, 80, 20)))
    with pytest.raises(ValueError, match="too few"):
        variant_split(few, seed=0)


# Runs


@pytest.fixture(scope="module")
def runs(animals, farm):
    return run([animals], embedder(farm.store), [3, 4], plan=PLAN)


def test_runs_of_the_animal_world_are_tidy(runs, animals, farm):
    assert list(runs["condition"].unique()) == ["in_distribution", "V2", "R", "Sketch", "A"]
    told = ["dataset", "world", "shortcut", "strength", "encoder", "target"]
    assert runs[told].drop_duplicates().to_numpy().tolist() == [
        ["animal-world", "coat+scene 0.9", "coat+scene", 0.9, "stand-in 0", "none"]
    ]
    one = evaluate(animals, farm.store, farm.data, SEED)
    pd.testing.assert_frame_equal(runs[runs["seed"] == SEED][one.columns], one)


def test_nothing_can_be_chosen_on_the_variants(animals, farm):
    task = make_task(animals, embedder(farm.store), farm.data, None, SEED)
    with pytest.raises(ValueError, match="no single test is the target here"):
        run_task(task, replace(PLAN, choices=("intervened", "target")))


@pytest.mark.parametrize(("shortcut", "coat", "scene"), [("coat", 0.7, 0.0), ("scene", 0.0, 0.7)])
def test_a_world_names_what_the_shortcut_is_on(animals, store, shortcut, coat, scene):
    world = replace(animals, shortcut=shortcut, strength=0.7, n=60)
    found = world.embed(embedder(store), 0)
    assert [found.provenance[f"{name}_strength"] for name in ("coat", "scene")] == [coat, scene]
    assert world.world == f"{shortcut} 0.7"


def test_methods_that_change_the_encoder_are_refused(animals):
    with pytest.raises(ValueError, match="cannot be run on variants"):
        animals.loaders(StandInEncoder(), 0)


def test_examples_of_the_animal_world_are_its_images(animals, store):
    shown = animals.examples(n=4)
    assert list(shown) == ["source", "V2", "R", "Sketch", "A"]
    data = animals.embed(embedder(store), 0)  # examples are those of the first seed
    for name, images in shown.items():
        if name == "A":  # they are of the pool that it is picked from
            continue
        table = data.source if name == "source" else variant(data, name)
        embedded = StandInEncoder().encode_images(torch.from_numpy(images))
        distance = np.abs(embedded[:, None] - table["original"].to_numpy()[None]).max(axis=2)
        assert distance.min(axis=1).max() < 1e-6
