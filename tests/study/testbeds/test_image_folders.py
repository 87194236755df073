"""A folder of images as a test bed: its images are its data, embedded once, split anew by seeds."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from stand_ins import StandInEncoder

from icm_study.animals.latents import STYLES
from icm_study.animals.rendering import write_folder
from icm_study.animals.silhouettes import CLASSES, load_silhouettes
from icm_study.embedding.files import embed_files
from icm_study.embedding.store import EmbeddingStore
from icm_study.embedding.tables import Embedder
from icm_study.experiments.clusters import count_groups
from icm_study.experiments.intervals import aggregate, unpack
from icm_study.experiments.run import Plan, run
from icm_study.photographs.check import load_folder
from icm_study.photographs.folders import index_folder
from icm_study.testbeds.base import PROTOCOLS
from icm_study.testbeds.image_folder import ImageFolder, squares
from icm_study.text.pairs import Texts, text_pairs

PER_CLASS = 5  # in each of four domains
FEW = {"n_components": [8], "consistency_weight": [1.0]}
PLAN = Plan(
    choices=("intervened", "target"),
    settings={"augmentation": {"C": [0.316]}, "ICM image": FEW | {"n_components": [8, 4]}}
    | {f"ICM {kind}": FEW for kind in ("text", "image+text")},
)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "animals on file"
    return load_folder(write_folder(folder, load_silhouettes(), per_class=PER_CLASS))


@pytest.fixture(scope="module")
def bed(images):
    return ImageFolder("animals", images)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    return Embedder(StandInEncoder(), EmbeddingStore(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def table(bed, embedder):
    return run([bed], embedder, [0, 1], plan=PLAN)


def shipped():
    """An encoder that ships with the project, by its name: it knows the animal world's words."""
    encoder = StandInEncoder()
    encoder.name = "animal-world"
    return encoder


# The data


def test_the_example_folder_has_every_class_in_every_style(images):
    assert images.groupby(["domain", "label"]).size().eq(PER_CLASS).all()
    assert set(images["domain"]) == set(STYLES)
    assert set(images["label"]) == set(CLASSES)


def test_the_data_of_a_folder_are_its_images(bed, images, embedder):
    data, encoder = bed.embed(embedder, 0), embedder.encoder
    source = data.source
    assert data.test is None
    assert data.tested is source
    assert data.domains == bed.domains == tuple(sorted(STYLES))
    assert data.classes == bed.classes == bed.words == tuple(sorted(CLASSES))
    assert [data.domains[i] for i in source["domain"].to_numpy()] == images["domain"].tolist()
    assert [data.classes[i] for i in source["label"].to_numpy()] == images["label"].tolist()
    direct = embed_files(encoder, images, embedder.store)
    for name in ("original", "image"):
        np.testing.assert_array_equal(source[name], direct[name])
    prompts = [f"a photo of a {name}" for name in data.classes]
    np.testing.assert_allclose(data.prompts["prompt"], encoder.encode_text(prompts), atol=1e-5)
    assert data.prompts["label"].to_numpy().tolist() == list(range(10))


def test_its_texts_are_those_that_are_written_for_it(bed, images, embedder):
    source = bed.embed(embedder, 0).source
    captions, edits = text_pairs(images, name="animals")
    np.testing.assert_allclose(source["caption"], embedder.encoder.encode_text(captions), atol=1e-6)
    np.testing.assert_allclose(source["edit"], embedder.encoder.encode_text(edits), atol=1e-6)


def test_who_writes_the_texts_can_be_chosen(images, embedder, monkeypatch):
    def write(self, images, name, cache):
        assert (self.captioner, self.editor, name) == ("some/coca", "llm", "animals")
        assert cache == embedder.store.root
        return [f"a red {label}" for label in images["label"]], ["a blue dog"] * len(images)

    monkeypatch.setattr(Texts, "write", write)
    bed = ImageFolder("animals", images, Texts("some/coca", "llm"))
    source = bed.embed(embedder, 0).source
    expected = embedder.encoder.encode_text([f"a red {label}" for label in images["label"]])
    np.testing.assert_allclose(source["caption"], expected, atol=1e-6)
    assert "some/coca" in bed.note


