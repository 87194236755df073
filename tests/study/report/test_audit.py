"""What is said of the released code: short, and the other way round for other numbers."""

from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from icm_study.experiments.departures import ALL, ALL_BUT_ORDER, CONTROL, PAPER, PLAIN, WAYS
from icm_study.experiments.eigenvalue_orders import BALANCE, ENDS, LARGEST, SHUFFLED, SMALLEST
from icm_study.experiments.intervals import pack
from icm_study.methods.sources import PREDICTORS
from icm_study.report import audit
from icm_study.report.finding import verdicts_of

LOW, MIDDLE, HIGH = 0.1, 0.5, 0.8


def rows(names, right, rng, **columns):
    """Make runs of each way, right as often as `right(name)` says, and so on the rest of them."""
    made = []
    for name, target, seed, predictor in product(names, ["a", "b"], range(3), PREDICTORS):
        for condition in ("in_distribution", "unseen", "reversed"):
            share, rest = right(name)
            correct = rng.random(300) < share
            made.append(
                {"method": name, "target": target, "seed": seed, "predictor": predictor}
                | {"condition": condition, "n": 300, "correct": pack(correct), "K": 16}
                | {"value": 100 * correct.mean(), "rest": 100 * rest, "classes": 50 + 40 * share}
                | columns
            )
    return pd.DataFrame(made)


def runs(paper, released):
    """Runs in which the paper's way is right so often, and the released code so often."""
    rng = np.random.default_rng(0)

    def right(name):
        share = LOW if name == CONTROL else paper if name in (PAPER, ALL_BUT_ORDER) else released
        # who did better by choosing on the target loses it on the rest
        return share, share - 0.5 * (released - paper)

    departures = rows([PLAIN, *WAYS], right, rng)
    tested = {name: way.tested for name, way in WAYS.items()}
    departures["tested"] = departures["method"].map(tested).fillna(1.0)

    def of_end(name):
        return (released if name == SMALLEST else paper), 0.0

    ends = [rows(ENDS, of_end, rng, consistency_weight=w, quantity="accuracy") for w in (1, 1000)]
    balances = pd.DataFrame({"quantity": BALANCE, "seed": [0, 1, 2], "value": [1.5, 2.0, 2.5]})
    return {"departures": departures, "orders": pd.concat([*ends, balances])}


@pytest.fixture(scope="module")
def worse():
    """The released code is worse."""
    return audit.find(runs(HIGH, MIDDLE))


@pytest.fixture(scope="module")
def better():
    """The released code is better."""
    return audit.find(runs(MIDDLE, HIGH))


def test_each_section_has_a_short_answer(worse):
    assert set(audit.SECTIONS) == set(worse)
    for name, finding in worse.items():
        assert len(finding.words.split()) <= 45, name
        assert "nan" not in finding.words
        assert finding.summary.attrs["title"]


def test_reversed_results_reverse_the_verdicts(worse, better):
    first, second = (
        verdicts_of(found, audit.SECTIONS).set_index(["claim", "statement"])["verdict"]
        for found in (worse, better)
    )
    control = first.index.get_level_values("claim").str.startswith("Control")
    assert (first[control] == "supported").all()
    assert set(zip(first[~control], second[~control], strict=True)) == {
        ("supported", "refuted"), ("refuted", "supported")
    }  # fmt: skip
    statement = first.index.get_level_values("statement")
    leads = statement.str.startswith("the paper's way beats")
    assert (first[leads] == "supported").all()
    assert leads.sum() == 2 * (len(audit.DONE) + 1) - len(audit.ONLY)


def test_what_a_departure_cannot_touch_is_not_judged(worse):
    told = [row["statement"] for row in worse["departures"].claims]
    for name, predictors in audit.ONLY.items():
        judged = [text for text in told if f"“{name}”" in text]
        assert len(judged) == len(predictors) == 1
        assert predictors[0] in judged[0]


def test_the_claims_page_tells_who_is_ahead(worse, better):
    for found, ahead in ((worse, "supported"), (better, "refuted")):
        claims = verdicts_of(found, audit.SECTIONS)
        rows = audit.leads(claims)
        assert len(rows) == 2 * (len(audit.DONE) + 1) - len(audit.ONLY)
        assert set(rows["verdict"]) == {ahead}
        assert rows["value"].notna().all()
        count = {
            "supported": f"{len(rows)} are above zero",
            "refuted": f"{len(rows)} are below zero",
        }
        assert count[ahead] in audit.leads_words(rows).data
    assert "not audited" in audit.leads_words(audit.leads(claims.iloc[:0])).data


def test_the_table_says_what_is_done_here_and_there(worse):
    table = audit.departures_table(runs(HIGH, MIDDLE)["departures"]).set_index("departure")
    assert {*audit.DONE, ALL, ALL_BUT_ORDER, PLAIN} <= set(table.index)
    for name in ("λ = 1000", ALL):
        assert all(text.startswith("-") for text in table.loc[name, table.columns[2:]])


def test_the_words_follow_the_numbers(worse, better):
    gain = audit.judged_gains(runs(HIGH, MIDDLE)["departures"])[ALL, "zero-shot"]
    assert f"{gain['value']:+.1f}" in worse["departures"].words
    assert "From λ = 2.0 on" in worse["orders"].words
    assert worse["rest"].words != better["rest"].words


def test_the_figure_has_a_line_for_each_end(worse):
    figure = audit.orders_figure(worse["orders"].summary)
    *unnamed, last = figure.axes
    assert all(len(axis.lines) == len(ENDS) for axis in figure.axes)
    assert [len(axis.texts) for axis in unnamed] == [0, 0]
    assert {text.get_text() for text in last.texts} == set(ENDS) >= {LARGEST, SHUFFLED}
    plt.close(figure)
