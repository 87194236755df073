"""Embed the shards of one part of a plan: jobs that share a plan share its images out.

    python workflow/scripts/embed_images.py NOTEBOOK -y "{SETTINGS}" --part 1 --parts 8 PLAN RECORD

A part is a run of whole shards with about as many images as any other part, so no two
jobs embed the same image. What is stored already is left alone: a job that was killed
goes on with the shard it was at. RECORD, a JSON file, says what was done.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd

from icm_study.embedding.files import Embedding, Shard
from icm_study.embedding.store import EmbeddingStore
from icm_study.encoders.loading import load_encoder
from icm_study.experiments.record import default_parameters
from icm_study.parquet import read_parquet
from icm_study.plain_yaml import read_parameters


def read_part(plan: Path, part: int, parts: int) -> pd.DataFrame:
    """Read the rows of a plan that are in one of its parts, numbered from 1."""
    sizes = np.bincount(read_parquet(plan, columns=["shard"])["shard"])
    middles = np.cumsum(sizes) - sizes / 2
    shards = np.flatnonzero(middles // (sizes.sum() / parts) == part - 1)
    if not len(shards):
        return pd.DataFrame(columns=["path", "hash", "shard", "interventions"])
    first, last = shards[[0, -1]].tolist()
    return read_parquet(plan, filters=[("shard", ">=", first), ("shard", "<=", last)])


def main() -> int:
    """Embed what the command line names; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebook", help="its name, without its ending")
    parser.add_argument("-y", "--yaml", required=True, help="settings: encoder and precision")
    parser.add_argument("--part", type=int, required=True)
    parser.add_argument("--parts", type=int, required=True)
    parser.add_argument("plan", type=Path)
    parser.add_argument("record", type=Path)
    arguments = parser.parse_args()
    record, table = (
        arguments.record.absolute(),
        read_part(arguments.plan, arguments.part, arguments.parts),
    )
    os.chdir("notebooks")
    store = EmbeddingStore(record.parent.parent)
    try:
        given = default_parameters(Path(f"{arguments.notebook}.ipynb"))
        given |= read_parameters([arguments.yaml], [])
        encoder = load_encoder(given["encoder"], precision=given["precision"])
        for interventions, images in groupby(
            table.groupby("shard"), key=lambda shard: shard[1]["interventions"].iloc[0]
        ):
            shards = [Shard(rows["path"].tolist(), rows["hash"].tolist()) for _, rows in images]
            for _ in Embedding(encoder, tuple(interventions.split())).run(shards, store):
                pass
    except (ValueError, OSError, RuntimeError) as error:
        print(f"embed_images: {error}", file=sys.stderr)
        return 1
    done = {"encoder": encoder.name, "weights": encoder.fingerprint, "images": len(table)}
    record.write_text(json.dumps(done, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
