"""What is claimed of each experiment on embeddings, and how it came out.

Each experiment has a function that turns its tidy table into verdicts, see
:mod:`icm_study.report.verdicts`. Nothing is computed here but means and paired
differences.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from icm_study.experiments.choosing import CHOICES, NOT_CHOSEN
from icm_study.experiments.intervals import contrast
from icm_study.experiments.reading import KINDS, SHIFTS, Results
from icm_study.report.gains import gain_claim
from icm_study.report.penalties import CHOSEN, Side, alike
from icm_study.report.verdicts import COLUMNS, located

#: What the verdicts call the conditions other than in distribution.
SAID = {
    "unseen": "on an unseen domain",
    "reversed": "on an unseen domain with the shortcut reversed",
    "new_classes": "on classes that training has not seen",
}
AUTO = "λ fixed at 1, K = positive eigenvalues"
#: Headings of the sections that measure what is claimed.
RIVALRY, CHOOSING, ORDER, PENALTY = (
    "Against the rivals",
    "How to choose without peeking",
    "Objective, and the released code",
    "The penalty of the probe",
)


def ways(choice: str) -> dict[str, tuple[str, str]]:
    """Give the ways to have K and λ of CLIP-ICM: in words -> (method without its kind, choice).

    Parameters
    ----------
    choice : str
        The way of choosing that is judged, a key of
        :data:`~icm_study.experiments.choosing.CHOICES`.
    """
    return {
        f"K and λ chosen on {CHOICES[choice].note}": ("ICM", choice),
        AUTO: ("ICM auto", NOT_CHOSEN),
    }


def side(method: str, predictor: str, choice: str = NOT_CHOSEN) -> Side:
    """Tell a method's rows by its name, the predictor, and how its settings were chosen."""
    return {"method": method, "predictor": predictor, "choice": choice}


def domain_generalization_claims(results: Results) -> pd.DataFrame:
    """Judge what CLIP-ICM gains in the world that is judged, against each rival.

    Parameters
    ----------
    results : Results

    Returns
    -------
    DataFrame
        The columns of a table of verdicts. Augmentation is left out if
        it was not run. Of probes, both sides have their penalty chosen on the sources; the
        statement says so, or that it is fixed where there are no such rows.

    Raises
    ------
    ValueError
        If a side was not run, see :func:`~icm_study.experiments.intervals.contrast`.
    """
    judged = results.judged()
    kinds, shifts = judged.kinds, [name for name in SHIFTS if name in judged.conditions]
    plain, zero = side("plain", "linear probe"), side("plain", "zero-shot")
    augmented = judged.side_of("augmentation", "linear probe")  # may have been left out
    both = {"linear probe", "zero-shot"} <= set(judged.table["predictor"])
    questions: list[tuple[str, str, str, Side, str, str]] = []
    for how in ways(judged.choice):
        if both:
            questions += [
                ("Probe", how, kind, plain, "the plain probe", shifts[-1]) for kind in kinds
            ]
            questions += [
                ("Probe", how, kinds[-1], plain, "the plain probe", shift) for shift in shifts[:-1]
            ]
            questions += [
                ("Probe, rivals", how, kinds[-1], rival, said, shifts[-1])
                for rival, said in (
                    (augmented, "the probe trained on augmented images"),
                    (zero, "plain zero-shot"),
                )
                if rival
            ]
        questions += [
            ("Zero-shot", how, kind, zero, "plain zero-shot", shift)
            for kind in (kinds[1:] or kinds)
            for shift in shifts
        ]
    rows = []
    for topic, how, kind, rival, said, shift in questions:
        method, choice = ways(judged.choice)[how]
        predictor = "zero-shot" if topic == "Zero-shot" else "linear probe"
        part = judged.of(condition=shift)
        pair = alike(part, side(f"{method} {kind}", predictor, choice), rival)
        subject = f"ICM {predictor.split()[-1]}, {_kinds(kind)}, {how}{pair.said}"
        gain = part.gain(pair.ours, pair.theirs)
        statement = f"{subject}: beats {said} {SAID[shift]}"
        rows.append(_gain(f"{topic} ({_where(judged)})", statement, gain, RIVALRY))
    return pd.DataFrame(rows)


