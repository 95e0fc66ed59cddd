"""The formulas of Karras et al. 2022 against the identities they were derived from and against Gaussian data's closed forms."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from torch import Tensor

from medassay.tasks.edm import (
    LEVELS,
    denoising_loss,
    loss_weight,
    make_levels,
    make_sigmas,
    measure_pixels,
    precondition,
    solve,
)

SIGMA = torch.logspace(-3, 2, 11, dtype=torch.float64)
DATA = torch.tensor(0.4, dtype=torch.float64)
MEAN, DEVIATION = 0.3, 0.7  # of the Gaussian data


def ideal(x: Tensor, sigma: float) -> Tensor:
    """The denoiser of least error on data N(MEAN, DEVIATION^2), the posterior's mean."""
    return (DEVIATION**2 * x + sigma**2 * MEAN) / (DEVIATION**2 + sigma**2)


# --- preconditioning and weights -------------------------------------------------------------------------------------


def test_the_factors_are_those_of_table_1_by_hand() -> None:
    found = precondition(torch.tensor(3.0), torch.tensor(4.0))  # a total of 25
    assert [float(factor) for factor in found] == pytest.approx([16 / 25, 12 / 5, 1 / 5, math.log(3) / 4])


def test_the_nets_inputs_have_variance_one() -> None:
    c_in = precondition(SIGMA, DATA).c_in
    torch.testing.assert_close(c_in.square() * (SIGMA**2 + DATA**2), torch.ones_like(SIGMA))


def test_the_nets_targets_have_variance_one() -> None:
    c_skip, c_out, _, _ = precondition(SIGMA, DATA)
    target = (
        (1 - c_skip).square() * DATA**2 + c_skip.square() * SIGMA**2
    ) / c_out.square()  # of (y - c_skip x) / c_out
    torch.testing.assert_close(target, torch.ones_like(SIGMA))


@pytest.mark.parametrize("shift", [-0.01, 0.01])
def test_the_skip_is_the_one_that_multiplies_the_nets_errors_least(shift: float) -> None:
    c_skip, c_out, _, _ = precondition(SIGMA, DATA)
    other = ((1 - c_skip - shift).square() * DATA**2 + (c_skip + shift).square() * SIGMA**2).sqrt()
    assert (other > c_out).all()


def test_the_weight_undoes_what_the_output_factor_does_to_errors() -> None:
    c_out = precondition(SIGMA, DATA).c_out
    torch.testing.assert_close(loss_weight(SIGMA, DATA) * c_out.square(), torch.ones_like(SIGMA))


