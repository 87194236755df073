"""The record of a run: what it takes to repeat it, without anything that differs when it is repeated."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from icm_core.animal_world import Silhouettes
from icm_core.encoders import Encoder
from icm_core.environments import pixel_fingerprint

PACKAGES = ("clip-icm", "numpy", "scipy", "scikit-learn", "torch", "torchvision", "open_clip_torch")


def run_record(
    parameters: dict[str, Any], encoders: Sequence[Encoder] = (), silhouettes: Silhouettes | None = None
) -> dict[str, Any]:
    """Describe a run: parameters and seeds, versions, fingerprints of data and weights.

    Parameters
    ----------
    parameters : dict
        What the run was given, seeds included; JSON values.
    encoders : sequence of Encoder
        Those that were used.
    silhouettes : Silhouettes, optional
        Those that were rendered.

    Returns
    -------
    dict of JSON values
        Keys parameters, versions, weights and data. Put it into ``DataFrame.attrs``: pandas keeps it in the
        Parquet file.

    Raises
    ------
    TypeError
        If a parameter is no JSON value.
    """
    return {
        "parameters": json.loads(json.dumps(parameters)),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "weights": {encoder.name: encoder.fingerprint for encoder in encoders},
        "data": {"animal-world": pixel_fingerprint(silhouettes)} if silhouettes else {},
    }
