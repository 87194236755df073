"""Embed every world of one seed with every encoder of the study, and record what was stored."""

import argparse
import json
from pathlib import Path

import torch
from plain_yaml import read_yaml

from icm_study.animals.silhouettes import Silhouettes
from icm_study.embedding.store import EmbeddingStore
from icm_study.embedding.tables import Embedder
from icm_study.encoders.loading import load_encoder
from icm_study.testbeds.animal_world import AnimalWorld, stored_examples

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--silhouettes", type=Path, required=True)
    parser.add_argument("--worlds", required=True, help="YAML: encoder -> [[shortcut, strength]]")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--record", type=Path, required=True)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    silhouettes = Silhouettes.load(arguments.silhouettes)
    store = EmbeddingStore(arguments.record.parent)
    record = []
    for name, worlds in read_yaml(arguments.worlds, "--worlds").items():
        embedder = Embedder(load_encoder(name, facts=store.facts), store)
        for shortcut, strength in worlds:
            world = AnimalWorld(shortcut=shortcut, strength=strength, silhouettes=silhouettes)
            record.append(world.embed(embedder, arguments.seed).provenance)
            stored_examples(world, store)  # pages show them
    arguments.record.write_text(json.dumps(record, indent=1) + "\n")
