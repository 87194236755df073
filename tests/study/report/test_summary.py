"""What pages pick from a table of results, and how they name it, on the recorded comparison."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from conftest import ROOT

from icm_study.experiments.reading import Results
from icm_study.experiments.record import read_table
from icm_study.report.claims import domain_generalization_claims
from icm_study.report.summary import best_methods, headline_figure, of_real_clip
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


@pytest.fixture
def verdicts(tmp_path):
    """Paths of verdicts: of two pages, one of which is on real CLIP."""
    paths = []
    for name in ("01_theory", "real-clip"):
        paths.append(str(tmp_path / f"{name}_claims.parquet"))
        pd.DataFrame({"verdict": ["refuted", "supported", "refuted"]}).to_parquet(paths[-1])
    return paths


def test_the_front_page_says_what_is_of_real_clip_and_what_it_is_not(verdicts, compared):
    said = of_real_clip(verdicts, [compared]).data
    assert "results/real-clip.ipynb" in said
    assert "2 refuted, 1 supported" in said
    assert "no accuracy on this page is of a real CLIP" in said


def test_a_run_with_a_real_clip_is_not_denied(verdicts, compared):
    table = compared.table.head(4)
    record = {**compared.record, "parameters": {"encoder": "ViT-B-16/openai"}}
    said = of_real_clip(verdicts, [compared, Results(table, record)]).data
    assert "have ViT-B-16/openai too" in said
    assert "no accuracy" not in said


def test_without_the_page_no_result_is_claimed(verdicts):
    assert "No result here" in of_real_clip(verdicts[:1], []).data


def test_no_number_of_the_headline_stands_on_the_zero_line():
    ends = [(-1.2, -1.5, -0.9), (-18.0, -20.0, -16.0), (0.4, -4.0, 4.8), (9.6, 7.9, 11.2)]
    rows = [
        {"run": f"run {i}", "predictor": predictor, "way": way, "value": value, "low": low}
        | {"high": high, "condition": "unseen", "limits": "none", "redrawn": "", "penalty": ""}
        for i, (value, low, high) in enumerate(ends)
        for predictor in ("linear probe", "zero-shot")
        for way in ("chosen", "fixed")
    ]
    figure = headline_figure(pd.DataFrame(rows))
    figure.canvas.draw()
    for axes in figure.axes:
        zero = axes.transData.transform((0, 0))[0]
        numbers = [text for text in axes.texts if text.get_text()[0] in "+-−"]
        assert len(numbers) == 2 * len(ends)
        for text in numbers:
            box, inside = text.get_window_extent(), axes.get_window_extent()
            assert box.x1 < zero or box.x0 > zero, text.get_text()
            assert inside.x0 < box.x0 < box.x1 < inside.x1, text.get_text()
    plt.close(figure)
