"""The engine: what no method may see, what rows say, what is refused, what theory says."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
from linear_world import LinearWorld, numbers_only
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from stand_ins import change

from icm_core.prediction import LinearProbe, ZeroShotClassifier
from icm_core.selection import grid_accuracy, least_squares_path
from icm_study.embedding.store import EmbeddingStore
from icm_study.experiments.choosing import CHOICES, NOT_CHOSEN, REFERENCE
from icm_study.experiments.intervals import pack, unpack
from icm_study.experiments.run import ICM_AND_PLAIN, Plan, run, run_task
from icm_study.experiments.task import make_task
from icm_study.methods.registry import METHODS
from icm_study.methods.shared import Shared
from icm_study.testbeds.base import CONDITIONS, PROTOCOLS

SMALL = {"consistency_weight": [0.3, 30.0], "n_components": [6, 2]}
TARGET = "c"
KINDS = ("image", "text", "image+text", "oracle")
CHOSEN = {f"ICM {kind}": SMALL for kind in KINDS}
BED = LinearWorld(n=300, n_test=450)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    return numbers_only(EmbeddingStore(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def data(embedder):
    return BED.embed(embedder, 0)


@pytest.fixture(scope="module")
def task(embedder, data):
    return make_task(BED, embedder, data, TARGET, 0, with_draws=True)


class Given(LinearWorld):
    """A linear world whose embeddings are given; what is embedded is written down."""

    def with_data(self, data):
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "embedded", [])
        return self

    def embed(self, embedder, seed):
        self.embedded.append(seed)
        return super().embed(embedder, seed) if self.data is None else self.data


class Never(LinearWorld):
    """A test bed that must not be embedded."""

    def embed(self, embedder, seed):
        pytest.fail("embedded")


def results(embedder, data, plan, seed=0):
    bed = Given(n=300, n_test=450).with_data(data)
    return run([bed], embedder, [seed], [TARGET], plan).drop(columns="fit_seconds")


def shuffled(where, seed=0):
    """Permute the values of the rows that `where` selects."""

    def function(values, table):
        values, rows = values.copy(), np.flatnonzero(where(table))
        values[rows] = values[np.random.default_rng(seed).permutation(rows)]
        return values

    return function


# No peeking


def choices_of(table):
    return table[["method", "predictor", "choice", "setting", "condition"]]


@pytest.mark.parametrize("choice", CHOICES)
def test_only_choosing_on_the_target_looks_at_its_labels(embedder, data, choice):
    """Choices and predictions stay as they are when the target's test labels are permuted."""
    number = BED.domains.index(TARGET)
    permuted = change(
        data, "test", "label", shuffled(lambda test: (test["domain"] == number).to_numpy())
    )
    grid = {"consistency_weight": [0.1, 1.0, 10.0, 100.0], "n_components": [6, 5, 4, 3, 2, 1]}
    methods = ["ICM image", "ICM oracle"]
    plan = Plan(methods, [choice], dict.fromkeys(methods, grid))
    before, after = (results(embedder, given, plan) for given in (data, permuted))
    known = before["condition"] == "in_distribution"
    same = before[known].equals(after[known]) and choices_of(before).equals(choices_of(after))
    assert same == CHOICES[choice].is_honest


HONEST = tuple(name for name, choice in CHOICES.items() if choice.is_honest)


def test_source_rows_of_the_target_are_never_used(embedder, data):
    """Rows that show the target, before or after the oracle intervention, may hold anything."""
    number = BED.domains.index(TARGET)

    def shows_target(source):
        rows = (source["domain"] == number) | (source["oracle_domain"] == number)
        return rows.to_numpy()[:, None]

    altered = data
    for variable in ("original", "image", "oracle", "caption", "edit"):
        altered = change(
            altered,
            "source",
            variable,
            lambda v, s: np.where(shows_target(s), v[::-1] * 100 + 7, v),
        )
    altered = change(altered, "source", "label", shuffled(lambda s: shows_target(s)[:, 0]))
    plan = Plan((), HONEST, CHOSEN)
    before, after = (results(embedder, given, plan) for given in (data, altered))
    pd.testing.assert_frame_equal(before, after)


