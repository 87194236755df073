"""Compare all methods on one target: choose settings without peeking, in three ways, and measure.

A setting is chosen by its accuracy

- on ``held-out`` source images, as they are: these carry the shortcut of the sources;
- on a ``left-out`` source domain, each in turn, with the method fitted on the others;
- on ``intervened`` held-out source images, by interventions that the fitted method has
  not seen: a method that learns from image interventions is fitted without each of them
  in turn, and judged on the images that got it;
- by ``peeking`` at the target, shown only to see what honesty costs at most: the
  setting that is best on the very images that it is measured on is partly best by luck.

Each chosen setting is then measured with the method fitted on all sources. As a
reference, a few methods are also trained on one half of the target's own labelled
images, instead of the sources, and measured on the other, at the setting that is best
there: what some labels of the target give."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from icm_study.animals.latents import STYLES
from icm_study.animals.silhouettes import Silhouettes
from icm_study.embedding.store import EmbeddingStore
from icm_study.embedding.tables import Environments
from icm_study.encoders.encoder import Encoder
from icm_study.experiments.domain_generalization import World, world_name
from icm_study.experiments.intervals import bootstrap_interval, pack
from icm_study.experiments.task import Task, animal_task, folder_task
from icm_study.methods.base import Method
from icm_study.methods.registry import METHODS, Entry
from icm_study.methods.sources import Images, Sources

SELECTIONS = ("held-out", "left-out", "intervened", "peeking")

TARGET = "unseen"  # the condition that stands for the target

REFERENCE = "trained on half of the target"

Hits = dict[str, np.ndarray]  # predictor -> for each image, whether it is classified correctly


@threadpool_limits.wrap(
    limits=1, user_api="blas"
)  # the matrices are too small to gain from threads
def compare(task: Task, methods: Sequence[str] = tuple(METHODS), *, seed: int = 0) -> pd.DataFrame:
    """Fit, choose and measure methods on one task.

    Parameters
    ----------
    task : Task
    methods : sequence of str
        Keys of :data:`~icm_study.methods.registry.METHODS`.
    seed : int
        Random state of the methods that draw random numbers.

    Returns
    -------
    DataFrame
        One row for each method, predictor, selection and condition. Columns method,
        predictor, family, selection (``"none"`` for a method with one setting), setting
        (JSON), fit_seconds, n_parameters, condition, n, value, low, high (accuracy in
        percent, with a 95 % bootstrap interval over test images) and correct (bits, see
        :func:`~icm_study.experiments.intervals.unpack`). The seconds alone differ from run to run.

    Warns
    -----
    UserWarning
        If a method, or one of its settings, cannot be fitted with this encoder or on
        these sources: it is left out, and the others are kept.

    Raises
    ------
    ValueError
        If a method is unknown or named twice, none is given, or the sources have one domain only.
    """
    _check_names("methods", methods, METHODS)
    if len(np.unique(task.sources.images.domain)) < 2:
        raise ValueError(
            "The sources have one domain, and settings are also chosen on a source domain "
            "that is left out; expected "
            "two source domains or more beside the target."
        )
    folds = _folds(task)
    rows: list[dict[str, Any]] = []
    for name in tqdm(methods, desc="methods", unit="method"):
        entry = METHODS[name]
        try:
            measured = [*_choose(name, task, folds, seed), *_trained_on_target(name, task, seed)]
        except ValueError as error:  # such as an encoder without a part that the method changes
            warnings.warn(f"The method {name!r} is left out: {error}", stacklevel=2)
            continue
        for row, hits in measured:
            rows += [{"method": name, "family": entry.family} | row | _measure(hits, condition)
                     for condition in hits]  # fmt: skip
    return pd.DataFrame(rows)


def run_comparison(
    dataset: str,
    encoder: Encoder,
    store: EmbeddingStore,
    *,
    seeds: Iterable[int],
    methods: Sequence[str] = tuple(METHODS),
    world: World | Sequence[Any] | None = None,
    silhouettes: Silhouettes | None = None,
    n: int | None = None,
    folder: Environments | None = None,
    words: Sequence[str] = (),
    targets: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Compare methods with each domain as the target, for each seed.

    Parameters
    ----------
    dataset : str
        ``"animal-world"``, or the name of the folder's data set.
    encoder : Encoder
    store : EmbeddingStore
    seeds : iterable of int
        In the animal world each draws new images; a folder is split anew by each.
    methods : sequence of str
        Keys of :data:`~icm_study.methods.registry.METHODS`.
    world, silhouettes, n
        For the animal world, see :func:`~icm_study.experiments.task.animal_task`.
    folder, words
        For a folder, see :func:`~icm_study.experiments.task.folder_task`.
    targets : sequence of str, optional
        Domains to leave out in turn; by default every one.

    Returns
    -------
    DataFrame
        The rows of :func:`compare`, with dataset, encoder, world, target and seed.

    Raises
    ------
    ValueError
        If there is nothing to run, a target or a method is unknown, or as the task.
    """
    seeds = tuple(seeds)
    domains = STYLES if folder is None else folder.domains
    chosen = domains if targets is None else tuple(targets)
    _check_names("targets", targets if targets is not None else domains, domains)
    _check_names("methods", methods, METHODS)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds={seeds}; expected at least one seed, and each once.")
    tables = []
    for seed, target in tqdm(
        [(s, t) for s in seeds for t in chosen], desc="targets", unit="target"
    ):
        number = domains.index(target)
        if folder is not None:
            task = folder_task(encoder, folder, words, store, number, seed=seed)
        elif silhouettes is not None and world is not None:
            task = animal_task(encoder, silhouettes, store, world, number, seed=seed, n=n)
        else:
            raise ValueError(
                f"Nothing to run on: silhouettes={silhouettes!r}, world={world!r}, "
                f"folder={folder!r}. Give a folder, or "
                "silhouettes and a world."
            )
        tables.append(compare(task, methods, seed=seed).assign(target=target, seed=seed))
    where = dataset if world is None else world_name(world)
    return pd.concat(tables, ignore_index=True).assign(
        dataset=dataset, encoder=encoder.name, world=where
    )


