"""Verdicts, and the rows of the table of claims."""

import numpy as np
import pandas as pd
import pytest
from stand_ins import StandInEncoder, TableBed, linear_data

from icm_study.embedding.store import EmbeddingStore
from icm_study.embedding.tables import Embedder
from icm_study.experiments.intervals import pack
from icm_study.experiments.reading import KINDS, Results
from icm_study.experiments.record import write_table
from icm_study.experiments.run import Plan, run
from icm_study.methods.registry import METHODS
from icm_study.report import words
from icm_study.report.claims import (
    comparison_claims,
    differences,
    domain_generalization_claims,
    gains_over_plain,
    gains_over_rivals,
    learnt_from,
    variant_claims,
    ways,
)
from icm_study.report.claims_map import read_claims, verdict_table
from icm_study.report.gains import gain_claim
from icm_study.report.verdicts import claim, judge, located


@pytest.mark.parametrize(
    ("low", "high", "threshold", "verdict"),
    [
        (0.1, 0.5, {"below": 1.0}, "supported"),
        (1.5, 2.0, {"below": 1.0}, "refuted"),
        (0.5, 1.5, {"below": 1.0}, "not shown"),
        (np.nan, np.nan, {"below": 1.0}, "not shown"),
        (81, 90, {"above": 80}, "supported"),
        (10, 20, {"above": 80}, "refuted"),
        (70, 90, {"above": 80}, "not shown"),
        (np.nan, np.nan, {"above": 80}, "not shown"),
    ],
)
def test_verdict_of_an_interval(low, high, threshold, verdict):
    assert judge(low, high, **threshold) == verdict


@pytest.mark.parametrize("thresholds", [{}, {"below": 1.0, "above": 0.0}])
def test_verdict_needs_one_threshold(thresholds):
    with pytest.raises(ValueError, match="expected exactly one"):
        judge(0, 1, **thresholds)


def test_claim_is_a_row_and_refuses_other_verdicts():
    row = claim("P1", "it holds", "0.1", "< 1", "supported")
    assert row == {
        "claim": "P1", "statement": "it holds", "measured": "0.1", "threshold": "< 1",
        "verdict": "supported",
    }  # fmt: skip
    with pytest.raises(ValueError, match="verdict is 'maybe'; expected one of 'supported'"):
        claim("P1", "it holds", "0.1", "< 1", "maybe")


# Comparisons of all methods

PROBE = "linear probe"
WHERE = "on an unseen domain with the shortcut reversed"


def made_up(accuracy, over="seeds"):
    """Rows of five seeds and two targets: `accuracy` by (method, predictor, choice), noisy."""
    rows = []
    for place, ((method, predictor, choice), value) in enumerate(accuracy.items()):
        noise = np.random.default_rng(place).permutation([-2, -1, 0, 1, 2])
        for seed in range(5):
            for target in ("photo", "sketch"):
                correct = np.arange(1000) < 10 * value + noise[seed]
                rows.append(
                    {
                        "method": method, "predictor": predictor, "choice": choice, "seed": seed,
                        "target": target, "condition": "reversed", "world": "coat 0.9",
                        "encoder": "toy", "value": 100 * correct.mean(), "n": 1000,
                        "correct": pack(correct), "family": METHODS[method].family,
                    }
                )  # fmt: skip
    table = pd.DataFrame(rows)
    table.attrs = {
        "testbed": {"world": "coat 0.9", "over": over},
        "parameters": {"encoder": "toy", "choices": ["intervened", "held-out", "target"]},
    }
    return Results(table)