def test_test_images_are_never_fitted_on(embedder, data):
    """Other test images change accuracies, neither a choice nor another condition's."""
    number = BED.domains.index(TARGET)

    def unseen(test):
        return ((test["domain"] == number) & (test["shortcut"] == "none")).to_numpy()[:, None]

    altered = change(data, "test", "original", lambda v, t: np.where(unseen(t), -v, v))
    plan = Plan((), HONEST, CHOSEN)
    before, after = (results(embedder, given, plan) for given in (data, altered))
    pd.testing.assert_frame_equal(choices_of(before), choices_of(after))
    others = before["condition"] != "unseen"
    pd.testing.assert_frame_equal(before[others], after[others])
    assert not before[~others].equals(after[~others])


# The method, where theory says what is right


@pytest.fixture(scope="module")
def repaired(embedder):
    """Clean and complete interventions on a linear SCM, four times."""
    methods = ["plain", "ICM image", "ICM oracle"]
    plan = Plan(methods, settings={name: SMALL for name in methods[1:]})
    return run([LinearWorld()], embedder, [0, 1, 2, 3], [TARGET], plan)


def test_icm_repairs_a_reversed_shortcut_where_theory_holds(repaired):
    """The probe behind ICM keeps its accuracy, the plain one falls."""
    value = repaired.pivot_table("value", "method", ["predictor", "condition"])["linear probe"]
    plain, oracle = value.loc["plain"], value.loc["ICM oracle"]
    assert plain["in_distribution"] > oracle["in_distribution"]  # the shortcut pays where it holds
    assert oracle["reversed"] > plain["reversed"] + 10
    assert oracle["unseen"] > plain["unseen"] + 5
    assert abs(oracle["reversed"] - oracle["in_distribution"]) < 5  # invariant: the same everywhere
    assert oracle["reversed"] > value.loc["ICM image", "reversed"] - 3  # which covers and leaks


def test_the_oracle_s_gain_is_significant_where_theory_holds(repaired):
    rows = repaired[(repaired["predictor"] == "linear probe") & (repaired["seed"] == 0)]
    rows = rows[rows["condition"] == "reversed"].set_index("method")
    gain = unpack(rows.loc["ICM oracle"]).astype(float) - unpack(rows.loc["plain"])
    assert gain.mean() > 2 * gain.std() / np.sqrt(len(gain))


# Rows


SCHEMA = {
    "dataset": "str", "encoder": "str", "protocol": "str", "world": "str", "shortcut": "str",
    "strength": "float", "target": "str", "seed": "int", "method": "str", "family": "str",
    "predictor": "str", "choice": "str", "judged_by": "str", "setting": "str", "K": "float",
    "consistency_weight": "float", "fit_seconds": "float", "n_parameters": "int",
    "condition": "str", "n": "int", "value": "float", "correct": "bytes",
}  # fmt: skip


def test_rows_are_what_is_documented(embedder):
    plan = Plan(choices=["intervened", "held-out"], settings=CHOSEN)
    table = run([BED], embedder, [5], ["b", TARGET], plan)
    assert set(table.columns) == set(SCHEMA)
    for name, kind in SCHEMA.items():
        found = {type(value).__name__.removesuffix("64").removesuffix("_") for value in table[name]}
        assert found <= {kind}, name
    where = ("dataset", "encoder", "protocol", "world", "shortcut", "seed")
    assert table[list(where)].drop_duplicates().to_numpy().tolist() == [
        ["linear world", "no encoder", PROTOCOLS[0], "linear", "unknown", 5]
    ]
    assert table["strength"].isna().all()
    assert list(dict.fromkeys(table["target"])) == ["b", TARGET]
    keys = ["target", "method", "predictor", "choice"]
    rows = table.groupby(keys)["condition"].agg(tuple)
    assert set(rows) == {CONDITIONS[:3]}
    one, both = [NOT_CHOSEN], ["intervened", "held-out"]
    expected = {("plain", p, c) for p in ("zero-shot", "linear probe") for c in one}
    predictors = ("zero-shot", "linear probe")
    expected |= {(f"ICM {k}", p, c) for k in KINDS for p in predictors for c in both}
    expected |= {(f"ICM auto {k}", p, NOT_CHOSEN) for k in KINDS for p in predictors}
    chosen = ("augmentation", "augmentation oracle", "tuned penalty")
    chosen += tuple(f"tuned penalty, {way} {k}" for way in ("ICM", "chosen ICM") for k in KINDS)
    expected |= {(name, "linear probe", c) for name in chosen for c in both}
    assert {key[1:] for key in rows.index} == expected
    assert set(table["method"]) == set(ICM_AND_PLAIN)
    assert (table["family"] == table["method"].map(lambda name: METHODS[name].family)).all()
    projected = table["method"].str.contains("ICM")
    assert table.loc[~projected, ["K", "consistency_weight"]].isna().all(axis=None)
    assert table.loc[projected, ["K", "consistency_weight"]].notna().all(axis=None)
    for row in table[projected].itertuples():
        given = json.loads(row.setting)
        assert given.get("n_components", row.K) == row.K
        assert given.get("consistency_weight", 1.0) == row.consistency_weight
    assert (table["fit_seconds"] > 0).all()
    probe = table[table["predictor"] == "linear probe"].set_index("method")["n_parameters"]
    assert set(probe["plain"]) == set(probe["augmentation"]) == {7}  # 6 weights and an intercept


