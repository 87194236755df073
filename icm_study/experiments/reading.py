"""Read a table of results: what an interval speaks for, which rows answer a question, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from icm_study.experiments.choosing import NOT_CHOSEN
from icm_study.experiments.intervals import aggregate, contrasts
from icm_study.experiments.settings import KINDS

#: Conditions that are shifts, the mildest first.
SHIFTS = ("unseen", "reversed", "new_classes")
#: What a row is told by, beside seed and target.
IDENTITY = ("world", "predictor", "method", "choice", "condition")


@dataclass(frozen=True)
class Results:
    """A table of results with its record, of one data set and one encoder.

    Attributes
    ----------
    table : DataFrame
        Rows of :func:`~icm_study.experiments.run.run`.
    record : dict
        What it takes to repeat the run; taken from the attributes of the table. They are left
        there no longer: pandas copies all of them whenever rows or columns are selected.
    """

    table: pd.DataFrame
    record: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Take the record from the table."""
        if self.table.attrs:
            table = self.table.copy(deep=False)
            object.__setattr__(self, "record", table.attrs)
            table.attrs = {}
            object.__setattr__(self, "table", table)

    @property
    def over(self) -> str:
        """What an interval speaks for, ``"seeds"``, ``"images"`` or ``"groups"``."""
        return self.record["testbed"]["over"]

    @property
    def encoder(self) -> str:
        """The encoder's name."""
        return self.record["parameters"]["encoder"]

    @property
    def world(self) -> str:
        """The world that is judged: the first, or the only one."""
        return self.record["testbed"]["world"]

    @property
    def choice(self) -> str:
        """The way of choosing settings that is judged: the first that was run."""
        return self.record["parameters"].get("choices", ["intervened"])[0]

    @property
    def n_runs(self) -> str:
        """How many runs there are, in words."""
        counts = {"seed": self.table["seed"].nunique()}
        if set(self.table["target"]) != {"none"}:
            counts["target"] = self.table["target"].nunique()
        return ", ".join(f"{n} {what}{'s' * (n != 1)}" for what, n in counts.items())

    @property
    def conditions(self) -> list[str]:
        """The conditions that were measured, in order."""
        return list(self.table["condition"].unique())

    @property
    def shifts(self) -> list[str]:
        """Of these, the shifts: all but in distribution and the classes that were seen."""
        return [c for c in self.conditions if c not in ("in_distribution", "seen_classes")]

    @property
    def kinds(self) -> list[str]:
        """The interventions that CLIP-ICM learnt from and that need no simulator."""
        methods = set(self.table["method"])
        return [kind for kind in KINDS if f"ICM auto {kind}" in methods or f"ICM {kind}" in methods]

    def of(self, **values: str | Sequence[str]) -> Results:
        """Keep the rows with these values, such as ``of(world="coat 0.9")``."""
        table = self.table
        for column, value in values.items():
            kept = [value] if isinstance(value, str) else list(value)
            table = table[table[column].isin(kept)]
        return Results(table, self.record)

    def judged(self) -> Results:
        """Keep the rows of the world that is judged."""
        return self.of(world=self.world)

    def chosen_by(self, choice: str) -> Results:
        """Keep what one way of choosing chose, and the methods with nothing to choose."""
        return self.of(choice=[NOT_CHOSEN, choice])

    def choice_of(self, method: str) -> str:
        """How the settings of a method are chosen where it is judged; "none" of one setting."""
        own = set(self.table.loc[self.table["method"] == method, "choice"])
        return self.choice if self.choice in own else NOT_CHOSEN

    def side_of(self, method: str, predictor: str) -> dict[str, str] | None:
        """Tell a method's rows as they are judged; None if it was not run."""
        side = {"method": method, "predictor": predictor, "choice": self.choice_of(method)}
        return side if self.has(side) else None

    def has(self, side: Mapping[str, str]) -> bool:
        """Say whether there are rows with these values."""
        return bool(np.logical_and.reduce([self.table[k] == v for k, v in side.items()]).any())

    def means(self, by: Sequence[str] = IDENTITY) -> pd.DataFrame:
        """Pool targets and seeds, see :func:`~icm_study.experiments.intervals.aggregate`."""
        return aggregate(self.table, by, over=self.over)

    def gain(
        self, side: Mapping[str, str], against: Mapping[str, str], **options: Any
    ) -> pd.DataFrame:
        """Compare two sides, see :func:`~icm_study.experiments.intervals.contrast`."""
        return self.gains([(side, against)], **options).drop(columns="pair")

    def gains(
        self, pairs: Sequence[tuple[Mapping[str, str], Mapping[str, str]]], **options: Any
    ) -> pd.DataFrame:
        """Compare many sides, see :func:`~icm_study.experiments.intervals.contrasts`."""
        return contrasts(self.table, pairs, ["world", "condition"], over=self.over, **options)


def by_worst_case(means: pd.DataFrame) -> pd.DataFrame:
    """Order methods by their accuracy under the condition where they do worst.

    Parameters
    ----------
    means : DataFrame
        Columns predictor, method, condition, value, low, high: one row for each method and
        condition.

    Returns
    -------
    DataFrame
        For each predictor and method the row of its worst condition, the best first.
    """
    worst = means.groupby(["predictor", "method"], sort=False)["value"].idxmin()
    ordered = means.loc[worst].sort_values("value", ascending=False, kind="stable")
    return ordered.reset_index(drop=True)


def quantity(record: Mapping[str, Any], name: str) -> pd.DataFrame:
    """Lay out one quantity of the diagnosis in a run's record: what it is of by interventions.

    Parameters
    ----------
    record : mapping
        With *diagnosis*, the columns of what
        :func:`~icm_study.experiments.diagnosis.diagnose` gives.
    name : str
        Such as ``"share"``.

    Returns
    -------
    DataFrame
        Means over the seeds.
    """
    seen = pd.DataFrame(record["diagnosis"])
    wide = seen[seen["quantity"] == name].pivot_table("value", "of", "intervention", sort=False)
    kinds = [kind for kind in (*KINDS, "oracle") if kind in wide]
    return wide[kinds] if kinds else wide
