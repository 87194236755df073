"""Speed and memory of the library's own steps, as ratios within one run.

Run it with ``python benchmarks/speed.py``. Absolute numbers depend on the machine; the
ratios say whether a step is in proportion: rendering against embedding, intervening
against embedding, the gradient solver against the closed form, nested subspaces against
a fit for every K, a grid of K and λ against one evaluation, and the memory of streamed
moments as the number of pairs grows. Two times are to stay below what a reader waits for:
the first answer of 07_explore in a new process (10 s), and what a turned control takes (0.3 s).
"""

from __future__ import annotations

import subprocess
import sys
import time
import tracemalloc
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import xarray as xr
from threadpoolctl import threadpool_limits

from icm_core import InvariantProjection, PairMoments
from icm_core.interventions import intervene_images
from icm_core.selection import grid_accuracy
from icm_study.animals.latents import sample_latents
from icm_study.animals.rendering import render
from icm_study.animals.silhouettes import load_silhouettes
from icm_study.embedding.tables import pair_moments
from icm_study.encoders.loading import load_encoder
from icm_study.experiments.grids import paths
from icm_study.testbeds.splits import Split

ROOT = Path(__file__).resolve().parents[1]


def seconds(function: Callable[[], object], repeats: int = 5) -> float:
    """Median duration of a call, after one call to warm up."""
    function()
    durations = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        durations.append(time.perf_counter() - started)
    return float(np.median(durations))


def images() -> None:
    """Compare rendering and intervening with embedding, on one thread."""
    torch.set_num_threads(1)
    silhouettes, encoder = load_silhouettes(), load_encoder("animal-world")
    latents = sample_latents(silhouettes, "test", n=1024)
    rendered = render(latents, silhouettes)
    rates = {
        "render": len(latents) / seconds(lambda: render(latents, silhouettes)),
        "intervene": len(latents) / seconds(lambda: intervene_images(rendered)),
        "embed": len(latents) / seconds(lambda: encoder.encode_images(rendered)),
    }
    for name, rate in rates.items():
        print(f"{name:10} {rate:8.0f} images/s   {rate / rates['embed']:6.2f} of embedding")


