"""What pages say of runs in which some methods were left out, on the recorded comparison."""

import pytest
from conftest import ROOT

from icm_study.experiments.reading import Results
from icm_study.experiments.record import read_table
from icm_study.report.answers import domain_generalization_answer
from icm_study.report.summary import best_methods
from icm_study.report.tables import readable


@pytest.fixture(scope="module")
def compared() -> Results:
    return Results(read_table(ROOT / "reports" / "recorded" / "methods_animal-world.parquet"))


@pytest.mark.parametrize(
    ("methods", "told", "silent"),
    [
        (["plain"], ["The plain linear probe has", "Plain zero-shot, which"], ["With ICM"]),
        (["plain", "ICM auto image"], ["The plain linear probe", "λ fixed at 1"], ["after an"]),
        (["ICM auto image"], ["With ICM (image interventions; λ fixed at 1"], ["The plain", "nan"]),
    ],
)
def test_the_answer_tells_what_was_run_and_no_more(compared, methods, told, silent):
    said = domain_generalization_answer(compared.of(method=methods)).data
    assert all(words in said for words in told)
    assert not any(words in said for words in silent)


def test_the_best_methods_are_three_of_each_kind_beside_the_plain_one(compared):
    kept = best_methods(compared)
    for _, part in kept.groupby("predictor"):
        names = part["method"].unique()
        rivals = [name for name in names if name != "plain" and "ICM" not in name]
        assert "plain" in names
        assert len(rivals) == 3
        assert sum("ICM" in name for name in names) == 3


def test_a_name_that_a_row_has_stays(compared):
    rows = compared.means().head(3).assign(name=["plain, zero-shot", "b", "c"])
    assert readable(rows)["name"].tolist() == ["plain, zero-shot", "b", "c"]
