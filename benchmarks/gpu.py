"""Embedding and probes on a GPU: as on the processor, and about as fast as the model alone.

Run it with ``python benchmarks/gpu.py``, some minutes on a machine with a CUDA device; on
another it says so. ViT-B/16 with random weights (speed and precision do not depend on
them) embeds generated photographs. Checked: that the embeddings in bfloat16 on the device
agree with those in float32 on the processor (cosine 0.999), and that `embed_files`, from
reading JPEG files to storing, reaches 0.9 of the bare forward pass on ready tensors, at
batches of 256, for each number of workers. Then probes are fitted to made-up embeddings of
as many features and classes as DomainNet has: the device's penalised loss may be 1e-3 above
the processor's. The tables are for the README.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import torch
from extraction import generated_photographs, random_checkpoint
from probe import MOST_ABOVE, embeddings, loss, ours

from icm_study.embedding.files import embed_files, read_images
from icm_study.embedding.store import EmbeddingStore
from icm_study.encoders.encoder import Encoder
from icm_study.encoders.loading import load_encoder

BATCH = 256
LEAST_COSINE, LEAST_RATIO = 0.999, 0.9
N_CLASSES, N_FEATURES = 345, 512


def cosine(name: str, table: pd.DataFrame, precision: str) -> float:
    """Give the least cosine between the embeddings by the device and by the processor."""
    on_device, reference = load_encoder(name, "cuda", precision), load_encoder(name, "cpu")
    images = read_images(reference, table["path"].head(64).tolist())
    found, expected = on_device.encode_images(images), reference.encode_images(images)
    return float((found * expected).sum(axis=1).min())


def per_second(function: Callable[[], None], images: int) -> float:
    """Images a second of a call, after one to warm up."""
    function()
    torch.cuda.synchronize()
    started = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return images / (time.perf_counter() - started)


def bare(encoder: Encoder, images: int) -> float:
    """Images a second of the forward pass alone, on tensors that are on the device."""
    size = encoder.resize(torch.zeros(1, 3, 300, 300, dtype=torch.uint8)).shape[-2:]
    ready = torch.randn(2 * BATCH, 3, *size, device="cuda").contiguous(
        memory_format=torch.channels_last
    )
    kind = getattr(torch, encoder.precision)

    @torch.inference_mode()
    def forward() -> None:
        for _ in range(0, images, BATCH):  # each image with its intervened copy
            with torch.autocast("cuda", kind, enabled=kind != torch.float32):
                encoder.model.encode_image(ready).float().cpu()

    return per_second(forward, 2 * images)


def whole(encoder: Encoder, table: pd.DataFrame, workers: int) -> float:
    """Images a second of `embed_files`."""

    def everything() -> None:
        with tempfile.TemporaryDirectory() as folder:
            embed_files(encoder, table, EmbeddingStore(folder), batch_size=BATCH, workers=workers)

    return per_second(everything, 2 * len(table))


def probes(rows: int, device: str = "cuda") -> bool:
    """Print a table of the probe by numpy and by torch on the device; tell if it is as low."""
    X, label = embeddings(rows, N_CLASSES, N_FEATURES)
    print(f"\nprobe of {rows} embeddings of {N_FEATURES} features, {N_CLASSES} classes\n")
    print("| fitted on the | seconds | penalised loss | answers as the processor's |")
    print("| --- | --- | --- | --- |")
    ours(X[: 2 * N_CLASSES], label[: 2 * N_CLASSES], device)  # what it loads is loaded
    losses, answers = [], []
    for name, where in (("processor", None), ("device", device)):
        started = time.perf_counter()
        weights, intercepts = ours(X, label, where)
        seconds = time.perf_counter() - started
        losses.append(loss((weights, intercepts), X, label))
        answers.append((X @ weights.T + intercepts).argmax(axis=1))
        same = np.mean(answers[0] == answers[-1])
        print(f"| {name} | {seconds:.1f} | {losses[-1]:.1f} | {same:.2%} |", flush=True)
    return losses[1] <= (1 + MOST_ABOVE) * losses[0]


def main() -> int:
    """Check and print; return 1 where a check fails."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=8 * BATCH)
    parser.add_argument("--rows", type=int, default=100_000, help="of the embeddings of a probe")
    given = parser.parse_args()
    images = given.images
    if not torch.cuda.is_available():
        print("gpu: there is no CUDA device here, so nothing was measured")
        return 0
    print(f"{torch.cuda.get_device_name()}, {os.cpu_count()} processors")
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        name = random_checkpoint(Path(folder, "model"), open_clip.get_model_config("ViT-B-16"))
        table = generated_photographs(Path(folder, "images"), images)
        for precision in ("float32", "bfloat16"):
            agree = cosine(name, table, precision)
            failed |= agree < LEAST_COSINE
            encoder = load_encoder(name, "cuda", precision)
            alone = bare(encoder, images)
            print(
                f"\n{precision}: least cosine with the processor's {agree:.5f}\n\n"
                "| what | workers | images a second | of the bare pass |\n"
                "| --- | --- | --- | --- |\n"
                f"| bare forward pass | | {alone:.0f} | 1 |"
            )
            rates = {}
            for workers in np.unique(np.minimum([2, 4, 8, 16], os.cpu_count() or 1)).tolist():
                rates[workers] = whole(encoder, table, workers)
                ratio = rates[workers] / alone
                print(f"| embed_files | {workers} | {rates[workers]:.0f} | {ratio:.2f} |")
            failed |= max(rates.values()) < LEAST_RATIO * alone
    failed |= not probes(given.rows)
    print("\na check failed" if failed else "\nall checks passed", "(goals: cosine", end=" ")
    print(
        f"{LEAST_COSINE}, ratio {LEAST_RATIO}, below which decoding by the workers is the limit;",
        end=" ",
    )
    print(f"loss {MOST_ABOVE:g} above the processor's)")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