def test_accuracies_are_those_of_the_images(task):
    table = run_task(task, Plan(["plain", "ICM auto text"]))
    for _, row in table.iterrows():
        assert row["n"] == len(task.tests[row["condition"]])
        assert row["value"] == 100 * unpack(row).mean()
    plain = table[(table["method"] == "plain") & (table["predictor"] == "zero-shot")]
    by_hand = ZeroShotClassifier().fit(task.sources.prompts, task.sources.prompt_label)
    for row in plain.itertuples():
        images = task.tests[row.condition]
        assert row.correct == pack(by_hand.predict(images.embedded) == images.label)


def test_the_same_run_gives_the_same_table(embedder):
    plan = Plan(["plain", "random projection", "ICM image"], tuple(CHOICES))
    first, again, other = (
        run([BED], embedder, [seed], [TARGET], plan).drop(columns="fit_seconds")
        for seed in (1, 1, 2)
    )
    pd.testing.assert_frame_equal(first, again)
    assert not first.drop(columns="seed").equals(other.drop(columns="seed"))


def test_the_seed_is_the_random_state_of_what_is_drawn(task):
    plan = Plan(
        ["plain", "random projection"], settings={"random projection": {"n_components": [2]}}
    )
    first, other = (run_task(task, plan, seed).drop(columns="fit_seconds") for seed in (0, 1))
    plain = first["method"] == "plain"
    pd.testing.assert_frame_equal(first[plain], other[plain])
    assert not first[~plain].equals(other[~plain])


@pytest.mark.parametrize(("over", "embedded"), [("seeds", [3, 4]), ("images", [3])])
def test_images_are_embedded_anew_where_seeds_draw_them(embedder, over, embedded):
    kind = type("Bed", (Given,), {"over": over})
    bed = kind(n=300, n_test=450).with_data(None)
    table = run([bed], embedder, [3, 4], ["a", "b"], Plan(["plain"]))
    assert bed.embedded == embedded
    assert list(table.groupby(["seed", "target"]).groups) == [
        (3, "a"),
        (3, "b"),
        (4, "a"),
        (4, "b"),
    ]


@pytest.mark.parametrize(("over", "seeds"), [("seeds", [0]), ("seeds", [1, 0]), ("images", [1, 0])])
def test_several_worlds_are_run_one_after_the_other_each_on_its_own_data(embedder, over, seeds):
    beds = [replace(BED, world=name, n=n) for name, n in (("one", 300), ("two", 240))]
    for bed in beds:
        object.__setattr__(bed, "over", over)

    def rows(beds):
        table = run(beds, embedder, seeds, ["b", TARGET], Plan(["plain"]))
        return table.drop(columns="fit_seconds")

    table, alone = rows(beds), [rows([bed]) for bed in beds]
    pd.testing.assert_frame_equal(table, pd.concat(alone, ignore_index=True))
    assert not alone[0]["value"].equals(alone[1]["value"])
    order = table[["world", "seed", "target"]].drop_duplicates().itertuples(index=False, name=None)
    assert list(order) == list(product(["one", "two"], seeds, ["b", TARGET]))
    for given in ([], [BED, BED]):
        with pytest.raises(ValueError, match="expected at least one, each once"):
            run(given, embedder, [0])


