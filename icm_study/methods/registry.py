"""Every method by name, with the settings that are tried, in one place.

Settings go from the smallest change of the encoder's behaviour to the largest: of equally
good ones the first is taken.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import pandas as pd

from icm_core.selection import CONSISTENCY_WEIGHTS, default_n_components
from icm_study.methods.adapters import CLIPAdapter, ICAAdapter, TipAdapter
from icm_study.methods.base import Method
from icm_study.methods.debiasing import SHED, SPD, TIE, Centring
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

#: For each parameter of a method the values that are tried; "K" stands for sizes that suit
#: the embedding.
Grid = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Entry:
    """A method in the registry.

    Attributes
    ----------
    make : callable
        From a setting to the unfitted method.
    family : str
        What kind of method it is, for the report.
    grid : mapping of str to sequence
        The values that are tried, see :data:`Grid`; every combination, the last parameter
        varying fastest.
    predictors : tuple of str, optional
        The predictors that are reported, where these are not all that the method has.
    or_all : bool
        Whether a projection may also keep every direction, which changes nothing.
    on_target : bool
        Whether the method is also trained on half of the target's own labelled images, to
        see what these give.
    after : str
        The method of the same class and grid whose best setting `then` is tried with; values
        that it is given count here too.
    then : mapping of str to sequence
        Values that are tried afterwards, each with the best setting of `grid`.
    note : str
        What sets it apart from other methods of the same class.
    """

    make: Callable[..., Method]
    family: str
    grid: Grid = field(default_factory=dict)
    predictors: tuple[str, ...] | None = None
    or_all: bool = False
    on_target: bool = False
    after: str = ""
    then: Grid = field(default_factory=dict)
    note: str = ""

    def settings(self, n_features: int, given: Grid | None = None) -> list[dict[str, Any]]:
        """List the settings that are tried on embeddings of a dimension.

        Parameters
        ----------
        n_features : int
            D.
        given : mapping of str to sequence, optional
            Values to try instead, for some of the parameters.
        """
        grid = {**self.grid, **(given or {})}
        sizes = tuple(reversed(default_n_components(n_features)))
        lists = [sizes if values == "K" else tuple(values) for values in grid.values()]
        settings = [dict(zip(grid, one, strict=True)) for one in product(*lists)]
        if self.or_all and not (given and "n_components" in given):
            settings.insert(0, settings[0] | {"n_components": n_features})
        return settings

    def given_best(self, best: Mapping[str, Any], given: Grid | None = None) -> Entry:
        """Give the entry that tries, with the best setting of the grid, the values of `then`.

        Parameters
        ----------
        best : mapping of str to value
            One of :meth:`settings`.
        given : mapping of str to sequence, optional
            Values to try instead, for some of the parameters.
        """
        grid: dict[str, Sequence[Any]] = {name: [value] for name, value in best.items()}
        grid |= {name: (given or {}).get(name, values) for name, values in self.then.items()}
        return replace(self, grid=grid, then={}, or_all=False)

    def parameters(self) -> list[str]:
        """Name the parameters that can be set."""
        return [name for name in inspect.signature(self.make).parameters if name != "intervention"]


PENALTIES = (0.316, 0.0316, 0.00316)
PENALTY_GRID = {"C": [0.316, 1.0, 0.1, 0.0316, 0.01, 0.00316, 0.001]}
ROUNDS, STRENGTHS = {"n_rounds": [0, 1, 2, 4, 8]}, {"strength": [0.0, 0.5, 1.0]}
KINDS = {"image": "image pairs", "text": "text pairs", "image+text": "both kinds of pairs"}
KINDS |= {"oracle": "pairs that the simulator renders"}


def _chosen(kind: str, note: str, **more: Any) -> Entry:
    grid = {"intervention": [kind], "consistency_weight": CONSISTENCY_WEIGHTS, "n_components": "K"}
    said = f"{KINDS[kind]}; K and λ chosen{note}"
    return Entry(ICM, "CLIP-ICM", grid, or_all=True, note=said, **more)


def _ruled(kind: str, note: str, **rule: Any) -> Entry:
    grid = {"intervention": [kind], **{name: [value] for name, value in rule.items()}}
    return Entry(ICM, "CLIP-ICM", grid, note=f"{KINDS[kind]}; {note}")


METHODS: dict[str, Entry] = {
    "plain": Entry(Plain, "CLIP"),
    "single prompt": Entry(
        Plain, "CLIP", {"prompts": ["single"]}, ("zero-shot",),
        note="here with the first prompt of a class alone",
    ),
    "tuned penalty": Entry(
        Plain, "CLIP", PENALTY_GRID, ("linear probe",),
        on_target=True, note="here with the penalty of the probe chosen",
    ),
    "random projection": Entry(RandomProjection, "map", {"n_components": "K"}, or_all=True),
    "PCA": Entry(PCA, "map", {"n_components": "K"}, or_all=True),
    "LEACE": Entry(LEACE, "map"),
    "biased prompts": Entry(
        BiasedPrompts, "map",
        {"calibration": [0.0, 10.0, 100.0, 500.0], "n_directions": [0, 1, 4, 8]},
    ),
    "Fukunaga-Koontz": Entry(
        FukunagaKoontz, "map", {"intervention": ["image+text", "image"], "n_components": "K"},
        ("linear probe",),
    ),
    "centring": Entry(Centring, "map"),
    "SPD": Entry(SPD, "map", ROUNDS),
    "SHED": Entry(SHED, "map"),
    "TIE": Entry(TIE, "map", STRENGTHS),
    "tuned penalty, SPD": Entry(
        SPD, "map", ROUNDS, ("linear probe",), after="SPD", then=PENALTY_GRID,
        note="n_rounds chosen, then the penalty of the probe",
    ),
    "tuned penalty, SHED": Entry(
        SHED, "map", PENALTY_GRID, ("linear probe",), note="the penalty of the probe chosen",
    ),
    "tuned penalty, TIE": Entry(
        TIE, "map", STRENGTHS, ("linear probe",), after="TIE", then=PENALTY_GRID,
        note="strength chosen, then the penalty of the probe",
    ),
    **{f"ICM {kind}": _chosen(kind, "") for kind in KINDS},
    **{f"ICM auto {kind}": _ruled(kind, "λ = 1, K = positive eigenvalues") for kind in KINDS},
    **{
        f"tuned penalty, ICM {kind}": Entry(
            ICM, "CLIP-ICM", {"intervention": [kind], **PENALTY_GRID}, ("linear probe",),
            note=f"{pairs}; λ = 1, K = positive eigenvalues, the penalty of the probe chosen",
        )
        for kind, pairs in KINDS.items()
    },
    **{
        f"tuned penalty, chosen ICM {kind}": _chosen(
            kind, ", then the penalty of the probe",
            after=f"ICM {kind}", then=PENALTY_GRID, predictors=("linear probe",),
        )
        for kind in KINDS
    },
    **{
        f"ICM gap {kind}": _ruled(
            kind, "λ and K from the widest gap of the shares", consistency_weight="auto"
        )
        for kind in KINDS
    },
    **{
        f"ICM held-out {kind}": _ruled(
            kind, "λ and K by pairs held out",
            consistency_weight="held-out", n_components="held-out",
        )
        for kind in KINDS
    },
    "augmentation": Entry(Augmentation, "probe", PENALTY_GRID),
    "augmentation oracle": Entry(
        Augmentation, "probe", {"intervention": ["oracle"], **PENALTY_GRID},
        note="here by images that the simulator renders anew",
    ),
    "LDA": Entry(LDA, "probe"),
    "CORAL": Entry(CORAL, "probe", {"C": PENALTIES, "shrinkage": [1.0, 0.1, 0.01]}),
    "IRM": Entry(IRM, "probe", {"C": PENALTIES[:2], "penalty_weight": [1.0, 10.0, 100.0]}),
    "group DRO": Entry(GroupDRO, "probe", {"C": PENALTIES, "sharpness": [1.0, 10.0, 100.0]}),
    "CLIP-Adapter": Entry(CLIPAdapter, "adapter", {"ratio": [0.2, 0.5, 0.8]}),
    "Tip-Adapter": Entry(
        TipAdapter, "adapter", {"alpha": [0.01, 0.03, 0.1, 0.3, 1.0], "beta": [20.0, 5.5, 1.0]}
    ),
    "ICA": Entry(
        ICAAdapter, "adapter",
        {"text_weight": [1.0, 0.1, 0.0], "C": PENALTIES[:2], "n_components": "K"},
    ),
    "CoOp": Entry(CoOp, "prompts", {"learning_rate": [2e-3, 8e-3]}),
    "CoCoOp": Entry(CoCoOp, "prompts"),
    "DPL": Entry(
        DPL, "prompts", {"learning_rate": [5e-4, 2e-3]},
        note="transductive: it uses the unlabelled test images of a domain together",
    ),
    "fine-tuning": Entry(
        FineTuning, "fine-tuning", {"learning_rate": [1e-4, 3e-4]}, on_target=True
    ),
    "fine-tuning, last block": Entry(
        FineTuning, "fine-tuning", {"part": ["last block"], "learning_rate": [3e-4]}, on_target=True
    ),
    "WiSE-FT": Entry(
        WiSEFT, "fine-tuning", {"learning_rate": [3e-4], "alpha": [0.25, 0.5, 0.75]}
    ),
    "LoRA": Entry(LoRA, "fine-tuning", {"learning_rate": [1e-3, 3e-3]}),
    "LoRA + ICM": Entry(
        LoRAThenICM, "fine-tuning", {"learning_rate": [1e-3, 3e-3]},
        note="both kinds of pairs; λ = 1, K = positive eigenvalues",
    ),
}  # fmt: skip


def check_methods(methods: Sequence[str], settings: Mapping[str, Grid] | None = None) -> None:
    """Refuse a lone string, an empty list, repeated and unknown names, of methods or parameters.

    Parameters
    ----------
    methods : sequence of str
        Keys of :data:`METHODS`.
    settings : mapping of str to mapping, optional
        For some of these methods, values to try by parameter.

    Raises
    ------
    TypeError
        If the names are a single string.
    ValueError
        If one is unknown (with the nearest known one) or given twice, or there is none.
    """
    check_names("methods", methods, METHODS)
    for name, grid in (settings or {}).items():
        check_names("the methods in settings", [name], METHODS)
        check_names(f"the parameters of {name!r}", list(grid), METHODS[name].parameters())
        for parameter, values in grid.items():
            if isinstance(values, str) or not isinstance(values, Sequence) or not values:
                raise ValueError(
                    f"settings: {parameter!r} of {name!r} is {values!r}; expected a list of values "
                    f"to try, such as [{values!r}]."
                )


def check_names(what: str, names: Sequence[str], known: Iterable[str]) -> None:
    """Refuse a lone string, an empty list, repeated and unknown names; tell the nearest known."""
    known = list(known)
    if isinstance(names, str):
        raise TypeError(f"{what}: {names!r}; expected a sequence of names. Write [{names!r}].")
    unknown = [name for name in names if name not in known]
    if unknown:
        near = difflib.get_close_matches(str(unknown[0]), known, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"{what}: {unknown[0]!r} is unknown; expected some of "
            f"{', '.join(map(repr, known))}.{hint}"
        )
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"{what}: {list(names)}; expected at least one of {', '.join(map(repr, known))}, "
            f"each once."
        )


def overview(methods: Iterable[str] = METHODS) -> pd.DataFrame:
    """Tabulate methods: what each is, how many settings are tried on 64 dimensions, its source.

    Returns
    -------
    DataFrame
        Columns method, family, what it is, settings and source.
    """
    rows = []
    for name in methods:
        entry = METHODS[name]
        said = " ".join((inspect.getdoc(entry.make) or "").replace("*", "").split())
        said = re.sub(r":\w+:`~?([\w.]+)`", r"\1", said)  # a reference, on a page a name
        what = [said.split(". ")[0].rstrip("."), entry.note]
        rows.append(
            {
                "method": name,
                "family": entry.family,
                "what it is": "; ".join(filter(None, what)),
                "settings": len(entry.settings(64)) + sum(map(len, entry.then.values())),
                "source": said.partition("Source: ")[2].partition(" Parameters ")[0],
            }
        )
    return pd.DataFrame(rows)
