"""What the front page and the page of all numbers say and count of all runs together."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from platform import python_version

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown
from matplotlib.figure import Figure

from icm_study.experiments.reading import Results, by_worst_case
from icm_study.experiments.record import read_table
from icm_study.report.answers import gains_answer
from icm_study.report.claims import gains_over_plain, side, ways
from icm_study.report.penalties import FIXED, PROBE, alike
from icm_study.report.style import INK, INVARIANT, PAPER, VARIANT, headline, said
from icm_study.report.verdicts import VERDICTS
from icm_study.report.words import (
    NOTES,
    answer,
    badges,
    came_out,
    limits,
    points,
    redrawn,
)

PACKAGES = ("numpy", "scipy", "scikit-learn", "pandas", "torch", "torchvision", "open_clip_torch")
PAPER_ENCODER = "ViT-B-16"
REAL_CLIP = "real-clip"  # the run of 08_real_clip


def gains_everywhere(runs: Sequence[Results]) -> pd.DataFrame:
    """Tabulate what CLIP-ICM gains in every run, from its most complete interventions.

    A world that several runs have counts once, as the first of them has it.

    Returns
    -------
    DataFrame
        The rows of :func:`~icm_study.report.claims.gains_over_plain`, with the columns run,
        redrawn (what the interventions re-draw of the domain, in words) and limits.
    """
    tables: dict[str, pd.DataFrame] = {}
    for results in runs:
        protocol = results.table["protocol"].iloc[0]
        name = f"{results.world}, {results.encoder}, {protocol}"
        if name not in tables:
            gains = gains_over_plain(results)
            limited = limits(results, is_recorded=results.over != "seeds")
            told = {"redrawn": redrawn(results), "limits": "; ".join(limited)}
            tables[name] = gains.assign(run=name, **told)
    return pd.concat(tables.values(), ignore_index=True)


def headline_figure(gains: pd.DataFrame) -> Figure:
    """Draw what CLIP-ICM gains over the plain predictor in every run, both ways to have K and λ.

    Parameters
    ----------
    gains : DataFrame
        As :func:`gains_everywhere` gives it.

    Returns
    -------
    matplotlib.figure.Figure
    """
    looks = dict(
        zip(gains["way"].unique(), ((VARIANT, "D", 0.2), (INVARIANT, "o", -0.06)), strict=True)
    )
    runs = gains.drop_duplicates("run")
    predictors = sorted(gains["predictor"].unique())
    figure, panels = plt.subplots(
        1, len(predictors), figsize=(7.8, 0.62 * len(runs) + 1.5), sharex=True, sharey=True,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for axes, predictor in zip(panels[0], predictors, strict=True):
        for way, (color, marker, shift) in looks.items():
            rows = gains[(gains["predictor"] == predictor) & (gains["way"] == way)]
            y = rows["run"].map({name: i for i, name in enumerate(runs["run"])}) + shift
            ends = rows[["low", "high"]].fillna({"low": rows["value"], "high": rows["value"]})
            axes.hlines(y, ends["low"], ends["high"], color=color, linewidth=1.8)
            axes.plot(rows["value"], y, marker, color=color, markersize=6, label=way)
            for place, value, (low, high) in zip(y, rows["value"], ends.to_numpy(), strict=True):
                is_below = high < 0  # its number stands to the left, clear of the zero line
                axes.text(
                    low - 0.8 if is_below else high + 0.8, place, f"{value:+z.1f}", color=color,
                    ha="right" if is_below else "left", va="center", fontsize=9,
                    bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.5},
                )  # fmt: skip
        axes.axvline(0, color=INK, linewidth=1)
        axes.set(xlabel="points gained", ylim=(len(runs) - 0.45, -0.75), yticks=[])
        axes.set_title(predictor, fontsize=11)
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
    panels[0, 0].set_zorder(1)  # what is said of a run goes over both panels, above its values
    left, right = gains[["value", "low"]].min().min(), gains[["value", "high"]].max().max()
    room = 0.14 * (right - left)
    panels[0, 0].set_xlim(left - room, right + room)
    for place, (_, row) in enumerate(runs.iterrows()):
        reason = f"; re-drawn of the domain: {row.redrawn}" if row.redrawn else ""
        is_fixed = FIXED in set(gains.loc[gains["run"] == row.run, "penalty"])
        reason += f"; {FIXED}" if is_fixed else ""
        told = panels[0, 0].text(
            0, place - 0.2, f"{row.run}\n{said(row.condition)} ({row.limits}){reason}",
            transform=panels[0, 0].get_yaxis_transform(), va="bottom", fontsize=8,
            linespacing=1.15, bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1},
        )  # fmt: skip
        told.set_in_layout(False)  # it may reach over the other panel
    known = gains[gains["low"].notna()]
    won, lost = int((known["low"] > 0).sum()), int((known["high"] < 0).sum())
    headline(
        figure,
        f"Gain over the plain predictor: above zero in {won} of {len(known)}, below in {lost}",
    )
    handles, ways_said = panels[0, 0].get_legend_handles_labels()
    figure.legend(
        handles[::-1], ways_said[::-1], loc="outside lower left", ncols=2, fontsize=9,
        columnspacing=1, handletextpad=0.2,
    )  # fmt: skip
    return figure


def answer_box(main: Results, gains: pd.DataFrame, claims: pd.DataFrame) -> Markdown:
    """Say in a box of some sixty words what was found, and what was not run.

    Parameters
    ----------
    main : Results
        The main run.
    gains : DataFrame
        What :func:`gains_everywhere` gives.
    claims : DataFrame
        What :func:`~icm_study.report.claims_map.read_claims` gives.
    """
    own = gains_over_plain(main)
    predictor = "linear probe" if "linear probe" in set(own["predictor"]) else "zero-shot"
    probe = own[own["predictor"] == predictor]
    chosen, auto = (points(probe[probe["way"] == way].iloc[0]) for way in ways(main.choice))
    how = probe["penalty"].iloc[0]
    text = (
        f"In the {main.record['testbed']['name'].replace('-', ' ')}, "
        f"{said(probe['condition'].iloc[0])}, CLIP-ICM's {predictor.split()[-1]} gains {auto} "
        f"points with λ = 1 "
        f"and K from the spectrum, {chosen} with both chosen on source images"
        f"{f' ({how})' if how else ''}. "
        f"{gains_answer(gains)}"
    )
    released = claims[claims["statement"].str.endswith("beats the released order")]
    if len(released):
        lead = points(released.iloc[0])
        text += f" Lead over the released code's order (ablations): {lead} points."
    if not any(PAPER_ENCODER in run for run in gains["run"]):
        text += " Not run: the paper's benchmarks with ViT-B/16."
    return answer(text)


def headline_caption(runs: Sequence[Results], gains: pd.DataFrame) -> Markdown:
    """Caption :func:`headline_figure`; say what names of worlds are, and a share of 100 %."""
    penalty = "each with its penalty chosen on the sources"
    if FIXED in set(gains["penalty"]):
        penalty += ", but where it is said otherwise"
    probed = gains.loc[gains["predictor"] == "linear probe", "run"]
    absent = " New classes have no probe." * (not set(gains["run"]) <= set(probed))
    is_animals = bool(runs[0].table["strength"].notna().any())
    worlds = f" “{runs[0].world}”: the shortcut and its ρ." * is_animals
    return Markdown(
        f"*Accuracy of CLIP-ICM less that of plain, {penalty}. 95 % intervals: over the "
        f"seeds ({runs[0].n_runs} in the first run) or images.{worlds}{absent} 100 % re-drawn: "
        "as by an independent draw.*"
    )


def headline_words(main: Results, gains: pd.DataFrame) -> Markdown:
    """Say what came out of :func:`headline_figure`, and how the probe stands to plain zero-shot."""
    shift, kind = main.shifts[-1], main.kinds[-1]
    last = main.judged().of(condition=shift)
    ours, zero = side(f"ICM auto {kind}", "linear probe"), side("plain", "zero-shot")
    if not (last.has(ours) and last.has(zero)):
        return came_out(gains_answer(gains))
    pair = alike(last, ours, zero)
    against = last.gain(pair.ours, pair.theirs)
    return came_out(
        f"{gains_answer(gains)} In the first run the probe behind *ICM auto* differs from plain "
        f"zero-shot, which learns nothing, by {points(against.iloc[0])} points."
    )


def strength_caption(results: Results | None) -> Markdown:
    """Caption the accuracies by the strength of the shortcut, if a run has several."""
    if results is None:
        return Markdown("No run of this study has several strengths of the shortcut.")
    return Markdown(
        f"*{badges(limits(results))} Accuracy of the linear probe against the strength ρ of the "
        f"shortcut ({results.n_runs}); bands are 95 % intervals.*"
    )


def gains_by_strength(results: Results | None) -> Markdown:
    """Say what the probe gains at each strength of the shortcut, under the last shift."""
    if results is None:
        return Markdown("")
    shift, kind = results.shifts[-1], results.kinds[-1]
    last = results.of(condition=shift)
    pair = alike(last, side(f"ICM auto {kind}", PROBE), side("plain", PROBE))
    gains = last.gain(pair.ours, pair.theirs)
    strength = last.table.drop_duplicates("world").set_index("world")["strength"]
    ordered = gains.assign(strength=gains["world"].map(strength)).sort_values("strength")
    weakest, strongest = (ordered.iloc[i] for i in (0, -1))
    above = ordered.loc[ordered["low"] > 0, "strength"]
    pays = ", ".join(f"{strength:g}" for strength in above) or "none"
    return came_out(
        f"*ICM auto* over the plain probe, {pair.penalty}, {said(shift)}: {points(weakest)} "
        f"points at ρ = {weakest['strength']:g}, {points(strongest)} at "
        f"ρ = {strongest['strength']:g}. The whole interval is above zero at ρ = {pays}."
    )


def claims_words(rows: pd.DataFrame, link: bool = True) -> Markdown:
    """Count the verdicts of all pages.

    Parameters
    ----------
    rows : DataFrame
        As :func:`~icm_study.report.claims_map.read_claims` gives it.
    link : bool
        Whether to link the page that lists them.
    """
    counts = rows["verdict"].value_counts()
    listed = ", ".join(f"{counts.get(verdict, 0)} {verdict}" for verdict in VERDICTS)
    more = " [Every claim](results/claims.ipynb) has its numbers, and where they are from."
    return came_out(f"Of {len(rows)} claims: {listed}.{more if link else ''}")


def of_real_clip(claims: Sequence[str], shown: Sequence[Results]) -> Markdown:
    """Say which results are of a real CLIP, and what they are not, in two sentences.

    Parameters
    ----------
    claims : sequence of str
        Paths of the verdicts of all pages; those of the page on real CLIP have its name.
    shown : sequence of Results
        All runs with accuracies on domains or variants.
    """
    path = next((one for one in claims if Path(one).stem == f"{REAL_CLIP}_claims"), None)
    if path is None:
        return Markdown("No result here is of embeddings by a real CLIP that others published.")
    counts = read_table(path)["verdict"].value_counts()
    told = ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
    names = sorted({run.encoder for run in shown if "/" in run.encoder})
    limit = (
        f"The accuracies of this page have {', '.join(names)} too, by runs of this study."
        if names
        else "They are not a run of DomainBed or of ImageNet's variants: no accuracy on this page "
        "is of a real CLIP."
    )
    return Markdown(
        f"**Of real CLIP.** [Real CLIP](results/{REAL_CLIP}.ipynb) is about embeddings by OpenAI's "
        "ViT-B/16 (the paper's encoder; 500 photographs with their captions), ViT-B/32 and RN50 "
        f"(1,203 names) that others have published (verdicts: {told}). {limit}"
    )


def run_line(results: Results, path: str) -> str:
    """Name a recorded run in a line, with a link to its page."""
    dataset, protocol = (results.table[column].iloc[0] for column in ("dataset", "protocol"))
    shown = badges(limits(results, is_recorded=True))
    return (
        f"{shown}\n\n**{dataset}**, encoder {results.encoder}, {protocol}, {results.n_runs} "
        f"([its page]({Path(path).stem}.ipynb)). {NOTES.get(results.encoder, '')}"
    )


def best_methods(results: Results, n: int = 3) -> pd.DataFrame:
    """Keep of each predictor the plain one, and the best methods with and without CLIP-ICM.

    Parameters
    ----------
    results : Results
        Of a comparison of all methods.
    n : int
        How many of each kind, by the accuracy where they do worst.

    Returns
    -------
    DataFrame
        The means of the methods that are kept, the best first.
    """
    means = results.chosen_by(results.choice).means()
    best = by_worst_case(means)
    kind = best["method"].where(best["method"] == "plain", best["method"].str.contains("ICM"))
    place = best.groupby(["predictor", kind]).cumcount()
    kept = best.loc[place < n, ["predictor", "method"]]
    return kept.merge(means, how="left")


def made_with(results: Results) -> Markdown:
    """Name the commit and the packages of a page."""
    used = ", ".join(f"{name} {version(name)}" for name in (*PACKAGES, "animal-mnist"))
    return Markdown(
        f"Commit `{results.record['commit']}`, Python {python_version()}, {used}. [How to "
        "reproduce](reports/reproduce.qmd) says how to get the same; `CITATION.cff` in the "
        "repository says how to cite it."
    )
