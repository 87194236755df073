"""A fitted projection to take away: a torch module, a CLIP that holds it, a probe in one file.

A projection is one matrix A, so it needs no code of its own where it is used.
:func:`as_module` gives it as a linear layer. :func:`fold` multiplies it into the last
linear layers of a CLIP's two towers: since CLIP scales its embeddings to unit length,
``A h / ‖A h‖`` of the raw output h is the projected embedding ``A f / ‖A f‖`` of
``f = h / ‖h‖``, and the folded model computes no more than the plain one.
:func:`save_open_clip` writes it as a folder that open_clip loads. Where a model cannot
absorb A, :class:`ProjectedCLIP` has it behind, and :func:`save_projected` writes what it
takes to build that again. :func:`save_probe` multiplies A into a linear probe on plain
embeddings.

Models are recognised by the names of their parts, which are those of open_clip;
open_clip itself is not imported.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from sklearn.utils.validation import check_is_fitted
from torch import nn

from icm_core.prediction import LinearProbe
from icm_core.projection import InvariantProjection, write_arrays

PROBE_VERSION = PROJECTED_VERSION = 1
PROJECTED, PROJECTION = "projected_clip.json", "projection.safetensors"  # of a folder
CONFIG, _WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


@dataclass(frozen=True)
class Folded:
    """A CLIP that gives projected embeddings.

    Attributes
    ----------
    model : Module
        With ``encode_image`` and ``encode_text``, as the model that it was made from.
    embed_dim : int
        Length of its embeddings: K, or D where they end in D - K zeros.
    changes : dict of str to dict
        What the parts of open_clip's ``model_cfg`` must say besides *embed_dim*.
    note : str
        Why A is not simply absorbed; empty if it is.
    is_absorbed : bool
        Whether open_clip can build the model from its config. Else `model` is a
        :class:`ProjectedCLIP`.
    """

    model: nn.Module
    embed_dim: int
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    note: str = ""
    is_absorbed: bool = True


class ProjectedCLIP(nn.Module):
    """A CLIP with a projection behind it, for models that cannot absorb one.

    Parameters
    ----------
    model : Module
        With ``encode_image`` and ``encode_text``.
    projection : InvariantProjection
        Fitted.
    """

    def __init__(self, model: nn.Module, projection: InvariantProjection) -> None:
        super().__init__()
        self.model: Any
        self.model, self.projection = model, as_module(projection)

    def encode_image(self, image: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        """Embed images, (n, K); with `normalize` as rows of unit length."""
        return self._project(self.model.encode_image(image, normalize=False), normalize)

    def encode_text(self, text: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        """Embed texts, (n, K); with `normalize` as rows of unit length."""
        return self._project(self.model.encode_text(text, normalize=False), normalize)

    def _project(self, embedded: torch.Tensor, normalize: bool) -> torch.Tensor:
        projected = self.projection(embedded)
        return nn.functional.normalize(projected, dim=-1) if normalize else projected


def as_module(projection: InvariantProjection, dtype: torch.dtype = torch.float32) -> nn.Linear:
    """Give a projection as a linear layer without bias, whose weight is A.

    Parameters
    ----------
    projection : InvariantProjection
        Fitted.
    dtype : torch.dtype

    Returns
    -------
    Linear
        From (..., D) to (..., K), frozen. ``torch.export`` and ``torch.onnx.export`` take
        it as any other.

    Raises
    ------
    NotFittedError
        If the projection is not fitted.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.eye(4)
    >>> projection = InvariantProjection(2, consistency_weight=1.0).fit(X, X * [1, 1, 0, 0])
    >>> as_module(projection)(torch.ones(3, 4)).shape
    torch.Size([3, 2])
    """
    check_is_fitted(projection)
    k, d = projection.components_.shape
    layer = nn.Linear(d, k, bias=False, dtype=dtype)
    layer.weight = nn.Parameter(torch.tensor(projection.components_, dtype=dtype), False)
    return layer.eval()


def fold(model: nn.Module, projection: InvariantProjection) -> Folded:
    """Multiply a projection into the last linear layers of both towers of a CLIP.

    Parameters
    ----------
    model : Module
        A model of open_clip, or another with ``encode_image`` and ``encode_text``. It
        stays as it is.
    projection : InvariantProjection
        Fitted on embeddings of this model.

    Returns
    -------
    Folded
        Its cosines are those of the projected embeddings of `model`. The length of a
        projected embedding of a unit vector is lost where the model scales its output
        to unit length: train a probe on what the folded model gives.

    Raises
    ------
    NotFittedError
        If the projection is not fitted.
    ValueError
        If a tower's embedding has not the dimension that the projection was fitted on.

    Notes
    -----
    open_clip builds a model from *embed_dim* and more. Where another layer's size
    follows from *embed_dim* too (attention pooling as in CoCa, a head with a hidden
    layer), K cannot take its place. A is then filled up with rows of zeros to D x D:
    the cosines are the same, *embed_dim* stays, and the last D - K numbers of each
    embedding are zero. Where a tower is not recognised, A stands behind the model.
    """
    check_is_fitted(projection)
    folded = copy.deepcopy(model).requires_grad_(False)
    heads = [_image_head(folded), _text_head(folded)]
    if not all(heads):
        what = [name for name, head in zip(("image", "text"), heads, strict=True) if not head]
        note = (
            f"The last linear layer of the {' and the '.join(what)} tower of this "
            f"{type(model).__name__} was not found, so the projection stands behind the model, "
            "and open_clip cannot build it from a config."
        )
        return Folded(ProjectedCLIP(folded, projection), projection.n_components_, {}, note, False)
    found = [head for head in heads if head]
    note = " ".join(head.why_wide for head in found if head.why_wide)
    A = projection.components_
    k, d = A.shape
    if note and k < d:
        A = np.concatenate([A, np.zeros((d - k, d))])
        note += f" So embed_dim stays {d}, and the last {d - k} numbers of each embedding are zero."
    changes: dict[str, dict[str, Any]] = {}
    for head in found:
        head.absorb(torch.from_numpy(A), like=next(folded.parameters()))
        for part, values in head.changes.items():
            changes.setdefault(part, {}).update(values)
    return Folded(folded, len(A), changes, note)


def save_open_clip(
    folded: Folded,
    folder: str | PathLike[str],
    config: Mapping[str, Any],
    made_from: Mapping[str, Any] | None = None,
) -> None:
    """Write a folded CLIP as a folder that open_clip loads as ``local-dir:FOLDER``.

    Parameters
    ----------
    folded : Folded
    folder : path-like
        It is made. If the call is interrupted, it has no config and does not load.
    config : mapping
        *model_cfg* and *preprocess_cfg* of the model before it was folded, as
        open_clip keeps them.
    made_from : mapping of str to JSON value, optional
        What the projection and the model were made from; kept in the config, where
        open_clip does not look, and with the weights.

    Raises
    ------
    ValueError
        If open_clip cannot build the model.
    """
    if not folded.is_absorbed:
        raise ValueError(f"{folded.note} `save_projected` writes the projection beside it.")
    model_cfg = copy.deepcopy(dict(config["model_cfg"])) | {"embed_dim": folded.embed_dim}
    if any(type(part).__name__ == "QuickGELU" for part in folded.model.modules()):
        model_cfg["quick_gelu"] = True  # a setting of the weights, which the config may lack
    for name, values in folded.changes.items():
        model_cfg[name] = dict(model_cfg[name]) | values
    told = {"clip_icm": dict(made_from or {})}
    written = {"model_cfg": model_cfg, "preprocess_cfg": dict(config["preprocess_cfg"])} | told
    text = json.dumps(written, indent=2, sort_keys=True, allow_nan=False) + "\n"
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    weights = {k: v.detach().cpu().clone() for k, v in folded.model.state_dict().items()}
    metadata = {"clip_icm": json.dumps(told["clip_icm"], sort_keys=True)}
    aside = folder / f".{_WEIGHTS}.{os.getpid()}.tmp"
    try:
        save_file({k: v.contiguous() for k, v in weights.items()}, aside, metadata)
        os.replace(aside, folder / _WEIGHTS)
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, folder / CONFIG)
    finally:
        aside.unlink(missing_ok=True)


def save_projected(
    folder: str | PathLike[str],
    projection: InvariantProjection,
    *,
    encoder: Mapping[str, Any],
    example: NDArray[np.floating],
    note: str = "",
) -> None:
    """Write what a :class:`ProjectedCLIP` adds to a model, as a folder.

    Parameters
    ----------
    folder : path-like
        It is made. If the call is interrupted, it has no *projected_clip.json*.
    projection : InvariantProjection
        Fitted. What it was made from is kept in its own file.
    encoder : mapping of str to JSON value
        How the model is built and what it does to images first; *preprocess* is as in
        open_clip's configs.
    example : ndarray of shape (D,)
        The unit embedding of :func:`example_pixels` before the projection, by which who
        serves the folder finds out that another encoder is in place.
    note : str
        Why the projection is not in the model itself.

    Notes
    -----
    The folder has *projection.safetensors*, whose array *components* is A, and
    *projected_clip.json* with *encoder*, *example*, *embed_dim* and *note*. To serve it
    takes the model, torch, and this::

        import json, sys

        import torch
        from safetensors import safe_open

        class Projected(torch.nn.Module):
            def __init__(self, model, folder):
                super().__init__()
                with safe_open(f"{folder}/projection.safetensors", "pt") as file:
                    self.A = file.get_tensor("components").float()
                self.model, told = model, json.load(open(f"{folder}/projected_clip.json"))
                height, width = told["pixels"]
                ramp = torch.linspace(-1, 1, 3 * height * width).reshape(1, 3, height, width)
                plain = torch.nn.functional.normalize(model.encode_image(ramp)[0], dim=0)
                if plain @ torch.tensor(told["example"]) < 0.999:
                    sys.exit("This is not the model that the projection was made for.")
            def encode_image(self, pixels):
                return torch.nn.functional.normalize(self.model.encode_image(pixels) @ self.A.T)
            def encode_text(self, tokens):
                return torch.nn.functional.normalize(self.model.encode_text(tokens) @ self.A.T)

    Raises
    ------
    NotFittedError
        If the projection is not fitted.
    """
    size = encoder["preprocess"]["size"]
    told = {
        "kind": "projected CLIP",
        "format_version": PROJECTED_VERSION,
        "embed_dim": projection.n_components_,
        "encoder": dict(encoder),
        "pixels": [size, size] if isinstance(size, int) else [*size],
        "example": [float(value) for value in example.astype(np.float32)],
        "note": note,
    }
    text = json.dumps(told, indent=2, sort_keys=True, allow_nan=False) + "\n"
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PROJECTED).unlink(missing_ok=True)
    projection.save(folder / PROJECTION)
    aside = folder / f".{PROJECTED}.{os.getpid()}.tmp"
    try:
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, folder / PROJECTED)
    finally:
        aside.unlink(missing_ok=True)


def load_projected(
    folder: str | PathLike[str],
) -> tuple[InvariantProjection, dict[str, Any], NDArray[np.floating]]:
    """Read a folder that :func:`save_projected` wrote.

    Parameters
    ----------
    folder : path-like

    Returns
    -------
    projection : InvariantProjection
    encoder : dict
        As it was given.
    example : ndarray of shape (D,), float32

    Raises
    ------
    OSError
        If a file is missing.
    ValueError
        If a file is damaged, or of another kind or version.
    """
    path = Path(folder) / PROJECTED
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        kind, version = told["kind"], told["format_version"]
        encoder, example = told["encoder"], np.array(told["example"], dtype=np.float32)
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path} is not what `save_projected` writes; write it again.") from error
    if (kind, version) != ("projected CLIP", PROJECTED_VERSION):
        raise ValueError(
            f"{path} has kind {kind!r} and version {version!r}; expected 'projected CLIP' and "
            f"{PROJECTED_VERSION}. Write it with this version of the project."
        )
    return InvariantProjection.load(Path(folder) / PROJECTION), encoder, example


def save_probe(
    path: str | PathLike[str],
    probe: LinearProbe,
    projection: InvariantProjection | None,
    *,
    classes: Sequence[str],
    encoder: Mapping[str, Any],
    example: NDArray[np.floating],
    made_from: Mapping[str, Any] | None = None,
) -> None:
    """Write all that classifying takes, but the plain encoder, to one safetensors file.

    Parameters
    ----------
    path : path-like
    probe : LinearProbe
        Fitted on projected embeddings of unit length before the projection.
    projection : InvariantProjection or None
        What it was fitted behind; None: on the embeddings themselves.
    classes : sequence of str
        Names of the classes 0, 1, 2 and so on, in which the labels of the probe count.
    encoder : mapping of str to JSON value
        How the encoder is built and what it does to images first; *preprocess* is as in
        open_clip's configs.
    example : ndarray of shape (D,)
        The unit embedding of :func:`example_pixels`, by which who serves the file finds
        out that another encoder is in place.
    made_from : mapping of str to JSON value, optional

    Notes
    -----
    The file has *weight* (n_classes, D), *bias* (n_classes,) and *example*, float32:
    ``softmax(weight @ f + bias)`` are the probabilities of an image with the plain unit
    embedding f. The entry *clip_icm* of its metadata is JSON; its *told* has *classes*,
    *encoder* and *made_from*.

    Raises
    ------
    NotFittedError
        If the probe or the projection is not fitted.
    ValueError
        If the probe and the projection do not belong together.
    """
    check_is_fitted(probe)
    weight, bias = probe.coef_ * probe.scale_, probe.intercept_
    if projection is not None:
        check_is_fitted(projection)
        if weight.shape[1] != projection.n_components_:
            raise ValueError(
                f"The probe was fitted on {weight.shape[1]} features; expected the "
                f"{projection.n_components_} of the projection. Fit it on projected embeddings."
            )
        weight = weight @ projection.components_
    if len(weight) == 1:  # of two classes, scikit-learn keeps the difference
        weight, bias = (np.concatenate([0 * part, part]) for part in (weight, bias))
    arrays = {"weight": weight, "bias": bias, "example": example}
    told = {
        "kind": "linear probe",
        "format_version": PROBE_VERSION,
        "classes": [str(classes[label]) for label in probe.classes_],
        "encoder": dict(encoder),
        "made_from": dict(made_from or {}),
    }
    write_arrays(path, {name: part.astype(np.float32) for name, part in arrays.items()}, told)


def example_pixels(size: Sequence[int]) -> torch.Tensor:
    """Give the fixed input that tells encoders apart: a ramp from -1 to 1, (1, 3, H, W)."""
    height, width = size
    return torch.linspace(-1, 1, 3 * height * width).reshape(1, 3, height, width)


@dataclass(frozen=True)
class _Head:
    """The last linear layer of a tower.

    Attributes
    ----------
    owner : Module
        What has it as an attribute or an item called `name`. A parameter there is
        (width, D) and multiplied from the right; in place of nothing a new layer is put.
    changes : dict
        What the config must say so that open_clip builds the layer.
    why_wide : str
        Why *embed_dim* cannot become K; empty if it can.
    has_bias : bool
        Whether open_clip gives a new layer a bias, which is zero then.
    """

    owner: nn.Module
    name: str
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    why_wide: str = ""
    has_bias: bool = False

    def absorb(self, A: torch.Tensor, like: torch.Tensor) -> None:
        """Multiply A, (K, D), into the layer; a new one has the device and precision of `like`."""
        layer = getattr(self.owner, self.name, None)
        if isinstance(layer, nn.Parameter):
            _check_dimension(A, layer.shape[1])
            product = layer.double() @ A.T.to(layer.device)
            setattr(self.owner, self.name, _frozen(product.to(layer.dtype)))
        elif isinstance(layer, nn.Linear):
            _check_dimension(A, layer.out_features)
            for name in ("weight", "bias"):
                part = getattr(layer, name)
                if part is not None:
                    product = A.to(part.device) @ part.double()
                    setattr(layer, name, _frozen(product.to(part.dtype)))
            layer.out_features = len(A)
        elif self.name == "text_projection":  # open_clip expects a parameter there
            setattr(self.owner, self.name, _frozen(A.T.to(like)))
        else:
            new = nn.Linear(A.shape[1], len(A), bias=self.has_bias)
            new.weight = _frozen(A.to(like))
            if self.has_bias:
                new.bias = _frozen(torch.zeros(len(A)).to(like))
            setattr(self.owner, self.name, new)


def _image_head(model: nn.Module) -> _Head | None:
    """Find the last layer of open_clip's image towers: ViT, ModifiedResNet, or one of timm."""
    tower: Any = getattr(model, "visual", None)
    if isinstance(getattr(tower, "proj", None), nn.Parameter) and hasattr(tower, "ln_post"):
        pools = getattr(tower, "attn_pool", None) is not None
        wide = "The image tower's attention pooling is as wide as the embedding." if pools else ""
        return _Head(tower, "proj", why_wide=wide)
    if hasattr(getattr(tower, "attnpool", None), "c_proj"):
        return _Head(tower.attnpool, "c_proj")
    if hasattr(tower, "trunk") and isinstance(getattr(tower, "head", None), nn.Sequential):
        return _timm_head(tower)
    return None


