"""What the front page says and counts of all runs together."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from platform import python_version

import pandas as pd
from IPython.display import Markdown

from icm_study.experiments.reading import Results, by_worst_case
from icm_study.experiments.record import read_table
from icm_study.report.answers import gains_answer
from icm_study.report.claims import AUTO, SAID, gains_over_plain, side
from icm_study.report.words import NOTES

PACKAGES = ("numpy", "scipy", "scikit-learn", "pandas", "torch", "torchvision", "open_clip_torch")
PAPER_ENCODER = "ViT-B-16"
REAL_CLIP = "real-clip"  # the run of 08_real_clip


def gains_everywhere(runs: Sequence[Results]) -> pd.DataFrame:
    """Tabulate what CLIP-ICM gains in every run, from its most complete interventions.

    A world that several runs have counts once, as the first of them has it.

    Returns
    -------
    DataFrame
        The rows of :func:`~icm_study.report.claims.gains_over_plain`, with a column run.
    """
    tables: dict[str, pd.DataFrame] = {}
    for results in runs:
        protocol = results.table["protocol"].iloc[0]
        name = f"{results.world}, {results.encoder}, {protocol}"
        if name not in tables:
            tables[name] = gains_over_plain(results).assign(run=name)
    return pd.concat(tables.values(), ignore_index=True)


def in_short(main: Results, gains: pd.DataFrame, shown: Sequence[Results]) -> Markdown:
    """Say in a few sentences what was found, and what was not run.

    Parameters
    ----------
    main : Results
        The main run.
    gains : DataFrame
        What :func:`gains_everywhere` gives.
    shown : sequence of Results
        All runs of the page.
    """
    judged = main.judged()
    kind, shift = judged.kinds[-1], judged.shifts[-1]
    last = judged.of(condition=shift)
    ours = side(f"ICM auto {kind}", "linear probe")
    told = []
    for method, predictor, said in (
        ("plain", "linear probe", "the plain probe"),
        ("plain", "zero-shot", "plain zero-shot"),
    ):
        row = last.gain(ours, side(method, predictor)).iloc[0]
        if pd.isna(row["low"]):
            told.append(f"{row['value']:+.1f} points from {said} (one seed: no interval)")
            continue
        word = (
            "above"
            if row["low"] > 0
            else "below"
            if row["high"] < 0
            else "not distinguishable from"
        )
        told.append(
            f"{word} {said} ({row['value']:+.1f} points, {row['low']:+.1f} to {row['high']:+.1f})"
        )
    text = (
        f"**In short.** In the animal world, {SAID[shift]}, the probe in the invariant subspace "
        f"({kind.replace('+', ' and ')} interventions; {AUTO}) is {' and '.join(told)}. In all "
        f"runs: {gains_answer(gains)} That λ is 1 was fixed before, by trials on an earlier world "
        "of this kind."
    )
    if not any(PAPER_ENCODER in results.encoder for results in shown):
        text += (
            " **No run of its benchmarks here has the paper's encoder, ViT-B/16.** What its "
            "tables claim is asked here of small encoders; [Reproduce](reports/reproduce.qmd) says "
            "how to run the paper's benchmarks with the paper's encoder."
        )
    return Markdown(text)


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
        f"The tables of accuracies below have {', '.join(names)} too, by runs of this study."
        if names
        else "They are not a run of DomainBed or of ImageNet's variants: no accuracy in the tables "
        "below is of a real CLIP."
    )
    return Markdown(
        f"**Of real CLIP.** [Real CLIP](results/{REAL_CLIP}.ipynb) is about embeddings by OpenAI's "
        "ViT-B/16 (the paper's encoder; 500 photographs with their captions), ViT-B/32 and RN50 "
        f"(1,203 names) that others have published (verdicts: {told}). {limit}"
    )


def run_line(results: Results, path: str) -> str:
    """Name a recorded run in a line, with a link to its page."""
    dataset, protocol = (results.table[column].iloc[0] for column in ("dataset", "protocol"))
    return (
        f"**{dataset}**, encoder {results.encoder}, {protocol}, {results.n_runs} "
        f"([its page](results/{Path(path).stem}.ipynb)). {NOTES.get(results.encoder, '')}"
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


def verdicts(paths: Sequence[str]) -> pd.DataFrame:
    """Read the verdicts of all pages; what two pages measure alike counts once."""
    rows = pd.concat([read_table(path) for path in paths], ignore_index=True)
    where = rows["claim"].str.extract(r"\((.*)\)")[0].str.replace(r", \d+ seeds$", "", regex=True)
    alike = rows.assign(where=where).duplicated(["statement", "where"])
    return rows[~alike].reset_index(drop=True)


def tally(rows: pd.DataFrame) -> pd.DataFrame:
    """Count verdicts by topic."""
    topic = rows["claim"].str.replace(r" \(.*", "", regex=True).rename("topic")
    counts = rows.groupby([topic, "verdict"], sort=False).size().unstack(fill_value=0)
    return counts.rename_axis(None, axis=1).reset_index()


def made_with(results: Results) -> Markdown:
    """Name the commit and the packages of a page."""
    used = ", ".join(f"{name} {version(name)}" for name in (*PACKAGES, "animal-mnist"))
    return Markdown(
        f"Commit `{results.record['commit']}`, Python {python_version()}, {used}. [How to "
        "reproduce](reports/reproduce.qmd) says how to get the same; `CITATION.cff` in the "
        "repository says how to cite it."
    )
