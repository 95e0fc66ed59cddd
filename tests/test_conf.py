"""Every yaml under conf/ composes and passes the check; every model runs on every data set or is refused in one line."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

import medassay
from medassay import cli
from medassay import config as configuration
from medassay.runs.check import check_training
from medassay.runs.compose import compose_training
from medassay.runs.load import build_task

CONF = Path(__file__).parents[1] / "conf"
CASES = sorted((Path(__file__).parent / "conf").glob("*.yaml"))
TINY = ("data.train=48", "data.val=32", "data.test=32")
BATCH = ("data.batch_size=16", "debug=fast", "trainer.gpus=0")
GENERATOR = Path(__file__).parent / "fixtures" / "runs" / "cgan"
ALWAYS = {
    "data/folder": ["data.path=FOLDER"],
    "data/samples": [f"data.generator={GENERATOR}"],
    "transfer/frozen": [f"model.transfer.weights={GENERATOR.with_name('cnn')}"],
    "transfer/staged": [f"model.transfer.weights={GENERATOR.with_name('cnn')}"],
    "data/membranes": ["data.file=FOLDER"],
    "data/nuclei": ["data.file=FOLDER"],
    "data/segmentation_folder": ["data.path=FOLDER"],
    "data/qrs": ["data.file=FOLDER"],
}  # what a choice cannot do without
PIXELS = ("membranes", "nuclei", "segmentation_folder")  # files with a class for each pixel
STUDY = ["hydra/sweeper=optuna_study"]
FITS = {
    f"model/net/{name}": [f"model={name}"] for name in ("cgan", "cvae", "diffusion", "unet")
}  # a choice inside another
FITS["model/net/residual_cgan"] = ["model=cgan_strong"]
FITS |= {f"hydra/sweeper/sampler/{path.stem}": STUDY for path in CONF.glob("hydra/sweeper/sampler/*.yaml")}


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def has_pixels(data: str) -> bool:
    """Whether the images of ``data`` have a class for each pixel."""
    return data in PIXELS or data == "cell_phantom" or data.endswith("_masks_phantom")


CURVES = ("ecg_phantom", "qrs")
FITS |= {f"data/{data}": ["model=unet"] for data in choices("data") if has_pixels(data)}
FITS |= {f"data/{data}": ["model=curve"] for data in CURVES}
SMALL_UNET = ["model.net.depth=2", "model.net.padding=same", "data.patch=28", "data.margin=0"]


def groups() -> list[str]:
    """Every config group of train.yaml: folders of conf/ with yaml files, bases and evaluation left out."""
    found = {str(path.parent.relative_to(CONF)) for path in CONF.rglob("*.yaml")}
    return sorted(found - {".", "data/base", "protocol", "search/generators"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with six images a class."""
    top = tmp_path_factory.mktemp("folder")
    rng = np.random.default_rng(0)
    for name in ("round", "square"):
        (top / name).mkdir()
        for i in range(16):
            Image.fromarray(rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)).save(top / name / f"{i}.png")
    return top


@pytest.mark.parametrize(
    ("group", "choice"), [(group, choice) for group in groups() for choice in choices(group)], ids=lambda v: str(v)
)
def test_every_yaml_composes_and_passes_the_check(group: str, choice: str, folder: Path) -> None:
    extra = [text.replace("FOLDER", str(folder)) for text in ALWAYS.get(f"{group}/{choice}", [])]
    overrides = [*FITS.get(f"{group}/{choice}", []), f"{group}={choice}", *extra]
    cfg = compose_training(overrides)
    assert check_training(cfg)["recipe"]["name"] in choices("model")


@pytest.mark.parametrize("model", choices("search/generators"))
def test_the_search_over_generators_finds_the_small_settings_of_each_family(model: str) -> None:
    small = OmegaConf.load(CONF / "search" / "generators" / f"{model}.yaml")
    config = check_training(compose_training(["search=generators", f"model={model}"]))
    assert (config["recipe"]["name"], config["data"]["name"]) == (model, "blood_phantom")
    assert (config["assay"], config["test"]) == ("quick", False)
    assert config["recipe"]["max_epochs"] == config["trainer"]["max_epochs"] == small.recipe.max_epochs
    assert config["model"]["net"]["width"] == small.model.net.width
    own = ["trainer.max_epochs=1", "model.net.width=4", "data=bloodmnist"]  # the command line still wins
    config = check_training(compose_training(["search=generators", f"model={model}", *own]))
    assert (config["trainer"]["max_epochs"], config["model"]["net"]["width"]) == (1, 4)
    assert config["data"]["name"] == "bloodmnist"


