"""Where curves and numbers go during training; each function returns a factory that is given the run directory.

The packages of MLflow and Weights & Biases are extras, imported only where they are asked for.
"""

from __future__ import annotations

import csv
import math
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from lightning_fabric.loggers.csv_logs import _ExperimentWriter
from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter

from medassay.core.addresses import hide_password
from medassay.core.errors import ConfigError
from medassay.core.files import atomic_write, read_json, write_json
from medassay.core.packages import explain_failed_import
from medassay.core.paths import expand_home

LoggerFactory = Callable[[Path], Logger]


def log_to_tensorboard() -> LoggerFactory:
    """Event files in ``<run>/tensorboard``."""
    return lambda directory: TensorBoardLogger(directory, name="", version="tensorboard", default_hp_metric=False)


def log_to_csv() -> LoggerFactory:
    """Scalars in ``<run>/csv/metrics.csv``; a resumed run goes on in it."""
    return _ContinuedCSV


def log_to_mlflow(uri: str, experiment: str = "medassay") -> LoggerFactory:
    """A run of an MLflow experiment, called as the run directory; a resumed run goes on in it.

    Args:
        uri: Where MLflow keeps its runs: ``sqlite:///<file>`` on this machine, or a server's address.
        experiment: Name of the experiment.

    Raises:
        ConfigError: The package is not installed. The factory raises it where the store cannot be used.
    """
    _require("mlflow")

    def make(directory: Path) -> Logger:
        file = directory / "mlflow.json"
        recorded = read_json(file)  # of a run that is resumed, perhaps from another working directory
        store = str(recorded.get("uri", _place_store(uri)))
        try:
            logger = MLFlowLogger(experiment, directory.name, tracking_uri=store, run_id=recorded.get("run_id"))
            run_id = str(logger.run_id)  # asking for it makes the run, now and in this process
        except Exception as error:  # the store's own errors, of many kinds
            advice = f"delete {file} to log into another" if recorded else "name another store"
            message = f"logger.mlflow.uri={store}: {_first_sentence(error)}; {advice}"
            raise ConfigError(hide_password(message)) from error
        write_json(file, {"uri": store, "run_id": run_id})
        return logger

    return make


def log_to_wandb(project: str = "medassay", offline: bool = False) -> LoggerFactory:
    """A run of a Weights & Biases project, called as the run directory; a resumed run goes on in it.

    Args:
        project: Name of the project.
        offline: Whether to keep everything in ``<run>/wandb``, for ``wandb sync`` to send later.

    Raises:
        ConfigError: The package is not installed. The factory raises it where the service cannot be used.
    """
    _require("wandb")

    def make(directory: Path) -> Logger:
        file = directory / "wandb.json"
        run_id = str(read_json(file).get("run_id", secrets.token_hex(8)))
        directory.mkdir(parents=True, exist_ok=True)
        try:
            logger = WandbLogger(directory.name, directory, id=run_id, project=project, offline=offline, resume="allow")
            _ = logger.experiment  # connects, now and in this process
        except Exception as error:  # the service's own errors, of many kinds
            raise ConfigError(
                f"logger=wandb: {_first_sentence(error)}; log in with `wandb login`, or give logger.wandb.offline=true"
            ) from error
        write_json(file, {"run_id": run_id})
        return logger

    return make


def log_settings(loggers: Iterable[Logger], settings: Mapping[str, Any]) -> None:
    """Gives what distinguishes the run to the loggers that list runs by it: all but the files of the run directory."""
    for logger in _elsewhere(loggers):
        shown = dict(settings)
        # MLflow keeps what a run was started with: a resumed one can change nothing there
        if isinstance(logger, MLFlowLogger):
            recorded = logger.experiment.get_run(str(logger.run_id)).data.params
            shown = {name: value for name, value in shown.items() if name not in recorded}
        logger.log_hyperparams(shown)


def log_results(loggers: Iterable[Logger], numbers: Mapping[str, float]) -> None:
    """Gives the final numbers to the same loggers."""
    for logger in _elsewhere(loggers):
        logger.log_metrics(dict(numbers))


def end_logging(loggers: Iterable[Logger], *, failed: bool = False) -> None:
    """Ends what would otherwise stay open until the process ends."""
    for logger in loggers:
        if isinstance(logger, MLFlowLogger):
            logger.finalize("failed" if failed else "success")
        elif isinstance(logger, WandbLogger):
            logger.experiment.finish(exit_code=int(failed))


class _ContinuedRows(ExperimentWriter):
    """Writes behind the rows of a training that is resumed; Lightning's own writer deletes them."""

    def _check_log_dir_exists(self) -> None:
        file = Path(self.metrics_file_path)
        self.earlier: list[dict[str, str]] = []
        if file.is_file():
            with file.open(newline="") as stream:
                reader = csv.DictReader(stream)
                self.metrics_keys, self.earlier = list(reader.fieldnames or ()), list(reader)

    def log_metrics(self, metrics_dict: dict[str, float], step: int | None = None) -> None:
        if self.earlier:
            if "epoch" in metrics_dict:
                self._drop_rows("epoch", metrics_dict["epoch"])
            else:  # generators count images seen, which Lightning takes for the step, and no epochs
                self._drop_rows("step", math.inf if step is None else step)
        super().log_metrics(metrics_dict, step)

    def _drop_rows(self, column: str, first: float) -> None:
        """Removes what was logged at ``first`` in a column and after it, which is trained again, and a row cut short."""
        whole = [row for row in self.earlier if None not in row and None not in row.values()]
        kept = [row for row in whole if not row.get(column) or float(row[column]) < first]
        with atomic_write(Path(self.metrics_file_path)) as partial, partial.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, fieldnames=self.metrics_keys)
            writer.writeheader()
            writer.writerows(kept)
        self.earlier = []


class _ContinuedCSV(CSVLogger):
    """Lightning's logger that keeps the rows of earlier epochs, each row written at once: a run may be killed."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, name="", version="csv", flush_logs_every_n_steps=1)

    @property
    @rank_zero_experiment
    def experiment(self) -> _ExperimentWriter:
        if self._experiment is None:
            self._fs.makedirs(self.root_dir, exist_ok=True)
            self._experiment = _ContinuedRows(self.log_dir)
        return self._experiment


def _elsewhere(loggers: Iterable[Logger]) -> list[Logger]:
    return [logger for logger in loggers if not isinstance(logger, (TensorBoardLogger, CSVLogger))]


def _place_store(uri: str) -> str:
    """The address of the store, that of a database file in full; its folder is made."""
    kind, separator, place = uri.partition("sqlite:///")
    if kind or not separator:
        return uri
    path = expand_home(place).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    return f"{separator}{path}"


def _require(package: str) -> ModuleType:
    try:
        return __import__(package)
    except ImportError as error:
        missing = f"the package {package} is missing; pip install 'medassay[{package}]'"
        raise ConfigError(f"logger={package}: {explain_failed_import(error, package, missing)}") from error


def _first_sentence(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].partition(". ")[0]
