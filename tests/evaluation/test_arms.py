"""Arms of a comparison: the weights of ``model=tstr``, kept under a key of all they depend on, in one process or several."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from medassay import cli
from medassay.core import processes
from medassay.core.errors import DataError, TrainingError
from medassay.core.fork_server import ForkServer
from medassay.core.types import LabelledImages
from medassay.data.modules import LabelledData
from medassay.data.npz import read_splits
from medassay.evaluation import arms
from medassay.evaluation.arms import Arm, build_task, count_full_steps, train_arms
from medassay.tasks.classification import Classification
from tests.helpers import flip_byte

BLOOD = ("data=blood_phantom", "data.train=96", "data.val=40", "data.test=16", "trainer.gpus=0", "logger=none")
Weights = dict[str, torch.Tensor]


def split_of(n: int, seed: int = 0, size: int = 8) -> LabelledImages:
    """Noise of two classes, the second of them brighter."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    pixels = torch.randint(128, (n, 1, size, size), generator=rng) + 100 * labels[:, None, None, None]
    return LabelledImages(pixels.to(torch.uint8), labels)


def arm_of(**changes: Any) -> Arm:
    values = {"name": "an arm", "train": split_of(16), "held_out": split_of(8, seed=1), "num_classes": 2}
    return Arm(**{**values, "seed": 0, "steps": 20, **changes})


def weights_of(task: Classification) -> Weights:
    return {key: value.clone() for key, value in task.state_dict().items()}


def same(first: Weights, second: Weights) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[key]) for key, value in first.items())


def files(cache: Path) -> list[Path]:
    return sorted((cache / "arms").iterdir()) if (cache / "arms").exists() else []


# --- the same as a run -----------------------------------------------------------------------------------------------


