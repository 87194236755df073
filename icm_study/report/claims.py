"""From an interval to a verdict: what is claimed of each experiment, and the rows of the table of claims.

A claim is supported where the whole interval of the measurement lies on the claimed
side of a threshold, refuted where it lies on the other side, and not shown otherwise.
Each experiment has a function that turns its tidy table into such rows. Nothing is
computed here but means and paired differences.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from icm_study.experiments.intervals import contrast

VERDICTS = ("supported", "refuted", "not shown")


def claim(name: str, statement: str, measured: str, threshold: str, verdict: str) -> dict[str, str]:
    """One row of the table of verdicts.

    Parameters
    ----------
    name : str
        Number of the claim in the paper, or a short name.
    statement : str
        What is claimed.
    measured, threshold : str
        What came out, and what would count as support.
    verdict : {"supported", "refuted", "not shown"}
        The outcome.

    Returns
    -------
    dict
        Keys claim, statement, measured, threshold, verdict.

    Raises
    ------
    ValueError
        If the verdict is none of the three.
    """
    if verdict not in VERDICTS:
        raise ValueError(
            f"verdict is {verdict!r}; expected one of {', '.join(map(repr, VERDICTS))}."
        )
    return {
        "claim": name, "statement": statement, "measured": measured, "threshold": threshold, "verdict": verdict
    }  # fmt: skip


def judge(
    low: float, high: float, *, below: float | None = None, above: float | None = None
) -> str:
    """Turn an interval and a threshold into a verdict.

    Parameters
    ----------
    low, high : float
        The interval of what was measured.
    below, above : float, optional
        The threshold: exactly one of them.

    Returns
    -------
    {"supported", "refuted", "not shown"}
        "supported" if the whole interval is on the claimed side, "refuted" if it is
        wholly on the other side, "not shown" otherwise, and without an interval.

    Raises
    ------
    ValueError
        If not exactly one threshold is given.
    """
    if (below is None) == (above is None):
        raise ValueError(f"Got below={below} and above={above}; expected exactly one of them.")
    if below is not None:
        return "supported" if high < below else "refuted" if low >= below else "not shown"
    if above is not None and low > above:
        return "supported"
    return "refuted" if above is not None and high <= above else "not shown"


#: What the verdicts call the conditions other than in distribution.
SHIFTS = {
    "unseen": "on an unseen domain",
    "reversed": "on an unseen domain with the shortcut reversed",
    "new_classes": "on classes that training has not seen",
}

CHOICES = {
    "ICM": "K and λ chosen on intervened source images",
    "ICM auto": "λ fixed at 1, K = positive eigenvalues",
}


def domain_generalization_claims(table: pd.DataFrame, over: str = "seeds") -> pd.DataFrame:
    """Judge what CLIP-ICM gains in one world with one encoder, against each rival.

    Parameters
    ----------
    table : DataFrame
        Rows of
        :func:`~icm_study.experiments.domain_generalization.run_domain_generalization`,
        of one encoder and one world.
    over : {"seeds", "images"}
        What the intervals speak for, see :mod:`icm_study.experiments.intervals`.

    Returns
    -------
    DataFrame
        Columns claim, statement, measured, threshold, verdict.

    Raises
    ------
    ValueError
        If there are several encoders or worlds, or as
        :func:`~icm_study.experiments.intervals.contrast`.
    """
    where = _where(table)
    is_probe = table["predictor"] == "linear probe"
    table = table.assign(method=table["method"].where(is_probe, "zero-shot " + table["method"]))
    shifts = [name for name in SHIFTS if name in set(table["condition"])]
    kinds = _kinds(table)
    plain, augmented, zero = (
        ("plain", "none"),
        ("augmentation", "image"),
        ("zero-shot plain", "none"),
    )
    names = {
        plain: "the plain probe",
        augmented: "the probe trained on augmented images",
        zero: "plain zero-shot",
    }
    questions = []
    for choice in CHOICES:
        if is_probe.any():
            questions += [("", choice, kind, plain, shifts[-1]) for kind in kinds]
            questions += [("", choice, kinds[-1], plain, shift) for shift in shifts[:-1]]
            questions += [("", choice, kinds[-1], rival, shifts[-1]) for rival in (augmented, zero)]
        questions += [
            ("zero-shot ", choice, kind, zero, shift)
            for kind in (kinds[1:] or kinds)
            for shift in shifts
        ]
    rows = []
    for prefix, choice, kind, rival, condition in questions:
        part = table[table["condition"] == condition]
        kind_of = "Zero-shot" if prefix else "Probe" if rival == plain else "Probe, rivals"
        rows.append(
            _gain_claim(
                f"{kind_of} ({where})",
                f"ICM {prefix.strip() or 'probe'}, {kind.replace('+', ' and ')} "
                f"interventions, {CHOICES[choice]}: "
                f"beats {names[rival]} {SHIFTS[condition]}",
                contrast(part, (prefix + choice, kind), rival, ["condition"], over=over),
            )
        )
    return pd.DataFrame(rows)


def gains_over_plain(table: pd.DataFrame, over: str = "seeds") -> pd.DataFrame:
    """Paired gains of CLIP-ICM over the plain predictor of the same kind, under the last of the shifts that were run.

    Parameters
    ----------
    table : DataFrame
        As for :func:`domain_generalization_claims`.
    over : {"seeds", "images"}
        What the intervals speak for, see :mod:`icm_study.experiments.intervals`.

    Returns
    -------
    DataFrame
        Columns predictor, way (to have K and λ), condition, value (percentage points),
        low, high and others of
        :func:`~icm_study.experiments.intervals.contrast`. No rows if none of :data:`SHIFTS` was run.

    Raises
    ------
    ValueError
        As :func:`domain_generalization_claims`.
    """
    _where(table)
    shifts = [name for name in SHIFTS if name in set(table["condition"])]
    kind = _kinds(table)[-1]
    rows = [
        contrast(part, (choice, kind), ("plain", "none"), ["condition"], over=over).assign(
            predictor=name, way=way
        )
        for name, part in table[table["condition"].isin(shifts[-1:])].groupby(
            "predictor", sort=False
        )
        for choice, way in CHOICES.items()
    ]
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def variant_claims(table: pd.DataFrame, over: str = "seeds") -> pd.DataFrame:
    """Judge what CLIP-ICM gains over the plain predictor of the same kind, on each variant.

    Parameters
    ----------
    table : DataFrame
        Rows of :func:`~icm_study.experiments.variants.run_variants`, of one encoder and one world.
    over : {"seeds", "images"}
        What the intervals speak for, see :mod:`icm_study.experiments.intervals`.

    Returns
    -------
    DataFrame
        Columns claim, statement, measured, threshold, verdict.

    Raises
    ------
    ValueError
        If there are several encoders or worlds, or as
        :func:`~icm_study.experiments.intervals.contrast`.
    """
    where = _where(table)
    kind = _kinds(table)[-1]
    rows = []
    for choice, how in CHOICES.items():
        for (predictor, variant), part in table.groupby(["predictor", "condition"], sort=False):
            if variant == "in_distribution":
                continue
            gain = contrast(part, (choice, kind), ("plain", "none"), ["condition"], over=over)
            statement = (
                f"ICM {predictor}, {kind.replace('+', ' and ')} interventions, {how}: beats "
                f"the plain {predictor} on {variant} "
                f"of {table['dataset'].iloc[0]}"
            )
            rows.append(_gain_claim(f"Variants, {predictor} ({where})", statement, gain))
    return pd.DataFrame(rows)


def ablation_claims(
    selections: pd.DataFrame, objectives: pd.DataFrame, where: str, kind: str = "image+text"
) -> pd.DataFrame:
    """Judge the choices of the method by the probe's accuracy with the shortcut reversed.

    Parameters
    ----------
    selections : DataFrame
        Rows of :func:`~icm_study.experiments.domain_generalization.to_conditions` with
        a column selection ("intervened", "plain", "auto").
    objectives : DataFrame
        Rows of :func:`~icm_study.experiments.domain_generalization.to_conditions` with
        a column objective.
    where : str
        The world and the encoder, as the verdicts name them.
    kind : str
        The intervention that is judged.

    Returns
    -------
    DataFrame
        Columns claim, statement, measured, threshold, verdict.
    """
    questions = [
        (selections, "selection", "intervened", "plain", "choosing K and λ on intervened "
                                                         "source images beats plain ones"),
        (selections, "selection", "auto", "intervened", "choosing K by the spectrum (λ fixed "
                                                        "at 1, positive eigenvalues) "
         "beats choosing on intervened source images"),
        (objectives, "objective", "trace", "released_code", "keeping the largest eigenvalues "
                                                            "beats the released order"),
        (objectives, "objective", "trace", "generalized", "the trace objective beats the "
                                                          "generalised one, which has no λ"),
    ]  # fmt: skip
    rows = []
    for table, column, first, second, statement in questions:
        part = table[(table["predictor"] == "linear probe") & (table["intervention"] == kind)]
        part = part[part["condition"] == "reversed"].assign(method=part[column])
        gain = contrast(part, (first, kind), (second, kind), ["condition"])
        name = f"{column.capitalize()} ({where}, {table['seed'].nunique()} seeds)"
        said = f"ICM probe, {kind.replace('+', ' and ')} interventions, {SHIFTS['reversed']}: {statement}"
        rows.append(_gain_claim(name, said, gain))
    return pd.DataFrame(rows)


#: What a critical reader tries first: (method, predictor, what the verdicts call it).
RIVALS = (
    ("plain", "zero-shot", "plain zero-shot"),
    ("plain", "linear probe", "the plain probe"),
    ("tuned penalty", "linear probe", "the plain probe with a chosen penalty"),
    ("augmentation", "linear probe", "the probe trained on augmented images with a chosen penalty"),
    ("LDA", "linear probe", "linear discriminant analysis"),
)


def learnt_from(methods: Iterable[str]) -> str | None:
    """Tell which interventions the CLIP-ICM of a comparison learns from: both kinds, text or image, whatever was run."""
    kinds = ("image+text", "text", "image")
    return next((kind for kind in kinds if f"ICM auto {kind}" in set(methods)), None)


def differences(table: pd.DataFrame, against: tuple[str, str], over: str = "seeds") -> pd.DataFrame:
    """Paired differences of every method to one of them, all with settings chosen on intervened source images.

    Parameters
    ----------
    table : DataFrame
        Rows of :func:`~icm_study.experiments.comparison.run_comparison`, of one encoder
        and one world.
    against : (method, predictor)
        For example ``("plain", "linear probe")``.
    over : {"seeds", "images"}
        What the intervals speak for, see :mod:`icm_study.experiments.intervals`.

    Returns
    -------
    DataFrame
        Columns condition, value (percentage points), low, high, n_runs, method, against
        and predictor; no rows if `against` was not run.
    """
    honest = table[table["selection"].isin(["none", "intervened"])]
    pairs = honest[["predictor", "method"]].drop_duplicates().itertuples(index=False)
    rows = [
        _difference(honest, (method, predictor), against, over).assign(
            predictor=predictor, method=method, against=", ".join(against)
        )
        for predictor, method in pairs
        if len(_runs(honest, *against)) and (method, predictor) != against
    ]
    return (
        pd.concat(rows, ignore_index=True)
        if rows
        else pd.DataFrame(columns=["predictor", "method"])
    )


def _runs(table: pd.DataFrame, method: str, predictor: str) -> pd.DataFrame:
    return table[(table["method"] == method) & (table["predictor"] == predictor)]


def _difference(
    table: pd.DataFrame,
    first: tuple[str, str],
    second: tuple[str, str],
    over: str,
    seen: str = "intervened",
) -> pd.DataFrame:
    """Accuracy of the first less that of the second, whose setting was chosen on the images `seen`."""
    sides = [
        _runs(table[table["selection"].isin(["none", selection])], *side).assign(intervention=name)
        for name, side, selection in (("first", first, "intervened"), ("second", second, seen))
    ]
    return contrast(
        pd.concat(sides), (first[0], "first"), (second[0], "second"), ["condition"], over=over
    )


def comparison_claims(table: pd.DataFrame, over: str = "seeds") -> pd.DataFrame:
    """Judge CLIP-ICM against its rivals, and the ways to choose settings against each other.

    Both ways to have K and λ are judged: from the spectrum alone, and chosen as the
    rivals' settings are.

    Parameters
    ----------
    table : DataFrame
        Rows of :func:`~icm_study.experiments.comparison.run_comparison`, of one encoder
        and one world.
    over : {"seeds", "images"}
        What the intervals speak for, see :mod:`icm_study.experiments.intervals`.

    Returns
    -------
    DataFrame
        Columns claim, statement, measured, threshold, verdict. What was not run is left out.
    """
    where = _where(table)
    shift = "reversed" if "reversed" in set(table["condition"]) else "unseen"
    part = table[table["condition"] == shift]
    kind = learnt_from(part["method"])
    words = f"{(kind or '').replace('+', ' and ')} interventions"
    ours = {
        f"ICM auto {kind}": CHOICES["ICM auto"],
        f"ICM {kind}": "K and λ chosen as the rival's settings are",
    }
    questions = [
        (
            (name, predictor),
            rival,
            f"ICM {predictor.split()[-1]}, {words}, {how}: beats {said} {SHIFTS[shift]}",
        )
        for name, how in ours.items()
        for predictor, rival, said in [
            *(("linear probe", (rival, theirs), said) for rival, theirs, said in RIVALS),
            ("zero-shot", ("plain", "zero-shot"), "plain zero-shot"),
        ]
    ]
    rows = [
        _gain_claim(f"Rivals ({where})", statement, _difference(part, first, second, over))
        for first, second, statement in questions
        if len(_runs(part, *first)) and len(_runs(part, *second))
    ]
    chosen, automatic = (f"ICM {kind}", "linear probe"), (f"ICM auto {kind}", "linear probe")
    for statement, first, second, seen in (
        ("choosing K and λ on source images after interventions that the fit has not seen "
         "beats plain ones",
         chosen, chosen, "held-out"),
        ("λ fixed at 1 and K = positive eigenvalues beats choosing on source images after "
         "interventions that the fit has "
         "not seen", automatic, chosen, "intervened"),
    ):  # fmt: skip
        if len(_runs(part, *first)) and len(_runs(part, *second)):
            gain = _difference(part, first, second, over, seen)
            rows.append(
                _gain_claim(
                    f"Selection ({where})",
                    f"ICM probe, {words}, {SHIFTS[shift]}: {statement}",
                    gain,
                )
            )
    return pd.DataFrame(rows, columns=["claim", "statement", "measured", "threshold", "verdict"])


def _gain_claim(name: str, statement: str, gains: pd.DataFrame) -> dict[str, str]:
    """Judge whether the gain in a row of :func:`~icm_study.experiments.intervals.contrast` is above zero."""
    gain = gains.iloc[0]
    measured = f"{gain['value']:+.1f} points"
    if pd.notna(gain["low"]):
        measured += f" ({gain['low']:+.1f} to {gain['high']:+.1f})"
    return claim(name, statement, measured, "above 0", judge(gain["low"], gain["high"], above=0))


def _kinds(table: pd.DataFrame) -> list[str]:
    """Name the interventions of a table that need no simulator, the most complete one last."""
    return [name for name in ("image", "text", "image+text") if name in set(table["intervention"])]


def _where(table: pd.DataFrame) -> str:
    """Name the one world and encoder of a table."""
    if len(table[["encoder", "world"]].drop_duplicates()) != 1:
        raise ValueError(
            "The table has several encoders or worlds, or none; judge them one at a time."
        )
    return f"{table['world'].iloc[0]}, {table['encoder'].iloc[0]}"
