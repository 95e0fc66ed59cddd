"""A generator's images: which labels, how drawn, how written, and drawn once for training on them."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

import medassay
from medassay.core.errors import ConfigError
from medassay.core.files import atomic_write
from medassay.data.npz import read_splits
from medassay.runs import samples
from medassay.runs.directory import RunDirectory
from medassay.runs.samples import (
    draw,
    make_proportional_labels,
    write_run_samples,
    write_samples,
    write_training_samples,
)
from tests.helpers import Command, assert_one_line, flip_byte

SAVED = Path(__file__).parents[1] / "fixtures" / "runs"
TINY = (
    "data.train=40",
    "data.val=24",
    "data.test=16",
    "data.batch_size=20",
    "debug=fast",
    "trainer.gpus=0",
    "model.net.width=2",
    "logger=none",
)


# --- which labels ----------------------------------------------------------------------------------------------------


def by_largest_remainder(counts: list[int], n: int) -> list[int]:
    """Hamilton's method in whole numbers: n seats, the largest remainders first, of equal ones the lower class."""
    total = sum(counts)
    seats = [count * n // total for count in counts]
    order = sorted(range(len(counts)), key=lambda k: (-(counts[k] * n % total), k))
    for k in order[: n - sum(seats)]:
        seats[k] += 1
    return seats


@pytest.mark.parametrize("counts", [[3, 5], [1214, 3494], [0, 7, 1], [1] * 8, [852, 2181, 1085, 2026]])
def test_as_many_labels_as_images_repeat_the_counts_exactly(counts: list[int]) -> None:
    labels = make_proportional_labels(torch.tensor(counts), sum(counts))
    assert np.bincount(labels.numpy(), minlength=len(counts)).tolist() == counts


@pytest.mark.parametrize("n", [1, 2, 3, 7, 10, 101, 524, 9999])
@pytest.mark.parametrize("counts", [[3, 5], [1214, 3494], [0, 7, 1], [852, 2181, 1085, 2026, 849, 993, 2330, 1643]])
def test_other_numbers_go_by_the_largest_remainder_and_sum_up(counts: list[int], n: int) -> None:
    labels = make_proportional_labels(torch.tensor(counts), n)
    assert len(labels) == n
    assert np.bincount(labels.numpy(), minlength=len(counts)).tolist() == by_largest_remainder(counts, n)


def test_fewer_labels_than_classes_are_those_of_the_largest_classes() -> None:
    assert make_proportional_labels(torch.tensor([10, 40, 20, 30]), 2).tolist() == [1, 3]


def test_equal_shares_of_too_few_labels_go_to_the_first_classes() -> None:
    assert make_proportional_labels(torch.tensor([5, 5, 5, 5]), 3).tolist() == [0, 1, 2]


def test_no_labels_are_none() -> None:
    assert make_proportional_labels(torch.tensor([3, 5]), 0).tolist() == []


def test_labels_are_sorted_class_indices() -> None:
    labels = make_proportional_labels(torch.tensor([3, 5, 2]), 7)
    assert labels.dtype == torch.int64
    assert labels.tolist() == sorted(labels.tolist())


# --- drawing ---------------------------------------------------------------------------------------------------------


class Noise:
    """A generator whose images are noise, with the class in the first pixel; it remembers what it was asked."""

    num_classes = 4

    def __init__(self, channels: int = 1) -> None:
        self.image_shape = (channels, 5, 6)
        self.asked: list[int] = []

    def sample(self, labels: Tensor, *, rng: torch.Generator) -> Tensor:
        self.asked.append(len(labels))
        images = torch.rand(len(labels), *self.image_shape, generator=rng)
        images[:, 0, 0, 0] = labels / 255
        return images


class Values:
    """A generator of fixed grey values."""

    num_classes = 1
    image_shape = (1, 1, 1)

    def __init__(self, values: list[float]) -> None:
        self.values = values

    def sample(self, labels: Tensor, *, rng: torch.Generator) -> Tensor:
        return torch.tensor(self.values)[: len(labels), None, None, None]


def test_grey_values_are_rounded_to_the_nearest_of_255_steps() -> None:
    values = [0.0, 0.4 / 255, 0.6 / 255, 100.4 / 255, 100.6 / 255, 254.4 / 255, 254.6 / 255, 1.0]
    images = draw(Values(values), torch.zeros(8, dtype=torch.int64), seed=0)
    assert images.dtype == torch.uint8
    assert images.flatten().tolist() == [0, 0, 1, 100, 101, 254, 255, 255]


def test_noise_comes_from_one_cpu_generator_of_the_seed() -> None:
    labels = torch.tensor([0, 1, 1, 3])
    images = draw(Noise(), labels, seed=5)
    expected = np.rint(
        255 * torch.rand(4, 1, 5, 6, generator=torch.Generator().manual_seed(5)).numpy().astype("float32")
    )
    expected[:, 0, 0, 0] = [0, 1, 1, 3]
    assert np.array_equal(images.numpy(), expected)


def test_the_same_seed_draws_the_same_images_and_another_seed_others() -> None:
    labels = torch.tensor([0, 1, 2, 3])
    assert torch.equal(draw(Noise(), labels, seed=1), draw(Noise(), labels, seed=1))
    assert not torch.equal(draw(Noise(), labels, seed=1), draw(Noise(), labels, seed=2))


def test_the_global_random_state_is_neither_used_nor_moved() -> None:
    torch.manual_seed(0)
    first = draw(Noise(), torch.tensor([0, 1]), seed=1)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert torch.equal(draw(Noise(), torch.tensor([0, 1]), seed=1), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_large_draw_goes_in_chunks_and_keeps_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "CHUNK", 3)
    sampler, labels = Noise(), torch.tensor([0, 1, 2, 3, 3, 2, 1, 0])
    images = draw(sampler, labels, seed=0)
    assert sampler.asked == [3, 3, 2]
    assert images[:, 0, 0, 0].tolist() == labels.tolist()
    assert len({image.numpy().tobytes() for image in images[:, :, 1:]}) == 8  # no chunk repeats another's noise


def test_drawing_nothing_gives_no_images_of_the_right_shape() -> None:
    images = draw(Noise(channels=3), torch.zeros(0, dtype=torch.int64), seed=0)
    assert (images.shape, images.dtype) == ((0, 3, 5, 6), torch.uint8)


# --- writing ---------------------------------------------------------------------------------------------------------


def split_of(channels: int, n: int, size: int = 5) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(n)
    images = torch.randint(256, (n, channels, size, size), generator=rng, dtype=torch.uint8)
    return images, torch.randint(4, (n,), generator=rng)


def write(path: Path, splits: dict[str, tuple[Tensor, Tensor]], provenance: dict[str, Any]) -> None:
    """Writes the file as those do who need one: whole or not at all."""
    with atomic_write(path) as partial:
        write_samples(partial, splits, provenance)


@pytest.mark.parametrize(("channels", "shape"), [(1, (7, 5, 5)), (3, (7, 5, 5, 3))])
def test_a_file_has_medmnists_layout(channels: int, shape: tuple[int, ...], tmp_path: Path) -> None:
    splits = {"train": split_of(channels, 7), "val": split_of(channels, 4)}
    write(tmp_path / "a" / "samples.npz", splits, {"seed": 3, "run": "outputs/cgan/κ"})
    with np.load(tmp_path / "a" / "samples.npz", allow_pickle=False) as file:
        assert set(file.files) == {"train_images", "train_labels", "val_images", "val_labels", "provenance"}
        assert (file["train_images"].dtype, file["train_images"].shape) == (np.uint8, shape)
        assert file["train_labels"].shape == (7, 1)
        assert file["train_labels"].dtype.kind in "ui"
        assert file["train_labels"][:, 0].tolist() == splits["train"][1].tolist()
        for place in np.ndindex(7, 5, 5):  # channel last
            n, y, x = place
            assert np.array_equal(np.atleast_1d(file["train_images"][place]), splits["train"][0][n, :, y, x].numpy())
        assert json.loads(str(file["provenance"])) == {"seed": 3, "run": "outputs/cgan/κ"}


@pytest.mark.parametrize("channels", [1, 3])
def test_what_was_written_is_read_back_as_it_was(channels: int, tmp_path: Path) -> None:
    splits = {"train": split_of(channels, 7), "val": split_of(channels, 4)}
    write(tmp_path / "samples.npz", splits, {})
    read = read_splits(tmp_path / "samples.npz", ("train", "val"), channels=channels, size=5, num_classes=4)
    for (images, labels), part in zip(splits.values(), read, strict=True):
        assert torch.equal(part.images, images)
        assert torch.equal(part.labels, labels)


def test_it_writes_the_very_path_that_it_is_given(tmp_path: Path) -> None:
    write_samples(tmp_path / ".samples.npz.partial", {"train": split_of(1, 2)}, {})  # numpy would add .npz to a name
    assert [path.name for path in tmp_path.iterdir()] == [".samples.npz.partial"]


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write(tmp_path / "samples.npz", {"train": split_of(1, 2)}, {"config": object()})
    assert list(tmp_path.iterdir()) == []


# --- for training ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small conditional GAN's run; a test that changes one works on a copy."""
    path = tmp_path_factory.mktemp("runs") / "generator"
    medassay.train_run("model=cgan", "data=blood_phantom", *TINY, directory=path)
    return path


@pytest.fixture
def copy(generator: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(generator, tmp_path / "copy"))


def test_the_file_holds_as_many_images_as_the_real_set_in_its_proportions(generator: Path, tmp_path: Path) -> None:
    path = write_training_samples(str(generator), tmp_path, 0, {})
    assert path.parent == tmp_path / "samples"
    train, val = read_splits(path, ("train", "val"), channels=3, size=28, num_classes=8)
    assert train.counts(8).tolist() == [5] * 8  # 40 real training images of 8 classes in equal numbers
    assert val.counts(8).tolist() == [3] * 8
    with np.load(path) as file:
        provenance = json.loads(str(file["provenance"]))
    assert provenance["run"] == str(generator)
    assert provenance["seed"] == 0
    assert provenance["config"]["recipe"]["name"] == "cgan"


def test_the_images_are_the_generators_own_for_these_labels_and_this_seed(generator: Path, tmp_path: Path) -> None:
    path = write_training_samples(str(generator), tmp_path, 4, {})
    with np.load(path) as file:
        labels = torch.from_numpy(np.concatenate([file["train_labels"], file["val_labels"]])[:, 0].astype(np.int64))
        images = medassay.load_run(generator).task.sample(labels, rng=torch.Generator().manual_seed(4))
        expected = np.rint(255 * images.numpy()).transpose(0, 2, 3, 1)
        assert labels.tolist() != sorted(labels.tolist())  # a cut-short pass over the images meets every class
        assert np.array_equal(file["train_images"], expected[:40])
        assert np.array_equal(file["val_images"], expected[40:])


def test_samples_are_drawn_once_per_checkpoint_and_seed(
    generator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_training_samples(str(generator), tmp_path, 0, {})
    other = write_training_samples(str(generator), tmp_path, 1, {})
    assert first != other
    assert first.read_bytes() != other.read_bytes()
    monkeypatch.setattr(samples, "draw", lambda *a, **k: pytest.fail("drawn again"))
    assert write_training_samples(str(generator), tmp_path, 0, {}) == first
    assert write_training_samples(str(generator), tmp_path, 1, {}) == other


def test_the_same_run_at_another_place_shares_its_samples(generator: Path, copy: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert write_training_samples(str(generator), cache, 0, {}) == write_training_samples(str(copy), cache, 0, {})


def test_other_weights_give_another_file(generator: Path, copy: Path, tmp_path: Path) -> None:
    best = copy / "checkpoints" / "best.ckpt"
    contents = torch.load(best, weights_only=True)
    for value in contents["state_dict"].values():
        if isinstance(value, Tensor) and value.is_floating_point():
            value.mul_(1.5)
    torch.save(contents, best)
    RunDirectory(copy).update(sha256=None)
    cache = tmp_path / "cache"
    assert write_training_samples(str(copy), cache, 0, {}) != write_training_samples(str(generator), cache, 0, {})


def test_damaged_samples_are_drawn_anew_and_that_is_said(
    generator: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write_training_samples(str(generator), tmp_path, 0, {})
    whole = dict(np.load(file))
    flip_byte(file)
    assert write_training_samples(str(generator), tmp_path, 0, {}) == file
    assert f"{file} is damaged and is made anew" in caplog.text
    again = np.load(file)
    assert all(np.array_equal(again[key], value) for key, value in whole.items())


def test_a_classifiers_run_is_refused(tmp_path: Path) -> None:
    run = shutil.copytree(SAVED / "cnn", tmp_path / "classifier")
    with pytest.raises(
        ConfigError, match=r"^data\.generator=.* is a classifier's run \(model=pneumonia_cnn\)"
    ) as error:
        write_training_samples(str(run), tmp_path / "cache", 0, {})
    assert "\n" not in str(error.value)
    assert not (tmp_path / "cache").exists()


def test_a_generator_trained_on_a_gpu_teaches_a_classifier_on_the_cpu(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = copy / ".hydra" / "config.yaml"
    config: dict[str, Any] = yaml.safe_load(file.read_text())
    config["trainer"]["gpus"] = 1
    file.write_text(yaml.safe_dump(config))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    overrides = ("model=tstr", "data=blood_phantom", f"data.generator={copy}", "data.batch_size=20", "debug=fast")
    run = medassay.train_run(*overrides, "trainer.gpus=0", "logger=none", directory=tmp_path / "tstr")
    assert run.directory.record()["status"] == "done"


# --- of a run, in any number -----------------------------------------------------------------------------------------


def test_any_splits_of_any_sizes_have_the_training_sets_proportions(generator: Path, tmp_path: Path) -> None:
    path = write_run_samples(medassay.load_run(generator), tmp_path, {"train": 16, "val": 8, "test": 24}, 0)
    parts = read_splits(path, ("train", "val", "test"), channels=3, size=28, num_classes=8)
    assert [part.counts(8).tolist() for part in parts] == [[2] * 8, [1] * 8, [3] * 8]


def test_each_split_is_shuffled_by_itself(generator: Path, tmp_path: Path) -> None:
    path = write_run_samples(medassay.load_run(generator), tmp_path, {"train": 40, "val": 24}, 0)
    rng = torch.Generator().manual_seed(0)
    with np.load(path) as file:
        for name, n in (("train", 40), ("val", 24)):
            ordered = np.repeat(np.arange(8), n // 8)
            assert file[f"{name}_labels"][:, 0].tolist() == ordered[torch.randperm(n, generator=rng).numpy()].tolist()


def test_training_on_samples_and_judging_them_share_a_file(generator: Path, tmp_path: Path) -> None:
    judged = write_run_samples(medassay.load_run(generator), tmp_path, {"train": 40, "val": 24}, 0)
    assert write_training_samples(str(generator), tmp_path, 0, {}) == judged


def test_other_sizes_are_another_file(generator: Path, tmp_path: Path) -> None:
    run = medassay.load_run(generator)
    sizes: list[dict[str, int]] = [{"train": 16}, {"train": 24}, {"train": 16, "val": 8}, {"val": 16}]
    assert len({write_run_samples(run, tmp_path, some, 0) for some in sizes}) == 4


def test_the_file_says_how_many_images_of_which_checkpoint_it_holds(generator: Path, tmp_path: Path) -> None:
    path = write_run_samples(medassay.load_run(generator), tmp_path, {"train": 16}, 7)
    checkpoint = hashlib.sha256((generator / "checkpoints" / "best.ckpt").read_bytes()).hexdigest()
    with np.load(path) as file:
        provenance = json.loads(str(file["provenance"]))
    wanted = {"checkpoint_sha256": checkpoint, "train": 16, "class_counts": [5] * 8, "seed": 7, "run": str(generator)}
    assert {key: provenance[key] for key in wanted} == wanted


# --- settings of sampling --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small diffusion model's run."""
    path = tmp_path_factory.mktemp("runs") / "diffusion"
    small = [text for text in TINY if not text.startswith("model.")]
    medassay.train_run("model=diffusion", "data=blood_phantom", *small, "model.net.width=2", directory=path)
    return path


def test_how_a_finished_run_draws_may_change_and_its_samples_are_kept_apart(diffusion: Path, tmp_path: Path) -> None:
    sizes = {"train": 8}
    plain = medassay.load_run(diffusion)
    finer = medassay.load_run(diffusion, model_steps=3)
    same = medassay.load_run(diffusion, model_steps=8)
    assert (len(plain.task.sigmas), len(finer.task.sigmas)) == (9, 4)
    first, second = (write_run_samples(run, tmp_path, sizes, 0) for run in (plain, finer))
    assert first != second
    assert write_run_samples(same, tmp_path, sizes, 0) == first
    with np.load(second) as file:
        assert json.loads(str(file["provenance"]))["model.steps"] == 3
        drawn = torch.from_numpy(file["train_images"])
    with np.load(first) as file:
        assert not torch.equal(drawn, torch.from_numpy(file["train_images"]))


def test_the_command_line_takes_settings_of_sampling_and_no_others(
    diffusion: Path, generator: Path, tmp_path: Path, command: Command
) -> None:
    common = ["protocol=sample", "protocol.n=1", "trainer.gpus=0", f"eval_dir={tmp_path}"]
    code, _, _ = command("evaluate", f"run={diffusion}", "model.guidance=1", *common)
    assert code == 0
    (written,) = tmp_path.rglob("sample.json")
    record = json.loads(written.read_text())
    assert record["overrides"]["model.guidance"] == record["changes"]["model.guidance"] == 1
    wrong = command("evaluate", f"run={diffusion}", "model.step=3", *common)
    assert_one_line(wrong, "model.step: a finished run's", "Did you mean 'model.steps'?")
    assert_one_line(command("evaluate", f"run={diffusion}", "model.steps=0", *common), "model.steps=0", "integer >= 1")
    refused = command("evaluate", f"run={generator}", "model.steps=3", *common)
    assert_one_line(refused, "model.steps: a finished run's configuration is fixed")
