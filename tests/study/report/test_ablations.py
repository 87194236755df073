"""Words and tables of the ablations, from tables made by hand."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from icm_study.report import ablations
from icm_study.report.answers import ablation_answer
from icm_study.report.claims import ablation_claims
from icm_study.report.penalties import CHOSEN


def runs(column, values, **fixed):
    """Give accuracies of two seeds and targets, for each value of a column."""
    return pd.DataFrame(
        [
            {
                "predictor": "linear probe", "intervention": "image+text", "condition": condition,
                "target": target, "seed": seed, column: name, "value": value + seed, **fixed,
            }
            for name, value in values.items()
            for condition in ("unseen", "reversed")
            for target in ("a", "b")
            for seed in (0, 1)
        ]
    )  # fmt: skip


def test_accuracies_are_in_words_where_choices_are_judged():
    table = runs("choice", {"intervened": 80.0, "held-out": 60.0})
    table.loc[table["condition"] == "unseen", "value"] = 0.0
    said = ablations.judged_accuracies(table, "choice")
    assert said.startswith("intervened source images: 80.5 (")
    assert "; plain source images: 60.5 (" in said
    layout = ablations.accuracy_table(table, ["choice"])
    assert list(layout.index) == ["intervened source images", "plain source images"]
    assert list(layout.columns) == ["unseen domain", "shortcut reversed"]


def test_the_weight_is_called_by_its_letter():
    table = ablations.accuracy_table(
        runs("consistency_weight", {0.3: 70.0, 3.0: 80.0}), ["intervention", "consistency_weight"]
    )
    assert table.index.names == ["intervention", "λ"]


def test_best_cells_are_those_of_the_reversed_shortcut():
    cells = pd.DataFrame(
        {
            "predictor": "zero-shot", "intervention": "text", "K": [8, 16, 8],
            "consistency_weight": [0.3, 1.0, 0.3], "value": [50.0, 60.0, 99.0],
            "condition": ["reversed", "reversed", "unseen"],
        }
    )  # fmt: skip
    assert ablations.best_cells(cells) == "zero-shot 60.0 % (text, K = 16, λ = 1)"
    figure = ablations.gain_map(cells, 40.0, "title")
    assert [axis.get_title() for axis in figure.axes[:-1]] == ["text"]
    assert figure.get_suptitle() == "title: at most +20 points over 40 %"
    plt.close(figure)


def test_what_the_other_objectives_keep():
    table = pd.DataFrame(
        {
            "objective": ["released"] * 3 + ["trace"], "predictor": "zero-shot",
            "intervention": "oracle", "K": [8, 64, 64, 4],
        }
    )  # fmt: skip
    assert ablations.kept_by_released(table) == "64 (oracle, zero-shot)"
    grid = pd.DataFrame(
        {
            "objective": ["generalized", "generalized", "trace"], "predictor": "zero-shot",
            "intervention": "oracle", "K": [64, 8, 64], "unseen": [13.0, 50.0, 90.0],
        }
    )  # fmt: skip
    assert "all 64 directions, on the unseen domain: zero-shot 13 % (oracle)" in (
        ablations.with_all_directions(grid, 64)
    )
    assert ablations.with_all_directions(grid, 32) == ""


def test_single_interventions_are_ranked_over_the_seeds():
    table = runs("intervention", {"color_jitter": 80.0, "invert": 60.0})
    accuracies = ablations.single_accuracies(table)
    assert accuracies.loc[("color jitter", 1), "reversed"] == pytest.approx(81)
    assert ablations.each_seed(accuracies).loc["invert", "shortcut reversed"] == "60.0 and 61.0"
    said = ablations.best_and_worst(accuracies)
    assert "color jitter alone does best (80.5 %) and invert worst (60.5 %)" in said


def test_pairs_compare_the_fewest_with_all():
    means = ablations.pairs_means(runs("n_pairs", {30: 70.0, 100: 75.0, 300: 80.0}))
    assert ablations.pairs_words(means) == (
        "With 30 pairs and with 300, shortcut reversed: 70.5 and 80.5 % (*ICM image+text*)."
    )
    figure = ablations.pairs_figure(means)
    said = "Shortcut reversed, 30 to 300 pairs: image+text +10 points"
    assert figure.get_suptitle() == said
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["unseen domain", "shortcut reversed"]
    plt.close(figure)


def sweep():
    """Accuracies at two penalties and at the chosen one: the sign of the gain changes."""
    values = {("0.1", "plain"): 70.0, ("0.1", "ICM"): 66.0, ("10", "plain"): 60.0,
              ("10", "ICM"): 62.5, ("chosen", "plain"): 71.0, ("chosen", "ICM"): 72.0}  # fmt: skip
    parts = [
        runs("side", {side: value}, penalty=penalty, C=10.0 if penalty == "10" else 0.1)
        for (penalty, side), value in values.items()
    ]
    image_text = pd.concat(parts)
    return pd.concat([image_text.assign(intervention="image"), image_text])


def test_gains_at_each_penalty_and_in_words():
    gains = ablations.penalty_gains(sweep())
    found = gains[gains["condition"] == "reversed"].set_index(["intervention", "penalty"])["value"]
    assert found["image"].to_dict() == pytest.approx({"0.1": -4, "10": 2.5, "chosen": 1})
    said = "-4.0 to +2.5, chosen +1.0"
    assert ablations.penalty_words(gains) == f"*ICM image* {said}; *ICM image+text* {said}"


def test_the_figure_has_the_plain_probe_once_and_no_chosen_penalty():
    means = ablations.penalty_means(sweep())
    assert set(means["name"]) == {"plain", "ICM image", "ICM image+text"}
    plain = means[(means["name"] == "plain") & (means["condition"] == "unseen")]
    assert plain.set_index("C")["value"].to_dict() == pytest.approx({0.1: 70.5, 10.0: 60.5})
    assert (plain["n_runs"] == 4).all()
    figure = ablations.penalty_figure(means)
    said = "Gain, shortcut reversed: image -4 to +2, image+text -4 to +2 points"
    assert figure.get_suptitle() == said
    assert all(axis.get_xscale() == "log" for axis in figure.axes)
    plt.close(figure)


@pytest.mark.parametrize(("gain", "verdict"), [(1.0, "supported"), (-1.0, "refuted")])
def test_the_verdict_on_the_penalty_is_on_the_chosen_ones_and_turns_with_the_result(gain, verdict):
    choices = runs("choice", {"intervened": 80.0, "held-out": 60.0, "auto": 81.0})
    objectives = runs("objective", {"trace": 80.0, "generalized": 60.0, "released": 20.0})
    table = sweep()
    ours = (table["side"] == "ICM") & (table["penalty"] == "chosen")
    table.loc[ours, "value"] += gain - 1 + 0.01 * table.loc[ours, "seed"]
    found = ablation_claims(choices, objectives, table, "somewhere")
    (row,) = found[found["claim"].str.startswith("Penalty")].to_dict("records")
    assert found["statement"].str.contains(f", {CHOSEN}, ").all()  # of both sides of each
    assert row["measured"].startswith(f"{gain:+.1f} (")
    assert row["verdict"] == verdict


def test_the_answer_says_what_is_decided_and_where_it_holds():
    verdicts = pd.DataFrame(
        {
            "statement": ["ICM probe, somewhere: one beats two", "ICM probe, somewhere: x beats y"],
            "measured": ["+1.0 points", "-2.0 points"],
            "verdict": ["supported", "not shown"],
        }
    )
    said = ablation_answer(verdicts).data
    assert "2 choices are judged by the ICM probe, somewhere." in said
    assert "Supported: one beats two, +1.0 points. Refuted: none. Not shown: 1." in said
