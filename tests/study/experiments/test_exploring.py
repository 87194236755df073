"""What is turned by hand is what the engine gives for that setting, image by image."""

from __future__ import annotations

import numpy as np
import pytest
from linear_world import LinearWorld, numbers_only

from icm_core.projection import InvariantProjection
from icm_study.embedding.store import EmbeddingStore
from icm_study.experiments.exploring import Exploration, Setting
from icm_study.experiments.intervals import unpack
from icm_study.experiments.run import Plan, run_task
from icm_study.experiments.task import make_task

BED = LinearWorld(n=300, n_test=450)
WEIGHT, K = 3.0, 4


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    return numbers_only(EmbeddingStore(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def exploration(embedder):
    return Exploration(BED, embedder, 0)


@pytest.fixture(scope="module")
def task(embedder):
    return make_task(BED, embedder, BED.embed(embedder, 0), "c", 0)


@pytest.mark.parametrize("predictor", ["linear probe", "zero-shot"])
@pytest.mark.parametrize("kind", ["image", "text", "image+text", "oracle"])
def test_an_answer_is_what_the_engine_gives(exploration, task, kind, predictor):
    answer = exploration.answer(Setting("c", kind, WEIGHT, K, predictor))
    grid = {"consistency_weight": [WEIGHT], "n_components": [K]}
    name = f"ICM {kind}"
    table = run_task(task, Plan(["plain", name], settings={name: grid}))
    table = table[table["predictor"] == predictor].set_index(["method", "condition"])
    for condition, (plain, projected) in answer.accuracy.items():
        assert plain == pytest.approx(table.loc[("plain", condition), "value"])
        assert projected == pytest.approx(table.loc[(name, condition), "value"])

    images = task.tests["unseen"]
    correct = unpack(table.loc[(name, "unseen")])
    assert answer.condition == "unseen"
    np.testing.assert_array_equal(answer.confusion.sum(axis=1), np.bincount(images.label))
    by_class = np.bincount(images.label, weights=correct)
    np.testing.assert_array_equal(np.diag(answer.confusion), by_class)


def test_changed_images_are_those_that_the_two_predict_differently(exploration, task):
    answer = exploration.answer(Setting("c", "image+text", 30.0, 2, "linear probe"))
    assert 0 < len(answer.changed) <= 12
    assert (answer.before != answer.after).all()
    images = task.tests["unseen"]
    place = [np.flatnonzero(images.rows == row).item() for row in answer.changed.rows]
    np.testing.assert_array_equal(answer.changed.label, images.label[place])
    whole = exploration.answer(Setting("c", "image+text", 1.0, exploration.n_features, "zero-shot"))
    assert len(whole.changed) == 0  # a rotation changes no prediction


def test_shares_are_of_every_component_and_do_not_depend_on_k(exploration, task):
    few, many = (
        exploration.answer(Setting("c", "text", WEIGHT, k, "zero-shot")).shares for k in (1, K)
    )
    np.testing.assert_array_equal(few, many)
    moments = task.sources.moments("text")
    fitted = InvariantProjection(len(few), consistency_weight=WEIGHT).fit_moments(moments)
    rows = fitted.components_
    by_hand = ((rows @ moments.S) * rows).sum(1) / ((rows @ moments.C) * rows).sum(1)
    np.testing.assert_allclose(few, by_hand, rtol=1e-8)


def test_what_cannot_be_answered_is_refused(exploration):
    with pytest.raises(ValueError, match="n_components"):
        exploration.answer(Setting("c", "text", 1.0, 1000, "zero-shot"))
    with pytest.raises(ValueError, match="sound"):
        exploration.answer(Setting("c", "sound", 1.0, 2, "zero-shot"))