# Classes


@pytest.mark.parametrize("protocol", PROTOCOLS[1:])
def test_new_classes_are_for_zero_shot_alone(embedder, protocol):
    bed = replace(BED, protocol=protocol)
    targets = None if protocol == "open class" else [TARGET]
    # of two classes the sources have one, from which no probe can be learnt either
    table = run(
        [bed], embedder, [0], targets, Plan(choices=["held-out", "target"], settings=CHOSEN)
    )
    assert set(table["predictor"]) == {"zero-shot"}
    probes = ("augmentation", "tuned penalty")
    assert set(table["method"]) == {n for n in ICM_AND_PLAIN if not n.startswith(probes)}
    assert set(table["condition"]) == {"seen_classes", "new_classes"}
    assert set(table["protocol"]) == {protocol}
    assert set(table["target"]) == {targets[0] if targets else "none"}
    (plain,) = table.loc[
        (table["method"] == "plain") & (table["condition"] == "new_classes"), "value"
    ]
    assert plain > 80
    with pytest.warns(UserWarning, match="'LDA' is left out: it answers by linear probe only"):
        asked = run([bed], embedder, [0], targets, Plan(["plain", "LDA", "single prompt"]))
    assert set(asked["method"]) == {"plain", "single prompt"}


def test_choosing_among_the_classes_of_a_condition(task):
    """A third class that every image looks like takes all answers, unless it is no candidate."""
    sources = task.sources
    third = {
        "prompts": np.vstack([sources.prompts, [100 * np.ones(6)]]),
        "prompt_label": np.append(sources.prompt_label, 2),
        "words": ("no", "yes", "maybe"),
    }
    sources = replace(sources, **third, predictors=("zero-shot",), shared=Shared())
    loud = {
        name: replace(test, embedded=test.embedded + 100.0) for name, test in task.tests.items()
    }
    both = replace(task, sources=sources, tests=loud, candidates={"unseen": np.array([0, 1])})
    value = run_task(both, Plan(["plain"])).set_index("condition")["value"]
    assert value["reversed"] == value["in_distribution"] == 0
    among = ZeroShotClassifier().fit(task.sources.prompts, task.sources.prompt_label)
    unseen = loud["unseen"]
    assert value["unseen"] == 100 * among.score(unseen.embedded, unseen.label) > 0


# Trained on the target


def test_the_reference_never_judges_an_image_that_it_was_trained_on(task, fake):
    number = BED.domains.index(TARGET)

    def answer(method, images):
        if number not in method.fitted_on.images.domain:
            return True
        return ~np.isin(images.rows, method.fitted_on.images.rows)

    fake(answer, on_target=True, values=(0,))
    table = run_task(task, Plan(["fake"]))
    bound = table[table["choice"] == REFERENCE]
    assert bound["condition"].tolist() == ["unseen"]
    assert bound["value"].item() == 100
    assert bound["n"].item() == len(task.tests["unseen"])
    assert run_task(replace(task, target="none"), Plan(["fake"]))["choice"].eq(NOT_CHOSEN).all()


def test_the_reference_takes_the_setting_that_is_best_on_the_target(task, fake):
    number = BED.domains.index(TARGET)

    def answer(method, images):
        return (number in method.fitted_on.images.domain) == (method.value == 2)

    fake(answer, on_target=True, values=(1, 2, 3))
    table = run_task(task, Plan(["fake"]))
    assert table.loc[table["choice"] == REFERENCE, "setting"].tolist() == ['{"value": 2}']


# Settings, and what cannot be fitted


def test_settings_stand_in_the_place_of_the_registry_s(task):
    given = {"n_components": [4], "consistency_weight": [1.0]}
    one = run_task(task, Plan(["ICM image"], settings={"ICM image": given}))
    assert set(one["choice"]) == {NOT_CHOSEN}
    assert set(one["K"]) == {4}
    assert set(one["setting"].map(lambda said: tuple(sorted(json.loads(said).items())))) == {
        (("consistency_weight", 1.0), ("intervention", "image"), ("n_components", 4))
    }
    some = run_task(task, Plan(["tuned penalty"], ["target"], {"tuned penalty": {"C": [0.5, 0.2]}}))
    assert set(some["setting"].map(lambda said: json.loads(said)["C"])) <= {0.5, 0.2}


