"""The factory of test beds: every parameter that a notebook may have, told before embedding."""

import re
import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from stand_ins import StandInEncoder

from icm_study.animals.latents import STYLES
from icm_study.animals.rendering import write_folder
from icm_study.animals.silhouettes import load_silhouettes
from icm_study.embedding.tables import Embedder
from icm_study.encoders.encoder import Encoder
from icm_study.experiments.study import Study
from icm_study.photographs.folders import index_classes
from icm_study.photographs.imagenet import imagenet_classes
from icm_study.testbeds import opening
from icm_study.testbeds.animal_variants import AnimalVariants
from icm_study.testbeds.animal_world import AnimalWorld
from icm_study.testbeds.base import PROTOCOLS
from icm_study.testbeds.image_folder import ImageFolder
from icm_study.testbeds.imagenet_variants import ImageNetVariants
from icm_study.testbeds.opening import example_or_folder, open_testbeds
from icm_study.text.pairs import Texts

ANIMALS = {"dataset": "animal-world", "worlds": [["coat+scene", 0.9]]}
NAMES = imagenet_classes()["wnid"].iloc[[0, 7]].tolist()


pytestmark = pytest.mark.filterwarnings("ignore:going on in spite of problems")


@pytest.fixture(autouse=True)
def _nothing_is_embedded(monkeypatch):
    """Whatever is told, is told before anything is embedded."""
    monkeypatch.setattr(Encoder, "encode_images", None)
    monkeypatch.setattr(Embedder, "images", None)
    monkeypatch.setattr(opening, "load_encoder", lambda name, facts: StandInEncoder(int(name[-1])))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "beasts"
    return write_folder(path, load_silhouettes(), per_class=4)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """Write training images, two variants of them, and other images."""
    root = tmp_path_factory.mktemp("imagenet")
    rng = np.random.default_rng(0)
    for where, n in (("train", 12), ("first", 3), ("second", 2), ("pets", 2)):
        for name in NAMES:
            (root / where / name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(256, size=(8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / where / name / f"{i}.png")
    return root


def of_imagenet(root, **changes):
    variants = {name: str(root / name) for name in ("first", "second")}
    given = {"dataset": str(root / "train"), "variants": variants, "accept_problems": True}
    return given | changes


@pytest.mark.parametrize("where", ["train", "pets"])
def test_a_variant_with_copies_of_what_is_fitted_on_is_told(imagenet, tmp_path, where):
    root = shutil.copytree(imagenet, tmp_path / "imagenet")
    copied = root / where / NAMES[0] / "1.png"
    shutil.copy(copied, root / "second" / NAMES[0] / "copy.png")
    given = of_imagenet(root, projection_images=str(root / "pets"), cache=str(tmp_path / "cache"))
    which = "training images" if where == "train" else "images for the projection"
    with pytest.warns(UserWarning, match=f"'second' has 1 of its 5 files among the {which} too"):
        open_testbeds(given)
    tables = {name: index_classes(root / name) for name in ("second", where)}
    with pytest.raises(ValueError, match=rf"copy\.png = {re.escape(str(copied))}\. .* not be fit"):
        opening._check_copies(
            {"second": tables["second"]}, {where: tables[where]}, str(tmp_path / "c"), False
        )


# Animals


def test_each_world_is_a_test_bed():
    worlds = [["coat+scene", 0.9], ("scene", 0.0), ("coat", 1)]
    beds = open_testbeds(ANIMALS | {"worlds": worlds})
    assert all(isinstance(bed, AnimalWorld) for bed in beds)
    assert [bed.world for bed in beds] == ["coat+scene 0.9", "scene 0", "coat 1"]
    assert {(bed.n, bed.protocol) for bed in beds} == {(None, PROTOCOLS[0])}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_protocol_and_a_number_of_images(protocol):
    (bed,) = open_testbeds(ANIMALS | {"protocol": protocol, "n_images": 60})
    assert (bed.protocol, bed.n) == (protocol, 60)


def test_one_world():
    (bed,) = open_testbeds({"dataset": "animal-world", "world": ["coat", 0.5]})
    assert (bed.shortcut, bed.strength) == ("coat", 0.5)


def test_variants_of_animals():
    given = {"dataset": "animal-world", "world": ["coat", 0.5], "variants": {}, "n_images": 60}
    (bed,) = open_testbeds(given | {"reference": "stand-in 1"})
    assert isinstance(bed, AnimalVariants)
    assert (bed.shortcut, bed.strength, bed.n) == ("coat", 0.5, 60)
    assert bed.reference.name == "stand-in 1"


# A folder


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_folder(folder, protocol):
    given = {"dataset": str(folder), "protocol": protocol, "captioner": "coca", "editor": "llm"}
    (bed,) = open_testbeds(given)
    assert isinstance(bed, ImageFolder)
    assert (bed.name, bed.protocol, bed.texts) == ("beasts", protocol, Texts("coca", "llm"))
    assert bed.domains == tuple(sorted(STYLES))
    assert len(bed.images) == 4 * 10 * 4


def test_a_folder_by_default(folder):
    (bed,) = open_testbeds({"dataset": folder, "worlds": [["coat", 0.9]], "n_images": None})
    assert (bed.protocol, bed.texts) == (PROTOCOLS[0], Texts(None, "rules"))


def test_problems_are_accepted_when_asked_to(tmp_path):
    path = write_folder(tmp_path / "beasts", load_silhouettes(), per_class=4)
    broken = next((path / "photo" / "dog").iterdir())
    broken.write_text("no image")
    with pytest.raises(ValueError, match=r"Nothing was computed\. Repair the folder"):
        open_testbeds({"dataset": str(path)})
    with pytest.warns(UserWarning, match="going on in spite of problems"):
        (bed,) = open_testbeds({"dataset": str(path), "accept_problems": True})
    assert len(bed.images) == 4 * 10 * 4 - 1
    assert str(broken) not in bed.images["path"].tolist()


# Variants of ImageNet


def test_variants_of_imagenet(imagenet):
    (bed,) = open_testbeds(of_imagenet(imagenet, captioner="coca", editor="llm"))
    assert isinstance(bed, ImageNetVariants)
    assert (bed.name, bed.texts, bed.others) == ("train", Texts("coca", "llm"), None)
    assert bed.domains == ("first", "second")
    assert {name: len(images) for name, images in bed.variants.items()} == {"first": 6, "second": 4}
    assert Counter(bed.images["label"]) == dict.fromkeys(NAMES, 12)


def test_a_few_training_images_of_each_class(imagenet):
    (bed,) = open_testbeds(of_imagenet(imagenet, n_images=10))
    assert Counter(bed.images["label"]) == dict.fromkeys(NAMES, 10)
    (again,) = open_testbeds(of_imagenet(imagenet, n_images=10))
    assert bed.images.equals(again.images)
    (whole,) = open_testbeds(of_imagenet(imagenet, n_images=1000))
    assert len(whole.images) == 24


def test_other_images_for_the_projection(imagenet):
    (bed,) = open_testbeds(of_imagenet(imagenet, projection_images=str(imagenet / "pets")))
    name, images = bed.others
    assert (name, len(images)) == ("pets", 4)


def test_a_part_of_a_known_variant_does_not_pass_for_the_whole(imagenet, tmp_path):
    (tmp_path / "imagenet-r").symlink_to(imagenet / "first", target_is_directory=True)
    given = of_imagenet(imagenet, variants={"R": str(tmp_path / "imagenet-r")})
    with pytest.raises(ValueError, match=r"(?s)compared with imagenet-r.*Nothing was comp"):
        open_testbeds(given)


# Refused, before anything is embedded


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"worlds": [["shape", 0.9]]}, "The shortcut 'shape' is unknown; choose 'coat', 'scene'"),
        ({"worlds": [["coat", 0.9], ["coat", 1.9]]}, r"The strength 1\.9 of the shortcut 'coat'"),
        ({"worlds": [["coat", -0.1]]}, r"The strength -0\.1 of the shortcut"),
        ({"worlds": [["coat"]]}, r"worlds: \['coat'\].* a shortcut and its strength"),
        ({"worlds": ["coat 0.9"]}, "worlds: 'coat 0.9'.* a shortcut and its strength"),
        ({"worlds": [["coat", "0.9"]]}, r"worlds: \['coat', '0\.9'\].* a shortcut and its streng"),
        ({"worlds": ["coat", 0.9]}, "worlds: 'coat'.* a shortcut and its strength"),
        ({"worlds": []}, "worlds: there is none"),
        ({"protocol": "open classes"}, "protocol='open classes' is unknown; choose one of"),
        ({"variants": {"R": "imagenet-r"}}, "are variants of ImageNet, and .* is rendered"),
        (
            {"variants": {}, "worlds": [["shape", 0.9]], "reference": "stand-in 1"},
            "The shortcut 'shape' is unknown",
        ),
        (
            {"variants": {}, "worlds": [["coat", 1.9]], "reference": "stand-in 1"},
            r"The strength 1\.9 of the shortcut 'coat'",
        ),
    ],
)
def test_bad_animals(changes, message):
    with pytest.raises(ValueError, match=message):
        open_testbeds(ANIMALS | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_images": 60}, "n_images=60: only rendered images can be drawn in any number"),
        ({"n_images": 0}, "n_images=0: only rendered images can be drawn in any number"),
        ({"protocol": "open classes"}, "protocol='open classes' is unknown; choose one of"),
    ],
)
def test_bad_folders(folder, changes, message):
    with pytest.raises(ValueError, match=message):
        open_testbeds({"dataset": str(folder)} | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": {}}, "No variant is given"),
        ({"n_images": 0}, "n_images=0; expected at least one training image of each class"),
        ({"n_images": -1}, "n_images=-1; expected at least one training image of each class"),
        ({"projection_images": "first"}, "The variant 'first' has images in"),
    ],
)
def test_bad_variants_of_imagenet(imagenet, changes, message):
    if "projection_images" in changes:
        changes = {"projection_images": str(imagenet / changes["projection_images"])}
    with pytest.raises(ValueError, match=message):
        open_testbeds(of_imagenet(imagenet) | changes)


