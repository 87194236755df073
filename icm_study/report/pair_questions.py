"""What came out of the questions on pairs: those of photographs, in tuning, and both kinds."""

from __future__ import annotations

import pandas as pd

from icm_study.experiments import combination, left_out_domains, tuned_towers
from icm_study.experiments.intervals import mean_interval
from icm_study.experiments.redrawing import CLASS_PAIRS, SEVEN
from icm_study.report.finding import Finding
from icm_study.report.gains import by_method, gain_claim, gains_over, method_means
from icm_study.report.style import said
from icm_study.report.tables import percent
from icm_study.report.words import points


def photographs(runs: pd.DataFrame) -> Finding:
    """Say which pairs re-draw the domain, and whether any makes the probe carry over."""
    shares = mean_interval(
        runs[runs["quantity"] == "share"], ["kind", "factor"], "share"
    ).set_index(["kind", "factor"])["mean"]
    accuracy = runs[runs["quantity"] == "accuracy"]
    gains = gains_over(accuracy, left_out_domains.PLAIN, ["choice"], over="images")
    gains = gains.assign(series="by " + gains["choice"], panel="Gain over the plain probe")
    honest = gains[gains["choice"] == left_out_domains.HONEST].set_index("method")
    control = honest[honest.index == "ICM, pairs of any classes"].iloc[0]
    rivals = honest.drop(index=["ICM, pairs of any classes"])
    best = rivals.sort_values("value").iloc[-1]
    n = int((rivals["low"] > 0).sum())
    gains.attrs["title"] = (
        f"Chosen on the sources, the control aside: {n} of {len(rivals)} ways gain on the unseen "
        "domain"
    )
    return Finding(
        gains,
        f"The seven interventions re-draw {percent(shares[SEVEN, 'domain'])} of the domain, class "
        f"pairs {percent(shares[CLASS_PAIRS, 'domain'])} and "
        f"{percent(shares[CLASS_PAIRS, 'class'])} of the class; "
        f"chosen on the sources, the best way ({best.name}) gains {points(best)} points.",
        [
            gain_claim("Photographs (PACS)", f"{row.name} over the plain probe", row)
            for _, row in rivals.iterrows()
        ]
        + [
            gain_claim(
                "Control (PACS)",
                "ICM with pairs of any classes gains less than a point over the plain probe",
                control,
                below=1.0,
            )
        ],
    )


def tuning(runs: pd.DataFrame) -> Finding:
    """Say where the projection belongs when a tower is tuned."""
    summary = method_means(runs, "condition", "predictor")
    summary = summary.rename(columns={"condition": "series", "predictor": "panel"})
    summary = summary.assign(series=summary["series"].map(said))
    probe = runs[runs["predictor"] == "linear probe"]
    gains = by_method(probe, tuned_towers.TUNED, "unseen")
    when = {
        "before": tuned_towers.BEFORE,
        "after": tuned_towers.AFTER,
        "during": tuned_towers.DURING.format(tuned_towers.PENALTIES[0]),
    }
    told = [f"{points(gains[name])} {at}" for at, name in when.items()]
    n = sum(gains[name]["low"] > 0 for name in when.values())
    alone = gains[tuned_towers.ALONE]
    shuffled = gains[tuned_towers.CONTROL]
    summary.attrs["title"] = (
        f"Before, after or during LoRA: {n} of 3 are shown to help the probe; the control during "
        f"it {'too' if shuffled['low'] > 0 else 'is not'}"
    )
    zero_shot = runs[runs["predictor"] == "zero-shot"]
    during = by_method(zero_shot, tuned_towers.CONTROL, "unseen")
    strongest = tuned_towers.DURING.format(tuned_towers.PENALTIES[-1])
    return Finding(
        summary,
        "On unseen styles the probe gains over LoRA alone, in points, "
        f"{', '.join(told)} LoRA (penalty {tuned_towers.PENALTIES[0]:g}), "
        f"{points(shuffled)} during it with shuffled pairs, {points(alone)} without LoRA.",
        [
            gain_claim(
                "Fine-tuning (animal world)",
                f"ICM {at} LoRA over LoRA, linear probe, unseen",
                gains[name],
            )
            for at, name in when.items()
        ]
        + [
            gain_claim(
                "Fine-tuning (animal world)",
                "ICM without tuning over LoRA, linear probe, unseen",
                alone,
            ),
            gain_claim(
                "Control (animal world)",
                "own pairs are better than shuffled ones in the penalty, zero-shot",
                during[strongest],
            ),
        ],
    )


def together(runs: pd.DataFrame) -> Finding:
    """Say whether both kinds of pairs do better than one."""
    shifted = runs[runs["condition"].isin(["unseen", "reversed"])]
    summary = shifted.assign(
        panel="Both over " + shifted["alone"] + " alone",
        series=shifted["condition"].map(said),
        method=shifted["predictor"] + ", " + shifted["way"],
    )
    above, below = int((shifted["low"] > 0).sum()), int((shifted["high"] < 0).sum())
    probed = shifted[(shifted["predictor"] == "linear probe") & (shifted["condition"] == "unseen")]
    ruled = probed[probed["way"] == "held-out rule"]
    text, image = (ruled[ruled["alone"] == kind].iloc[0] for kind in ("text", "image"))
    summary.attrs["title"] = (
        f"Both kinds beat one alone in {above} of {len(shifted)} comparisons and are beaten in "
        f"{below}"
    )
    return Finding(
        summary,
        f"Of {len(shifted)} comparisons under shift, both win {above} and lose {below}; by the "
        f"held-out rule the probe has {points(image)} points over image pairs and {points(text)} "
        "over text pairs.",
        [
            gain_claim(
                "Combination (animal world)",
                f"image+text over {row['alone']} alone, "
                f"{row['predictor']}, unseen domain, {row['way']}",
                row,
            )
            for _, row in shifted[shifted["condition"] == "unseen"].iterrows()
            if row["way"] in combination.JUDGED
        ],
    )
