"""What the paper is said to report, and how far to trust it."""

from types import SimpleNamespace

import pandas as pd
import pytest

from icm_study.report.paper import ENCODER, paper_table


def shown(dataset, encoder=ENCODER, protocol="leave-one-domain-out"):
    row = {"dataset": dataset, "encoder": encoder, "protocol": protocol}
    return paper_table(SimpleNamespace(table=pd.DataFrame([row]))).data


@pytest.mark.parametrize("dataset", ["PACS", "VLCS", "office_home", "terra_incognita"])
def test_says_that_its_figures_were_not_checked(dataset):
    assert "not compared with its own tables" in shown(dataset)
    assert ("80 to 82" in shown(dataset)) == (dataset == "office_home")


def test_open_classes_have_figures_of_their_own():
    open_classes = shown("terra_incognita", protocol="domain shift with open classes")
    assert "24.6" in open_classes
    assert "24.6" not in shown("terra_incognita")


@pytest.mark.parametrize(
    "run", [("PACS", "lite0-minilm"), ("animal-world", ENCODER), ("PACS", ENCODER, "open class")]
)
def test_says_where_there_are_none(run):
    assert "none for this run" in shown(*run)
