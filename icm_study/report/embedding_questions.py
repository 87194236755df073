"""What came out of the questions on embeddings: sharing a subspace, new classes, retrieval."""

from __future__ import annotations

import pandas as pd

from icm_study.experiments import across_styles, new_classes, shared_subspace
from icm_study.report.finding import Finding
from icm_study.report.gains import by_method, gain_claim, method_means
from icm_study.report.style import said
from icm_study.report.words import points


def sharing(runs: pd.DataFrame) -> Finding:
    """Say what zero-shot has where modalities share a subspace, or not."""
    summary = method_means(runs, "condition").rename(columns={"condition": "series"})
    summary = summary.assign(series=summary["series"].map(said), panel="Zero-shot")
    gains = by_method(runs, shared_subspace.SHARED, "unseen")
    separate, centred, control = (
        gains[name]
        for name in (shared_subspace.SEPARATE, shared_subspace.CENTRED, shared_subspace.CONTROL)
    )
    plain = gains[shared_subspace.PLAIN]
    summary.attrs["title"] = (
        f"Separate subspaces differ from a shared one by {separate['value']:+z.1f} points, "
        f"centring by {centred['value']:+z.1f}"
    )
    return Finding(
        summary,
        f"In the animal world, against one shared subspace, zero-shot on the unseen style "
        f"differs by {points(separate)} points with separate ones, {points(centred)} with centred "
        f"modalities, and {points(plain)} without any.",
        [
            gain_claim(
                "Shared subspace (animal world)",
                "separate below shared, zero-shot, unseen style",
                separate,
                below=0.0,
            ),
            gain_claim(
                "Shared subspace (animal world)",
                "centred over shared, zero-shot, unseen style",
                centred,
            ),
            gain_claim(
                "Control (animal world)",
                "own bases are far below shared, zero-shot",
                control,
                below=-20.0,
            ),
        ],
    )


def sharing_real(runs: pd.DataFrame) -> Finding:
    """Say the same of retrieval with real CLIP."""
    summary = method_means(runs, "condition", "target", over="images")
    summary = summary.rename(columns={"condition": "series", "target": "panel"})
    told, claims = [], []
    for direction, part in runs.groupby("target", sort=False):
        gains = by_method(part, shared_subspace.SHARED, "recall@1", over="images")
        separate, centred, control = (
            gains[name]
            for name in (shared_subspace.SEPARATE, shared_subspace.CENTRED, shared_subspace.CONTROL)
        )
        told.append(f"{direction} {points(separate)} and {points(centred)}")
        claims += [
            gain_claim(
                "Shared subspace (real CLIP)",
                f"separate below shared, {direction}",
                separate,
                below=0.0,
            ),
            gain_claim(
                "Control (real CLIP)",
                f"own bases are far below shared, {direction}",
                control,
                below=-20.0,
            ),
        ]
    summary.attrs["title"] = "ViT-B/16 on COCO: what is found by each way to project"
    return Finding(
        summary,
        "Points of recall@1 over one shared subspace, with separate ones and with a centred one: "
        f"{'; '.join(told)}.",
        claims,
    )


def classes(runs: pd.DataFrame) -> Finding:
    """Say what zero-shot on new classes in a new style loses, and how much is due to newness."""
    names = {
        new_classes.OPEN: "new classes among themselves",
        new_classes.MIXED: "all classes",
        new_classes.SEEN: "classes that were fitted on",
    }
    summary = method_means(runs, "condition").rename(columns={"condition": "panel"})
    summary = summary.assign(panel=summary["panel"].map(names), series="")
    name = "ICM image+text"
    loss = by_method(runs, new_classes.PLAIN, new_classes.OPEN)
    seen = by_method(runs, new_classes.PLAIN, new_classes.SEEN)[name]
    new = by_method(runs, name + new_classes.ALL, new_classes.OPEN)[name]
    mixed = by_method(runs, new_classes.PLAIN, new_classes.MIXED)[name]
    summary.attrs["title"] = (
        f"A subspace from half of the classes costs new classes {-loss[name]['value']:.0f} "
        f"points; fitted on all, {-loss[name + new_classes.ALL]['value']:.0f}"
    )
    return Finding(
        summary,
        f"New classes in a new style: image and text interventions change zero-shot by "
        f"{points(loss[name])} (open) and {points(mixed)} points (mixed); {points(new)} is due "
        f"to newness. On fitted classes: {points(seen)}.",
        [
            gain_claim(
                "Concept shift (animal world)",
                "ICM image+text over plain, zero-shot, open",
                loss[name],
            ),
            gain_claim(
                "Concept shift (animal world)", "ICM image+text over plain, zero-shot, mixed", mixed
            ),
            gain_claim(
                "Concept shift (animal world)",
                "not to have seen new classes costs (open)",
                new,
                below=0.0,
            ),
            gain_claim(
                "Control (animal world)",
                "pairs of different classes are far below plain, open",
                loss[new_classes.CONTROL],
                below=-20.0,
            ),
        ],
    )


def retrieval(runs: pd.DataFrame) -> Finding:
    """Say what searching across styles gains and loses."""
    told, claims, parts = {}, [], []
    for task, part in runs.groupby("task", sort=False):
        parts.append(method_means(part, "condition").assign(panel=task))
        gains = by_method(part, across_styles.PLAIN, "recall@1")
        told[task] = gains["ICM text"]
        sign: dict[str, float] = {"below" if task == across_styles.OWN else "above": 0.0}
        verb = "costs" if task == across_styles.OWN else "gives"
        claims += [
            gain_claim(
                "Retrieval (animal world)",
                f"ICM text {verb} recall@1, {task}",
                gains["ICM text"],
                **sign,
            ),
            gain_claim(
                "Control (animal world)",
                f"ICM with shuffled pairs is below plain, recall@1, {task}",
                gains[across_styles.CONTROL],
                below=0.0,
            ),
        ]
    summary = pd.concat(parts, ignore_index=True).rename(columns={"condition": "series"})
    animal, of_class, own = (
        told[task] for task in (across_styles.ANIMAL, across_styles.CLASS, across_styles.OWN)
    )
    summary.attrs["title"] = (
        f"Across styles ICM text changes recall@1 by {of_class['value']:+z.0f} points for the "
        f"class and {own['value']:+z.0f} for a caption's own image"
    )
    return Finding(
        summary,
        f"With text interventions recall@1 changes by {points(animal)} points for the same animal "
        f"in another style, {points(of_class)} from a text to its class, and {points(own)} from a "
        "caption to its own image.",
        claims,
    )
