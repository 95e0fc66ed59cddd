"""Times what MedAssay does against what one would write without it, on this machine: the numbers of docs/results.md.

usage: python scripts/benchmark.py [part ...] [--repeats 5] [--threads 0] [--device cpu] [--json <file>]

Parts, all of them where none is named:
  start     from the command to its help text, and to its first batch of images
  cnn       an epoch of the pneumonia CNN, validation included, epochs after the first
  gan       a training step of the conditional GAN
  generators  a training step of each generator
  draw      drawing 2,048 images from each kind of generator, 512 from the diffusion model
  metrics   all metrics of an assay, 10,000 samples against 11,959 training images
  sweep     a sweep of four trainings, one after the other and side by side (a quarter of an hour)
  precision Fréchet distance of five GANs trained in float32 and five in bfloat16 (minutes; its range, not its time, counts)

Every measurement is a process of its own; the variants of a part take turns, and that is repeated. A table gives the median and
the range over the repeats, the ratio to the part's first variant (taken within each turn: 2 is twice as fast) and the largest
memory of the process. Images are rendered, in the numbers of PneumoniaMNIST and BloodMNIST. On a GPU (--device cuda) the
rates of the nets stand beside the card's own rate of matrix products in the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import itertools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from medassay.core.machine import count_cores, name_processor

ROOT = Path(__file__).resolve().parents[1]
TRAIN, EVALUATE = ROOT / "train.py", ROOT / "evaluate.py"
SIZES = {  # images, epochs, steps; small ones for tests
    "chest": 4708,
    "chest_val": 524,
    "blood": 11_959,
    "blood_val": 1712,
    "samples": 10_000,
    "drawn": 2048,
    "drawn_by_diffusion": 512,
    "epochs": 4,
    "steps": 24,
    "generator_steps": 24,
    "generator_warm_up": 4,
    "width": 64,
    "jobs": 4,
    "job_epochs": 20,
    "gan_epochs": 6,
}
Values = dict[str, float]
COMPILED = "ours, bfloat16, compiled"  # on a GPU alone: on a CPU it takes a minute to gain nothing


def main() -> int:
    """Prints a table for each part; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"one of {', '.join(VARIANTS)}")
    parser.add_argument("--repeats", type=int, default=5, help="turns of all variants (default: 5)")
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0 (default): all cores")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where nets compute (default: cpu)")
    parser.add_argument("--json", type=Path, help="file that gets all single measurements")
    parser.add_argument("--once", metavar="VARIANT", help="measure one variant in this process, print JSON")
    parser.add_argument("--sizes", type=json.loads, default={}, help="other sizes, as JSON; for tests")
    arguments = parser.parse_args()
    SIZES.update(arguments.sizes)
    threads = arguments.threads or count_cores()
    if arguments.once:
        print(json.dumps(measure(arguments.once, threads, arguments.device)))
        return 0
    if unknown := set(arguments.parts) - set(VARIANTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(VARIANTS)}")
    machine = describe_machine(threads, arguments.device)
    print("; ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    options = ["--threads", str(threads), "--device", arguments.device, "--sizes", json.dumps(arguments.sizes)]
    found: dict[str, dict[str, list[Values]]] = {}
    for part in arguments.parts or VARIANTS:
        variants = choose_variants(part, arguments.device)
        found[part] = take_turns(variants, 1 if part == "precision" else arguments.repeats, options)
        print(f"\n**{part}**\n\n{make_table(found[part])}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "sizes": SIZES, "parts": found}, indent=1) + "\n")
    return 0


def choose_variants(part: str, device: str) -> list[str]:
    """The part's variants that make sense on the device; says which ones are left out for want of bfloat16."""
    if device == "cuda":
        return list(VARIANTS[part])
    names = [name for name in VARIANTS[part] if name != COMPILED]
    coarse = [name for name in names if "bfloat16" in name or "bf16" in name]
    if coarse:
        from medassay.training.trainer import lacks_bfloat16

        if lacks_bfloat16("cpu"):
            print(f"\n{part}: left out, as this CPU has no instructions for bfloat16: {'; '.join(coarse)}", flush=True)
            return [name for name in names if name not in coarse]
    return names


def take_turns(variants: list[str], repeats: int, options: list[str]) -> dict[str, list[Values]]:
    """The measurements of each variant, a process each; ends the program where one fails."""
    found: dict[str, list[Values]] = {name: [] for name in variants}
    for turn in range(repeats):
        for name in variants:
            print(f"turn {turn + 1}/{repeats}: {name}", end="\033[K\r", file=sys.stderr, flush=True)
            command = [sys.executable, __file__, "--once", name, *options]
            environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            if done.returncode:
                sys.exit(f"{name} failed:\n{done.stderr}")
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    print(end="\033[K", file=sys.stderr)
    return found


def make_table(found: dict[str, list[Values]]) -> str:
    """Median and range of each variant's first value, ratio to the first variant, medians of the other values."""
    baseline = next(iter(found.values()))
    unit = next(iter(baseline[0]))
    others = list(dict.fromkeys(key for values in found.values() for key in list(values[0])[1:]))
    lines = [f"| | {unit} | times as fast | {' | '.join(others)} |", "|---" * (3 + len(others)) + "|"]
    for name, values in found.items():
        firsts = [one[unit] for one in values]
        ratios = [theirs[unit] / own for theirs, own in zip(baseline, firsts, strict=True)]
        rest = [f"{statistics.median(one[key] for one in values):.4g}" if key in values[0] else "" for key in others]
        lines.append(f"| {name} | {show(firsts)} | {show(ratios)} | {' | '.join(rest)} |")
    return "\n".join(lines)


def show(values: list[float]) -> str:
    """``median (smallest to largest)``."""
    low, middle, high = (f"{value:.3g}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} to {high})" if len(values) > 1 else middle


def describe_machine(threads: int, device: str) -> dict[str, str]:
    """What a reader needs to know of a table's numbers."""
    from importlib.metadata import version

    cpu = f"{name_processor()}, {count_cores()} cores"
    found = {"date": datetime.date.today().isoformat(), "CPU": cpu, "threads": str(threads)}
    if device == "cuda":
        import torch

        found["GPU"] = torch.cuda.get_device_name()
    names = ("torch", "pytorch-lightning")
    return {**found, "Python": platform.python_version(), **{name: version(name) for name in names}}


# --- one measurement -------------------------------------------------------------------------------------------------


def measure(name: str, threads: int, device: str) -> Values:
    """The values of one variant, and the largest memory of this process and those that it started."""
    part = next(part for part, variants in VARIANTS.items() if name in variants)
    os.environ |= {"OMP_NUM_THREADS": str(threads), "MEDASSAY_BENCHMARK_DEVICE": device}
    if part not in ("start", "sweep"):
        import torch

        torch.set_num_threads(threads)
    values = VARIANTS[part][name]()
    own, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    unit = 1e6 if sys.platform == "darwin" else 1e3
    values.setdefault("peak memory, MB", max(own, children) / unit)
    if device == "cuda" and part not in ("start", "sweep"):
        values["peak GPU memory, MB"] = torch.cuda.max_memory_allocated() / 1e6
    return values


def choose_device() -> Any:
    """The device of this measurement."""
    import torch

    return torch.device(os.environ.get("MEDASSAY_BENCHMARK_DEVICE", "cpu"))


def wait_for_device() -> None:
    """Returns when the device has done what it was given."""
    import torch

    if choose_device().type == "cuda":
        torch.cuda.synchronize()


def make_settings(**options: Any) -> Any:
    """The trainer's settings on the device of this measurement."""
    from medassay.training.settings import TrainerSettings

    return TrainerSettings(gpus=1 if choose_device().type == "cuda" else 0, progress=False, **options)


def render(kind: str) -> Any:
    """Rendered images in the numbers of PneumoniaMNIST or BloodMNIST, loaded."""
    import medassay

    options = [f"data.train={SIZES[kind]}", f"data.val={SIZES[f'{kind}_val']}", "data.test=64"]
    data = medassay.build(medassay.compose(f"data={kind}_phantom", *options).data)
    _ = data.splits
    return data


def build_task(model: str, *options: str, seed: int = 0) -> Any:
    """The task of a model with its usual settings."""
    import torch

    import medassay

    torch.manual_seed(seed)
    data = "chest_phantom" if model == "pneumonia_cnn" else "blood_phantom"
    return medassay.build(medassay.compose(f"model={model}", f"data={data}", *options).model)


def make_clocks() -> Any:
    """Callbacks that note the time at each epoch's start and training's end; the second also at each batch's start."""
    from pytorch_lightning import Callback

    class Clock(Callback):
        def __init__(self) -> None:
            self.epochs: list[float] = []
            self.batches: list[float] = []

        def on_train_epoch_start(self, *_: Any) -> None:
            wait_for_device()
            self.epochs.append(time.perf_counter())

        def on_train_end(self, *_: Any) -> None:
            wait_for_device()
            self.epochs.append(time.perf_counter())

    class BatchClock(Clock):
        def on_train_batch_start(self, *_: Any) -> None:
            wait_for_device()
            self.batches.append(time.perf_counter())

    return Clock(), BatchClock()


def later_median(times: list[float], skip: int) -> float:
    """The median time from one to the next, without the first ``skip``."""
    return statistics.median([b - a for a, b in itertools.pairwise(times)][skip:])


# --- start -----------------------------------------------------------------------------------------------------------


def time_help(script: Path) -> Values:
    """Seconds until the command has shown its help."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, str(script), "--help"], capture_output=True, check=True)
    return {"seconds": time.perf_counter() - begun}


FIRST_BATCH = """
import os, runpy, sys, time
import torch  # the command's own first import that takes time, too

def report(module, inputs):
    if isinstance(inputs[0], torch.Tensor) and len(inputs[0]) > 1:
        print("SECONDS", time.time() - float(os.environ["MEDASSAY_BEGUN"]), flush=True)
        os._exit(0)

torch.nn.modules.module.register_module_forward_pre_hook(report)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def time_first_batch(*command: str) -> Values:
    """Seconds from the command's start until its net is given a batch."""
    environment = {**os.environ, "MEDASSAY_BEGUN": repr(time.time())}
    line = [sys.executable, "-c", FIRST_BATCH, *command]
    done = subprocess.run(line, capture_output=True, text=True, check=True, env=environment)
    return {"seconds": float(next(text for text in done.stdout.splitlines() if text.startswith("SECONDS")).split()[1])}


def time_first_training_batch() -> Values:
    """Of a pneumonia CNN, the rendering of its images included."""
    with tempfile.TemporaryDirectory() as outputs:
        sizes = [f"data.train={SIZES['chest']}", f"data.val={SIZES['chest_val']}"]
        return time_first_batch(str(TRAIN), "data=chest_phantom", *sizes, f"outputs={outputs}")


def time_first_evaluated_batch() -> Values:
    """Of the classification report of such a run."""
    with tempfile.TemporaryDirectory() as outputs:
        run = f"{outputs}/run"
        small = ["debug=fast", "data=chest_phantom", f"hydra.run.dir={run}"]
        subprocess.run([sys.executable, str(TRAIN), *small], capture_output=True, check=True)
        return time_first_batch(str(EVALUATE), f"run={run}")


# --- an epoch of the pneumonia CNN -----------------------------------------------------------------------------------


def time_own_epoch(**options: Any) -> Values:
    """Ours, with checkpoints, scores and TensorBoard."""
    from medassay.training.fit import fit

    clock, _ = make_clocks()
    with tempfile.TemporaryDirectory() as directory, silence():
        task, data = build_task("pneumonia_cnn"), render("chest")
        settings = make_settings(**options)
        fit(
            task, data, directory=directory, max_epochs=SIZES["epochs"], settings=settings, monitor="val/auroc",
            callbacks=[clock], overwrite=True,
        )  # fmt: skip
    return {"seconds an epoch": later_median(clock.epochs, 1)}


def time_bare_epoch(*, keep_memory: bool = False, fused: bool = True) -> Values:
    """A loop over the same resident tensors with nothing but training, validation loss and its weights in memory."""
    import torch
    import torch.nn.functional as F

    from medassay.core.machine import keep_freed_memory
    from medassay.data.loader import ResidentLoader

    if keep_memory:
        keep_freed_memory()
    data, device = render("chest"), choose_device()
    net = build_task("pneumonia_cnn").net.to(device).train()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=fused)
    train = ResidentLoader(data.splits.train, 64, shuffle=True, device=device)
    val = ResidentLoader(data.splits.val, 64, device=device)
    return {"seconds an epoch": time_loop(net, optimizer, train, val, lambda: train.batch_sampler.set_epoch(1), F)}


def time_usual_epoch(workers: int) -> Values:
    """medmnist's data set: each image through PIL and a transformation, batches by a DataLoader."""
    import medmnist
    import numpy as np
    import torch
    import torch.nn.functional as F
    from torch.utils.data import DataLoader
    from torchvision import transforms

    data, device = render("chest"), choose_device()
    with tempfile.TemporaryDirectory() as folder:
        splits = {"train": data.splits.train, "val": data.splits.val, "test": data.splits.test}
        arrays = {f"{name}_images": split.images[:, 0].numpy() for name, split in splits.items()}
        arrays |= {f"{name}_labels": split.labels[:, None].numpy() for name, split in splits.items()}
        np.savez(Path(folder) / "pneumoniamnist.npz", **arrays)
        change = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5], [0.5])])
        sets = [medmnist.PneumoniaMNIST(split=name, transform=change, root=folder) for name in ("train", "val")]
        for one in sets:  # it counts, and here may be fewer
            one.info = {**one.info, "n_samples": {one.split: len(one.imgs)}}
        train, val = (
            DataLoader(one, batch_size=64, shuffle=i == 0, num_workers=workers, persistent_workers=workers > 0)
            for i, one in enumerate(sets)
        )
        net = build_task("pneumonia_cnn").net.to(device).train()
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        return {"seconds an epoch": time_loop(net, optimizer, train, val, lambda: None, F)}


