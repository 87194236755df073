"""One run of the study: from a notebook's parameters to its table of results with a record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from icm_study.embedding.store import EmbeddingStore
from icm_study.embedding.tables import Embedder
from icm_study.encoders.loading import load_encoder
from icm_study.experiments.diagnosis import diagnose, rounded_spectra
from icm_study.experiments.reading import Results
from icm_study.experiments.record import gather, run_record, write_table
from icm_study.experiments.run import Plan, check_seeds, run
from icm_study.testbeds.animal_variants import AnimalVariants
from icm_study.testbeds.base import TestBed
from icm_study.testbeds.opening import open_testbeds


def run_study(notebook: str, given: Mapping[str, Any]) -> pd.DataFrame:
    """Run what the parameters of a notebook say.

    Parameters
    ----------
    notebook : str
        The notebook's name, without its ending, for the record.
    given : mapping of str to value
        Its parameters: what :func:`~icm_study.testbeds.opening.open_testbeds` reads,
        *encoder*, *seeds* and *cache*, and as far as it has them *targets*, *methods*,
        *choices* and *settings* (see :class:`~icm_study.experiments.run.Plan`).

    Returns
    -------
    DataFrame
        The rows of :func:`~icm_study.experiments.run.run`. Its attributes are the record,
        with what the pages say of the data, its diagnosis and its spectrum.

    Raises
    ------
    ValueError
        If a parameter is not valid; before anything is embedded. And as the parts.
    """
    plan = Plan(
        given.get("methods") or (), given.get("choices", ("intervened",)), given.get("settings", {})
    )
    check_seeds(given["seeds"])
    beds = open_testbeds(given)
    for bed in beds:
        bed.targets(given.get("targets"))
    embedder = Embedder(load_encoder(given["encoder"]), EmbeddingStore(given["cache"]))
    table = run(beds, embedder, given["seeds"], given.get("targets"), plan)
    table.attrs.update(record_of(notebook, given, beds[0], embedder))
    return table


def record_of(
    notebook: str, given: Mapping[str, Any], bed: TestBed, embedder: Embedder
) -> dict[str, Any]:
    """Describe a run on a test bed, see :func:`~icm_study.experiments.record.run_record`.

    Beside the record of every run it has *testbed* (its name, world, note and what an
    interval speaks for), *diagnosis* (of every seed that draws images anew), and the
    *spectrum* (of the first seed).
    """
    seeds = given["seeds"] if bed.over == "seeds" else given["seeds"][:1]
    data = [bed.embed(embedder, seed) for seed in seeds]
    prints = {bed.name: data[0].provenance["pixels"]} | data[0].provenance.get("variants", {})
    if data[0].pairs is not None:
        prints["projection_images"] = data[0].pairs.attrs["images"]
    used = [embedder.encoder, *([bed.reference] if isinstance(bed, AnimalVariants) else [])]
    return run_record(notebook, given, used, prints) | {
        "testbed": {"name": bed.name, "world": bed.world, "note": bed.note, "over": bed.over},
        "diagnosis": diagnose(data).to_dict("list"),
        "spectrum": rounded_spectra(data[0]),
    }


def open_results(notebook: str, given: Mapping[str, Any]) -> Results:
    """Read the tables that the parameters of a notebook name, or run what the others say.

    Parameters
    ----------
    notebook : str
        The notebook's name, without its ending.
    given : mapping of str to value
        Its parameters, as for :func:`run_study`; also *tables*, paths of earlier runs to show
        together, and *results*, where to write the table.

    Returns
    -------
    Results
    """
    tables = given.get("tables")
    table = gather(tables) if tables else run_study(notebook, given)
    write_table(table, given.get("results"))
    return Results(table)
