"""Published embeddings of real CLIPs: whole or refused, and those at hand are the pinned ones."""

import hashlib

import numpy as np
import pytest
from conftest import REAL_CLIP
from real_clip_stand_in import write_stand_in

from icm_study.photographs.real_clip import (
    CAPTIONS,
    FILES,
    NAMES,
    PHOTOGRAPHS,
    TEXT_TOWERS,
    open_real_clip,
)

needs_real_clip = pytest.mark.skipif(not REAL_CLIP.exists(), reason="no real CLIP at hand")


@pytest.fixture
def folder(tmp_path):
    return write_stand_in(tmp_path / "real_clip", n_pairs=20, n_names=15)


def test_rows_belong_together(folder):
    clip = open_real_clip(folder)
    assert clip.image.shape == clip.text.shape == (20, 24)
    assert len(clip.caption) == 20
    assert clip.names[:2] == ["name 0", "name 1"]
    assert {name: rows.shape for name, rows in clip.towers.items()} == {
        "ViT-B-32/openai": (15, 16),
        "RN50/openai": (15, 16),
    }


def test_the_precision_is_that_of_the_numbers(folder):
    rows = np.load(folder / PHOTOGRAPHS)
    assert open_real_clip(folder).image.dtype == np.float32
    np.save(folder / PHOTOGRAPHS, rows.astype(np.float16).astype(np.float32))
    assert open_real_clip(folder).image.dtype == np.float16


def test_the_fingerprint_sees_every_part(folder):
    prints = {open_real_clip(folder).fingerprint}
    for file in (PHOTOGRAPHS, *TEXT_TOWERS.values()):
        rows = np.load(folder / file)
        np.save(folder / file, rows + np.float32(1))
        prints.add(open_real_clip(folder).fingerprint)
    (folder / NAMES).write_text((folder / NAMES).read_text().replace("name_3", "other"))
    prints.add(open_real_clip(folder).fingerprint)
    np.savez(folder / CAPTIONS, caption=["a caption"] * 20)
    prints.add(open_real_clip(folder).fingerprint)
    assert len(prints) == 6


@pytest.mark.parametrize("file", [PHOTOGRAPHS, CAPTIONS, NAMES, *TEXT_TOWERS.values()])
def test_a_missing_file_is_named_with_the_way_to_get_it(folder, file):
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=rf"has no {file}.*download real-clip"):
        open_real_clip(folder)


@pytest.mark.parametrize("file", [PHOTOGRAPHS, CAPTIONS, *TEXT_TOWERS.values()])
def test_a_damaged_file_is_refused(folder, file):
    (folder / file).write_bytes((folder / file).read_bytes()[:60])
    with pytest.raises(ValueError, match=r"cannot be read.*Delete the folder"):
        open_real_clip(folder)


@pytest.mark.parametrize("fault", ["fewer", "nan"])
@pytest.mark.parametrize("file", [PHOTOGRAPHS, *TEXT_TOWERS.values()])
def test_rows_that_do_not_fit_are_refused(folder, file, fault):
    rows = np.load(folder / file)
    if fault == "nan":
        rows[..., 3, 0] = np.nan
    np.save(folder / file, rows[..., :-1, :] if fault == "fewer" else rows)
    with pytest.raises(ValueError, match=r"expected \d+ finite rows"):
        open_real_clip(folder)


@needs_real_clip
def test_what_is_at_hand_is_what_is_pinned():
    for name in (PHOTOGRAPHS, *TEXT_TOWERS.values()):
        data = (REAL_CLIP / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (
            FILES[name].size,
            FILES[name].sha256,
        )


@needs_real_clip
def test_the_captions_at_hand_are_those_of_their_images():
    clip = open_real_clip(REAL_CLIP)
    assert (len(clip.image), len(clip.names)) == (500, 1203)
    assert {rows.dtype.str for rows in (clip.image, *clip.towers.values())} == {"<f2"}
    cosine = clip.image.astype(float) @ clip.text.astype(float).T
    own = np.diag(cosine)
    assert np.mean(cosine.argmax(axis=1) == np.arange(500)) > 0.4  # 1 in 500 by chance
    assert own.mean() > cosine.mean() + 0.1