@pytest.mark.parametrize("given", ["dataset", "variants", "projection_images"])
def test_folders_that_do_not_exist(imagenet, given):
    gone = str(imagenet / "gone")
    bad = {"R": gone} if given == "variants" else gone
    with pytest.raises(FileNotFoundError, match="gone"):
        open_testbeds(of_imagenet(imagenet, **{given: bad}))
    with pytest.raises(FileNotFoundError, match="gone"):
        open_testbeds({"dataset": gone})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"targets": ["cubism"]}, ValueError, r"Unknown: \['cubism'\]"),
        ({"targets": []}, ValueError, "expected some of the domains"),
        ({"protocol": "open class", "targets": ["photo"]}, ValueError, "leaves no domain out"),
        ({"seeds": []}, ValueError, r"seeds=\[\]; expected a list of integers"),
        ({"seeds": [0, 0]}, ValueError, "each once"),
        ({"methods": ["plian"]}, ValueError, "Did you mean 'plain'"),
        ({"choices": []}, ValueError, "choices"),
        ({"choices": "intervened"}, TypeError, "expected a sequence of names"),
        ({"worlds": [["coat", 0.9], ["coat", 0.9]]}, ValueError, "each once"),
    ],
)
def test_bad_parameters_of_a_run(tmp_path, changes, error, message):
    given = ANIMALS | {"encoder": "animal-world", "seeds": [0], "cache": str(tmp_path / "cache")}
    with pytest.raises(error, match=message):
        Study("02_domain_generalization", given | changes).results()
    assert not (tmp_path / "cache").exists()


# The example of a user's run


def test_an_example_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    given = {"folder": None, "encoder": None}
    for place in ("file", "file/below", "file/far/below"):
        with pytest.raises(ValueError, match=r"example cannot be written to .*file.*: (Not|File)"):
            example_or_folder(given | {"example": str(tmp_path / place)})


def test_without_a_folder_an_example_is_written(tmp_path):
    given = {"folder": None, "encoder": None, "example": str(tmp_path / "example"), "seeds": [0]}
    found = example_or_folder(given)
    assert found["encoder"] == "animal-world"
    assert found["seeds"] == [0]
    (bed,) = open_testbeds(found)
    assert bed.domains == tuple(sorted(STYLES))
    named = example_or_folder(given | {"encoder": "lite0-minilm"})
    assert (named["dataset"], named["encoder"]) == (found["dataset"], "lite0-minilm")


def test_a_folder_needs_an_encoder(tmp_path, folder):
    given = {"folder": str(folder), "encoder": None, "example": str(tmp_path / "example")}
    with pytest.raises(ValueError, match="Name an encoder for your images"):
        example_or_folder(given)
    found = example_or_folder(given | {"encoder": "lite0-minilm"})
    assert found["dataset"] == str(folder)
    assert not (tmp_path / "example").exists()