def _timm_head(tower: Any) -> _Head | None:
    """Find the last layer of a timm tower: in open_clip's head behind it, or its classifier."""
    if hasattr(tower.head, "proj"):
        return _Head(tower.head, "proj")
    if hasattr(tower.head, "mlp"):
        wide = "The image tower's head has a hidden layer twice as wide as the embedding."
        return _Head(tower.head.mlp, "fc2", why_wide=wide)
    if hasattr(tower.head, "pool"):
        return _Head(tower.head.pool, "proj")
    last = tower.trunk.get_classifier()
    path = next((name for name, part in tower.trunk.named_modules() if part is last), None)
    if path is None:
        return None
    parent, _, name = path.rpartition(".")
    new = {} if isinstance(last, nn.Linear) else {"vision_cfg": {"timm_proj": ""}}
    return _Head(tower.trunk.get_submodule(parent), name, new, has_bias=True)


def _text_head(model: nn.Module) -> _Head | None:
    """Find the last layer of open_clip's text towers: its own transformer, or one of transformers.

    A plain CLIP has the parts of its text tower itself.
    """
    tower: Any = getattr(model, "text", model)
    if hasattr(tower, "text_projection"):
        is_there = tower.text_projection is not None
        new = {} if is_there else {"text_cfg": {"proj_type": "linear", "proj_bias": False}}
        return _Head(tower, "text_projection", new)
    if not (hasattr(tower, "pooler") and hasattr(tower, "proj")):
        return None
    if isinstance(tower.proj, nn.Sequential):
        wide = "The text tower's head has a hidden layer whose width follows from the embedding's."
        return _Head(tower.proj, str(len(tower.proj) - 1), why_wide=wide)
    is_there = isinstance(tower.proj, nn.Linear)
    return _Head(tower, "proj", {} if is_there else {"text_cfg": {"hf_proj_type": "linear"}})


def _frozen(values: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(values.contiguous(), requires_grad=False)


def _check_dimension(A: torch.Tensor, d: int) -> None:
    if A.shape[1] != d:
        raise ValueError(
            f"The projection was fitted on {A.shape[1]} features, and this model's embeddings have "
            f"{d}. Give the model that the projection was made for."
        )
