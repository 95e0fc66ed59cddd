"""The shape of every protocol: settings as fields, one ``run``, and a report that the writer turns into files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Literal

import torch
from matplotlib.figure import Figure
from pytorch_lightning import LightningModule

from medassay.core.estimate import Estimate
from medassay.data.modules import LabelledData
from medassay.evaluation.about import About
from medassay.reporting.charts import Chart
from medassay.runs.load import choose_device
from medassay.runs.run import Run
from medassay.training.settings import TrainerSettings

Outcome = Literal["good", "bad", "undecided"]


@dataclass(frozen=True)
class ComputeContext:
    """Where to compute, and where to keep what another evaluation can use.

    Attributes:
        device: Device of nets, encoders and distances.
        gpus: As in the trainer settings, for classifiers that a protocol trains: the device where it is a GPU, else none.
        cache: Folder of what is kept.
    """

    device: torch.device
    gpus: int | list[int] | None
    cache: Path

    @classmethod
    def from_settings(cls, settings: TrainerSettings, outputs: Path) -> ComputeContext:
        """The context of an evaluation with these trainer settings, caches in ``<outputs>/.cache``."""
        device = choose_device(settings)
        return cls(device, [device.index or 0] if device.type == "cuda" else 0, outputs / ".cache")


@dataclass(frozen=True)
class Page:
    """One self-contained HTML page.

    Attributes:
        template: File of the template; it may extend ``report.html.j2``, see there for what every page is given.
        values: Variables of its own.
    """

    template: Path
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What a protocol found; it has written nothing yet.

    Attributes:
        results: A frozen dataclass of the protocol's own, for ``<protocol>.json``.
        split: The split that was judged; None where none of the run's own was.
        verdict: The findings in words, most important first; said on the terminal, and in TensorBoard.
        metrics: Groups of single numbers and what they were measured on, for ``metrics.json``; a group is ``{name: number}``.
        figures: Pictures by name, for ``figures/<name>.png``; a :class:`Chart` is in the page as well.
        files: Further files by their path in the directory: text, a figure, or a function that writes the path it is given.
        hyperparameters: What tells this evaluation from others in TensorBoard's table.
        warnings: What a reader must know before any number, besides what the run itself gives cause for.
        page: The page ``report.html``; None for none.
        outcome: What a rule fixed beforehand makes of the run: nothing to object to, an objection, or that it cannot be said;
            None where there is no such rule.
        parts: Reports that this one is made of, each for a directory of its own.
    """

    results: Any
    split: str | None = None
    verdict: Sequence[str] = ()
    metrics: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Figure | Chart] = field(default_factory=dict)
    files: Mapping[str, str | Figure | Callable[[Path], None]] = field(default_factory=dict)
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    page: Page | None = None
    outcome: Outcome | None = None
    parts: Sequence[Part] = ()


@dataclass(frozen=True)
class Part:
    """A report inside another.

    Attributes:
        name: Name of its directory; its page is ``<name>/report.html`` beside that of the whole.
        report: What was found.
        about: What was evaluated.
        protocol: The protocol's checked node, for the command that repeats this part alone.
    """

    name: str
    report: Report
    about: About
    protocol: Mapping[str, Any]


@dataclass(frozen=True)
class Combined:
    """What several runs that differ in their seed alone give together, beside their mean.

    Attributes:
        name: What they are together, e.g. an ensemble of 3 nets.
        numbers: Its numbers by the names that a single run's have in the table of runs, ``<group>/<name>``.
        note: What a reader must know of it.
        none: Why they give nothing together; None where they do.
        results: A frozen dataclass, for the table's JSON.
        row: The name of its lines in ``summary.csv``, short enough to select by.
    """

    name: str
    numbers: Mapping[str, Estimate] = field(default_factory=dict)
    note: str = ""
    none: str | None = None
    results: Any = None
    row: str = "ensemble"


@dataclass(frozen=True)
class Protocol(ABC):
    """What can be done with a finished run; a sub-class is a frozen dataclass whose fields are its settings.

    Attributes:
        requires: Type, or types, of the tasks it works on; a run of another is refused.
        uses_own_data: Whether it judges the run's own images; they must be those that the run was made with.
        name: Name of the protocol, and of its files and directories.
    """

    requires: ClassVar[type | UnionType] = LightningModule
    uses_own_data: ClassVar[bool] = True
    name: str = ""

    @abstractmethod
    def run(self, run: Run, context: ComputeContext) -> Report:
        """Evaluates ``run``; writes nothing but caches."""

    def combine(self, directories: Sequence[Path]) -> Combined | None:
        """What the evaluations in ``directories``, of runs that differ in their seed, give together; None for nothing."""
        return None


class SamplesProtocol(ABC):
    """A protocol that can judge images made by any tool, too."""

    @abstractmethod
    def run_on_samples(self, samples: Path, data: LabelledData, context: ComputeContext, *, resize: bool) -> Report:
        """Judges the images in ``samples`` beside the real ones of ``data``; ``resize`` accepts another size."""