def test_a_family_without_small_settings_takes_part_by_its_own_recipe() -> None:
    config = check_training(compose_training(["search=generators", "model=tstr", "assay=none"]))
    assert config["recipe"]["max_epochs"] == medassay.compose("model=tstr").recipe.max_epochs


@pytest.mark.parametrize("optimizer", choices("model/optimizer"))
@pytest.mark.parametrize("scheduler", choices("model/scheduler"))
def test_a_task_built_from_the_configuration_can_be_sent_to_another_process(optimizer: str, scheduler: str) -> None:
    overrides = ["data=chest_phantom", f"model/optimizer={optimizer}", f"model/scheduler={scheduler}"]
    task = build_task(check_training(configuration.compose("train", overrides)))
    copy = pickle.loads(pickle.dumps(task))  # what training with one process per device does
    assert type(copy._optimizer(copy.parameters())) is type(task._optimizer(task.parameters()))


@pytest.mark.parametrize("preset", ["overfit", "profile"])
def test_a_preset_can_set_what_stands_at_the_top(preset: str) -> None:
    cfg = configuration.compose("train", [f"debug={preset}", "data=chest_phantom"])
    assert cfg.test is False
    cfg = configuration.compose("train", [f"debug={preset}", "data=chest_phantom", "test=true"])
    assert cfg.test is True  # the command line still wins


@pytest.mark.parametrize("choice", choices("protocol"))
def test_every_protocol_composes_and_passes_the_check(choice: str) -> None:
    cfg = configuration.compose("evaluate", [f"protocol={choice}", "run=x"])
    protocol = OmegaConf.to_container(cfg.protocol)
    configuration.check(protocol, "protocol")
    assert configuration.build(protocol).name == choice  # type: ignore[arg-type]


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONF)))
def test_every_yaml_says_what_it_is(path: Path) -> None:
    assert any(line.startswith("# ") and "@package" not in line for line in path.read_text().splitlines()[:2])


@pytest.mark.parametrize("search", choices("search"))
def test_a_ready_search_has_its_name_or_says_how_to_give_it_one(search: str) -> None:
    path = CONF / "search" / f"{search}.yaml"
    name = OmegaConf.load(path).sweep.name
    assert name == search or (name is None and "sweep.name=<name>" in path.read_text())


def data_overrides(data: str, folder: Path, tmp_path: Path) -> list[str]:
    """Overrides that make ``data`` small: few phantoms, or a made-up file in MedMNIST's layout."""
    if data in CURVES:
        return [f"data={data}", *write_beats(data, tmp_path)]
    if data == "cell_phantom":
        return ["data=cell_phantom", "data.size=32", "data.train=8", "data.val=2", "data.test=2"]
    if data.endswith("_phantom"):
        return [f"data={data}", *TINY]
    if data == "folder":
        return ["data=folder", f"data.path={folder}"]
    if data in PIXELS:
        return [f"data={data}", *write_pixels(data, tmp_path)]
    if data == "digits":
        return ["data=digits"]
    if data == "samples":
        return ["data=samples", f"data.generator={GENERATOR}", f"outputs={tmp_path}"]
    info = OmegaConf.load(CONF / "data" / f"{data}.yaml")
    classes, channels = len(info.classes), info.channels
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split in ("train", "val", "test"):
        shape = (32, 28, 28) if channels == 1 else (32, 28, 28, channels)
        arrays[f"{split}_images"] = rng.integers(0, 256, shape, dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(32) % classes)[:, None].astype(np.uint8)
    np.savez(tmp_path / "file.npz", **arrays)
    return [f"data={data}", f"data.file={tmp_path / 'file.npz'}"]


