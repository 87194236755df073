"""The answer of a page in words, computed from its results."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from IPython.display import Markdown

from icm_study.experiments.reading import Results, by_worst_case
from icm_study.report.claims import gains_over_plain, learnt_from, side, variant_claims
from icm_study.report.finding import Finding, verdicts_of
from icm_study.report.penalties import CHOSEN, PENALTY_CHOSEN, alike
from icm_study.report.style import said
from icm_study.report.words import answer, came_out, points, redrawn


def domain_generalization_answer(results: Results) -> Markdown:
    """Say what CLIP-ICM gains in the world that is judged, over what, and with which reason."""
    gains = gains_over_plain(results)
    shift = gains["condition"].iloc[0]
    means = results.judged().chosen_by(results.choice).of(condition=shift).means()
    has = means.set_index(["method", "predictor"])["value"]
    told = []
    for predictor, part in gains.groupby("predictor", sort=False):
        chosen, auto = (points(row) for _, row in part.iterrows())
        penalty = str(part["penalty"].iloc[0])
        plain = has[PENALTY_CHOSEN["plain"] if penalty == CHOSEN else "plain", predictor]
        of = ", ".join(filter(None, [str(predictor), penalty]))
        told.append(f"{of}, at {plain:.1f} % without, by {auto} and {chosen} points")
    text = (
        f"CLIP-ICM changes accuracy, {said(shift)}, with λ = 1 and K from the spectrum, and with "
        f"both chosen on source images: {'; '.join(told)}."
    )
    reason = redrawn(results)
    return answer(text + (f" Of the domain, {reason} are re-drawn." if reason else ""))


def variants_answer(results: Results) -> Markdown:
    """Say what CLIP-ICM gains on each variant, and how many comparisons it wins."""
    verdicts = variant_claims(results)["verdict"].value_counts()
    kind, told = results.kinds[-1], []
    for predictor in results.table["predictor"].unique():
        shifted = results.of(condition=results.shifts)
        pair = alike(shifted, side(f"ICM auto {kind}", predictor), side("plain", predictor))
        gains = shifted.gain(pair.ours, pair.theirs)
        listed = ", ".join(
            f"{row.value:+z.1f} ({said(row.condition)})" for row in gains.itertuples()
        )
        told.append(f"{predictor}{pair.said}: {listed}")
    return answer(
        f"Points that *ICM auto {kind}* gains over the plain predictor: {'; '.join(told)}. With "
        f"*ICM {kind}*, whose K and λ are chosen, {verdicts.get('supported', 0)} of "
        f"{verdicts.sum()} comparisons are wins by their intervals, "
        f"{verdicts.get('refuted', 0)} losses."
    )


def comparison_answer(results: Results) -> Markdown:
    """Say which methods do best where they do worst, and what the projection has over rivals."""
    honest = results.chosen_by(results.choice)
    worst = by_worst_case(honest.means())
    best = "; ".join(
        f"{row.predictor} by *{row.method}* ({row.value:.1f} %)"
        for row in worst.groupby("predictor", sort=False).head(1).itertuples()
    )
    text = f"Where methods do worst, the best are {best}."
    kind = learnt_from(honest.table["method"])
    rivals = worst[(worst["predictor"] == "linear probe") & ~worst["method"].str.contains("ICM")]
    ours = honest.side_of(f"ICM auto {kind}", "linear probe") if kind else None
    if ours is None or rivals.empty:
        return answer(text)
    told = []
    for method, predictor, name in (
        ("plain", "linear probe", "the plain probe"),
        (rivals["method"].iloc[0], "linear probe", f"the best rival, *{rivals['method'].iloc[0]}*"),
        ("plain", "zero-shot", "plain zero-shot"),
    ):
        if theirs := honest.side_of(method, predictor):
            last = honest.of(condition=honest.shifts[-1])
            pair = alike(last, ours, theirs)
            gain = last.gain(pair.ours, pair.theirs)
            how = f" ({pair.penalty})" if predictor == "linear probe" else ""
            told.append(f"{points(gain.iloc[0])} points over {name}{how}")
    return answer(
        f"{text} The probe behind *ICM auto {kind}*, {said(honest.shifts[-1])}, has "
        f"{', '.join(told)}."
    )


def choosing_answer(results: Results, gained: pd.DataFrame) -> Markdown:
    """Say whether the judged way of choosing is better than the other honest ones.

    Parameters
    ----------
    results : Results
    gained : DataFrame
        As :func:`~icm_study.report.comparison.gains_of_choosing` gives it.
    """
    if gained.empty or gained["low"].isna().all():
        return Markdown("")
    honest = gained[~gained["ways"].str.endswith("target")]
    helped, hurt = int((honest["low"] > 0).sum()), int((honest["high"] < 0).sum())
    best = honest.iloc[honest["value"].argmax()]
    use = (
        "So choose by it where no rule is built in."
        if helped and not hurt
        else "So no honest way can be recommended over the others here."
    )
    return came_out(
        f"Of {len(honest)} comparisons with the other honest ways, “{results.choice}” chooses "
        f"better settings in {helped} and worse in {hurt}. The largest difference is "
        f"{points(best)} points ({best['predictor']}, {said(best['condition'])}). {use}"
    )


def gains_answer(gains: pd.DataFrame) -> str:
    """Count where gains are above zero, below it, and where neither can be told."""
    known = gains[gains["low"].notna()]
    won, lost = int((known["low"] > 0).sum()), int((known["high"] < 0).sum())
    return (
        f"Over all runs, CLIP-ICM beats the plain predictor in {won} of {len(known)} comparisons "
        f"and loses in {lost}."
    )


def theory_answer(findings: Mapping[str, Finding]) -> Markdown:
    """Say which objective finds the invariant subspace, and how many claims hold."""
    return answer(f"{findings['methods'].words} {count_verdicts(verdicts_of(findings))}")


def real_clip_answer(findings: Mapping[str, Finding]) -> Markdown:
    """Say what came out of the questions to real CLIPs, without the controls."""
    rows = pd.concat([pd.DataFrame(finding.claims) for finding in findings.values()])
    measured = rows.set_index("statement")["measured"].str.replace(
        r"( \(|, exact).*", "", regex=True
    )

    def listed(words: str) -> str:
        return " and ".join(measured[measured.index.str.contains(words, regex=True)])

    over = "ICM over plain, images to captions"
    gain, lost = (rows.loc[rows["statement"] == one, "measured"].iloc[0]
                  for one in (over, f"{over}, recall@1"))  # fmt: skip
    return answer(
        f"A linear map between two text towers explains R² = {listed('explains new names')} of new "
        f"names and finds {listed('finds a new name')} of them. Their texts span "
        f"{listed('span all directions')} directions. From images to captions ICM changes the "
        f"probe by {gain}, and retrieval by {lost}."
    )


def questions_answer(findings: Mapping[str, Finding], sections: Mapping[str, str]) -> Markdown:
    """List what came out of each question, under the heading of its section."""
    lines = [f"- **{sections[name]}** {finding.words}" for name, finding in findings.items()]
    return Markdown("\n".join(["**The answers of this run.**", "", *lines]))


def ablation_answer(verdicts: pd.DataFrame) -> Markdown:
    """Say which choices in the method matter, from the verdicts on them."""
    where = verdicts["statement"].iloc[0].split(": ", 1)[0]
    short = verdicts["statement"].str.split(": ", n=1).str[1]
    told = [f"{len(verdicts)} choices are judged by the {where}."]
    for verdict in ("supported", "refuted"):
        rows = verdicts.assign(short=short)[verdicts["verdict"] == verdict]
        listed = "; ".join(f"{row.short}, {row.measured}" for row in rows.itertuples()) or "none"
        told.append(f"{verdict.capitalize()}: {listed}.")
    told.append(f"Not shown: {int((verdicts['verdict'] == 'not shown').sum())}.")
    return answer(" ".join(told))


def count_verdicts(verdicts: pd.DataFrame) -> str:
    """Count verdicts, and name the topics of the claims that are not supported."""
    n_supported = int((verdicts["verdict"] == "supported").sum())
    lines = [f"Of {len(verdicts)} claims, {n_supported} are supported."]
    for verdict in ("refuted", "not shown"):
        topics = verdicts.loc[verdicts["verdict"] == verdict, "claim"]
        told = ", ".join(dict.fromkeys(topics))
        lines += [f"{verdict.capitalize()}: {len(topics)} ({told})."] if told else []
    return " ".join(lines)
