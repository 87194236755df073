"""Zero-shot accuracies that others have published, to stand beside a run of one's own.

``zero_shot.csv`` has a row for each model, pretrained tag, data set and source: the share of
images, all of the data set, that the model classifies correctly by prompts. ImageNet's is of its
50,000 validation images. A run whose own accuracy is far from it has most likely another
preprocessing, other weights or other images.
"""

from __future__ import annotations

from importlib import resources

import pandas as pd

#: Where the accuracies are from; both repositories are under the MIT licence.
SOURCES = {
    "open_clip": "github.com/mlfoundations/open_clip, commit 89fb801f, "
    "docs/openclip_classification_results.csv",
    "CLIP_benchmark": "github.com/LAION-AI/CLIP_benchmark, commit 48de38c1, "
    "benchmark/benchmark.csv",
}


def published_zero_shot(encoder: str | None = None, dataset: str | None = None) -> pd.DataFrame:
    """Look up what has been published of an encoder on a data set.

    Parameters
    ----------
    encoder : str, optional
        As open_clip names it, "model/pretrained"; all by default.
    dataset : str, optional
        A name in `icm_study.photographs.known.CATALOG`; all by default.

    Returns
    -------
    pandas.DataFrame
        Columns encoder, dataset, accuracy (percent) and source, a key of :data:`SOURCES`; no
        rows where there is nothing.
    """
    path = resources.files("icm_study.photographs").joinpath("zero_shot.csv")
    with path.open(encoding="utf-8") as file:
        table = pd.read_csv(file)
    table = pd.DataFrame(
        {
            "encoder": table["model"] + "/" + table["pretrained"],
            "dataset": table["dataset"],
            "accuracy": 100 * table["accuracy"],
            "source": table["source"],
        }
    )
    for column, value in {"encoder": encoder, "dataset": dataset}.items():
        table = table if value is None else table[table[column] == value]
    return table.reset_index(drop=True)