def mute(task):
    none = np.empty((0, 6), np.float32)
    return replace(task, sources=replace(task.sources, texts=(none, none), shared=Shared()))


def test_a_method_that_cannot_be_fitted_costs_only_itself(task):
    with pytest.warns(
        UserWarning, match=r"The method 'ICM auto text' is left out: .*no such pairs"
    ):
        table = run_task(mute(task), Plan(["ICM auto text", "ICM auto image"]))
    assert set(table["method"]) == {"ICM auto image"}


def test_a_setting_that_cannot_be_fitted_costs_only_itself(task):
    with pytest.warns(
        UserWarning, match="1 of the 2 settings of 'Fukunaga-Koontz' are left out: .*no such pairs"
    ):
        table = run_task(mute(task), Plan(["Fukunaga-Koontz"]))
    kinds = table["setting"].map(lambda setting: json.loads(setting)["intervention"])
    assert set(kinds) == {"image"}


def test_by_default_methods_are_those_that_the_sources_have_pairs_for(task):
    kept = {name for name in ICM_AND_PLAIN if "text" not in name}
    assert Plan().methods_for(mute(task)) == [name for name in ICM_AND_PLAIN if name in kept]
    folder = replace(task.sources, copies={"image": task.sources.copies["image"]})
    assert "augmentation oracle" not in Plan().methods_for(replace(task, sources=folder))
    others = replace(task.sources, others={"image": task.sources.pairs("image")}, shared=Shared())
    named = Plan().methods_for(replace(task, sources=others))
    assert {"ICM image", "ICM auto image", "augmentation"} <= set(named)
    assert not [name for name in named if "text" in name or name.startswith("ICM oracle")]


@pytest.mark.parametrize(
    ("parameter", "bad", "message"),
    [
        ("consistency_weight", float("nan"), "consistency_weight is nan"),
        ("consistency_weight", -1.0, "consistency_weight is -1.0"),
        ("n_components", 7, "expected .* 6"),
    ],
)
def test_a_setting_that_is_no_number_to_fit_with_is_refused(task, parameter, bad, message):
    """With others it is left out, alone it ends the run: it never passes for another."""
    grid = {"consistency_weight": [1.0], "n_components": [4]}
    good = grid[parameter]
    alone = Plan(["ICM image"], settings={"ICM image": grid | {parameter: [bad]}})
    with pytest.raises(ValueError, match=rf"(?s)No method can be fitted.*'ICM image'.*{message}"):
        run_task(task, alone)
    both = replace(alone, settings={"ICM image": grid | {parameter: [bad, *good]}})
    with pytest.warns(UserWarning, match=f"1 of the 2 settings of 'ICM image'.*{message}"):
        table = run_task(task, both)
    assert set(table["setting"].map(lambda said: json.loads(said)[parameter])) == set(good)


# Refused before anything is embedded


@pytest.mark.parametrize(
    ("plan", "error", "message"),
    [
        ({"methods": ["plain", "ICM imge"]}, ValueError, "methods: 'ICM imge' is "
                                                         "unknown.*Did you mean 'ICM image'"),
        ({"methods": ["plain", "plain"]}, ValueError, "methods: .*each once"),
        ({"methods": "plain"}, TypeError, r"methods: 'plain'; expected a sequence.*\['plain'\]"),
        ({"choices": ["intervend"]}, ValueError, "choices: 'intervend' is unknown.*Did you "
                                                 "mean 'intervened'"),
        ({"choices": []}, ValueError, "choices: .*expected at least one of 'held-out'"),
        ({"choices": ["target", "target"]}, ValueError, "choices: .*each once"),
        ({"choices": "target"}, TypeError, "choices: 'target'; expected a sequence"),
        ({"settings": {"ICM imag": {"n_components": [4]}}}, ValueError, "settings: 'ICM "
                                                                        "imag'.*Did you mean "
                                                                        "'ICM image'"),
        ({"settings": {"ICM image": {"n_componets": [4]}}}, ValueError, "'n_componets' is "
                                                                        "unknown.*Did you "
                                                                        "mean 'n_components'"),
        ({"settings": {"ICM image": {"intervention": ["text"]}}}, ValueError, "parameters of 'ICM "
                                                                              "image': "
                                                                              "'intervention' is "
                                                                              "unknown"),
        ({"settings": {"ICM image": {"n_components": 4}}}, ValueError, r"'n_components' of "
                                                                       r"'ICM image' is 4; "
                                                                       r"expected a list"),
        ({"settings": {"ICM image": {"n_components": []}}}, ValueError, "'n_components' of "
                                                                        "'ICM image' is "
                                                                        ".*expected a list"),
        ({"settings": {"ICM image": {"n_components": "auto"}}}, ValueError, "is 'auto'; "
                                                                            "expected a list"),
    ],
)  # fmt: skip
def test_plans_that_are_refused(plan, error, message):
    with pytest.raises(error, match=message):
        Plan(**plan)


