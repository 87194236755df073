"""What others have published beside a run: looked up by encoder and data set, and judged."""

import pandas as pd
import pytest

from icm_study.experiments.intervals import pack
from icm_study.experiments.reading import Results
from icm_study.photographs.known import CATALOG
from icm_study.photographs.zero_shot import SOURCES, published_zero_shot
from icm_study.report.published import published_table, zero_shot_beside

B16 = "ViT-B-16/openai"


def results(share, encoder=B16, n=3000, **parameters):
    """A run whose plain zero-shot has this share of n images."""
    condition = next(iter(parameters.get("variants", {"unseen": ""})))
    correct = [i < share * n for i in range(n)]
    row = {
        "dataset": parameters.pop("dataset", "imagenet"), "encoder": encoder,
        "protocol": parameters.get("protocol", "variants"), "world": "none", "target": "none",
        "seed": 0, "method": "plain", "predictor": "zero-shot", "choice": "none",
        "condition": condition, "n": n, "value": 100 * share, "correct": pack(correct),
    }  # fmt: skip
    table = pd.DataFrame([row])
    table.attrs = {
        "parameters": {"encoder": encoder, **parameters},
        "testbed": {"name": "x", "world": "none", "note": "", "over": "images"},
    }
    return Results(table)


def test_the_table_has_each_result_once_and_every_source():
    table = published_zero_shot()
    assert not table.duplicated(["encoder", "dataset", "source"]).any()
    assert set(table["dataset"]) == {name for name in CATALOG if name.startswith("imagenet")}
    assert set(table["source"]) == set(SOURCES)
    assert table["accuracy"].between(0.1, 98).all()
    # two sources measured the same models on the same images
    wide = table.pivot_table("accuracy", ["encoder", "dataset"], "source").dropna()
    assert len(wide) > 30
    assert (wide["open_clip"] - wide["CLIP_benchmark"]).abs().max() < 1


@pytest.mark.parametrize(
    ("dataset", "accuracy"),
    [("imagenet", 68.34), ("imagenet-v2", 61.88), ("imagenet-a", 49.95), ("imagenet-r", 77.70)],
)
def test_the_encoder_of_the_paper_is_in_it(dataset, accuracy):
    found = published_zero_shot(B16, dataset).set_index("source")["accuracy"]
    assert found["open_clip"] == pytest.approx(accuracy)


@pytest.mark.parametrize(("share", "agrees"), [(0.777, True), (0.70, False), (0.84, False)])
def test_a_run_agrees_within_its_sampling_error(share, agrees):
    run = results(share, variants={"R": "../data/imagenet-r"})
    table = zero_shot_beside(run)
    assert table["data set"].tolist() == ["imagenet-r", "imagenet-r"]
    assert set(table["agrees"]) == {agrees}
    said = published_table(run).data
    assert ("lies within" in said) == agrees
    assert ("another preprocessing" in said) == (not agrees)
    assert "commit 89fb801f" in said


def test_the_name_of_a_variant_is_that_of_its_folder():
    run = results(0.777, variants={"mine": "/somewhere/imagenet-r"})
    assert len(zero_shot_beside(run)) == 2
    other = results(0.777, variants={"R": "/somewhere/my-own"})
    assert zero_shot_beside(other).empty
    assert "No zero-shot accuracy" in published_table(other).data


def test_the_figures_of_the_paper_stand_beside_domains():
    given = {"protocol": "leave-one-domain-out", "dataset": "PACS"}
    assert zero_shot_beside(results(0.961, **given))["agrees"].tolist() == [True]
    wrong = zero_shot_beside(results(0.80, **given))
    assert wrong["agrees"].tolist() == [False]
    assert wrong["published"].tolist() == [96.1]
    assert zero_shot_beside(results(0.961, encoder="animal-world", **given)).empty
