"""How fast image files become embeddings, against the model alone; and the memory this takes.

Run it with ``python benchmarks/extraction.py``. In turns within one run, the model's
bare forward pass on ready float tensors and `embed_files` on JPEG files, from reading
to storing, original and intervened images both counted. Their ratio is what decoding,
resizing, intervening and storing leave of the model's speed. The ratio of the
processors' time is printed too: other programs on the machine disturb it less. Then, in
a process of its own for each number of images, the peak memory.

The default encoder is open_clip's ViT-B-32 with random weights: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import torch
from PIL import Image
from safetensors.torch import save_file

from icm_study.embedding.files import embed_files
from icm_study.embedding.store import EmbeddingStore
from icm_study.encoders.encoder import Encoder
from icm_study.encoders.loading import load_encoder
from icm_study.photographs.folders import index_folder

SMALL = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 224, "layers": 1, "width": 32, "patch_size": 32, "head_width": 16},
    "text_cfg": {"context_length": 16, "width": 32, "heads": 2, "layers": 1},
}


def random_checkpoint(folder: Path, model: dict) -> str:
    """Save a model with random weights as a local checkpoint."""
    folder.mkdir()
    preprocess = {
        "mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD,
        "interpolation": "bicubic", "resize_mode": "shortest",
    }  # fmt: skip
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": model, "preprocess_cfg": preprocess})
    )
    save_file(open_clip.CLIP(**model).state_dict(), folder / "open_clip_model.safetensors")
    return str(folder)


def generated_photographs(folder: Path, n: int, distinct: int = 200) -> pd.DataFrame:
    """Make JPEG files of 256 × 256 pixels; after `distinct` ones, copies with a comment."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(distinct):
        coarse = Image.fromarray(rng.integers(256, size=(12, 12, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((256, 256), Image.Resampling.BICUBIC), dtype=int)
        images.append(
            Image.fromarray(
                (smooth + rng.integers(-12, 13, smooth.shape)).clip(0, 255).astype(np.uint8)
            )
        )
    folder.mkdir(parents=True)
    paths = [folder / f"{i}.jpg" for i in range(n)]
    for i, path in enumerate(paths):
        images[i % distinct].save(path, quality=90, comment=str(i).encode())
    return pd.DataFrame({"path": list(map(str, paths)), "label": "thing", "domain": "photo"})


def throughput(
    encoder: Encoder, table: pd.DataFrame, batch_size: int, workers: int | None, rounds: int
) -> None:
    """Compare the bare forward pass with `embed_files`, round by round."""
    size = encoder.resize(torch.zeros(1, 3, 300, 300, dtype=torch.uint8)).shape[-2:]
    ready = torch.randn(2 * batch_size, 3, *size, device=encoder.device).contiguous(
        memory_format=torch.channels_last
    )

    @torch.inference_mode()
    def forward() -> None:
        for start in range(0, len(table), batch_size):
            encoder.model.encode_image(ready[: 2 * (len(table) - start)]).cpu()

    def everything() -> None:
        with tempfile.TemporaryDirectory() as folder:
            embed_files(
                encoder, table, EmbeddingStore(folder), batch_size=batch_size, workers=workers
            )

    print(f"{encoder}\n{len(table)} images, {torch.get_num_threads()} threads, workers: {workers}")
    forward()
    assert encoder.fingerprint  # hashed once in the life of an encoder
    ratios = []
    for _ in range(rounds):
        bare, whole = seconds(forward), seconds(everything)
        ratios.append(bare / whole)
        print(
            f"forward pass {2 * len(table) / bare[0]:7.1f} images/s   embed_files "
            f"{2 * len(table) / whole[0]:7.1f} "
            f"images/s   ratio {ratios[-1][0]:.2f}   of the processors' time {ratios[-1][1]:.2f}"
        )
    print(
        "median ratio {:.2f} (goal: 0.85), of the processors' time {:.2f}".format(
            *np.median(ratios, axis=0)
        )
    )


def seconds(function: Callable[[], None]) -> np.ndarray:
    """Duration of a call, and processor time of this process and of those that it started."""
    before = time.perf_counter(), sum(os.times()[:4])
    function()
    return np.subtract((time.perf_counter(), sum(os.times()[:4])), before)


def peak_memory(checkpoint: str, folder: str, n: str) -> None:
    """Embed `n` images and print the peak memory of this process and its worker, in MB."""
    encoder = load_encoder(checkpoint, device="cpu")
    images = index_folder(folder).head(int(n))
    with tempfile.TemporaryDirectory() as store:
        embed_files(encoder, images, EmbeddingStore(store))
    peaks = [
        resource.getrusage(who).ru_maxrss / 1024
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    print(*peaks)


def memory(folder: Path, numbers: tuple[int, int] = (1_000, 10_000)) -> None:
    """Compare the peak memory for few and for many images."""
    checkpoint = random_checkpoint(folder / "small", SMALL)
    generated_photographs(folder / "data" / "photo" / "thing", max(numbers))
    peaks = {}
    for n in numbers:
        command = [
            sys.executable,
            __file__,
            "--peak-memory",
            checkpoint,
            str(folder / "data"),
            str(n),
        ]
        out = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout
        peaks[n] = np.array(out.split(), dtype=float)
        print(f"{n:6} images: {peaks[n][0]:.0f} MB, and {peaks[n][1]:.0f} MB in the worker")
    few, many = numbers
    main, worker = peaks[many] - peaks[few]
    embeddings = 2 * (many - few) * SMALL["embed_dim"] * 4 / 2**20
    print(
        f"{many} images take {main:+.0f} MB and {worker:+.0f} MB (goal: below 100); their "
        f"embeddings are {embeddings:.0f} MB of it"
    )


def main() -> None:
    """Run both benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--encoder", help="name of an encoder; by default ViT-B-32 with random weights"
    )
    parser.add_argument("--data", help="folder domain/class/image; by default generated JPEG files")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--skip-memory", action="store_true")
    parser.add_argument("--peak-memory", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_memory:
        peak_memory(*options.peak_memory)
        return
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        name = options.encoder or random_checkpoint(
            root / "ViT-B-32", open_clip.get_model_config("ViT-B-32")
        )
        if options.data:
            table = index_folder(options.data).sample(options.images, random_state=0)
        else:
            table = generated_photographs(root / "images", options.images)
        throughput(load_encoder(name), table, options.batch_size, options.workers, options.rounds)
        if not options.skip_memory:
            memory(root)


if __name__ == "__main__":
    main()
