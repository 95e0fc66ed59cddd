"""Where an evaluation computes: what a protocol trains, it trains there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medassay.evaluation import protocol
from medassay.evaluation.protocol import ComputeContext
from medassay.training.settings import TrainerSettings


@pytest.mark.parametrize(("device", "gpus"), [("cpu", 0), ("mps", 0), ("cuda", [0]), ("cuda:1", [1])])
def test_classifiers_are_trained_on_the_device_of_the_evaluation(
    device: str, gpus: int | list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "choose_device", lambda settings: torch.device(device))
    context = ComputeContext.from_settings(TrainerSettings(gpus=2), Path("outputs"))
    assert (context.device, context.gpus) == (torch.device(device), gpus)
