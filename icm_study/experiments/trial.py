"""A trial of one method on one task: each of its settings is fitted, and the best are measured."""

from __future__ import annotations

import copy
import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from icm_study.experiments.choosing import NOT_CHOSEN, REFERENCE, Choice, Fold, Prospect
from icm_study.experiments.task import Task
from icm_study.methods.base import Method
from icm_study.methods.registry import Entry, Grid
from icm_study.methods.sources import LEAST_SQUARES, PART, Images, Sources
from icm_study.testbeds.splits import group_folds

Hits = dict[
    str, NDArray[np.bool_]
]  # predictor -> for each image, whether it is classified correctly


class Judge:
    """The ways of choosing on one task, whose folds are made once for all methods.

    Raises
    ------
    ValueError
        If a choice cannot be made on the task.
    """

    def __init__(self, task: Task, choices: Sequence[Choice]) -> None:
        self.task = task
        self.choices = choices
        #: Settings that were best, by what was tried, choice and predictor.
        self.best: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._folds: dict[tuple[str, frozenset[str]], list[Fold]] = {}
        for choice in choices:
            choice.check(Prospect.of_task(task))

    def folds(self, choice: Choice, sees: frozenset[str]) -> list[Fold]:
        """Give what a method that sees some kinds of interventions is fitted and judged on."""
        key = choice.name, sees & {"image", "oracle"}
        if key not in self._folds:
            self._folds[key] = choice.folds(self.task, key[1])
        return self._folds[key]

    def by(self, choice: str) -> Judge:
        """Give the same judge with one of its choices alone."""
        one = copy.copy(self)
        one.choices = [own for own in self.choices if own.name == choice]
        return one

    def measure(self, method: Method) -> dict[str, Hits]:
        """Give the hits of a fitted method under each condition."""
        return {
            condition: hits_of(method, [images], self.task.candidates.get(condition))
            for condition, images in self.task.tests.items()
        }


