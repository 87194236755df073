"""The controls of the notebook that is played with: every one changes what is shown."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from icm_study.experiments.exploring import Exploration
from icm_study.experiments.study import Study
from icm_study.report.panel import Panel, as_code


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    given = {
        "dataset": "animal-world", "encoder": "animal-world", "seeds": [3], "n_images": 400,
        "worlds": [["coat+scene", 0.9], ["coat", 0.5]], "cache": tmp_path_factory.mktemp("cache"),
    }  # fmt: skip
    return Study("07_explore", given)


@pytest.fixture(scope="module")
def panel(study):
    return Panel(study)


def pixels(panel):
    return np.asarray(Image.open(io.BytesIO(panel.picture.value)).convert("RGB"))


CHANGES = {
    "world": "coat 0.5",
    "target": "sketch",
    "intervention": "text",
    "consistency_weight": 10.0,
    "n_components": 5,
    "predictor": "zero-shot",
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_control_changes_picture_sentence_and_setting(panel, name):
    before, told, code = pixels(panel), panel.told.value, panel.code.value
    control = panel.controls[name]
    start = control.value
    control.value = CHANGES[name]
    assert (pixels(panel) != before).any()
    assert panel.told.value != told
    changes_code = name in ("intervention", "consistency_weight", "n_components")
    assert (panel.code.value != code) == changes_code
    control.value = start
    np.testing.assert_array_equal(pixels(panel), before)
    assert panel.told.value == told


def test_the_sentence_says_the_accuracies(panel, study):
    answer = Exploration(study.beds[0], study.embedder, 3).answer(panel.setting)
    plain, projected = answer.accuracy["unseen"]
    assert f"from {plain:.1f} to {projected:.1f} %" in panel.told.value


def test_the_code_fits_the_same_projection(panel):
    rng = np.random.default_rng(0)
    space = {"before": rng.normal(size=(200, 20)), "after": rng.normal(size=(200, 20))}
    exec(as_code(panel.setting), space)
    assert space["projection"].n_components_ == panel.setting.n_components
    assert space["projection"].consistency_weight_ == panel.setting.consistency_weight
    (name,) = space["settings"]
    assert name in space["methods"]
    assert space["settings"][name]["n_components"] == [panel.setting.n_components]


def test_it_is_shown_as_one_widget(panel):
    shown = panel.show()
    inside = [child for row in shown.children for child in getattr(row, "children", [row])]
    assert all(control in inside for control in panel.controls.values())
    assert panel.picture in inside
