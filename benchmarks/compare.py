"""Compare this checkout with another one, side by side: ratios of time and memory.

Run it as ``python benchmarks/compare.py OTHER --data PACS``, where OTHER is a checkout
with its environment in ``.venv``. In turns, both embed the same photographs on one
thread with each encoder. With ``--study``, ``--tests`` and ``--shared-tests`` both also run
the whole study, all tests, and the tests whose names both have, each in a fresh clone, so
from empty caches: processor time (user and system, of all processes) and memory of the
largest process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
ENCODERS = ("lite0-minilm", "RN50", "ViT-B-32")

# run by each checkout's own Python; the modules have other names in older commits
DRIVER = """
import hashlib, json, resource, sys, tempfile, time
try:
    from icm_study.encoders.loading import load_encoder
    from icm_study.embedding.files import embed_files
    from icm_study.embedding.store import EmbeddingStore
    from icm_study.photographs.folders import index_folder
except ImportError:
    from icm_core.encoders import load_encoder
    from icm_core.extraction import embed_files
    from icm_core.embeddings import EmbeddingStore
    from icm_core.data.folders import index_folder
import torch

name, data, n = sys.argv[1:]
torch.set_num_threads(1)
encoder = load_encoder(name, "cpu")
images = index_folder(data).sample(int(n), random_state=0)
encoder.fingerprint, encoder.embedding_dim
with tempfile.TemporaryDirectory() as folder:
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    table = embed_files(encoder, images, EmbeddingStore(folder))
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
bits = table["original"].to_numpy().tobytes() + table["image"].to_numpy().tobytes()
print(json.dumps({
    "images/s": 2 * len(images) / seconds, "images/s of processor time": 2 * len(images) / cpu,
    "peak MB": after.ru_maxrss / 1024, "hash": hashlib.sha256(bits).hexdigest(),
}))
"""


def environment(checkout: Path, code: Path) -> dict[str, str]:
    """Give the environment in which `code` runs with the packages of a checkout."""
    return os.environ | {
        "PATH": f"{checkout / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(code), os.environ.get("PYTHONPATH")])),
        "OMP_NUM_THREADS": "1",
    }


def random_checkpoint(folder: Path, name: str) -> str:
    """Save an open_clip model with random weights, on which the speed does not depend."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    config = open_clip.get_model_config(name)
    folder.mkdir()
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    told = {"model_cfg": config, "preprocess_cfg": {"mean": mean, "std": std}}
    (folder / "open_clip_config.json").write_text(json.dumps(told))
    save_file(open_clip.CLIP(**config).state_dict(), folder / "open_clip_model.safetensors")
    return str(folder)


def photographs(checkout: Path, encoder: str, data: str, images: int) -> dict:
    """Embed photographs in a process of a checkout."""
    command = ["python", "-c", DRIVER, encoder, data, str(images)]
    environ = environment(checkout, checkout)
    out = subprocess.run(
        command, env=environ, cwd=checkout, check=True, text=True, stdout=subprocess.PIPE
    )
    return json.loads(out.stdout.splitlines()[-1])


def tests_of(checkout: Path) -> dict[str, set[str]]:
    """List the tests of a checkout: the name of each -> the functions that have it."""
    out = subprocess.run(
        ["pytest", "--collect-only", "-q", "-o", "addopts="],
        cwd=checkout, env=environment(checkout, checkout), check=True, text=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    functions = {line.split("[")[0] for line in out.stdout.splitlines() if "::" in line}
    named: dict[str, set[str]] = {}
    for function in functions:
        named.setdefault(function.split("::")[-1], set()).add(function)
    return named


def whole(checkout: Path, what: str, tests: Iterable[str] = ()) -> dict:
    """Run the study or tests in a fresh clone of a checkout; processor time and memory."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "clone", "-q", checkout, folder], check=True)
        script = next(Path(folder, "workflow").rglob("study.py")).relative_to(folder)
        command = {
            "study": ["python", str(script)],
            "tests": ["pytest", "-n", "2", "--dist", "loadfile", *tests],
        }[what]
        process = subprocess.Popen(command, cwd=folder, env=environment(checkout, Path(folder)))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{what} failed in a clone of {checkout}: {process.returncode}")
    return {"processor s": usage.ru_utime + usage.ru_stime, "peak MB": usage.ru_maxrss / 1024}


def compare(what: str, here: dict, there: dict) -> None:
    """Print two measurements and their ratios, here by there."""
    for key, value in here.items():
        if key == "hash":
            print(
                f"{what}: embeddings {'equal' if value == there[key] else 'NOT equal'} to the bit"
            )
        else:
            ratio = value / there[key]
            print(f"{what}: {key} {value:.1f}, there {there[key]:.1f}, ratio {ratio:.2f}")


def main() -> None:
    """Run the comparisons that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, help="the other checkout, with its .venv")
    parser.add_argument("--data", help="folder domain/class/image; without, nothing is embedded")
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--encoders", nargs="*", default=ENCODERS)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--study", action="store_true", help="run the study too")
    parser.add_argument("--tests", action="store_true", help="run the tests too")
    parser.add_argument(
        "--shared-tests", action="store_true", help="run the tests that both have, too"
    )
    options = parser.parse_args()
    other = options.other.resolve()
    with tempfile.TemporaryDirectory() as folder:
        for name in options.encoders if options.data else ():
            clip = name in ENCODERS[1:]
            encoder = random_checkpoint(Path(folder, name), name) if clip else name
            for _ in range(options.rounds):
                data = str(Path(options.data).resolve())
                there, here = (
                    photographs(path, encoder, data, options.images) for path in (other, HERE)
                )
                compare(name, here, there)
    for what in [name for name in ("study", "tests") if getattr(options, name)]:
        there, here = (whole(path, what) for path in (other, HERE))
        compare(what, here, there)
    if options.shared_tests:
        listed = [tests_of(path) for path in (other, HERE)]
        shared = sorted(listed[0].keys() & listed[1].keys())
        there, here = (
            whole(path, "tests", sorted({one for name in shared for one in tests[name]}))
            for path, tests in zip((other, HERE), listed, strict=True)
        )
        compare(f"the {len(shared)} tests that both have", here, there)


if __name__ == "__main__":
    main()