def gains_over_plain(results: Results) -> pd.DataFrame:
    """Paired gains of CLIP-ICM over the plain predictor of the same kind, under the last shift.

    Parameters
    ----------
    results : Results

    Returns
    -------
    DataFrame
        Columns predictor, way (to have K and λ), penalty (what is said of the probe's, see
        :func:`~icm_study.report.penalties.alike`), condition, value (percentage points), low,
        high and others of :func:`~icm_study.experiments.intervals.contrast`. No rows if
        none of :data:`~icm_study.experiments.reading.SHIFTS` was run.
    """
    judged = results.judged()
    shifts = [name for name in SHIFTS if name in judged.conditions]
    kind = judged.kinds[-1]
    rows = []
    for shift in shifts[-1:]:
        part = judged.of(condition=shift)
        for predictor in judged.table["predictor"].unique():
            for how, (method, choice) in ways(judged.choice).items():
                ours = side(f"{method} {kind}", predictor, choice)
                pair = alike(part, ours, side("plain", predictor))
                gain = part.gain(pair.ours, pair.theirs)
                rows.append(gain.assign(predictor=predictor, way=how, penalty=pair.penalty))
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def gains_over_rivals(results: Results) -> pd.DataFrame:
    """Paired gains of every way to run CLIP-ICM over each simple rival, under every shift.

    The rivals are the plain predictor of the same kind, and for probes those trained on
    augmented images: by image interventions, and for the oracle also on re-rendered ones.
    Probes have chosen penalties where there are such rows; those with the fixed one then stand
    beside, and are not judged.

    Parameters
    ----------
    results : Results

    Returns
    -------
    DataFrame
        The rows of :func:`~icm_study.experiments.intervals.contrast`, with predictor, method,
        rival, and whether the row is judged.
    """
    judged = results.judged()
    shifted = judged.of(condition=judged.shifts)
    ours = [
        (f"{method} {kind}", predictor, choice)
        for predictor in judged.table["predictor"].unique()
        for method, choice in ways(judged.choice).values()
        for kind in (*KINDS, "oracle")
    ]
    compared, names = [], []
    for method, predictor, choice in ours:
        for rival in ("plain", "augmentation", "augmentation oracle"):
            if rival.endswith("oracle") and not method.endswith("oracle"):
                continue
            one, other = side(method, predictor, choice), shifted.side_of(rival, predictor)
            if not (shifted.has(one) and other):
                continue
            judged_pair = alike(shifted, one, other)
            pairs = [(judged_pair.ours, judged_pair.theirs, True)]
            if judged_pair.ours != one and rival == "plain":
                pairs.append((one, other, False))
            compared += [pair[:2] for pair in pairs]
            names += [(predictor, a["method"], b["method"], is_it) for a, b, is_it in pairs]
    told = pd.DataFrame(names, columns=["predictor", "method", "rival", "judged"])
    return _told(shifted.gains(compared), told)


def variant_claims(results: Results) -> pd.DataFrame:
    """Judge what CLIP-ICM gains over the plain predictor of the same kind, on each variant.

    Parameters
    ----------
    results : Results

    Returns
    -------
    DataFrame
        The columns of a table of verdicts.
    """
    kind, dataset = results.kinds[-1], results.table["dataset"].iloc[0]
    rows = []
    for how, (method, choice) in ways(results.choice).items():
        for predictor in results.table["predictor"].unique():
            for variant in results.shifts:
                part = results.of(condition=variant)
                ours = side(f"{method} {kind}", predictor, choice)
                pair = alike(part, ours, side("plain", predictor))
                statement = (
                    f"ICM {predictor}, {_kinds(kind)}, {how}{pair.said}: beats the plain "
                    f"{predictor} on {variant} of {dataset}"
                )
                name = f"Variants, {predictor} ({_where(results)})"
                gain = part.gain(pair.ours, pair.theirs)
                rows.append(_gain(name, statement, gain, RIVALRY))
    return pd.DataFrame(rows)


