"""Findings on real CLIPs: from tables made by hand, whose numbers and verdicts are known."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import RECORDED

from icm_study.experiments.agreement import EXACT, OWN, SHUFFLED
from icm_study.experiments.intervals import pack
from icm_study.experiments.modality import (
    AFTER,
    CENTRED,
    DIRECTIONS,
    DROPPED,
    ICM,
    PENALTIES,
    PLAIN,
    RELEASED,
    SAME_K,
    TUNED,
)
from icm_study.experiments.modality import SHUFFLED as SHUFFLED_PAIRS
from icm_study.experiments.real_clip_runs import experiments_of
from icm_study.experiments.record import join_tables, read_table, write_table
from icm_study.report import real_clip_claims as claims
from icm_study.report import real_clip_figures as figures
from icm_study.report.answers import real_clip_answer

METHODS = (PLAIN, CENTRED, DROPPED, ICM, SAME_K, SHUFFLED_PAIRS, RELEASED)
TOWERS = ("ViT-B-32/openai", "RN50/openai")
N = 200


def names_runs(r2=0.5, recall=0.99):
    """Scores near these, and controls as they should be."""
    scores = {OWN: (r2, recall), SHUFFLED: (0.0, 0.01), EXACT: (0.99, 1.0)}
    return pd.DataFrame(
        [
            {
                "source": source, "target": target, "control": control, "n_rows": n, "rank": rank,
                "fold": fold, "r2": scores[control][0] + 1e-3 * fold,
                "recall": scores[control][1] + 1e-3 * fold,
            }
            for source, target in (TOWERS, TOWERS[::-1])
            for control in scores
            for n, rank in ((60, 0), (240, 0), (240, 8), (240, 16))
            for fold in range(5)
        ]
    )  # fmt: skip


def hits(share, rng):
    correct = np.zeros(N, dtype=bool)
    correct[: round(share * N)] = True
    return rng.permutation(correct) if share < 1 else correct


def modality_runs(conditions, right):
    """The shares of `right` by method; one that it does not name has half."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        [
            {
                "classes": "things", "penalty": penalty, "target": direction, "seed": 0,
                "method": method, "condition": condition, "n": N,
                "value": 100 * right.get(method, 0.5),
                "correct": pack(hits(right.get(method, 0.5), rng)),
            }
            for penalty in (TUNED, *(f"C = {C:g}" for C in PENALTIES))
            for direction in DIRECTIONS
            for method in METHODS
            for condition in conditions
        ]
    )  # fmt: skip


def verdicts(finding, word):
    return {row["verdict"] for row in finding.claims if word in row["statement"]}


@pytest.mark.parametrize(
    ("r2", "verdict", "said"),
    [(0.5, "refuted", "are not linear maps"), (0.99, "supported", "are linear maps")],
)
def test_encoders_are_linear_maps_where_all_of_the_variance_is_explained(r2, verdict, said):
    finding = claims.names(names_runs(r2))
    assert verdicts(finding, "explains new names") == {verdict}
    assert verdicts(finding, "finds a new name") == {"supported"}
    assert verdicts(finding, "exact linear map") == {"supported"}
    assert verdicts(finding, "shuffled") == {"supported"}
    assert said in finding.words
    plt.close(figures.names_figure(finding.summary))


def test_a_control_that_does_not_fail_is_refuted():
    runs = names_runs()
    runs.loc[runs["control"] == SHUFFLED, "r2"] += 0.3
    assert verdicts(claims.names(runs), "shuffled") == {"refuted"}


def animal_runs(slope):
    """Agreement of encoders that grows with how well they are read, or falls."""
    quality = dict(zip((f"seed {i}, width 64, 9 pairs" for i in range(9)), range(9), strict=True))
    quality["seed 9, width 64, untrained"] = 0
    quality["seed 8, width 64, untrained"] = 0.5
    listed = list(quality)
    pairs = pd.DataFrame(
        [
            {
                "first": one, "second": other, "control": control,
                "agreement": 0.5 + slope * 0.05 * min(quality[one], quality[other]),
                "read": 0.1 * min(quality[one], quality[other]),
            }
            for i, one in enumerate(listed)
            for other in listed[:i]
            for control in (OWN, SHUFFLED)
        ]
    )  # fmt: skip
    read = pd.DataFrame({"encoder": listed, "factor": "label", "r2": [*quality.values()]})
    return pairs, read


@pytest.mark.parametrize(("slope", "verdict"), [(1, "supported"), (-1, "refuted")])
def test_a_reversed_relation_turns_the_verdict(slope, verdict):
    finding = claims.animals(*animal_runs(slope))
    assert [row["verdict"] for row in finding.claims] == [verdict]
    assert finding.summary["untrained"].sum() == 1
    assert "never trained" in finding.words
    plt.close(figures.animals_figure(finding.summary))


