"""Whether pairs make a linear probe carry over to an unseen domain.

Each domain is left out in turn. All settings are chosen on the others, by leaving each of
these out: no image of the target is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.linalg import eigh

from icm_core.moments import PairMoments
from icm_core.spectrum import generalized_spectrum, trace_spectrum
from icm_study.experiments.intervals import pack
from icm_study.experiments.redrawing import (
    ANY_PAIRS,
    CLASS_PAIRS,
    COLOURS,
    EMBEDDED,
    LDA,
    SEVEN,
    Labelled,
    discriminant_directions,
)
from icm_study.methods.ridge import IndicatorRidge

#: Strength (λ, or the shrinkage of another form), K, and C of the probe.
Setting = tuple[float, int, float]
PLAIN = "plain"
HONEST, PEEKING = "left-out domain", "target"
#: λ of the trace form; the shrinkage of the others, in units of a mean second moment.
WEIGHTS = (0.3, 1.0, 3.0, 10.0)
SHRINKAGES = (1e-3, 1e-2, 1e-1, 1.0)
PENALTIES = (10.0, 1.0, 0.1, 0.01, 0.001)  # values of the probe's C
SIZES = (8, 16, 32, 64)
N_AXES = 128  # principal axes of the sources that everything is computed in
#: Method -> its form and its pairs; ICM with pairs of any classes is the control.
METHODS = {
    PLAIN: ("", ""),
    "ICM, seven interventions": ("ICM", SEVEN),
    "ICM, colour statistics": ("ICM", COLOURS),
    "ICM, embedded statistics": ("ICM", EMBEDDED),
    "ICM, class pairs": ("ICM", CLASS_PAIRS),
    "ICM, pairs of any classes": ("ICM", ANY_PAIRS),
    "Fukunaga-Koontz, class pairs": ("Fukunaga-Koontz", CLASS_PAIRS),
    "discriminant, seven interventions": ("discriminant", SEVEN),
    "discriminant, class pairs": ("discriminant", CLASS_PAIRS),
    LDA: ("discriminant", LDA),
}


def across_domains(data: Labelled, methods: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """Leave each domain out, choose the settings on the others, and test a linear probe on it.

    A setting is chosen by the accuracy on each source domain in turn, fitted on the others
    (mean over the domains); of equals the smallest change is taken. Beside it stands the setting
    that is best on the target itself, to see what the pairs could give at most. The probe is one of
    least squares on class indicators, with a ridge penalty in units of the mean square of a
    feature, chosen with the rest. All is computed in the first :data:`N_AXES` principal axes of
    the sources.

    Parameters
    ----------
    data : Labelled
    methods : mapping of str to (form, kind)
        See :data:`METHODS`.

    Returns
    -------
    DataFrame
        Columns target (number of the domain), seed, method, choice, K, strength (λ, or the
        shrinkage of another form), C, n, value (percent) and correct (bits, see
        :func:`~icm_study.experiments.intervals.pack`).
    """
    rows = []
    for target in np.unique(data.domain):
        sources, tested = data.without(target), data.take(data.domain == target)
        axes = principal_axes(sources.X)
        sources, tested = sources.projected(axes), tested.projected(axes)
        folds = [
            (sources.without(one), sources.take(sources.domain == one))
            for one in np.unique(sources.domain)
        ]
        for name, (form, kind) in methods.items():
            chosen = _best([_scores(form, kind, *fold) for fold in folds])
            best = _best([_scores(form, kind, sources, tested)])
            for choice, (strength, k, C) in ((HONEST, chosen), (PEEKING, best)):
                components = _components(form, sources, kind, strength)[:k]
                (predicted,) = IndicatorRidge(sources.X, sources.label).predict(
                    components, [C], tested.X
                )
                correct = predicted == tested.label
                rows.append(
                    {"target": int(target), "seed": 0, "method": name, "choice": choice}
                    | {"K": int(k), "strength": strength, "C": C, "n": len(correct)}
                    | {"value": 100 * float(correct.mean()), "correct": pack(correct)}
                )
    return pd.DataFrame(rows)


def principal_axes(X: NDArray[np.floating]) -> NDArray[np.floating]:
    """Find the axes of the largest second moment, at most :data:`N_AXES`: (D, K)."""
    d = X.shape[1]
    return eigh(X.T @ X, subset_by_index=[max(0, d - N_AXES), d - 1])[1][:, ::-1]


def _best(scores: Sequence[dict[Setting, float]]) -> Setting:
    """Give the setting with the largest sum of scores; of equals the first."""
    return max(scores[0], key=lambda setting: sum(one[setting] for one in scores))


def _scores(form: str, kind: str, fitted: Labelled, judged: Labelled) -> dict[Setting, float]:
    """Accuracy on a domain for each strength, K and penalty, the smallest change first."""
    probe, scores = IndicatorRidge(fitted.X, fitted.label), dict[Setting, float]()
    for strength, k, components in _settings(form, kind, fitted):
        for C, labels in zip(
            PENALTIES, probe.predict(components, PENALTIES, judged.X), strict=True
        ):
            scores[strength, k, C] = float((labels == judged.label).mean())
    return scores


def _settings(
    form: str, kind: str, fitted: Labelled
) -> Iterator[tuple[float, int, NDArray[np.floating]]]:
    """Give strength, K and map; to keep all directions comes first where that is no change."""
    d = fitted.X.shape[1]
    strengths = {"": (0.0,), "ICM": WEIGHTS}.get(form, SHRINKAGES)
    for strength in strengths:
        components = _components(form, fitted, kind, strength)
        sizes = [len(components)] if form in ("", "discriminant") else [d, *reversed(SIZES)]
        for k in sizes:
            if k <= len(components):
                yield strength, k, components[:k]


def _components(form: str, data: Labelled, kind: str, strength: float) -> NDArray[np.floating]:
    if not form:
        return np.eye(data.X.shape[1])
    moments = PairMoments(data.X.shape[1]).update(*data.pairs(kind))
    if form == "discriminant":
        return discriminant_directions(data.X, data.label, moments.S, strength)
    if form == "ICM":
        return trace_spectrum(moments.C, moments.S, strength)[1]
    rows = generalized_spectrum(moments.C, moments.S, strength)[1]
    total = moments.C + moments.S
    total += 3 * strength * np.trace(moments.C) / len(total) * np.eye(len(total))
    return rows / np.sqrt(((rows @ total) * rows).sum(axis=1, keepdims=True))