def solvers() -> None:
    """Compare the closed form with gradient descent, and one fit for all K with a fit for each."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, 64)) * np.linspace(1, 0.1, 64)
    X_do = X.copy()
    X_do[:, ::2] = rng.permutation(X_do[:, ::2])
    moments = PairMoments(64).update(X, X_do)
    whole = InvariantProjection(32, consistency_weight=1.0).fit_moments(moments)
    closed = seconds(lambda: InvariantProjection(32, consistency_weight=1.0).fit_moments(moments))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gradient = seconds(
            lambda: InvariantProjection(
                32, consistency_weight=1.0, solver="gradient", random_state=0
            ).fit_moments(moments),
            1,
        )
    nested = seconds(lambda: [whole.truncate(k) for k in range(1, 33)])
    each = seconds(
        lambda: [
            InvariantProjection(k, consistency_weight=1.0).fit_moments(moments)
            for k in range(1, 33)
        ]
    )
    print(
        f"gradient descent takes {gradient / closed:.0f} times the closed form "
        f"({1000 * closed:.1f} ms)"
    )
    print(f"a fit for each of 32 K takes {each / (closed + nested):.1f} times one fit for all")


def grids() -> None:
    """Compare a grid of 20 K × 12 λ with one fit and evaluation at the largest K, for one target.

    The first size is the animal world's; the last two have as many images and classes
    as PACS and Office-Home.
    """
    for features, n, classes in (
        (64, 4000, 10),
        (256, 4000, 10),
        (512, 10_000, 7),
        (512, 15_600, 65),
    ):
        data = random_split(features, n, classes)
        sizes = np.linspace(3, features, 20).astype(int).tolist()
        weights = np.logspace(-1, 2, 12).tolist()
        one = seconds(partial(grid, data, "logistic", sizes[-1:], weights[-1:]))
        probes = {"least squares": 5}  # how often each is timed
        if features == 64:  # in a large embedding, a logistic probe in every cell takes minutes
            probes["logistic"] = 1
        for probe, repeats in probes.items():
            ratio = seconds(partial(grid, data, probe, sizes, weights), repeats) / one
            print(
                f"{features} dimensions, {n:,} images, {classes} classes: a grid of 20 K × "
                f"12 λ with the {probe} probe takes "
                f"{ratio:.1f} times one fit and evaluation with the logistic probe ({one:.2f} s)"
            )


def grid(data: Split, probe: str, K: Sequence[int], weights: Sequence[float]) -> object:
    """Judge every K and λ on intervened images, from the moments on."""
    sets = {"intervened": (data.held_out["image"].to_numpy(), data.held_out["label"].to_numpy())}
    return grid_accuracy(
        pair_moments(data.train, "image"),
        paths(data, probe),
        sets,
        n_components=K,
        consistency_weights=weights,
    )


def random_split(features: int, n: int, classes: int) -> Split:
    """Random classes in fading directions; an intervention re-draws every second one of these."""
    rng = np.random.default_rng(0)
    label = rng.integers(classes, size=n)
    noise = 3 * rng.normal(size=(n, features))
    original = (rng.normal(size=(classes, features))[label] + noise) * np.linspace(1, 0.1, features)
    image = original.copy()
    image[:, ::2] = rng.permutation(image[:, ::2])
    variables = {"original": original, "image": image}
    table = xr.Dataset(
        {
            name: (("row", "feature"), values.astype(np.float32))
            for name, values in variables.items()
        },
        {"label": ("row", label)},
    )
    prompts = xr.Dataset(
        {"prompt": (("row", "feature"), rng.normal(size=(classes, features)))},
        {"label": ("row", np.arange(classes))},
    )
    held_out = table.isel(row=slice(n // 4))
    return Split(table.isel(row=slice(n // 4, None)), held_out, {"unseen": held_out}, prompts)


def memory() -> None:
    """Compare the peak memory of streamed moments for ten times the pairs."""
    peaks = []
    for batches in (10, 100):
        rng = np.random.default_rng(0)
        tracemalloc.start()
        moments = PairMoments(512)
        for _ in range(batches):
            batch = rng.normal(size=(500, 512)).astype(np.float32)
            moments.update(batch, batch + 0.1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    print(
        f"moments of 50,000 pairs peak at {peaks[1] / peaks[0]:.2f} times those of 5,000 "
        f"({peaks[1] / 1e6:.0f} MB)"
    )


EXPLORE = """
import sys, time
started = time.perf_counter()
from icm_study.experiments.record import default_parameters
from icm_study.experiments.study import Study
from icm_study.report.panel import Panel
from pathlib import Path
given = default_parameters(Path("notebooks/07_explore.ipynb")) | {"cache": sys.argv[1]}
panel = Panel(Study("07_explore", given))
print(time.perf_counter() - started)
turns = [("n_components", k) for k in (4, 8, 24, 32)]
turns += [("consistency_weight", w) for w in (10.0, 0.1)]
turns += [("predictor", "zero-shot"), ("intervention", "image"), ("predictor", "linear probe")]
turns += [("target", target) for target in ("sketch", "painting", "photo")]
turns += [("world", world) for world in reversed(panel.controls["world"].options)]
for name, value in turns:
    started = time.perf_counter()
    panel.controls[name].value = value
    print(time.perf_counter() - started)
"""


def exploring() -> None:
    """Time 07_explore in a new process, once its embeddings are kept."""
    with TemporaryDirectory() as cache:
        command = [sys.executable, "-c", EXPLORE, cache]
        for _ in ("embeds", "is timed"):
            told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    first, *turned = map(float, told.stdout.split())
    print(
        f"exploring: the first answer after {first:.1f} s, imports included (at most 10); a turned "
        f"control answers after {np.median(turned):.2f} s, {max(turned):.2f} at most (0.3)"
    )


if __name__ == "__main__":
    exploring()
    images()
    solvers()
    with threadpool_limits(1):
        grids()
    memory()
