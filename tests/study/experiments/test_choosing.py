"""Each way to choose a setting: what it looks at, and what it takes, by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
from linear_world import LinearWorld, numbers_only
from sklearn.linear_model import LogisticRegression

from icm_study.embedding.store import EmbeddingStore
from icm_study.experiments.choosing import CHOICES, NOT_CHOSEN
from icm_study.experiments.run import Plan, run_task
from icm_study.experiments.task import make_task
from icm_study.methods.registry import METHODS
from icm_study.methods.shared import Shared

TARGET = "c"
GRID = {"consistency_weight": [0.3, 3.0, 30.0], "n_components": [5, 4, 3, 2, 1]}


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    bed, embedder = LinearWorld(n=300), numbers_only(EmbeddingStore(tmp_path_factory.mktemp("s")))
    return make_task(bed, embedder, bed.embed(embedder, 0), TARGET, 0, with_draws=True)


# By hand


def pairs(sources, kind, keep):
    if kind == "text":
        before, after = sources.texts
    else:
        before, after = sources.images.embedded, sources.copies[kind].embedded
    keep = keep[0] if kind == "image" else keep[1]
    return before[keep], after[keep]


def fitted(sources, intervention, setting, keep):
    """Both predictors in a subspace, from NumPy and scikit-learn alone."""
    kinds, parts = intervention.split("+"), []
    for kind in kinds:
        X, X_do = pairs(sources, kind, keep)
        parts.append((X.T @ X - setting["consistency_weight"] * (X - X_do).T @ (X - X_do)) / len(X))
    A = np.linalg.eigh(sum(parts) / len(kinds))[1][:, ::-1][:, : setting["n_components"]]
    prompts, X = sources.prompts @ A, sources.images.embedded[keep[1]] @ A
    directions = prompts / np.linalg.norm(prompts, axis=1, keepdims=True)
    scale = 1 / np.sqrt(np.mean(X**2))
    probe = LogisticRegression(C=0.316, tol=1e-8).fit(scale * X, sources.images.label[keep[1]])
    return {
        "zero-shot": lambda Z: (Z @ A @ directions.T).argmax(axis=1),
        "linear probe": lambda Z: probe.predict(scale * Z @ A),
    }


def folds(task, choice, intervention):
    """(rows of copies to use, rows of images to use, embeddings and labels that are judged)."""
    sources, held_out = task.sources, task.held_out
    every, own = np.full(len(sources.images), True), held_out.images
    kind = "oracle" if intervention == "oracle" else "image"
    if choice == "left-out domain":
        for domain in (0, 1):
            keep = sources.images.domain != domain
            mine = own.domain == domain
            X = np.vstack([sources.images.embedded[~keep], own.embedded[mine]])
            yield (keep, keep), X, np.append(sources.images.label[~keep], own.label[mine])
    elif choice == "unseen intervention" and "image" in intervention:
        for name in sorted(set(held_out.drawn)):
            mine = held_out.drawn == name
            judged = held_out.copies["image"].embedded[mine]
            yield (sources.drawn != name, every), judged, own.label[mine]
    else:
        judged = {
            "held-out": own,
            "intervened": held_out.copies[kind],
            "unseen intervention": held_out.copies["image"],
            "target": task.tests["unseen"],
        }[choice]
        yield (every, every), judged.embedded, judged.label


@pytest.mark.parametrize("intervention", ["image", "text", "image+text", "oracle"])
def test_the_setting_is_the_first_of_the_best_and_measured_as_by_hand(task, intervention):
    name = f"ICM {intervention}"
    plan = Plan([name], tuple(CHOICES), {name: GRID})
    table = run_task(task, plan).set_index(["predictor", "choice", "condition"]).sort_index()
    settings = [dict(zip(GRID, one, strict=True)) for one in product(*GRID.values())]
    every = np.full(len(task.sources.images), True)
    whole = [fitted(task.sources, intervention, setting, (every, every)) for setting in settings]
    chosen = set()
    for choice, predictor in product(CHOICES, ("zero-shot", "linear probe")):
        hits = [
            [
                fitted(task.sources, intervention, setting, keep)[predictor](X) == y
                for keep, X, y in folds(task, choice, intervention)
            ]
            for setting in settings
        ]
        if choice == "left-out domain":  # domains count alike; elsewhere, images do
            accuracy = [np.mean([part.mean() for part in parts]) for parts in hits]
        else:
            accuracy = [np.concatenate(parts).mean() for parts in hits]
        best = int(np.argmax(accuracy))
        chosen.add(best)
        rows = table.loc[(predictor, choice)]
        assert set(rows["setting"].map(json.loads).map(str)) == {
            str({"intervention": intervention} | settings[best])
        }
        assert set(rows["K"]) == {settings[best]["n_components"]}
        assert set(rows["consistency_weight"]) == {settings[best]["consistency_weight"]}
        for condition, images in task.tests.items():
            correct = whole[best][predictor](images.embedded) == images.label
            one_image = 100.5 / len(images)  # the two solvers stop at slightly different weights
            assert rows.loc[condition, "value"] == pytest.approx(
                100 * correct.mean(), abs=one_image
            )
    assert len(chosen) > 2  # or the ways to choose would not be told apart


def test_the_penalty_of_a_probe_is_chosen_as_by_hand(task):
    plan = Plan(["augmentation", "tuned penalty"], ("held-out", "intervened", "target"))
    table = run_task(task, plan).set_index(["method", "choice"])["setting"].groupby(level=[0, 1])
    found = {key: json.loads(setting)["C"] for key, setting in table.first().items()}
    images, copies = task.sources.images, task.sources.copies["image"]
    judged = [task.held_out.images, task.held_out.copies["image"], task.tests["unseen"]]
    for name, parts in {"augmentation": [images, copies], "tuned penalty": [images]}.items():
        X = np.vstack([part.embedded for part in parts])
        y, scale = np.concatenate([part.label for part in parts]), 1 / np.sqrt(np.mean(X**2))
        penalties = METHODS[name].grid["C"]
        probes = [LogisticRegression(C=C, tol=1e-8).fit(scale * X, y) for C in penalties]
        for choice, one in zip(("held-out", "intervened", "target"), judged, strict=True):
            accuracy = [probe.score(scale * one.embedded, one.label) for probe in probes]
            assert found[name, choice] == penalties[int(np.argmax(accuracy))]


@pytest.mark.parametrize("n_tried_before", [1, 0])
def test_the_penalty_is_chosen_after_the_projection_as_by_hand(task, n_tried_before):
    name, before = "tuned penalty, chosen ICM image", "ICM image"
    ways = ("held-out", "intervened", "target")
    tables = [  # whether K and λ were chosen by the other method, or are by the method itself
        run_task(task, Plan(methods, ways, {before: GRID}))
        for methods in ([[before, name]] if n_tried_before else [[name], [before]])
    ]
    table = pd.concat(tables)
    probe = table[(table["predictor"] == "linear probe") & (table["condition"] == "unseen")]
    found = probe.set_index(["method", "choice"])["setting"].map(json.loads)
    assert set(table.loc[table["method"] == name, "predictor"]) == {"linear probe"}
    judged = [task.held_out.images, task.held_out.copies["image"], task.tests["unseen"]]
    X, y = task.sources.images.embedded, task.sources.images.label
    X_do = task.sources.copies["image"].embedded
    for choice, one in zip(ways, judged, strict=True):
        start = found[before, choice]
        moments = X.T @ X - start["consistency_weight"] * (X - X_do).T @ (X - X_do)
        A = np.linalg.eigh(moments)[1][:, ::-1][:, : start["n_components"]]
        scale = 1 / np.sqrt(np.mean((X @ A) ** 2))
        penalties = METHODS[name].then["C"]
        probes = [LogisticRegression(C=C, tol=1e-8).fit(scale * X @ A, y) for C in penalties]
        accuracy = [probe.score(scale * one.embedded @ A, one.label) for probe in probes]
        assert found[name, choice] == start | {"C": penalties[int(np.argmax(accuracy))]}


def test_one_setting_of_the_projection_and_penalties_that_are_given(task):
    name = "tuned penalty, chosen ICM image"
    given = {"consistency_weight": [1.0], "n_components": [2], "C": [0.5, 0.02]}
    table = run_task(task, Plan([name], ("intervened",), {name: given}))
    (setting,) = table["setting"].map(json.loads).map(str).unique()
    assert json.loads(table["setting"].iloc[0])["C"] in given["C"]
    assert "'n_components': 2" in setting
    assert set(table["choice"]) == {"intervened"}


# What is looked at


def same(images, others):
    return len(images) == len(others) and np.array_equal(images.embedded, others.embedded)


@pytest.mark.parametrize("choice", CHOICES)
def test_each_choice_takes_the_setting_that_is_best_on_its_own_images(task, fake, choice):
    held_out = task.held_out
    copies = held_out.copies["image"]
    parts = {
        "held-out": [held_out.images],
        "intervened": [copies],
        "unseen intervention": [copies.take(held_out.drawn == d) for d in set(held_out.drawn)],
        "target": [task.tests["unseen"]],
    }

    def answer(method, images):
        """Right, at setting 1, on the images of this choice alone; at setting 0, on all others."""
        if choice == "left-out domain":
            unknown = not np.isin(images.domain, method.fitted_on.images.domain).any()
            mine = unknown and not any(same(images, test) for test in task.tests.values())
        else:
            mine = any(same(images, part) for part in parts[choice])
        return mine == (method.value == 1)

    fake(answer, sees={"image"})
    table = run_task(task, Plan(["fake"], tuple(CHOICES)))
    chosen = table.drop_duplicates("choice").set_index("choice")["setting"].map(json.loads)
    assert chosen.to_dict() == {name: {"value": int(name == choice)} for name in CHOICES}


@pytest.mark.parametrize(
    ("choice", "sees", "kind"),
    [
        ("held-out", "image", "original"),
        ("held-out", "oracle", "original"),
        ("intervened", "", "image"),
        ("intervened", "image", "image"),
        ("intervened", "text", "image"),
        ("intervened", "image text", "image"),
        ("intervened", "oracle", "oracle"),
        ("unseen intervention", "", "image"),
        ("unseen intervention", "text", "image"),
        ("unseen intervention", "oracle", "image"),
    ],
)
def test_held_out_images_that_are_judged(task, choice, sees, kind):
    (fold,) = CHOICES[choice].folds(task, frozenset(sees.split()))
    held_out = task.held_out
    expected = held_out.images if kind == "original" else held_out.copies[kind]
    assert fold.sources is task.sources
    assert [same(images, expected) for images in fold.judged] == [True]
    np.testing.assert_array_equal(fold.judged[0].label, held_out.images.label)


def test_a_method_that_sees_interventions_is_judged_by_those_it_has_not_seen(task, fake):
    names, seen = dict(zip(task.held_out.images.rows, task.held_out.drawn, strict=True)), []
    assert len(set(names.values())) > 4

    def answer(method, images):
        if not any(same(images, test) for test in task.tests.values()):
            seen.append(({names[row] for row in images.rows}, set(method.fitted_on.drawn)))
        return True

    fake(answer, sees={"image"})
    run_task(task, Plan(["fake"], ["unseen intervention"]))
    assert len(seen) == 2 * len(set(names.values()))  # for both settings
    for judged, fitted_on in seen:
        assert len(judged) == 1
        assert not judged & fitted_on
        assert len(fitted_on - {""}) == 6


def test_of_equally_good_settings_the_first_is_taken(task, fake):
    fake(lambda method, images: True, values=(3, 1, 2))
    assert set(run_task(task, Plan(["fake"], tuple(CHOICES)))["setting"]) == {'{"value": 3}'}


def test_a_method_with_one_setting_is_not_chosen(task, fake):
    fake(lambda method, images: True, values=(5,))
    table = run_task(task, Plan(["fake"], tuple(CHOICES)))
    assert set(table["choice"]) == {NOT_CHOSEN}
    assert (table["value"] == 100).all()


def test_only_one_choice_peeks():
    assert [name for name, choice in CHOICES.items() if not choice.is_honest] == ["target"]
    assert [name for name, choice in CHOICES.items() if choice.needs_draws] == [
        "unseen intervention"
    ]
    assert all(choice.name == name and choice.note for name, choice in CHOICES.items())


# What cannot be chosen by


def one_domain(task):
    return replace(task, sources=task.sources.take(task.sources.images.domain == 0))


def no_target(task):
    return replace(task, target="none")


def other_pairs(task):
    others = {"image": task.sources.pairs("image")}
    return replace(task, sources=replace(task.sources, others=others, shared=Shared()))


@pytest.mark.parametrize(
    ("choice", "change", "message"),
    [
        ("left-out domain", one_domain, "The sources have one domain.*expected two source domains"),
        ("target", no_target, "no single test is the target here.*Leave it out"),
        ("unseen intervention", other_pairs, "pairs of other images.*such as 'intervened'"),
    ],
)
def test_a_choice_that_cannot_be_made_ends_the_run(task, choice, change, message):
    """It is not told as a fault of each method that would be chosen."""
    plan = Plan(["plain", "tuned penalty", "ICM image"], ["intervened", choice])
    with pytest.raises(ValueError, match=message):
        run_task(change(task), plan)
    assert len(run_task(change(task), replace(plan, choices=["intervened"])))
