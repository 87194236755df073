"""The code released with the paper departs from it: one departure at a time, and all together.

Released is ``github.com/ML-TASA/CLIP-ICM`` (read at commit 65f2ca45). Each departure is a
change of one attribute of :class:`Way`, whose defaults are the paper's; nothing of the code
is run, so that what differs between two ways is what they are named after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from icm_core.interventions import intervene_images
from icm_core.moments import PairMoments
from icm_core.prediction import LinearProbe, unit_rows
from icm_core.selection import CONSISTENCY_WEIGHTS
from icm_core.spectrum import trace_spectrum
from icm_study.embedding.tables import EmbeddedData, Embedder, Pairs, moments_of
from icm_study.experiments.intervals import pack
from icm_study.experiments.questions import PENALTIES, open_animals
from icm_study.methods.sources import PREDICTORS
from icm_study.testbeds.base import Loader, Split, TestBed

LARGE = 1000.0  # λ, unless the caller says otherwise
C_OF_PAPER = 0.316
FIFTH = 0.2
_BATCH = 256


@dataclass(frozen=True)
class Way:
    """A way to estimate the projection, to predict, to choose and to test.

    Attributes
    ----------
    kept : {"largest", "smallest", "random"}
        Which eigenvectors of C - λS are kept; or directions at random.
    consistency_weights, n_components : sequence
        λ and K to choose among, from the smallest change to the largest.
    pairs : {"image", "image+text", "shuffled"}
        Images with their copies after an intervention; these and captions with their edits in
        equal parts; or images with copies of other images.
    raw_moments : bool
        Whether C and S are those of embeddings as the model gives them, or of unit rows.
    dot_product : bool
        Whether texts stay as long as the projection makes them, or have unit length again.
    raw_probe : bool
        Whether the probe sees embeddings as the model gives them, at C = 0.316; otherwise unit
        rows, and C is chosen with K and λ.
    tested : float
        Share of the target's images that are tested.
    peeks : bool
        Whether K, λ and C are chosen on the very images that are tested, or on source images
        after an intervention.
    """

    kept: Literal["largest", "smallest", "random"] = "largest"
    consistency_weights: Sequence[float] = CONSISTENCY_WEIGHTS
    n_components: Sequence[int] = (32, 16, 8)
    pairs: Literal["image", "image+text", "shuffled"] = "image"
    raw_moments: bool = False
    dot_product: bool = False
    raw_probe: bool = False
    tested: float = 1.0
    peeks: bool = False


PLAIN, PAPER = "plain, no projection", "as in the paper"
WITH_TEXT = "with text pairs too"
ALL, ALL_BUT_ORDER = "all together", "all but the order"
PEEKED = "chosen on a fifth of the target"
CONTROL = "control: pairs of other images, λ = 1"
#: What the released code does otherwise, by name.
DEPARTURES: dict[str, dict[str, Any]] = {
    "the smallest eigenvalues": {"kept": "smallest"},
    "λ = 1000": {"consistency_weights": (LARGE,)},
    "moments not normalised": {"raw_moments": True},
    "texts not normalised again": {"dot_product": True},
    "C = 0.316, not normalised": {"raw_probe": True},
    "a fifth of the target": {"tested": FIFTH},
    "chosen on the target": {"peeks": True},
}
_TOGETHER = Way(**{name: value for one in DEPARTURES.values() for name, value in one.items()})
WAYS: dict[str, Way] = {
    PAPER: Way(),
    WITH_TEXT: Way(pairs="image+text"),
    **{name: Way(**one) for name, one in DEPARTURES.items()},
    PEEKED: Way(tested=FIFTH, peeks=True),
    ALL: _TOGETHER,
    ALL_BUT_ORDER: replace(_TOGETHER, kept="largest"),
    CONTROL: Way(consistency_weights=(1.0,), pairs="shuffled"),
}


def departures(given: Mapping[str, Any]) -> pd.DataFrame:
    """Measure the paper's way, each departure from it, all together, and no projection.

    The pairs are those of image interventions, which are all that the released code has; what
    text pairs add is measured too.

    Parameters
    ----------
    given : mapping of str to value
        *encoder*, *seeds*, *n_images* and *cache*.

    Returns
    -------
    DataFrame
        The rows of :meth:`Bench.measure`, with target, seed and method.
    """
    rows = []
    for where, bench in benches(given):
        plain = Way(consistency_weights=(0.0,), n_components=(bench.n_features,))
        for name, way in {PLAIN: plain, **WAYS}.items():
            rows += [where | {"method": name} | row for row in bench.measure(way)]
    return pd.DataFrame(rows)


class Rows(NamedTuple):
    """Embedded images: unit rows (n, D), their lengths (n,) as the model gives them, classes."""

    unit: NDArray[np.floating]
    length: NDArray[np.floating]
    label: NDArray[np.integer]

    @property
    def raw(self) -> NDArray[np.floating]:
        """The rows as the model gives them."""
        return self.unit * self.length[:, None]


@dataclass(frozen=True)
class Bench:
    """One target and seed, with what several ways share.

    Attributes
    ----------
    train, copies : Rows
        Source images, and the same after an intervention.
    texts : (captions, edits)
        Unit rows, each (n, D).
    judged : Rows
        Other source images after an intervention.
    tests : dict of str to Rows
        The target's images, for each condition.
    prototypes : ndarray of shape (n_classes, D)
        For each class, the mean of its unit prompts at unit length.
    seed : int
    """

    train: Rows
    copies: Rows
    texts: tuple[NDArray[np.floating], NDArray[np.floating]]
    judged: Rows
    tests: dict[str, Rows]
    prototypes: NDArray[np.floating]
    seed: int
    _known: dict[tuple[Any, ...], Any] = field(default_factory=dict, repr=False)

    @property
    def n_features(self) -> int:
        """Dimension of the embeddings."""
        return self.train.unit.shape[1]

    def measure(self, way: Way) -> list[dict[str, Any]]:
        """Measure both predictors under each condition, at the setting that the way chooses.

        Returns
        -------
        list of dict
            Keys predictor, condition, K, consistency_weight, C (NaN: as zero-shot has none),
            tested (share of the target), n, value (percent), correct, rest (percent, of the
            target's other images; NaN where there are none), and of the projection variance
            and classes: what it keeps of the source images' variance, and of that between
            their classes (percent).
        """
        rows = []
        for predictor in PREDICTORS:
            penalties: Sequence[float] = (np.nan,)
            if predictor == "linear probe":
                penalties = (C_OF_PAPER,) if way.raw_probe else PENALTIES
            settings = list(product(way.consistency_weights, way.n_components, penalties))
            tried = [self._hits(way, predictor, *setting) for setting in settings]
            for condition in self.tests:
                is_tested = self._tested(condition, way.tested)
                chosen_on = [
                    hits[condition][is_tested] if way.peeks else hits["judged"] for hits in tried
                ]
                best = int(np.argmax([hits.mean() for hits in chosen_on]))
                weight, size, C = settings[best]
                correct, rest = (tried[best][condition][rows] for rows in (is_tested, ~is_tested))
                rows.append(
                    {"predictor": predictor, "condition": condition, "K": size, "C": C}
                    | {"consistency_weight": weight, "tested": way.tested, "n": len(correct)}
                    | {"value": 100 * float(correct.mean()), "correct": pack(correct)}
                    | {"rest": 100 * float(rest.mean()) if len(rest) else np.nan}
                    | self._shares(self._components(way, weight)[:size])
                )
        return rows

    def moments(self, way: Way) -> PairMoments:
        """Give C and S of the way's pairs."""

        def compute() -> PairMoments:
            first, second = (
                rows.raw if way.raw_moments else rows.unit for rows in (self.train, self.copies)
            )
            if way.pairs == "shuffled":
                second = second[np.random.default_rng(self.seed).permutation(len(second))]
            pairs: dict[str, Pairs] = {"image": (first, second, None), "text": (*self.texts, None)}
            kinds = "image+text" if way.pairs == "image+text" else "image"
            return moments_of(kinds, pairs.__getitem__)

        return self._once(("moments", way.pairs, way.raw_moments), compute)

    def _components(self, way: Way, weight: float) -> NDArray[np.floating]:
        """All directions, those that are kept first: (D, D), orthonormal rows."""
        if way.kept == "random":
            drawn = np.random.default_rng(self.seed).normal(size=(self.n_features,) * 2)
            return self._once(("random",), lambda: np.linalg.qr(drawn)[0])
        moments = self.moments(way)
        descending = self._once(
            ("spectrum", way.pairs, way.raw_moments, weight),
            lambda: trace_spectrum(moments.C, moments.S, weight)[1],
        )
        return descending if way.kept == "largest" else descending[::-1]

    def _hits(
        self, way: Way, predictor: str, weight: float, size: int, C: float
    ) -> dict[str, NDArray[np.bool_]]:
        """Say which images a predictor gets right, of those to choose on and of each test."""

        def compute() -> dict[str, NDArray[np.bool_]]:
            A = self._components(way, weight)[:size]
            tables = {"judged": self.judged, **self.tests}
            if predictor == "zero-shot":
                texts = self.prototypes @ A.T
                texts = texts if way.dot_product else unit_rows(texts)
                scores = {name: rows.unit @ A.T @ texts.T for name, rows in tables.items()}
                return {
                    name: one.argmax(axis=1) == tables[name].label for name, one in scores.items()
                }
            probe = fit_probe(self.train, A, None if way.raw_probe else C)
            return {
                name: probe.predict((rows.raw if way.raw_probe else rows.unit) @ A.T) == rows.label
                for name, rows in tables.items()
            }

        own = way.dot_product if predictor == "zero-shot" else way.raw_probe
        of_map = (way.kept, way.pairs, way.raw_moments, weight, size)
        return self._once(("hits", predictor, own, *of_map, str(C)), compute)

    def _tested(self, condition: str, share: float) -> NDArray[np.bool_]:
        """Draw the images of a condition that are tested."""
        n = len(self.tests[condition].label)
        drawn = np.random.default_rng(self.seed).permutation(n)
        return drawn < round(share * n)

    def _shares(self, A: NDArray[np.floating]) -> dict[str, float]:
        """Say what a projection keeps of the variance and of the classes, in percent."""
        whole, between = self._once(("scatter",), lambda: scatters(self.train))
        return {
            name: float(100 * np.trace(A @ scatter @ A.T) / np.trace(scatter))
            for name, scatter in (("variance", whole), ("classes", between))
        }

    def _once(self, key: tuple[Any, ...], compute: Any) -> Any:
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]


