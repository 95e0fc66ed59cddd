"""The golden record: what small versions of every command leave behind, to be compared before and after a change of the code.

usage: python tests/golden/record.py --write          (before the change)
       python tests/golden/record.py --compare        (after it; exit code 1 and a list where something differs)

Every command runs with one thread and fixed seeds on rendered images. Recorded are exit codes, what is written to the terminal,
the files left, and of each file what a reader of it depends on: values of JSON and CSV (six significant digits), digests of
weights, arrays, pictures and pages, names of TensorBoard's entries. Times, ids, versions and places are left out. Digests and
last digits hold for one kind of processor and one version of torch; the record names both, and a comparison on another machine
skips digests and compares numbers to three digits.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import difflib
import hashlib
import io
import json
import logging
import os
import platform
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MEDASSAY_CORES": "1", "COLUMNS": "100"}
os.environ.pop("MEDASSAY_OUTPUTS", None)

ROOT = Path(__file__).resolve().parents[2]
RECORD = Path(__file__).with_name("record.json")
CPU = ["trainer.gpus=0", "trainer.threads=1"]
CHEST = ["data=chest_phantom", "data.train=160", "data.val=64", "data.test=64", "data.batch_size=32", *CPU]
BLOOD = ["data=blood_phantom", "data.train=160", "data.val=80", "data.test=80", "data.batch_size=32", *CPU]
CNN = ["model=pneumonia_cnn", *CHEST, "trainer.max_epochs=3"]
ASSAY = ["protocol.jobs=1", "trainer.gpus=0"]
VOLATILE = {  # keys whose values belong to the moment, the machine or the version
    "started", "ended", "seconds", "process", "environment", "code", "packages", "python", "hardware", "threads", "torch",
    "peak_memory_mb", "versions", "checkpoint_sha256", "sha256", "cores",
}  # fmt: skip
BRIEF = (
    "train cgan, assay=quick",
    "sweep of generators",
    "several generators",
    "demo",
)  # JSON as digests: others hold the like
ESTIMATE = {"mean", "sd", "low", "high", "n", "kind", "values"}  # keys of a number with its uncertainty
Step = tuple[str, Callable[[Path], dict[str, Any]]]


def main() -> int:
    """Writes or compares the record; gives the exit code."""
    parser = argparse.ArgumentParser(description="The golden record of every command.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", action="store_true", help="make the record anew")
    what.add_argument("--compare", action="store_true", help="run everything and list what differs")
    parser.add_argument("--record", type=Path, default=RECORD, help="the record's file (default: beside this script)")
    parser.add_argument("--keep", type=Path, help="a new directory to work in, which stays")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        if arguments.keep is None:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="golden-"))).resolve()
        else:
            work = arguments.keep.resolve()
            work.mkdir(parents=True)
        found = record(work)
    if arguments.write:
        arguments.record.write_text(json.dumps(found, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{len(found['steps'])} steps in {arguments.record}")
        return 0
    lines = differences(json.loads(arguments.record.read_text(encoding="utf-8")), found)
    print("\n".join(lines) or "no difference")
    return 1 if lines else 0


def record(work: Path) -> dict[str, Any]:
    """Runs every step below ``work`` and gives what it left."""
    import torch

    torch.set_num_threads(1)
    os.chdir(work)
    sys.path.insert(0, str(ROOT / "src"))  # this clone's code, whatever is installed
    os.environ["PYTHONPATH"] = str(ROOT / "src")
    found: dict[str, Any] = {}
    seen: dict[str, str] = {}
    for name, step in steps():
        begun = time.monotonic()
        result = step(work)
        found[name] = {**result, "files": new_files(work, seen, brief=name in BRIEF)}
        print(f"{name}: exit code {result['code']}, {time.monotonic() - begun:.1f} s", file=sys.stderr, flush=True)
    return {"machine": machine(), "steps": found}


def machine() -> dict[str, str]:
    """What digests and last digits depend on."""
    import torch

    from medassay.core.machine import name_processor

    return {"torch": str(torch.__version__), "processor": name_processor(), "system": platform.system()}


def command(name: str, *argv: str) -> Callable[[Path], dict[str, Any]]:
    """A step: ``train`` or ``evaluate`` in this process, or a script of ``scripts/`` by its file name."""

    def run(work: Path) -> dict[str, Any]:
        for handler in [*logging.getLogger().handlers]:
            logging.getLogger().removeHandler(handler)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = _in_process(name, [expand(argument, work) for argument in argv])
        return {
            "argv": [name, *argv],
            "code": code,
            "out": lines_of(out.getvalue(), work),
            "err": lines_of(err.getvalue(), work),
        }

    return run


def _in_process(name: str, argv: list[str]) -> int:
    if not name.endswith(".py"):
        from medassay import cli

        return cli.main(name, argv)
    before = sys.argv
    sys.argv = [name, *argv]
    try:
        runpy.run_path(str(ROOT / "scripts" / name), run_name="__main__")
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    finally:
        sys.argv = before
    return 0


def expand(argument: str, work: Path) -> str:
    """``{eval:<run>/<protocol>}`` as the newest directory of that evaluation."""

    def newest(match: re.Match[str]) -> str:
        run, _, protocol = match[1].rpartition("/")
        return str(max((work / run / "eval").glob(f"{protocol}_*"), key=lambda path: path.stat().st_mtime))

    return re.sub(r"\{eval:(.+?)\}", newest, argument)


def killed_and_resumed(work: Path) -> dict[str, Any]:
    """A training killed after its first epoch and resumed, its weights beside those of an uninterrupted one."""
    argv = [*CNN, "model.net.dropout=0.3", "callbacks.early_stopping=null", "test=false", "logger=none"]
    cut = work / "killed"
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *argv, "trainer.max_epochs=500", f"hydra.run.dir={cut}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not (cut / "checkpoints" / "last.ckpt").exists():
        if process.poll() is not None:
            raise RuntimeError("the training to be killed ended by itself")
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    import torch

    epochs = torch.load(cut / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] + 3
    resumed = command("train", f"resume={cut}", f"trainer.max_epochs={epochs}")(work)
    straight = command("train", *argv, f"trainer.max_epochs={epochs}", "hydra.run.dir=straight")(work)
    one, other = (digest_of_weights(work / run / "checkpoints" / "last.ckpt") for run in ("killed", "straight"))
    for run in ("killed", "straight"):  # how many epochs came before the kill is chance
        shutil.rmtree(work / run)
    return {"code": resumed["code"], "codes": [resumed["code"], straight["code"]], "same_weights": one == other}


def demo(work: Path) -> dict[str, Any]:
    """``scripts/demo.py`` on few images, two batches of everything."""
    from medassay import cli

    plain = cli.main
    small = {"data=chest_phantom": CHEST[1:], "experiment=demo": [*BLOOD[1:], "model.net.width=4"], "model=tstr": CPU}

    def shortened(name: str, argv: list[str]) -> int:
        extra = [text for key, texts in small.items() if key in argv for text in texts]
        return plain(name, [*argv, *extra, *(["debug=fast"] if name == "train" else ASSAY)])

    cli.main = shortened  # type: ignore[assignment]
    try:
        return command("demo.py", "--outputs", "demo")(work)
    finally:
        cli.main = plain


def given_images(work: Path) -> dict[str, Any]:
    """Images of one's own for ``protocol=predict`` and ``samples=``: files made from phantoms, and one that is damaged."""
    import numpy as np
    import torch
    from PIL import Image

    from medassay.data.phantoms import blood, chest

    folder = work / "given" / "deep"
    folder.mkdir(parents=True)
    rng = torch.Generator().manual_seed(3)
    xrays = chest.render(torch.tensor([0, 1, 0, 1]), rng=rng, size=40).images
    for number, pixels in enumerate(xrays):
        Image.fromarray(pixels[0].numpy()).save(folder / f"{number}.png")
    Image.fromarray(xrays[0, 0].numpy()).convert("RGB").crop((0, 0, 40, 30)).save(work / "given" / "wide.png")
    (work / "given" / "broken.png").write_bytes(b"no image")
    (work / "given" / "notes.txt").write_text("left out")
    cells = blood.render(torch.arange(120) % 8, rng=rng, size=28)
    np.savez(
        work / "samples.npz",
        train_images=cells.images.permute(0, 2, 3, 1).numpy(),
        train_labels=cells.labels.numpy()[:, None],
    )
    return {"code": 0}


