"""One run of the study: from a notebook's parameters to its table of results with a record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from icm_study.experiments.reading import Results
from icm_study.experiments.record import (
    FILES,
    commit,
    gather,
    read_run,
    read_table,
    run_record,
    write_table,
)
from icm_study.experiments.settings import ANIMALS
from icm_study.fingerprint import fingerprint

if TYPE_CHECKING:
    from icm_core.projection import InvariantProjection
    from icm_study.embedding.tables import EmbeddedData, Embedder
    from icm_study.experiments.run import Plan
    from icm_study.testbeds.base import TestBed


class Study:
    """A run as the parameters of a notebook say it.

    What takes images or an encoder is opened when it is asked for, once: a page that shows
    tables of earlier runs needs neither.

    Parameters
    ----------
    notebook : str
        The notebook's name, without its ending, for the record.
    given : mapping of str to value
        Its parameters: what :func:`~icm_study.testbeds.opening.open_testbeds` reads,
        *encoder*, *seeds* and *cache*; as far as it has them *targets*, *methods*, *choices*
        and *settings* (see :class:`~icm_study.experiments.run.Plan`); *tables*, paths of
        earlier runs to show together; *results*, where to write the table; and *parts*, a
        folder where the table of each seed is kept, for a run that is interrupted.
    """

    def __init__(self, notebook: str, given: Mapping[str, Any]) -> None:
        self.notebook = notebook
        self.given = given

    @cached_property
    def plan(self) -> Plan:
        """What is fitted, and how settings are chosen."""
        from icm_study.experiments.run import Plan

        choices = self.given.get("choices", ("intervened",))
        return Plan(self.given.get("methods") or (), choices, self.given.get("settings", {}))

    @cached_property
    def beds(self) -> list[TestBed]:
        """The test beds."""
        from icm_study.testbeds.opening import open_testbeds

        return open_testbeds(self.given)

    @cached_property
    def embedder(self) -> Embedder:
        """The encoder, with the store of its embeddings."""
        from icm_study.embedding.store import EmbeddingStore
        from icm_study.embedding.tables import Embedder
        from icm_study.encoders.loading import load_encoder

        store, precision = EmbeddingStore(self.given["cache"]), self.given.get("precision")
        encoder = load_encoder(self.given["encoder"], precision=precision, facts=store.facts)
        return Embedder(encoder, store)

    @cached_property
    def pooled(self) -> EmbeddedData:
        """The embedded data of the first seed, which projections to keep are made from."""
        return self.embedded(self.given["seeds"][0])

    @cached_property
    def drawn(self) -> NDArray[np.str_]:
        """Which image intervention each image of the pooled data got."""
        from icm_study.experiments.task import drawn_interventions

        load, _ = self.beds[0].loaders(self.embedder.encoder, self.given["seeds"][0])
        return drawn_interventions(self.pooled, load, self.embedder)

    def results(self) -> Results:
        """Read the tables that are given, or run what the parameters say; write the table.

        Raises
        ------
        ValueError
            If a parameter is not valid; before anything is embedded. And as the parts.
        """
        tables = self.given.get("tables")
        table = gather(tables, self.notebook) if tables else self._run()
        write_table(table, self.given.get("results"))
        return Results(table)

    def examples(self, n: int = 12) -> dict[str, NDArray[np.uint8]]:
        """Show some images of the data; where earlier tables are shown, of rendered ones only."""
        for path in self.given.get("tables") or ():
            if self.given["dataset"] != ANIMALS:
                return {}
            if read_run(path, self.notebook).attrs["parameters"].get("dataset") != ANIMALS:
                return {}
        from icm_study.embedding.store import EmbeddingStore

        return self.beds[0].stored_examples(EmbeddingStore(self.given["cache"]), n)

    def embedded(self, seed: int) -> EmbeddedData:
        """Embed the data of the first test bed, or open what is stored."""
        return self.beds[0].embed(self.embedder, seed)

    def fit_projection(self, intervention: str, **settings: Any) -> InvariantProjection:
        """Estimate a projection from the pairs of all domains.

        Parameters
        ----------
        intervention : str
            The pairs to learn from, see :func:`~icm_study.embedding.tables.pair_moments`.
        **settings
            Of :class:`~icm_core.projection.InvariantProjection`.
        """
        from icm_core.projection import InvariantProjection
        from icm_study.embedding.tables import pair_moments

        moments = pair_moments(self.pooled.source, intervention)
        return InvariantProjection(**settings).fit_moments(moments)

    def save_projection(self, advice: Mapping[str, Any], path: str | Path) -> tuple[int, ...]:
        """Estimate the advised projection from the pairs of all domains, and save it.

        Parameters
        ----------
        advice : mapping of str to value
            With *intervention*, *n_components* and *consistency_weight*; all of it is told in
            the file.
        path : path-like
            Where to write, see :meth:`~icm_core.projection.InvariantProjection.save`.

        Returns
        -------
        tuple of int
            The shape of the components.
        """
        names = ("n_components", "consistency_weight")
        settings = {name: advice[name] for name in names}
        fitted = self.fit_projection(advice["intervention"], **settings)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        fitted.save(path, made_from=self.made_from() | dict(advice))
        return fitted.components_.shape

    def save_probe(self, projection: InvariantProjection, path: str | Path) -> float:
        """Fit a linear probe behind a projection on the images of all domains, and save it.

        Parameters
        ----------
        projection : InvariantProjection
        path : path-like
            Where to write, see :func:`~icm_core.deploy.save_probe`.

        Returns
        -------
        float
            Its accuracy on the images that it was fitted on.

        Raises
        ------
        ValueError
            If open_clip cannot build the encoder, so that the file could not be served.
        """
        from icm_core.deploy import save_probe
        from icm_core.prediction import LinearProbe
        from icm_study.encoders.loading import open_clip_arguments

        data, encoder = self.pooled, self.embedder.encoder
        built = {
            "open_clip": open_clip_arguments(encoder.name), "preprocess": encoder.preprocess
        }  # fmt: skip
        X, y = (data.source[name].to_numpy() for name in ("original", "label"))
        projected = projection.transform(X)
        probe = LinearProbe().fit(projected, y)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        save_probe(
            path, probe, projection, classes=data.classes, encoder=built,
            example=encoder.example(), made_from=self.made_from(),
        )  # fmt: skip
        return probe.score(projected, y)

    def made_from(self) -> dict[str, Any]:
        """Tell commit, encoder and data, with their fingerprints."""
        return {"commit": commit(), **self.pooled.provenance}

    def check(self) -> Plan:
        """Open the data, and check all that can be known before anything is embedded.

        Returns
        -------
        Plan

        Raises
        ------
        ValueError
            If a parameter is not valid, or the data have problems.
        """
        from icm_study.experiments.run import check_seeds, check_splits

        seeds, plan = self.given["seeds"], self.plan
        check_seeds(seeds)
        for bed in self.beds:
            check_splits(bed, seeds[0], self.given.get("targets"), plan)
        for name, grid in plan.settings.items():
            self.check_n_components(name, *grid.get("n_components", ()))
        return plan

    def check_n_components(self, what: str, *counts: int | str) -> None:
        """Refuse a K that the embedding has not the dimensions for.

        Raises
        ------
        ValueError
        """
        d = self.embedder.encoder.embedding_dim
        for k in counts:
            if not isinstance(k, str) and k > d:
                raise ValueError(
                    f"{what}: n_components is {k}; expected at most {d}, the dimension of the "
                    f"embedding by {self.given['encoder']!r}."
                )

    def _run(self) -> pd.DataFrame:
        from icm_study.experiments.run import run

        plan = self.check()
        seeds, targets = self.given["seeds"], self.given.get("targets")
        if self.given.get("parts"):
            table = pd.concat([self._part(seed) for seed in seeds], ignore_index=True)
        else:
            table = run(self.beds, self.embedder, seeds, targets, plan)
        table.attrs.update(self._record())
        return table

    def _part(self, seed: int) -> pd.DataFrame:
        """Run one seed, or read what an interrupted run of the same code and data has left."""
        from icm_study.experiments.run import run

        left_out = (*FILES, "seeds", "worth")
        told = {name: value for name, value in self.given.items() if name not in left_out}
        what = json.dumps([told, self.made_from(), self.embedder.encoder.precision, seed])
        path = Path(self.given["parts"], f"{fingerprint(what)}.parquet")
        is_known_code = len(commit()) == 40  # neither changed nor unknown
        if is_known_code and path.is_file():
            return read_table(path)
        table = run(self.beds, self.embedder, [seed], self.given.get("targets"), self.plan)
        write_table(table, path)
        return table

    def _record(self) -> dict[str, Any]:
        """Describe the run, with what pages say of the data, its diagnosis and its spectrum."""
        from icm_study.experiments.diagnosis import diagnose, rounded_spectra

        bed, seeds = self.beds[0], self.given["seeds"]
        data = [self.embedded(seed) for seed in (seeds if bed.over == "seeds" else seeds[:1])]
        prints = {bed.name: data[0].provenance["pixels"]} | data[0].provenance.get("variants", {})
        if data[0].pairs is not None:
            prints["projection_images"] = data[0].pairs.attrs["images"]
        encoders = [self.embedder.encoder, *bed.encoders]
        given = dict(self.given)
        if "folder" in given:  # the notebook's own name for its data set
            given.pop("dataset")
        return run_record(self.notebook, given, encoders, prints) | {
            "testbed": {"name": bed.name, "world": bed.world, "note": bed.note, "over": bed.over},
            "diagnosis": diagnose(data).to_dict("list"),
            "spectrum": rounded_spectra(data[0]),
        }
