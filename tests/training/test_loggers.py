"""Where curves go: several places at once, extras that are missing, and the stores of MLflow and Weights & Biases."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from medassay.config.moved import update_config
from medassay.core.errors import ConfigError
from medassay.nets.block_cnn import BlockCNN
from medassay.runs.check import check_training
from medassay.runs.compose import compose_training
from medassay.tasks.classification import Classification
from medassay.training import loggers
from medassay.training.fit import fit
from medassay.training.settings import TrainerSettings
from tests.helpers import Command, assert_one_line

SMALL = (
    "data=chest_phantom",
    "data.train=32",
    "data.val=16",
    "data.test=16",
    "data.batch_size=16",
    "model.net.width=2",
)
CPU = ("trainer.gpus=0", "trainer.max_epochs=1")


def read_csv(run: Path) -> list[dict[str, str]]:
    with (run / "csv" / "metrics.csv").open() as stream:
        return list(csv.DictReader(stream))


def read_scalars(run: Path) -> dict[str, float]:
    """The last value of each scalar in TensorBoard's files."""
    return {v.tag: float(v.tensor.float_val[0]) for v in read_summaries(run) if len(v.tensor.float_val) == 1}


def read_texts(run: Path) -> dict[str, str]:
    """The texts in TensorBoard's files but that of the model."""
    texts = {v.tag.removesuffix("/text_summary"): v for v in read_summaries(run) if v.tag.endswith("/text_summary")}
    return {name: v.tensor.string_val[0].decode() for name, v in texts.items() if name != "model"}


def read_summaries(run: Path) -> list[Any]:
    files = sorted((run / "tensorboard").glob("events.*"))
    return [v for file in files for event in EventFileLoader(str(file)).Load() for v in event.summary.value]


def test_several_loggers_hold_the_same_numbers_and_tensorboard_what_its_owner_wrote(
    tmp_path: Path, command: Command
) -> None:
    run = tmp_path / "run"
    about = ("tags=[thesis,2]", "notes='wider, same data'")
    result = command("train", *SMALL, *CPU, *about, "logger=[tensorboard,csv]", f"hydra.run.dir={run}")
    assert result.code == 0, result.err
    (loss,) = [float(row["train/loss"]) for row in read_csv(run) if row.get("train/loss")]
    scalars, final = read_scalars(run), json.loads((run / "metrics.json").read_text())
    assert scalars["train/loss"] == pytest.approx(loss)
    assert scalars["test_final/accuracy"] == pytest.approx(final["test"]["accuracy"])
    record = json.loads((run / "run.json").read_text())
    assert (record["tags"], record["notes"]) == (["thesis", "2"], "wider, same data")
    assert read_texts(run) == {"tags": "thesis, 2", "notes": "wider, same data"}


def test_a_resumed_run_keeps_the_curve_of_earlier_epochs(tiny_chest: Callable[..., Any], tmp_path: Path) -> None:
    settings = TrainerSettings(gpus=0)
    for epochs in (2, 4):
        task = Classification(BlockCNN(1, 2, width=2), 2)
        fit(
            task,
            tiny_chest(train=32),
            directory=tmp_path,
            max_epochs=epochs,
            settings=settings,
            log_to="csv",
            resume=True,
        )
    assert sorted(row["epoch"] for row in read_csv(tmp_path) if row["val/loss"]) == ["0", "1", "2", "3"]
    assert sorted(row["epoch"] for row in read_csv(tmp_path) if row["train/loss"]) == ["0", "1", "2", "3"]


def test_rows_of_an_epoch_that_is_trained_again_are_replaced_and_new_values_get_a_column(tmp_path: Path) -> None:
    first = loggers.log_to_csv()(tmp_path)
    for epoch in (0, 1):  # and killed: nothing more is written
        first.log_metrics({"epoch": epoch, "val/loss": 1.0 - epoch}, step=epoch)
    again = loggers.log_to_csv()(tmp_path)
    again.log_metrics({"epoch": 1, "val/loss": 0.25, "val/auroc": 0.5}, step=1)
    rows = [(row["epoch"], row["val/loss"], row["val/auroc"]) for row in read_csv(tmp_path)]
    assert rows == [("0", "1.0", ""), ("1", "0.25", "0.5")]


@pytest.mark.parametrize("choice", ["logger=[]", "logger=none", "logger.tensorboard=null"])
def test_all_can_be_switched_off(choice: str) -> None:
    node = check_training(compose_training(["data=chest_phantom", choice]))["logger"]
    assert list(filter(None, node.values())) == []


