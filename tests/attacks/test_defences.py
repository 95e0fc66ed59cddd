"""What a client does to its gradient, by hand-worked numbers."""

from __future__ import annotations

import pytest
import torch

from medassay.attacks.defences import add_noise, clip_per_example, prune

GRADIENTS = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])  # of norms 5, 0.5 and 0


def test_each_image_s_gradient_is_clipped_for_itself() -> None:
    torch.testing.assert_close(clip_per_example(GRADIENTS, 1.0), torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))


def test_without_noise_a_step_of_dp_sgd_is_the_mean_of_clipped_gradients() -> None:
    step = add_noise(GRADIENTS, 1.0, 0.0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(step, torch.tensor([0.3, 0.4]))


@pytest.mark.parametrize(("bound", "multiplier", "batch"), [(1.0, 0.5, 1), (2.0, 0.5, 4)])
def test_the_noise_of_the_sum_is_multiplier_times_bound(bound: float, multiplier: float, batch: int) -> None:
    step = add_noise(torch.zeros(batch, 200_000), bound, multiplier, torch.Generator().manual_seed(0))
    assert float(step.std()) * batch == pytest.approx(bound * multiplier, rel=0.01)
    assert float(step.mean()) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize(("share", "zeros"), [(0.5, 50), (0.9, 90), (0.99, 99), (0.994, 99)])
def test_pruning_sets_the_stated_share_of_the_smallest_entries_to_0(share: float, zeros: int) -> None:
    gradients = (torch.randperm(200, generator=torch.Generator().manual_seed(0)).view(2, 100) + 1.0) * -1
    pruned = prune(gradients, share)
    for before, after in zip(gradients, pruned, strict=True):
        assert int((after == 0).sum()) == zeros
        assert torch.equal(after[after != 0], before[after != 0])
        assert float(before[after == 0].abs().max()) < float(after[after != 0].abs().min())