@pytest.mark.parametrize("seeds", [[], [1, 1], ["0"], [0.5], [None], 3, "01", {0, 1}])
def test_seeds_that_are_refused(embedder, seeds):
    with pytest.raises(ValueError, match=r"seeds=.*expected a list of integers.*each once"):
        run([Never()], embedder, seeds)


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        (["b", "comic"], ValueError, r"Unknown: \['comic'\]"),
        (["b", "b"], ValueError, "each once"),
        ([], ValueError, "expected some of the domains"),
        ("b", TypeError, r"targets: 'b'; expected a sequence of names. Write \['b'\]"),
    ],
)
def test_targets_that_are_refused(embedder, targets, error, message):
    with pytest.raises(error, match=message):
        run([Never()], embedder, [0], targets)


def test_open_classes_leave_no_domain_out(embedder):
    with pytest.raises(ValueError, match="'open class' leaves no domain out; pass None"):
        run([Never(protocol="open class")], embedder, [0], ["b"])


def test_the_last_task_holds_no_table_that_it_does_not_need(embedder, monkeypatch):
    """Of a large data set two copies do not fit into memory."""
    tables, tasks, alive = [], [], []

    class Watched(LinearWorld):
        def embed(self, embedder, seed):
            data = super().embed(embedder, seed)
            tables.append(weakref.ref(data.source["original"].to_numpy()))
            return data

    def run_one(task, plan, seed):
        gc.collect()
        alive.append([sum(one() is not None for one in those) for those in (tables, tasks)])
        tasks.append(weakref.ref(task.sources.images.embedded))
        return original(task, plan, seed)

    original = run_task
    monkeypatch.setattr("icm_study.experiments.run.run_task", run_one)
    targets = ["b", TARGET]
    run([Watched(n=300, n_test=450)], embedder, [0], targets, Plan(["plain"]))
    assert alive == [[1, 0], [0, 0]]


# Large sources


def test_settings_of_large_sources_are_judged_by_least_squares(task, monkeypatch):
    """By hand with the nested path of the core; what is chosen is then fitted as everywhere."""
    plan = Plan(["plain", "ICM image"], ("held-out", "intervened"), CHOSEN)
    before = run_task(task, plan)
    assert set(before["judged_by"]) == {"itself"}
    monkeypatch.setattr("icm_study.methods.sources.LARGE", 1)
    table = run_task(task, plan)
    icm = table[table["method"] == "ICM image"]
    is_probe = icm["predictor"] == "linear probe"
    assert set(icm[is_probe]["judged_by"]) == {"least squares"}
    assert set(icm[~is_probe]["judged_by"]) == {"itself"}
    others = [one[one["method"] != "ICM image"] for one in (before, table)]
    same = others[0].columns.difference(["fit_seconds"])
    pd.testing.assert_frame_equal(*(one[same] for one in others))

    fitted = METHODS["ICM image"].make(n_components=2).fit(task.sources)
    assert fitted.heads_["linear probe"].coef_.dtype == np.float32  # half the time and memory
    images = task.sources.images
    path = least_squares_path(images.embedded, images.label, 0.316)
    held_out = {"held-out": task.held_out.images, "intervened": task.held_out.copies["image"]}
    for choice, judged in held_out.items():
        grid = grid_accuracy(
            task.sources.moments("image"),
            {"probe": path},
            {"judged": (judged.embedded, judged.label)},
            n_components=SMALL["n_components"],
            consistency_weights=SMALL["consistency_weight"],
        )
        best = grid.loc[grid["judged"].idxmax(), ["consistency_weight", "K"]]
        rows = icm[is_probe & (icm["choice"] == choice)].set_index("condition")
        setting = {"consistency_weight": [best.iloc[0]], "n_components": [int(best.iloc[1])]}
        alone = Plan(["ICM image"], (choice,), {"ICM image": setting})
        fixed = run_task(task, alone)
        fixed = fixed[fixed["predictor"] == "linear probe"].set_index("condition")
        pd.testing.assert_series_equal(rows["correct"], fixed["correct"])


