"""Put what others have published beside the zero-shot of a run, and say whether it agrees."""

from __future__ import annotations

import pandas as pd
from IPython.display import HTML, Markdown

from icm_study.experiments.reading import Results
from icm_study.photographs.known import guess_dataset
from icm_study.photographs.zero_shot import SOURCES, published_zero_shot
from icm_study.report.paper import paper_figures
from icm_study.report.tables import html

PAPER = "the paper, from a summary"


def zero_shot_beside(results: Results) -> pd.DataFrame:
    """Put what has been published beside the plain zero-shot of a run.

    Parameters
    ----------
    results : Results
        Of domains or of variants.

    Returns
    -------
    DataFrame
        Columns data set, here, low, high, published (percent), source, and agrees: whether what
        was published lies within the 95 % interval of the run. No rows where nothing is known.
    """
    means = results.of(method="plain", predictor="zero-shot").means()
    rows = [
        {
            "data set": dataset, "here": row["value"], "low": row["low"], "high": row["high"],
            "published": accuracy, "source": source,
            "agrees": bool(row["low"] <= accuracy <= row["high"]),
        }
        for row in means.to_dict("records")
        for dataset, accuracy, source in _published(results, row["condition"])
    ]  # fmt: skip
    columns = ["data set", "here", "low", "high", "published", "source", "agrees"]
    return pd.DataFrame(rows, columns=columns)


def published_table(results: Results) -> HTML | Markdown:
    """Show :func:`zero_shot_beside`, and say whether the run agrees."""
    table = zero_shot_beside(results)
    if table.empty:
        known = published_zero_shot()
        return Markdown(
            "No zero-shot accuracy that others have published is at hand for this run: the table "
            f"has {known['encoder'].nunique()} models of open_clip, on ImageNet and its variants, "
            "and the paper's figures are for ViT-B/16 and the data sets of DomainBed."
        )
    shown = pd.DataFrame(
        {
            "data set": table["data set"],
            "zero-shot here (%)": [
                f"{row.here:.1f} ({row.low:.1f} to {row.high:.1f})" for row in table.itertuples()
            ],
            "published (%)": table["published"].map("{:.1f}".format),
            "source": table["source"].map(lambda name: SOURCES.get(name, name)),
            "agrees": table["agrees"].map({True: "yes", False: "no"}),
        }
    )
    return HTML(f"{html(shown).data}\n<p>{_said(table)}</p>")


def _said(table: pd.DataFrame) -> str:
    """Say whether the run agrees with what was published, within its sampling error."""
    apart = table[~table["agrees"]]
    if apart.empty:
        return "Every published value lies within the 95 % interval of this run."
    told = "; ".join(
        f"{row['data set']}: {row['here'] - row['published']:+z.1f} points from {row['source']}"
        for row in apart.to_dict("records")
    )
    return (
        f"This run differs by more than its sampling error ({told}). A few points can come from "
        "other prompts or other class words; more points to another preprocessing, other "
        "weights, or other images."
    )


def _published(results: Results, condition: str) -> list[tuple[str, float, str]]:
    """Give data set, accuracy and source of what is known of a condition of a run."""
    folder = results.record["parameters"].get("variants", {}).get(condition)
    if folder:
        dataset = guess_dataset(folder)
        known = published_zero_shot(results.encoder, dataset) if dataset else pd.DataFrame()
        return [(str(dataset), row["accuracy"], row["source"]) for row in known.to_dict("records")]
    if condition != "unseen" or "protocol" not in results.record["parameters"]:
        return []
    first = results.table.iloc[0]
    figures = paper_figures(first["dataset"], results.encoder, first["protocol"])
    return [
        (first["dataset"], row["accuracy in the paper (%)"], PAPER)
        for row in figures.to_dict("records")
        if row["method"] == "zero-shot"
    ]
