"""The comparison of methods: what each selection looks at, what no method may see, and the pixels behind a row."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest

from icm_core.interventions import draw_interventions
from icm_study.animals.latents import STYLES
from icm_study.animals.rendering import write_folder
from icm_study.animals.silhouettes import load_silhouettes
from icm_study.embedding.store import EmbeddingStore
from icm_study.encoders.loading import load_encoder
from icm_study.experiments.comparison import REFERENCE, by_worst_case, compare, pick, run_comparison
from icm_study.experiments.intervals import pack, unpack
from icm_study.experiments.task import animal_task, folder_task
from icm_study.methods import registry as catalog
from icm_study.methods.base import Method
from icm_study.methods.maps import ICM
from icm_study.methods.registry import METHODS, Entry, grid
from icm_study.photographs.check import load_folder
from icm_study.report.claims import comparison_claims, differences, learnt_from
from icm_study.testbeds.image_folder import image_folder

TARGET = 2


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    store = EmbeddingStore(tmp_path_factory.mktemp("store"))
    world = ("coat+scene", 0.9)
    return animal_task(
        load_encoder("animal-world"), load_silhouettes(), store, world, TARGET, n=400
    )


class Fake(Method):
    """Answers whatever `answer` says of the images that are judged and of those it was fitted on."""

    predictors: ClassVar[tuple[str, ...]] = ("linear probe",)

    def __init__(self, value=0):
        self.value = value

    @property
    def sees_image_interventions(self):
        return self.sees

    def fit(self, sources):
        self.fitted_on, self.n_parameters_ = sources, {"linear probe": 1}
        return self

    def scores(self, images):
        right = np.broadcast_to(type(self).answer(self, images), len(images))
        scores = np.eye(10)[images.label]
        return {"linear probe": np.where(right[:, None], scores, np.roll(scores, 1, axis=1))}


def fake(monkeypatch, answer, *, sees=False, values=(0, 1), on_target=False):
    """Put a method into the catalog that is right where `answer(method, images)` says so."""
    kind = type("Fake", (Fake,), {"answer": answer, "sees": sees})
    entry = Entry(
        kind, "probe", lambda n_features: [{"value": v} for v in values], on_target=on_target
    )
    monkeypatch.setitem(METHODS, "fake", entry)


def same(images, others):
    return len(images) == len(others) and np.array_equal(images.embedded, others.embedded)


def test_the_pixels_of_every_part_are_those_that_were_embedded(task):
    encoder = task.sources.encoder
    parts = [
        task.sources.images,
        task.sources.intervened,
        task.held_out.images,
        task.held_out.intervened,
    ]
    for images in [*parts, *task.tests.values()]:
        some = images.take(np.arange(0, len(images), 7))
        np.testing.assert_allclose(encoder.encode_images(some.pixels()), some.embedded, atol=2e-5)
    expected = draw_interventions(task.sources.images.take(np.arange(40)).pixels(), seed=0)
    assert task.sources.drawn[:40].tolist() == expected
    assert len(set(task.sources.drawn)) == 7


def test_the_target_domain_is_in_no_source_and_in_every_test_of_it(task):
    for sources in (task.sources, task.held_out):
        assert TARGET not in sources.images.domain
    assert set(task.tests["unseen"].domain) == set(task.tests["reversed"].domain) == {TARGET}
    assert TARGET not in task.tests["in_distribution"].domain
    rows = set(task.sources.images.rows) & set(task.held_out.images.rows)
    assert not rows


@pytest.mark.parametrize("selection", ["held-out", "left-out", "intervened", "peeking"])
def test_each_selection_takes_the_setting_that_is_best_on_its_own_images(
    task, monkeypatch, selection
):
    parts = {
        "held-out": [task.held_out.images],
        "intervened": [task.held_out.intervened],
        "peeking": [task.tests["unseen"]],
    }

    def answer(method, images):
        """Right, at setting 1, on the images of this selection alone; at setting 0, on all others."""
        if selection == "left-out":
            mine = (
                not np.isin(images.domain, method.fitted_on.images.domain).any()
                and TARGET not in images.domain
            )
        else:
            mine = any(same(images, part) for part in parts[selection])
        return mine == (method.value == 1)

    fake(monkeypatch, answer)
    chosen = compare(task, ["fake"]).drop_duplicates("selection").set_index("selection")["setting"]
    assert {name: json.loads(s)["value"] for name, s in chosen.items()} == {
        name: int(name == selection) for name in ("held-out", "left-out", "intervened", "peeking")
    }


def test_the_seed_is_the_random_state_of_what_is_drawn(task):
    tables = [compare(task, ["plain", "random projection"], seed=seed) for seed in (0, 0, 1)]
    first, again, other = (table.drop(columns="fit_seconds") for table in tables)
    pd.testing.assert_frame_equal(first, again)
    plain = first["method"] == "plain"
    pd.testing.assert_frame_equal(first[plain], other[plain])
    assert not first[~plain].equals(other[~plain])


def test_a_method_that_sees_interventions_is_judged_by_those_it_has_not_seen(task, monkeypatch):
    seen = []

    def answer(method, images):
        held_out = dict(zip(task.held_out.intervened.rows, task.held_out.drawn, strict=True))
        if any(
            same(images, task.held_out.intervened.take(task.held_out.drawn == name))
            for name in set(held_out.values())
        ):
            judged = {held_out[row] for row in images.rows}
            seen.append((judged, set(method.fitted_on.drawn)))
        return True

    fake(monkeypatch, answer, sees=True)
    compare(task, ["fake"])
    assert len(seen) == 2 * 7
    for judged, fitted in seen:
        assert len(judged) == 1
        assert not judged & fitted
        assert len(fitted - {""}) == 6


def test_of_equally_good_settings_the_first_is_taken(task, monkeypatch):
    fake(monkeypatch, lambda method, images: True, values=(3, 1, 2))
    assert set(compare(task, ["fake"])["setting"]) == {'{"value": 3}'}


def test_a_method_with_one_setting_is_not_chosen(task, monkeypatch):
    fake(monkeypatch, lambda method, images: method.fitted_on is task.sources, values=(5,))
    table = compare(task, ["fake"])
    assert set(table["selection"]) == {"none"}
    assert (table["value"] == 100).all()


def test_the_upper_bound_never_judges_an_image_that_it_was_trained_on(task, monkeypatch):
    def answer(method, images):
        if TARGET not in method.fitted_on.images.domain:
            return True
        return ~np.isin(images.rows, method.fitted_on.images.rows)

    fake(monkeypatch, answer, on_target=True, values=(0,))
    table = compare(task, ["fake"])
    bound = table[table["selection"] == REFERENCE]
    assert bound["condition"].tolist() == ["unseen"]
    assert bound["value"].item() == 100
    assert bound["n"].item() == len(task.tests["unseen"])


def test_the_upper_bound_takes_the_setting_that_is_best_on_the_target(task, monkeypatch):
    def answer(method, images):
        return (TARGET in method.fitted_on.images.domain) == (method.value == 2)

    fake(monkeypatch, answer, on_target=True, values=(1, 2, 3))
    table = compare(task, ["fake"])
    assert table.loc[table["selection"] == REFERENCE, "setting"].tolist() == ['{"value": 2}']


def test_accuracies_and_bits_agree(task):
    table = compare(task, ["plain", "ICM auto text"])
    for condition, block in table.groupby("condition"):
        for _, row in block.iterrows():
            assert row["value"] == pytest.approx(100 * unpack(row).mean())
            assert row["low"] <= row["value"] <= row["high"]
            assert row["n"] == len(task.tests[condition])


def test_an_unknown_method_is_named(task):
    with pytest.raises(ValueError, match=r"Unknown: \['no such'\]"):
        compare(task, ["plain", "no such"])
    for methods in ([], ["plain", "plain"]):
        with pytest.raises(ValueError, match="expected some of"):
            compare(task, methods)
    with pytest.raises(TypeError, match="methods is 'plain'; expected a sequence"):
        compare(task, "plain")


def test_a_method_that_cannot_be_fitted_is_left_out_and_the_others_are_kept(task):
    afresh = task.sources.take(np.arange(len(task.sources.images)))
    mute = replace(task, sources=replace(afresh, captions=afresh.captions[:0]))
    with pytest.warns(UserWarning, match="The method 'ICM auto text' is left out: .* no captions"):
        table = compare(mute, ["ICM auto text", "ICM auto image"])
    assert set(table["method"]) == {"ICM auto image"}


def test_a_setting_that_cannot_be_fitted_is_left_out_and_the_others_are_kept(folder):
    encoder, store, environments = folder
    task = folder_task(encoder, environments, environments.classes, store, TARGET)
    with pytest.warns(
        UserWarning, match="3 of the 6 settings of 'Fukunaga-Koontz' are left out: .* no captions"
    ):
        table = compare(task, ["Fukunaga-Koontz"])
    assert set(table["setting"].map(json.loads).map(lambda setting: setting["intervention"])) == {
        "image"
    }


@pytest.mark.parametrize(
    "name", [name for name, entry in METHODS.items() if entry.family != "fine-tuning"]
)
def test_methods_say_whether_they_see_image_interventions(task, name):
    """On them depends what a setting may be judged on: with the intervened images spoilt, only the others can be fitted."""

    def spoilt(rows):
        raise ValueError("the pixels of intervened images were asked for")

    intervened = replace(
        task.sources.intervened,
        embedded=np.full_like(task.sources.intervened.embedded, np.nan),
        load=spoilt,
    )
    sources = replace(task.sources.take(np.arange(len(task.sources.images))), intervened=intervened)
    method = METHODS[name].make(**METHODS[name].settings(64)[-1])
    short = {"epochs": 1, "steps": 3}
    method.set_params(**{key: short[key] for key in short if key in method.get_params()})
    try:
        scores = method.fit(sources).scores(task.tests["unseen"])
        sees = any(np.isnan(values).any() for values in scores.values())
    except ValueError:
        sees = True
    assert method.sees_image_interventions == sees


def test_sources_of_one_domain_cannot_be_compared(task):
    alone = replace(task, sources=task.sources.take(task.sources.images.domain == 0))
    with pytest.raises(ValueError, match="The sources have one domain"):
        compare(alone, ["plain"])


def test_an_intervention_that_is_unknown_or_has_no_pairs_is_an_error(task, folder):
    with pytest.raises(ValueError, match="Unknown intervention 'texts'"):
        ICM("texts").fit(task.sources)
    encoder, store, environments = folder
    sources = folder_task(encoder, environments, environments.classes, store, TARGET).sources
    with pytest.raises(ValueError, match="these sources have no captions"):
        ICM("image+text").fit(sources)


def test_settings_are_every_combination_and_sizes_suit_the_embedding():
    made = grid(a=[1, 2], n_components="K")(64)
    assert made == [{"a": a, "n_components": k} for a in (1, 2) for k in (32, 16, 8)]
    assert grid()(64) == [{}]
    for entry in catalog.METHODS.values():
        for setting in entry.settings(64):
            entry.make(**setting)
            json.dumps(setting)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, store = (
        tmp_path_factory.mktemp("animals"),
        EmbeddingStore(tmp_path_factory.mktemp("store")),
    )
    images = load_folder(write_folder(root, load_silhouettes(), per_class=4))
    encoder = load_encoder("animal-world")
    return encoder, store, image_folder(encoder, images, store, name="animals")


def test_a_folder_is_a_task_too_and_its_pixels_are_those_that_were_embedded(folder):
    encoder, store, environments = folder
    task = folder_task(encoder, environments, environments.classes, store, TARGET)
    for images in (task.sources.images, task.sources.intervened, *task.tests.values()):
        some = images.take(np.arange(0, len(images), 5))
        np.testing.assert_allclose(encoder.encode_images(some.pixels()), some.embedded, atol=2e-5)
    assert len(task.sources.captions) == 0
    assert (
        task.sources.without("invert").moments("image").n_pairs
        == (task.sources.drawn != "invert").sum()
    )


def test_a_folder_is_compared_over_its_targets_and_seeds(folder):
    encoder, store, environments = folder
    table = run_comparison(
        "animals", encoder, store, seeds=[0, 1], methods=["plain", "ICM auto image"], folder=environments,
        words=environments.classes, targets=["sketch", "photo"],
    )  # fmt: skip
    assert set(zip(table["target"], table["seed"], strict=True)) == {
        (target, seed) for target in ("sketch", "photo") for seed in (0, 1)
    }
    assert set(table["condition"]) == {"in_distribution", "unseen"}
    assert set(table["world"]) == {"animals"}
    assert not table.duplicated(["method", "predictor", "condition", "target", "seed"]).any()


def test_nothing_to_compare_is_an_error(folder):
    encoder, store, environments = folder
    given = {"folder": environments, "words": environments.classes}
    with pytest.raises(ValueError, match=r"Unknown: \['comic'\]"):
        run_comparison("animals", encoder, store, seeds=[0], targets=["comic"], **given)
    with pytest.raises(TypeError, match="targets is 'photo'; expected a sequence"):
        run_comparison("animals", encoder, store, seeds=[0], targets="photo", **given)
    for seeds in ([], [1, 1]):
        with pytest.raises(ValueError, match="expected at least one seed, and each once"):
            run_comparison("animals", encoder, store, seeds=seeds, **given)
    with pytest.raises(
        ValueError, match="expected a sequence of 10 strings, one for each of the classes"
    ):
        run_comparison("animals", encoder, store, seeds=[0], folder=environments)
    with pytest.raises(ValueError, match="Give a folder, or silhouettes and a world"):
        run_comparison("animal-world", encoder, store, seeds=[0], targets=STYLES[:1])


def test_methods_are_ordered_by_where_they_do_worst():
    rows = [("probe", "a", "x", 90), ("probe", "a", "y", 60), ("probe", "b", "x", 70), ("probe", "b", "y", 80),
            ("zero", "c", "x", 65), ("zero", "c", "y", 99)]  # fmt: skip
    means = pd.DataFrame(rows, columns=["predictor", "method", "condition", "value"])
    found = by_worst_case(means)
    assert found[["method", "condition", "value"]].to_numpy().tolist() == [
        ["b", "x", 70],
        ["c", "x", 65],
        ["a", "y", 60],
    ]


def made_up(accuracy):
    """Rows of five seeds and two targets, `accuracy` percent by (method, predictor, selection), a little noisy."""
    rows = []
    for (method, predictor, selection), value in accuracy.items():
        for seed in range(5):
            for target in ("photo", "sketch"):
                correct = np.arange(1000) < 10 * value + seed
                rows.append(
                    {
                        "method": method, "predictor": predictor, "selection": selection, "seed": seed,
                        "target": target, "condition": "reversed", "world": "coat 0.9", "encoder": "toy",
                        "value": 100 * correct.mean(), "n": 1000, "correct": pack(correct),
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


WHERE = "on an unseen domain with the shortcut reversed"


def test_claims_compare_each_rival_at_the_setting_that_no_one_peeked_for():
    probe = "linear probe"
    table = made_up(
        {
            ("plain", probe, "none"): 60, ("plain", "zero-shot", "none"): 80, ("ICM auto "
                                                                               "image+text", probe, "none"): 80,
            ("tuned penalty", probe, "intervened"): 85, ("tuned penalty", probe, "peeking"): 70,
            ("tuned penalty", probe, "held-out"): 50, ("CoOp", "zero-shot", "intervened"): 75,
            ("ICM image+text", probe, "intervened"): 72, ("ICM image+text", probe, "held-out"): 74,
            ("ICM image+text", probe, "peeking"): 90,
        }
    )  # fmt: skip
    verdicts = comparison_claims(table)
    found = {
        tuple(row.statement.split(", image and text interventions, ")[-1].split(f" {WHERE}")[0].split(": ")): (
            row.measured.split()[0], row.verdict
        )
        for row in verdicts[verdicts["claim"].str.startswith("Rivals")].itertuples()
    }  # fmt: skip
    auto, chosen = (
        "λ fixed at 1, K = positive eigenvalues",
        "K and λ chosen as the rival's settings are",
    )
    assert found == {
        (auto, "beats the plain probe"): ("+20.0", "supported"),
        (auto, "beats plain zero-shot"): ("+0.0", "refuted"),
        (auto, "beats the plain probe with a chosen penalty"): ("-5.0", "refuted"),
        (chosen, "beats the plain probe"): ("+12.0", "supported"),
        (chosen, "beats plain zero-shot"): ("-8.0", "refuted"),
        (chosen, "beats the plain probe with a chosen penalty"): ("-13.0", "refuted"),
    }  # fmt: skip
    selection = verdicts[verdicts["claim"].str.startswith("Selection")]
    assert [row.measured.split()[0] for row in selection.itertuples()] == ["-2.0", "+8.0"]
    assert (
        selection["statement"]
        .str.startswith(f"ICM probe, image and text interventions, {WHERE}")
        .all()
    )
    only_chosen = comparison_claims(table[table["method"] != "ICM auto image+text"])
    assert only_chosen.empty  # nothing says which interventions CLIP-ICM learnt from
    assert comparison_claims(table[table["method"] == "plain"]).empty


def test_zero_shot_behind_the_projection_is_judged_too():
    zero_shot = {("plain", "zero-shot", "none"): 80, ("ICM auto image", "zero-shot", "none"): 83}
    verdicts = comparison_claims(made_up(zero_shot))
    assert verdicts["statement"].str.contains("ICM zero-shot, image interventions").tolist() == [
        True
    ]
    assert verdicts["verdict"].tolist() == ["supported"]


@pytest.mark.parametrize("over", ["seeds", "images"])
def test_differences_are_paired_and_at_honest_settings(over):
    probe = "linear probe"
    table = made_up(
        {
            ("plain", probe, "none"): 60, ("plain", "zero-shot", "none"): 80, ("IRM", probe, "intervened"): 85,
            ("IRM", probe, "peeking"): 99,
        }
    )  # fmt: skip
    found = differences(table, ("plain", probe), over).set_index(["method", "predictor"])
    assert found["value"].round(6).to_dict() == {("plain", "zero-shot"): 20, ("IRM", probe): 25}
    assert ((found["low"] <= found["value"]) & (found["value"] <= found["high"])).all()
    assert differences(table, ("LDA", probe), over).empty


def test_the_best_interventions_that_were_run_are_judged():
    assert learnt_from(["plain", "ICM auto text", "ICM auto image+text"]) == "image+text"
    assert learnt_from(["ICM auto image", "ICM text"]) == "image"
    assert learnt_from(["plain", "LDA"]) is None


def test_a_comparison_can_be_picked_by_selection():
    table = made_up({("IRM", "linear probe", way): 70 for way in ("none", "intervened", "peeking")})
    assert set(pick(table, "intervened")["selection"]) == {"none", "intervened"}
    with pytest.raises(ValueError, match="selection='best' is unknown"):
        pick(table, "best")


@pytest.mark.slow
def test_the_same_task_gives_the_same_table(task):
    def small():
        return replace(task, sources=task.sources.take(np.arange(0, len(task.sources.images), 3)))

    names = [
        name for name, entry in METHODS.items() if entry.family != "fine-tuning"
    ]  # tested on their own
    first, second = (compare(small(), names).drop(columns="fit_seconds") for _ in range(2))
    pd.testing.assert_frame_equal(first, second)
    assert set(first["method"]) == set(names)
    assert np.isfinite(first["value"]).all()
    assert (first["n_parameters"] >= 0).all()