@pytest.mark.parametrize("why", ["the encoder knows too few words", "none are asked for"])
def test_a_folder_without_texts(bed, embedder, why):
    if why == "none are asked for":
        bed = replace(bed, has_texts=False)
    else:
        embedder = Embedder(shipped(), embedder.store)
    assert set(bed.embed(embedder, 0).source.data_vars) == {"original", "image"}


def test_a_folder_is_the_same_whatever_the_seed(bed, embedder):
    zero, one = (bed.embed(embedder, seed) for seed in (0, 1))
    assert zero.source.identical(one.source)
    assert zero.provenance == one.provenance
    assert zero.provenance["seed"] == 0


def test_provenance_tells_images_texts_and_encoder_apart(bed, images, embedder):
    first = bed.embed(embedder, 0).provenance
    fewer = images.drop(index=0).reset_index(drop=True)
    others = {
        "pixels": (ImageFolder("animals", fewer), embedder),
        "texts": (ImageFolder("animals", images, templates=("a {}",)), embedder),
        "weights": (bed, Embedder(StandInEncoder(1), embedder.store)),
        "dataset": (ImageFolder("beasts", images), embedder),
    }
    for name, (other, by) in others.items():
        assert other.embed(by, 0).provenance[name] != first[name]


def test_words_of_a_known_data_set_are_those_of_its_prompts(tmp_path):
    rows = [
        (f"{domain}/{label}/{i}.jpg", label, domain)
        for domain in ("Art", "Product")
        for label in ("Alarm_Clock", "TV")
        for i in range(10)
    ]
    images = pd.DataFrame(rows, columns=["path", "label", "domain"])
    assert ImageFolder("OfficeHome", images).words == ("alarm clock", "TV")


# Runs


def test_the_table_has_every_domain_as_the_target(table):
    assert list(table["target"].unique()) == sorted(STYLES)
    assert set(table["seed"]) == {0, 1}
    assert set(table["condition"]) == {"in_distribution", "unseen"}
    assert (table[["dataset", "world", "shortcut"]] == ["animals", "animals", "unknown"]).all(
        axis=None
    )
    kinds = {"image", "text", "image+text"}
    icm = {f"{way} {kind}" for way in ("ICM", "ICM auto") for kind in kinds}
    tuned = {f"tuned penalty, {way} {kind}" for way in ("ICM", "chosen ICM") for kind in kinds}
    tuned |= {"tuned penalty"}
    assert set(table["method"]) == {"plain", "augmentation"} | icm | tuned
    fixed = ~table["method"].isin({"augmentation"} | tuned)
    rows = table[fixed].groupby(["method", "target", "seed"]).size()
    for (method, *_), n in rows.items():
        choices = 2 if method == "ICM image" else 1  # the others have one setting
        assert n == 2 * 2 * choices, method  # predictors, conditions
    assert (table.loc[table["condition"] == "unseen", "n"] == 10 * PER_CLASS).all()
    shares = [unpack(row).mean() for _, row in table.iterrows()]
    np.testing.assert_allclose(table["value"], 100 * np.array(shares))


def test_an_encoder_that_knows_too_few_words_learns_from_images_alone(bed, embedder):
    found = run([bed], Embedder(shipped(), embedder.store), [0], ["sketch"], PLAN)
    assert not any("text" in method for method in found["method"])
    assert {"plain", "augmentation", "ICM image", "ICM auto image"} < set(found["method"])


def test_a_folder_is_embedded_once(bed, embedder, table, monkeypatch):
    fresh = StandInEncoder()
    monkeypatch.setattr(fresh, "encode_images", lambda pixels: pytest.fail("embedded again"))
    opened = []
    embed = ImageFolder.embed
    monkeypatch.setattr(ImageFolder, "embed", lambda self, *a: opened.append(a) or embed(self, *a))
    again = run([bed], Embedder(fresh, embedder.store), [0, 1], plan=PLAN)
    assert len(opened) == 1  # for two seeds and four targets
    told = [name for name in table if name != "fit_seconds"]
    pd.testing.assert_frame_equal(again[told], table[told])


def test_seeds_split_a_folder_anew(table):
    wide = table[(table["method"] == "plain") & (table["predictor"] == "linear probe")]
    wide = wide.pivot_table("value", ["target", "condition"], "seed")
    assert (wide[0] != wide[1]).any()


