"""A shipped encoder that loads its model when something is to be embedded, not before.

torch and open_clip take seconds to import. A page that opens stored embeddings needs their
keys alone, and these are facts that whoever embedded has kept.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from icm_study.encoders.animal_clip import load_shipped, shipped_files
from icm_study.encoders.encoder import Encoder, check_precision
from icm_study.encoders.identity import encoder_fingerprint
from icm_study.facts import Facts, made_by
from icm_study.fingerprint import fingerprint

#: What an encoder has once its model is loaded.
LOADED = ("model", "tokenizer", "preprocess", "resize", "_dtype", "_mean", "_std")
#: Where Linux shows a graphics processor that torch can use.
GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


class ShippedEncoder(Encoder):
    """A shipped encoder on a CPU.

    Parameters
    ----------
    name : str
    precision : {"float32", "bfloat16", "float16"}, default="float32"
    facts : Facts, optional
        Where its fingerprint, and the tokens of texts, are kept.

    Raises
    ------
    ValueError
        If the precision is unknown.
    RuntimeError
        If its files are missing.
    """

    def __init__(self, name: str, precision: str = "float32", facts: Facts | None = None):
        check_precision(precision)
        self.name, self.device = name, "cpu"
        self._precision = precision
        self._facts = facts
        self._files = shipped_files(name)

    def __getattr__(self, name: str) -> Any:
        if name not in LOADED:
            raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")
        import torch

        with torch.inference_mode(False):  # it can be asked for while texts are embedded
            loaded = Encoder(self.name, *load_shipped(self.name), "cpu", self._precision)
        vars(self).update(vars(loaded))
        return vars(self)[name]

    @property
    def precision(self) -> str:
        """Floating-point type in which the model computes; embeddings are float32."""
        return self._precision

    @cached_property
    def embedding_dim(self) -> int:
        """Dimension D of the embeddings."""
        return json.loads(self._files[0].read_text())["model"]["embed_dim"]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of preprocessing, weights, settings, and the answers to fixed inputs."""
        return self._known("fingerprint", lambda: encoder_fingerprint(self))

    def is_cut(self, texts: Sequence[str]) -> np.ndarray:
        """Tell which texts are too long; none is cut, since the tokenizer refuses those."""
        return np.zeros(len(texts), dtype=bool)

    @cached_property
    def _made_by(self) -> str:
        """Hash what it is made of: its files, this room, and open_clip's source."""
        spec = importlib.util.find_spec("open_clip")
        folders = (spec and spec.submodule_search_locations) or ()
        paths = [*self._files, Path(__file__).parent, *map(Path, folders)]
        return made_by(paths, ["open_clip_torch", "torch", "torchvision"])

    def _tokens(self, texts: Sequence[str]) -> str:
        return self._known("tokens", lambda: super(ShippedEncoder, self)._tokens(texts), *texts)

    def _known(self, what: str, find: Any, *texts: str) -> str:
        if self._facts is None:
            return find()
        of = {"what": what, "encoder": self.name, "by": self._made_by}
        of["texts"] = fingerprint(*texts)
        return self._facts.recall(of, find)


def has_no_gpu() -> bool:
    """Say whether it is certain, without a question to torch, that it would compute on a CPU."""
    if sys.platform == "linux":
        return not any(Path(device).exists() for device in GPUS)
    return sys.platform == "darwin"