def _check_names(what: str, names: Sequence[str], known: Iterable[str]) -> None:
    """Refuse a lone string, an empty list, repeated and unknown names."""
    if isinstance(names, str):
        raise TypeError(f"{what} is {names!r}; expected a sequence of names. Write [{names!r}].")
    unknown = [name for name in names if name not in known]
    if unknown or not names or len(set(names)) < len(names):
        raise ValueError(
            f"{what}={list(names)}; expected some of {list(known)}, each once. Unknown: {unknown}."
        )


def pick(table: pd.DataFrame, selection: str) -> pd.DataFrame:
    """Keep the rows whose setting was chosen in one way, and those of methods with nothing to choose.

    Parameters
    ----------
    table : DataFrame
        Rows of :func:`compare`.
    selection : str
        One of :data:`SELECTIONS`.

    Returns
    -------
    DataFrame

    Raises
    ------
    ValueError
        If the selection is unknown.
    """
    if selection not in SELECTIONS:
        raise ValueError(f"selection={selection!r} is unknown; choose one of {SELECTIONS}.")
    return table[table["selection"].isin(["none", selection])]


def by_worst_case(means: pd.DataFrame) -> pd.DataFrame:
    """Order methods by their accuracy under the condition where they do worst.

    Parameters
    ----------
    means : DataFrame
        Columns predictor, method, condition, value, low, high: one row for each method
        and condition.

    Returns
    -------
    DataFrame
        For each predictor and method the row of its worst condition, the best first.
    """
    worst = means.groupby(["predictor", "method"], sort=False)["value"].idxmin()
    return (
        means.loc[worst].sort_values("value", ascending=False, kind="stable").reset_index(drop=True)
    )


Fold = tuple[Sources, list[Images]]  # what is fitted on, and the images that it is judged on


def _folds(task: Task) -> dict[str, list[Fold]]:
    """Parts of the sources to fit on, each made once, so that methods share what they compute on it."""
    images, held_out = task.sources.images, task.held_out
    left_out = [
        (
            task.sources.take(images.domain != domain),
            [part.take(part.domain == domain) for part in (images, held_out.images)],
        )
        for domain in np.unique(images.domain)
    ]
    intervened = [
        (task.sources.without(name), [held_out.intervened.take(held_out.drawn == name)])
        for name in np.unique(held_out.drawn)
    ]
    return {"left-out": left_out, "intervened": intervened}


def _choose(
    name: str, task: Task, folds: dict[str, list[Fold]], seed: int
) -> Iterator[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """Give each choice of a setting, and by it the hits under each condition."""
    entry = METHODS[name]
    settings = entry.settings(task.sources.prompts.shape[1])
    folds = folds if len(settings) > 1 else {}
    tried = _each(name, settings, lambda setting: _try(entry, setting, task, folds, seed))
    yield from _best(entry, tried, SELECTIONS if len(settings) > 1 else ["none"])


@dataclass(frozen=True)
class _Tried:
    """A setting, fitted on all sources: its hits on the tests, and its accuracy by each selection."""

    setting: dict[str, Any]
    seconds: float
    n_parameters: dict[str, int]
    tests: dict[str, Hits]
    accuracy: dict[str, dict[str, float]]


def _each(
    name: str, settings: Sequence[dict[str, Any]], attempt: Callable[[dict[str, Any]], _Tried]
) -> list[_Tried]:
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
            f"{len(errors)} of the {len(settings)} settings of {name!r} are left out: {errors[0]}",
            stacklevel=2,
        )
    return tried


