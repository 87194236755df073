"""Which rows of a table of results answer a question."""

import pandas as pd

from icm_study.experiments.reading import Results, by_worst_case


def test_methods_are_ordered_by_where_they_do_worst():
    rows = [("probe", "a", "x", 90), ("probe", "a", "y", 60), ("probe", "b", "x", 70),
            ("probe", "b", "y", 80), ("zero", "c", "x", 65), ("zero", "c", "y", 99)]  # fmt: skip
    means = pd.DataFrame(rows, columns=["predictor", "method", "condition", "value"])
    found = by_worst_case(means)
    assert found[["method", "condition", "value"]].to_numpy().tolist() == [
        ["b", "x", 70],
        ["c", "x", 65],
        ["a", "y", 60],
    ]


def test_a_choice_keeps_its_own_rows_and_those_with_nothing_to_choose():
    ways = ["none", "intervened", "target", "half of the target"]
    results = Results(pd.DataFrame({"choice": ways}))
    assert results.chosen_by("intervened").table["choice"].tolist() == ["none", "intervened"]