@pytest.mark.parametrize("package", ["mlflow", "wandb"])
def test_a_missing_extra_is_one_line_that_names_it_and_leaves_no_run(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    run = tmp_path / "run"
    result = command("train", *SMALL, f"logger=[tensorboard,{package}]", f"hydra.run.dir={run}")
    assert_one_line(result, f"logger={package}", f"pip install 'medassay[{package}]'")
    assert not (run / "run.json").exists()


@pytest.mark.parametrize("package", ["mlflow", "wandb"])
def test_an_extra_that_is_there_and_broken_says_why(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{package}.py").write_text("from json import nothing_like_that")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, package, raising=False)
    make: dict[str, Callable[[], object]] = {
        "mlflow": lambda: loggers.log_to_mlflow("sqlite:///x.db"),
        "wandb": loggers.log_to_wandb,
    }
    with pytest.raises(
        ConfigError, match=f"logger={package}: .*cannot be imported .*nothing_like_that.*installation"
    ) as raised:
        make[package]()
    assert "pip install" not in str(raised.value)


def test_a_store_that_cannot_be_used_is_said_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("no connection to http://me:secret@host")

    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace())
    monkeypatch.setattr(loggers, "MLFlowLogger", refuse)
    with pytest.raises(ConfigError, match=r"uri=postgresql://me:\*\*\*@host/db: .*http://me:\*\*\*@host;") as raised:
        loggers.log_to_mlflow("postgresql://me:secret@host/db")(tmp_path)
    assert "secret" not in str(raised.value)


def test_rows_of_an_epoch_that_is_trained_again_and_cut_ones_are_dropped(tmp_path: Path) -> None:
    """Generators log their steps, by images seen, and no epochs."""

    def log(*rows: tuple[int, dict[str, float]]) -> list[str]:
        logger = loggers.log_to_csv()(tmp_path)
        for step, values in rows:
            logger.log_metrics(values, step)
        logger.save()
        return (tmp_path / "csv" / "metrics.csv").read_text().splitlines()

    log((64, {"loss": 3.0}), (128, {"loss": 2.0}), (128, {"val": 1.0}))
    with (tmp_path / "csv" / "metrics.csv").open("a") as stream:
        stream.write("19")  # a full disk
    assert log((128, {"loss": 2.5}), (192, {"loss": 1.5})) == ["loss,step,val", "3.0,64,", "2.5,128,", "1.5,192,"]


@pytest.mark.parametrize("module", ["medassay.settings", "medassay.training.settings"])
@pytest.mark.parametrize("kind", ["tensorboard", "csv", "none"])
def test_a_saved_run_with_one_kind_of_logger_keeps_it(module: str, kind: str, tmp_path: Path) -> None:
    config = {"recipe": {}, "data": {}, "logger": {"_target_": f"{module}.LoggerSettings", "kind": kind}}
    node = update_config(config)["logger"]
    targets = [one["_target_"].removeprefix("medassay.training.loggers.") for one in node.values()]
    made = [getattr(loggers, name)()(tmp_path) for name in targets]
    expected = {"tensorboard": [TensorBoardLogger], "csv": [CSVLogger], "none": []}
    assert len(made) == len(expected[kind])
    assert all(isinstance(one, kind_of) for one, kind_of in zip(made, expected[kind], strict=True))


def test_a_database_is_found_again_from_another_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    class Store:
        def __init__(self, experiment: str, name: str, **options: Any) -> None:
            asked.append(options)
            self.run_id = options["run_id"] or "new"

    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace())
    monkeypatch.setattr(loggers, "MLFlowLogger", Store)
    (tmp_path / "elsewhere").mkdir()
    for directory in (tmp_path, tmp_path / "elsewhere"):
        monkeypatch.chdir(directory)
        loggers.log_to_mlflow("sqlite:///stores/runs.db")(tmp_path / "run")
    store = f"sqlite:///{tmp_path}/stores/runs.db"
    assert asked == [{"tracking_uri": store, "run_id": None}, {"tracking_uri": store, "run_id": "new"}]
    assert (tmp_path / "stores").is_dir()


def test_a_service_that_refuses_is_one_line_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("No API key configured. Use something.\nAnd more.")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace())
    monkeypatch.setattr(loggers, "WandbLogger", refuse)
    with pytest.raises(ConfigError, match=r"No API key configured; .*logger\.wandb\.offline=true$"):
        loggers.log_to_wandb()(tmp_path)


# --- with the packages themselves ------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # its own, of packages that it stands on
def test_mlflow_holds_settings_and_numbers_and_a_resumed_run_goes_on_in_it(tmp_path: Path, command: Command) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    run, store = tmp_path / "run", f"sqlite:///{tmp_path}/mlflow.db"
    result = command("train", *SMALL, *CPU, "logger=mlflow", f"logger.mlflow.uri={store}", f"hydra.run.dir={run}")
    assert result.code == 0, result.err
    client = mlflow.MlflowClient(store)
    (experiment,) = [one for one in client.search_experiments() if one.name == "medassay"]
    (kept,) = client.search_runs([experiment.experiment_id])
    assert (kept.info.run_name, kept.info.status) == ("run", "FINISHED")
    assert kept.data.params["model.net.width"] == "2"
    final = json.loads((run / "metrics.json").read_text())
    assert kept.data.metrics["test_final/auroc"] == pytest.approx(final["test"]["auroc"])
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "status": "interrupted"}))
    result = command("train", f"resume={run}", "trainer.max_epochs=2")
    assert result.code == 0, result.err
    (again,) = client.search_runs([experiment.experiment_id])
    assert len(client.get_metric_history(again.info.run_id, "train/loss")) == 2


@pytest.mark.filterwarnings("ignore")  # its own
def test_wandb_works_without_network(tmp_path: Path, command: Command) -> None:
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    run = tmp_path / "run"
    argv = ("logger=wandb", "logger.wandb.offline=true", f"hydra.run.dir={run}")
    result = command("train", *SMALL, *CPU, *argv)
    assert result.code == 0, result.err
    assert list((run / "wandb").glob("offline-run-*/*.wandb"))
