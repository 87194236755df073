"""What came out of each open question about the use of the method: words and claims."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pandas as pd

from icm_study.experiments import (
    across_styles,
    combination,
    new_classes,
    redrawn_domains,
    shared_subspace,
    tuned_towers,
)
from icm_study.experiments.questions import Experiment
from icm_study.report import embedding_questions, pair_questions
from icm_study.report.finding import Finding

#: The experiments of the notebook, by name; each takes its parameters.
EXPERIMENTS: dict[str, Experiment] = {
    "photographs": redrawn_domains.photographs,
    "sharing_real": shared_subspace.shared_on_real_clip,
    "combination": combination.combination,
    "sharing": shared_subspace.shared_subspace,
    "classes": new_classes.new_classes,
    "retrieval": across_styles.across_styles,
    "tuning": tuned_towers.tuned_towers,
}
#: The heading of each question's section, by its finding.
SECTIONS: dict[str, str] = {
    "photographs": "Which interventions re-draw the domain of photographs?",
    "sharing": "Must image and text share a subspace?",
    "sharing_real": "Must they share one on real CLIP?",
    "classes": "Does the subspace hold for classes that no pair has shown?",
    "retrieval": "What does retrieval across styles gain and lose?",
    "tuning": "Does fine-tuning go with the projection?",
    "combination": "Are image and text interventions together the best?",
}


def find(runs: Mapping[str, pd.DataFrame]) -> dict[str, Finding]:
    """Say what came out of each question."""
    told: dict[str, Callable[[pd.DataFrame], Finding]] = {
        "photographs": pair_questions.photographs,
        "sharing": embedding_questions.sharing,
        "sharing_real": embedding_questions.sharing_real,
        "classes": embedding_questions.classes,
        "retrieval": embedding_questions.retrieval,
        "tuning": pair_questions.tuning,
        "combination": pair_questions.together,
    }
    return {name: told[name](runs[name]) for name in SECTIONS}
