"""The parameters of a notebook that say how a folder is read, and what its domains are called."""

from itertools import product
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from icm_core.interventions import IMAGE_INTERVENTIONS, intervene_images
from icm_study.embedding.files import embed_files
from icm_study.embedding.store import EmbeddingStore
from icm_study.embedding.tables import Embedder
from icm_study.experiments.run import Plan, run_task
from icm_study.experiments.settings import Intervention
from icm_study.experiments.study import Study
from icm_study.experiments.task import make_task
from icm_study.photographs.folders import read_image
from icm_study.testbeds.opening import open_testbeds


@pytest.fixture
def radiographs(tmp_path):
    """Two clinics of animals, 12 bits in files of 16; a folder each; one class is rare."""
    places = product(("hospital_1", "hospital_2"), ("cat", "dog", "rare"), range(12))
    for seed, (domain, label, i) in enumerate(places):
        if label != "rare" or i < 3:
            path = tmp_path / "chest" / domain / label / f"patient_{i}" / "0.png"
            path.parent.mkdir(parents=True)
            pixels = np.random.default_rng(seed).integers(0, 4096, (8, 8)).astype(np.uint16)
            pixels[0, :2] = 0, 4095
            Image.fromarray(pixels).save(path)
    return tmp_path / "chest"


def test_a_folder_is_read_as_the_parameters_say(radiographs, tmp_path, encoder):
    given = {
        "dataset": str(radiographs), "nested": True, "classes": "common", "value_range": "used",
        "cache": str(tmp_path / "cache"), "domain_words": {"hospital_1": "X-ray"},
    }  # fmt: skip
    (bed,) = open_testbeds(given)
    assert bed.classes == ("cat", "dog")
    assert len(bed.images) == 48
    assert bed.texts.domain_words == {"hospital_1": "X-ray"}
    assert all(np.asarray(read_image(path)).max() == 255 for path in bed.images["path"])
    (window,) = open_testbeds(given | {"value_range": [0, 8190]})
    store = EmbeddingStore(tmp_path / "embeddings")
    first, second = (
        embed_files(encoder, one.images, store, interventions=(), workers=0)
        for one in (bed, window)
    )
    assert first.attrs["images"] != second.attrs["images"]  # another range, another key
    assert not np.array_equal(first["original"], second["original"])
    with pytest.raises(ValueError, match="the domain 'hospital_1' has no images"):
        open_testbeds({"dataset": str(radiographs)})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"hospital_9": "X-ray"}, "names 'hospital_9'; the domains are 'hospital_1', 'hospital_2'"),
        ({"hospital_1": "cat"}, "gives 'cat' for 'hospital_1'"),
    ],
)
def test_words_that_no_caption_can_have_are_refused_whatever_the_encoder(
    radiographs, tmp_path, words, message
):
    with pytest.raises(ValueError, match=message):
        open_testbeds(
            {
                "dataset": str(radiographs), "nested": True, "classes": "common",
                "value_range": "used", "cache": str(tmp_path / "cache"), "domain_words": words,
            }
        )  # fmt: skip


def test_images_are_intervened_on_as_the_parameters_say(radiographs, tmp_path, encoder):
    given = {
        "dataset": str(radiographs), "nested": True, "classes": "common", "value_range": "used",
        "cache": str(tmp_path / "cache"),
    }  # fmt: skip
    names = ["equalize", "invert"]
    (bed,) = open_testbeds({**given, "interventions": names})
    (every,) = open_testbeds({**given, "interventions": []})
    embedder = Embedder(encoder, EmbeddingStore(tmp_path / "embeddings"))
    data = bed.embed(embedder, 0)
    assert data.source.attrs["interventions"] == names
    assert every.embed(embedder, 0).source.attrs["interventions"] == list(IMAGE_INTERVENTIONS)
    task = make_task(bed, embedder, data, "hospital_1", 0, with_draws=True)
    assert set(task.sources.drawn) == set(names)
    images = task.sources.images
    pixels = intervene_images(images.load(images.rows), names)
    copies = task.sources.copies["image"]
    np.testing.assert_array_equal(encoder.encode_images(pixels), copies.embedded)
    np.testing.assert_array_equal(copies.load(copies.rows), pixels)
    shown = bed.examples(6)
    assert not np.array_equal(shown["image intervention"], every.examples(6)["image intervention"])


def test_one_intervention_alone_cannot_be_left_out(radiographs, tmp_path, encoder):
    given = {
        "dataset": str(radiographs), "nested": True, "classes": "common", "value_range": "used",
        "cache": str(tmp_path / "cache"),
    }  # fmt: skip
    (bed,) = open_testbeds({**given, "interventions": ["invert"]})
    embedder = Embedder(encoder, EmbeddingStore(tmp_path / "embeddings"))
    data = bed.embed(embedder, 0)
    task = make_task(bed, embedder, data, "hospital_1", 0, with_draws=True)
    with pytest.raises(ValueError, match="intervened on by 'invert' only"):
        run_task(task, Plan(["ICM image"], ("unseen intervention",)))


def test_the_interventions_that_can_be_named_are_those_of_the_core():
    assert get_args(Intervention) == IMAGE_INTERVENTIONS


def test_the_precision_of_the_encoder_is_a_parameter(tmp_path):
    given = {"encoder": "animal-world", "cache": str(tmp_path)}
    assert Study("05_your_data", given).embedder.encoder.precision == "float32"
    half = Study("05_your_data", {**given, "precision": "bfloat16"}).embedder.encoder
    assert half.precision == "bfloat16"
