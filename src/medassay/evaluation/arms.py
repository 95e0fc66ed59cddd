"""The arms of a comparison: classifiers of one recipe and one number of steps, trained on different images.

The recipe is that of ``model=tstr``: the same net, optimizer, class weights and order of batches, so that an arm on a
generator's images and a run of ``model=tstr data.generator=…`` give the same weights. Each is trained with one thread on the
CPU, so that its result does not depend on how many cores there are, and kept under a key of all it depends on.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from medassay.core.errors import OutputError, TrainingError
from medassay.core.files import whole
from medassay.core.machine import cores
from medassay.core.types import LabelledImages, Splits
from medassay.data.given import GivenData, digest
from medassay.nets.block_cnn import BlockCNN
from medassay.tasks.classification import Classification
from medassay.training.checkpoints import load_weights
from medassay.training.fit import fit
from medassay.training.settings import TrainerSettings

BATCH = 64
LOOKS = 20  # at the held-out images, evenly spaced over the steps; the best macro AUROC is kept
QUICK_STEPS = 300
RECIPE = 1  # part of every key: raise it where the recipe or the training changes


def full_steps(n: int) -> int:
    """The steps of every arm of a full comparison, from the real training set's size: 20 passes over it."""
    return LOOKS * -(-n // BATCH)


@dataclass(frozen=True)
class Arm:
    """One classifier to be trained.

    Attributes:
        name: for the reader; not part of what it depends on.
        train: the images it learns from.
        held_out: images of the same kind that choose the best of the looks.
        num_classes: outputs.
        seed: of weights and order.
        steps: of the optimizer, a multiple of 20.
    """

    name: str
    train: LabelledImages
    held_out: LabelledImages
    num_classes: int
    seed: int
    steps: int

    def key(self, device: str = "cpu") -> str:
        """16 hexadecimal digits of all that the result depends on."""
        parts = [RECIPE, digest(self.train, self.held_out), self.num_classes, self.seed, self.steps, torch.__version__]
        parts += [] if device == "cpu" else [device]  # another kind of device rounds differently
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def new_task(arm: Arm) -> Classification:
    """The arm's classifier, not yet trained."""
    _, channels, size, _ = arm.train.images.shape
    torch.manual_seed(arm.seed)
    return Classification(BlockCNN(channels, arm.num_classes, size), arm.num_classes)


def trained(
    arms: Sequence[Arm], cache: Path, *, jobs: int | None = None, gpus: int | list[int] | None = 0, progress: str = ""
) -> list[Classification]:
    """The trained classifiers, in evaluation mode on the CPU; those that are kept already are not trained again.

    Args:
        arms: what to train.
        cache: folder of the kept ones, ``<cache>/arms``.
        jobs: trainings at a time on the CPU, a process each; None for as many as cores. On a GPU one at a time.
        gpus: as in the trainer settings.
        progress: title of a progress bar where the output is a terminal.

    Raises:
        OutputError: the cache cannot be written.
        TrainingError: an arm's loss is not finite.
    """
    device = "cuda" if _on_gpu(gpus) else "cpu"
    paths = [cache / "arms" / f"{arm.key(device)}.ckpt" for arm in arms]
    missing = {path: arm for path, arm in zip(paths, arms, strict=True) if not path.exists()}
    with tqdm(total=len(missing), desc=progress, unit="arm", disable=not sys.stderr.isatty() or not missing) as bar:
        workers = min(len(missing), _jobs(jobs, gpus))
        if workers > 1:
            for name in _in_processes(missing, workers):
                bar.set_postfix_str(name)
                bar.update()
        else:
            for path, arm in missing.items():
                bar.set_postfix_str(arm.name)
                _train(arm, path, gpus)
                bar.update()
    tasks = []
    for path, arm in zip(paths, arms, strict=True):
        task = new_task(arm)
        load_weights(task, path)
        tasks.append(task.eval())
    return tasks


def _on_gpu(gpus: int | list[int] | None) -> bool:
    return gpus not in (0, []) and torch.cuda.is_available()


def _jobs(jobs: int | None, gpus: int | list[int] | None) -> int:
    if _on_gpu(gpus):
        return 1
    return cores() if jobs is None else jobs


def _train(arm: Arm, path: Path, gpus: int | list[int] | None) -> None:
    """Trains one arm and writes its weights, with a record of what they are, to ``path``."""
    classes = [str(index) for index in range(arm.num_classes)]
    splits = Splits(arm.train, arm.held_out, arm.held_out[:0])
    data = GivenData(arm.name, classes, splits, batch_size=BATCH, seed=arm.seed, steps=arm.steps // LOOKS)
    settings = TrainerSettings(max_epochs=LOOKS, gpus=gpus, progress=False)
    task = new_task(arm)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as directory:
            result = fit(
                task, data, directory=directory, settings=settings, monitor="val/auroc", log_to="none", seed=arm.seed
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
        "best_look": (result.best_epoch or 0) + 1,
        "held_out_auroc": result.values["val/auroc"],
        "torch": str(torch.__version__),
    }
    with whole(path) as partial:
        torch.save({"state_dict": task.cpu().state_dict(), "record": record}, partial)


# --- a process each --------------------------------------------------------------------------------------------------


def _in_processes(arms: dict[Path, Arm], workers: int) -> Iterable[str]:
    """Trains ``arms`` (by the file to write), ``workers`` at a time; yields the name of each that is done.

    Processes of their own, started by command: forked ones would share torch's threads, and spawned ones would need a main
    module that can be imported twice, which a notebook has not.
    """
    waiting = list(arms.items())
    running: list[tuple[subprocess.Popen[bytes], str, Path]] = []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with tempfile.TemporaryDirectory() as folder:
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    path, arm = waiting.pop(0)
                    given = Path(folder) / f"{path.stem}.pt"
                    torch.save(_plain(arm), given)
                    command = [sys.executable, "-m", "medassay.evaluation.arms", str(given), str(path.absolute())]
                    with given.with_suffix(".err").open("w") as said:
                        process = subprocess.Popen(command, env=environment, stderr=said)
                    running.append((process, arm.name, given.with_suffix(".err")))
                done = _first_done([process for process, *_ in running])
                process, name, said_in = running.pop(done)
                if process.returncode:
                    errors = said_in.read_text(encoding="utf-8", errors="replace")
                    last = errors.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
                    raise TrainingError(f"training the arm '{name}' failed: {last[0]}")
                yield name
        finally:
            for process, *_ in running:
                process.terminate()
            for process, *_ in running:
                process.wait()


def _first_done(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """The place of a process that has ended; waits for one."""
    while True:
        for place, process in enumerate(processes):
            try:
                process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
            return place


def _plain(arm: Arm) -> dict[str, object]:
    """The arm without classes of ours; images that are part of a larger tensor are written without the rest."""

    def of(value: object) -> object:
        if not isinstance(value, LabelledImages):
            return value
        return {"images": value.images.clone(), "labels": value.labels.clone()}

    return {name: of(value) for name, value in vars(arm).items()}


def _main(given: str, path: str) -> None:
    values = torch.load(given, weights_only=True)
    splits = {name: LabelledImages(**values[name]) for name in ("train", "held_out")}
    _train(Arm(**{**values, **splits}), Path(path), 0)


if __name__ == "__main__":
    _main(*sys.argv[1:])
