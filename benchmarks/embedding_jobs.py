"""What it costs to embed a data set by many jobs instead of one: seconds of the processors.

Run it as ``python benchmarks/embedding_jobs.py FOLDER``, with images in
``FOLDER/domain/class/*``; ``--images`` takes some of them, evenly. The scripts of the
workflow plan once, then embed by one job and by ``--jobs`` side by side, each job on one
thread. The stores of both ways must be the same to the bit. Each job loads Python and the
encoder anew: the sum of their times should be at most 1.1 times that of one job.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from icm_study.photographs.folders import index_folder

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "workflow" / "scripts"
GOAL = 1.1


def some(data: Path, n: int, place: Path) -> Path:
    """Copy about `n` of the images of a folder, evenly over domains and classes."""
    paths = index_folder(data)["path"].tolist()
    for path in map(Path, paths[:: max(len(paths) // n, 1)]):
        copy = place / path.relative_to(data)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    return place


def call(*commands: list[str]) -> float:
    """Run scripts of the workflow side by side; give the seconds of the processors."""
    before = os.times()
    running = [
        subprocess.Popen([sys.executable, str(SCRIPTS / command[0]), *command[1:]], cwd=ROOT)
        for command in commands
    ]
    if any([each.wait() for each in running]):
        sys.exit("embedding_jobs: a job failed")
    after = os.times()
    return after.children_user + after.children_system - before[2] - before[3]


def main() -> int:
    """Embed both ways; return 1 if the stores differ, or many jobs cost too much."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--encoder", default="lite0-minilm")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        data = some(given.data.resolve(), given.images, place / "data")
        plan, seconds, stores = place / "plan.parquet", {}, {}
        settings = {"dataset": str(data), "encoder": given.encoder, "accept_problems": True}
        own = json.dumps(settings | {"cache": str(place / "seen")})
        call(["embedding_plan.py", "02_domain_generalization", "-y", own, str(plan)])
        for jobs in (1, given.jobs):
            parts = place / str(jobs) / "parts"
            parts.mkdir(parents=True)
            commands = [
                ["embed_images.py", "-y", own, f"--part={part}", f"--parts={jobs}", str(plan),
                 str(parts / f"{part}.json")]
                for part in range(1, jobs + 1)
            ]  # fmt: skip
            seconds[jobs] = call(*commands)
            stores[jobs] = {path.name: path.read_bytes() for path in parts.parent.glob("*.nc")}
            images = [json.loads(path.read_text())["images"] for path in parts.iterdir()]
            print(f"{jobs} jobs, {' + '.join(map(str, images))} images: {seconds[jobs]:.0f} s of "
                  "the processors", flush=True)  # fmt: skip
    same, ratio = stores[1] == stores[given.jobs], seconds[given.jobs] / seconds[1]
    print(f"ratio {ratio:.2f} (goal: at most {GOAL}); the stores "
          f"{'are the same' if same else 'differ'}: {len(stores[1])} files")  # fmt: skip
    return int(not same or ratio > GOAL)


if __name__ == "__main__":
    sys.exit(main())
