"""Every method by name: its settings, what it looks at, the same numbers again."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from icm_study.experiments.run import Plan, run_task
from icm_study.methods.maps import Plain
from icm_study.methods.registry import METHODS, Entry, overview
from icm_study.methods.shared import Shared

SHORT = {"epochs": 1, "steps": 3, "penalty_weight": 1.0, "sharpness": 1.0}
QUICK = [name for name, entry in METHODS.items() if entry.family != "fine-tuning"]


@pytest.fixture(scope="module")
def few(task):
    """A part of a tiny task, for methods that embed prompts or pixels anew."""
    sources = task.sources.take(np.arange(0, len(task.sources.images), 2))
    tests = {name: images.take(slice(0, 20)) for name, images in task.tests.items()}
    return replace(task, sources=sources, tests=tests)


def spoilt(kind, sources):
    """The same sources with other copies of a kind, or other edits of the captions."""
    rng = np.random.default_rng(0)

    def other(embedded):
        drawn = rng.normal(size=embedded.shape)
        return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(embedded.dtype)

    if kind == "text":
        captions, edits = sources.texts
        return replace(sources, texts=(captions, other(edits)), shared=Shared())
    copy = sources.copies[kind]

    def load(rows):
        return 255 - copy.load(rows) if kind == "image" else pytest.fail("pixels of the oracle")

    copies = sources.copies | {kind: replace(copy, embedded=other(copy.embedded), load=load)}
    return replace(sources, copies=copies, shared=Shared())


def made(name):
    """The method at the last of its settings, trained as shortly as can be."""
    method = METHODS[name].make(**METHODS[name].settings(64)[-1])
    given = method.get_params()
    return method.set_params(**{key: SHORT[key] for key in SHORT if key in given})


@pytest.mark.parametrize("name", METHODS)
def test_methods_say_which_interventions_they_look_at(few, name):
    """On it depends what a setting may be judged on: with copies spoilt, only that changes."""
    images = few.tests["unseen"]

    def scores(sources):
        return made(name).fit(sources).scores(images)

    own = scores(replace(few.sources, shared=Shared()))
    looked = set()
    for kind in ("image", "text", "oracle"):
        changed = scores(spoilt(kind, few.sources))
        if any(not np.array_equal(changed[name], own[name]) for name in own):
            looked.add(kind)
    assert looked == made(name).sees_interventions


def test_settings_are_every_combination_and_sizes_suit_the_embedding():
    entry = Entry(Plain, "", {"a": [1, 2], "n_components": "K"})
    assert entry.settings(64) == [{"a": a, "n_components": k} for a in (1, 2) for k in (32, 16, 8)]
    whole = {"a": 1, "n_components": 64}  # which changes nothing, and comes first
    assert replace(entry, or_all=True).settings(64) == [whole, *entry.settings(64)]
    assert Entry(Plain, "").settings(64) == [{}]
    # of equals the first is taken: the smallest change
    tried = METHODS["ICM image"].settings(64)
    assert tried == sorted(tried, key=lambda s: (s["consistency_weight"], -s["n_components"]))
    for entry in METHODS.values():
        for setting in entry.settings(64):
            entry.make(**setting)
            json.dumps(setting)


def test_settings_that_are_given_replace_those_of_their_parameter():
    entry = Entry(Plain, "", {"a": [1, 2], "n_components": "K"}, or_all=True)
    given = {"n_components": [5, 3]}
    assert entry.settings(64, given) == [
        {"a": a, "n_components": k} for a in (1, 2) for k in (5, 3)
    ]
    assert entry.settings(64, {"a": [7], "C": [0.1]})[0] == {"a": 7, "n_components": 64, "C": 0.1}


def test_every_method_can_be_looked_up():
    table = overview()
    assert table["method"].tolist() == list(METHODS)
    assert table["settings"].tolist() == [
        len(entry.settings(64)) + len(entry.then.get("C", ())) for entry in METHODS.values()
    ]
    assert (table[["family", "what it is", "source"]].map(len) > 2).all(axis=None)
    assert overview(["LDA", "plain"])["method"].tolist() == ["LDA", "plain"]


@pytest.mark.slow
def test_every_method_gives_the_same_table_again(few):
    """Those that tune the encoder are tested on their own."""
    short = {name: {"epochs": [1]} for name in ("CoOp", "CoCoOp", "DPL")}
    short |= {"IRM": {"penalty_weight": [1.0, 10.0], "C": [0.316]}}
    plan = Plan(QUICK, ("held-out", "intervened", "target"), short)

    def repeat():
        # some classes have one image in the target of this few: no half of it
        with pytest.warns(UserWarning, match="'tuned penalty' reaches when trained on half"):
            return run_task(replace(few, sources=replace(few.sources, shared=Shared())), plan)

    first, second = (repeat() for _ in range(2))
    seconds = ["fit_seconds"]
    pd.testing.assert_frame_equal(first.drop(columns=seconds), second.drop(columns=seconds))
    assert set(first["method"]) == set(QUICK)
    assert np.isfinite(first["value"]).all()
    assert (first["n_parameters"] >= 0).all()