def _best(
    entry: Entry, tried: Sequence[_Tried], selections: Sequence[str]
) -> Iterator[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """Give, for each predictor and selection, the row of the best setting (of equals the first) and its hits."""
    for predictor in entry.predictors or entry.make().predictors:
        for selection in selections:
            best = max(tried, key=lambda one: one.accuracy[selection][predictor])
            row = {
                "predictor": predictor, "selection": selection, "setting": json.dumps(best.setting),
                "fit_seconds": best.seconds, "n_parameters": best.n_parameters[predictor],
            }  # fmt: skip
            yield row, {condition: hits[predictor] for condition, hits in best.tests.items()}


def _make(entry: Entry, setting: dict[str, Any], seed: int) -> Method:
    method = entry.make(**setting)
    return method.set_params(random_state=seed) if "random_state" in method.get_params() else method


def _try(
    entry: Entry, setting: dict[str, Any], task: Task, folds: dict[str, list[Fold]], seed: int
) -> _Tried:
    task.sources.borrowed_seconds()
    start = time.perf_counter()
    fitted = _make(entry, setting, seed).fit(task.sources)
    seconds = time.perf_counter() - start + task.sources.borrowed_seconds()
    tests = {name: _hits(fitted, images) for name, images in task.tests.items()}
    accuracy: dict[str, dict[str, float]] = {"none": dict.fromkeys(fitted.predictors, 0.0)}
    if folds:
        judged = {"held-out": [_hits(fitted, task.held_out.images)], "peeking": [tests[TARGET]]}
        for selection, parts in folds.items():
            if selection == "intervened" and not fitted.sees_image_interventions:
                judged[selection] = [_hits(fitted, task.held_out.intervened)]
            else:
                again = [
                    (_make(entry, setting, seed).fit(sources), images) for sources, images in parts
                ]
                judged[selection] = [_hits(method, *images) for method, images in again]
        accuracy |= {selection: _accuracy(hits, selection) for selection, hits in judged.items()}
    return _Tried(setting, seconds, fitted.n_parameters_, tests, accuracy)


def _trained_on_target(
    name: str, task: Task, seed: int
) -> Iterator[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """Fit on each half of the target and measure on the other, at the setting that is best there."""
    entry = METHODS[name]
    if not entry.on_target or TARGET not in task.tests:
        return
    target = task.tests[TARGET]
    halves = train_test_split(
        np.arange(len(target)), test_size=0.5, stratify=target.label, random_state=seed
    )

    def attempt(setting: dict[str, Any]) -> _Tried:
        start = time.perf_counter()
        fitted = [
            _make(entry, setting, seed).fit(task.sources.labelled(target.take(half)))
            for half in halves
        ]
        seconds = (time.perf_counter() - start) / len(halves)
        hits = {name: np.empty(len(target), dtype=bool) for name in fitted[0].predictors}
        for method, half in zip(fitted, reversed(halves), strict=True):
            for predictor, correct in _hits(method, target.take(half)).items():
                hits[predictor][half] = correct
        accuracy = {REFERENCE: _accuracy([hits], REFERENCE)}
        return _Tried(setting, seconds, fitted[0].n_parameters_, {TARGET: hits}, accuracy)

    tried = _each(name, entry.settings(task.sources.prompts.shape[1]), attempt)
    yield from _best(entry, tried, [REFERENCE])


def _hits(method: Method, *parts: Images) -> Hits:
    scores = [(method.scores(images), images.label) for images in parts if len(images)]
    return {
        name: np.concatenate([of[name].argmax(axis=1) == label for of, label in scores])
        for name in method.predictors
    }


def _accuracy(judged: list[Hits], selection: str) -> dict[str, float]:
    """Mean over left-out domains, which count alike; over images otherwise."""
    names = judged[0]
    if selection == "left-out":
        return {name: float(np.mean([hits[name].mean() for hits in judged])) for name in names}
    return {name: float(np.concatenate([hits[name] for hits in judged]).mean()) for name in names}


def _measure(hits: dict[str, np.ndarray], condition: str) -> dict[str, Any]:
    correct = hits[condition]
    low, high = bootstrap_interval(correct)
    percent = {"value": 100 * float(correct.mean()), "low": 100 * low, "high": 100 * high}
    return {"condition": condition, "n": len(correct), "correct": pack(correct)} | percent
