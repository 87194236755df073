"""How a data set of DomainNet's size is listed, hashed, planned and shared out: time and memory.

Run it with ``python benchmarks/many_images.py``. It writes 586,575 small files (the number
in DomainNet; ``--images`` for fewer) in 6 domains and 345 classes, then measures, each in
a process of its own, the plan of a first run and of a second one, and one of many jobs
that embed, with a stand-in encoder that costs nothing, for two sizes of the data set:
its memory should not depend on that.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "workflow" / "scripts"
DOMAINS, CLASSES = 6, 345


class NoEncoder:
    """Stands in for an encoder: the embedding of an image is a hash's worth of its pixels."""

    name, fingerprint, precision, embedding_dim = "stand-in", "none", "float32", 512

    def resize(self, images):
        """Leave images as they are."""
        return images

    def encode_images(self, images):
        """Give some of the pixels."""
        return images.flatten(1)[:, : self.embedding_dim].float().numpy() + 1


def write(root: Path, n: int) -> None:
    """Write `n` small images, all different, evenly over domains and classes."""
    content = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), 127, np.uint8)).save(content, "BMP")
    body = bytearray(content.getvalue())
    folders = [
        root / f"domain{domain}" / f"class{label:03}"
        for domain in range(DOMAINS)
        for label in range(CLASSES)
    ]
    for folder in folders:
        folder.mkdir(parents=True)
    for i in range(n):
        body[-32:] = hashlib.sha256(str(i).encode()).digest()
        with open(folders[i % len(folders)] / f"{i}.bmp", "wb") as file:
            file.write(body)


def measured(*arguments: str) -> None:
    """Run one of the steps below in a process of its own, and print what it cost."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, *arguments], check=True, text=True, stdout=subprocess.PIPE
    )
    seconds, cost = time.perf_counter() - started, json.loads(done.stdout.splitlines()[-1])
    print(
        f"{arguments[1]:8} {cost['images']:8,} images   {seconds:6.0f} s   {cost['cpu']:6.0f} s of "
        f"the processors   {cost['MB']:6,.0f} MB", flush=True,
    )  # fmt: skip


def step(name: str, data: str, plan: str, part: int = 1, parts: int = 1) -> None:
    """Plan, or embed one part, in this process; print its cost."""
    sys.path.insert(0, str(SCRIPTS))
    os.chdir(ROOT)
    if name == "embed":
        import embed_images

        embed_images.load_encoder = lambda *_, **__: NoEncoder()
        record = Path(plan).parent / "store" / "parts" / f"{part}.json"
        record.parent.mkdir(parents=True, exist_ok=True)
        sys.argv = [name, "-y", "{encoder: none}", f"--part={part}", f"--parts={parts}"]
        sys.argv += [plan, str(record)]
        code, n = embed_images.main(), json.loads(record.read_text())["images"]
    else:
        import embedding_plan
        import pyarrow.parquet

        cache = Path(plan).parent / "store"
        settings = json.dumps({"dataset": data, "encoder": "none", "cache": str(cache)})
        sys.argv = [name, "02_domain_generalization", "-y", settings, plan]
        code, n = embedding_plan.main(), pyarrow.parquet.read_metadata(plan).num_rows
    assert code == 0
    own, below = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    cpu = own.ru_utime + own.ru_stime + below.ru_utime + below.ru_stime
    print(json.dumps({"images": n, "cpu": cpu, "MB": own.ru_maxrss / 1024}))


def main() -> None:
    """Run the benchmark, or the step that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=586_575)
    parser.add_argument("--parts", type=int, default=64)
    parser.add_argument("--folder", help="where the files are written; by default in /tmp")
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        name, data, plan, *numbers = given.step
        step(name, data, plan, *map(int, numbers))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        for n in (given.images // 8, given.images):
            # the job has as many images in both
            parts = max(given.parts * n // given.images, 1)
            place = Path(folder, str(n))
            write(place / "data", n)
            plan = str(place / "plan.parquet")
            time.sleep(3)  # what was written a moment ago is not taken for seen
            for name in ("plan", "again"):
                measured("--step", name, str(place / "data"), plan)
            measured("--step", "embed", str(place / "data"), plan, "1", str(parts))


if __name__ == "__main__":
    main()
