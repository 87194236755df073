"""The engine: fit methods on test beds, choose their settings, measure; one tidy table.

For each test bed, seed and target every method is fitted on the sources with each of its
settings. Each way of choosing takes the best setting (of equals the first, which changes
least), for each predictor on its own, and what it chose is measured on every test. As a
reference, a few methods that are asked for by name are also trained on one half of the target's
own labelled images, instead of the sources, and measured on the other, at the setting that is
best there.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from icm_study.embedding.tables import EmbeddedData, Embedder
from icm_study.experiments.choosing import CHOICES, Prospect
from icm_study.experiments.clusters import pack_groups
from icm_study.experiments.intervals import pack
from icm_study.experiments.task import Task, make_task
from icm_study.experiments.trial import Judge, Trial
from icm_study.methods.registry import METHODS, Entry, Grid, check_methods, check_names
from icm_study.methods.sources import Images, Sources
from icm_study.testbeds.base import TestBed

#: CLIP-ICM and the simplest rivals; what the data have no pairs of is left out.
ICM_AND_PLAIN = (
    "plain", "augmentation", "augmentation oracle",
    "ICM image", "ICM text", "ICM image+text", "ICM oracle",
    "ICM auto image", "ICM auto text", "ICM auto image+text", "ICM auto oracle",
    "tuned penalty",
    *(f"tuned penalty, {way} {kind}" for way in ("ICM", "chosen ICM")
      for kind in ("image", "text", "image+text", "oracle")),
)  # fmt: skip


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

    def given(self, name: str) -> Grid:
        """Give the values that a method is to try, with those of the method that it follows."""
        return {**self.settings.get(METHODS[name].after, {}), **self.settings.get(name, {})}


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
        If there is nothing to run, a seed or world is given twice, a target is unknown, the
        data cannot be divided, or a choice cannot be made on them; before anything is
        embedded.
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
        check_splits(bed, seed, targets, plan)
    tables = []
    data: EmbeddedData | None = None
    embedded: tuple[Any, ...] = ()
    needs_draws = any(CHOICES[name].needs_draws for name in plan.choices)
    for left, (bed, seed, target) in zip(
        reversed(range(len(runs))), tqdm(runs, desc="runs", unit="run"), strict=True
    ):
        wanted = (bed.name, bed.world, seed if bed.over == "seeds" else None)
        if data is None or embedded != wanted:
            data, embedded = bed.embed(embedder, seed), wanted
        task = make_task(bed, embedder, data, target, seed, with_draws=needs_draws)
        data = data if left else None  # a task has rows of its own, and memory is short
        where = bed.columns | {"encoder": embedder.encoder.name, "target": target or "none"}
        tables.append(run_task(task, plan, seed).assign(**where, seed=seed))
        del task  # before the next one is made
    return pd.concat(tables, ignore_index=True)


def check_splits(bed: TestBed, seed: int, targets: Sequence[str] | None, plan: Plan) -> None:
    """Find out whether data can be divided, and settings chosen, before anything is embedded.

    Raises
    ------
    ValueError
    """
    for split in bed.foreseen(bed.targets(targets), seed):
        for name in plan.choices:
            CHOICES[name].check(Prospect.of_bed(bed, split))


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
        predictor, choice (``"none"`` for a method with one setting), judged_by (the probe
        whose accuracy the choice went by: ``"itself"``, or on sources above
        :data:`~icm_study.methods.sources.LARGE` what stands in for it, ``"least squares"``,
        or for a penalty of the probe ``"part of the images"``), setting (JSON), K and
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
            trial = Trial(name, METHODS[name], plan.given(name), seed)
            try:
                measured = [*trial.chosen(judge)]
            except ValueError as error:  # such as an encoder without a part that it changes
                errors[f"The method {name!r}"] = error
                continue
            try:
                measured += trial.trained_on_target(task) if plan.methods else []
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
