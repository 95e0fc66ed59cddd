"""The decision between two classes by a threshold that validation images choose."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from medassay.metrics.classification import youden_threshold
from medassay.protocols.classification import Predictions, results

DECISIONS = ("accuracy", "balanced_accuracy", "precision", "recall", "specificity", "f1")


def by_threshold(predictions: Predictions, validation: Predictions | None) -> dict[str, Any]:
    """The decision by the threshold chosen on ``validation``, or ``{"none": why}``.

    Args:
        predictions: what is judged.
        validation: of validation images, by the same model; None where there are none to choose on.
    """
    if predictions.probabilities.shape[1] != 2:
        return {"none": "A threshold decides between two classes; with more, the largest probability decides."}
    if validation is None:
        return {
            "none": "The nets were not judged on the same validation images, so no threshold can be chosen on them."
        }
    if int(torch.bincount(validation.labels, minlength=2).min()) == 0:
        return {"none": "The validation images are all of one class, so no threshold can be chosen on them."}
    threshold = youden_threshold(validation.probabilities[:, 1], validation.labels)
    chosen = {"value": threshold, "rule": "Youden", "chosen_on": "val", "n": len(validation.labels)}
    return {**chosen, "metrics": decided(predictions.probabilities[:, 1] >= threshold, predictions.labels)}


def decided(positive: Tensor, labels: Tensor) -> dict[str, Any]:
    """The metrics of a decision between two classes that need no probability, with their intervals.

    Args:
        positive: ``(N,) bool``, the images called class 1.
        labels: ``(N,) int64``.
    """
    certain = torch.stack([~positive, positive], 1).float()  # the largest "probability" is the decision
    values = results(Predictions(certain, labels))
    kept = [name for name in values["interval_95"] if name.removeprefix("macro_") in DECISIONS]
    return {
        "n": values["n"],
        **{name: values[name] for name in kept},
        "confusion": values["confusion"],
        "interval_95": {name: values["interval_95"][name] for name in kept},
    }


def threshold_summary(threshold: dict[str, Any]) -> str:
    """The decision by threshold in one line."""
    values = threshold["metrics"]
    told = ", ".join(
        f"{name.replace('_', ' ')} {values[name]:.3f} [{', '.join(f'{bound:.3f}' for bound in values['interval_95'][name])}]"
        for name in ("accuracy", "balanced_accuracy", "recall", "specificity")
    )
    return f"threshold {threshold['value']:.3f} (Youden, on {threshold['n']} validation images): {told}"
