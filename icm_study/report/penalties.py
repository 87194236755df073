"""Which rows of two linear probes are compared: the penalty of both is chosen alike, or fixed.

How strong its penalty is changes what a probe gains from a projection. So a verdict is on probes
whose penalties were chosen on the sources in the same way; where a table has no such rows, it is
on the fixed penalty, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from icm_study.experiments.choosing import NOT_CHOSEN
from icm_study.experiments.reading import KINDS, Results

#: What tells the rows of one method in a table of results: its columns with their values.
Side = Mapping[str, str]

PROBE = "linear probe"
CHOSEN, FIXED = "penalty chosen", "penalty fixed at C = 0.316"
UNLIKE = f"{FIXED}, not so the rival's"
#: The same method with the penalty of its probe chosen.
PENALTY_CHOSEN = {
    "plain": "tuned penalty",
    **{f"ICM auto {kind}": f"tuned penalty, ICM {kind}" for kind in (*KINDS, "oracle")},
    **{f"ICM {kind}": f"tuned penalty, chosen ICM {kind}" for kind in (*KINDS, "oracle")},
    **{name: f"tuned penalty, {name}" for name in ("SPD", "SHED", "TIE")},
}
#: Families of methods that bring a classifier of their own, whose settings hold its penalty.
OWN_CLASSIFIER = ("probe", "adapter", "prompts")


class Pair(NamedTuple):
    """Two sides to compare, and what is said of the penalty: nothing where no probe is.

    Attributes
    ----------
    ours, theirs : mapping of str to str
    penalty : str
        Empty, :data:`CHOSEN`, :data:`FIXED`, or :data:`UNLIKE` where the rival's alone is chosen.
    """

    ours: Side
    theirs: Side
    penalty: str

    @property
    def said(self) -> str:
        """The penalty as the end of what a way to run CLIP-ICM is called."""
        return f", {self.penalty}" if self.penalty else ""


def alike(results: Results, ours: Side, theirs: Side) -> Pair:
    """Give the rows by which two methods are compared.

    Parameters
    ----------
    results : Results
    ours, theirs : mapping of str to str
        Method, predictor and choice, of methods with the fixed penalty.

    Returns
    -------
    Pair
        The sides with chosen penalties, if both have such rows; otherwise as they came.
    """
    if PROBE not in (ours["predictor"], theirs["predictor"]):
        return Pair(ours, theirs, "")
    one, other = (with_chosen_penalty(results, side) for side in (ours, theirs))
    if one and other:
        return Pair(one, other, CHOSEN)
    return Pair(ours, theirs, UNLIKE if theirs["predictor"] == PROBE and other == theirs else FIXED)


def with_chosen_penalty(results: Results, side: Side) -> Side | None:
    """Give the rows of a method whose penalty was chosen, or that has none; None if not run."""
    method, predictor, choice = (side[name] for name in ("method", "predictor", "choice"))
    if predictor != PROBE:
        return side
    if method in PENALTY_CHOSEN:
        choice = results.choice if choice == NOT_CHOSEN else choice
        tuned = {"method": PENALTY_CHOSEN[method], "predictor": predictor, "choice": choice}
        return tuned if results.has(tuned) else None
    families = set(results.table.loc[results.table["method"] == method, "family"])
    return side if families & set(OWN_CLASSIFIER) else None
