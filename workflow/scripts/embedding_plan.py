"""List the images that runs on one data set embed, look at each, and cut them into shards.

    python workflow/scripts/embedding_plan.py NOTEBOOK -y "{SETTINGS}" PLAN

PLAN, a Parquet file, has a row for each image: its path as seen from notebooks/, the hash
of its content, the interventions that it is embedded after, and the number of its shard.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import pandas as pd

from icm_study.embedding.files import cut
from icm_study.embedding.store import EmbeddingStore
from icm_study.experiments.record import checked, default_parameters
from icm_study.parquet import write_parquet
from icm_study.photographs.seen import hash_files
from icm_study.plain_yaml import read_parameters
from icm_study.testbeds.opening import images_to_embed

#: Rows that are read together: a job reads those of its own shards.
ROWS = 16_384


def plan(given: dict) -> pd.DataFrame:
    """List the images that parameters name, with the shards that they are stored in."""
    store, tables, n_shards = EmbeddingStore(given["cache"]), [], 0
    for images, interventions in images_to_embed(given):
        paths = images["path"].astype(str).tolist()
        hashes = hash_files(paths, store.root)
        table = pd.DataFrame({"path": paths, "hash": hashes, "shard": 0})
        for rows in cut(hashes, store.shard_size):
            table.loc[rows.start : rows.stop - 1, "shard"] = n_shards
            n_shards += 1
        tables.append(table.assign(interventions=" ".join(interventions)))
    return pd.concat(tables, ignore_index=True)


def main() -> int:
    """Write the plan that the command line names; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebook", help="its name, without its ending")
    parser.add_argument("-y", "--yaml", required=True, help="settings that say which images")
    parser.add_argument("plan", type=Path)
    arguments = parser.parse_args()
    path = arguments.plan.absolute()
    os.chdir("notebooks")
    name = arguments.notebook
    try:
        given = default_parameters(Path(f"{name}.ipynb")) | read_parameters([arguments.yaml], [])
        table = plan(checked(name, given))
    except (ValueError, OSError) as error:
        print(f"embedding_plan: {error}", file=sys.stderr)
        return 1
    write_parquet(table, path, row_group_size=ROWS)
    print(f"{len(table):,} images in {table['shard'].max() + 1:,} shards")
    return 0


if __name__ == "__main__":
    sys.exit(main())
