"""What pages pick from a table of results, and how they name it, on the recorded comparison."""

import pandas as pd
import pytest
from conftest import ROOT

from icm_study.experiments.reading import Results
from icm_study.experiments.record import read_table
from icm_study.report.claims import domain_generalization_claims
from icm_study.report.summary import best_methods
from icm_study.report.tables import readable


@pytest.fixture(scope="module")
def compared() -> Results:
    return Results(read_table(ROOT / "reports" / "recorded" / "methods_animal-world.parquet"))


def test_claims_are_made_without_the_augmentation_too(compared):
    names = ["plain", "ICM image+text", "ICM auto image+text"]
    with_it = domain_generalization_claims(compared.of(method=[*names, "augmentation"]))
    without = domain_generalization_claims(compared.of(method=names))
    left_out = with_it["statement"].str.contains("trained on augmented images")
    assert left_out.sum() == 2
    pd.testing.assert_frame_equal(without, with_it[~left_out].reset_index(drop=True))


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
