"""Controls for a notebook that turn K and λ by hand, and the picture that answers them."""

from __future__ import annotations

import base64
import gc
import io
from collections.abc import Iterator
from html import escape
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from icm_study.experiments.exploring import Answer, Exploration, Setting
from icm_study.experiments.study import Study
from icm_study.report.style import CONTEXT, INK, INVARIANT, PAPER, VARIANT, said
from icm_study.report.words import limits_of

#: What is shown first.
START_KIND, START_WEIGHT, START_K = "image+text", 1.0, 16
_FEW, _THUMBNAIL = 12, 96  # classes that a table has room for; pixels


class Panel:
    """Widgets for the test beds of a study.

    Parameters
    ----------
    study : Study
        Its first seed counts.

    Attributes
    ----------
    controls : dict of str to widget
        ``world``, ``target``, ``intervention``, ``consistency_weight``, ``n_components`` and
        ``predictor``.
    figure : matplotlib.figure.Figure
        The shares and the accuracies as they are drawn.
    picture, told, confusion, changed, code : widgets
        What a change of a control changes: the figure, the answer in a sentence, the table of
        the classes, the images whose prediction changed, and the setting as code to copy.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._explorations: dict[str, Exploration] = {}
        self._beds = {bed.world: bed for bed in study.beds}
        first = self._exploration(next(iter(self._beds)))
        targets = first.bed.targets()
        kinds = first.interventions
        kind = START_KIND if START_KIND in kinds else kinds[0]
        k = min(START_K, first.n_features)
        predictors = first.predictors(targets[0])
        self.controls: dict[str, Any] = {
            "world": widgets.Dropdown(options=list(self._beds), description="Data"),
            "target": widgets.Dropdown(
                options=[(target or "none", target) for target in targets], description="Target"
            ),
            "intervention": widgets.Dropdown(options=kinds, value=kind, description="Pairs"),
            "consistency_weight": widgets.FloatLogSlider(
                value=START_WEIGHT, min=-1, max=3, step=0.25, description="λ",
                readout_format=".3g", continuous_update=False,
            ),
            "n_components": widgets.IntSlider(
                value=k, min=1, max=first.n_features, description="K", continuous_update=False
            ),
            "predictor": widgets.ToggleButtons(
                options=predictors, value=predictors[-1], description="Predictor"
            ),
        }  # fmt: skip
        self.picture = widgets.Image(format="png")
        self.told, self.confusion, self.changed = (widgets.HTML() for _ in range(3))
        self.code = widgets.Textarea(rows=7, layout=widgets.Layout(width="46em"), disabled=False)
        for control in self.controls.values():
            control.observe(lambda _: self.update(), names="value")
        self.update()
        gc.collect()
        gc.freeze()  # what was loaded stays: to look through it takes longer than an answer

    @property
    def limits(self) -> list[str]:
        """What limits an answer, see :func:`~icm_study.report.words.limits_of`."""
        over = next(iter(self._beds.values())).over
        return ["one run, no interval", *limits_of(over, self._study.given["encoder"])]

    @property
    def setting(self) -> Setting:
        """What the controls say."""
        given = {name: control.value for name, control in self.controls.items()}
        return Setting(**{name: value for name, value in given.items() if name != "world"})

    def update(self) -> None:
        """Answer what the controls say."""
        exploration = self._exploration(self.controls["world"].value)
        answer = exploration.answer(self.setting)
        self.figure = draw(answer, self.setting)
        png = io.BytesIO()
        self.figure.patch.set_facecolor(PAPER)  # JupyterLab may be dark
        FigureCanvasAgg(self.figure).print_png(png)
        self.figure.patch.set_facecolor("none")
        self.picture.value = png.getvalue()
        self.told.value = tell(answer, self.setting)
        self.confusion.value = confusion_table(answer, exploration.bed.words)
        self.changed.value = changed_images(answer, exploration.bed.words)
        self.code.value = as_code(self.setting)

    def show(self) -> widgets.Widget:
        """Give all of it as one widget."""
        c = self.controls
        return widgets.VBox(
            [
                widgets.HBox([c["world"], c["target"], c["intervention"]]),
                widgets.HBox([c["consistency_weight"], c["n_components"], c["predictor"]]),
                self.told, self.picture, self.confusion, self.changed, self.code,
            ]
        )  # fmt: skip

    def _exploration(self, world: str) -> Exploration:
        if world not in self._explorations:
            seed = self._study.given["seeds"][0]
            bed = self._beds[world]
            self._explorations[world] = Exploration(bed, self._study.embedder, seed)
        return self._explorations[world]


def tell(answer: Answer, setting: Setting) -> str:
    """Say what a setting does to the target, in a sentence."""
    plain, projected = answer.accuracy[answer.condition]
    removed = answer.shares[setting.n_components :]
    share = f"{removed.mean():.2f}" if len(removed) else "nothing"
    return (
        f"{said(answer.condition).capitalize()}: the {setting.predictor} goes from {plain:.1f} to "
        f"{projected:.1f} % ({projected - plain:+z.1f} points, one run, no interval). Of what is "
        f"kept the interventions re-draw {answer.shares[: setting.n_components].mean():.2f}, of "
        f"what is removed {share}."
    )


def as_code(setting: Setting) -> str:
    """Write a setting as code to copy."""
    kind, k, weight = setting.intervention, setting.n_components, setting.consistency_weight
    return "\n".join(
        [
            "# the projection, from embeddings of pairs (before, after)",
            "from icm_core import InvariantProjection",
            f"projection = InvariantProjection(n_components={k}, consistency_weight={weight:g})",
            "projection.fit(before, after)",
            "# the same as parameters of 02, 05 and 06, which give intervals",
            f'methods = ["plain", "ICM {kind}", "ICM auto {kind}"]',
            f'settings = {{"ICM {kind}": {{"n_components": [{k}], '
            f'"consistency_weight": [{weight:g}]}}}}',
        ]
    )


def draw(answer: Answer, setting: Setting) -> Figure:
    """Draw what the interventions re-draw of each component, and the accuracies."""
    figure = Figure(figsize=(9, 2.4), dpi=90)
    grid = figure.add_gridspec(1, 2, left=0.06, right=0.98, bottom=0.2, top=0.88, wspace=0.15)
    _spectrum(figure.add_subplot(grid[0]), answer, setting)
    _accuracy(figure.add_subplot(grid[1]), answer)
    return figure


def _spectrum(axis: Any, answer: Answer, setting: Setting) -> None:
    k, place = setting.n_components, np.arange(1, len(answer.shares) + 1)
    axis.plot(place[:k], answer.shares[:k], "o", ms=3.5, color=INVARIANT)
    axis.plot(place[k:], answer.shares[k:], "o", ms=3.5, color=VARIANT, fillstyle="none")
    axis.axvline(k + 0.5, color=CONTEXT, lw=1)
    axis.set_title("Re-drawn by the interventions", fontsize=10)
    axis.set_xlabel(f"component, the first {k} are kept", fontsize=9)
    axis.set_ylabel("share", fontsize=9)
    axis.set_ylim(bottom=0)


def _accuracy(axis: Any, answer: Answer) -> None:
    for row, (condition, (plain, projected)) in enumerate(answer.accuracy.items()):
        axis.plot([plain, projected], [row, row], color=CONTEXT, lw=1)
        axis.plot(plain, row, "o", color=CONTEXT, fillstyle="none")
        axis.plot(projected, row, "o", color=INVARIANT)
        axis.text(
            min(projected, 70), row - 0.16, f"{said(condition)} {projected:.0f}",
            ha="center", fontsize=9, color=INK,
        )  # fmt: skip
    axis.set_ylim(len(answer.accuracy) - 0.6, -0.6)
    axis.set_xlim(0, 100)
    axis.set_yticks([])
    axis.set_title("Plain (open) and projected", fontsize=10)
    axis.set_xlabel("accuracy (%)", fontsize=9)


def confusion_table(answer: Answer, words: tuple[str, ...]) -> str:
    """Tell for each class how many percent of its images are taken for each, as HTML.

    Of more than twelve classes it lists the commonest mistakes.
    """
    of_class = answer.confusion.sum(axis=1, keepdims=True)
    percent = 100 * answer.confusion / np.maximum(of_class, 1)
    if len(words) > _FEW:
        wrong = np.where(np.eye(len(words), dtype=bool), 0, answer.confusion)
        commonest = np.argsort(-wrong, axis=None, kind="stable")[:_FEW]
        mistakes = [
            (words[own], words[other], f"{wrong[own, other]} of {of_class[own, 0]}")
            for own, other in zip(*np.unravel_index(commonest, wrong.shape), strict=True)
            if wrong[own, other]
        ]
        return pd.DataFrame(mistakes, columns=["class", "taken for", "images"]).to_html(index=False)
    cells = pd.DataFrame(percent, words, words).rename_axis("class")
    return str(
        cells.style.format("{:.0f}")
        .background_gradient("Blues", vmin=0, vmax=100)
        .set_uuid("confusion")
        .set_table_attributes('data-quarto-disable-processing="true"')
        .to_html()
    )


def changed_images(answer: Answer, words: tuple[str, ...]) -> str:
    """Show the images whose prediction changed, with what it was and is, as HTML."""
    if not len(answer.changed):
        return "No prediction changed."
    images = "".join(_thumbnails(answer, words))
    return f'<div style="display: flex; flex-wrap: wrap; gap: 8px">{images}</div>'


def _thumbnails(answer: Answer, words: tuple[str, ...]) -> Iterator[str]:
    for i, pixels in enumerate(answer.changed.pixels().numpy().transpose(0, 2, 3, 1)):
        own = answer.changed.label[i]
        lines = [
            f"{when} {escape(words[label])} {'✓' if label == own else '✗'}"
            for when, label in (("was", answer.before[i]), ("now", answer.after[i]))
        ]
        image, png = Image.fromarray(pixels), io.BytesIO()
        image.thumbnail((_THUMBNAIL, _THUMBNAIL))
        image.save(png, "png")
        data = base64.b64encode(png.getvalue()).decode()
        # no img: a page would take each for a figure of its own
        yield (
            f'<div style="width: {_THUMBNAIL}px; font-size: 0.8em">'
            f'<div role="img" aria-label="an image of the class {escape(words[own])}" '
            f'style="height: {_THUMBNAIL}px; background: center / contain no-repeat '
            f'url(data:image/png;base64,{data})"></div>{"<br>".join(lines)}</div>'
        )