def time_loop(net: Any, optimizer: Any, train: Any, val: Any, begin: Callable[[], None], F: Any) -> float:
    """The median time of an epoch after the first, of training and validation."""
    import torch

    device, times = choose_device(), []
    for _ in range(SIZES["epochs"]):
        wait_for_device()
        begun = time.perf_counter()
        begin()
        net.train()
        total = torch.zeros((), device=device)
        for images, labels in train:
            loss = F.cross_entropy(net(images.to(device)), labels.to(device).flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        net.eval()
        with torch.no_grad():
            held_out = [F.cross_entropy(net(images.to(device)), y.to(device).flatten()) for images, y in val]
        float(total + torch.stack(held_out).mean())
        wait_for_device()
        times.append(time.perf_counter() - begun)
    return statistics.median(times[1:])


def time_plain_lightning() -> Values:
    """A LightningModule as its documentation writes one: a DataLoader, ``log`` in each step, a metric of torchmetrics."""
    import torch
    import torch.nn.functional as F
    from pytorch_lightning import LightningModule, Trainer
    from torch.utils.data import DataLoader, TensorDataset
    from torchmetrics.classification import MulticlassAUROC

    class Plain(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = build_task("pneumonia_cnn").net
            self.auroc = MulticlassAUROC(2)

        def training_step(self, batch: Any, _: int) -> Any:
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
            self.log("train/loss", loss, prog_bar=True)
            return loss

        def validation_step(self, batch: Any, _: int) -> None:
            logits = self.net(batch[0])
            self.auroc.update(logits.softmax(1), batch[1])
            self.log("val/loss", F.cross_entropy(logits, batch[1]))
            self.log("val/auroc", self.auroc)

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=1e-3)

    clock, _ = make_clocks()
    splits = render("chest").splits
    train, val = (
        DataLoader(TensorDataset(split.images.float() / 255, split.labels), batch_size=64, shuffle=i == 0)
        for i, split in enumerate((splits.train, splits.val))
    )
    accelerator = "gpu" if choose_device().type == "cuda" else "cpu"
    with tempfile.TemporaryDirectory() as directory, silence():
        trainer = Trainer(
            accelerator=accelerator, devices=1, max_epochs=SIZES["epochs"], default_root_dir=directory,
            enable_progress_bar=False, enable_model_summary=False, callbacks=[clock],
        )  # fmt: skip
        trainer.fit(Plain(), train, val)
    return {"seconds an epoch": later_median(clock.epochs, 1)}


# --- a step of the conditional GAN -----------------------------------------------------------------------------------


def clock_steps(task: Any, **options: Any) -> list[float]:
    """When each step of an epoch of ``task`` on rendered blood cells began, in seconds, by the trainer's ``options``."""
    from medassay.training.fit import fit

    _, clock = make_clocks()
    data, settings = render("blood"), make_settings(**options)
    with tempfile.TemporaryDirectory() as directory, silence():
        fit(task, data, directory=directory, max_epochs=1, settings=settings, callbacks=[clock], overwrite=True)
    times: list[float] = clock.batches
    return times


def time_own_step(precision: Any, **options: Any) -> Values:
    """Ours, with the averaged generator and the gradients' norms."""
    steps = SIZES["steps"]
    task = build_task("cgan", f"model.net.width={SIZES['width']}")
    return describe_step(
        later_median(clock_steps(task, precision=precision, limit_batches=steps, **options), steps // 4)
    )


def time_generator_step(*settings: str) -> Values:
    """Milliseconds of a training step with what comes every fourth time, by the mean over a multiple of four steps."""
    import torch

    import medassay

    torch.manual_seed(0)
    config = medassay.compose(*settings, "data=blood_phantom")
    task = medassay.build(config.model)
    steps, warm_up = SIZES["generator_steps"], SIZES["generator_warm_up"]
    begun = clock_steps(task, precision=config.trainer.precision, limit_batches=warm_up + steps + 1)[warm_up:]
    return {"ms a step": 1e3 * (begun[-1] - begun[0]) / (len(begun) - 1)}


def time_textbook_step() -> Values:
    """Both players in float32 as a tutorial writes them: no frozen weights, no memory format, single-tensor Adam."""
    import torch

    from medassay.data.loader import ResidentLoader

    data, device, steps = render("blood"), choose_device(), SIZES["steps"]
    net = build_task("cgan", f"model.net.width={SIZES['width']}").net
    net = net.to(device, memory_format=torch.contiguous_format).train()
    generator, discriminator = net.generator, net.discriminator
    g_optimizer, d_optimizer = (
        torch.optim.Adam(player.parameters(), lr=2e-4, betas=(0.5, 0.999)) for player in (generator, discriminator)
    )
    bce, times = torch.nn.BCEWithLogitsLoss(), []
    for step, (images, labels) in enumerate(ResidentLoader(data.splits.train, 64, shuffle=True, device=device)):
        wait_for_device()
        times.append(time.perf_counter())
        if step == steps:
            break
        real, noise = net.pad(images), torch.randn(len(images), 100, device=device)
        fake = generator(noise, labels)
        d_optimizer.zero_grad()
        real_logits, fake_logits = discriminator(real, labels), discriminator(fake.detach(), labels)
        d_loss = bce(real_logits, torch.ones_like(real_logits)) + bce(fake_logits, torch.zeros_like(fake_logits))
        d_loss.backward()
        d_optimizer.step()
        g_optimizer.zero_grad()
        logits = discriminator(fake, labels)
        g_loss = bce(logits, torch.ones_like(logits))
        g_loss.backward()
        g_optimizer.step()
        print(d_loss.item(), g_loss.item(), file=sys.stderr)
    return describe_step(later_median(times, steps // 4))


def describe_step(seconds: float) -> Values:
    """A step's time, the rate of its operations (a multiply-add is two), on a GPU beside that of matrix products."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    net = build_task("cgan", f"model.net.width={SIZES['width']}").net
    images, labels = torch.rand(64, 3, 32, 32), torch.zeros(64, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        fake = net.generator(torch.randn(64, 100), labels)
        (net.discriminator(images, labels).sum() + net.discriminator(fake.detach(), labels).sum()).backward()
        net.discriminator.requires_grad_(False)
        net.discriminator(fake, labels).sum().backward()
    rate = counter.get_total_flops() / seconds / 1e9
    values = {"ms a step": 1e3 * seconds, "GFLOP/s": rate}
    if choose_device().type == "cuda":  # on a CPU the kernels of convolutions may be the faster ones
        values["share of the card's matrix products"] = rate / measure_matrix_rate()
    return values


def measure_matrix_rate() -> float:
    """GFLOP/s of large float32 matrix products, the median of seven."""
    import torch

    side = 8192
    a = torch.rand(side, side, device=choose_device())
    times = []
    for _ in range(8):
        wait_for_device()
        begun = time.perf_counter()
        a @ a
        wait_for_device()
        times.append(time.perf_counter() - begun)
    return 2 * side**3 / statistics.median(times[1:]) / 1e9


# --- drawing, metrics ------------------------------------------------------------------------------------------------


def time_drawing(*settings: str) -> Values:
    """Milliseconds an image, classes in turn, of the generator that ``settings`` configure, not trained."""
    import torch

    import medassay

    torch.manual_seed(0)
    task = medassay.build(medassay.compose(*settings, "data=blood_phantom").model).to(choose_device()).eval()
    # of a net that is called many times an image, fewer images
    labels = torch.arange(SIZES["drawn_by_diffusion" if any("diffusion" in one for one in settings) else "drawn"])
    labels = labels % task.num_classes
    task.sample(labels[:64], rng=torch.Generator().manual_seed(0))
    begun = time.perf_counter()
    task.sample(labels, rng=torch.Generator().manual_seed(0)).cpu()
    seconds = time.perf_counter() - begun
    return {"ms an image": 1000 * seconds / len(labels), "images a second": len(labels) / seconds}


def time_metrics() -> Values:
    """All metrics in three encoders' features; the classifier is untrained, its numbers do not matter here."""
    import torch

    from medassay.evaluation import encoders
    from medassay.nets.block_cnn import BlockCNN
    from medassay.protocols.assay.measures import Yardstick
    from medassay.protocols.assay.subjects import Real, Subject
    from medassay.tasks.classification import Classification

    class FirstClass(torch.nn.Module):
        """Gives every image to the first class: classifying is no part of what is timed."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.eye(8)[:1].expand(len(images), -1)

    device, real = choose_device(), Real.from_data(render("blood"), "test")
    generated = draw_phantoms(SIZES["samples"])
    task = Classification(BlockCNN(3, 8), 8).eval()
    with tempfile.TemporaryDirectory() as cache:
        found = encoders.make_encoders(["classifier", "random_conv", "pixels"], real.unique, task, device, Path(cache))
        reset_peak()
        baseline = read_peak()
        begun = time.perf_counter()
        yardstick = Yardstick(real, found, FirstClass(), device)
        _ = yardstick.spaces
        encoded = time.perf_counter()
        yardstick.measure_rows(
            [Subject("generator", "phantoms", "generator", generated, [torch.arange(len(generated))])]
        )
        ended = time.perf_counter()
    above = read_peak() - baseline
    return {
        "seconds": ended - encoded,
        "encoding the real images, s": encoded - begun,
        "memory above the images, MB": above,
    }


def draw_phantoms(n: int) -> Any:
    """Rendered images that play a generator's samples."""
    from medassay.data.phantoms import blood
    from medassay.data.sources import phantom_data

    return phantom_data("blood", "blood", list(blood.CLASSES), 3, train=n, val=64, test=64, phantom_seed=1).splits.train


def reset_peak() -> None:
    """Sets the peak memory back to what is in use now, where the system can (Linux)."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")


def read_peak() -> float:
    """The largest resident memory since the last reset, in MB."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # macOS counts bytes


# --- a sweep ---------------------------------------------------------------------------------------------------------


def make_sweep_command(launcher: str, threads: int | None, outputs: str, *options: str) -> list[str]:
    """A sweep over seeds of the pneumonia CNN."""
    return [
        sys.executable, str(TRAIN), "-m", f"hydra/launcher={launcher}", "data=chest_phantom",
        f"data.train={SIZES['chest']}", f"data.val={SIZES['chest_val']}",
        f"trainer.max_epochs={SIZES['job_epochs']}", "callbacks.early_stopping=null", "test=false", "trainer.gpus=0",
        f"seed={','.join(map(str, range(SIZES['jobs'])))}", f"outputs={outputs}",
        *([] if threads is None else [f"trainer.threads={threads}"]), *options,
    ]  # fmt: skip


def time_sweep(launcher: str, threads: int | None, *options: str) -> Values:
    """The whole command, start-up and summary included."""
    with tempfile.TemporaryDirectory() as outputs:
        begun = time.perf_counter()
        command = make_sweep_command(launcher, threads, outputs, *options)
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        subprocess.run(command, capture_output=True, check=True, env=environment)
        return {"seconds": time.perf_counter() - begun}


# --- precision -------------------------------------------------------------------------------------------------------


def measure_precision(precision: Any, seed: int) -> Values:
    """Fréchet distance to real images of a narrow GAN's samples, in the features of the random convolutional encoder."""
    import torch

    from medassay.evaluation import encoders
    from medassay.metrics.frechet import frechet_distance
    from medassay.training.fit import fit

    data, task = render("blood"), build_task("cgan", "model.net.width=16", seed=seed)
    with tempfile.TemporaryDirectory() as directory, silence():
        fit(
            task, data, directory=directory, max_epochs=SIZES["gan_epochs"], settings=make_settings(precision=precision),
            seed=seed, overwrite=True,
        )  # fmt: skip
        labels = data.splits.val.labels
        drawn = (task.sample(labels, rng=torch.Generator().manual_seed(0)) * 255).round().to(torch.uint8).cpu()
        encoder = encoders.make_random_conv_encoder(3, choose_device())
        features = [encoder(images) for images in (data.splits.val.images, drawn)]
    return {"Fréchet distance": frechet_distance(*features)}


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keeps standard output for the result, and the baselines' warnings away."""
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


VARIANTS: dict[str, dict[str, Callable[[], Values]]] = {
    "start": {
        "train.py --help": lambda: time_help(TRAIN),
        "evaluate.py --help": lambda: time_help(EVALUATE),
        "train.py, first batch": time_first_training_batch,
        "evaluate.py, first batch": time_first_evaluated_batch,
    },
    "cnn": {
        "bare loop, same optimizer kernel": time_bare_epoch,
        "bare loop that keeps freed memory": lambda: time_bare_epoch(keep_memory=True),
        "ours": time_own_epoch,
        "ours, Lightning's loop": lambda: time_own_epoch(loop="lightning"),
        "medmnist, PIL, DataLoader": lambda: time_usual_epoch(0),
        "medmnist, PIL, DataLoader with 2 workers": lambda: time_usual_epoch(2),
        "plain Lightning, DataLoader": time_plain_lightning,
    },
    "gan": {
        "textbook loop, float32": time_textbook_step,
        "ours, float32": lambda: time_own_step("32-true"),
        "ours, bfloat16": lambda: time_own_step("bf16-mixed"),
        COMPILED: lambda: time_own_step("bf16-mixed", compile=True),
    },
    "generators": {
        "a step of cgan": lambda: time_generator_step("model=cgan"),
        "a step of cgan_strong": lambda: time_generator_step("model=cgan_strong"),
        "a step of cgan, bfloat16": lambda: time_generator_step("model=cgan", "trainer.precision=bf16-mixed"),
        "a step of cgan_strong, bfloat16": lambda: time_generator_step(
            "model=cgan_strong", "trainer.precision=bf16-mixed"
        ),
        "a step of cgan_strong of its experiment": lambda: time_generator_step(
            "experiment=bloodmnist_cgan_strong", "trainer.precision=32-true"
        ),
        "a step of cgan_strong of its experiment, bfloat16": lambda: time_generator_step(
            "experiment=bloodmnist_cgan_strong"
        ),
        "a step of diffusion": lambda: time_generator_step("model=diffusion"),
        "a step of diffusion of its experiment": lambda: time_generator_step("experiment=bloodmnist_diffusion"),
        "a step of cvae, batch 128": lambda: time_generator_step("model=cvae"),
    },
    "draw": {
        "cgan": lambda: time_drawing("model=cgan"),
        "cgan_strong of its experiment": lambda: time_drawing("experiment=bloodmnist_cgan_strong"),
        "cvae": lambda: time_drawing("model=cvae"),
        "diffusion, 8 steps of Heun's method": lambda: time_drawing("model=diffusion"),
        "diffusion of its experiment": lambda: time_drawing("experiment=bloodmnist_diffusion"),
        "… with guidance": lambda: time_drawing("experiment=bloodmnist_diffusion", "model.guidance=0.5"),
    },
    "metrics": {"10,000 samples against 11,959 images": time_metrics},
    "sweep": {
        "one after the other, one thread": lambda: time_sweep("serial", 1),
        "one after the other, all cores": lambda: time_sweep("serial", None),
        "side by side": lambda: time_sweep("local_parallel", None),
    },
    "precision": {
        f"{precision}, seed {seed}": (lambda precision=precision, seed=seed: measure_precision(precision, seed))
        for precision in ("32-true", "bf16-mixed")
        for seed in range(5)
    },
}


if __name__ == "__main__":
    sys.exit(main())
