"""One style and one palette for every figure of the report.

Colours are Okabe and Ito's, which colour-blind readers can tell apart. One meaning, one
colour: what is invariant is blue, what an intervention changes is vermilion, context is
grey.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd

INVARIANT = "#0072B2"

VARIANT = "#D55E00"

CONTEXT = "#8A8A8A"

INK = "#222222"

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A8A8A")


def set_style() -> None:
    """Set the defaults for every figure and table of the report."""
    pd.set_option("display.max_colwidth", None)  # texts in tables are never cut
    plt.rcParams.update(
        {
            "figure.dpi": 110,
            "savefig.dpi": 110,
            "figure.facecolor": "white",
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
        }
    )


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