def steps() -> Iterator[Step]:
    """Every step by name, in an order in which later ones use the runs of earlier ones."""
    for name in ("train", "evaluate"):
        yield f"{name} --help", command(name, "--help")
        yield f"{name} --cfg", command(name, "--cfg", "job", *(["protocol=assay"] if name == "evaluate" else []))
    for script in ("leaderboard.py", "demo.py"):
        yield f"{script} --help", command(script, "--help")
    # training
    yield "train cnn", command("train", *CNN, "hydra.run.dir=cnn")
    yield "train cnn, seed 1", command("train", *CNN, "seed=1", "logger=csv", "hydra.run.dir=cnn1")
    yield "train cnn, stamped, averaged", command(
        "train", *CNN, "model.ema_decay=0.9", "model/optimizer=adamw", "model/scheduler=cosine", "data.augment.rotation=10",
        "data.stamp.kind=date", "data.stamp.label=pneumonia", "hydra.run.dir=stamped",
    )  # fmt: skip
    yield (
        "train cgan",
        command("train", "model=cgan", "model.net.width=4", *BLOOD, "trainer.max_epochs=3", "hydra.run.dir=cgan"),
    )
    yield "train cgan, assay=quick", command(
        "train", "model=cgan", "model.net.width=4", *BLOOD, "trainer.max_epochs=2", "assay=quick", "test=false", "seed=1",
        "hydra.run.dir=cgan1",
    )  # fmt: skip
    yield (
        "train cvae",
        command(
            "train",
            "model=cvae",
            "model.net.width=4",
            "model.net.latent=16",
            *BLOOD,
            "trainer.max_epochs=3",
            "hydra.run.dir=cvae",
        ),
    )
    yield (
        "train tstr",
        command("train", "model=tstr", "data.generator=cgan", *CPU, "trainer.max_epochs=3", "hydra.run.dir=tstr"),
    )
    yield "train trtr", command("train", "model=tstr", *BLOOD, "trainer.max_epochs=3", "hydra.run.dir=trtr")
    yield (
        "train debug=overfit",
        command("train", "debug=overfit", *CHEST, "trainer.max_epochs=4", "hydra.run.dir=overfit"),
    )
    yield "killed and resumed", killed_and_resumed
    yield "resume a finished run", command("train", "resume=cnn", "trainer.max_epochs=4")
    # sweeps
    grid = ["-m", *CNN, "trainer.max_epochs=2", "model.optimizer.lr=1e-3,1e-2", "seed=0,1", "sweep.name=grid"]
    grid += ["sweep.final=true", "sweep.final_seeds=[0,2]"]
    yield "sweep", command("train", *grid)
    yield "sweep, again", command("train", *grid)
    yield "sweep over seeds", command("train", "-m", *CNN, "seed=0,1", "sweep.name=seeds", "sweep.keep=best")
    yield (
        "sweep with a failing job",
        command("train", "-m", *CNN, "trainer.max_epochs=1", "model.optimizer.lr=1e-3,1e30", "sweep.name=failing"),
    )
    yield (
        "sweep of generators",
        command(
            "train",
            "-m",
            "model=cgan",
            "model.net.width=2,4",
            *BLOOD,
            "trainer.max_epochs=1",
            "assay=quick",
            "sweep.name=gans",
        ),
    )
    yield "study", command(
        "train", "-m", *CNN, "trainer.max_epochs=1", "hydra/sweeper=optuna_study", "hydra.sweeper.n_trials=4",
        "+hydra.sweeper.params={model.optimizer.lr: 'tag(log, interval(1e-4, 1e-2))', model.net.width: 'choice(4,8)'}",
        "sweep.name=study",
    )  # fmt: skip
    # evaluation
    yield "classification", command("evaluate", "run=cnn")
    yield (
        "classification, val",
        command("evaluate", "run=cnn", "protocol=classification", "protocol.split=val", "protocol.mistakes=2"),
    )
    yield "classification, eight classes", command("evaluate", "run=trtr")
    yield "classification, synthetic", command("evaluate", "run=tstr")
    few = ["protocol.score_images=24", "protocol.randomisations=1", "protocol.n=3"]
    yield "gradcam", command("evaluate", "run=cnn", "protocol=gradcam", *few)
    yield "gradcam, other settings", command(
        "evaluate", "run=trtr", "protocol=gradcam", "protocol.scores=false", "protocol.select=confident", "protocol.n=2",
        "protocol.methods=[gradcam,eigencam]", "protocol.strip=null", "protocol.colormap=viridis",
    )  # fmt: skip
    yield "shortcut", command("evaluate", "run=cnn", "protocol=shortcut", "protocol.heat_maps=8", "protocol.shown=2")
    yield (
        "shortcut, own stamp",
        command("evaluate", "run=stamped", "protocol=shortcut", "protocol.heat_maps=8", "protocol.shown=2"),
    )
    yield "images to give", given_images
    yield (
        "predict, folder",
        command("evaluate", "run=cnn", "protocol=predict", "protocol.images=given", "protocol.show=3"),
    )
    yield (
        "predict, npz",
        command("evaluate", "run=trtr", "protocol=predict", "protocol.images=samples.npz", "protocol.show=0"),
    )
    yield "sample", command("evaluate", "run=cgan", "protocol=sample", "protocol.n=4", "protocol.labels=[monocyte,7]")
    yield "sample, cvae", command("evaluate", "run=cvae", "protocol=sample", "protocol.n=2")
    yield "assay, full", command("evaluate", "run=cgan", "protocol.encoders=[classifier,pixels]", *ASSAY)
    yield (
        "assay, quick, val",
        command(
            "evaluate", "run=cvae", "protocol.budget=quick", "protocol.split=val", "protocol.controls=false", *ASSAY
        ),
    )
    yield "assay of samples", command(
        "evaluate", "samples=samples.npz", *BLOOD[:4], "trainer.gpus=0", "protocol.budget=quick", "protocol.controls=false",
        "protocol.jobs=1",
    )  # fmt: skip
    yield "several runs", command("evaluate", "run=[cnn,cnn1]")
    yield (
        "several runs, gradcam",
        command("evaluate", "run=[cnn,cnn1]", "protocol=gradcam", *few, "protocol.score_methods=[gradcam]"),
    )
    yield (
        "several generators",
        command("evaluate", "run=[cgan,cvae]", "protocol.budget=quick", "protocol.controls=false", *ASSAY),
    )
    yield "several runs, one missing", command("evaluate", "run=[cnn,tstr,given]")
    yield "a sweep's directory", command("evaluate", "run=outputs/sweeps/seeds")
    yield "leaderboard", command("leaderboard.py", "cgan", "cvae", "cgan1", "--output", "board")
    yield "leaderboard of a sweep", command("leaderboard.py", "outputs/sweeps/grid")
    yield (
        "leaderboard of a sweep, by another number",
        command("leaderboard.py", "outputs/sweeps/grid", "--metric", "val/accuracy", "--mode", "max"),
    )
    yield "leaderboard of folders", command("leaderboard.py", "outputs/sweeps/gans", "--output", "board2")
    yield "demo", demo
    for number, (name, argv) in enumerate(mistakes()):
        yield f"mistake {number}: {name} {' '.join(argv)}", command(name, *argv)


