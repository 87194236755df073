"""A stand-in for the published embeddings of real CLIPs: small, and known in every respect."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from icm_core.prediction import unit_rows
from icm_study.photographs.real_clip import CAPTIONS, NAMES, PHOTOGRAPHS, TEXT_TOWERS

CAPTION = {
    "bathroom": "a toilet in a small bathroom", "kitchen": "a stove in a kitchen",
    "motorcycle": "a motorcycle on a street", "plane": "a plane in the sky",
    "bicycle": "a bicycle on the grass", "car": "a red car on the road", "cat": "a cat on a chair",
    "dog": "a dog on the beach",
}  # fmt: skip


def write_stand_in(folder: Path, n_pairs: int = 160, n_names: int = 60, seed: int = 0) -> Path:
    """Write it: images and captions share their class and themselves, and differ by a gap."""
    rng = np.random.default_rng(seed)
    d, kinds = 24, list(CAPTION)
    label = np.arange(n_pairs) % len(kinds)
    shared = 2 * rng.normal(size=(len(kinds), d))[label] + rng.normal(size=(n_pairs, d))
    gap = 6 * np.eye(d)[0]
    sides = [
        unit_rows(shared + side * gap + 0.1 * rng.normal(size=shared.shape)) for side in (1, -1)
    ]
    names = rng.normal(size=(n_names, 12))
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / PHOTOGRAPHS, np.float32(sides))
    np.savez(folder / CAPTIONS, caption=[CAPTION[kinds[i]] for i in label])
    (folder / NAMES).write_text("\n".join(f"name_{i}" for i in range(n_names)) + "\n")
    for file in TEXT_TOWERS.values():
        np.save(folder / file, np.float32(names @ rng.normal(size=(12, 16)) + 3))
    return folder
