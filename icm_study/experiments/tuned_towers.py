"""Fine-tuning and CLIP-ICM: low-rank updates with the projection before, during or after.

*After*: the tower is tuned, and the subspace of what came out is taken. *Before*: the subspace
of the encoder as it came is fixed, and the tower is tuned behind it. *During*: the change that
an image intervention makes is a penalty on the tuning, and nothing is projected. As the
control, the penalty pulls each image towards the copy of another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from icm_core.prediction import LinearProbe
from icm_study.experiments import questions
from icm_study.experiments.animal_tasks import animal_tasks
from icm_study.experiments.intervals import pack
from icm_study.experiments.trial import hits_of
from icm_study.methods.base import EmbeddingMap
from icm_study.methods.lora import ICMThenLoRA, LoRA, LoRAThenICM, LoRAWithPenalty
from icm_study.methods.maps import ICM, Plain
from icm_study.methods.shared import Shared
from icm_study.methods.sources import Images, Sources

PLAIN, ALONE, TUNED = "plain", "ICM", "LoRA"
BEFORE, AFTER, CONTROL = "ICM before LoRA", "ICM after LoRA", "ICM during LoRA, shuffled pairs"
DURING = "ICM during LoRA, penalty {:g}"
PENALTIES = (1.0, 10.0)
TRAINING: dict[str, Any] = {"learning_rate": 1e-2, "epochs": 5}
CONDITIONS = ("unseen", "reversed")


def tuned_towers(given: Mapping[str, Any]) -> pd.DataFrame:
    """Tune a tower on some of the source images and measure both predictors on each style.

    λ is 1, K the number of positive eigenvalues, the rank 4, and the training :data:`TRAINING`.
    The penalty of each probe is chosen, on other source images after an intervention.

    Parameters
    ----------
    given : mapping of str to value
        *tuned_seeds* and *tuned_targets*, *n_tuned* (images that are tuned on, and tested at
        most), *n_images* and *cache*.

    Returns
    -------
    DataFrame
        Columns target, seed, method, predictor, condition, n, value (percent) and correct.
    """
    rows = []
    for one in animal_tasks({**given, "seeds": given["tuned_seeds"]}):
        if one.where["target"] not in given["tuned_targets"]:
            continue
        some = np.arange(min(given["n_tuned"], len(one.task.sources.images)))
        sources = one.task.sources.take(some)
        for name, (method, fitted_on) in _methods(sources, one.where["seed"]).items():
            method.fit(fitted_on)
            judged = one.task.held_out.copies["image"]
            method.heads_["linear probe"] = _probe(method, sources.images, judged)
            for condition in CONDITIONS:
                images = one.task.tests[condition].take(slice(0, given["n_tuned"]))
                for predictor, correct in hits_of(method, [images]).items():
                    rows.append(
                        one.where
                        | {"method": name, "predictor": predictor, "condition": condition}
                        | {"n": len(correct), "value": 100 * float(correct.mean())}
                        | {"correct": pack(correct)}
                    )
    return pd.DataFrame(rows)


def _probe(method: EmbeddingMap, images: Images, judged: Images) -> LinearProbe:
    """Fit a probe on mapped images, at the inverse penalty that does best on others."""
    X, others = method.map_images(images), method.map_images(judged)
    probes = [LinearProbe(C).fit(X, images.label) for C in questions.PENALTIES]
    return max(probes, key=lambda probe: float(probe.score(others, judged.label)))


def _methods(sources: Sources, seed: int) -> dict[str, tuple[EmbeddingMap, Sources]]:
    """Name the methods, each with what it is fitted on; of pairs only the control's differ."""
    order = np.random.default_rng(seed).permutation(len(sources.images))
    copies = {"image": sources.copies["image"].take(order)}
    shuffled = replace(sources, copies=copies, shared=Shared())
    training = TRAINING | {"random_state": seed}
    methods: dict[str, EmbeddingMap] = {
        PLAIN: Plain(),
        ALONE: ICM(),
        TUNED: LoRA(**training),
        AFTER: LoRAThenICM(**training),
        BEFORE: ICMThenLoRA(**training),
    }
    methods |= {DURING.format(p): LoRAWithPenalty(p, **training) for p in PENALTIES}
    whole = {name: (method, sources) for name, method in methods.items()}
    return whole | {CONTROL: (LoRAWithPenalty(PENALTIES[-1], **training), shuffled)}