def mistakes() -> Iterator[tuple[str, list[str]]]:
    """Commands that are answered in one line."""
    for argv in (
        ["modle=cgan"], ["model=cgann"], ["data.batch_size=0"], ["model.optimizer.lr=-1"], ["trainer.max_epochs=ten"],
        ["model.net._target_=os.system"], ["data.name=a=b"], ["--force"], ["resume=nothing"], ["resume=cnn"],
        ["resume=cnn", "model.net.width=4"], ["-m", "resume=cnn"], ["logger=null"], ["data=folder"], ["trainer.gpus=7"],
        ["trainer.accumulate=2", "model=cgan", *BLOOD], ["assay=quick"], ["model.num_classes=3"], ["hydra.run.dir=cnn"],
        ["model=tstr", "data.generator=trtr"], ["model=tstr", "data.generator=cgan", "data=chest_phantom"],
        ["callbacks.early_stopping=3"], ["recipe.monitor=val/auroxc", *CHEST], ["data.file=nothing.npz"],
        ["model.optimizer.lr=1e30", *CHEST, "hydra.run.dir=nan"], ["-m", "sweep.metric=test/auroc", "seed=0,1"],
        ["-m", "sweep.name=a b", "seed=0,1"], ["search=nothing"], ["data.stamp.label=5", "data.stamp.kind=date", *CHEST],
    ):  # fmt: skip
        base = [] if any(text.startswith(("data=", "model=")) for text in argv) else ["data=chest_phantom"]
        yield "train", [*([] if argv[0].startswith("resume") else base), *argv]
    for argv in (
        [], ["run=nothing"], ["run=given"], ["run=cnn", "protocol=assay"], ["run=cgan", "protocol=classification"],
        ["run=cnn", "protocol=nothing"], ["run=cnn", "protocol.mistakes=-1"], ["run=cnn", "protocol.splitt=val"],
        ["run=cnn", "model.net.width=3"], ["run=cnn", "data.file=x"], ["run=cnn", "samples=samples.npz"], ["run=[]"],
        ["run=cnn", "protocol=gradcam", "protocol.layer=nothing"], ["run=cnn", "protocol=gradcam", "protocol.indices=[99]"],
        ["run=cnn", "protocol=gradcam", "protocol.methods=[]"], ["run=cnn", "protocol=gradcam", "protocol.colormap=jett"],
        ["run=cnn", "protocol=shortcut", "protocol.stamp.kind=date", "protocol.stamp.label=x"],
        ["run=cnn", "protocol=predict"], ["run=cnn", "protocol=predict", "protocol.images=nothing"],
        ["run=cgan", "protocol=sample", "protocol.labels=[nothing]"], ["run=cgan", "protocol.encoders=[]"],
        ["run=cgan", "protocol.encoders=[inception]"], ["run=cgan", "protocol.seeds=1"],
        ["samples=samples.npz"], ["samples=nothing.npz", "data=blood_phantom"], ["samples=samples.npz", "data=chest_phantom"],
        ["samples=samples.npz", "data=blood_phantom", "protocol=sample"], ["run=cnn", "resize=true"], ["-m", "run=cnn"],
    ):  # fmt: skip
        yield "evaluate", argv
    yield "leaderboard.py", ["nothing"]
    yield "leaderboard.py", ["given"]