def test_on_large_sources_a_probe_is_fitted_where_it_was_chosen_alone(task, monkeypatch):
    """Not where zero-shot chose, nor at any setting that was tried; near scikit-learn's optimum."""
    monkeypatch.setattr("icm_study.methods.sources.LARGE", 1)
    fitted = []

    def fit(probe, X, y, *given):
        fitted.append((probe, X, y))
        return original(probe, X, y, *given)

    original = LinearProbe.fit
    monkeypatch.setattr(LinearProbe, "fit", fit)
    anew = replace(task, sources=replace(task.sources, shared=Shared()))
    table = run_task(anew, Plan(["ICM image"], ("held-out", "intervened"), CHOSEN))
    of_probe = table[table["predictor"] == "linear probe"]
    assert len(fitted) == of_probe["setting"].nunique()
    for probe, X, y in fitted:
        scaled = X.astype(float) * probe.scale_
        best = LogisticRegression(C=probe.C, tol=1e-8, max_iter=10_000).fit(scaled, y)
        own, least = (
            log_loss(y, model.predict_proba(rows), normalize=False) * probe.C
            + np.square(model.coef_, dtype=float).sum() / 2
            for model, rows in ((probe, X), (best, scaled))
        )
        assert own <= least * 1.001


@pytest.mark.parametrize("name", ["tuned penalty", "augmentation", "tuned penalty, ICM image"])
def test_penalties_of_large_sources_are_chosen_on_a_part_of_the_images(task, monkeypatch, name):
    """By hand: a third of the images, with thrice the C; what is chosen is then fitted on all."""
    penalties = [1e-5, 0.001, 0.1, 10.0]
    plan = Plan([name], ("held-out", "intervened"), {name: {"C": penalties}})
    before = run_task(task, plan)
    assert set(before["judged_by"]) == {"itself"}

    method = METHODS[name].make(**METHODS[name].settings(task.sources.prompts.shape[1])[0])
    fitted = method.fit(task.sources)
    n_parts = 2 if name == "augmentation" else 1
    images, copies = task.sources.images, task.sources.copied("image")[1]
    parts = [images, copies][:n_parts]
    label = np.concatenate([part.label for part in parts])
    mapped = np.concatenate([
        fitted.map_images(part) if hasattr(fitted, "map_images") else part.embedded
        for part in parts
    ])  # fmt: skip
    large = mapped.size * len(task.sources.words) / 3
    monkeypatch.setattr("icm_study.methods.sources.LARGE", large)
    table = run_task(task, plan)
    table = table[table["choice"] != REFERENCE]
    assert set(table["judged_by"]) == {"part of the images"}

    third = np.argsort(label, kind="stable")[::3]
    more = len(label) / len(third)
    for choice, judged in {
        "held-out": task.held_out.images, "intervened": task.held_out.copies["image"],
    }.items():  # fmt: skip
        X = fitted.map_images(judged) if hasattr(fitted, "map_images") else judged.embedded
        accuracy = [
            LinearProbe(C=more * C).fit(mapped[third], label[third]).score(X, judged.label)
            for C in penalties
        ]
        C = penalties[int(np.argmax(accuracy))]
        row = table[table["choice"] == choice].iloc[0]
        assert json.loads(row["setting"])["C"] == C
        alone = run_task(task, Plan([name], (choice,), {name: {"C": [C]}}))
        assert row["correct"] == alone.iloc[0]["correct"]
