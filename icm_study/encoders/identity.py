"""What tells one encoder from another: a hash of all that its embeddings depend on.

Weights alone do not: heads, pooling, masks and activation functions are settings of the
modules, and what a model does with them is code. So the hash holds the weights and
buffers, every plain setting of every module, and what the model makes of fixed inputs.

The answers to fixed inputs are computed on a CPU in float32 and projected to a few
numbers with two decimals. Threads, batches and processors change the seventh digit: such
a number then falls on the other side of a rounding border about once in 1,500 encoders,
and their embeddings are computed again, not mixed up.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator, Mapping, Set
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from icm_study.fingerprint import fingerprint

if TYPE_CHECKING:
    from icm_study.encoders.encoder import Encoder

#: Texts that every tokenizer reads alike, of different length.
TEXTS = ("a", "a a a", "a a a a a a a a a")


def encoder_fingerprint(encoder: Encoder) -> str:
    """SHA-256 of an encoder's preprocessing, weights, settings, and answers to fixed inputs.

    Parameters
    ----------
    encoder : Encoder

    Returns
    -------
    str
        64 hexadecimal digits. The precision in which it computes is no part of it.
    """
    parts: list[Any] = [json.dumps(encoder.preprocess, sort_keys=True)]
    for path, module in encoder.model.named_modules():
        parts.append(f"{path}: {_settings(module, set())}")
    arrays = dict(encoder.model.named_buffers()) | encoder.model.state_dict()
    for key, value in sorted(arrays.items()):
        parts += [key, value.float().cpu()]
    return fingerprint(*parts, *_answers(encoder))


def _answers(encoder: Encoder) -> Iterator[np.ndarray]:
    """Both towers' embeddings of fixed inputs, along four fixed directions, rounded."""
    import torch
    from torch.nn.functional import normalize

    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(256, size=(2, 3, 8, 12), dtype=np.uint8))
    images = torch.nn.functional.interpolate(images, (96, 144))  # coarse: a change of shapes
    model = encoder.model
    if encoder.device != "cpu":
        model = copy.deepcopy(model).cpu()
    with torch.inference_mode():
        pixels = encoder.normalize(encoder.resize(images).to(encoder.device)).cpu()
        tokens = encoder.tokenizer(list(TEXTS)).cpu()
        for embedded in (
            model.encode_image(pixels, normalize=False),
            model.encode_text(tokens, normalize=False),
        ):
            rows = normalize(embedded.float(), dim=-1).numpy()
            directions = np.random.default_rng(1).standard_normal((rows.shape[1], 4))
            yield np.round(rows @ directions, 2) + 0.0  # no negative zero


@functools.cache
def _torch_own() -> frozenset[str]:
    """Names that every module has."""
    from torch import nn

    return frozenset(vars(nn.Module()))


def _settings(value: Any, seen: set[int]) -> str:
    """Write what is plain in an object: numbers, texts, types, and containers of these."""
    import torch
    from torch import nn

    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, torch.Tensor | np.ndarray):
        return fingerprint(value.detach().float().cpu() if torch.is_tensor(value) else value)
    if isinstance(value, torch.dtype | torch.Size | Enum):
        return str(value)
    if isinstance(value, functools.partial):
        return f"partial({_settings([value.func, value.args, value.keywords], seen)})"
    kind = value if hasattr(value, "__qualname__") else type(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if id(value) in seen or kind is value:
        return name
    seen = seen | {id(value)}
    if isinstance(value, Mapping):
        items = sorted((str(key), _settings(item, seen)) for key, item in value.items())
        return f"{name}{items}"
    if isinstance(value, Set):
        return f"{name}{sorted(_settings(item, seen) for item in value)}"
    if isinstance(value, list | tuple):
        return f"{name}{[_settings(item, seen) for item in value]}"
    if isinstance(value, torch.device) or not hasattr(value, "__dict__"):
        return name
    own = vars(value)
    if isinstance(value, nn.Module):
        own = {key: item for key, item in own.items() if key not in _torch_own()}
    else:  # what a library keeps for itself, such as the path that a config was read from
        own = {key: item for key, item in own.items() if not key.startswith("_")}
    return f"{name}{_settings(own, seen)}"
