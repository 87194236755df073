"""Small runs of the open questions in the animal world, against what must come out."""

import numpy as np
import pandas as pd
import pytest
from real_clip_stand_in import write_stand_in

from icm_study.experiments import (
    across_styles,
    combination,
    new_classes,
    shared_subspace,
    tuned_towers,
)
from icm_study.experiments.intervals import unpack
from icm_study.experiments.record import write_table
from icm_study.experiments.retrieval import recall
from icm_study.experiments.shared_subspace import IMAGE, TEXT, arrangements


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Two seeds with few images, whose embeddings the three experiments share."""
    cache = tmp_path_factory.mktemp("cache")
    return {"encoder": "animal-world", "seeds": [0, 1], "n_images": 320, "cache": str(cache)}


def means(table, *by):
    return table.groupby(["method", *by])["value"].mean()


def test_recall_is_what_sorting_says():
    rng = np.random.default_rng(0)
    queries, gallery = rng.normal(size=(20, 5)), rng.normal(size=(30, 5))
    relevant = rng.random((20, 30)) < 0.2
    relevant[:, 0] = True
    cosine = np.array([[q @ g / np.linalg.norm(g) for g in gallery] for q in queries])
    for k, hit in recall(queries, gallery, relevant).items():
        first = np.argsort(-cosine, axis=1)[:, :k]
        assert hit.tolist() == np.take_along_axis(relevant, first, axis=1).any(axis=1).tolist()
    tied = recall(np.ones((2, 1)), np.ones((3, 1)), np.eye(2, 3, dtype=bool))
    assert not tied[1].any()
    assert tied[5].all()
    with pytest.raises(ValueError, match="1 queries have nothing relevant"):
        recall(queries, gallery, np.arange(20)[:, None] != np.zeros(30))


def test_zero_shot_chooses_among_some_classes_only():
    prompts, label = np.eye(3), np.array([0, 1, 2])
    X = np.array([[3.0, 2, 1], [1, 2, 3]])
    hits = new_classes.zero_shot_hits
    assert hits(prompts, label, X, np.array([0, 2]), label).tolist() == [True, True]
    assert hits(prompts, label, X, np.array([1, 2]), np.array([1, 2])).tolist() == [True, True]
    with pytest.raises(ValueError, match="No prompt names a class"):
        hits(prompts, label, X, label[:2], np.array([7]))


def test_new_classes_are_told_in_three_ways(given):
    table = new_classes.new_classes(given)
    assert set(table["condition"]) == {new_classes.OPEN, new_classes.MIXED, new_classes.SEEN}
    own = table.set_index(["target", "seed", "method"])
    n = own["n"].groupby(own["condition"], sort=False).mean()
    assert n[new_classes.MIXED] == n[new_classes.OPEN] + n[new_classes.SEEN]
    assert unpack(table.iloc[0]).mean() * 100 == table["value"].iloc[0]
    mean = means(table, "condition")
    # more classes among the answers can only make it harder, for the same images or more
    assert mean[new_classes.PLAIN, new_classes.OPEN] > mean[new_classes.PLAIN, new_classes.MIXED]
    assert mean[new_classes.PLAIN, new_classes.OPEN] > 75
    for condition in (new_classes.OPEN, new_classes.MIXED, new_classes.SEEN):
        assert mean[new_classes.CONTROL, condition] < mean[new_classes.PLAIN, condition] - 20
    name = "ICM text"
    assert mean[name, "open"] < mean[name + new_classes.ALL, "open"]


def test_searches_across_styles_see_no_row_that_was_fitted_on(given):
    rows, fitted = [], []
    for one in across_styles.animal_tasks({**given, "seeds": [0]}):
        queries, gallery, relevant = across_styles._searches(one)[across_styles.ANIMAL]
        assert (relevant == np.eye(len(queries))).all()
        rows.append({row.tobytes() for row in np.float32([*queries, *gallery])})
        sources = one.task.sources
        fitted.append({row.tobytes() for part in sources.pairs("oracle")[:2] for row in part})
    assert all(rows)
    assert not any(mine & theirs for mine, theirs in zip(rows, fitted, strict=True))


def test_a_search_gains_what_the_projection_keeps_and_loses_the_rest(given):
    mean = means(across_styles.across_styles(given), "task", "condition")
    at = "recall@1"
    assert mean["ICM text", across_styles.CLASS, at] > mean["plain", across_styles.CLASS, at] + 10
    assert mean["ICM text", across_styles.OWN, at] < mean["plain", across_styles.OWN, at]
    for task in (across_styles.ANIMAL, across_styles.CLASS, across_styles.OWN):
        assert mean[across_styles.CONTROL, task, at] <= mean["plain", task, at]


def test_arrangements_are_what_they_say():
    rng = np.random.default_rng(0)
    d = 5
    shared = rng.normal(size=(300, d)) * [3, 2, 0, 0, 0]
    image, text = ([0, 0, 1, 0, 0.0], [0, 0, 0, 1, 0.0])
    pairs = {
        name: tuple(shared + np.multiply(rng.normal(size=(300, 1)), axis) for _ in range(2))
        for name, axis in ((IMAGE, image), (TEXT, text))
    }
    centres = {IMAGE: np.full(d, 2.0), TEXT: np.zeros(d)}
    ways = arrangements(pairs, centres)
    x = np.ones((1, d))
    assert ways["plain"][IMAGE](x, IMAGE).tolist() == x.tolist()
    assert (ways[shared_subspace.ONLY_CENTRED][IMAGE](x, IMAGE) == -1).all()
    # what a modality's own pairs redraw is gone from it alone
    separate = ways[shared_subspace.SEPARATE]
    assert abs(separate[IMAGE](x, IMAGE)[0, 2]) < 0.05 < 0.5 < separate[IMAGE](x, IMAGE)[0, 0]
    assert abs(separate[TEXT](x, TEXT)[0, 3]) < 0.05
    both = ways[shared_subspace.SHARED]
    assert both[IMAGE] is both[TEXT]
    assert abs(both[IMAGE].components @ [0, 0, 1, 1, 0]).max() < 0.1


def test_own_bases_fail_in_the_animal_world(given):
    mean = means(shared_subspace.shared_subspace(given), "condition")
    assert mean[shared_subspace.SHARED, "unseen"] > mean[shared_subspace.CONTROL, "unseen"] + 25


def test_own_bases_fail_on_a_stand_in_for_real_clip(tmp_path):
    folder = write_stand_in(tmp_path / "clip")
    table = shared_subspace.shared_on_real_clip({"real_clip": str(folder)})
    assert set(table.attrs["data"]) == {"real_clip"}
    assert table.groupby(["target", "method", "condition"]).size().eq(1).all()
    mean = means(table, "condition")
    assert mean[shared_subspace.ONLY_CENTRED, "recall@1"] > 80
    assert mean[shared_subspace.CONTROL, "recall@1"] < 40


def test_the_combination_is_read_off_a_comparison(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for way, (name, choice) in combination.WAYS.items():
        for kind, value in (("image", 70.0), ("text", 80.0), ("image+text", 75.0)):
            for seed in range(3):
                noise = rng.normal()
                rows.append(
                    {"method": name.format(kind), "choice": choice, "predictor": "zero-shot"}
                    | {"condition": "unseen", "target": "photo", "seed": seed}
                    | {"value": value + noise, "way": way}
                )
    path = tmp_path / "methods.parquet"
    runs = pd.DataFrame(rows)
    runs.attrs = {"command": "papermill 06_methods.ipynb out.ipynb", "parameters": {}}
    write_table(runs, path)
    table = combination.combination({"comparison": str(path)})
    assert len(table) == 2 * len(combination.WAYS)
    gains = table.groupby("alone")["value"].mean()
    assert gains["image"] == pytest.approx(5, abs=1.5)
    assert gains["text"] == pytest.approx(-5, abs=1.5)
    wanted = {(row["way"], row["alone"]): row["value"] for row in table.to_dict("records")}
    frame = pd.DataFrame(rows).groupby(["way", "method"])["value"].mean()
    way, (name, _) = next(iter(combination.WAYS.items()))
    ours = frame[way, name.format("image+text")] - frame[way, name.format("text")]
    assert wanted[way, "text"] == pytest.approx(ours)


def test_a_tower_is_tuned_before_during_and_after(given):
    small = {**given, "tuned_seeds": [0], "tuned_targets": ["photo"], "n_tuned": 24}
    table = tuned_towers.tuned_towers(small)
    during = [tuned_towers.DURING.format(weight) for weight in tuned_towers.PENALTIES]
    named = (tuned_towers.PLAIN, tuned_towers.ALONE, tuned_towers.TUNED, tuned_towers.BEFORE)
    assert set(table["method"]) == {*named, tuned_towers.AFTER, tuned_towers.CONTROL, *during}
    assert set(table["target"]) == {"photo"}
    assert (table.groupby(["method", "predictor", "condition"]).size() == 1).all()
    assert set(table["n"]) == {24}


def test_the_penalty_of_a_probe_is_chosen_on_other_images(given):
    (one, *_) = tuned_towers.animal_tasks({**given, "seeds": [0]})
    images = one.task.sources.images
    method = tuned_towers.Plain().fit(one.task.sources)
    probe = tuned_towers._probe(method, images, images)  # on its own images the weakest is best
    scores = {
        C: tuned_towers.LinearProbe(C).fit(images.embedded, images.label)
        .score(images.embedded, images.label) for C in tuned_towers.questions.PENALTIES
    }  # fmt: skip
    assert max(scores, key=scores.get) == probe.C
