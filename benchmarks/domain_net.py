"""Evaluate one target of a data set of DomainNet's size: time, memory, and what is chosen.

Run it as ``python benchmarks/domain_net.py [--rows N] [--other CHECKOUT]``. Embeddings are
made up by a seed: each row is the direction of its class, a style that is its domain's and
its own, and noise. The default plan runs on them as on images that are embedded already.
With CHECKOUT, an older commit with its environment in ``.venv``, both run in turn on the same
rows, and this one what the older has: no penalty is chosen. The ratio is of processor time
(user and system). ``--exact`` judges settings by the logistic probe itself, as smaller data
sets do.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent

# run by each checkout's own Python; the modules have other names in older commits
DRIVER = """
import json, resource, sys
from types import SimpleNamespace
import numpy as np
import xarray as xr

n, n_classes, d, exact, as_before = map(int, sys.argv[1:])
rng = np.random.default_rng(0)

def unit(X):
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)

def vectors(k, spread):
    return spread * rng.standard_normal((k, d), dtype=np.float32) / np.sqrt(d)

classes, domains, styles = vectors(n_classes, 1.0), vectors(6, 1.0), vectors(64, 1.0)
label, domain = np.arange(n) % n_classes, rng.integers(6, size=n)
rng.shuffle(label)

def rows(offset, own_domain):
    style = rng.standard_normal((n, 64), dtype=np.float32) / 8
    noise = rng.standard_normal((n, d), dtype=np.float32) * (2.5 / np.sqrt(d))
    return unit(classes[label] + domains[own_domain] + 1.5 * style @ styles + noise + offset)

redrawn, modality = rng.integers(6, size=n), vectors(1, 0.5)
table = {
    "original": rows(0, domain), "image": rows(0, redrawn),
    "caption": rows(modality, domain), "edit": rows(modality, redrawn),
}
source = xr.Dataset(
    {name: (("row", "feature"), values) for name, values in table.items()},
    {"label": ("row", label), "domain": ("row", domain)},
)
prompts = xr.Dataset(
    {"prompt": (("row", "feature"), unit(classes + modality))},
    {"label": ("row", np.arange(n_classes))},
)
del table
words = tuple(f"class {i}" for i in range(n_classes))
places = tuple(f"domain {i}" for i in range(6))
given = dict(source=source, test=None, prompts=prompts, provenance={}, domains=places)
before = resource.getrusage(resource.RUSAGE_SELF)
try:
    from icm_study.embedding.tables import EmbeddedData
    from icm_study.experiments.run import Plan, run_task
    from icm_study.experiments.task import make_task
    from icm_study.methods import sources
    from icm_study.testbeds.splits import split

    if exact:
        sources.LARGE = np.inf
    data = EmbeddedData(**given, classes=words)
    bed = SimpleNamespace(words=words, spurious=(), split=lambda data, target, seed: split(data, 0))
    encoder = SimpleNamespace(embedding_dim=d, name="made up", device="cpu")
    embedder = SimpleNamespace(encoder=encoder)
    ways = [f"ICM {way}{kind}" for way in ("", "auto ") for kind in ("image", "text", "image+text")]
    plan = Plan()
    if as_before:
        plan = Plan(["plain", "augmentation", *ways], settings={"augmentation": {"C": [0.316]}})
    task = make_task(bed, embedder, data, None, 0)
    del data, given, source, prompts  # as where the last target is run
    found = run_task(task, plan)
except ImportError:
    from icm_core.environments import Environments
    from icm_core.evaluation import evaluate
    from icm_core.splits import split

    found = evaluate(split(Environments(**given, classes=words), 0))
    found["method"] += " " + found["intervention"].replace("none", "")
after = resource.getrusage(resource.RUSAGE_SELF)
unseen = found[found["condition"] == "unseen"]
columns = ["predictor", "K", "consistency_weight", "value"]
print(json.dumps({
    "processor seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    "peak MB": after.ru_maxrss / 1024,
    "unseen": {
        f"{method.strip()}, {predictor}": [k, weight, round(value, 2)]
        for method, (predictor, k, weight, value)
        in zip(unseen["method"], unseen[columns].to_numpy().tolist())
    },
}))
"""


def measure(checkout: Path, arguments: list[str]) -> dict[str, float | dict[str, list[float]]]:
    """Run the driver by the Python of a checkout."""
    python = checkout / ".venv" / "bin" / "python"
    command = [str(python) if python.exists() else sys.executable, "-c", DRIVER, *arguments]
    environment = os.environ | {"PYTHONPATH": str(checkout), "TQDM_DISABLE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=580_000, help="of all six domains")
    parser.add_argument("--classes", type=int, default=345)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--exact", action="store_true")
    parser.add_argument("--other", type=Path)
    given = parser.parse_args()

    shape = [str(given.rows), str(given.classes), str(given.features)]
    ours = measure(HERE, [*shape, str(int(given.exact)), str(int(given.other is not None))])
    print("this checkout:", json.dumps(ours, indent=1))
    if given.other:
        theirs = measure(given.other.resolve(), [*shape, "1", "1"])
        print("the other:", json.dumps(theirs, indent=1))
        ratio = ours["processor seconds"] / theirs["processor seconds"]  # type: ignore[operator]
        print(f"processor time: {ratio:.3f} of the other's")
