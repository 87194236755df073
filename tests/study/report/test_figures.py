"""The figures show the numbers they are given: read back from the drawn artists."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icm_study.report.figures import (
    accuracy_figure,
    grid_figure,
    plot_curves,
    share_figure,
    spectrum_figure,
    sweep_figure,
    table_figure,
    variants_figure,
)
from icm_study.report.pictures import image_grid


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def means():
    rows = [
        {"name": name, "condition": c, "value": v, "low": v - 2, "high": v + 1}
        for v, (name, c) in enumerate(
            ((name, c) for name in ("plain", "ICM, text")
             for c in ("in_distribution", "unseen", "reversed")), start=50,
        )
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_accuracy_figure_draws_each_value_at_its_method_with_its_interval():
    table = means()
    figure = accuracy_figure(table, {"all": table["value"] > 0}, "title")
    axis = figure.axes[0]
    drawn = {(x, y) for line in axis.lines if line.get_marker() in "osD"
             for x, y in zip(*line.get_data(), strict=True)}  # fmt: skip
    assert drawn == {(v, 0) for v in (50, 51, 52)} | {(v, 1) for v in (53, 54, 55)}
    assert [label.get_text() for label in axis.get_yticklabels()] == ["plain", "ICM, text"]
    bars = [
        segment[:, 0].tolist() for group in axis.collections for segment in group.get_segments()
    ]
    assert sorted(bars) == [[v - 2, v + 1] for v in range(50, 56)]
    assert axis.get_xlabel() == "accuracy (%)"


def test_no_interval_is_cut_off_by_the_axis():
    table = means().assign(low=np.linspace(11, 45, 6))
    accuracy = accuracy_figure(table, {"all": table["value"] > 0}, "title").axes[0]
    assert accuracy.get_xlim()[0] <= 11
    sweep = sweep_figure(
        table.assign(x=range(6)), "x", {"all": table["value"] > 0}, xlabel="x", title="title"
    )
    assert sweep.axes[0].get_ylim()[0] <= 11


def test_accuracy_figure_without_intervals_has_no_bars_of_nan():
    table = means().assign(low=np.nan, high=np.nan)
    axis = accuracy_figure(table, {"all": table["value"] > 0}, "title").axes[0]
    assert all(
        np.isfinite(segment).all() for group in axis.collections for segment in group.get_segments()
    )


def test_accuracy_figure_refuses_a_panel_of_two_worlds():
    table = pd.concat([means(), means()], ignore_index=True)
    with pytest.raises(ValueError, match="'all' has several rows for a method and condition"):
        accuracy_figure(table, {"all": table["value"] > 0}, "title")


def test_the_figure_of_variants_has_a_panel_for_each():
    methods = [(name, kind) for name in ("plain", "ICM image") for kind in ("zero-shot", "probe")]
    rows = [
        {"method": name, "name": name, "condition": condition, "predictor": predictor}
        for condition in ("in_distribution", "V2", "A")
        for name, predictor in methods
    ]
    value = 40 + 2.5 * np.arange(len(rows))
    table = pd.DataFrame(rows).assign(value=value, low=value - 3, high=value + 1)
    table = table.replace({"predictor": {"probe": "linear probe"}})
    figure = variants_figure(table)
    titles = [axis.get_title(loc="left") or axis.get_title() for axis in figure.axes]
    assert titles == ["in distribution", "V2", "A"]
    said = "Linear probe, the best (oracle aside) over plain: V2 +5.0, A +5.0 points"
    assert figure.get_suptitle() == said
    for axis, (_, panel) in zip(figure.axes, table.groupby("condition", sort=False), strict=True):
        drawn = sorted(float(x) for bars in axis.containers for x in bars.lines[0].get_xdata())
        np.testing.assert_allclose(drawn, sorted(panel["value"]))
        plain = sorted(panel.loc[panel["method"] == "plain", "value"])
        dotted = [line.get_xdata()[0] for line in axis.lines if line.get_linestyle() == ":"]
        np.testing.assert_allclose(sorted(dotted), plain)


def test_sweep_figure_labels_each_line_and_ticks_each_value():
    table = pd.DataFrame(
        {
            "name": ["a", "a", "b", "b"],
            "rho": [0.1, 1, 0.1, 1],
            "value": [1.0, 2, 3, 4],
            "low": 0.5,
            "high": 5.0,
        }
    )
    axis = sweep_figure(
        table, "rho", {"p": table["value"] > 0}, xlabel="ρ", title="t", xscale="log"
    ).axes[0]
    assert {text.get_text() for text in axis.texts} == {"a", "b"}
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0.1", "1"]
    assert [line.get_ydata().tolist() for line in axis.lines] == [[1, 2], [3, 4]]


def test_grid_figure_annotates_the_gain_over_the_baseline():
    table = pd.DataFrame(
        {"K": [4, 4, 8, 8], "consistency_weight": [1.0, 10, 1, 10], "value": [60.0, 40, 50.1, 49.9]}
    )
    axis = grid_figure(table, {"p": table["K"] > 0}, baseline={"p": 50.0}, title="t").axes[0]
    assert [text.get_text() for text in axis.texts] == [
        "+0",
        "+0",
        "+10",
        "-10",
    ]  # K = 8 above, no negative zero


def test_a_table_as_a_heat_map_has_its_numbers_and_no_colour_where_an_interval_has_zero():
    rivals = ["over a", "over b"]
    gains = pd.DataFrame([[1.0, -20.0], [float("nan"), 4.25]], ["one", "two"], rivals)
    clear = pd.DataFrame([[0.0, 1.0], [float("nan"), 1.0]], ["one", "two"], rivals)
    figure = table_figure({"unseen": gains}, "title", clear={"unseen": clear})
    (axis,) = figure.axes
    assert {text.get_text() for text in axis.texts} == {"+1.0", "-20.0", "+4.2"}
    coloured = ~np.ma.getmaskarray(axis.collections[0].get_array())
    assert coloured.tolist() == [[False, True], [False, True]]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["one", "two"]
    plain = table_figure({"unseen": gains.abs(), "reversed": gains.abs()}, "title")
    assert [axis.get_xlabel() for axis in plain.axes] == ["unseen", "reversed"]
    assert "20.0" in {text.get_text() for text in plain.axes[1].texts}


def test_share_figure_annotates_every_cell():
    shares = pd.DataFrame({"image": [0.1, 0.9]}, index=["class", "coat"])
    axis = share_figure(shares).axes[0]
    assert [text.get_text() for text in axis.texts] == ["0.10", "0.90"]
    assert axis.get_title() == "What each intervention re-draws"
    shares.loc["domain"] = 0.514
    title = share_figure(shares.assign(text=1.19, oracle=np.nan)).axes[0].get_title()
    assert title == "Domain re-drawn: image 51 %, text 119 %"


def test_share_figure_leaves_blank_what_cannot_be_read():
    shares = pd.DataFrame({"image": [np.nan, 0.9]}, index=["class", "coat"])
    assert [text.get_text() for text in share_figure(shares).axes[0].texts] == ["0.90"]


def test_spectrum_figure_draws_each_weight():
    spectra = {"image": {"1": [2.0, -1.0], "3": [1.0, -4.0]}}
    figure = spectrum_figure(spectra)
    assert figure.get_suptitle() == "Eigenvalues above zero at λ = 1, first seed: image 1"
    drawn = [line.get_ydata().tolist() for line in figure.axes[0].lines[:2]]
    assert drawn == [[2.0, -1.0], [1.0, -4.0]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["λ = 1", "λ = 3"]


def test_image_grid_shows_the_pixels():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4), dtype=np.uint8)
    figure = image_grid({"row": images, "short": images[:1]})
    whole, short = (axis.images[0].get_array() for axis in figure.axes)
    for i in range(2):
        np.testing.assert_array_equal(whole[:, 4 * i : 4 * i + 4, :3], images[i].transpose(1, 2, 0))
    assert (whole[..., 3] == 255).all()
    assert short[:, :4, 3].all()
    assert not short[:, 4:, 3].any()  # room for the second is clear


def test_images_stand_apart():
    figure = image_grid({"row": np.full((2, 3, 50, 50), 9, dtype=np.uint8)})
    (line,) = (axis.images[0].get_array() for axis in figure.axes)
    assert line.shape == (50, 102, 4)
    assert not line[:, 50:52].any()
    assert line[:, 52:, 3].all()


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(1, 1000), min_size=2, max_size=6))
def test_curves_have_labels_that_do_not_overlap(ends):
    names = [f"curve {i}" for i in range(len(ends))]
    summary = pd.DataFrame(
        [
            {"x": x, "by": name, "mean": end * x, "low": 0.9 * end * x, "high": 1.1 * end * x}
            for name, end in zip(names, ends, strict=True)
            for x in (1, 10)
        ]
    )
    figure, axes = plt.subplots()
    plot_curves(axes, summary, x="x", by="by", xscale="log", yscale="log")
    labels = {text.get_text(): text for text in axes.texts}
    assert sorted(labels) == sorted(names)
    to_axes = axes.transScale + axes.transLimits
    heights = sorted(to_axes.transform((1, text.get_position()[1]))[1] for text in labels.values())
    assert min(np.diff(heights)) > 0.06
    colors = {line.get_color() for line in axes.lines}
    assert len(colors) == len(names)
    assert {text.get_color() for text in labels.values()} == colors
    plt.close(figure)


def test_a_label_stays_beside_its_curve_when_the_limits_change():
    summary = pd.DataFrame(
        {"x": [0, 1], "by": "a", "mean": [1.0, 2.0], "low": [1.0, 2.0], "high": [1.0, 2.0]}
    )
    figure, axes = plt.subplots()
    plot_curves(axes, summary, x="x", by="by")
    axes.set_ylim(0, 10)
    assert axes.texts[0].get_position()[1] == pytest.approx(2)
    plt.close(figure)