def noisy_gaussians(sigma: float, n: int = 200_000) -> tuple[Tensor, Tensor]:
    """Gaussian data ``(n, 1, 1, 1)`` and the same with noise."""
    rng = torch.Generator().manual_seed(1)
    clean = MEAN + DEVIATION * torch.randn(n, 1, 1, 1, generator=rng, dtype=torch.float64)
    return clean, clean + sigma * torch.randn(clean.shape, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("sigma", [0.05, 0.7, 5.0])
def test_the_ideal_denoisers_loss_on_gaussian_data_is_the_closed_form_and_the_least(sigma: float) -> None:
    clean, noisy = noisy_gaussians(sigma)
    level = torch.tensor(sigma, dtype=torch.float64)
    factor = torch.ones((), dtype=torch.float64, requires_grad=True)  # of the ideal answer's distance to the mean
    loss = denoising_loss(MEAN + factor * (ideal(noisy, sigma) - MEAN), clean, level, DATA)
    posterior = sigma**2 * DEVIATION**2 / (sigma**2 + DEVIATION**2)
    weight = (sigma**2 + float(DATA) ** 2) / (sigma * float(DATA)) ** 2
    assert float(loss.detach()) == pytest.approx(weight * posterior, rel=0.02)
    (slope,) = torch.autograd.grad(loss, factor)
    curvature = 2 * weight * DEVIATION**4 / (sigma**2 + DEVIATION**2)
    assert abs(float(slope)) < 0.02 * curvature


@pytest.mark.parametrize("sigma", [0.05, 0.7, 5.0])
def test_where_data_are_gaussian_of_the_measured_deviation_a_net_of_zeros_is_ideal_with_a_loss_of_one(
    sigma: float,
) -> None:
    clean, noisy = noisy_gaussians(sigma)
    level, deviation = torch.tensor(sigma, dtype=torch.float64), torch.tensor(DEVIATION, dtype=torch.float64)
    denoised = precondition(level, deviation).c_skip * (noisy - MEAN)
    torch.testing.assert_close(denoised, ideal(noisy, sigma) - MEAN)
    assert float(denoising_loss(denoised, clean - MEAN, level, deviation)) == pytest.approx(1, rel=0.02)


def test_the_loss_is_the_weighted_mean_by_hand() -> None:
    denoised, images = torch.tensor([1.0, 2.0])[:, None, None, None], torch.zeros(2, 1, 1, 1)
    sigma = torch.tensor([1.0, 2.0])[:, None, None, None]
    by_hand = ((1 + 1) / 1 * 1 + (4 + 1) / 4 * 4) / 2
    assert float(denoising_loss(denoised, images, sigma, torch.tensor(1.0))) == pytest.approx(by_hand)


def test_the_levels_are_the_log_normals_quantiles() -> None:
    normal = NormalDist(-1.2, 1.2)
    expected = [math.exp(normal.inv_cdf((i + 0.5) / LEVELS)) for i in range(LEVELS)]
    assert make_levels(-1.2, 1.2).tolist() == pytest.approx(expected)


# --- the sampler -----------------------------------------------------------------------------------------------------


def test_the_noise_levels_are_those_of_equation_5() -> None:
    sigmas = make_sigmas(8, 0.002, 80, 7)
    assert (len(sigmas), sigmas[0], sigmas[-1]) == (9, pytest.approx(80), 0)
    assert sigmas[-2] == pytest.approx(0.002)
    roots = np.array(sigmas[:-1]) ** (1 / 7)
    assert np.diff(roots) == pytest.approx([(0.002 ** (1 / 7) - 80 ** (1 / 7)) / 7] * 7)


def test_one_step_goes_from_the_largest_level_to_none() -> None:
    assert make_sigmas(1, 0.002, 80, 7) == [80, 0]
    x = torch.tensor([10.0, -3.0], dtype=torch.float64)
    torch.testing.assert_close(solve(ideal, x, [80, 0]), ideal(x, 80))


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_n_steps_are_two_n_minus_one_calls(steps: int) -> None:
    levels: list[float] = []

    def denoise(x: Tensor, sigma: float) -> Tensor:
        levels.append(sigma)
        return x

    sigmas = make_sigmas(steps, 0.002, 80, 7)
    solve(denoise, torch.ones(1), sigmas)
    assert len(levels) == 2 * steps - 1
    assert levels[::2] == sigmas[:-1]
    assert levels[1::2] == sigmas[1:-1]


def exact(x: Tensor, start: float, end: float) -> Tensor:
    """The flow's solution for Gaussian data: distances to the mean shrink as the noisy data's deviation does."""
    return MEAN + (x - MEAN) * math.sqrt((DEVIATION**2 + end**2) / (DEVIATION**2 + start**2))


def solver_error(steps: int) -> float:
    x = torch.linspace(-200, 200, 9, dtype=torch.float64)
    sigmas = make_sigmas(steps, 0.002, 80, 7)[:-1]  # down to 0.002: every step is Heun's
    return float((solve(ideal, x, sigmas) - exact(x, 80, 0.002)).abs().max())


def test_heuns_error_on_gaussian_data_falls_at_second_order() -> None:
    errors = [solver_error(steps) for steps in (33, 65, 129)]
    assert errors[0] < 0.03
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.15)


def test_one_heun_step_is_the_trapezoid_by_hand() -> None:
    x, slope = 3.0, lambda value, sigma: (value - float(ideal(torch.tensor(value), sigma))) / sigma
    first = slope(x, 2.0)
    by_hand = x - 1.5 * (first + slope(x - 1.5 * first, 0.5)) / 2
    assert float(solve(ideal, torch.tensor(x), [2.0, 0.5])) == pytest.approx(by_hand, rel=1e-5)


def test_samples_of_gaussian_data_have_its_mean_and_deviation() -> None:
    noise = 80 * torch.randn(50_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = solve(ideal, noise, make_sigmas(32, 0.002, 80, 7))
    assert float(drawn.mean()) == pytest.approx(MEAN, abs=0.015)
    assert float(drawn.std()) == pytest.approx(DEVIATION, rel=0.02)


# --- the data's moments ----------------------------------------------------------------------------------------------


def test_the_pixels_moments_are_those_of_numpy() -> None:
    images = torch.randint(0, 200, (5, 3, 4, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images[:, 1] += 50
    values = 2 * images.numpy().astype(np.float64) / 255 - 1
    mean, deviation = measure_pixels(images)
    means = values.mean((0, 2, 3))
    assert mean.tolist() == pytest.approx(means.tolist())
    assert deviation == pytest.approx(math.sqrt(((values - means[:, None, None]) ** 2).mean()))
