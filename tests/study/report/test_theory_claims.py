"""Findings on theory: from tables made by hand, whose numbers and verdicts are known."""

import numpy as np
import pandas as pd
import pytest

from icm_study.report import theory_claims as claims
from icm_study.report.answers import count_verdicts, theory_answer
from icm_study.report.finding import verdicts_of
from icm_study.report.verdicts import COLUMNS
from icm_study.theory.propositions import METHODS, run_experiments

TINY = {
    "n_seeds": 2, "n_pairs": 60, "consistency_weight": 100.0, "n_features": 16,
    "dimensions": [16], "n_models": 4, "n_worlds": 2, "n_images": 100,
}  # fmt: skip


@pytest.fixture(scope="module")
def runs():
    return run_experiments(TINY)


@pytest.fixture(scope="module")
def found(runs):
    return claims.find(runs, TINY)


def verdicts(finding):
    return [row["verdict"] for row in finding.claims]


def test_every_experiment_has_a_finding_with_words_of_a_sentence(runs, found):
    assert list(found) == list(runs) == list(claims.FINDERS)
    for finding in found.values():
        assert finding.words.endswith(".")
        assert 10 <= len(finding.words.split()) <= 80
        assert "nan" not in finding.words
        assert finding.came_out.data == f"**Came out.** {finding.words}"


def test_verdicts_keep_the_order_of_the_page(found):
    table = verdicts_of(found)
    assert tuple(table) == COLUMNS
    assert list(table["claim"].drop_duplicates())[:3] == ["P5.1", "P5.1, scope", "C5.2, P5.3"]
    assert len(table) == sum(len(finding.claims) for finding in found.values())


def angles(**by_method):
    return pd.DataFrame(
        [
            {"method": METHODS[name], "seed": seed, "angle": angle}
            for name, values in by_method.items()
            for seed, angle in enumerate(values)
        ]
    )


def test_an_objective_is_judged_by_the_interval_of_its_angle():
    table = angles(trace=[0.1, 0.11, 0.1], generalized=[0.1, 10.0, 0.5], released=[89.0, 90, 90])
    assert verdicts(claims.methods(table, {})) == ["supported", "not shown", "refuted"]


def test_invariance_counts_what_changes():
    quantities = [
        "P(y | do(z_inv))",
        "P(y | z_inv)",
        "P(y | do(z_inv, z_var))",
        "P(y | z_inv, z_var)",
    ]
    changes = {"shortcut": [0.0, 0.0, 0.0, 0.4], "cause": [0.3, 0.3, 0.0, 0.0]}
    changes["concept shift"] = [0.5, 0.5, 0.5, 0.6]
    table = pd.DataFrame(
        [
            {"world": world, "model": model, "quantity": quantity, "change": change}
            for world, values in changes.items()
            for model in range(2)
            for quantity, change in zip(quantities, values, strict=True)
        ]
    )
    table.loc[(table["model"] == 1) & (table["quantity"] == quantities[3]), "change"] = 0.0
    finding = claims.invariance(table, {"n_models": 2})
    assert verdicts(finding) == ["supported", "refuted", "refuted", "supported"]
    assert "with both *observed* in 50 % of the models" in finding.words
    assert "hold together in 0 of the 3 worlds" in finding.words
    medians = finding.summary.set_index(["world", "quantity"])["change"]
    assert medians["shortcut", quantities[3]] == pytest.approx(0.2)


def test_the_weight_is_judged_by_its_exponent_and_by_the_leak():
    rows = [
        {
            "seed": seed, "leak": leak, "consistency_weight": weight, "auto_k": 4,
            "angle": 90.0 if weight * leak**2 > 1 else 3.0 / weight,
        }
        for seed in range(3)
        for leak in (0.0, 0.3)
        for weight in (1.0, 10.0, 100.0, 1000.0)
    ]  # fmt: skip
    finding = claims.weight(pd.DataFrame(rows), {})
    assert verdicts(finding)[1] == "supported"
    assert "to the power of -1" in finding.words
    flat = pd.DataFrame(rows).assign(angle=lambda table: 1 + table["seed"])
    assert verdicts(claims.weight(flat, {})) == ["refuted", "refuted"]


def test_a_rule_is_judged_by_the_share_of_draws_in_which_it_is_right():
    table = pd.DataFrame(
        {
            "rule": ["good"] * 200 + ["bad"] * 200, "n_features": 16, "leak": 0.0,
            "n_invariant": 4, "chosen": [4] * 200 + [4, 5] * 100,
        }
    )  # fmt: skip
    finding = claims.size(table, {})
    assert verdicts(finding) == ["supported", "refuted"]
    assert finding.summary.loc["bad", (16, 0.0)] == pytest.approx(50)


def test_random_worlds_are_counted_where_there_is_most_information():
    information = np.arange(20.0)
    table = pd.DataFrame({"information": information, "invariant": 0.2, "standard": 0.3})
    finding = claims.random_ood_risk(table, {})
    assert verdicts(finding) == ["not shown"]
    assert not finding.summary["is_worse"].any()
    table.loc[19, "standard"] = 0.1
    finding = claims.random_ood_risk(table, {})
    assert verdicts(finding) == ["supported"]
    assert "standard better in 1 of 2 worlds" in finding.claims[0]["measured"]
    assert finding.summary["gain"].to_numpy()[[0, 19]] == pytest.approx([10, -10])


def test_the_answer_counts_verdicts_and_names_what_is_not_supported(found):
    table = verdicts_of(found)
    said = count_verdicts(table)
    assert (
        f"Of {len(table)} claims, {(table['verdict'] == 'supported').sum()} are supported." in said
    )
    for verdict, rows in table.groupby("verdict"):
        told = f"{verdict.capitalize()}: {len(rows)} ({', '.join(dict.fromkeys(rows['claim']))})."
        assert (told in said) == (verdict != "supported")
    assert said in theory_answer(found).data