def write_pixels(data: str, tmp_path: Path) -> list[str]:
    """A small file or folder of images with a class for each pixel, and the overrides that name it."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (10, 32, 32), dtype=np.uint8)
    numbers = (images > 128).astype(np.uint16)
    if data == "segmentation_folder":
        for kind, pictures in (("images", images), ("masks", 255 * numbers.astype(np.uint8))):
            (tmp_path / "set" / kind).mkdir(parents=True)
            for i, picture in enumerate(pictures):
                Image.fromarray(picture).save(tmp_path / "set" / kind / f"{i}.png")
        return [f"data.path={tmp_path / 'set'}"]
    file = tmp_path / "file.npz"
    if data == "membranes":
        np.savez(file, images=images, labels=numbers.astype(np.uint8))
        return [f"data.file={file}", "data.train=6", "data.val=2", "data.test=2"]
    np.savez(file, images=images, instances=numbers)
    return [f"data.file={file}"]


def write_beats(data: str, tmp_path: Path) -> list[str]:
    """A small file of beats and the override that names it; nothing for rendered ones."""
    if data == "ecg_phantom":
        return []
    lines = [",".join(map(str, row)) for row in np.random.default_rng(0).normal(size=(20, 6)).round(3)]
    (tmp_path / "beats.csv").write_text("\n".join(["time_ms,a_mV,b_mV,c_mV,d_mV,e_mV", *lines]))
    return [f"data.file={tmp_path / 'beats.csv'}"]


ALIKE = (
    "breastmnist",
    "dermamnist",
    "pathmnist",
    "retinamnist",
    "tissuemnist",
    "octmnist",
    "organamnist",
    "organcmnist",
    "organsmnist",
)  # names apart


def is_usual(model: str, data: str) -> bool:
    """Whether ``make test`` runs the pair: what differs from others in names alone meets every model in ``make test-long``."""
    if model == "curve" or data in CURVES:
        return (model == "curve" and data in (*CURVES, "chest_phantom")) or (model, data) == ("unet", "ecg_phantom")
    if model == "unet" or has_pixels(data):
        usual = ("cell_phantom", "chest_masks_phantom", "membranes", "segmentation_folder", "chest_phantom")
        return (model == "unet" and data in usual) or (model, data) == ("pneumonia_cnn", "cell_phantom")
    if model == "digit_mlp" or data in ("digits", "mnist", "knee_phantom"):
        return (model == "digit_mlp" and data in ("digits", "mnist")) or (model, data) == (
            "pneumonia_cnn",
            "knee_phantom",
        )
    if model == "oct_classifier" or data == "oct_phantom":
        return data.startswith("oct") and model == "oct_classifier"
    if model == "pneumonia_cnn":
        return data not in ALIKE
    if model in ("cgan_strong", "cvae", "diffusion"):  # to the data all generators are alike
        return data == "blood_phantom"
    return data in ("bloodmnist", "samples") or (model == "cgan" and data == "chest_phantom")


PAIRS = [
    pytest.param(model, data, marks=[] if is_usual(model, data) else pytest.mark.long, id=f"{model}-{data}")
    for model in choices("model")
    for data in choices("data")
]


@pytest.mark.parametrize(("model", "data"), PAIRS)
def test_every_model_runs_two_batches_of_every_data_set_or_is_refused_in_one_line(
    model: str, data: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    width = {"curve": "model.net.hidden=[2]", "digit_mlp": "model.net.hidden=[4]"}.get(model, "model.net.width=2")
    small = [width, "logger=none", "test=false", f"hydra.run.dir={run}"]
    small += SMALL_UNET if model == "unet" and has_pixels(data) else []
    code = cli.main("train", [f"model={model}", *data_overrides(data, folder, tmp_path), *BATCH, *small])
    error = capsys.readouterr().err
    if code:
        assert code == 2
        assert re.fullmatch(r"medassay: .+\n", error)
    else:
        assert (run / "metrics.json").exists()
        assert (run / "checkpoints" / "best.ckpt").exists()


SMALLEST = {  # the smallest of each family of nets; the largest two take gigabytes
    "lenet": [],
    "resnet": ["model.net.width=4"],
    "googlenet": [],
    "mobilenet_v2": ["model.net.width=0.1"],
    "efficientnet": [],
    "alexnet": [],
    "vgg": ["model.net.depth=11"],
}


@pytest.mark.long
@pytest.mark.parametrize("net", SMALLEST)
def test_every_net_trains_on_two_batches_and_is_read_back(
    net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    argv = [
        f"model/net={net}",
        *SMALLEST[net],
        "data=chest_phantom",
        *TINY,
        *BATCH,
        "logger=none",
        f"hydra.run.dir={run}",
    ]
    assert cli.main("train", argv) == 0, capsys.readouterr().err
    argv = [f"run={run}", "protocol=gradcam", "protocol.n=2", "protocol.scores=false"]
    assert cli.main("evaluate", argv) == 0, capsys.readouterr().err
    assert list(run.glob("eval/gradcam_*/report.html"))


COVERED = (  # by what the other cases and these settings' own tests run
    "cgan_32_pixels",
    "cgan_hinge",
    "cnn_architecture",
    "cnn_large_images",
    "cnn_sgd_steps",
    "cvae_annealed",
    "logger_csv",
    "logger_none",
)


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[pytest.mark.long] * (c.stem in COVERED), id=c.stem) for c in CASES]
)
def test_a_whole_run_of_every_case(case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = OmegaConf.to_container(OmegaConf.load(case))
    assert isinstance(spec, dict)
    run = tmp_path / "run"
    code = cli.main("train", ["test=false", *spec["overrides"], *TINY, *BATCH, f"hydra.run.dir={run}"])
    assert code == 0, capsys.readouterr().err
    for name in spec["files"]:
        assert (run / name).stat().st_size > 0
    for name in spec.get("absent", []):
        assert not (run / name).exists()
