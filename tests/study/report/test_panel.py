"""The controls of the notebook that is played with: every one changes what is shown."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from icm_study.experiments.exploring import Exploration
from icm_study.experiments.study import Study
from icm_study.report.panel import Panel, as_code, changed_images, confusion_table


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
    below = panel.confusion.value, panel.changed.value
    control = panel.controls[name]
    start = control.value
    control.value = CHANGES[name]
    assert (pixels(panel) != before).any()
    assert panel.told.value != told
    assert panel.confusion.value != below[0]
    assert panel.changed.value != below[1]
    changes_code = name in ("intervention", "consistency_weight", "n_components")
    assert (panel.code.value != code) == changes_code
    control.value = start
    np.testing.assert_array_equal(pixels(panel), before)
    assert panel.told.value == told
    assert (panel.confusion.value, panel.changed.value) == below


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
    assert {panel.picture, panel.confusion, panel.changed} <= set(inside)


@pytest.fixture(scope="module")
def answer(panel, study):
    return Exploration(study.beds[0], study.embedder, 3).answer(panel.setting)


def cells_of(html):
    rows = BeautifulSoup(html, "html.parser").find_all("tr")
    return [[cell.get_text().strip() for cell in row.find_all(["th", "td"])] for row in rows]


def test_the_table_says_what_each_class_is_taken_for(answer, study):
    words = study.beds[0].words
    head, _, *rows = cells_of(confusion_table(answer, words))
    assert tuple(head[1:]) == words
    for word, of_class, (name, *percent) in zip(words, answer.confusion, rows, strict=True):
        assert name == word
        assert percent == [f"{100 * n / of_class.sum():.0f}" for n in of_class]


def test_of_many_classes_the_commonest_mistakes_are_listed(answer):
    confusion = np.diag([5] * 40)
    confusion[3, 7], confusion[9, 0] = 4, 2
    words = tuple(f"class {i}" for i in range(40))
    shown = cells_of(confusion_table(replace(answer, confusion=confusion), words))
    assert shown[1:] == [["class 3", "class 7", "4 of 9"], ["class 9", "class 0", "2 of 7"]]


def test_changed_images_are_shown_with_both_predictions(answer, study):
    words = study.beds[0].words
    shown = changed_images(answer, words)
    data = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", shown)
    assert len(data) == len(answer.changed) > 0
    for encoded, pixels in zip(data, answer.changed.pixels().numpy(), strict=True):
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))
        np.testing.assert_array_equal(image, pixels.transpose(1, 2, 0))
    was, now = re.findall(r"was (.+?) [✓✗]<br>now (.+?) [✓✗]", shown)[0]
    assert (was, now) == (words[answer.before[0]], words[answer.after[0]])
    rights = shown.count("✓")
    own = answer.changed.label
    assert rights == (answer.before == own).sum() + (answer.after == own).sum()
