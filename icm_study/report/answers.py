"""The answer of a page in words, computed from its results."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from IPython.display import Markdown

from icm_study.experiments.choosing import NOT_CHOSEN
from icm_study.experiments.reading import Results, by_worst_case
from icm_study.report.claims import learnt_from, variant_claims, ways
from icm_study.report.finding import Finding, verdicts_of
from icm_study.report.style import said

ANSWER = "**The answer of this run.** "


def domain_generalization_answer(results: Results) -> Markdown:
    """Say what CLIP-ICM gains, and what the rivals have, in the world that is judged."""
    judged = results.judged()
    has_probe = "linear probe" in set(judged.table["predictor"])
    lines = [
        f"Plain zero-shot, which learns nothing from the sources, has {_of(judged, 'zero-shot')}: "
        "where prompts name the classes well, it is the rival to beat."
    ]
    for predictor in ["linear probe", "zero-shot"] if has_probe else ["zero-shot"]:
        lines += _icm_lines(judged, predictor)
    return Markdown(ANSWER + " ".join(lines))


def variants_answer(results: Results) -> Markdown:
    """Say what CLIP-ICM gains on each variant, and how many comparisons it wins."""
    verdicts = variant_claims(results)["verdict"].value_counts()
    lines = [
        line
        for predictor in results.table["predictor"].unique()
        for line in _icm_lines(results, predictor)
    ]
    lines.append(
        f"Of {verdicts.sum()} comparisons with the plain predictors, "
        f"{verdicts.get('supported', 0)} are supported and {verdicts.get('refuted', 0)} refuted."
    )
    return Markdown(ANSWER + " ".join(lines))


def _icm_lines(results: Results, predictor: str) -> list[str]:
    """Put the plain predictor and CLIP-ICM, by both ways to have K and λ, into words."""
    kind = results.kinds[-1]
    lines = [f"The plain {predictor} has {_of(results, predictor)}."]
    for how, (method, choice) in ways(results.choice).items():
        accuracy = _of(results, predictor, f"{method} {kind}", choice)
        pairs = kind.replace("+", " and ")
        lines.append(f"With ICM ({pairs} interventions; {how}) it has {accuracy}.")
    return lines


def _of(results: Results, predictor: str, method: str = "plain", choice: str = NOT_CHOSEN) -> str:
    """Put the accuracies of one method into words, condition by condition."""
    rows = results.of(method=method, predictor=predictor, choice=choice)
    value = rows.means().set_index("condition")["value"]
    return ", ".join(f"{value[name]:.0f} % ({said(name)})" for name in results.conditions)


def comparison_answer(results: Results) -> Markdown:
    """Say which methods do best where they do worst, and when the projection pays."""
    honest = results.chosen_by(results.choice)
    worst = by_worst_case(honest.means())
    best = worst.groupby("predictor", sort=False).head(3)
    told = [
        f"{row.predictor} by *{row.method}* ({row.value:.1f} % where it does worst, "
        f"{said(row.condition)})"
        for row in best.itertuples()
    ]
    text = "By the accuracy where a method does worst, the best are: " + "; ".join(told) + "."
    kind = learnt_from(honest.table["method"])
    rivals = worst[(worst["predictor"] == "linear probe") & ~worst["method"].str.contains("ICM")]
    if kind is None or rivals.empty:
        return Markdown(ANSWER + text)
    for name in (f"ICM auto {kind}", f"ICM {kind}"):
        ours = honest.side_of(name, "linear probe")
        if ours is None:
            continue
        for method, predictor in (
            ("plain", "linear probe"),
            (rivals["method"].iloc[0], "linear probe"),
            ("plain", "zero-shot"),
        ):
            theirs = honest.side_of(method, predictor)
            if theirs:
                gain = honest.of(condition=honest.shifts).gain(ours, theirs)
                text += f" The probe behind *{name}* over *{method}*, {predictor}: {_points(gain)}."
    return Markdown(ANSWER + text)


def _points(gain: pd.DataFrame) -> str:
    return ", ".join(
        f"{row.value:+.1f} points ({row.low:+.1f} to {row.high:+.1f}; {said(row.condition)})"
        for row in gain.itertuples()
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
        f"So choose by “{results.choice}”, where a method has no rule of its own."
        if helped and not hurt
        else "So none of the honest ways can be recommended over the others here."
    )
    return Markdown(
        f"**Which to use.** Of {len(honest)} comparisons with the other honest ways, "
        f"“{results.choice}” chooses better settings in {helped} and worse ones in {hurt}; the "
        f"rest show no difference. The largest gain is {best['value']:+.1f} points "
        f"({best['low']:+.1f} to {best['high']:+.1f}; {best['predictor']}, "
        f"{said(best['condition'])}, {best['ways']}). {use}"
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
    """Say which objective finds the invariant subspace, and which claims do not hold."""
    lines = [
        "How far is each way to estimate the invariant subspace from the true one? "
        + findings["methods"].words,
        count_verdicts(verdicts_of(findings)),
    ]
    return Markdown(ANSWER + " ".join(lines))


def real_clip_answer(findings: Mapping[str, Finding]) -> Markdown:
    """Say what was claimed of real CLIPs, and what came out, without the controls."""
    judged = ("P5.3", "C5.2", "ICM over plain")
    lines = [
        f"{row['statement']} — {row['measured']}, {row['verdict']}"
        for finding in findings.values()
        for row in finding.claims
        if any(one in row["claim"] + row["statement"] for one in judged)
        and "shuffled" not in row["statement"]
    ]
    return Markdown(f"{ANSWER}What is claimed of real CLIPs: {'; '.join(lines)}.")


def questions_answer(findings: Mapping[str, Finding], sections: Mapping[str, str]) -> Markdown:
    """List what came out of each question, under the heading of its section."""
    lines = [f"- **{sections[name]}** {finding.words}" for name, finding in findings.items()]
    return Markdown("\n".join(["**The answers of this run.**", "", *lines]))


def ablation_answer(verdicts: pd.DataFrame) -> Markdown:
    """Say which choices in the method matter, from the verdicts on them."""
    where, _ = verdicts["statement"].iloc[0].split(": ", 1)
    lines = [
        f"{statement.split(': ', 1)[1]} — {measured}, {verdict}"
        for statement, measured, verdict in verdicts[
            ["statement", "measured", "verdict"]
        ].to_numpy()
    ]
    return Markdown(f"{ANSWER}For the {where}, what was claimed: {'; '.join(lines)}.")


def count_verdicts(verdicts: pd.DataFrame) -> str:
    """Count verdicts, and name the claims that are not supported."""
    n_supported = int((verdicts["verdict"] == "supported").sum())
    lines = [f"Of {len(verdicts)} claims, {n_supported} are supported."]
    for verdict in ("refuted", "not shown"):
        rows = verdicts.loc[verdicts["verdict"] == verdict, ["statement", "measured"]].to_numpy()
        listed = "; ".join(f"“{statement}”: {measured}" for statement, measured in rows)
        lines += [f"{verdict.capitalize()}: {listed}."] if listed else []
    return " ".join(lines)
