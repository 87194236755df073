"""What the sections of a page say of its own run: how it was made, and what came out of each."""

from __future__ import annotations

import json

import pandas as pd
from IPython.display import Markdown

from icm_study.experiments.choosing import CHOICES
from icm_study.experiments.reading import Results, quantity
from icm_study.report.claims import gains_over_rivals, side
from icm_study.report.penalties import PENALTY_CHOSEN, alike
from icm_study.report.style import said
from icm_study.report.tables import readable
from icm_study.report.words import came_out, points


def how(results: Results) -> Markdown:
    """Say how a run was made: what is left out, how settings are chosen, what pairs there are."""
    left_out = {
        "leave-one-domain-out": "Each domain is the target once.",
        "domain shift with open classes": (
            "Each domain is the target once, and half of the classes are seen at the test only, so "
            "zero-shot alone can name them."
        ),
        "open class": (
            "No domain is left out; half of the classes are seen at the test only, so zero-shot "
            "alone can name them."
        ),
    }
    lines = [
        left_out.get(results.table["protocol"].iloc[0], ""),
        f"$K$ and $\\lambda$ are chosen on {CHOICES[results.choice].note}; no image of the target "
        "is looked at.",
    ]
    if "target" in set(results.table["choice"]):
        lines.append(
            "“By target” did look: it is what the grid could reach at most on the unseen domain, "
            "not a method."
        )
    kinds = results.kinds
    if any("image" in kind for kind in kinds):
        named = results.record["parameters"].get("interventions")
        of = f"one of {', '.join(named)}" if named else "one of the paper's seven augmentations"
        lines.append(f"An *image* intervention is {of}.")
    if any("text" in kind for kind in kinds):
        lines.append(
            "A *text* intervention edits the variant words of a caption. Words may name the "
            "target's style, in prompts and in edits, as anyone can without seeing an image."
        )
    if has_oracle(results):
        lines.append("The *oracle* renders the same animal with every variant factor drawn anew.")
    return Markdown(" ".join(filter(None, lines)))


def has_oracle(results: Results) -> bool:
    """Say whether a simulator made pairs."""
    return bool(results.table["method"].str.contains("oracle").any())


def examples_caption(results: Results, is_shown: bool) -> Markdown:
    """Caption the example images, if there are any."""
    if not is_shown:
        return Markdown("The images are not at hand where earlier tables are shown.")
    tested = {
        "leave-one-domain-out": "; test animals without the shortcut and with it reversed",
        "domain shift with open classes": "; test animals without the shortcut",
    }
    tests = tested.get(results.table["protocol"].iloc[0], "") * has_oracle(results)
    return Markdown(
        "*Examples. First row: the sources as they are. Below: the same images after an "
        f"intervention{tests}.*"
    )


def redrawn_came_out(results: Results) -> Markdown:
    """Say which share of the domain and of the class each kind of pair re-draws."""
    shares = quantity(results.record, "share").reindex(["domain", "class"]).dropna(axis=1)
    if shares.empty:
        return came_out("Neither domain nor class can be read.")
    domain, readout = (
        ", ".join(f"{kind} pairs {100 * share:.0f} %" for kind, share in row.items())
        for _, row in shares.iterrows()
    )
    return came_out(f"Re-drawn of the domain: {domain}; of the readout of the class: {readout}.")


def spectrum_came_out(results: Results) -> Markdown:
    """Say how many eigenvalues are positive at λ = 1."""
    counts = quantity(results.record, "positive eigenvalues")
    at = next((value for value in counts.index if float(value) == 1), counts.index[0])
    listed = ", ".join(f"{n:.0f} by {kind} pairs" for kind, n in counts.loc[at].items())
    return came_out(f"At $\\lambda$ = {at}, the number of positive eigenvalues is {listed}.")


def accuracy_came_out(results: Results) -> Markdown:
    """Name the best method of each predictor under the last shift, beside the plain one."""
    shift = results.shifts[-1]
    means = results.of(condition=shift).means()
    honest = means[means["choice"] != "target"]
    told = []
    for predictor, part in honest.groupby("predictor", sort=False):
        ordered = readable(part).sort_values("value", ascending=False)
        usable = ordered[~ordered["method"].str.contains("oracle")]
        plain = part.loc[part["method"] == "plain", "value"].iloc[0]
        best = usable.iloc[0]
        beside = "" if best["method"] == "plain" else f" (plain {plain:.1f} %)"
        told.append(f"{predictor}: {best['name']} {best['value']:.1f} %{beside}")
    return came_out(f"The best under “{said(shift)}”, oracle aside, {'; '.join(told)}.")


