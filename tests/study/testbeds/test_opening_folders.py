"""The parameters of a notebook that say how a folder is read, and what its domains are called."""

from itertools import product

import numpy as np
import pytest
from PIL import Image

from icm_study.embedding.files import embed_files
from icm_study.embedding.store import EmbeddingStore
from icm_study.photographs.folders import read_image
from icm_study.testbeds.opening import open_testbeds


@pytest.fixture
def radiographs(tmp_path):
    """Two hospitals, 12 bits in files of 16; each patient has a folder; one class is rare."""
    places = product(("hospital_1", "hospital_2"), ("normal", "pneumonia", "rare"), range(12))
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
    assert bed.classes == ("normal", "pneumonia")
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