@pytest.fixture
def one_thread_set() -> Iterator[None]:
    """``trainer.threads`` sets torch's threads for good."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(*argv: str, path: Path) -> Weights:
    """The chosen weights of a run of ``train``."""
    assert cli.main("train", [*argv, f"hydra.run.dir={path}"]) == 0
    weights: Weights = torch.load(path / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    return weights


@pytest.mark.usefixtures("one_thread_set")
def test_an_arm_on_a_generators_images_is_the_run_of_tstr_bit_for_bit(tmp_path: Path) -> None:
    generator = tmp_path / "generator"
    run("model=cgan", *BLOOD, "model.net.width=2", "debug=fast", path=generator)
    argv = ("model=tstr", f"data.generator={generator}", "trainer.gpus=0", "trainer.threads=1", "logger=none")
    expected = run(*argv, "seed=3", "test=false", path=tmp_path / "tstr")
    (file,) = (tmp_path / "outputs" / ".cache" / "samples").iterdir()
    train, val = read_splits(file, ("train", "val"), channels=3, size=28, num_classes=8)
    (task,) = train_arms([Arm("TSTR", train, val, 8, 3, count_full_steps(96))], tmp_path)
    assert same(weights_of(task), expected)


@pytest.mark.long
@pytest.mark.usefixtures("one_thread_set")
def test_an_arm_on_real_images_is_the_run_of_tstr_without_a_generator(
    tmp_path: Path, tiny_blood: Callable[..., LabelledData]
) -> None:
    expected = run("model=tstr", *BLOOD, "trainer.threads=1", "test=false", "seed=1", path=tmp_path / "trtr")
    real = tiny_blood(train=96, val=40, test=16).splits
    (task,) = train_arms([Arm("TRTR", real.train, real.val, 8, 1, count_full_steps(96))], tmp_path)
    assert same(weights_of(task), expected)


@pytest.mark.parametrize(("n", "steps"), [(1, 20), (64, 20), (65, 40), (1712, 540), (11959, 3740)])
def test_full_steps_are_20_passes_in_batches_of_64(n: int, steps: int) -> None:
    assert count_full_steps(n) == steps


def test_held_out_images_of_one_class_cannot_choose_an_epoch(tmp_path: Path) -> None:
    held_out = split_of(8)
    with pytest.raises(DataError, match=r"'an arm' cannot be trained.*all of class 1;"):
        train_arms([arm_of(held_out=held_out[held_out.labels == 1])], tmp_path)


def test_an_arm_learns(tmp_path: Path) -> None:
    (task,) = train_arms([arm_of(train=split_of(64), steps=40)], tmp_path)
    split = split_of(40, seed=5)
    with torch.no_grad():
        score = task(split.images / 255).diff(dim=1)[:, 0]
    assert score[split.labels == 1].min() > score[split.labels == 0].max()


def test_a_trained_arm_is_ready_to_predict_on_the_cpu(tmp_path: Path) -> None:
    (task,) = train_arms([arm_of()], tmp_path)
    assert not any(module.training for module in task.modules())
    assert {value.device.type for value in task.state_dict().values()} == {"cpu"}


def test_the_best_of_20_looks_is_kept_and_recorded(tmp_path: Path) -> None:
    (task,) = train_arms([arm_of(steps=60)], tmp_path)
    (file,) = files(tmp_path)
    contents = torch.load(file, weights_only=True)
    assert same(contents["state_dict"], weights_of(task))
    record = contents["record"]
    assert 1 <= record["best_look"] <= 20
    assert 0 <= record["held_out_auroc"] <= 1
    assert {k: record[k] for k in ("name", "images", "held_out", "seed", "steps")} == {
        "name": "an arm",
        "images": 16,
        "held_out": 8,
        "seed": 0,
        "steps": 60,
    }


def test_an_arm_takes_its_steps_however_many_images_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    real = Classification.training_step

    def step(self: Classification, batch: Any, *args: Any) -> Any:
        batches.append(len(batch[0]))
        return real(self, batch, *args)

    monkeypatch.setattr(Classification, "training_step", step)
    train_arms([arm_of(train=split_of(72), steps=40)], tmp_path)
    assert batches == [64, 8] * 20


# --- keys ------------------------------------------------------------------------------------------------------------


def brighter(split: LabelledImages) -> LabelledImages:
    pixels = split.images.clone()
    pixels[3, 0, 1, 2] += 1
    return LabelledImages(pixels, split.labels)


def relabelled(split: LabelledImages) -> LabelledImages:
    return LabelledImages(split.images, split.labels.roll(1))


def test_the_key_is_that_of_equal_values_and_not_of_the_same_objects() -> None:
    assert arm_of().key() == arm_of().key()
    assert len(arm_of().key()) == 16


@pytest.mark.parametrize(
    "changes",
    [
        {"train": brighter(split_of(16))},
        {"train": relabelled(split_of(16))},
        {"train": split_of(18)},
        {"held_out": brighter(split_of(8, seed=1))},
        {"held_out": relabelled(split_of(8, seed=1))},
        {"train": split_of(8, seed=1), "held_out": split_of(16)},
        {"seed": 1},
        {"steps": 40},
        {"num_classes": 3},
    ],
    ids=["a pixel", "labels", "n", "held-out pixel", "held-out labels", "exchanged", "seed", "steps", "classes"],
)
def test_the_key_changes_with(changes: dict[str, Any]) -> None:
    assert arm_of(**changes).key() != arm_of().key()


def test_the_key_changes_with_the_kind_of_device() -> None:
    assert arm_of().key("cuda") != arm_of().key("cpu") == arm_of().key()


def test_the_key_does_not_change_with_the_name() -> None:
    assert arm_of(name="another").key() == arm_of().key()


def test_the_key_changes_with_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    before = arm_of().key()
    monkeypatch.setattr(arms, "RECIPE", arms.RECIPE + 1)
    assert arm_of().key() != before


# --- kept ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, a training fails the test."""

    def forbid() -> None:
        monkeypatch.setattr(arms, "fit", lambda *_, **__: pytest.fail("trained again"))
        monkeypatch.setattr(arms, "_train_in_processes", lambda *_, **__: pytest.fail("trained again"))

    return forbid


def test_a_second_call_trains_nothing_and_gives_the_same_weights(
    tmp_path: Path, no_training: Callable[[], None]
) -> None:
    wanted = [arm_of(), arm_of(seed=1)]
    first = train_arms(wanted, tmp_path, jobs=1)
    no_training()
    again = train_arms([wanted[1], replace(wanted[0], name="renamed")], tmp_path)
    assert same(weights_of(again[0]), weights_of(first[1]))
    assert same(weights_of(again[1]), weights_of(first[0]))
    assert not same(weights_of(first[0]), weights_of(first[1]))