def targets_came_out(results: Results) -> Markdown:
    """Say how the gain of CLIP-ICM differs from target to target, under the first shift."""
    kind, shifted = results.kinds[-1], results.of(condition=results.shifts[0])
    told = []
    for predictor in results.table["predictor"].unique():
        one, other = side(f"ICM auto {kind}", predictor), side("plain", predictor)
        if not (shifted.has(one) and shifted.has(other)):
            continue
        one, other, penalty = alike(shifted, one, other)
        each = {
            target: shifted.of(target=target).gain(one, other)["value"].iloc[0]
            for target in shifted.table["target"].unique()
        }
        low, high = min(each, key=each.__getitem__), max(each, key=each.__getitem__)
        told.append(
            f"{predictor}{f' ({penalty})' if penalty else ''}: from {each[low]:+z.1f} ({low}) to "
            f"{each[high]:+z.1f} ({high}) points"
        )
    return came_out(
        f"Gain of *ICM auto {kind}* over the plain predictor by target, {'; '.join(told)}."
        if told
        else "*ICM auto* was not run beside the plain predictor."
    )


def rivals_came_out(results: Results, redrawn: str = "") -> Markdown:
    """Count what CLIP-ICM wins and loses against its rivals, with what its pairs re-draw.

    Parameters
    ----------
    results : Results
    redrawn : str
        The share of the domain in words, see
        :func:`~icm_study.report.words.redrawn`.
    """
    gains = gains_over_rivals(results)
    if not len(gains):
        return came_out("CLIP-ICM or its rivals were not run, so none of them is compared here.")
    own = gains[~gains["method"].str.contains("oracle") & gains["low"].notna() & gains["judged"]]
    won, lost = int((own["low"] > 0).sum()), int((own["high"] < 0).sum())
    text = (
        f"Oracle aside, penalties alike, CLIP-ICM wins {won} of {len(own)} comparisons and loses "
        f"{lost}."
    )
    if len(own):
        best = own.iloc[int(own["value"].argmax())]
        what = "Largest gain" if best["value"] > 0 else "Smallest loss"
        text += (
            f" {what}: {points(best)} points ({best['predictor']}, *{best['method']}* over "
            f"*{best['rival']}*, {said(best['condition'])})."
        )
    return came_out(text + (f" Re-drawn of the domain: {redrawn}." if redrawn else ""))


def chosen_came_out(results: Results) -> Markdown:
    """Say which K, λ and penalties were chosen for the most complete interventions."""
    kind = results.kinds[-1]
    rows = results.of(method=[f"ICM {kind}", f"ICM auto {kind}"], condition=results.shifts[0])
    medians = rows.table.groupby(["method", "predictor"], sort=False)[["K", "consistency_weight"]]
    of_method: dict[str, list[str]] = {}
    for method, predictor, K, weight in medians.median().reset_index().to_numpy():
        of_method.setdefault(method, []).append(f"{predictor} {K:g} and {weight:g}")
    told = "; ".join(f"*{method}*: {', '.join(has)}" for method, has in of_method.items())
    text = f"Medians of $K$ and $\\lambda$: {told}."
    plain = {PENALTY_CHOSEN[name]: name for name in ("plain", f"ICM auto {kind}", f"ICM {kind}")}
    rows = results.of(method=list(plain), choice=results.choice, condition=results.shifts[0])
    if len(rows.table):
        penalties = rows.table["setting"].map(json.loads).map(lambda setting: setting["C"])
        chosen = penalties.groupby(rows.table["method"].map(plain), sort=False).median()
        listed = ", ".join(f"*{method}* {C:g}" for method, C in chosen.items())
        text += f" $C$: {listed}."
    return came_out(text)


def verdicts_came_out(verdicts: pd.DataFrame) -> Markdown:
    """Count the verdicts of a page."""
    counts = verdicts["verdict"].value_counts()
    listed = ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
    return came_out(f"Of {len(verdicts)} claims: {listed}.")