def fit_probe(train: Rows, A: NDArray[np.floating], C: float | None) -> LinearProbe:
    """Fit a probe behind a projection on unit rows; without C, as the released code does.

    That is logistic regression at C = 0.316 on embeddings that are not scaled in any way:
    to :class:`~icm_core.prediction.LinearProbe`, which scales them, C times their mean square.
    """
    if C is not None:
        return LinearProbe(C).fit(train.unit @ A.T, train.label)
    Z = train.raw @ A.T
    return LinearProbe(C_OF_PAPER * float(np.mean(np.square(Z, dtype=float)))).fit(Z, train.label)


def scatters(rows: Rows) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Covariance of unit rows, and that of their class means: two arrays of shape (D, D)."""
    X = rows.unit.astype(float)
    _, index = np.unique(rows.label, return_inverse=True)
    members = np.eye(index.max() + 1)[index]
    means = members @ (members.T @ X / members.sum(axis=0)[:, None])
    return np.cov(X.T, bias=True), np.cov(means.T, bias=True)


def benches(given: Mapping[str, Any]) -> Any:
    """Give each target and seed of the animal world: (where, :class:`Bench`)."""
    for seed, embedder, bed, data in open_animals(given):
        measured = with_lengths(bed, embedder, data, seed)
        for target in bed.targets():
            yield (
                {"target": target, "seed": seed},
                make_bench(bed.split(measured, target, seed), seed),
            )


def make_bench(split: Split, seed: int) -> Bench:
    """Take from a split what the ways need."""
    prompts, label = split.prompts["prompt"].to_numpy(), split.prompts["label"].to_numpy()
    members = np.eye(label.max() + 1)[:, label]
    return Bench(
        train=_rows(split.train, "original"),
        copies=_rows(split.train, "image"),
        texts=(split.train["caption"].to_numpy(), split.train["edit"].to_numpy()),
        judged=_rows(split.held_out, "image"),
        tests={name: _rows(table, "original") for name, table in split.tests.items()},
        prototypes=unit_rows(members @ unit_rows(prompts)),
        seed=seed,
    )


def _rows(table: xr.Dataset, name: str) -> Rows:
    return Rows(*(table[one].to_numpy() for one in (name, f"length of {name}", "label")))


def with_lengths(bed: TestBed, embedder: Embedder, data: EmbeddedData, seed: int) -> EmbeddedData:
    """Add to the tables of images how long the model makes their embeddings."""
    assert data.test is not None
    load_source, load_test = bed.loaders(embedder.encoder, seed)

    def intervened(rows: NDArray[np.intp]) -> Any:
        return intervene_images(load_source(rows), seed=data.provenance["seed"])

    def compute() -> xr.Dataset:
        assert data.test is not None
        n, n_test = data.source.sizes["row"], data.test.sizes["row"]
        return xr.Dataset(
            {
                "original": ("row", _lengths(embedder, load_source, n)),
                "image": ("row", _lengths(embedder, intervened, n)),
                "test": ("tested", _lengths(embedder, load_test, n_test)),
            }
        )

    key = {name: value for name, value in data.provenance.items() if not isinstance(value, dict)}
    stored = embedder.store.get(key | {"part": "lengths of image embeddings"}, compute)
    names = ("original", "image")
    source = {f"length of {name}": ("row", stored[name].to_numpy()) for name in names}
    test = {"length of original": ("row", stored["test"].to_numpy())}
    return replace(data, source=data.source.assign(source), test=data.test.assign(test))


def _lengths(embedder: Embedder, load: Loader, n: int) -> NDArray[np.floating]:
    batches = [np.arange(start, min(start + _BATCH, n)) for start in range(0, n, _BATCH)]
    raw = [embedder.encoder.encode_images(load(rows), unit=False) for rows in batches]
    return np.linalg.norm(np.concatenate(raw), axis=1)