@dataclass(frozen=True)
class Fitted:
    """A setting, fitted on all sources, and its accuracy by each choice and predictor."""

    setting: dict[str, Any]
    method: Method
    seconds: float
    accuracy: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Trial:
    """A method with its settings and a random state."""

    name: str
    entry: Entry
    given: Grid | None
    seed: int

    def chosen(self, judge: Judge) -> Iterator[tuple[dict[str, Any], Hits]]:
        """Give, for each predictor and choice, the row of the best setting and its hits."""
        if self.entry.then:
            yield from self._chosen_in_turn(judge)
            return
        settings = self.entry.settings(judge.task.sources.prompts.shape[1], self.given)
        choices = judge.choices if len(settings) > 1 else []
        stand_in = self._stand_in(settings, judge.task.sources) if choices else ""
        fitted = self._each(settings, lambda setting: self._fit(setting, judge, choices, stand_in))
        # by the place of the setting, and what is fitted anew there
        measured: dict[tuple[int, str], tuple[Fitted, dict[str, Hits]]] = {}
        for predictor in fitted[0].method.n_parameters_:
            for choice in [one.name for one in choices] or [NOT_CHOSEN]:
                place = 0
                if choice != NOT_CHOSEN:
                    place = int(np.argmax([one.accuracy[choice][predictor] for one in fitted]))
                by = stand_in if predictor == "linear probe" else ""
                if (place, by) not in measured:
                    best = fitted[place]
                    if by:  # a probe in the place of what stood in for it
                        best = self._fit(best.setting, judge, only=(predictor,))
                    measured[place, by] = best, judge.measure(best.method)
                best, tests = measured[place, by]
                judge.best[self._tried(settings), choice, predictor] = best.setting
                hits = {name: of[predictor] for name, of in tests.items()}
                yield self._row(best, predictor, choice, by or "itself"), hits

    def _chosen_in_turn(self, judge: Judge) -> Iterator[tuple[dict[str, Any], Hits]]:
        """Choose what `then` names at the setting that is best before, for each choice."""
        sources = judge.task.sources
        given = {k: v for k, v in (self.given or {}).items() if k not in self.entry.then}
        first = replace(self, entry=replace(self.entry, then={}), given=given)
        settings = first.entry.settings(sources.prompts.shape[1], given)
        asked = self._asked(sources).predictors
        keys = [(self._tried(settings), one.name, name) for name in asked for one in judge.choices]
        if len(settings) == 1:
            judge.best |= dict.fromkeys(keys, settings[0])
        elif any(key not in judge.best for key in keys):  # no other method has tried the same
            for _ in first.chosen(judge):
                pass
        for key in keys:
            _, choice, predictor = key
            entry = self.entry.given_best(judge.best[key], self.given)
            for row, hits in replace(self, entry=entry, given=None).chosen(judge.by(choice)):
                if row["predictor"] == predictor:
                    yield row, hits

    def _tried(self, settings: Sequence[dict[str, Any]]) -> str:
        """Name what is tried, the same for methods that try the same."""
        return f"{self.entry.make.__name__} {json.dumps(settings)}"

    def trained_on_target(self, task: Task) -> Iterator[tuple[dict[str, Any], Hits]]:
        """Fit on each half of the target and measure on the other, at the setting best there."""
        if not self.entry.on_target or task.target not in task.tests:
            return
        target = task.tests[task.target]
        if target.group is None:
            halves = train_test_split(
                np.arange(len(target)), test_size=0.5, stratify=target.label, random_state=self.seed
            )
        else:
            halves = group_folds(target.label, target.group, 2, self.seed)

        def attempt(setting: dict[str, Any]) -> tuple[Fitted, Hits]:
            start = time.perf_counter()
            methods = [
                self._make(setting).fit(self._asked(task.sources.labelled(target.take(half))))
                for half in halves
            ]
            seconds = (time.perf_counter() - start) / len(halves)
            hits = {name: np.empty(len(target), dtype=bool) for name in methods[0].n_parameters_}
            for method, half in zip(methods, reversed(halves), strict=True):
                for predictor, correct in hits_of(method, [target.take(half)]).items():
                    hits[predictor][half] = correct
            return Fitted(setting, methods[0], seconds, {}), hits

        settings = self.entry.settings(task.sources.prompts.shape[1], self.given)
        tried = self._each(settings, attempt)
        for predictor in tried[0][0].method.n_parameters_:
            best, hits = max(tried, key=lambda one: one[1][predictor].mean())
            yield (
                self._row(best, predictor, REFERENCE) | {"judged_by": "itself"},
                {task.target: hits[predictor]},
            )

    def _stand_in(self, settings: Sequence[dict[str, Any]], sources: Sources) -> str:
        """Say what to choose with, where the sources are too large for a probe at each setting."""
        if not (sources.is_large and self._make({}).has_stand_in):
            return ""
        return PART if "C" in settings[0] else LEAST_SQUARES  # which has another penalty

    def _fit(
        self,
        setting: dict[str, Any],
        judge: Judge,
        choices: Sequence[Choice] = (),
        stand_in: str = "",
        only: Sequence[str] | None = None,
    ) -> Fitted:
        sources = self._asked(judge.task.sources, stand_in=stand_in)
        sources = sources if only is None else replace(sources, predictors=tuple(only))
        sources.shared.borrowed_seconds()
        start = time.perf_counter()
        method = self._make(setting).fit(sources)
        seconds = time.perf_counter() - start + sources.shared.borrowed_seconds()
        accuracy: dict[str, dict[str, float]] = {}
        for choice in choices:
            judged = []
            for fold in judge.folds(choice, method.sees_interventions):
                own = fold.sources is judge.task.sources
                fitted = method
                if not own:
                    asked = self._asked(fold.sources, stand_in=stand_in)
                    fitted = self._make(setting).fit(asked)
                judged.append(hits_of(fitted, fold.judged))
            accuracy[choice.name] = {
                name: choice.accuracy([hits[name] for hits in judged]) for name in judged[0]
            }
        return Fitted(setting, method, seconds, accuracy)

    def _make(self, setting: dict[str, Any]) -> Method:
        method = self.entry.make(**setting)
        takes_seed = "random_state" in method.get_params()
        return method.set_params(random_state=self.seed) if takes_seed else method

    def _asked(self, sources: Sources, *, stand_in: str = "") -> Sources:
        """Ask for the predictors that are reported of this method."""
        names = self.entry.predictors or self._make({}).predictors
        asked = tuple(name for name in sources.predictors if name in names)
        if not asked:
            raise ValueError(
                f"it answers by {' and '.join(names)} only, and the tests have classes that the "
                "sources have not, which zero-shot alone can tell."
            )
        return replace(sources, predictors=asked, stand_in=stand_in)

    def _each(
        self, settings: Sequence[dict[str, Any]], attempt: Callable[[dict[str, Any]], Any]
    ) -> list[Any]:
        """Try every setting; those that cannot be fitted are left out, unless none can."""
        tried, errors = [], []
        for setting in settings:
            try:
                tried.append(attempt(setting))
            except ValueError as error:
                errors.append(error)
        if not tried:
            raise errors[0]
        if errors:
            warnings.warn(
                f"{len(errors)} of the {len(settings)} settings of {self.name!r} are left out: "
                f"{errors[0]}",
                stacklevel=2,
            )
        return tried

    def _row(
        self, fitted: Fitted, predictor: str, choice: str, judged_by: str = "itself"
    ) -> dict[str, Any]:
        method = fitted.method
        return {
            "predictor": predictor, "choice": choice, "judged_by": judged_by,
            "setting": json.dumps(fitted.setting),
            "K": getattr(method, "n_components_", np.nan),
            "consistency_weight": getattr(method, "consistency_weight_", np.nan),
            "fit_seconds": fitted.seconds, "n_parameters": method.n_parameters_[predictor],
        }  # fmt: skip


def hits_of(
    method: Method, parts: Sequence[Images], among: NDArray[np.integer] | None = None
) -> Hits:
    """For each predictor, whether each image is classified correctly.

    Parameters
    ----------
    method : Method
        Fitted.
    parts : sequence of Images
    among : ndarray of int, optional
        The labels to choose among.
    """
    hits: dict[str, list[NDArray[np.bool_]]] = {}
    for images in parts:
        if not len(images):
            continue
        for name, scores in method.scores(images).items():
            if among is not None:
                rest = np.setdiff1d(np.arange(scores.shape[1]), among)
                scores[:, rest] = -np.inf
            hits.setdefault(name, []).append(scores.argmax(axis=1) == images.label)
    return {name: np.concatenate(part) for name, part in hits.items()}
