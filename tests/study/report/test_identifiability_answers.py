"""What is said of the open questions follows from the runs: a reversed result flips the verdict."""

from __future__ import annotations

from itertools import product

import pandas as pd
import pytest

from icm_study.experiments.coverage import BACKGROUND, BOTH, COLOURS, ORACLE, SEVEN
from icm_study.experiments.leakage import ANY_ANIMAL, SAME_CLASS
from icm_study.experiments.pair_numbers import GAP, HELD_OUT, PLAIN
from icm_study.report import identifiability as found_by
from icm_study.theory.few_pairs import KNOWN

SEEDS = range(3)


def near(value: float, seed: int) -> float:
    """Give a value that differs a little by seed."""
    return value + 0.01 * seed


def leak_runs(sign: float) -> pd.DataFrame:
    rows = [{"seed": s, "shown": "none", "share": 0.0, "reversed": 80.0} for s in SEEDS]
    rows += [
        {"seed": s, "shown": leak, "share": share, "reversed": near(80 + sign * gain, s)}
        for s in SEEDS
        for leak, share, gain in (
            (ANY_ANIMAL, 0.0, 9), (ANY_ANIMAL, 0.1, 5), (SAME_CLASS, 1.0, 4), (ANY_ANIMAL, 1.0, -6),
        )
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("sign", "verdicts"),
    [(1.0, ["supported", "supported", "supported"]), (-1.0, ["refuted", "refuted", "refuted"])],
)
def test_leaks(sign: float, verdicts: list[str]) -> None:
    finding = found_by.leaks(leak_runs(sign))
    assert [row["verdict"] for row in finding.claims] == verdicts
    assert f"{sign * 5:+.1f} (" in finding.words


@pytest.mark.parametrize(("scene", "verdict"), [(0.2, "refuted"), (0.8, "supported")])
def test_coverage(scene: float, verdict: str) -> None:
    names = {SEVEN: 0.3, "invert": 0.9, "equalize": 0.6, BACKGROUND: 0.1, COLOURS: 0.2, BOTH: 0.3,
             ORACLE: 0.1}  # fmt: skip
    rows = [
        {"seed": s, "intervention": name, "leak": near(leak, s), "coverage": near(1 - leak, s),
         "scene": near(scene, s), "unseen": 85.0, "reversed": near(85.0, s), "K": 10.0}
        for s in SEEDS for name, leak in names.items()
    ]  # fmt: skip
    rows += [{"seed": s, "intervention": "none", "unseen": 85.0, "reversed": 80.0} for s in SEEDS]
    finding = found_by.coverage(pd.DataFrame(rows))
    assert finding.words.startswith("Invert leaks most (0.91")
    assert "equalize covers most" in finding.words.lower()
    assert finding.claims[1]["verdict"] == verdict


@pytest.mark.parametrize(
    ("better", "verdicts"),
    [(GAP, ["supported", "refuted"]), (HELD_OUT, ["refuted", "supported"])],
)
def test_pairs(better: str, verdicts: list[str]) -> None:
    rows = []
    for s, dimension in product(SEEDS, (16, 64)):
        told = {"seed": s, "dimension": dimension, "consistency_weight": 1.0}
        rows += [told | {"n_pairs": 0, "rule": rule, "reversed": value}
                 for rule, value in ((KNOWN, 98.0), (PLAIN, 20.0))]  # fmt: skip
        for n, lost in ((10, 40.0), (100, 0.5), (1000, 0.1)):
            for rule in (HELD_OUT, GAP):
                value = near(98 - lost - (0 if rule == better else 5), s)
                rows.append(told | {"n_pairs": n, "rule": rule, "reversed": value})
    finding = found_by.linear_pairs(pd.DataFrame(rows))
    assert [row["verdict"] for row in finding.claims] == [*verdicts, "supported"]
    assert ("lost from 100 pairs (D = 16, 64)" in finding.words) == (better == GAP)


@pytest.mark.parametrize(("bits", "verdicts"), [(0.1, "supported"), (2.0, "refuted")])
def test_estimates(bits: float, verdicts: str) -> None:
    rows = [
        {"seed": s, "world": world, "n_pairs": 1000, "truth": truth, "bits": near(value, s)}
        for s in SEEDS
        for world, truth, value in (
            ("Gaussian", 1.0, 1 + bits), ("Gaussian", 4.0, 4 + bits), ("shuffled", 0.0, 0.0),
        )
    ]  # fmt: skip
    animals = [
        {"seed": s, "pairs": kind, "bits": near(value, s)}
        for s in SEEDS
        for kind, value in (("oracle", 5.0), ("image", 9.0))
    ]
    finding = found_by.estimates(pd.DataFrame(rows), pd.DataFrame(animals))
    assert finding.claims[0]["verdict"] == verdicts
    assert finding.claims[2]["verdict"] == "supported"


def test_a_table_without_an_experiment_is_refused() -> None:
    from icm_study.experiments.questions import runs_of

    table = leak_runs(1.0).assign(experiment="leaks")
    with pytest.raises(ValueError, match=r"no runs of .*linearity.*`make questions`"):
        runs_of(table, found_by.EXPERIMENTS)
