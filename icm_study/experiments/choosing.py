"""Ways to choose a setting of a method, each a named object.

A setting is chosen by its accuracy

- ``"held-out"``: on held-out source images, as they are. These carry the shortcut of the
  sources, so they prefer a predictor that uses it;
- ``"intervened"``: on held-out source images after an image intervention, of the kind that
  the method was fitted on (after the oracle's own, for a method that learns from these);
- ``"unseen intervention"``: the same by interventions that the fitted method has not seen: a
  method that learns from image interventions is fitted without each of them in turn, and
  judged on the images that got it;
- ``"left-out domain"``: on each source domain in turn, with the method fitted on the others;
- ``"target"``: by peeking at the target, shown only to see what honesty costs at most. The
  setting that is best on the very images that it is measured on is partly best by luck.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from icm_study.experiments.task import Task
    from icm_study.methods.sources import Images, Sources
    from icm_study.testbeds.base import Split, TestBed


@dataclass(frozen=True)
class Fold:
    """What a method is fitted on, and the images that it is judged on."""

    sources: Sources
    judged: Sequence[Images]


@dataclass(frozen=True)
class Prospect:
    """What a choice hangs on; all of it is known of a test bed before anything is embedded.

    Attributes
    ----------
    n_domains : int
        Of the sources.
    interventions : sequence of str
        The image interventions that the images got; empty if nobody knows which got which.
    has_other_pairs : bool
        Whether the projection is estimated from pairs of other images.
    has_target : bool
        Whether one of the tests is the target.
    """

    n_domains: int
    interventions: Sequence[str]
    has_other_pairs: bool
    has_target: bool

    @classmethod
    def of_task(cls, task: Task) -> Prospect:
        """Look at a task."""
        return cls(
            n_domains=len(np.unique(task.sources.images.domain)),
            interventions=np.unique(task.held_out.drawn).tolist(),
            has_other_pairs=task.sources.others is not None,
            has_target=task.target in task.tests,
        )

    @classmethod
    def of_bed(cls, bed: TestBed, split: Split) -> Prospect:
        """Look at a test bed, and one of its splits before anything is embedded."""
        train = split.train
        return cls(
            n_domains=len(np.unique(train["domain"])) if "domain" in train.coords else 1,
            interventions=bed.interventions,
            has_other_pairs=bed.has_other_pairs,
            has_target=split.target in split.tests,
        )


class Choice(ABC):
    """A way to choose a setting.

    Attributes
    ----------
    name : str
    note : str
        What the setting is judged on, in words.
    is_honest : bool
        Whether no image of the target is looked at.
    needs_draws : bool
        Whether it must be known which image intervention each image got.
    """

    name: ClassVar[str]
    note: ClassVar[str]
    is_honest: ClassVar[bool] = True
    needs_draws: ClassVar[bool] = False

    def check(self, prospect: Prospect) -> None:  # noqa: B027  (most refuse nothing)
        """Refuse data on which no setting can be chosen in this way.

        Raises
        ------
        ValueError
        """

    @abstractmethod
    def folds(self, task: Task, sees: Collection[str]) -> list[Fold]:
        """Say what a method is fitted on and judged on.

        Parameters
        ----------
        task : Task
        sees : collection of str
            The kinds of interventions that fitting the method looks at.
        """

    def accuracy(self, hits: Sequence[NDArray[np.bool_]]) -> float:
        """Pool the hits of all folds: the mean over images."""
        return float(np.concatenate(hits).mean())


class HeldOut(Choice):
    """On held-out source images, as they are."""

    name = "held-out"
    note = "plain source images"

    def folds(self, task: Task, sees: Collection[str]) -> list[Fold]:
        """Fit on all sources."""
        return [Fold(task.sources, [task.held_out.images])]


class Intervened(Choice):
    """On held-out source images after an intervention of a kind that was fitted on."""

    name = "intervened"
    note = "source images after an intervention"

    def folds(self, task: Task, sees: Collection[str]) -> list[Fold]:
        """Fit on all sources."""
        kind = "oracle" if "oracle" in sees else "image"
        return [Fold(task.sources, [task.held_out.copies[kind]])]


class UnseenIntervention(Choice):
    """On held-out source images after interventions that the fit has not seen."""

    name = "unseen intervention"
    note = "source images after an intervention that the fit has not seen"
    needs_draws = True

    def check(self, prospect: Prospect) -> None:
        """Refuse pairs of other images, and interventions of which none can be left out."""
        if prospect.has_other_pairs:
            raise ValueError(
                "The projection is estimated from pairs of other images, and the choice 'unseen "
                "intervention' leaves interventions out of its fit. Choose in another way, such as "
                "'intervened'."
            )
        if len(prospect.interventions) < 2:
            what = "do not tell which intervention each of them got"
            for name in prospect.interventions:
                what = f"are intervened on by {name!r} only"
            raise ValueError(
                f"The images {what}, and the choice 'unseen intervention' leaves each "
                "intervention out in turn. Name two or more as 'interventions', where data have "
                "these, or choose in another way, such as 'intervened'."
            )

    def folds(self, task: Task, sees: Collection[str]) -> list[Fold]:
        """Fit without each intervention in turn, where the method looks at them."""
        held_out = task.held_out
        if "image" not in sees:
            return [Fold(task.sources, [held_out.copies["image"]])]
        return [
            Fold(
                task.sources.without(name), [held_out.copies["image"].take(held_out.drawn == name)]
            )
            for name in np.unique(held_out.drawn)
        ]


class LeftOutDomain(Choice):
    """On each source domain in turn, fitted on the others, which count alike."""

    name = "left-out domain"
    note = "source domains that are left out"

    def check(self, prospect: Prospect) -> None:
        """Refuse sources of one domain only."""
        if prospect.n_domains < 2:
            raise ValueError(
                "The sources have one domain, and the choice 'left-out domain' leaves one out; "
                "expected two source domains or more beside the target. Choose in another way."
            )

    def folds(self, task: Task, sees: Collection[str]) -> list[Fold]:
        """Fit without each domain in turn, and without the groups that have an image in it."""
        sources, parts = task.sources.images, (task.sources.images, task.held_out.images)
        folds = []
        for domain in np.unique(sources.domain):
            judged = [part.take(part.domain == domain) for part in parts]
            fitted = sources.domain != domain
            for part in judged:
                if sources.group is not None and part.group is not None:
                    fitted &= ~np.isin(sources.group, part.group)
            folds.append(Fold(task.sources.take(fitted), judged))
        return folds

    def accuracy(self, hits: Sequence[NDArray[np.bool_]]) -> float:
        """Pool the hits of all folds: the mean over domains."""
        return float(np.mean([part.mean() for part in hits]))


class Target(Choice):
    """By peeking at the target."""

    name = "target"
    note = "the target itself (peeking)"
    is_honest = False

    def check(self, prospect: Prospect) -> None:
        """Refuse tests of which none is the target."""
        if not prospect.has_target:
            raise ValueError(
                "The choice 'target' looks at the target, but no single test is the target here: "
                "nothing may be chosen on the images that are tested. Leave it out."
            )

    def folds(self, task: Task, sees: Collection[str]) -> list[Fold]:
        """Fit on all sources."""
        return [Fold(task.sources, [task.tests[task.target]])]


CHOICES: dict[str, Choice] = {
    choice.name: choice
    for choice in (HeldOut(), LeftOutDomain(), Intervened(), UnseenIntervention(), Target())
}
#: How the setting of a method with a single one was chosen.
NOT_CHOSEN = "none"
#: A reference beside the choices: trained on one half of the target, measured on the other.
REFERENCE = "half of the target"
