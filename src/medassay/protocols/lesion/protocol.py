"""The lesion study: residual blocks are taken out of a trained ResNet, one by one and several at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch

from medassay.core.errors import ConfigError
from medassay.core.types import NonNegativeInt, PositiveInt
from medassay.evaluation.protocol import ComputeContext, Page, Protocol, Report
from medassay.metrics.chance import check_against_chance
from medassay.nets.resnet import ResNet
from medassay.protocols.lesion import figures, measures, verdict
from medassay.protocols.lesion.blocks import (
    Answers,
    Block,
    count_removed_parameters,
    describe_shortcut,
    find_blocks,
    is_downsampling,
    name_net,
)
from medassay.protocols.lesion.measures import Errors, Lesion, LesionResults, estimate
from medassay.runs.load import select_evaluated_images
from medassay.runs.run import Run
from medassay.tasks.classification import Classification

FLATTERING = "Validation images also chose the epoch, so the whole net’s error is too low on them."


@dataclass(frozen=True)
class LesionStudy(Protocol):
    """What is each residual block of a trained ResNet worth?

    Source: Veit, Wilber & Belongie, *Residual networks behave like ensembles of relatively shallow networks* (2016,
    arXiv:1605.06431), sections 4.1 and 4.2. Blocks are removed from copies of the net; the run's own task stays as it is.

    Attributes:
        name: Name of the protocol.
        split: Split to judge by.
        permutations: Number of random orders in which blocks are removed one after the other.
        seed: Seed of these orders.
    """

    requires: ClassVar[type] = Classification
    name: str = "lesion"
    split: Literal["test", "val"] = "test"
    permutations: PositiveInt = 10
    seed: NonNegativeInt = 0

    def run(self, run: Run, context: ComputeContext) -> Report:
        """Studies a ResNet's finished run.

        Raises:
            ConfigError: the run's net is no ResNet.
        """
        assert isinstance(run.task, Classification)
        net = find_net(run.task)
        split = select_evaluated_images(run.data, self.split, run.settings)
        results = self.measure(Answers(net, split, context.device))
        return Report(
            results,
            split=self.split,
            verdict=[f"lesion: {text}" for text in results.verdict],
            metrics={"split": self.split, "lesion": flatten_metrics(results)},
            figures={"lesions": figures.draw_lesions(results), "several": figures.draw_several(results)},
            warnings=[FLATTERING] if self.split == "val" else [],
            page=Page(Path(__file__).with_name("page.html.j2")),
        )

    def measure(self, answers: Answers) -> LesionResults:
        """All numbers, and what the rule says of them."""
        blocks, labels = find_blocks(answers.net), answers.split.labels
        n = len(labels)
        mistakes = [answers.mark_mistakes(), *(answers.mark_mistakes(name) for name in blocks)]
        errors = measures.measure_errors(torch.stack(mistakes), labels)
        error, guessing = estimate(errors.plain[:, 0], n), 1 - int(torch.bincount(labels).max()) / n
        chance = check_against_chance(answers.without().probabilities, labels)
        judged, lead = verdict.is_judged(chance, error, guessing), guessing - error.value
        lesions = list_lesions(blocks, errors, n, lead if judged else None)
        downsampling = torch.tensor([one.downsampling for one in lesions])
        rises = measures.compare_kinds(errors.rises, downsampling, n)
        findings = verdict.judge(lesions, rises) if judged else []
        refusal = verdict.refuse_judgement(chance, error, guessing)
        return LesionResults(
            split=self.split,
            n=n,
            net=name_net(blocks),
            chance=chance,
            guessing=guessing,
            error=error,
            balanced_error=estimate(errors.balanced[:, 0], n),
            lesions=lesions,
            rises=rises,
            several=measures.measure_several(answers.measure_error, [*blocks], self.permutations, self.seed),
            permutations=self.permutations,
            seed=self.seed,
            rule=verdict.RULE,
            limit=verdict.BORNE * lead if judged else None,
            findings=findings,
            verdict=[f"{one.question} {one.text}" for one in findings] or [refusal],
        )


def find_net(task: Classification) -> ResNet:
    """The net that answers in evaluation mode: that of the averaged weights, if any.

    Raises:
        ConfigError: it is no ResNet.
    """
    net = task.answering_net
    if not isinstance(net, ResNet):
        raise ConfigError(
            f"protocol=lesion: this run's net is a {type(net).__name__}, and only a ResNet has residual blocks to remove; "
            "train one with model/net=resnet, then evaluate that run"
        )
    return net


def list_lesions(blocks: Mapping[str, Block], errors: Errors, n: int, lead: float | None) -> list[Lesion]:
    """Each block with what was measured without it.

    Args:
        blocks: All blocks by name.
        errors: Of the whole net and then of the net without each block.
        n: Number of images.
        lead: The whole net's lead over guessing; None where it has none, and is not judged.
    """
    lesions = []
    for place, (name, block) in enumerate(blocks.items()):
        rise = estimate(errors.rises[:, place], n)
        lesion = Lesion(
            name=name,
            downsampling=is_downsampling(block),
            shortcut=describe_shortcut(block),
            parameters=count_removed_parameters(block),
            error=estimate(errors.plain[:, 1 + place], n),
            balanced_error=estimate(errors.balanced[:, 1 + place], n),
            rise=rise,
            borne=None if lead is None else verdict.judge_loss(rise, lead),
        )
        lesions.append(lesion)
    return lesions


def flatten_metrics(results: LesionResults) -> dict[str, float]:
    """Single numbers by name; ``borne`` is a share of the blocks, ``error/<k>`` the error without k of them."""
    flat = {
        "error": results.error.value,
        "balanced_error": results.balanced_error.value,
        "guessing": results.guessing,
        "rise_downsampling": results.rises.downsampling.value,
        "rise_others": results.rises.others.value,
        "rise_difference": results.rises.difference.value,
    }
    if results.findings:
        flat["borne"] = sum(one.borne == "yes" for one in results.lesions) / len(results.lesions)
    flat |= {f"rise/{one.name}": one.rise.value for one in results.lesions}
    return flat | {f"error/{count}": one.value for count, one in enumerate(results.several, 1)}