def ablation_claims(
    choices: pd.DataFrame,
    objectives: pd.DataFrame,
    penalties: pd.DataFrame,
    where: str,
    kind: str = "image+text",
) -> pd.DataFrame:
    """Judge the choices of the method by the probe's accuracy with the shortcut reversed.

    Parameters
    ----------
    choices : DataFrame
        Rows of :func:`~icm_study.experiments.grids.choose_penalty`, by condition, with a column
        choice ("intervened", "held-out", "auto").
    objectives : DataFrame
        The same with a column objective.
    penalties : DataFrame
        Rows of :func:`~icm_study.experiments.grids.probes_by_penalty`.
    where : str
        The world and the encoder, as the verdicts name them.
    kind : str
        The intervention that is judged.

    Returns
    -------
    DataFrame
        The columns of a table of verdicts.
    """
    questions = [
        (choices, "choice", "intervened", "held-out",
         "choosing K and λ on intervened source images beats plain ones"),
        (choices, "choice", "auto", "intervened",
         "choosing K by the spectrum (λ fixed at 1, positive eigenvalues) beats choosing on "
         "intervened source images"),
        (objectives, "objective", "trace", "released",
         "keeping the largest eigenvalues beats the released order"),
        (objectives, "objective", "trace", "generalized",
         "the trace objective beats the generalised one, which has no λ"),
        (penalties[penalties["penalty"] == "chosen"], "side", "ICM", "plain",
         f"the projection ({AUTO}) beats the plain probe"),
    ]  # fmt: skip
    rows = []
    for table, column, first, second, statement in questions:
        part = table[(table["predictor"] == "linear probe") & (table["intervention"] == kind)]
        part = part[part["condition"] == "reversed"]
        gain = contrast(part, {column: first}, {column: second}, ["condition"])
        topics = {"choice": "Choosing", "objective": "Objective", "side": "Penalty"}
        name = f"{topics[column]} ({where}, {table['seed'].nunique()} seeds)"
        said = f"ICM probe, {_kinds(kind)}, {CHOSEN}, {SAID['reversed']}: {statement}"
        section = {"choice": CHOOSING, "objective": ORDER, "side": PENALTY}[column]
        rows.append(_gain(name, said, gain, section))
    return pd.DataFrame(rows)


#: What a critical reader tries first: (method, predictor, what the verdicts call it).
RIVALS = (
    ("plain", "zero-shot", "plain zero-shot"),
    ("plain", "linear probe", "the plain probe"),
    ("augmentation", "linear probe", "the probe trained on augmented images"),
    ("LDA", "linear probe", "linear discriminant analysis"),
    ("ICA", "linear probe", "independent components and text together"),
    ("SPD", "linear probe", "the probe without the directions that tell the domain"),
    ("SHED", "linear probe", "the probe without the centroids of styles"),
    ("TIE", "linear probe", "the probe on images moved against the values that they show"),
)


def learnt_from(methods: Iterable[str]) -> str | None:
    """Tell which interventions the CLIP-ICM of a comparison learns from, the most complete."""
    return next((kind for kind in reversed(KINDS) if f"ICM auto {kind}" in set(methods)), None)


