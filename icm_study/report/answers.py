"""The answer of a page in words, computed from its results."""

from __future__ import annotations

import pandas as pd
from IPython.display import Markdown

from icm_study.experiments.reading import Results
from icm_study.report.claims import ways
from icm_study.report.style import condition_name
from icm_study.report.words import accuracies


def domain_generalization_answer(results: Results) -> Markdown:
    """Say what CLIP-ICM gains, and what the rivals have, in the world that is judged."""
    judged = results.judged()
    means = judged.means()
    kind = judged.kinds[-1]
    said = {name: condition_name.get(name, name) for name in judged.conditions}

    def of(method: str, predictor: str, choice: str = "none") -> str:
        names = {"method": method, "predictor": predictor, "choice": choice}
        rows = means[(means[list(names)] == pd.Series(names)).all(axis=1)]
        return accuracies(rows, said)

    lines = [
        f"Plain zero-shot, which learns nothing from the sources, has {of('plain', 'zero-shot')}: "
        "where prompts name the classes well, it is the rival to beat."
    ]
    for predictor in [name for name in ("linear probe",) if name in set(means["predictor"])]:
        lines.append(f"The plain probe has {of('plain', predictor)}.")
        for how, (method, choice) in ways(judged.choice).items():
            accuracy = of(f"{method} {kind}", predictor, choice)
            lines.append(
                f"The ICM probe ({kind.replace('+', ' and ')} interventions; {how}) has {accuracy}."
            )
    how, (method, choice) = next(iter(ways(judged.choice).items()))
    lines.append(f"ICM zero-shot ({how}) has {of(f'{method} {kind}', 'zero-shot', choice)}.")
    return Markdown("**The answer of this run.** " + " ".join(lines))


def gains_answer(gains: pd.DataFrame) -> str:
    """Count where gains are above zero, below it, and where neither can be told."""
    known = gains[gains["low"].notna()]
    won, lost = int((known["low"] > 0).sum()), int((known["high"] < 0).sum())
    return (
        f"Of {len(known)} comparisons with an interval, CLIP-ICM is above the plain predictor in {won} "
        f"and below it in {lost}; the others show no difference."
    )
