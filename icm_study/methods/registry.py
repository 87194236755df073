"""Every method by name, with the settings that are tried, in one place.

Settings go from the smallest change of the encoder's behaviour to the largest: of
equally good ones the first is taken."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any

import pandas as pd

from icm_core.selection import CONSISTENCY_WEIGHTS, default_n_components
from icm_study.methods.adapters import CLIPAdapter, TipAdapter
from icm_study.methods.base import Method
from icm_study.methods.finetuning import FineTuning, WiSEFT
from icm_study.methods.lora import LoRA, LoRAThenICM
from icm_study.methods.maps import (
    ICM,
    LEACE,
    PCA,
    BiasedPrompts,
    FukunagaKoontz,
    Plain,
    RandomProjection,
)
from icm_study.methods.probes import CORAL, IRM, LDA, Augmentation, GroupDRO
from icm_study.methods.prompts import DPL, CoCoOp, CoOp

Settings = list[dict[str, Any]]


@dataclass(frozen=True)
class Entry:
    """A method in the catalog.

    Attributes
    ----------
    make : callable
        From a setting to the unfitted method.
    family : str
        What kind of method it is, for the report.
    settings : callable
        From the dimension of the embedding to the settings that are tried.
    predictors : tuple of str, optional
        The predictors that are reported, where these are not all that the method has.
    on_target : bool
        Whether the method is also trained on half of the target's own labelled images,
        to see what these give.
    note : str
        What sets it apart from other methods of the same class.
    """

    make: Callable[..., Method]
    family: str
    settings: Callable[[int], Settings]
    predictors: tuple[str, ...] | None = None
    on_target: bool = False
    note: str = ""


def grid(**values: Iterable[Any]) -> Callable[[int], Settings]:
    """Every combination of values, the last varying fastest; "K" stands for sizes that suit the embedding."""

    def settings(n_features: int) -> Settings:
        sizes = tuple(reversed(default_n_components(n_features)))
        lists = [sizes if value == "K" else tuple(value) for value in values.values()]
        return [dict(zip(values, one, strict=True)) for one in product(*lists)]

    return settings


def _or_whole(settings: Callable[[int], Settings]) -> Callable[[int], Settings]:
    """Let a projection keep every direction too, which changes nothing."""

    def extended(n_features: int) -> Settings:
        some = settings(n_features)
        return [some[0] | {"n_components": n_features}, *some]

    return extended


def _icm(intervention: str) -> Callable[[int], Settings]:
    return _or_whole(
        grid(intervention=[intervention], consistency_weight=CONSISTENCY_WEIGHTS, n_components="K")
    )


PENALTIES = (0.316, 0.0316, 0.00316)

KINDS = ("image", "text", "image+text")

CHOSEN = "K and λ chosen"

METHODS: dict[str, Entry] = {
    "plain": Entry(Plain, "CLIP", grid()),
    "single prompt": Entry(
        Plain, "CLIP", grid(prompts=["single"]), ("zero-shot",), note="here with the first "
                                                                      "prompt of a class alone"
    ),
    "tuned penalty": Entry(
        Plain, "CLIP", grid(C=[0.316, 1.0, 0.1, 0.0316, 0.01, 0.001]), ("linear probe",), on_target=True,
        note="here with the penalty of the probe chosen",
    ),
    "random projection": Entry(RandomProjection, "map", _or_whole(grid(n_components="K"))),
    "PCA": Entry(PCA, "map", _or_whole(grid(n_components="K"))),
    "LEACE": Entry(LEACE, "map", grid()),
    "biased prompts": Entry(
        BiasedPrompts, "map", grid(calibration=[0.0, 10.0, 100.0, 500.0], n_directions=[0, 1, 4, 8])
    ),
    "Fukunaga-Koontz": Entry(
        FukunagaKoontz, "map", grid(intervention=["image+text", "image"], n_components="K"), ("linear probe",)
    ),
    "ICM image": Entry(ICM, "CLIP-ICM", _icm("image"), note=f"image pairs; {CHOSEN}"),
    "ICM text": Entry(ICM, "CLIP-ICM", _icm("text"), note=f"text pairs; {CHOSEN}"),
    "ICM image+text": Entry(ICM, "CLIP-ICM", _icm("image+text"), note=f"both kinds of pairs; "
                                                                      f"{CHOSEN}"),
    **{
        f"ICM auto {kind}": Entry(ICM, "CLIP-ICM", grid(intervention=[kind]), note=f"{kind} "
                                                                                   f"pairs; "
                                                                                   f"λ = 1, "
                                                                                   f"K = "
                                                                                   f"positive eigenvalues")
        for kind in KINDS
    },
    **{
        f"ICM gap {kind}": Entry(
            ICM, "CLIP-ICM", grid(intervention=[kind], consistency_weight=["auto"]),
            note=f"{kind} pairs; λ and K from the widest gap of the shares",
        )
        for kind in KINDS
    },
    "augmentation": Entry(Augmentation, "probe", grid(C=PENALTIES)),
    "LDA": Entry(LDA, "probe", grid()),
    "CORAL": Entry(CORAL, "probe", grid(C=PENALTIES, shrinkage=[1.0, 0.1, 0.01])),
    "IRM": Entry(IRM, "probe", grid(C=PENALTIES[:2], penalty_weight=[1.0, 10.0, 100.0])),
    "group DRO": Entry(GroupDRO, "probe", grid(C=PENALTIES, sharpness=[1.0, 10.0, 100.0])),
    "CLIP-Adapter": Entry(CLIPAdapter, "adapter", grid(ratio=[0.2, 0.5, 0.8])),
    "Tip-Adapter": Entry(TipAdapter, "adapter", grid(alpha=[0.01, 0.03, 0.1, 0.3, 1.0], beta=[20.0, 5.5, 1.0])),
    "CoOp": Entry(CoOp, "prompts", grid(learning_rate=[2e-3, 8e-3])),
    "CoCoOp": Entry(CoCoOp, "prompts", grid()),
    "DPL": Entry(
        DPL, "prompts", grid(learning_rate=[5e-4, 2e-3]),
        note="transductive: it uses the unlabelled test images of a domain together",
    ),
    "fine-tuning": Entry(FineTuning, "fine-tuning", grid(learning_rate=[1e-4, 3e-4]), on_target=True),
    "fine-tuning, last block": Entry(
        FineTuning, "fine-tuning", grid(part=["last block"], learning_rate=[3e-4]), on_target=True
    ),
    "WiSE-FT": Entry(WiSEFT, "fine-tuning", grid(learning_rate=[3e-4], alpha=[0.25, 0.5, 0.75])),
    "LoRA": Entry(LoRA, "fine-tuning", grid(learning_rate=[1e-3, 3e-3])),
    "LoRA + ICM": Entry(
        LoRAThenICM, "fine-tuning", grid(learning_rate=[1e-3, 3e-3]), note="both kinds of "
                                                                           "pairs; λ = 1, K "
                                                                           "= positive eigenvalues"
    ),
}  # fmt: skip


def overview() -> pd.DataFrame:
    """Tabulate the methods: what each is, how many settings are tried on an embedding of 64 dimensions, and its source.

    Returns
    -------
    DataFrame
        Columns method, family, what it is, settings and source.
    """
    rows = []
    for name, entry in METHODS.items():
        said = " ".join((inspect.getdoc(entry.make) or "").replace("*", "").split())
        rows.append(
            {
                "method": name,
                "family": entry.family,
                "what it is": "; ".join(
                    filter(None, [said.split(". ")[0].rstrip("."), entry.note])
                ),
                "settings": len(entry.settings(64)),
                "source": said.partition("Source: ")[2].partition(" Parameters ")[0],
            }
        )
    return pd.DataFrame(rows)