def test_equal_arms_are_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = arms.fit, []
    monkeypatch.setattr(arms, "fit", lambda *a, **k: calls.append(1) or real(*a, **k))
    first, second = train_arms([arm_of(name="one"), arm_of(name="other")], tmp_path)
    assert len(calls) == 1
    assert same(weights_of(first), weights_of(second))
    assert first is not second


def test_no_arms_are_none(tmp_path: Path) -> None:
    assert train_arms([], tmp_path) == []


def test_a_kept_arm_that_is_damaged_is_trained_anew_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (first,) = train_arms([arm_of()], tmp_path)
    (file,) = files(tmp_path)
    flip_byte(file)
    (again,) = train_arms([arm_of()], tmp_path)
    assert same(weights_of(first), weights_of(again))
    assert [r.getMessage() for r in caplog.records if "made anew" in r.getMessage()] == [
        f"{file} is damaged and is made anew"
    ]
    caplog.clear()
    train_arms([arm_of()], tmp_path)
    assert "made anew" not in caplog.text


# --- threads ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def several_threads(one_thread_set: None) -> None:
    torch.set_num_threads(3)


def test_weights_do_not_depend_on_the_threads_outside_which_are_set_back(
    tmp_path: Path, several_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, inside = arms.fit, []
    monkeypatch.setattr(arms, "fit", lambda *a, **k: inside.append(torch.get_num_threads()) or real(*a, **k))
    (task,) = train_arms([arm_of()], tmp_path / "three")
    assert torch.get_num_threads() == 3
    torch.set_num_threads(1)
    (alone,) = train_arms([arm_of()], tmp_path / "one")
    assert inside == [1, 1]
    assert same(weights_of(task), weights_of(alone))


@pytest.mark.parametrize("error", [TrainingError("the loss is not finite"), KeyboardInterrupt()])
def test_a_training_that_fails_sets_the_threads_back_and_keeps_nothing(
    error: BaseException, tmp_path: Path, several_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(arms, "fit", fail)
    with pytest.raises(type(error)):
        train_arms([arm_of()], tmp_path)
    assert torch.get_num_threads() == 3
    assert files(tmp_path) == []


def test_arms_finished_before_an_interruption_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_training: Callable[[], None]
) -> None:
    real, calls = arms.fit, []

    def once(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(arms, "fit", once)
    with pytest.raises(KeyboardInterrupt):
        train_arms([arm_of(), arm_of(seed=1)], tmp_path, jobs=1)
    assert [file.stem for file in files(tmp_path)] == [arm_of().key()]
    no_training()
    train_arms([arm_of()], tmp_path)


# --- several processes -----------------------------------------------------------------------------------------------


@pytest.mark.long
def test_two_processes_give_the_weights_of_one(tmp_path: Path) -> None:
    wanted = [arm_of(), arm_of(seed=1)]
    masks = torch.ones(16, 8, 8, dtype=torch.bool)  # phantoms have them
    wanted[1] = replace(wanted[1], train=LabelledImages(wanted[1].train.images, wanted[1].train.labels, masks))
    alone = train_arms(wanted, tmp_path / "one", jobs=1)
    together = train_arms(wanted, tmp_path / "two", jobs=2)
    for one, other in zip(alone, together, strict=True):
        assert same(weights_of(one), weights_of(other))
    assert [f.name for f in files(tmp_path / "one")] == [f.name for f in files(tmp_path / "two")]


Worker = Callable[[str], None]


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Worker:
    """Replaces the Python that trains one arm by a shell script with the arm's seed as ``$seed`` and its file as ``$file``."""

    def install(script: str) -> None:
        real = subprocess.Popen
        program = tmp_path / "worker.sh"
        program.write_text(f'#!/bin/sh\nfile="$5"\n{script}\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

        class Popen(real):  # type: ignore[type-arg, misc, valid-type]
            def __init__(self, command: list[str], env: dict[str, str], **kwargs: Any) -> None:
                seed = torch.load(command[4], weights_only=True)["seed"]
                started.append(self)
                super().__init__([str(program), *command[1:]], env={**env, "seed": str(seed)}, **kwargs)

        monkeypatch.setattr(subprocess, "Popen", Popen)
        monkeypatch.setattr(ForkServer, "is_possible", lambda: False)

    started.clear()
    return install


started: list[Any] = []


def finished_elsewhere(arm: Arm, path: Path) -> Path:
    """A file as a worker writes it."""
    torch.save({"state_dict": build_task(arm).state_dict()}, path)
    return path


def test_no_more_processes_than_jobs_run_at_once(tmp_path: Path, worker: Worker) -> None:
    made = finished_elsewhere(arm_of(), tmp_path / "made.ckpt")
    worker(
        f'mkdir -p "$(dirname "$file")"\necho start >> {tmp_path}/log\nsleep 0.1\necho end >> {tmp_path}/log\n'
        f'cp {made} "$file"'
    )
    assert len(train_arms([arm_of(seed=seed) for seed in range(5)], tmp_path, jobs=2)) == 5
    running = np.cumsum([{"start": 1, "end": -1}[line] for line in (tmp_path / "log").read_text().split()])
    assert running.max() == 2
    assert running[-1] == 0


def test_by_default_there_are_as_many_processes_as_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def in_processes(missing: dict[Path, Arm], workers: int) -> Iterator[str]:
        asked.append(workers)
        for path, arm in missing.items():
            path.parent.mkdir(exist_ok=True)
            finished_elsewhere(arm, path)
            yield arm.name

    monkeypatch.setattr(arms, "_train_in_processes", in_processes)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 5}, raising=False)
    train_arms([arm_of(seed=seed) for seed in range(4)], tmp_path)
    assert asked == [3]


def test_workers_compute_with_one_thread_each(tmp_path: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    made = finished_elsewhere(arm_of(), tmp_path / "made.ckpt")
    worker(f'mkdir -p "$(dirname "$file")"\necho $OMP_NUM_THREADS >> {tmp_path}/log\ncp {made} "$file"')
    train_arms([arm_of(seed=seed) for seed in range(2)], tmp_path, jobs=2)
    assert (tmp_path / "log").read_text().split() == ["1", "1"]


def ended(process: Any) -> bool:
    return process.poll() is not None


def test_an_error_in_a_process_is_one_line_that_names_the_arm_and_ends_the_others(
    tmp_path: Path, worker: Worker
) -> None:
    worker(
        '[ $seed = 1 ] || exec sleep 60\necho Traceback >&2\necho "medassay.core.errors.TrainingError: no number" >&2\nexit 1'
    )
    begun = time.monotonic()
    with pytest.raises(TrainingError) as caught:
        train_arms([arm_of(name=f"arm {seed}", seed=seed) for seed in range(3)], tmp_path, jobs=2)
    message = str(caught.value)
    assert "'arm 1'" in message
    assert "no number" in message
    assert "Traceback" not in message
    assert "\n" not in message
    assert len(started) == 2
    assert all(map(ended, started))
    assert time.monotonic() - begun < 30


def test_a_process_that_dies_without_a_word_is_named_with_its_signal(tmp_path: Path, worker: Worker) -> None:
    worker("kill -9 $$")
    with pytest.raises(TrainingError, match="'an arm' failed: its process ended with signal 9"):
        train_arms([arm_of(seed=seed) for seed in range(2)], tmp_path, jobs=2)


def test_an_interruption_ends_the_processes_and_keeps_what_is_finished(
    tmp_path: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = finished_elsewhere(arm_of(), tmp_path / "made.ckpt")
    worker(f'mkdir -p "$(dirname "$file")"\n[ $seed = 0 ] || exec sleep 60\ncp {made} "$file"')

    def interrupted(seconds: float) -> None:
        if len(started) == 3:  # the first arm is done and the third has begun
            raise KeyboardInterrupt
        time.sleep(seconds)

    monkeypatch.setattr(processes, "time", SimpleNamespace(monotonic=time.monotonic, sleep=interrupted))
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        train_arms([arm_of(seed=seed) for seed in range(4)], tmp_path, jobs=2)
    assert len(started) == 3
    assert all(map(ended, started))
    assert [file.stem for file in files(tmp_path)] == [arm_of().key()]
    assert time.monotonic() - begun < 30


def test_an_interruption_while_the_caller_has_the_turn_ends_the_processes_too(
    tmp_path: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker('[ $seed = 0 ] || exec sleep 60\nmkdir -p "$(dirname "$file")"')

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(arms.Progress, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_arms([arm_of(seed=seed) for seed in range(2)], tmp_path, jobs=2)
    assert len(started) == 2
    assert all(map(ended, started))
