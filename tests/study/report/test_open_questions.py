"""What is said of the open questions: short, and the other way round for other numbers."""

from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from icm_study.experiments import (
    across_styles,
    combination,
    left_out_domains,
    new_classes,
    shared_subspace,
    tuned_towers,
)
from icm_study.experiments.intervals import pack
from icm_study.experiments.redrawing import CLASS_PAIRS, SEVEN
from icm_study.report import open_questions
from icm_study.report.finding import verdicts_of
from icm_study.report.open_questions_figures import dots_figure

LOW, MIDDLE, HIGH = 0.1, 0.5, 0.8
IN_STYLES = {"target": ["photo", "sketch"], "seed": [0, 1, 2]}
ON_IMAGES = {"target": ["images to captions", "captions to images"], "seed": [0]}


def runs(methods, **columns):
    """Make runs, of which each method is right as often as is said."""
    rng, rows = np.random.default_rng(0), []
    for values in product(*columns.values()):
        where = dict(zip(columns, values, strict=True))
        for method, share in methods.items():
            correct = rng.random(300) < share
            rows.append(
                where
                | {"method": method, "n": 300, "value": 100 * correct.mean()}
                | {"correct": pack(correct)}
            )
    return pd.DataFrame(rows)


def of(module_methods, ours, plain):
    """Say how often each method is right: those that are `ours`, the control, and the rest."""
    return {
        name: LOW if name == module_methods["control"] else ours if name in module_methods["ours"]
        else plain for name in module_methods["all"]
    }  # fmt: skip


def tables(ours, plain):
    """Runs of every experiment in which our side is right as often as `ours`, rivals as `plain`."""
    kinds = [f"ICM {kind}" for kind in new_classes.KINDS]
    everyone = [*kinds, *(name + new_classes.ALL for name in kinds)]
    ways = [value for name, value in vars(shared_subspace).items() if name.isupper()]
    ways = [way for way in ways if isinstance(way, str) and way not in ("image", "text")]
    shared = [shared_subspace.SEPARATE, shared_subspace.CENTRED]
    during = [tuned_towers.DURING.format(p) for p in tuned_towers.PENALTIES]
    tuned = [tuned_towers.ALONE, tuned_towers.BEFORE, tuned_towers.AFTER, *during]
    accuracy = runs(
        {
            name: LOW if "any classes" in name else plain if name == "plain" else ours
            for name in left_out_domains.METHODS
        },
        target=["art", "photo"], seed=[0], choice=["left-out domain", "target"],
    )  # fmt: skip
    shares = pd.DataFrame(
        {"kind": kind, "factor": factor, "fold": fold, "share": share + fold / 100}
        for kind, share in ((SEVEN, 0.03), (CLASS_PAIRS, 0.4))
        for factor in ("domain", "class")
        for fold in range(3)
    )
    gains = pd.DataFrame(
        {"way": way, "alone": kind, "predictor": predictor, "condition": condition}
        | {"value": 100 * (ours - plain), "low": 100 * (ours - plain) - 2}
        | {"high": 100 * (ours - plain) + 2, "n_runs": 6}
        for way, kind, predictor, condition in product(
            combination.WAYS, combination.ALONE, ["zero-shot", "linear probe"],
            ["in_distribution", "unseen", "reversed"],
        )
    )  # fmt: skip
    return {
        "photographs": pd.concat(
            [accuracy.assign(quantity="accuracy"), shares.assign(quantity="share")]
        ),
        "sharing": runs(
            of({"all": ways, "ours": shared, "control": shared_subspace.CONTROL}, ours, plain),
            condition=["unseen", "reversed"], **IN_STYLES,
        ),
        "sharing_real": runs(
            of({"all": ways, "ours": shared, "control": shared_subspace.CONTROL}, ours, plain),
            condition=["recall@1", "recall@5"], **ON_IMAGES,
        ),
        "classes": runs(
            of({"all": ["plain", *everyone, new_classes.CONTROL], "ours": kinds,
                "control": new_classes.CONTROL}, ours, plain),
            condition=["open", "mixed", "seen"], **IN_STYLES,
        ),
        "retrieval": runs(
            of({"all": ["plain", *kinds, across_styles.CONTROL], "ours": kinds,
                "control": across_styles.CONTROL}, ours, plain),
            condition=["recall@1", "recall@5"], **IN_STYLES,
            task=[across_styles.ANIMAL, across_styles.CLASS, across_styles.OWN],
        ),
        "tuning": runs(
            of({"all": ["plain", "LoRA", *tuned, tuned_towers.CONTROL], "ours": tuned,
                "control": tuned_towers.CONTROL}, ours, plain),
            condition=["unseen"], predictor=["zero-shot", "linear probe"], **IN_STYLES,
        ),
        "combination": gains,
    }  # fmt: skip


@pytest.fixture(scope="module")
def better():
    return open_questions.find(tables(HIGH, MIDDLE))


@pytest.fixture(scope="module")
def worse():
    return open_questions.find(tables(MIDDLE, HIGH))


def test_each_question_has_an_experiment_a_section_and_a_short_answer(better):
    assert set(open_questions.EXPERIMENTS) == set(open_questions.SECTIONS) == set(better)
    for name, finding in better.items():
        assert len(finding.words.split()) <= 45, name
        assert "nan" not in finding.words
        assert finding.summary.attrs["title"]


def test_reversed_results_reverse_the_verdicts(better, worse):
    first, second = (
        verdicts_of(found, open_questions.SECTIONS).set_index(["claim", "statement"])["verdict"]
        for found in (better, worse)
    )
    ours = ~first.index.get_level_values("claim").str.startswith("Control")
    assert set(zip(first[ours], second[ours], strict=True)) == {
        ("supported", "refuted"), ("refuted", "supported")
    }  # fmt: skip
    assert (first[~ours] == "supported").all()


def test_a_figure_shows_every_method_in_every_panel(better):
    summary = better["classes"].summary
    figure = dots_figure(summary, "Accuracy (%)")
    assert len(figure.axes) == 3
    assert figure._suptitle.get_text() == summary.attrs["title"]
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == list(dict.fromkeys(summary["method"]))
    for panel, name in zip(figure.axes, dict.fromkeys(summary["panel"]), strict=True):
        assert panel.get_title() == name
        shown = np.asarray(panel.containers[0].lines[0].get_xdata(), dtype=float)
        np.testing.assert_allclose(shown, summary[summary["panel"] == name]["value"])
    plt.close(figure)
