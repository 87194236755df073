"""Does CLIP-ICM help here: three answers, and one interval for each gain."""

import json

import numpy as np
import pandas as pd
import pytest

from icm_study.experiments.clusters import pack_groups
from icm_study.experiments.intervals import pack
from icm_study.experiments.reading import Results
from icm_study.methods.registry import METHODS
from icm_study.report.advice import ANSWERS, advise, domain_sizes, gains_over_plain_probe
from icm_study.report.sections import rivals_came_out

SHARES = {"plain": 0.0, "augmentation": 0.0, "ICM image": 0.0, "ICM auto image": -0.4}


def outcomes(n=400, target="a", plain=0.5, zero_shot=0.1, **better):
    """Results on one target; each method is right wherever a worse one is.

    In `better`, by how much a method is better than the plain probe; a space is a _.
    """
    shares = SHARES | {name.replace("_", " "): gain for name, gain in better.items()}
    rows = [
        {"predictor": "linear probe", "method": name, "share": plain + gain}
        for name, gain in shares.items()
    ]
    rows.append({"predictor": "zero-shot", "method": "plain", "share": zero_shot})
    table = pd.DataFrame(rows)
    chosen = table["method"].str.contains("augmentation|ICM image|tuned")
    chosen &= ~table["method"].isin(["ICM auto image"])
    columns = {"world": "w", "condition": "unseen", "target": target, "seed": 0, "n": n, "K": 8}
    return table.assign(
        **columns,
        choice=np.where(chosen, "intervened", "none"),
        consistency_weight=1.0,
        setting=json.dumps({"intervention": "image"}),
        family=table["method"].map(lambda name: METHODS[name].family),
        value=100 * table["share"],
        correct=[pack(np.arange(n) < round(share * n)) for share in table["share"]],
    )


def results(*tables):
    table = pd.concat(tables, ignore_index=True)
    table.attrs = {
        "testbed": {"over": "images", "world": "w"},
        "parameters": {"encoder": "e", "choices": ["intervened"]},
    }
    return Results(table)


@pytest.mark.parametrize(
    ("gain", "n", "verdict"),
    [
        (0.4, 400, "helps"),
        (-0.3, 400, "does not pay"),
        (0.005, 400, "cannot be told"),
        (0.0, 4000, "does not pay"),
        (0.005, 40000, "does not pay"),  # a gain beyond doubt, but not worth a point
        (0.02, 40000, "helps"),
    ],
)
def test_three_answers(gain, n, verdict):
    advice = advise(results(outcomes(n=n, ICM_image=gain)))
    assert advice.verdict == verdict
    assert advice.answer.startswith(ANSWERS[verdict].split("{")[0])
    assert advice.gain == pytest.approx(100 * gain)
    assert advice.low < advice.gain < advice.high
    assert (advice.method, advice.intervention) == ("ICM image", "image")
    assert (advice.n_components, advice.consistency_weight) == (8, 1.0)


def test_how_much_is_worth_the_trouble_is_for_the_reader_to_say():
    runs = results(outcomes(n=40000, ICM_image=0.005))
    assert [advise(runs, worth=worth).verdict for worth in (0.1, 1)] == ["helps", "does not pay"]


def test_what_does_not_pay_says_how_much_it_can_gain_at_most():
    runs = results(outcomes(n=4000))
    gains = gains_over_plain_probe(runs)
    ways = gains[gains["method"].str.startswith("ICM")]
    assert f"at most {ways['high'].max():+.1f} points" in advise(runs).answer


def test_one_gain_has_one_interval_that_holds_for_all_at_once():
    runs = results(outcomes(ICM_image=0.05))
    gains, advice = gains_over_plain_probe(runs), advise(runs)
    assert set(gains["name"]) == {
        "augmentation, probe", "ICM image, probe", "ICM auto image, probe", "plain, zero-shot",
    }  # fmt: skip
    row = gains.set_index("method").loc["ICM image"]
    assert (advice.gain, advice.low, advice.high) == (row["value"], row["low"], row["high"])
    ours, plain = runs.side_of("ICM image", "linear probe"), runs.side_of("plain", "linear probe")
    expected = runs.gain(ours, plain, level=1 - 0.05 / 4).iloc[0]
    assert (row["low"], row["high"]) == (expected["low"], expected["high"])


@pytest.mark.parametrize(
    ("better", "best"),
    [
        ({"ICM_image": 0.1}, "ICM image, probe"),
        ({"ICM_image": 0.1, "augmentation": 0.2}, "augmentation, probe"),
        ({"ICM_image": 0.1, "tuned_penalty": 0.2}, "tuned penalty, probe"),
        ({"ICM_image": 0.1, "zero_shot": 0.9}, "plain, zero-shot"),
        ({"ICM_image": -0.1, "augmentation": -0.1}, "plain, probe"),
    ],
)
def test_the_best_of_all_is_named(better, best):
    assert advise(results(outcomes(**better))).best == best


