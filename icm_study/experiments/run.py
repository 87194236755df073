"""The engine: fit methods on test beds, choose their settings, measure; one tidy table.

For each test bed, seed and target every method is fitted on the sources with each of its
settings. Each way of choosing takes the best setting (of equals the first, which changes
least), for each predictor on its own, and what it chose is measured on every test. As a
reference, a few methods are also trained on one half of the target's own labelled images,
instead of the sources, and measured on the other, at the setting that is best there.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from icm_study.embedding.tables import EmbeddedData, Embedder
from icm_study.experiments.choosing import CHOICES, NOT_CHOSEN, REFERENCE, Choice, Fold
from icm_study.experiments.clusters import pack_groups
from icm_study.experiments.intervals import pack
from icm_study.experiments.task import Task, make_task
from icm_study.methods.base import Method
from icm_study.methods.registry import METHODS, Entry, Grid, check_methods, check_names
from icm_study.methods.sources import Images, Sources
from icm_study.testbeds.base import TestBed
from icm_study.testbeds.splits import group_folds

#: CLIP-ICM and the simplest rivals; what the data have no pairs of is left out.
ICM_AND_PLAIN = (
    "plain", "augmentation", "augmentation oracle",
    "ICM image", "ICM text", "ICM image+text", "ICM oracle",
    "ICM auto image", "ICM auto text", "ICM auto image+text", "ICM auto oracle",
)  # fmt: skip
Hits = dict[
    str, NDArray[np.bool_]
]  # predictor -> for each image, whether it is classified correctly


@dataclass(frozen=True)
class Plan:
    """What is fitted, and how settings are chosen.

    Attributes
    ----------
    methods : sequence of str, or "all"
        Keys of :data:`~icm_study.methods.registry.METHODS`, or all of them; empty takes
        :data:`ICM_AND_PLAIN`.
    choices : sequence of str
        Keys of :data:`~icm_study.experiments.choosing.CHOICES`.
    settings : mapping of str to mapping
        For some methods, values to try by parameter, in the place of the registry's.

    Raises
    ------
    ValueError, TypeError
        If a name is unknown or given twice, or there is no choice.
    """

    methods: Sequence[str] = ()
    choices: Sequence[str] = ("intervened",)
    settings: Mapping[str, Grid] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.methods == "all":
            object.__setattr__(self, "methods", tuple(METHODS))
        check_methods(self.methods or ICM_AND_PLAIN, self.settings)
        check_names("choices", self.choices, CHOICES)

    def methods_for(self, task: Task) -> list[str]:
        """Name the methods; by default those that the sources have pairs and classes for."""
        if self.methods:
            return list(self.methods)
        return [name for name in ICM_AND_PLAIN if _can_be_fitted(METHODS[name], task.sources)]


def run(
    beds: Sequence[TestBed],
    embedder: Embedder,
    seeds: Sequence[int],
    targets: Sequence[str] | None = None,
    plan: Plan | None = None,
) -> pd.DataFrame:
    """Run methods on test beds, with each domain as the target, for each seed.

    Parameters
    ----------
    beds : sequence of TestBed
    embedder : Embedder
    seeds : sequence of int
        Of a simulator each draws new images; what is a folder is split anew by each.
    targets : sequence of str, optional
        Domains to leave out in turn; by default every one.
    plan : Plan, optional

    Returns
    -------
    DataFrame
        The rows of :func:`run_task`, with dataset, encoder, protocol, world, shortcut,
        strength, target and seed.

    Raises
    ------
    ValueError
        If there is nothing to run, a seed or world is given twice, a target is unknown, or
        the data cannot be divided; before anything is embedded.
    """
    plan = plan or Plan()
    check_seeds(seeds)
    worlds = [(bed.name, bed.world) for bed in beds]
    if not beds or len(set(worlds)) < len(worlds):
        raise ValueError(f"Test beds: {worlds}; expected at least one, each once.")
    runs = [
        (bed, seed, target) for bed in beds for seed in seeds for target in bed.targets(targets)
    ]
    for bed, seed in product(beds, seeds):
        bed.check_splits(bed.targets(targets), seed)
    tables = []
    data: EmbeddedData | None = None
    embedded: tuple[Any, ...] = ()
    needs_draws = any(CHOICES[name].needs_draws for name in plan.choices)
    for bed, seed, target in tqdm(runs, desc="runs", unit="run"):
        wanted = (bed.name, bed.world, seed if bed.over == "seeds" else None)
        if data is None or embedded != wanted:
            data, embedded = bed.embed(embedder, seed), wanted
        task = make_task(bed, embedder, data, target, seed, with_draws=needs_draws)
        where = bed.columns | {"encoder": embedder.encoder.name, "target": target or "none"}
        tables.append(run_task(task, plan, seed).assign(**where, seed=seed))
    return pd.concat(tables, ignore_index=True)


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuse no seeds, and seeds that are given twice or are no integers.

    Raises
    ------
    ValueError
    """
    is_list = isinstance(seeds, Sequence) and all(isinstance(seed, int) for seed in seeds)
    if not is_list or not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds={seeds!r}; expected a list of integers such as [0, 1], each once.")


