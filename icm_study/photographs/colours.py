"""Give images the colour statistics of others: a change of style that needs no model.

Source: Reinhard et al. 2001, *Color transfer between images*, IEEE Computer Graphics and
Applications 21(5): in a space whose channels are close to independent (Ruderman's lαβ), each
channel gets the mean and the spread of the other image's.
"""

from __future__ import annotations

import torch

_TO_LMS = torch.tensor(
    [[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]]
)
_TO_OPPONENT = torch.diag(torch.tensor([3.0, 6.0, 2.0]).rsqrt()) @ torch.tensor(
    [[1.0, 1.0, 1.0], [1.0, 1.0, -2.0], [1.0, -1.0, 0.0]]
)
_DARKEST = 1 / 255  # the logarithm of black has no value


def with_colours_of(images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Give each image the mean and the spread of every channel of another image, in lαβ.

    Parameters
    ----------
    images, others : Tensor of shape (n, 3, H, W) and (n, 3, H', W'), uint8

    Returns
    -------
    Tensor of shape (n, 3, H, W), uint8
        Of an image with no spread in a channel, that channel gets the mean alone.

    Raises
    ------
    ValueError
        If these are no uint8 images in three channels, or not as many of both.
    """
    for name, given in (("images", images), ("others", others)):
        if given.dtype != torch.uint8 or given.ndim != 4 or given.shape[1] != 3:
            raise ValueError(
                f"{name} are {given.dtype} of shape {tuple(given.shape)}; expected uint8 (n, 3, H, "
                "W)."
            )
    if len(images) != len(others):
        raise ValueError(
            f"Got {len(images)} images and {len(others)} others; expected one other for each."
        )
    own, theirs = _opponent(images), _opponent(others)
    mean, spread = own.mean((2, 3), keepdim=True), own.std((2, 3), keepdim=True)
    their_mean, their_spread = theirs.mean((2, 3), keepdim=True), theirs.std((2, 3), keepdim=True)
    factor = torch.where(spread > 1e-6, their_spread / spread.clamp_min(1e-6), 0.0)
    moved = (own - mean) * factor + their_mean
    lms = 10 ** torch.einsum("ij,njhw->nihw", torch.linalg.inv(_TO_OPPONENT), moved)
    colours = torch.einsum("ij,njhw->nihw", torch.linalg.inv(_TO_LMS), lms)
    return (colours * 255).round().clamp(0, 255).to(torch.uint8)


def _opponent(images: torch.Tensor) -> torch.Tensor:
    lms = torch.einsum("ij,njhw->nihw", _TO_LMS, (images / 255).clamp_min(_DARKEST))
    return torch.einsum("ij,njhw->nihw", _TO_OPPONENT, lms.log10())