def diversity_runs(rank):
    rows = [
        {
            "tower": "RN50/openai, names", "n_texts": n, "dimension": 16, "draw": draw,
            "rank": min(n - 1, rank), "effective_rank": min(n - 1, rank) / 2 + 0.1 * draw,
            "condition_number": 12.0, "largest_coordinate": 0.3,
        }
        for n in (5, 7, 40)
        for draw in range(3)
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("rank", "verdict"), [(16, "supported"), (15, "refuted")])
def test_one_direction_that_is_missing_is_enough_to_refute(rank, verdict):
    narrow = pd.DataFrame({"model": ["RN50"], "dimension": [1024], "width": [512]})
    finding = claims.diversity(diversity_runs(rank), narrow)
    assert [row["verdict"] for row in finding.claims] == [verdict]
    assert "1 of open_clip's text towers are narrower" in finding.words
    table = claims.benchmarks(diversity_runs(rank))
    assert table["data sets"].tolist() == ["VLCS", "PACS"]
    assert table["rank"].tolist() == ["4", "6"]
    plt.close(figures.diversity_figure(finding.summary))


@pytest.mark.parametrize(
    ("icm", "verdict"), [(0.9, "supported"), (0.1, "refuted"), (0.5, "not shown")]
)
def test_gains_are_judged_by_their_intervals(icm, verdict):
    right = {PLAIN: 0.5, ICM: icm, SHUFFLED_PAIRS: 0.1}
    probe = claims.probe(modality_runs(["unseen", "in_distribution"], right))
    assert verdicts(probe, "ICM over plain") == {verdict}
    assert verdicts(probe, "shuffled") == {"supported"}
    runs = modality_runs(["recall@1", "recall@5", AFTER], right)
    found = claims.retrieval(runs[runs["penalty"] == TUNED].drop(columns=["classes", "penalty"]))
    assert verdicts(found, "ICM over plain") == {verdict}
    own = {ICM: f"{100 * icm:.1f} %", PLAIN: "50.0 %"}
    assert all(one in found.words for one in own.values())
    gains = claims.keywords(modality_runs(["unseen"], right))
    many = {"supported": "above zero in 8", "refuted": "below in 8", "not shown": "above zero in 0"}
    assert many[verdict] in gains.words
    said = {"unseen": "the other", "in_distribution": "its own"}
    plt.close(figures.methods_figure(probe.summary, said, "Accuracy"))


def test_a_control_that_does_no_harm_is_told():
    right = {PLAIN: 0.3, SHUFFLED_PAIRS: 0.9}
    assert verdicts(claims.probe(modality_runs(["unseen"], right)), "shuffled") == {"refuted"}


def test_the_part_that_no_text_reaches_is_that_of_the_widest_encoder():
    runs = pd.DataFrame(
        {
            "encoder": ["a", "b", "c"], "dimension": [64, 128, 256], "text_rank": [64, 96, 96],
            "outside": [0.0, 0.2, 0.4], "class_outside": [np.nan, 0.1, 0.33],
            "scene_outside": [np.nan, 0.1, 0.44],
        }
    )  # fmt: skip
    told = claims.spans(runs).words
    assert all(one in told for one in ("256 dimensions", "96", "40 %", "0.33", "0.44"))
    assert "fills its embedding" in claims.spans(runs.head(1)).words


def test_experiments_come_back_as_they_were(tmp_path):
    runs = {"names": names_runs(), "probe": modality_runs(["unseen"], {})}
    write_table(join_tables(runs, "experiment", {"a": 1}), tmp_path / "runs.parquet")
    again = experiments_of(read_table(tmp_path / "runs.parquet"))
    assert list(again) == list(runs)
    for name, table in runs.items():
        pd.testing.assert_frame_equal(again[name], table, check_dtype=False, check_like=True)


@pytest.mark.skipif(
    not (RECORDED / "real-clip.parquet").exists(), reason="no run on real CLIP is recorded"
)
def test_the_recorded_controls_fail_as_they_must():
    runs = experiments_of(read_table(RECORDED / "real-clip.parquet"))
    found = claims.find_real_clip(runs)
    controls = [
        row
        for finding in found.values()
        for row in finding.claims
        if row["claim"] == "Control (real CLIP)"
    ]
    assert {row["verdict"] for row in controls} == {"supported"}
    assert len(controls) == 4
    said = real_clip_answer(found).data
    assert "P5.3" not in said
    assert "shuffled" not in said
    plt.close(figures.grid_figure(runs["modality_grid"]))