# --- what is left ----------------------------------------------------------------------------------------------------


def normalised(text: str, work: Path) -> str:
    """``text`` without what differs from run to run: places, times, ids and hashes of the code."""
    places = {
        work.as_uri(): "file://<work>",
        str(work): "<work>",
        sys.prefix: "<environment>",
        str(ROOT): "<repository>",
    }
    for place, name in places.items():  # the environment may lie in the repository
        text = text.replace(place, name)
    text = re.sub(r"\b\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(_[0-9a-f]{4})?(_phantom)?", "<date>", text)
    text = re.sub(r"\b(assay|classification|gradcam|lesion|shortcut|predict|sample)_[0-9a-f]{6}\b", r"\1_<id>", text)
    text = re.sub(r"(?<=[_/ ])[0-9a-f]{8}(?=[/\s\"'<>&;,:)]|$)", "<hash>", text)
    text = re.sub(r"events\.out\.tfevents\.\S+", "events", text)
    text = re.sub(r"\b[0-9a-f]{16}(?=\.(npz|ckpt|json|pt)\b)", "<key>", text)
    text = re.sub(r"\b[0-9a-f]{32}\b", "<md5>", text)
    text = re.sub(r"object at 0x[0-9a-f]+", "object", text)
    text = re.sub(r"commit [0-9a-f]{12}(\+changes)?", "<commit>", text)
    return re.sub(r"\b\d+(\.\d+)? (s|min)\b", "<time>", text)


