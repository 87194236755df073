"""Embed every world of one seed, with every encoder that the study runs in it, and record what was stored."""

import argparse
import json
from pathlib import Path

import torch

from icm_study.animals.silhouettes import Silhouettes
from icm_study.embedding.store import EmbeddingStore
from icm_study.encoders.loading import load_encoder
from icm_study.experiments.domain_generalization import embed_world

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--silhouettes", type=Path, required=True)
    parser.add_argument(
        "--worlds", type=json.loads, required=True, help="JSON: encoder -> [[shortcut, strength]]"
    )
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--record", type=Path, required=True)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    silhouettes = Silhouettes.load(arguments.silhouettes)
    store = EmbeddingStore(arguments.record.parent)
    record = []
    for name, worlds in arguments.worlds.items():
        encoder = load_encoder(name)
        for world in worlds:
            environments = embed_world(encoder, silhouettes, store, world, arguments.seed)
            record.append(environments.provenance)
    arguments.record.write_text(json.dumps(record, indent=1) + "\n")
