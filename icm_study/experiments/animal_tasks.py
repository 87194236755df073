"""The tasks of the animal world, one after the other, for experiments on embeddings alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from icm_study.embedding.tables import EmbeddedData
from icm_study.experiments.questions import open_animals
from icm_study.experiments.task import Task, make_task
from icm_study.testbeds.base import PROTOCOLS


class AnimalTask(NamedTuple):
    """A task with the data that it was made of; `where` tells its target and seed."""

    where: dict[str, Any]
    target: int
    data: EmbeddedData
    task: Task


def animal_tasks(given: Mapping[str, Any], protocol: str = PROTOCOLS[0]) -> Iterator[AnimalTask]:
    """Leave out each style in turn, for each seed; coat and scene follow the class by 0.9.

    Parameters
    ----------
    given : mapping of str to value
        Parameters of a notebook, of which these count: *encoder*, *seeds*, *n_images* and *cache*.
    protocol : str
    """
    for seed, embedder, bed, data in open_animals(given, protocol=protocol):
        for target in bed.targets():
            task = make_task(bed, embedder, data, target, seed)
            number = bed.domains.index(str(target))
            yield AnimalTask({"target": target, "seed": seed}, number, data, task)