def lines_of(text: str, work: Path) -> list[str]:
    """What was written to the terminal, progress bars and the like left out."""
    return [normalised(line, work).rstrip() for line in text.splitlines() if "\r" not in line]


def new_files(work: Path, seen: dict[str, str], *, brief: bool) -> dict[str, Any]:
    """The contents of the files that are new or changed since the last call; ``seen`` keeps what there was."""
    found: dict[str, list[Any]] = {}
    for file in sorted(path for path in work.rglob("*") if path.is_file()):
        inside = file.relative_to(work)
        if file.name.endswith((".lock", ".log")) or inside.parts[0] == "given":
            continue
        checksum = hashlib.sha256(file.read_bytes()).hexdigest()
        if seen.get(str(inside)) == checksum:
            continue
        seen[str(inside)] = checksum
        left = contents(file, work)
        if brief and isinstance(left, dict):
            left = _digest(json.dumps(left).encode())
        found.setdefault(normalised(f"/{inside}", work).removeprefix("/"), []).append(left)
    # names of caches are hashes, and of places too: their order says nothing
    return {name: left[0] if len(left) == 1 else sorted(left, key=json.dumps) for name, left in found.items()}


def contents(file: Path, work: Path) -> Any:
    """What a reader of the file depends on."""
    read: dict[str, Callable[[Path, Path], Any]] = {
        ".json": _json, ".csv": _csv, ".md": _text, ".txt": _text, ".yaml": _text, ".html": _page, ".png": _pixels,
        ".npz": _arrays, ".ckpt": _weights, ".pt": _weights,
    }  # fmt: skip
    if "events.out.tfevents" in file.name:
        return _events(file)
    return read[file.suffix](file, work) if file.suffix in read else "present"