@pytest.mark.parametrize("protocol", PROTOCOLS[1:])
def test_open_classes_on_a_folder(images, embedder, protocol):
    bed = ImageFolder("animals", images, protocol=protocol)
    targets = None if protocol == "open class" else ["sketch"]
    found = run([bed], embedder, [0], targets, replace(PLAN, choices=("intervened",)))
    assert set(found["target"]) == {"none" if targets is None else "sketch"}
    assert set(found["predictor"]) == {"zero-shot"}
    assert (found["protocol"] == protocol).all()
    assert set(found["condition"]) == {"seen_classes", "new_classes"}


def test_a_protocol_that_leaves_no_domain_out_has_no_targets(images, embedder):
    bed = ImageFolder("animals", images, protocol="open class")
    with pytest.raises(ValueError, match="'open class' leaves no domain out"):
        run([bed], embedder, [0], ["sketch"])


def test_an_accuracy_over_images_is_that_of_the_pooled_images(table):
    part = table[(table["method"] == "plain") & (table["predictor"] == "linear probe")]
    part = part[(part["seed"] == 0) & (part["condition"] == "unseen")]
    row = aggregate(part, ["condition"], over="images").iloc[0]
    correct = np.concatenate([unpack(one) for _, one in part.iterrows()])
    assert row["value"] == pytest.approx(100 * correct.mean())  # targets have equally many images
    assert row["low"] < row["value"] < row["high"]


# What a page and an experiment ask


def test_pixels_are_those_that_were_embedded(bed, embedder):
    source, encoder = bed.embed(embedder, 0).source, embedder.encoder
    rows = np.array([3, 0, 77, 3])
    for load in bed.loaders(encoder, 0):
        found = encoder.encode_images(load(rows))
        np.testing.assert_array_equal(found, source["original"].to_numpy()[rows])


def test_examples_are_images_before_and_after_an_intervention(bed):
    shown = bed.examples(n=5)
    assert {name: images.shape for name, images in shown.items()} == dict.fromkeys(
        ["source", "image intervention"], (5, 3, 128, 128)
    )
    assert not (shown["source"] == shown["image intervention"]).all()
    assert len(bed.examples(n=1000)["source"]) == len(bed.images)


def test_a_square_is_the_middle_of_an_image(tmp_path):
    pixels = np.zeros((300, 900, 3), np.uint8)
    pixels[:, :300, 0] = pixels[:, 300:600, 1] = pixels[:, 600:, 2] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    (found,) = squares([str(tmp_path / "wide.png")])
    assert found.shape == (3, 128, 128)
    np.testing.assert_array_equal(found[:, 4:-4, 4:-4].mean(axis=(1, 2)), [0, 255, 0])


def test_spurious_prompts_name_kinds_of_pictures(bed):
    assert "a sketch of an object" in bed.spurious
    assert not any(name in prompt.split() for prompt in bed.spurious for name in bed.words)


# Errors


def test_what_cannot_be_divided_is_told_before_anything_is_embedded(images):
    rare = (images["label"] != "cow") | (images.groupby(["domain", "label"]).cumcount() < 3)
    with pytest.raises(
        ValueError, match=r"outside the target 'cartoon', .*: 'cow' has 9\. Add images"
    ):
        ImageFolder("animals", images[rare])
    ImageFolder("animals", images[rare], protocol="open class")  # 12 of the cow in all
    alone = images[images["domain"] == "sketch"]
    with pytest.raises(ValueError, match="one domain, 'sketch'; to leave one out takes two"):
        ImageFolder("animals", alone)
    with pytest.raises(ValueError, match="protocol='closed' is unknown; choose one of"):
        ImageFolder("animals", images, protocol="closed")


def test_an_image_that_cannot_be_read(tmp_path, embedder):
    root = write_folder(tmp_path / "animals", load_silhouettes(), per_class=4)
    bed = ImageFolder("animals", index_folder(root))
    (root / "photo" / "dog").joinpath(next((root / "photo" / "dog").iterdir())).write_text("no")
    with pytest.raises(ValueError, match="dog"):
        bed.embed(embedder, 0)


# Names of folders, and encoders that cannot read them


class Late:
    """Fails the test if an image is embedded."""

    def __init__(self, embedder):
        self.__dict__ |= {"prompts": embedder.prompts, "encoder": embedder.encoder}


def renamed(images, **names):
    return images.assign(label=images["label"].replace(names))