def differences(results: Results, against: tuple[str, str]) -> pd.DataFrame:
    """Paired differences of every method to one of them, settings chosen in the way that is judged.

    Parameters
    ----------
    results : Results
    against : (method, predictor)
        For example ``("plain", "linear probe")``.

    Returns
    -------
    DataFrame
        Columns condition, value (percentage points), low, high, n_runs, method, against and
        predictor; no rows if `against` was not run.
    """
    honest = results.chosen_by(results.choice)
    rival = honest.side_of(*against)
    methods = honest.table[["predictor", "method"]].drop_duplicates().to_numpy()
    ours = [honest.side_of(method, predictor) for predictor, method in methods]
    compared = [(one, rival) for one in ours if rival and one and one != rival]
    if not compared:
        return pd.DataFrame(columns=["predictor", "method"])
    gains = honest.gains(compared)
    names = pd.DataFrame([one for one, _ in compared])[["predictor", "method"]]
    return _told(gains, names).assign(against=", ".join(against))


def _told(gains: pd.DataFrame, names: pd.DataFrame) -> pd.DataFrame:
    """Put what each pair is called beside its gains, in the place of its number."""
    told = names.loc[gains["pair"]].reset_index(drop=True)
    return gains.drop(columns="pair").assign(**{str(name): told[name] for name in told})


def comparison_claims(results: Results) -> pd.DataFrame:
    """Judge CLIP-ICM against its rivals, and the ways to choose settings against each other.

    Both ways to have K and λ are judged: from the spectrum alone, and chosen as the rivals'
    settings are.

    Parameters
    ----------
    results : Results

    Returns
    -------
    DataFrame
        The columns of a table of verdicts. What was not run is left out.
    """
    where = _where(results)
    shift = "reversed" if "reversed" in results.conditions else "unseen"
    part = results.of(condition=shift)
    kind = learnt_from(part.table["method"])
    ours = {
        f"ICM auto {kind}": AUTO,
        f"ICM {kind}": "K and λ chosen as the rival's settings are",
    }
    rows = []
    for name, how in ours.items():
        questions = [("linear probe", *rival) for rival in RIVALS]
        questions.append(("zero-shot", *RIVALS[0]))
        for predictor, rival, theirs, said in questions:
            first, second = part.side_of(name, predictor), part.side_of(rival, theirs)
            if first and second:
                pair = alike(part, first, second)
                subject = f"ICM {predictor.split()[-1]}, {_kinds(kind)}, {how}{pair.said}"
                statement = f"{subject}: beats {said} {SAID[shift]}"
                gain = part.gain(pair.ours, pair.theirs)
                rows.append(_gain(f"Rivals ({where})", statement, gain, RIVALRY))
    chosen = side(f"ICM {kind}", "linear probe", results.choice)
    plainly = side(f"ICM {kind}", "linear probe", "held-out")
    auto = side(f"ICM auto {kind}", "linear probe")
    note = CHOICES[results.choice].note
    for statement, one, other in (
        (f"choosing K and λ on {note} beats plain ones", chosen, plainly),
        (f"{AUTO.replace(',', ' and')} beats choosing on {note}", auto, chosen),
    ):
        if part.has(one) and part.has(other) and one != other:
            pair = alike(part, one, other)
            said = f"ICM probe, {_kinds(kind)}{pair.said}, {SAID[shift]}: {statement}"
            gain = part.gain(pair.ours, pair.theirs)
            rows.append(_gain(f"Choosing ({where})", said, gain, CHOOSING))
    return pd.DataFrame(rows, columns=COLUMNS)


def _gain(name: str, statement: str, gains: pd.DataFrame, section: str) -> dict[str, Any]:
    """Judge the gain in the row of a contrast, and say where it is shown."""
    gain = gains.iloc[0]
    points = (float(gain["value"]), float(gain["low"]), float(gain["high"]))
    return gain_claim(name, statement, gain) | located(section, points)


def _kinds(kind: str | None) -> str:
    return f"{(kind or '').replace('+', ' and ')} interventions"


def _where(results: Results) -> str:
    """Name the one world and encoder of the results."""
    if len(results.table[["encoder", "world"]].drop_duplicates()) != 1:
        raise ValueError(
            "The table has several encoders or worlds, or none; judge them one at a time."
        )
    return f"{results.table['world'].iloc[0]}, {results.encoder}"