def test_claims_compare_each_rival_at_the_setting_that_no_one_peeked_for():
    accuracy = {
        ("plain", PROBE, "none"): 60, ("plain", "zero-shot", "none"): 80,
        ("ICM auto image+text", PROBE, "none"): 80,
        ("tuned penalty", PROBE, "intervened"): 85, ("tuned penalty", PROBE, "target"): 70,
        ("tuned penalty, ICM image+text", PROBE, "intervened"): 88,
        ("tuned penalty, ICM image+text", PROBE, "target"): 60,
        ("augmentation", PROBE, "intervened"): 89, ("augmentation", PROBE, "target"): 99,
        ("SHED", PROBE, "none"): 70, ("SHED", "zero-shot", "none"): 99,
        ("tuned penalty", PROBE, "held-out"): 50, ("CoOp", "zero-shot", "intervened"): 75,
        ("ICM image+text", PROBE, "intervened"): 72, ("ICM image+text", PROBE, "held-out"): 74,
        ("ICM image+text", PROBE, "target"): 90,
    }  # fmt: skip
    results = made_up(accuracy)
    verdicts = comparison_claims(results)
    found = {}
    for row in verdicts[verdicts["claim"].str.startswith("Rivals")].itertuples():
        said = row.statement.split(", image and text interventions, ")[-1].split(f" {WHERE}")[0]
        found[tuple(said.split(": "))] = row.measured.split()[0], row.verdict
    auto = "λ fixed at 1, K = positive eigenvalues"
    chosen = "K and λ chosen as the rival's settings are"
    fixed, tuned = "penalty fixed at C = 0.316", "penalty chosen"
    assert found == {
        (f"{auto}, {tuned}", "beats the plain probe"): ("+3.0", "supported"),
        (f"{auto}, {tuned}", "beats plain zero-shot"): ("+8.0", "supported"),
        (f"{auto}, {fixed}", "beats the probe without the centroids of styles"): (
            "+10.0", "supported",
        ),
        (f"{auto}, {tuned}", "beats the probe trained on augmented images"): (
            "-1.0", "refuted",
        ),
        (f"{chosen}, {fixed}", "beats the probe without the centroids of styles"): (
            "+2.0", "supported",
        ),
        (f"{chosen}, {fixed}", "beats the plain probe"): ("+12.0", "supported"),
        (f"{chosen}, {fixed}", "beats plain zero-shot"): ("-8.0", "refuted"),
        (f"{chosen}, {fixed}, not so the rival's", "beats the probe trained on augmented images"): (
            "-17.0", "refuted",
        ),
    }  # fmt: skip
    choosing = verdicts[verdicts["claim"].str.startswith("Choosing")]
    assert [row.measured.split()[0] for row in choosing.itertuples()] == ["-2.0", "+8.0"]
    begins = f"ICM probe, image and text interventions, {fixed}, {WHERE}"
    assert choosing["statement"].str.startswith(begins).all()
    chosen_only = results.table[results.table["method"] != "ICM auto image+text"]
    # what CLIP-ICM learnt from is not told
    assert comparison_claims(Results(chosen_only, results.record)).empty
    assert comparison_claims(results.of(method="plain")).empty


def test_zero_shot_behind_the_projection_is_judged_too():
    zero_shot = {("plain", "zero-shot", "none"): 80, ("ICM auto image", "zero-shot", "none"): 83}
    (row,) = comparison_claims(made_up(zero_shot)).to_dict("records")
    assert "ICM zero-shot, image interventions" in row["statement"]
    assert row["verdict"] == "supported"


@pytest.mark.parametrize("over", ["seeds", "images"])
def test_differences_are_paired_and_at_honest_settings(over):
    accuracy = {
        ("plain", PROBE, "none"): 60, ("plain", "zero-shot", "none"): 80,
        ("IRM", PROBE, "intervened"): 85, ("IRM", PROBE, "target"): 99,
    }  # fmt: skip
    results = made_up(accuracy, over)
    found = differences(results, ("plain", PROBE)).set_index(["method", "predictor"])
    assert found["value"].round(6).to_dict() == {("plain", "zero-shot"): 20, ("IRM", PROBE): 25}
    assert ((found["low"] <= found["value"]) & (found["value"] <= found["high"])).all()
    assert differences(results, ("LDA", PROBE)).empty


def test_the_best_interventions_that_were_run_are_judged():
    assert learnt_from(["plain", "ICM auto text", "ICM auto image+text"]) == "image+text"
    assert learnt_from(["ICM auto image", "ICM text"]) == "image"
    assert learnt_from(["plain", "LDA"]) is None


