"""The answer about a folder as one HTML file, without a notebook and without a network."""

from __future__ import annotations

import base64
import html as markup
import io
from collections.abc import Iterator

import matplotlib.pyplot as plt
from markdown_it import MarkdownIt

from icm_study.experiments.reading import Results, quantity
from icm_study.experiments.study import Study
from icm_study.report import words
from icm_study.report.advice import Advice, gains_over_plain_probe
from icm_study.report.figures import accuracy_figures, share_figure
from icm_study.report.pictures import examples_figure
from icm_study.report.style import set_style
from icm_study.report.tables import interval_table, readable

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 sans-serif; }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; }}
td, th {{ padding: 0.2rem 0.6rem; border-bottom: 1px solid #ccc; text-align: left; }}
img {{ max-width: 100%; }} pre {{ overflow-x: auto; background: #f4f4f4; padding: 0.6rem; }}
</style></head><body>
{body}
</body></html>
"""
GAINS = (
    "*Gains over the plain probe on an unseen domain, in percentage points, paired image by "
    "image. The 95 % intervals hold for all rows at once.*"
)
UNSEEN = (
    "*Accuracy in percent on each domain while it was the unseen one, with 95 % intervals over "
    "its images.*"
)


def advice_page(study: Study, run: Results, advice: Advice, worth: float) -> str:
    """Write the page: the answer, the gains, what interventions change, and the record.

    Parameters
    ----------
    study : Study
    run : Results
        What the study gave.
    advice : Advice
    worth : float
        The smallest gain that matters, in percentage points.

    Returns
    -------
    str
        HTML with everything in it.
    """
    unseen = run.of(condition="unseen").means(["predictor", "method", "choice", "target"])
    unseen = readable(unseen.assign(condition=""))
    gains = readable(gains_over_plain_probe(run))
    title = f"Does CLIP-ICM help on {study.beds[0].name}?"
    parts = [
        f"<h1>{markup.escape(title)}</h1>",
        _text(advice.summary(worth)),
        interval_table(gains, ["name"], ["condition"], signed=True).to_html(border=0),
        _text(GAINS),
        "<h2>The data</h2>",
        _text(str(words.introduction(run).data)),
        *_figures(study, run),
        "<h2>Each domain as the new one</h2>",
        interval_table(unseen, ["predictor", "name"], ["target"]).to_html(border=0),
        _text(UNSEEN),
        "<h2>Record</h2>",
        _text(str(words.record(run).data)),
    ]
    return PAGE.format(title=markup.escape(title), body="\n".join(parts))


def _text(markdown: str) -> str:
    said = markdown.replace("$\\lambda", "λ").replace("$K", "K").replace("$", "")
    return MarkdownIt("commonmark", {"html": False}).render(said)


def _figures(study: Study, run: Results) -> Iterator[str]:
    """Draw the figures of the page, each as an element with what it shows."""
    set_style()
    examples_figure(study)
    yield from _drawn("Images as they are, and after an image intervention")
    share_figure(quantity(run.record, "share"))
    yield from _drawn("The share of each factor that each kind of intervention re-draws")
    accuracy_figures(run)
    yield from _drawn("Accuracy of each method with intervals, under each condition")


def _drawn(alt: str) -> Iterator[str]:
    for number in plt.get_fignums():
        content = io.BytesIO()
        plt.figure(number).savefig(content, format="png", bbox_inches="tight")
        plt.close(number)
        encoded = base64.b64encode(content.getvalue()).decode()
        yield f'<p><img alt="{alt}" src="data:image/png;base64,{encoded}"></p>'