def run_task(task: Task, plan: Plan, seed: int = 0) -> pd.DataFrame:
    """Fit, choose and measure methods on one task.

    Parameters
    ----------
    task : Task
    plan : Plan
    seed : int
        Random state of the methods that draw random numbers.

    Returns
    -------
    DataFrame
        One row for each method, predictor, choice and condition. Columns method, family,
        predictor, choice (``"none"`` for a method with one setting), setting (JSON), K and
        consistency_weight (of a projection), fit_seconds, n_parameters, condition, n, value
        (accuracy in percent) and correct (bits, see
        :func:`~icm_study.experiments.intervals.unpack`); where images come in groups also
        group (see :func:`~icm_study.experiments.clusters.pack_groups`). The seconds alone
        differ from run to run.

    Warns
    -----
    UserWarning
        If a method, or one of its settings, cannot be fitted with this encoder or on these
        sources, or the target is too small to be halved: it is left out, the rest is kept.

    Raises
    ------
    ValueError
        If a choice cannot be made on this task, or no method can be fitted.
    """
    small = task.sources.images.embedded.size < 2e7  # such matrices gain nothing from threads
    rows: list[dict[str, Any]] = []
    errors: dict[str, ValueError] = {}
    with threadpool_limits(limits=1 if small else None, user_api="blas"):
        judge = Judge(task, [CHOICES[name] for name in plan.choices])
        for name in tqdm(plan.methods_for(task), desc="methods", unit="method", leave=False):
            trial = Trial(name, METHODS[name], plan.settings.get(name), seed)
            try:
                measured = [*trial.chosen(judge)]
            except ValueError as error:  # such as an encoder without a part that it changes
                errors[f"The method {name!r}"] = error
                continue
            try:
                measured += trial.trained_on_target(task)
            except ValueError as error:  # such as a class with one image, not to be halved
                errors[f"What {name!r} reaches when trained on half of the target"] = error
            rows += [
                {"method": name, "family": METHODS[name].family}
                | row
                | _measured(hits, condition, task.tests[condition])
                for row, tests in measured
                for condition, hits in tests.items()
            ]
    said = [f"{what} is left out: {error}" for what, error in errors.items()]
    if not rows:
        raise ValueError("\n".join(["No method can be fitted.", *said]))
    for line in said:
        warnings.warn(line, stacklevel=2)
    return pd.DataFrame(rows)


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
        self._folds: dict[tuple[str, frozenset[str]], list[Fold]] = {}
        for choice in choices:
            choice.check(task)

    def folds(self, choice: Choice, sees: frozenset[str]) -> list[Fold]:
        """Give what a method that sees some kinds of interventions is fitted and judged on."""
        key = choice.name, sees & {"image", "oracle"}
        if key not in self._folds:
            self._folds[key] = choice.folds(self.task, key[1])
        return self._folds[key]

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
        settings = self.entry.settings(judge.task.sources.prompts.shape[1], self.given)
        choices = judge.choices if len(settings) > 1 else []
        fitted = self._each(settings, lambda setting: self._fit(setting, judge, choices))
        measured: dict[int, dict[str, Hits]] = {}  # by the place of the setting
        for predictor in fitted[0].method.n_parameters_:
            for choice in [one.name for one in choices] or [NOT_CHOSEN]:
                place = 0
                if choice != NOT_CHOSEN:
                    place = int(np.argmax([one.accuracy[choice][predictor] for one in fitted]))
                if place not in measured:
                    measured[place] = judge.measure(fitted[place].method)
                hits = {name: of[predictor] for name, of in measured[place].items()}
                yield self._row(fitted[place], predictor, choice), hits

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
            yield self._row(best, predictor, REFERENCE), {task.target: hits[predictor]}

    def _fit(self, setting: dict[str, Any], judge: Judge, choices: Sequence[Choice]) -> Fitted:
        sources = self._asked(judge.task.sources)
        sources.shared.borrowed_seconds()
        start = time.perf_counter()
        method = self._make(setting).fit(sources)
        seconds = time.perf_counter() - start + sources.shared.borrowed_seconds()
        accuracy: dict[str, dict[str, float]] = {}
        for choice in choices:
            judged = []
            for fold in judge.folds(choice, method.sees_interventions):
                own = fold.sources is judge.task.sources
                fitted = method if own else self._make(setting).fit(self._asked(fold.sources))
                judged.append(hits_of(fitted, fold.judged))
            accuracy[choice.name] = {
                name: choice.accuracy([hits[name] for hits in judged]) for name in judged[0]
            }
        return Fitted(setting, method, seconds, accuracy)

    def _make(self, setting: dict[str, Any]) -> Method:
        method = self.entry.make(**setting)
        takes_seed = "random_state" in method.get_params()
        return method.set_params(random_state=self.seed) if takes_seed else method

    def _asked(self, sources: Sources) -> Sources:
        """Ask for the predictors that are reported of this method."""
        names = self.entry.predictors or self._make({}).predictors
        asked = tuple(name for name in sources.predictors if name in names)
        if not asked:
            raise ValueError(
                f"it answers by {' and '.join(names)} only, and the tests have classes that the "
                "sources have not, which zero-shot alone can tell."
            )
        return replace(sources, predictors=asked)

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

    def _row(self, fitted: Fitted, predictor: str, choice: str) -> dict[str, Any]:
        method = fitted.method
        return {
            "predictor": predictor, "choice": choice, "setting": json.dumps(fitted.setting),
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


def _can_be_fitted(entry: Entry, sources: Sources) -> bool:
    """Say whether sources have the pairs that a method learns from, and its predictors."""
    (setting, *_) = entry.settings(sources.prompts.shape[1])
    method = entry.make(**setting)
    if not set(entry.predictors or method.predictors) & set(sources.predictors):
        return False
    has = {"image", *sources.copies} if sources.others is None else set(sources.others)
    has |= {"text"} if sources.others is None and len(sources.texts[0]) else set()
    return method.sees_interventions <= has


def _measured(correct: NDArray[np.bool_], condition: str, images: Images) -> dict[str, Any]:
    measured = {
        "condition": condition, "n": len(correct), "value": 100 * float(correct.mean()),
        "correct": pack(correct),
    }  # fmt: skip
    return measured if images.group is None else measured | {"group": pack_groups(images.group)}
