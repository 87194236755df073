"""Embed every world of one seed with every encoder of the study, and record what was stored."""

import argparse
import json
import sys
from pathlib import Path

# open_clip takes these along, for towers that no shipped encoder has; three seconds.
sys.modules |= {"transformers": None, "timm": None}  # type: ignore[dict-item]
import torch  # noqa: E402

from icm_study.animals.silhouettes import Silhouettes  # noqa: E402
from icm_study.embedding.store import EmbeddingStore  # noqa: E402
from icm_study.embedding.tables import Embedder  # noqa: E402
from icm_study.encoders.loading import load_encoder  # noqa: E402
from icm_study.plain_yaml import read_yaml  # noqa: E402
from icm_study.testbeds.animal_world import AnimalWorld  # noqa: E402

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--silhouettes", type=Path, required=True)
    parser.add_argument("--worlds", required=True, help="YAML: encoder -> [[shortcut, strength]]")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument(
        "--singles", action="store_true", help="each image intervention too, in the first world"
    )
    parser.add_argument("--record", type=Path, required=True)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    silhouettes = Silhouettes.load(arguments.silhouettes)
    store = EmbeddingStore(arguments.record.parent)
    record = []
    wanted = read_yaml(arguments.worlds, "--worlds")
    embedders = {name: Embedder(load_encoder(name, facts=store.facts), store) for name in wanted}
    for name, worlds in wanted.items():
        embedder = embedders.pop(name)  # what others are to embed too is made once
        for shortcut, strength in worlds:
            others = [
                other for key, other in embedders.items() if [shortcut, strength] in wanted[key]
            ]
            world = AnimalWorld(shortcut=shortcut, strength=strength, silhouettes=silhouettes)
            data = world.embed(embedder.with_others(others), arguments.seed)
            if arguments.singles and not record:
                world.with_single_interventions(embedder, data)
            record.append(data.provenance)
    first = next(iter(wanted.values()))[0]
    shown = AnimalWorld(shortcut=first[0], strength=first[1], silhouettes=silhouettes)
    shown.stored_examples(store)  # pages show them
    arguments.record.write_text(json.dumps(record, indent=1) + "\n")