# Of a run on every target, and of variants


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A run on every target of data in numbers, by the engine itself."""
    encoder = StandInEncoder()
    encoder.embedding_dim = 6
    embedder = Embedder(encoder, EmbeddingStore(tmp_path_factory.mktemp("store")))
    few = {"n_components": [2], "consistency_weight": [1.0, 10.0]}
    plan = Plan(settings={f"ICM {kind}": few for kind in (*KINDS, "oracle")})
    return run([TableBed(linear_data())], embedder, [0, 1], plan=plan)


def as_results(table, name="tables"):
    table.attrs = {
        "testbed": {"name": name, "world": name, "over": "images"},
        "parameters": {"encoder": "stand-in 0", "choices": ["intervened"]},
    }
    return Results(table)


@pytest.fixture
def results(table):
    return as_results(table.copy())


def value(table, predictor, method, choice="none"):
    rows = table[(table["predictor"] == predictor) & (table["method"] == method)]
    return rows.loc[rows["choice"] == choice, "value"].mean()


def test_verdicts_are_of_the_probe_against_three_rivals_and_of_zero_shot(results):
    found = domain_generalization_claims(results)
    assert found["claim"].str.contains("tables, stand-in 0").all()
    # for each way: the probe by three kinds, under the other shift, against two other rivals;
    # zero-shot by the two kinds with texts under both shifts
    assert len(found) == 2 * (3 + 1 + 2 + 2 * 2)
    assert found["statement"].is_unique
    assert set(found["verdict"]) <= {"supported", "refuted", "not shown"}
    last = found[found["statement"].str.contains("beats the plain probe")]
    last = last[last["statement"].str.contains("image and text interventions, K and λ chosen")]
    last = last[last["statement"].str.endswith("with the shortcut reversed")]
    reversed_ = results.of(condition="reversed").table
    tuned = "tuned penalty, chosen ICM image+text"
    gain = value(reversed_, "linear probe", tuned, "intervened")
    gain -= value(reversed_, "linear probe", "tuned penalty", "intervened")
    assert last["measured"].item().startswith(f"{gain:+.1f} (")


def test_where_only_images_are_intervened_on_zero_shot_is_judged_too(table):
    found = domain_generalization_claims(
        as_results(table[~table["method"].str.contains("text|oracle")].copy())
    )
    # for each way: the probe under two shifts and against two other rivals; zero-shot twice
    assert len(found) == 2 * (2 + 2 + 2)
    zero = found[found["claim"].str.startswith("Zero-shot")]
    assert zero["statement"].str.contains("image interventions").all()
    assert len(zero) == 2 * 2


def test_a_verdict_is_on_chosen_penalties_or_on_fixed_ones_on_both_sides_and_says_so(results):
    for kept, said, ours, plain, choice in (
        ("", "penalty chosen", "tuned penalty, ICM image+text", "tuned penalty", "intervened"),
        ("tuned penalty", "penalty fixed at C = 0.316", "ICM auto image+text", "plain", "none"),
        ("tuned penalty, ", "penalty fixed at C = 0.316", "ICM auto image+text", "plain", "none"),
    ):
        left_out = results.table["method"].str.startswith(kept or "no method")
        some = Results(results.table[~left_out], results.record)
        found = domain_generalization_claims(some).set_index("statement")
        assert found.index.str.contains(said).sum() == found.index.str.contains("ICM probe").sum()
        (told,) = [
            s for s in found.index
            if "image and text" in s and "positive eigenvalues" in s
            and s.endswith("beats the plain probe on an unseen domain with the shortcut reversed")
        ]  # fmt: skip
        part = results.of(condition="reversed").table
        gain = value(part, PROBE, ours, choice) - value(part, PROBE, plain, choice)
        assert found.loc[told, "measured"].startswith(f"{gain:+.1f} (")
        done = words.penalties(found.reset_index()).data
        assert "each side has the penalty that does best" in done
        assert ("penalty fixed" in done) == bool(kept)


@pytest.mark.parametrize("judged", [comparison_claims, gains_over_plain])
@pytest.mark.parametrize(("gain", "sign"), [(6, 1), (-6, -1)])
def test_a_reversed_result_at_the_chosen_penalty_turns_the_verdict(judged, gain, sign):
    """Whatever the same probes do at the fixed one."""
    results = made_up(
        {
            ("plain", PROBE, "none"): 70, ("ICM auto image+text", PROBE, "none"): 70 - 2 * gain,
            ("ICM image+text", PROBE, "intervened"): 70 - 2 * gain,
            ("tuned penalty", PROBE, "intervened"): 60,
            ("tuned penalty, ICM image+text", PROBE, "intervened"): 60 + gain,
            ("tuned penalty, chosen ICM image+text", PROBE, "intervened"): 60 + gain,
        }
    )  # fmt: skip
    found = judged(results)
    over_plain = found[found["statement"].str.contains("the plain probe")] if (
        "statement" in found
    ) else found  # fmt: skip
    assert len(over_plain) == 2
    assert set(np.sign(over_plain["low"])) == set(np.sign(over_plain["high"])) == {sign}
    if "verdict" in found:
        assert set(over_plain["verdict"]) == {"supported" if sign > 0 else "refuted"}


@pytest.mark.parametrize("rival", ["SPD", "SHED", "TIE"])
@pytest.mark.parametrize(("gain", "verdict"), [(6, "supported"), (-6, "refuted")])
def test_a_rival_is_judged_at_its_own_chosen_penalty(rival, gain, verdict):
    """Whatever it does at the fixed one."""
    own = "none" if rival == "SHED" else "intervened"
    accuracy = {
        ("ICM auto image+text", PROBE, "none"): 70, (rival, PROBE, own): 70 + gain,
        ("tuned penalty, ICM image+text", PROBE, "intervened"): 60,
        (f"tuned penalty, {rival}", PROBE, "intervened"): 60 - gain,
    }  # fmt: skip
    for left_out, said, expected in (
        ("no method", "penalty chosen", verdict),
        (f"tuned penalty, {rival}", "penalty fixed at C = 0.316",
         "refuted" if gain > 0 else "supported"),
    ):  # fmt: skip
        results = made_up({side: v for side, v in accuracy.items() if side[0] != left_out})
        (found,) = comparison_claims(results).to_dict("records")
        assert said in found["statement"]
        assert found["verdict"] == expected


def test_the_fixed_penalty_stands_beside_the_chosen_one_and_is_not_judged(results):
    gains = gains_over_rivals(results)
    assert set(gains.loc[~gains["judged"], "rival"]) == {"plain"}
    assert set(gains.loc[~gains["judged"], "predictor"]) == {PROBE}
    probes = gains[gains["judged"] & (gains["predictor"] == PROBE)]
    assert probes["method"].str.startswith("tuned penalty").all()
    assert not probes["rival"].eq("plain").any()


def test_verdicts_under_open_classes_are_of_zero_shot(table):
    opened = table[(table["predictor"] == "zero-shot") & (table["condition"] != "reversed")]
    opened = opened.replace({"condition": {"unseen": "new_classes"}})
    found = domain_generalization_claims(as_results(opened))
    assert found["statement"].str.contains("not seen").all()
    assert len(found) == 2 * 2
    assert words.penalties(found).data == ""  # and nothing is said of probes
    for rows, has_probes in ((opened, False), (table, True)):
        said = words.chosen(as_results(rows)).data
        assert ("<th>C</th>" in said) == ("penalty" in said) == has_probes


def test_gains_over_plain_are_paired_under_the_last_shift(results):
    fixed = Results(results.table[~results.table["method"].str.startswith("tuned")], results.record)
    gains = gains_over_plain(fixed).set_index(["predictor", "way"])
    assert set(gains["condition"]) == {"reversed"}
    part = results.of(condition="reversed")
    for predictor in ("zero-shot", "linear probe"):
        for way, (method, choice) in ways("intervened").items():
            row = gains.loc[(predictor, way)]
            ours = value(part.table, predictor, f"{method} image+text", choice)
            assert row["value"] == pytest.approx(ours - value(part.table, predictor, "plain"))
            paired = part.gain(
                {"method": f"{method} image+text", "predictor": predictor, "choice": choice},
                {"method": "plain", "predictor": predictor},
            ).iloc[0]
            assert (row["low"], row["high"]) == (paired["low"], paired["high"])
    assert gains_over_plain(results.of(condition="in_distribution")).empty


def test_claims_are_about_each_variant_and_both_choices(table):
    names = {"unseen": "R", "reversed": "Sketch"}
    variants = as_results(table.replace({"condition": names}))
    found = variant_claims(variants)
    assert len(found) == 2 * 2 * 2  # choices, predictors, variants
    assert found["statement"].is_unique
    on_r = variants.of(condition="R").table
    gain = value(on_r, PROBE, "tuned penalty, ICM image+text", "intervened")
    gain -= value(on_r, PROBE, "tuned penalty", "intervened")
    row = found[
        found["statement"].str.contains("ICM linear probe, image and text")
        & found["statement"].str.contains("positive eigenvalues")
        & found["statement"].str.endswith("beats the plain linear probe on R of tables")
    ]
    assert row["measured"].item().startswith(f"{gain:+.1f} (")
    assert set(found["verdict"]) <= {"supported", "refuted", "not shown"}
    assert not found["statement"].str.contains("in_distribution").any()


@pytest.mark.parametrize("judged", [domain_generalization_claims, variant_claims])
@pytest.mark.parametrize("column", ["encoder", "world"])
def test_claims_of_several_encoders_or_worlds_are_refused(table, judged, column):
    other = table.replace({"condition": {"unseen": "new_classes"}}).assign(**{column: "another"})
    several = as_results(pd.concat([table, other], ignore_index=True))
    if (judged, column) == (domain_generalization_claims, "world"):
        alone = as_results(table.copy())  # the world that is judged is the only one
        pd.testing.assert_frame_equal(judged(several), judged(alone))
        return
    with pytest.raises(ValueError, match="several encoders or worlds"):
        judged(several)


# The page of every claim


def test_the_page_says_what_each_claim_was_measured_on_and_what_repeats_it(tmp_path):
    made = {
        "01_theory": ("P5.1", None, "theory", "make study"),
        "02_domain_generalization_a": (
            "Probe (coat 0.9, animal-world)", "02_domain_generalization", "animal world",
            "make study",
        ),
        "methods_a": ("Rivals (coat 0.9, animal-world)", "06_methods", "animal world",
                      "make methods"),
        "PACS_x": ("Probe (PACS, lite0-minilm)", "02_domain_generalization", "photographs",
                   "make photographs"),
        "PACS_y": ("Probe (PACS, ViT-B-16/openai)", "02_domain_generalization",
                   "photographs, real CLIP", "make photographs"),
        "real": ("P5.3 (real CLIP)", "08_real_clip", "real CLIP", "make photographs"),
        "asked": ("Leak (linear models)", "09_identifiability", "theory", "make questions"),
        "audited": ("Released code (animal world)", "11_released_code", "animal world",
                    "make questions"),
    }  # fmt: skip
    paths = []
    for page, (name, notebook, *_) in made.items():
        gain = pd.Series({"value": 1, "low": 0.5, "high": 2})
        table = pd.DataFrame([gain_claim(name, f"of {page}", gain) | located("Somewhere")])
        table.attrs = {"command": f"papermill {notebook}.ipynb out.ipynb"} if notebook else {}
        paths.append(tmp_path / f"{page}_claims.parquet")
        write_table(table, paths[-1])
    rows = read_claims(paths)
    told = rows.set_index("page")[["measured on", "command"]].T.to_dict("list")
    assert told == {page: list(one[2:]) for page, one in made.items()}
    shown = verdict_table(rows).data
    assert all(f"<td><code>{one[3]}</code></td>" in shown for one in made.values())
    assert "measured on" not in verdict_table(rows[rows.columns.drop("page")]).data


def test_a_map_shows_how_far_points_are_beyond_their_threshold():
    gain = pd.Series({"value": -21.8, "low": -25.0, "high": -18.0})
    far = gain_claim("Control", "own bases are far below", gain, below=-20.0)
    assert [far[key] for key in ("value", "low", "high")] == pytest.approx([1.8, -2.0, 5.0])
    assert far["verdict"] == "not shown"
    above = gain_claim("Gain", "at least a point", gain + 25, above=1.0)
    assert [above[key] for key in ("value", "low", "high")] == pytest.approx([2.2, -1.0, 6.0])