def _json(file: Path, work: Path) -> Any:
    return dict(flattened(json.loads(file.read_text(encoding="utf-8")), work))


def flattened(values: Any, work: Path, key: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values as ``dotted.key: value``; a long list of numbers as its length and digest."""
    if key.rpartition(".")[2] in VOLATILE:
        yield key, "<volatile>"
    elif isinstance(values, dict) and "mean" in values and values.keys() <= ESTIMATE:
        yield key, " ".join(f"{name}={_short(value)}" for name, value in values.items())
    elif isinstance(values, dict):
        for name, value in values.items():
            yield from flattened(value, work, f"{key}.{normalised(str(name), work)}".lstrip("."))
    elif isinstance(values, list) and len(values) > 10 and all(isinstance(value, (int, float)) for value in values):
        yield key, f"{len(values)} numbers, {_digest(json.dumps([_number(value) for value in values]).encode())}"
    elif isinstance(values, list):
        yield f"{key}[]", len(values)
        for place, value in enumerate(values):
            yield from flattened(value, work, f"{key}[{place}]")
    else:
        yield (
            key,
            _number(values)
            if isinstance(values, float)
            else normalised(values, work)
            if isinstance(values, str)
            else values,
        )


def _number(value: float) -> float:
    return float(f"{value:.6g}")


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_short, value))}]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _csv(file: Path, work: Path) -> Any:
    """The header, and the rows with numbers of six digits; of a large file their digest."""
    rows = list(csv.reader(io.StringIO(normalised(file.read_text(encoding="utf-8"), work))))
    header = rows[0] if rows else []
    timed = [place for place, name in enumerate(header) if name in VOLATILE]
    cells = [["" if place in timed else _cell(text) for place, text in enumerate(row)] for row in rows[1:]]
    body: Any = sorted(",".join(row) for row in cells)
    return {
        "header": header,
        "rows": body if len(body) <= 12 else f"{len(body)} rows, {_digest(json.dumps(body).encode())}",
    }


def _cell(text: str) -> str:
    try:
        return f"{float(text):.6g}"
    except ValueError:
        return text


def _text(file: Path, work: Path) -> list[str]:
    text = file.read_text(encoding="utf-8")
    kept = [normalised(line, work) for line in text.splitlines()]
    return kept if len(kept) <= 40 else [f"{len(kept)} lines, digest {_digest(chr(10).join(kept).encode())}"]


def _page(file: Path, work: Path) -> str:
    """The page's words and pictures, without times, versions and layout's white space."""
    text = re.sub(
        r"<dt>(time|peak memory|code|python|packages.*?|torch|hardware.*?|threads)</dt><dd>.*?</dd>",
        "",
        file.read_text("utf-8"),
    )
    text = re.sub(r"<td>(<time>|\d+(\.\d+)? (s|min|h))</td>|<p>[^<]*of training in all[^<]*</p>", "", text)
    text = normalised(text, work)
    words = re.sub(
        r"<svg.*?</svg>|<[^>]+>|\s+", " ", re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL), flags=re.DOTALL
    )
    return f"words {_digest(' '.join(words.split()).encode())}, all {_digest(' '.join(text.split()).encode())}"


def digest_of_weights(file: Path) -> str:
    """Of every tensor of a checkpoint's ``state_dict``, bit for bit."""
    import torch

    state = torch.load(file, map_location="cpu", weights_only=True).get("state_dict", {})
    total = hashlib.sha256()
    for name, value in sorted(state.items()):
        parts = value if isinstance(value, dict) else {"": value}
        for part, tensor in sorted(parts.items()):
            pure = tensor.contiguous().numpy().tobytes() if isinstance(tensor, torch.Tensor) else repr(tensor).encode()
            total.update(f"{name}{part}".encode() + pure)
    return f"{len(state)} tensors, {total.hexdigest()[:16]}"


def _weights(file: Path, work: Path) -> str:
    return digest_of_weights(file)


def _arrays(file: Path, work: Path) -> dict[str, str]:
    import numpy as np

    with np.load(file) as arrays:
        return {
            name: f"{arrays[name].shape} {arrays[name].dtype.kind} {_digest(arrays[name].tobytes())}"
            for name in arrays.files
            if name != "provenance"
        }


def _pixels(file: Path, work: Path) -> str:
    from PIL import Image

    with Image.open(file) as image:
        return f"{image.size[0]}x{image.size[1]} {_digest(image.convert('RGB').tobytes())}"


def _events(file: Path) -> dict[str, list[str]]:
    """The names of TensorBoard's entries."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    tags = {(value.tag, event.step) for event in EventFileLoader(str(file)).Load() for value in event.summary.value}
    return {"tags": sorted({tag for tag, _ in tags}), "entries": [str(len(tags))]}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


# --- comparison ------------------------------------------------------------------------------------------------------


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """A line for each value that differs; digests are left out where the machine is another."""
    same_machine = before["machine"] == after["machine"]
    old, new = (dict(_leaves(found["steps"])) for found in (before, after))
    lines = [] if same_machine else [f"another machine: {before['machine']} then, {after['machine']} now"]
    for key in [*old, *(key for key in new if key not in old)]:
        one, other = old.get(key, "<absent>"), new.get(key, "<absent>")
        if one == other or (not same_machine and _alike(one, other)):
            continue
        if isinstance(one, list) and isinstance(other, list):
            changed = [
                text
                for text in difflib.unified_diff(one, other, n=0, lineterm="")
                if text[:2] not in ("--", "++", "@@")
            ]
            lines.append("\n    ".join([" > ".join(key), *changed]))
        else:
            lines.append(f"{' > '.join(key)}\n    - {one}\n    + {other}")
    return lines if same_machine or len(lines) > 1 else []


def _leaves(values: Any, key: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    text = isinstance(values, list) and all(isinstance(value, str) for value in values)
    if isinstance(values, (dict, list)) and values and not text:
        items = values.items() if isinstance(values, dict) else enumerate(values)
        for name, value in items:
            yield from _leaves(value, (*key, str(name)))
    else:
        yield key, values


def _alike(one: Any, other: Any) -> bool:
    """Whether two values agree as far as machines do: to three digits, and without digests."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-3 * max(1.0, abs(one))
    plain = [re.sub(r"\b[0-9a-f]{12,}\b", "", str(value)) for value in (one, other)]
    numbers = [re.sub(r"-?\d+\.\d+(e-?\d+)?", "#", text) for text in plain]
    return numbers[0] == numbers[1]


if __name__ == "__main__":
    sys.exit(main())
