"""The Gaussian shortcut: risks against sampling, information against its definition."""

import numpy as np
import pytest
from scipy.stats import norm

from icm_study.theory.gaussian import GaussianShortcut


@pytest.mark.parametrize(("noise", "target"), [(0.3, 0.3), (1.0, -0.5)])
def test_risks_are_those_of_samples(noise: float, target: float) -> None:
    model, rng, n = GaussianShortcut(target=target), np.random.default_rng(0), 200_000
    z = rng.normal(size=n)
    y = np.sign(z + model.label_noise * rng.normal(size=n))
    x = z + noise * rng.normal(size=n)
    shortcut = target * y + np.sqrt(1 - target**2) * rng.normal(size=n)
    r = 1 / np.sqrt((1 + model.label_noise**2) * (1 + noise**2))
    told = norm.cdf(r / np.sqrt(1 - r**2) * x / np.sqrt(1 + noise**2))
    log_odds = np.log(told / (1 - told)) + 2 * model.source * shortcut / (1 - model.source**2)
    sampled = (np.sign(x) != y).mean(), (np.sign(log_odds) != y).mean()
    assert model.risks(noise) == pytest.approx(sampled, abs=0.005)


def test_risks_cross_at_the_threshold() -> None:
    model = GaussianShortcut(target=0.4)
    c = model.threshold()
    invariant, standard = model.risks(model.noise(c))
    assert invariant == pytest.approx(standard)
    assert np.subtract(*model.risks(model.noise(2 * c))) < 0
    assert np.subtract(*model.risks(model.noise(c / 2))) > 0
    assert GaussianShortcut(4, target=0.4).threshold() == pytest.approx(4 * c)
    assert GaussianShortcut(target=-0.9).threshold() == 0
    assert GaussianShortcut(target=0.9).threshold() == np.inf


def test_noise_and_information_are_inverse_to_each_other() -> None:
    model = GaussianShortcut(3)
    assert model.information(model.noise(2.5)) == pytest.approx(2.5)
    assert model.information(1.0) == pytest.approx(1.5)  # half a bit for each factor