def test_an_encoder_that_does_not_know_a_word_says_so_before_an_image_is_embedded(
    images, encoder, tmp_path
):
    embedder = Embedder(encoder, EmbeddingStore(tmp_path))
    for folder, word in (("lynx", "lynx"), ("red_fox", "red fox")):
        bed = ImageFolder("animals", renamed(images, dog=folder))
        with pytest.raises(ValueError, match=f"'a photo of a {word}' has a word this encoder nev"):
            bed.embed(Late(embedder), 0)


def test_an_encoder_that_cuts_classes_alike_says_so_before_an_image_is_embedded(images, embedder):
    class Short(StandInEncoder):
        class tokenizer:
            context_length = 6

            def __call__(self, texts, context_length=None):
                ids = [[sum(map(ord, word)) for word in text.split()] for text in texts]
                return torch.tensor([(one + 6 * [0])[:6] for one in ids])

        def is_cut(self, texts):
            return np.array([len(text.split()) > 6 for text in texts])

    Short.tokenizer = Short.tokenizer()
    late = Late(Embedder(Short(), embedder.store))
    names = {"dog": "dog of the north", "cat": "dog of the south"}
    with pytest.raises(ValueError, match="two classes are the same to it: 'a photo of a dog of"):
        ImageFolder("animals", renamed(images, **names)).embed(late, 0)
    with pytest.raises(AttributeError, match="pairs"):  # otherwise it goes on to the images
        ImageFolder("animals", images, has_texts=False).embed(late, 0)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"dog": "Cat"}, "'Cat' and 'cat' are both 'cat' in a prompt"),
        ({"dog": "sea_lion", "cow": "sea lion"}, "are both 'sea lion' in a prompt"),
        ({"dog": "_"}, "the class '_' gives no word for a prompt"),
    ],
)
def test_classes_that_no_prompt_tells_apart(images, names, message):
    with pytest.raises(ValueError, match=message):
        ImageFolder("animals", renamed(images, **names))


# Groups of images


@pytest.fixture(scope="module")
def bursts(images):
    """Each animal of a style and class is two bursts of images; one burst is in two styles."""
    number = images.groupby(["domain", "label"]).cumcount()
    group = images["domain"] + images["label"] + (number // 3).astype(str)
    return images.assign(group=group.replace("sketchcat0", "photocat0"))


def test_a_folder_with_groups(bursts, embedder):
    bed = ImageFolder("animals", bursts)
    assert bed.over == "groups"
    n_groups = bursts["group"].nunique()
    assert f"{len(bursts)} images come in {n_groups} groups" in bed.note
    settings = {"augmentation": {"C": [0.316]}, "ICM image": FEW}
    plan = Plan(("plain", "augmentation", "ICM image"), ("intervened", "left-out domain"), settings)
    table = run([bed], embedder, [0], ["photo"], plan)
    unseen = table[table["condition"] == "unseen"]
    of_photos = bursts[bursts["domain"] == "photo"]
    assert unseen["group"].map(count_groups).unique() == [of_photos["group"].nunique()]
    found = aggregate(table, ["method", "predictor", "choice", "condition"], over=bed.over)
    single = aggregate(table, ["method", "predictor", "choice", "condition"], over="images")
    assert (found["value"] == single["value"]).all()
    assert ((found["high"] - found["low"]) > (single["high"] - single["low"])).all()


def test_groups_are_part_of_what_a_run_was_made_from(bursts, images, embedder):
    prints = [
        ImageFolder("animals", one).embed(embedder, 0).provenance.get("groups")
        for one in (images, bursts, bursts.assign(group=np.arange(len(bursts)) // 2))
    ]
    assert prints[0] is None
    assert len(set(prints)) == 3


def test_a_method_that_is_trained_on_half_of_the_target_shares_no_group_with_the_rest(
    bursts, embedder, fake
):
    shared = []

    def answer(method, images):
        shared.append(np.isin(images.group, method.fitted_on.images.group).any())
        return True

    fake(answer, values=[0, 1], on_target=True)
    bed = ImageFolder("animals", bursts)
    for choice in ("held-out", "left-out domain"):
        table = run([bed], embedder, [0], ["photo"], Plan(("fake",), (choice,)))
        assert set(table["choice"]) == {choice, "half of the target"}
        assert (table["value"] == 100).all()
    assert shared
    assert not any(shared)
