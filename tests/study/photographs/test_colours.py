"""Colour statistics of one image in another."""

import numpy as np
import pytest
import torch
from PIL import Image

from icm_study.photographs.colours import with_colours_of


def image(seed, low, high, side=32):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(low, high, (1, 3, side, side), dtype=np.uint8))


def test_an_image_with_its_own_colours_stays_as_it_is():
    own = image(0, 5, 250)
    assert (with_colours_of(own, own).int() - own.int()).abs().max() <= 1


def test_an_image_gets_the_hue_and_the_spread_of_the_other():
    grey, red = image(0, 100, 150), image(1, 20, 60)
    red[:, 0] += 150
    moved = with_colours_of(grey, red).float()
    assert moved.mean((2, 3)).sub(red.float().mean((2, 3))).abs().max() < 6
    # Pillow as the oracle of what is red: the hue of most pixels
    hue = np.asarray(Image.fromarray(moved[0].byte().permute(1, 2, 0).numpy()).convert("HSV"))
    assert np.median(np.minimum(hue[..., 0], 255 - hue[..., 0])) < 15
    # what was brighter stays brighter
    order = np.corrcoef(grey.float().mean(1).ravel(), moved.mean(1).ravel())[0, 1]
    assert order > 0.8


def test_a_flat_image_gets_the_mean_alone():
    flat, other = torch.full((1, 3, 8, 8), 90, dtype=torch.uint8), image(2, 0, 255, 16)
    assert with_colours_of(flat, other).flatten(2).float().std(2).max() == 0


@pytest.mark.parametrize(
    ("images", "others", "said"),
    [
        (torch.zeros(1, 3, 4, 4), image(0, 0, 9), "images are torch.float32"),
        (image(0, 0, 9), image(0, 0, 9)[0], "others are torch.uint8 of shape"),
        (image(0, 0, 9), image(0, 0, 9).repeat(2, 1, 1, 1), "1 images and 2 others"),
    ],
)
def test_what_cannot_be_used_is_refused(images, others, said):
    with pytest.raises(ValueError, match=said):
        with_colours_of(images, others)
