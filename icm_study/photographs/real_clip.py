"""Embeddings by real CLIPs that others have published: where they are from, and how to open them.

Nobody's weights are needed for them. They are of OpenAI's models: ViT-B/16, the paper's own
encoder, on 500 photographs of COCO with a caption each; and the text towers of ViT-B/32 and
RN50 on the same 1,203 names, "a {name}" for each category of LVIS.

``python -m icm_study.photographs.download real-clip`` gets them from their public
repositories, at pinned commits.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from icm_study.fingerprint import fingerprint
from icm_study.photographs.known import WebFile

FOLDER = "real_clip"
IMAGE_TOWER = "ViT-B-16/openai"
LICENCES = "MIT (ViT-B/16; RN50), Apache-2.0 (ViT-B/32; the names), CC BY 4.0 (COCO's captions)."
_GITHUB = "https://raw.githubusercontent.com"
PHOTOGRAPHS = "ViT-B-16_openai_coco500.npy"
CAPTIONS = "coco500_captions.npz"
NAMES = "lvis_names.txt"
#: Encoder -> the file of its embeddings of the names.
TEXT_TOWERS = {
    "ViT-B-32/openai": "ViT-B-32_openai_text_lvis.npy",
    "RN50/openai": "RN50_openai_text_lvis.npy",
}
_CATEGORIES, _ANNOTATIONS = "lvis_v1_train_cat_info.json", "captions_val2017.json"
#: What is downloaded, by the name under which it is kept.
FILES: dict[str, WebFile] = {
    PHOTOGRAPHS: WebFile(
        f"{_GITHUB}/Weixin-Liang/Modality-Gap/8e20cb24efa4c5f89aad694f2f65eb43ffc46d10/"
        "Figure_1_Modality_Gap/features_clip.npy",
        sha256="7227280ace0f145d2c45afa8ab507a1cb280e9460aa271fe9052d08e35342adb",
        size=2_048_128,
    ),
    TEXT_TOWERS["ViT-B-32/openai"]: WebFile(
        f"{_GITHUB}/facebookresearch/Detic/436cda2a2347df60a7c66daca0e8c59f93dc5e79/"
        "datasets/metadata/lvis_v1_clip_a%2Bcname.npy",
        sha256="16059f1fe5f7d857273d16a1b7c6d6141a88d133e99a107be5065f42311da0f8",
        size=1_232_000,
    ),
    TEXT_TOWERS["RN50/openai"]: WebFile(
        f"{_GITHUB}/facebookresearch/VLPart/e48903ab0cb38e4dd5be7ce7da2e36c855eff53f/"
        "datasets/metadata/lvis_v1_clip_RN50_a%2Bcname.npy",
        sha256="89797916c59a9fabab09d439243c55348cb9deb709fb89d23390fe980a2d6fb0",
        size=2_463_872,
    ),
    _CATEGORIES: WebFile(
        f"{_GITHUB}/facebookresearch/Detic/436cda2a2347df60a7c66daca0e8c59f93dc5e79/"
        f"datasets/metadata/{_CATEGORIES}",
        sha256="56abd7581b779fb62b167a52c76026839eabbfb5bfb12986e6170fbe0111fe40",
        size=268_947,
    ),
    _ANNOTATIONS: WebFile(
        f"{_GITHUB}/ruizewang/evaluate/1152656d3b8c66c48fc6a4357e159f5e21bd2d2d/"
        f"annotations/{_ANNOTATIONS}",
        sha256="1018a8760deaf1fc71be2f1b8da1a1348b9c35994af4322ca2fd795a78abb79c",
        size=3_872_493,
    ),
}


@dataclass(frozen=True)
class RealClip:
    """What is at hand of real CLIPs, in the precision in which it was computed.

    Attributes
    ----------
    image, text : ndarray of shape (n_photographs, D)
        Unit rows by :data:`IMAGE_TOWER`: row i of `text` is the caption of row i of `image`.
    caption : list of str
    names : list of str
        Of the categories, with spaces.
    towers : dict of str to ndarray of shape (n_names, D)
        By encoder, "a {name}" for each name, not scaled to unit length.
    """

    image: NDArray[np.floating]
    text: NDArray[np.floating]
    caption: list[str]
    names: list[str]
    towers: dict[str, NDArray[np.floating]]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the embeddings, the captions and the names."""
        return fingerprint(
            self.image, self.text, *self.towers.values(), "\n".join(self.caption + self.names)
        )


def open_real_clip(folder: str | os.PathLike[str]) -> RealClip:
    """Open a folder that the download has made.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a file is not what it should be.
    """
    root = Path(folder)
    missing = [
        name
        for name in (PHOTOGRAPHS, CAPTIONS, NAMES, *TEXT_TOWERS.values())
        if not (root / name).is_file()
    ]
    if missing:
        raise FileNotFoundError(
            f"{root} has no {', '.join(missing)}. Get the embeddings of real CLIPs by `python -m "
            "icm_study.photographs.download real-clip`, and name the folder that it makes."
        )
    try:
        image, text = np.load(root / PHOTOGRAPHS, allow_pickle=False)
        with np.load(root / CAPTIONS, allow_pickle=False) as archive:
            caption = [str(one) for one in archive["caption"]]
        names = (root / NAMES).read_text(encoding="utf-8").split("\n")
        towers = {
            name: np.load(root / file, allow_pickle=False) for name, file in TEXT_TOWERS.items()
        }
    except Exception as error:
        raise ValueError(
            f"{root} holds a file that cannot be read ({type(error).__name__}: {error}). Delete "
            "the folder and download it again."
        ) from error
    names = [name.replace("_", " ") for name in names if name]
    for what, rows, n in [
        ("photographs", image, len(caption)),
        ("captions", text, len(caption)),
        *((name, rows, len(names)) for name, rows in towers.items()),
    ]:
        if rows.ndim != 2 or len(rows) != n or not np.isfinite(rows).all():
            raise ValueError(
                f"{root}: the embeddings of {what} have shape {rows.shape}, finite: "
                f"{np.isfinite(rows).all()}; expected {n} finite rows. Delete the folder and "
                "download it again."
            )
    return RealClip(
        _exact(image), _exact(text), caption, names, {k: _exact(v) for k, v in towers.items()}
    )


def write_real_clip(files: Mapping[str, Path], root: Path) -> None:
    """Make the folder from what was downloaded.

    The photographs are the first 500 in the order of COCO's captions, each with the last of
    its captions: so they were embedded.
    """
    n = np.load(files[PHOTOGRAPHS], mmap_mode="r", allow_pickle=False).shape[1]
    told = json.loads(files[_ANNOTATIONS].read_text(encoding="utf-8"))["annotations"]
    captions = {one["image_id"]: one["caption"] for one in told}
    categories = json.loads(files[_CATEGORIES].read_text(encoding="utf-8"))
    names = [one["name"] for one in sorted(categories, key=lambda one: one["id"])]
    root.mkdir(parents=True, exist_ok=True)
    first: Sequence[int] = list(captions)[:n]
    np.savez(root / CAPTIONS, coco_id=first, caption=[captions[one] for one in first])
    (root / NAMES).write_text("\n".join(names) + "\n", encoding="utf-8")
    for name in (PHOTOGRAPHS, *TEXT_TOWERS.values()):
        shutil.copy(files[name], root / name)


def _exact(rows: NDArray[np.floating]) -> NDArray[np.floating]:
    """Give rows that were computed in half precision, and kept in single, in half again."""
    half = rows.astype(np.float16)
    return half if np.array_equal(half, rows) else rows
