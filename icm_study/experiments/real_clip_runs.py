"""The experiments on real CLIPs, each with the values that it runs over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from icm_core.projection import InvariantProjection
from icm_study.encoders.animal_clip import SHIPPED
from icm_study.experiments.agreement import EXACT, OWN, SHUFFLED, agreement
from icm_study.experiments.animal_encoders import Variants, compare, train_variants
from icm_study.experiments.diversity import benchmark_sizes, by_number_of_texts, narrow_towers
from icm_study.experiments.modality import count_classes, run_modality
from icm_study.experiments.record import join_tables, read_only_run, run_record, write_table
from icm_study.photographs.real_clip import RealClip, open_real_clip

if TYPE_CHECKING:
    from icm_study.encoders.encoder import Encoder

NOTEBOOK = "08_real_clip"


def real_clip_table(given: Mapping[str, Any], released: InvariantProjection) -> pd.DataFrame:
    """Read the table that is given, or run every experiment; write the table.

    Parameters
    ----------
    given : mapping of str to value
        Parameters of the page: *dataset*, the folder of the embeddings; those of
        :func:`run_real_clip`; *tables*, the path of an earlier run, and *results*, where to
        write.
    released : InvariantProjection
        Unfitted; keeps what the code released with the paper keeps.

    Returns
    -------
    DataFrame
        The runs under each other, with the column experiment, and the record.
    """
    if given["tables"]:
        return read_only_run(given["tables"], NOTEBOOK)
    from icm_study.encoders.loading import load_encoder

    clip = open_real_clip(given["dataset"])
    shipped = [load_encoder(name, "cpu") for name in SHIPPED]
    runs = run_real_clip(clip, given, shipped, released)
    record = run_record(NOTEBOOK, given, shipped, {"real_clip": clip.fingerprint})
    table = join_tables(runs, "experiment", record)
    write_table(table, given["results"])
    return table


def run_real_clip(
    clip: RealClip,
    given: Mapping[str, Any],
    shipped: Sequence[Encoder],
    released: InvariantProjection,
) -> dict[str, pd.DataFrame]:
    """Run every experiment.

    Parameters
    ----------
    clip : RealClip
    given : mapping of str to value
        Parameters of the page: *n_names*, *ranks*, *n_draws*, *seeds*, *widths*, *lengths*,
        *n_images* and *cache*.
    shipped : sequence of Encoder
        Encoders of the animal world that are compared with those that are trained.
    released : InvariantProjection
        Unfitted; keeps what the code released with the paper keeps.

    Returns
    -------
    dict of str to DataFrame
        The runs of each experiment.
    """
    runs = {
        "names": _names(clip, given),
        "diversity": _diversity(clip, given["n_draws"]),
        "narrow": narrow_towers(),
        "classes": count_classes(clip),
    }
    modality = run_modality(clip, released)
    variants = Variants(given["seeds"], given["widths"], given["lengths"])
    trained = train_variants(variants, given["cache"])
    animals = compare({one.name: one for one in shipped} | trained, given["n_images"])
    return (
        runs
        | {f"modality_{name}": table for name, table in modality.items()}
        | {f"animal_{name}": table for name, table in animals.items()}
    )


def experiments_of(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Take a table that :func:`~icm_study.experiments.record.join_tables` made apart again.

    Whole numbers, which become fractions beside rows that have none, are whole again.
    """
    runs = {}
    for name, part in table.groupby("experiment", sort=False):
        own = part.drop(columns="experiment").dropna(axis=1, how="all").reset_index(drop=True)
        numbers = own.select_dtypes("number").dropna(axis=1)
        whole = numbers.columns[(numbers % 1 == 0).all()]
        runs[str(name)] = own.astype(dict.fromkeys(whole, int))
    return runs


def _names(clip: RealClip, given: Mapping[str, Any]) -> pd.DataFrame:
    """Map each text tower to the other."""
    (one, X), (other, Y) = clip.towers.items()
    tables = []
    for source, target, rows in ((one, other, (X, Y)), (other, one, (Y, X))):
        for control in (OWN, SHUFFLED, EXACT):
            ranks = [k for k in given["ranks"] if k <= min(X.shape[1], Y.shape[1])]
            table = agreement(
                *rows,
                n_rows=given["n_names"],
                ranks=ranks if control == OWN else (),
                control=control,
            )
            tables.append(table.assign(source=source, target=target))
    return pd.concat(tables, ignore_index=True)


def _diversity(clip: RealClip, n_draws: int) -> pd.DataFrame:
    """Measure texts of each tower, by their number."""
    towers = {f"{name}, names": rows for name, rows in clip.towers.items()}
    towers["ViT-B-16/openai, captions"] = clip.text
    numbers = sorted({16, 32, 64, 128, 256, 384, 513, 768, *benchmark_sizes().values()})
    tables = [
        by_number_of_texts(rows, numbers, n_draws).assign(tower=name)
        for name, rows in towers.items()
    ]
    return pd.concat(tables, ignore_index=True)
