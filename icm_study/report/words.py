"""Sentences that several pages share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from IPython.display import HTML, Markdown

from icm_study.experiments.choosing import REFERENCE
from icm_study.experiments.reading import Results, quantity
from icm_study.experiments.settings import KINDS
from icm_study.methods.sources import LEAST_SQUARES, PART
from icm_study.report.penalties import FIXED
from icm_study.report.tables import html, signed_points

#: What a page says beside a result of an encoder.
NOTES = {
    "animal-world": (
        "This encoder is a small CLIP that ships with the study. It was trained on rendered "
        "animals of all four styles, so a style is *unseen* by what is fitted on its embeddings, "
        "not by the encoder itself (model card: `icm_study/encoders/weights/README.md`)."
    ),
    "animal-world-biased": (
        "This encoder is a small CLIP that ships with the study. In its own training coat and "
        "scene followed the class six times in ten, so it has learnt a shortcut itself. It was "
        "also trained on fewer images than `animal-world`, so that it is the weaker of the two is "
        "not the shortcut's doing alone (model card: `icm_study/encoders/weights/README.md`)."
    ),
    "lite0-minilm": (
        "**This encoder is not CLIP**: it joins a classifier's image tower and a sentence encoder "
        "by a regression, and no image was ever seen together with a caption. The linear probe is "
        "its serious use; its zero-shot and its text interventions say little about CLIP (model "
        "card: `icm_study/encoders/weights/lite0-minilm.md`)."
    ),
}

#: What an interval speaks for.
SPREAD = {
    "seeds": (
        "Intervals: 95 %, over the seeds; each seed draws new images, the encoder and the animals "
        "stay."
    ),
    "images": (
        "Intervals: 95 %, over the images that are tested, as if others had been collected in the "
        "same way; seeds only split the images to train on anew. The encoder and the domains stay."
    ),
    "groups": (
        "Intervals: 95 %, over the groups of images that are tested, as if others had been "
        "collected in the same way: a group counts as one image. Seeds only split the groups to "
        "train on anew. The encoder and the domains stay."
    ),
}


#: Encoders that are no CLIP, and so say little about one.
NOT_CLIP = ("lite0-minilm",)


def limits(results: Results, *, is_recorded: bool = False) -> list[str]:
    """Name what limits results, in a few words each; they stand where the numbers are."""
    imitated = results.over == "seeds" and "variants" in set(results.table["protocol"])
    return [
        *["recorded"] * is_recorded,
        *limits_of(results.over, results.encoder),
        *["no image of ImageNet"] * imitated,
    ]


def limits_of(over: str, encoder: str) -> list[str]:
    """Name what limits anything that is measured on a test bed by an encoder.

    Parameters
    ----------
    over : str
        What an interval speaks for: only the animal world draws images anew.
    encoder : str
    """
    rendered = ["animal world, exact captions"] * (over == "seeds")
    return rendered + ["not CLIP"] * (encoder in NOT_CLIP)


def badges(names: Sequence[str]) -> str:
    """Show limits as badges; a page repeats those of a paragraph in the captions that follow."""
    return " ".join(f'<span class="badge-limit">{name}</span>' for name in names)


def introduction(results: Results, tables: Sequence[str] = ()) -> Markdown:
    """Say which data and encoder a page is about.

    Parameters
    ----------
    results : Results
    tables : sequence of str
        Where the results were read from, if anywhere.
    """
    is_recorded = any("recorded" in Path(table).parts for table in tables)
    protocol = results.table["protocol"].iloc[0]
    words = [
        f"**Data set** {results.record['testbed']['name']}, **encoder** {results.encoder}, "
        f"**protocol** {protocol}, {results.n_runs}.",
        NOTES.get(results.encoder, ""),
        results.record["testbed"]["note"],
        spread(results),
    ]
    if is_recorded:
        words.append(
            "The page shows tables that were made earlier; the record at the end says what "
            "they took."
        )
    shown = badges(limits(results, is_recorded=is_recorded))
    return Markdown(f"{shown}\n\n" + " ".join(filter(None, words)))


def answer(words: str) -> Markdown:
    """Say the answer of a page, in a box."""
    return Markdown(f'<div class="answer">\n\n{words}\n\n</div>')


def came_out(words: str) -> Markdown:
    """Say what came out of a section, under the heading that every section has."""
    return Markdown(f"**Came out.** {words}")


def points(row: pd.Series) -> str:
    """Write a gain with its interval, if it has one."""
    if pd.isna(row["low"]):
        return signed_points(row["value"])
    value, low, high = map(signed_points, row[["value", "low", "high"]])
    return f"{value} ({low} to {high})"


def redrawn(results: Results) -> str:
    """Say what share of the domain each kind of intervention re-draws, where it was measured."""
    if not results.record.get("diagnosis"):
        return ""
    shares = quantity(results.record, "share")
    if "domain" not in shares.index:
        return ""
    of_domain = shares.loc["domain", [k for k in shares if k in KINDS]].dropna()
    return ", ".join(f"{kind} pairs {100 * share:.0f} %" for kind, share in of_domain.items())


def spread(results: Results) -> str:
    """Say what the intervals of results speak for."""
    return SPREAD[results.over]


def accuracy_caption(results: Results) -> Markdown:
    """Caption accuracies with intervals, and say what the names of the methods mean."""
    methods = set(results.table["method"])
    text = f"Accuracy in percent with 95 % intervals ({results.n_runs}). {spread(results)}"
    if "augmentation" in methods:
        text += " “Augmentation” is a probe that is trained on intervened images too."
    if any(name.startswith("ICM auto") for name in methods):
        text += " For “ICM auto” λ is fixed at 1 and K is the number of positive eigenvalues."
    if "tuned penalty" in methods:
        text += (
            " “Tuned penalty” chose the penalty of its probe on the sources, of “ICM” at λ = 1, "
            "of the others after their own settings; “augmentation” chose it too. Other probes "
            "have C = 0.316, the number of the paper, which belongs to embeddings that are not "
            "normalised."
        )
    if REFERENCE in set(results.table["choice"]):
        text += f" “By {REFERENCE}” is no method but a reference: trained on its labels."
    if "target" in set(results.table["choice"]):
        text += (
            " “By target” chose K and λ by the target's own labels: what the grid could reach at "
            "most on the unseen domain (open classes: on the new classes), not a method."
        )
    return Markdown(f"*{text}*")


def difference_caption(results: Results) -> Markdown:
    """Caption paired differences, and the verdicts on them."""
    return Markdown(
        f"*Differences in percentage points of accuracy, paired. {spread(results)} Not corrected "
        "for the number of rows.*"
    )


def penalties(verdicts: pd.DataFrame) -> Markdown:
    """Say which penalties verdicts on probes compare; nothing where none is on probes."""
    said = verdicts["statement"].str.contains
    if not said("penalty").any():
        return Markdown("")
    text = (
        "**Done.** How strong the penalty of a probe is changes what a projection gains, and even "
        "its sign. So each side has the penalty that does best where $K$ and $\\lambda$ are "
        "chosen, of the same seven. "
    )
    if said(FIXED, regex=False).any():
        text += (
            "A row that says “penalty fixed” is of a run without such probes: $C = 0.316$ is the "
            "number of the paper, of embeddings that are not normalised; here they are scaled to "
            "unit mean square, and it is another penalty. "
        )
    return Markdown(text + "[Ablations](03_ablations.ipynb) shows the whole sweep.")


def chosen(results: Results) -> HTML:
    """Tabulate K, λ and C, the median over the runs; say which accuracy chose them."""
    table = results.table
    table = table.assign(C=[json.loads(setting).get("C") for setting in table["setting"]])
    is_chosen = table["K"].notna() | table["C"].notna()
    rows = table[is_chosen & (table["condition"] == results.shifts[0])].astype({"C": float})
    medians = (
        rows.groupby(["world", "predictor", "method", "choice"], sort=False)[
            ["K", "consistency_weight", "C"]
        ]
        .median()
        .rename(columns={"consistency_weight": "λ"})
    )
    by = "of the predictor itself"
    judged_by = set(rows["judged_by"])
    if LEAST_SQUARES in judged_by:
        by += "; for the probe, as the data set is large, of one of least squares"
    if PART in judged_by:
        by += "; for the penalty, of a probe on a part of the images, with as much penalty for each"
    medians = medians.reset_index()
    # whole, but where runs are even in number
    medians["K"] = ["" if pd.isna(k) else f"{k:g}" for k in medians["K"]]
    has_probes = medians["C"].notna().any()
    medians = medians if has_probes else medians.drop(columns="C")
    caption = (
        f"K{', λ and the inverse penalty C of the probe' if has_probes else ' and λ'}: the median "
        f"over the runs, chosen by the accuracy {by}. Blank: not chosen, or the method has none."
    )
    if has_probes:
        caption += " On the grid of C, 1 is the weakest penalty and 0.001 the strongest."
    return HTML(f"{html(medians, na_rep='').data}<p><em>{caption}</em></p>")


def record(results: Results) -> Markdown:
    """Show what it takes to repeat a run, without its diagnosis."""
    left_out = ("diagnosis", "spectrum", "testbed")
    told = {name: value for name, value in results.record.items() if name not in left_out}
    return Markdown(f"```json\n{json.dumps(told, indent=1)}\n```")


def dimensions(results: Results) -> Markdown:
    """Say how many directions of the embedding are in use, and how well factors can be read."""
    seen = pd.DataFrame(results.record["diagnosis"])
    rank = seen.loc[seen["quantity"] == "live rank", "value"]
    dimension = int(seen.loc[seen["quantity"] == "dimension", "value"].iloc[0])
    live = " to ".join(dict.fromkeys(f"{end:.0f}" for end in (rank.min(), rank.max())))
    readable = quantity(results.record, "r2")["image"]
    return Markdown(
        f"The embedding has {dimension} dimensions, of which {live} are live (variance at least 1 "
        "% of the largest). How well each factor can be read from images (R² of a ridge "
        "regression on new images): "
        + ", ".join(f"{factor} {r2:.2f}" for factor, r2 in readable.items())
        + "."
    )