TUNED = "tuned penalty, ICM image", "tuned penalty, chosen ICM image"


@pytest.mark.parametrize("gain", [0.2, -0.2])
def test_advice_is_on_chosen_penalties_where_there_are_such_probes(gain):
    """With the fixed one the answer would be the other."""
    better = {"tuned penalty": 0.1, **dict.fromkeys(TUNED, 0.1 + gain), "augmentation": 0.1}
    better |= {"ICM image": -gain, "ICM auto image": -gain}
    runs = results(outcomes(n=4000, plain=0.4, **better))
    gains, advice = gains_over_plain_probe(runs), advise(runs)
    assert advice.verdict == ("helps" if gain > 0 else "does not pay")
    assert advice.gain == pytest.approx(100 * gain)
    assert advice.method in TUNED
    assert "penalty chosen" in advice.summary(1.0)
    assert set(gains["name"]) == {
        *(f"{name}, probe" for name in (*TUNED, "augmentation", "plain")), "plain, zero-shot",
    }  # fmt: skip
    assert advice.best in (
        {f"{name}, probe" for name in TUNED} if gain > 0 else {"tuned penalty, probe"}
    )


def test_a_chosen_penalty_on_one_side_alone_is_no_ground_for_advice():
    runs = results(outcomes(tuned_penalty=-0.4, ICM_image=-0.1))
    assert advise(runs).gain == pytest.approx(-10)
    assert "penalty fixed at C = 0.316" in advise(runs).summary(1.0)


def test_a_domain_too_small_to_say_anything():
    """Two domains without any difference, and one picture that turned from wrong to right."""
    alike = [outcomes(target=target) for target in "ab"]
    assert advise(results(*alike)).verdict == "does not pay"
    one = outcomes(target="one picture", n=1, plain=0, zero_shot=0, ICM_image=1, ICM_auto_image=0)
    advice = advise(results(*alike, one))
    assert advice.verdict == "cannot be told"
    assert advice.answer.endswith("too few images to say anything: one picture.")
    assert advice.low < 0 < advice.high
    # not even where all others leave no doubt
    sure = [outcomes(target=target, ICM_image=0.5) for target in "ab"]
    assert advise(results(*sure)).verdict == "helps"
    assert advise(results(*sure, one)).verdict == "cannot be told"


def test_a_domain_of_few_groups_says_little_however_many_images_it_has():
    sure = results(*(outcomes(target=target, ICM_image=0.5) for target in "ab"))
    assert advise(sure).verdict == "helps"
    assert domain_sizes(sure).to_dict("list") == {"target": ["a", "b"], "images": [400, 400]}

    def grouped(n):
        members = pack_groups(np.arange(400) % n)
        table = sure.table.assign(group=members)
        over = {"testbed": sure.record["testbed"] | {"over": "groups"}}
        return Results(table, sure.record | over)

    assert advise(grouped(100)).verdict == "helps"
    advice = advise(grouped(2))
    assert advice.verdict == "cannot be told"
    assert advice.answer.endswith("too few groups to say anything: a, b.")
    assert domain_sizes(grouped(2))["groups"].tolist() == [2, 2]


def test_advice_names_a_pair_that_was_chosen():
    runs = results(
        *(
            outcomes(ICM_image=0.4, target=target).assign(K=k, consistency_weight=weight)
            for target, k, weight in (
                ("a", 8, 0.3),
                ("b", 32, 1.0),
                ("c", 32, 1.0),
                ("d", 16, 10.0),
            )
        )
    )
    advice = advise(runs)
    assert (advice.n_components, advice.consistency_weight) == (32, 1.0)


def test_advice_never_takes_what_was_tuned_on_the_target():
    honest = outcomes(ICM_image=-0.1)
    tuned = outcomes(ICM_image=0.49).query("method == 'ICM image'").assign(choice="target")
    runs = results(honest, tuned)
    assert advise(runs).gain == pytest.approx(-10)
    assert set(gains_over_plain_probe(runs)["choice"]) == {"none", "intervened"}


def test_a_comparison_without_clip_icm_or_without_rivals_says_so():
    for method in ("plain", "ICM image"):
        table = outcomes()
        alone = results(table[table["method"] == method])
        assert "none of them is compared" in rivals_came_out(alone).data
    assert "CLIP-ICM wins" in rivals_came_out(results(outcomes())).data


def test_advice_needs_a_probe_of_clip_icm():
    with pytest.raises(ValueError, match="no linear probe of CLIP-ICM"):
        advise(results(outcomes().query("method == 'plain'")))
