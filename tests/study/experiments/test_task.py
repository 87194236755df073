"""One run's data: the pixels behind a row, and what of the target no source has."""

from __future__ import annotations

import numpy as np
import pytest

from icm_core.interventions import IMAGE_INTERVENTIONS, draw_interventions
from icm_study.animals.rendering import write_folder
from icm_study.animals.silhouettes import load_silhouettes
from icm_study.embedding.store import EmbeddingStore
from icm_study.embedding.tables import Embedder
from icm_study.experiments.run import Plan, run
from icm_study.experiments.task import make_task
from icm_study.methods.sources import PREDICTORS
from icm_study.photographs.check import load_folder
from icm_study.testbeds.animal_world import AnimalWorld
from icm_study.testbeds.image_folder import ImageFolder


@pytest.fixture(scope="module")
def embedder(encoder, tmp_path_factory):
    return Embedder(encoder, EmbeddingStore(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def bed(tmp_path_factory):
    folder = write_folder(tmp_path_factory.mktemp("animals"), load_silhouettes(), per_class=4)
    return ImageFolder("animals", load_folder(folder))


@pytest.fixture(scope="module")
def of_folder(bed, embedder):
    return make_task(bed, embedder, bed.embed(embedder, 0), "sketch", 0, with_draws=True)


@pytest.mark.parametrize("kind", ["task", "of_folder"])
def test_the_pixels_of_every_part_are_those_that_were_embedded(kind, request):
    task = request.getfixturevalue(kind)
    encoder, parts = task.sources.encoder, [*task.tests.values()]
    for sources in (task.sources, task.held_out):
        parts += [sources.images, sources.copies["image"]]
    for images in parts:
        some = images.take(np.arange(0, len(images), 7))
        np.testing.assert_allclose(encoder.encode_images(some.pixels()), some.embedded, atol=2e-5)
    sources = task.sources
    expected = draw_interventions(sources.images.take(np.arange(40)).pixels(), seed=0)
    assert sources.drawn[:40].tolist() == list(expected)
    assert set(sources.drawn) <= set(IMAGE_INTERVENTIONS)
    assert len(set(sources.drawn)) > 5
    usable = sources.drawn != sources.drawn[0]
    assert sources.without(sources.drawn[0]).moments("image").n_pairs == usable.sum()


def test_the_oracle_s_copies_have_no_pixels(task):
    with pytest.raises(ValueError, match="known as embeddings only"):
        task.sources.copies["oracle"].pixels()


@pytest.mark.parametrize("kind", ["task", "of_folder"])
def test_the_target_domain_is_in_no_source_and_in_every_test_of_it(kind, request):
    task = request.getfixturevalue(kind)
    (target,) = set(task.tests["unseen"].domain)
    for images in (task.sources.images, task.held_out.images, task.tests["in_distribution"]):
        assert target not in images.domain
    if kind == "task":
        assert set(task.tests["reversed"].domain) == {target}
    assert not set(task.sources.images.rows) & set(task.held_out.images.rows)
    assert task.target == "unseen"


def test_an_encoder_of_the_animals_has_no_texts_and_no_oracle_on_a_folder(of_folder):
    sources = of_folder.sources
    assert sources.texts[0].shape == sources.texts[1].shape == (0, sources.prompts.shape[1])
    assert set(sources.copies) == {"image"}
    assert sources.predictors == PREDICTORS


def test_draws_are_known_only_where_they_are_asked_for(bed, embedder, monkeypatch):
    data = bed.embed(embedder, 0)
    monkeypatch.setattr(ImageFolder, "loaders", lambda *_: pytest.fail("pixels were loaded"))
    task = make_task(bed, embedder, data, "sketch", 0)
    assert set(task.sources.drawn) == {"unknown"}


@pytest.mark.parametrize("protocol", ["open class", "domain shift with open classes"])
def test_where_tests_have_new_classes_only_zero_shot_is_asked_for(encoder, embedder, protocol):
    bed = AnimalWorld(n=240, protocol=protocol)
    (target, *_) = bed.targets()
    task = make_task(bed, embedder, bed.embed(embedder, 0), target, 0)
    assert task.sources.predictors == task.held_out.predictors == ("zero-shot",)
    assert task.target == "new_classes"
    assert not np.isin(task.tests["new_classes"].label, task.sources.images.label).any()
    assert set(task.sources.prompt_label) == set(range(10))


def test_a_folder_is_run_over_its_targets_and_seeds(bed, embedder):
    plan = Plan(["plain", "ICM auto image"])
    table = run([bed], embedder, [0, 1], ["sketch", "photo"], plan)
    assert set(zip(table["target"], table["seed"], strict=True)) == {
        (target, seed) for target in ("sketch", "photo") for seed in (0, 1)
    }
    assert set(table["condition"]) == {"in_distribution", "unseen"}
    assert set(table["world"]) == set(table["dataset"]) == {"animals"}
    assert not table.duplicated(["method", "predictor", "condition", "target", "seed"]).any()
    assert set(run([bed], embedder, [0], ["photo"])["method"]) == {
        "plain", "tuned penalty", "augmentation",
        "ICM image", "ICM auto image", "tuned penalty, ICM image",
        "tuned penalty, chosen ICM image",
    }  # fmt: skip
