"""One style and one palette for every figure of the report.

Colours are Okabe and Ito's, which colour-blind readers can tell apart. One meaning, one
colour: what is invariant is blue, what an intervention changes is vermilion, context is
grey. ``reports/styles.css`` gives each its value in the dark theme.
"""

from __future__ import annotations

import io
import re

import matplotlib.pyplot as plt
import pandas as pd
from IPython import get_ipython
from IPython.core.pylabtools import select_figure_formats
from matplotlib.figure import Figure

INVARIANT = "#0072B2"

VARIANT = "#D55E00"

CONTEXT = "#8A8A8A"

INK = "#222222"

PAPER = "#FEFEFE"

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A8A8A")


def headline(figure: Figure, title: str) -> None:
    """Say over a figure of several panels what came out."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)


def set_style() -> None:
    """Set the defaults for every figure and table of the report; in a notebook, show SVG."""
    pd.set_option("display.max_colwidth", None)  # texts in tables are never cut, nor are rows
    pd.set_option("display.max_rows", None, "display.show_dimensions", False)
    plt.rcParams.update(
        {
            "figure.facecolor": "none",  # the page's own paper, light or dark
            "axes.facecolor": "none",
            **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), INK),
            **dict.fromkeys(("xtick.color", "ytick.color"), INK),
            "font.size": 11,
            "axes.titlesize": 12,
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": plt.cycler(color=PALETTE),
            "axes.grid": True,
            "axes.grid.axis": "y",
            "axes.axisbelow": True,
            "grid.color": "#E6E6E6",
            "legend.frameon": False,
            "svg.fonttype": "none",  # text stays text: it can be searched, and read aloud
            "svg.hashsalt": "icm",  # the same figure, the same bytes
        }
    )
    shell = get_ipython()
    if shell is not None:
        import matplotlib_inline.backend_inline  # noqa: F401  (it sets formats when it is imported)

        plt.uninstall_repl_displayhook()  # a figure is drawn once, when it is shown as SVG
        select_figure_formats(shell, set())
        shell.display_formatter.formatters["image/svg+xml"].for_type(Figure, svg_of)


def svg_of(figure: Figure) -> str:
    """Write a figure as SVG that can stand in a page: no date, no prolog, no name twice."""
    text = io.StringIO()
    figure.savefig(
        text, format="svg", bbox_inches="tight", metadata={"Date": None},
        dpi=144,  # of images in it
    )  # fmt: skip
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    used = set(re.findall(r"#([\w-]+)", svg))
    return re.sub(r' id="([^"]+)"', lambda name: name[0] if name[1] in used else "", svg)


CONDITION_STYLE = {
    "in_distribution": ("in distribution", CONTEXT, "o"),
    "unseen": ("unseen domain", INVARIANT, "s"),
    "reversed": ("shortcut reversed", VARIANT, "D"),
    "seen_classes": ("seen classes", CONTEXT, "o"),
    "new_classes": ("new classes", INVARIANT, "s"),
}

condition_name = {name: said for name, (said, _, _) in CONDITION_STYLE.items()}


def said(condition: object) -> str:
    """Say a condition in words; the name of a variant is its own."""
    return condition_name.get(str(condition), str(condition))
