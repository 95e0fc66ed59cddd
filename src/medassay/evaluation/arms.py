"""The arms of a comparison: classifiers of one recipe and one number of steps, trained on different images.

The recipe is that of ``model=tstr``: the same net, optimizer, class weights and order of batches, so that an arm on a
generator's images and a run of ``model=tstr data.generator=…`` give the same weights. Each is trained with one thread on the
CPU, so that its result does not depend on how many cores there are, and kept under a key of all it depends on.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medassay.core.errors import DataError, OutputError, TrainingError
from medassay.core.files import atomic_write, read_cached
from medassay.core.machine import count_cores
from medassay.core.processes import FIRST_USED, Call, Place, run_in_processes
from medassay.core.progress import Progress
from medassay.core.types import LabelledImages, Splits
from medassay.data.given import compute_digest
from medassay.data.sources import memory_data
from medassay.nets.block_cnn import BlockCNN
from medassay.tasks.classification import Classification
from medassay.training.checkpoints import load_weights, read_checkpoint
from medassay.training.fit import fit
from medassay.training.settings import TrainerSettings

BATCH = 64
LOOKS = 20  # at the held-out images, evenly spaced over the steps; the best macro AUROC is kept
QUICK_STEPS = 300
RECIPE = 1  # part of every key: raise it where the recipe or the training changes


def count_full_steps(n: int) -> int:
    """The steps of every arm of a full comparison, from the real training set's size: 20 passes over it."""
    return LOOKS * -(-n // BATCH)


@dataclass(frozen=True)
class Arm:
    """One classifier to be trained.

    Attributes:
        name: What the reader calls it; the result does not depend on it.
        train: The images it learns from.
        held_out: Images of the same kind, which choose the best of the looks.
        num_classes: Number of its outputs.
        seed: Seed of its weights and of the order of the images.
        steps: Number of steps of the optimizer, a multiple of 20.
    """

    name: str
    train: LabelledImages
    held_out: LabelledImages
    num_classes: int
    seed: int
    steps: int

    def key(self, device: str = "cpu") -> str:
        """16 hexadecimal digits of all that the result depends on."""
        parts = [
            RECIPE,
            compute_digest(self.train, self.held_out),
            self.num_classes,
            self.seed,
            self.steps,
            torch.__version__,
        ]
        parts += [] if device == "cpu" else [device]  # another kind of device rounds differently
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def build_task(arm: Arm) -> Classification:
    """The arm's classifier, not yet trained."""
    _, channels, size, _ = arm.train.images.shape
    torch.manual_seed(arm.seed)
    return Classification(BlockCNN(channels, arm.num_classes, size), arm.num_classes)


def train_arms(
    arms: Sequence[Arm], cache: Path, *, jobs: int | None = None, gpus: int | list[int] | None = 0, progress: str = ""
) -> list[Classification]:
    """The trained classifiers, in evaluation mode on the CPU; those that are kept already, and are not damaged, are not trained
    again.

    Args:
        arms: The classifiers to train.
        cache: The folder of caches; trained arms are kept in ``<cache>/arms``.
        jobs: Number of processes that train at the same time on the CPU; None for one per core. A GPU trains one at a time.
        gpus: The GPUs, as in the trainer settings.
        progress: What the training is called where its progress is shown; None shows nothing.

    Raises:
        DataError: The held-out images of an arm are all of one class.
        OutputError: The cache cannot be written.
        TrainingError: The loss of an arm is not finite.
    """
    device = "cuda" if gpus not in (0, []) and torch.cuda.is_available() else "cpu"
    paths = [cache / "arms" / f"{arm.key(device)}.ckpt" for arm in arms]
    missing = {path: arm for path, arm in zip(paths, arms, strict=True) if read_cached(path, read_checkpoint) is None}
    for arm in missing.values():
        if len(set(arm.held_out.labels.tolist())) < 2:
            raise DataError(
                f"the classifier '{arm.name}' cannot be trained: the images that choose its epoch are all of class "
                f"{int(arm.held_out.labels[0])}; give validation images of other classes, too"
            )
    with Progress(len(missing), progress, "classifiers") as counter:
        workers = min(len(missing), 1 if device == "cuda" else count_cores() if jobs is None else jobs)
        if workers > 1:
            for name in _train_in_processes(missing, workers):
                counter.advance(doing=name)
        else:
            for path, arm in missing.items():
                _keep(_train(arm, gpus), path)
                counter.advance(doing=arm.name)
    tasks = []
    for path, arm in zip(paths, arms, strict=True):
        task = build_task(arm)
        load_weights(task, path)
        tasks.append(task.eval())
    return tasks


def _train(arm: Arm, gpus: int | list[int] | None) -> bytes:
    """Trains one arm; gives the content of the file that keeps it: its weights, with a record of what they are."""
    classes = [str(index) for index in range(arm.num_classes)]
    splits = Splits(arm.train, arm.held_out, arm.held_out[:0])
    data = memory_data(arm.name, classes, splits, batch_size=BATCH, seed=arm.seed, steps=arm.steps // LOOKS)
    settings = TrainerSettings(max_epochs=LOOKS, gpus=gpus, progress=False)
    task = build_task(arm)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as directory:
            result = fit(
                task,
                data,
                directory=directory,
                settings=settings,
                monitor="val/auroc",
                log_to="none",
                seed=arm.seed,
                log_epochs=False,
            )
    except OSError as error:
        raise OutputError(f"cannot write a temporary file ({error}): free some space, or set TMPDIR") from error
    finally:
        torch.set_num_threads(threads)
    record = {
        "name": arm.name,
        "images": len(arm.train),
        "held_out": len(arm.held_out),
        "seed": arm.seed,
        "steps": arm.steps,
        "best_look": result.best_epoch,
        "held_out_auroc": result.values["val/auroc"],
        "torch": str(torch.__version__),
    }
    return _to_bytes({"state_dict": task.cpu().state_dict(), "record": record})


def _keep(content: bytes, path: Path) -> None:
    with atomic_write(path) as partial:
        partial.write_bytes(content)


def _to_bytes(values: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(values, buffer)
    return buffer.getvalue()


# --- a process each --------------------------------------------------------------------------------------------------


def _train_in_processes(arms: dict[Path, Arm], workers: int) -> Iterator[str]:
    """Trains ``arms`` (by the file to write), ``workers`` at a time; yields the name of each that is kept."""
    endings = run_in_processes(
        arms,
        [Place()] * workers,
        lambda path: Call(f"{__name__}:train_payload", _make_payload(arms[path])),
        preload=[__name__, *FIRST_USED],
    )
    with closing(endings):
        for path, ending in endings:
            if ending.code:
                raise TrainingError(f"training the arm '{arms[path].name}' failed: {ending.reason}")
            _keep(ending.result, path)
            yield arms[path].name


def _make_payload(arm: Arm) -> bytes:
    """The arm without a class of ours; part of a larger tensor, its images are written without the rest."""
    plain = {
        name: {"images": split.images.clone(), "labels": split.labels.clone()}
        for name, split in (("train", arm.train), ("held_out", arm.held_out))
    }
    return _to_bytes({**vars(arm), **plain})


def train_payload(payload: bytes) -> bytes:
    """Trains the arm that :func:`_make_payload` wrote; gives the bytes of its file."""
    values = torch.load(io.BytesIO(payload), weights_only=True)
    splits = {name: LabelledImages(**values[name]) for name in ("train", "held_out")}
    return _train(Arm(**{**values, **splits}), 0)
