"""What the notebooks can be set to: the name, type and range of each setting.

`check_settings` checks values against one of the classes below and returns them typed:
whole numbers where a fraction is wanted become fractions, and a path that begins with
``~`` is expanded. Only what was given is returned, since the defaults stand in the
`parameters` cell of each notebook.
"""

from __future__ import annotations

import difflib
import importlib.util
import math
import os
import re
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from typing_extensions import TypedDict

from icm_study.experiments.names import unknown_name

Value = TypeVar("Value", bound=Sequence[Hashable])


def each_once(values: Value) -> Value:
    """Return `values`; raise a ValueError if one of them is given twice."""
    twice = [value for i, value in enumerate(values) if value in values[:i]]
    if twice:
        raise ValueError(f"{twice[0]!r} is given twice; give each once")
    return values


def known_methods(names: Collection[str]) -> Any:
    """Return names of methods; raise a ValueError if one is unknown."""
    for name in names:
        if name not in METHODS:
            raise ValueError(unknown_name(name, METHODS).removesuffix("."))
    return names


def known_encoder(name: str) -> str:
    """Return the name of an encoder; raise a ValueError if there can be none of that name.

    Whether open_clip has weights of a model by a tag, and what a file holds, is found out when
    it is loaded. A path is as seen from the working folder, or from ``notebooks``.
    """
    spec = importlib.util.find_spec("open_clip")  # it is not imported, which takes seconds
    folders = (spec and spec.submodule_search_locations) or ()
    models = [file.stem for place in folders for file in Path(place).glob("model_configs/*.json")]
    model, is_tagged, tag = name.partition("/")
    is_there = any(Path(place, name).expanduser().exists() for place in (".", "notebooks"))
    is_known = name in ENCODERS or name.startswith("hf-hub:") or (is_tagged and model in models)
    if not (is_known or is_there):
        pairs = [f"{one}/{tag or 'TAG'}" for one in models]
        known = [] if name.startswith((".", "~", "/")) or "/" in tag else [*ENCODERS, *pairs]
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise ValueError(
            f"{name!r} is unknown; {hint}Known: {', '.join(ENCODERS)}, a model of open_clip with a "
            "tag of its weights, or the path of a checkpoint that is there"
        )
    return name


Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]
Text = Annotated[str, Field(min_length=1)]
Location = Annotated[Text, AfterValidator(os.path.expanduser)]
EncoderName = Annotated[Text, AfterValidator(known_encoder)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # as scikit-learn takes it
Seeds = Annotated[list[Seed], Field(min_length=1), AfterValidator(each_once)]
Targets = Annotated[list[Text], Field(min_length=1), AfterValidator(each_once)]
Names = Annotated[list[Text], AfterValidator(each_once), AfterValidator(known_methods)]
Choice = Literal["held-out", "left-out domain", "intervened", "unseen intervention", "target"]
Choices = Annotated[list[Choice], Field(min_length=1), AfterValidator(each_once)]


def tried(grid: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return values to try; raise a ValueError if one is no K, no λ, or no positive number."""
    for name, values in grid.items():
        wanted, is_good = KINDS_OF_VALUES.get(name, ("", lambda _: True))
        for value in values:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            is_rule = name in RULED and value in ("auto", "held-out")
            if not is_rule and wanted and not (is_number and is_good(value)):
                rules = ", 'auto' or 'held-out'" * (name in RULED)
                raise ValueError(f"{name}: got {value!r}, but it should be {wanted}{rules}")
    return grid


#: For settings of methods what a value should be, and whether a number is that.
KINDS_OF_VALUES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "n_components": ("a whole number from 1 on", lambda k: isinstance(k, int) and k >= 1),
    "consistency_weight": ("a number, at least 0", lambda weight: 0 <= weight < math.inf),
    "C": ("a number above 0", lambda C: 0 < C < math.inf),
    "learning_rate": ("a number above 0", lambda rate: 0 < rate < math.inf),
}
RULED = ("n_components", "consistency_weight")  # a rule may set these
#: Values to try of each setting of each method.
Grid = Annotated[dict[Text, Annotated[list[Any], Field(min_length=1)]], AfterValidator(tried)]
Grids = Annotated[dict[Text, Grid], AfterValidator(known_methods)]
Style = Literal["photo", "cartoon", "sketch", "painting"]
Styles = Annotated[list[Style], Field(min_length=1), AfterValidator(each_once)]
Counts = Annotated[list[Count], Field(min_length=1), AfterValidator(each_once)]
Weights = Annotated[list[Weight], Field(min_length=1), AfterValidator(each_once)]
Penalties = Annotated[
    list[Annotated[float, Field(gt=0)]], Field(min_length=1), AfterValidator(each_once)
]
Precision = Literal["float32", "bfloat16", "float16"]
#: The names in :data:`~icm_core.interventions.IMAGE_INTERVENTIONS`.
Intervention = Literal[
    "color_jitter", "grayscale", "gaussian_blur", "invert", "posterize", "solarize", "equalize"
]
Protocol = Literal["leave-one-domain-out", "open class", "domain shift with open classes"]
Shortcut = Literal["coat", "scene", "coat+scene"]
Strength = Annotated[float, Field(ge=0, le=1)]
#: The shortcut of an animal world, and how often it holds. YAML knows no tuples: a list
#: will do.
World = Annotated[tuple[Shortcut, Strength], Field(strict=False)]
Worlds = Annotated[list[World], Field(min_length=1), AfterValidator(each_once)]


class Theory(TypedDict, total=False):
    """Settings of 01_theory."""

    n_seeds: Count
    n_pairs: Count
    consistency_weight: Weight
    n_features: Annotated[int, Field(ge=12)]
    dimensions: Counts
    n_models: Count
    n_worlds: Count
    n_images: Count


class Subject(TypedDict, total=False):
    """Which data, seen by which encoder, drawn or split by which seeds."""

    dataset: Location
    encoder: EncoderName
    seeds: Seeds


class Images(TypedDict, total=False):
    """How images are taken and embedded."""

    precision: Precision | None
    n_images: Count | None
    accept_problems: bool
    cache: Location


class Captions(TypedDict, total=False):
    """Where the captions of a folder come from, and what edits them."""

    captioner: Text | None
    editor: Literal["rules", "llm"]


class Reading(TypedDict, total=False):
    """How a folder of domains is read, and how its images are intervened on."""

    interventions: Annotated[list[Intervention], AfterValidator(each_once)]
    nested: bool
    groups: Location | None
    classes: Literal["all", "common"]
    value_range: Literal["file", "used"] | Annotated[tuple[float, float], Field(strict=False)]
    domain_words: dict[str, Text | None]


class Plan(TypedDict, total=False):
    """What is fitted, and how its settings are chosen."""

    methods: Names | Literal["all"]
    choices: Choices
    settings: Grids


class AcrossDomains(Images, Reading, Captions, Plan, total=False):
    """Settings of 02_domain_generalization, whatever its subject is."""

    protocol: Protocol
    targets: Targets | None
    worlds: Worlds


class AcrossVariants(Images, Captions, Plan, total=False):
    """Settings of 04_imagenet_variants, whatever its subject is."""

    variants: dict[str, Location]
    world: World
    reference: EncoderName
    projection_images: Annotated[str, AfterValidator(os.path.expanduser)]


class AcrossMethods(Images, Reading, Captions, Plan, total=False):
    """Settings of 06_methods, whatever its subject is."""

    world: World
    targets: Targets | None


class DomainGeneralization(AcrossDomains, Subject, total=False):
    """Settings of 02_domain_generalization."""


class Ablations(TypedDict, total=False):
    """Settings of 03_ablations."""

    encoder: EncoderName
    precision: Precision | None
    world: World
    seeds: Seeds
    n_images: Count | None
    n_components: Counts
    consistency_weights: Weights
    fine_components: Counts
    fine_weights: Weights
    single_seeds: Count
    n_pairs: Counts
    penalties: Penalties
    cache: Location


class ImageNetVariants(AcrossVariants, Subject, total=False):
    """Settings of 04_imagenet_variants."""


class YourData(Reading, Captions, Plan, total=False):
    """Settings of 05_your_data."""

    folder: Location | None
    encoder: EncoderName | None
    precision: Precision | None
    worth: Weight
    accept_problems: bool
    seeds: Seeds
    example: Location
    cache: Location


class Methods(AcrossMethods, Subject, total=False):
    """Settings of 06_methods."""


class RealClip(TypedDict, total=False):
    """Settings of 08_real_clip."""

    dataset: Location
    n_names: Counts
    ranks: Counts
    n_draws: Count
    seeds: Seeds
    widths: Counts
    lengths: Counts
    n_images: Count
    cache: Location


class Identifiability(TypedDict, total=False):
    """Settings of 09_identifiability."""

    encoder: EncoderName
    seeds: Seeds
    n_images: Count | None
    single_seeds: Count
    dimensions: Counts
    n_worlds: Count
    encoder_seeds: Seeds
    widths: Counts
    lengths: Counts
    narrow: Counts
    n_compared: Count
    encoders: Location
    cache: Location
    parts: Location | None


class OpenQuestions(TypedDict, total=False):
    """Settings of 10_open_questions."""

    encoder: EncoderName
    seeds: Seeds
    n_images: Count | None
    photographs: Location
    n_coloured: Count
    real_clip: Location
    comparison: Location
    tuned_seeds: Seeds
    tuned_targets: Styles
    n_tuned: Count
    cache: Location
    parts: Location | None


class ReleasedCode(TypedDict, total=False):
    """Settings of 11_released_code."""

    encoder: EncoderName
    seeds: Seeds
    n_images: Count | None
    n_components: Count
    consistency_weights: Weights
    cache: Location
    parts: Location | None


class Explore(Subject, Images, total=False):
    """Settings of 07_explore."""

    protocol: Protocol
    worlds: Worlds


#: The settings of each notebook that has some; the files that it reads and writes are
#: no settings.
NOTEBOOKS: dict[str, type] = {
    "01_theory": Theory,
    "02_domain_generalization": DomainGeneralization,
    "03_ablations": Ablations,
    "04_imagenet_variants": ImageNetVariants,
    "05_your_data": YourData,
    "06_methods": Methods,
    "08_real_clip": RealClip,
    "07_explore": Explore,
    "09_identifiability": Identifiability,
    "10_open_questions": OpenQuestions,
    "11_released_code": ReleasedCode,
}
ANIMALS = "animal-world"
_PAIRS = ("image", "text", "image+text", "oracle")
#: What :func:`~icm_study.encoders.loading.load_encoder` knows beside open_clip's models and files.
ENCODERS = ("animal-world", "animal-world-biased", "lite0-minilm")
#: Keys of :data:`~icm_study.methods.registry.METHODS`, which takes seconds to import.
METHODS = (
    "plain", "single prompt", "tuned penalty", "random projection", "PCA", "LEACE",
    "biased prompts", "Fukunaga-Koontz", "centring", "SPD", "SHED", "TIE",
    *(f"tuned penalty, {rival}" for rival in ("SPD", "SHED", "TIE")),
    *(
        f"{way} {pairs}"
        for way in (
            "ICM", "ICM auto", "tuned penalty, ICM", "tuned penalty, chosen ICM", "ICM gap",
            "ICM held-out",
        )
        for pairs in _PAIRS
    ),
    "augmentation", "augmentation oracle", "LDA", "CORAL", "IRM", "group DRO", "CLIP-Adapter",
    "Tip-Adapter", "ICA", "CoOp", "CoCoOp", "DPL", "fine-tuning", "fine-tuning, last block",
    "WiSE-FT", "LoRA", "LoRA + ICM",
)  # fmt: skip
#: What the pages judge CLIP-ICM by, where there are several: the most complete one last.
KINDS = ("image", "text", "image+text")
#: What a folder of images can be given and the animal world cannot, with the value that asks for
#: nothing.
OF_A_FOLDER: dict[str, Any] = {
    "variants": {}, "projection_images": "", "captioner": None, "accept_problems": False,
    "nested": False, "domain_words": {}, "interventions": [], "editor": "rules",
    "classes": "all", "value_range": "file", "groups": None,
}  # fmt: skip
#: What the animal world can be given and a folder of images cannot.
OF_ANIMALS = ("worlds", "world", "reference")
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def check_settings(kind: type, given: Mapping[str, Any], where: str = "settings") -> dict[str, Any]:
    """Check the settings in `given` and return them typed.

    Parameters
    ----------
    kind : type
        One of the classes of this module, such as `Theory`.
    given : mapping
        Plain values by name: texts, numbers, truth values, None, lists and mappings.
    where : str
        Where the values come from, for the message.

    Returns
    -------
    dict
        What was given, typed; what was not given is not there.

    Raises
    ------
    ValueError
        If a name is unknown or missing, or a value has another type or range: a line
        for each.
    """
    # Around a mapping of it, since a TypedDict takes no configuration from outside.
    mapping: Any = dict[str, kind]  # type: ignore[valid-type]
    adapter: TypeAdapter[dict[str, dict[str, Any]]] = TypeAdapter(mapping, config=STRICT)
    try:
        settings = adapter.validate_python({where: given})[where]
    except ValidationError as error:
        faults = dict.fromkeys(_explain(kind, fault) for fault in _meant(error.errors()))
        raise ValueError("\n".join(f"{where}: {fault}" for fault in faults)) from None
    _check_judged(kind, settings.get("methods"), where)
    on_animals = "dataset" in get_type_hints(kind) and settings.get("dataset", ANIMALS) == ANIMALS
    ignored = [name for name, none in OF_A_FOLDER.items() if settings.get(name) not in (none, None)]
    if on_animals and ignored:
        raise ValueError(
            f"{where}: got {', '.join(ignored)}, which {ANIMALS!r} does not have; "
            "name a folder as 'dataset', or leave it out."
        )
    return settings


def check_no_animals(given: Collection[str], where: str) -> None:
    """Refuse, for a folder of images, settings that only the animal world has.

    Raises
    ------
    ValueError
    """
    if ignored := [name for name in OF_ANIMALS if name in given]:
        raise ValueError(
            f"{where}: got {', '.join(ignored)}, which a folder of images does not have; leave it "
            f"out, or take {ANIMALS!r} as 'dataset'."
        )


def _check_judged(page: type, methods: Any, where: str) -> None:
    """Refuse methods by which a page of 02, 04 or 05 cannot judge CLIP-ICM."""
    if methods in (None, [], "all"):
        return
    if page is YourData:
        any_way = {f"{way} {kind}" for way in ("ICM", "ICM auto") for kind in KINDS}
        if "plain" not in methods or not any_way & set(methods):
            raise ValueError(
                f"{where}: 'methods': got {list(methods)}, but CLIP-ICM is compared with the plain "
                "probe; name 'plain', and at least one of "
                f"{', '.join(map(repr, sorted(any_way)))}, beside what else you want."
            )
    if not {"protocol", "variants"} & set(get_type_hints(page)):
        return
    ways = [{kind for kind in KINDS if f"{way} {kind}" in methods} for way in ("ICM", "ICM auto")]
    if "plain" not in methods or not ways[0] or ways[0] != ways[1]:
        raise ValueError(
            f"{where}: 'methods': got {list(methods)}, but CLIP-ICM is judged by both ways to have "
            "its K and λ, against the plain predictors; name 'plain', and of each kind of "
            "interventions both, such as 'ICM image' and 'ICM auto image', beside what else you "
            "want. Other choices of methods are compared by 06_methods."
        )


def _place(fault: ErrorDetails) -> tuple[str, ...]:
    """Give where a fault is, without what pydantic calls the kinds that a value may have."""
    return tuple(part for part in map(str, fault["loc"][1:]) if not re.search(r"[\[(]", part))


def _meant(faults: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Leave out that a list is no word, where lists will do and this one has a fault of its own."""

    def is_meant(fault: ErrorDetails) -> bool:
        place, is_word = _place(fault), isinstance(fault["input"], str)
        others = [other for other in faults if other is not fault]
        return (
            is_word
            or fault["type"] != "literal_error"
            or not any(_place(other)[: len(place)] == place for other in others)
        )

    return [fault for fault in faults if is_meant(fault)]


def _explain(kind: type, fault: ErrorDetails) -> str:
    """Say in one line what is wrong with one of the settings."""
    name, got = ".".join(_place(fault)), fault["input"]
    if fault["type"] == "extra_forbidden":
        return unknown_name(name, get_type_hints(kind))
    if fault["type"] == "missing":
        return f"'{name}' is missing."
    if fault["type"] == "value_error":
        return f"'{name}': {fault['ctx']['error']}."
    wanted = re.sub("^[A-Z][a-z]+ should", "it should", fault["msg"])
    wanted = wanted.replace(" after validation", "")
    if isinstance(got, str) and fault["type"] in ("float_type", "int_type"):
        wanted += "; a number has no quotes, and a point and a sign with its exponent: 1.0e-05"
    return f"'{name}': got {got!r}, but {wanted}." if name else f"got {got!r}, but {wanted}."
