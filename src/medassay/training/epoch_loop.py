"""Lightning's loop over the batches of an epoch, without the work that a plain training has no use for.

Lightning's own loop costs half a millisecond a step, a tenth of a small net's: it calls every hook of every callback,
overridden or not, looks through batches for tensors, inspects signatures, and collects what was not logged. The loop here
calls what is overridden, in the same order, and keeps the same counters: weights, checkpoints and logs are the same, bit for
bit. It leaves to Lightning's whatever is not plain: several processes, accumulated or clipped gradients, profilers, scaled
losses, validation within an epoch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loops.fetchers import _DataFetcher, _DataLoaderIterDataFetcher
from pytorch_lightning.loops.optimization.automatic import ClosureResult
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.strategies import SingleDeviceStrategy
from pytorch_lightning.utilities.exceptions import SIGTERMException
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.optim import Optimizer

_HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)


class LeanEpochLoop(_TrainingEpochLoop):
    """Lightning's loop with a short way for the batches of a plain training.

    Attributes:
        is_short: Whether the short way is taken in this epoch.
    """

    is_short: bool = False
    _hooks: dict[str, list[Callable[..., Any]]]

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        super().on_run_start(data_fetcher)
        task = self.trainer.lightning_module
        self.is_short = _is_plain(self.trainer) and not isinstance(data_fetcher, _DataLoaderIterDataFetcher)
        self._hooks = {name: self._list_hooks(name) for name in _HOOKS}
        self._takes_index = len(inspect.signature(task.training_step).parameters) > 1

    def _list_hooks(self, name: str) -> list[Callable[..., Any]]:
        """The methods called ``name`` of the callbacks and the task, as far as they do anything."""
        trainer, task = self.trainer, self.trainer.lightning_module
        callbacks = [callback for callback in trainer.callbacks if is_overridden(name, callback)]
        hooks: list[Callable[..., Any]] = [_bind(getattr(callback, name), trainer, task) for callback in callbacks]
        return [*hooks, getattr(task, name)] if is_overridden(name, task) else hooks

    def _call(self, name: str, *inputs: Any) -> Any:
        """Calls the hooks called ``name``; gives what the last one, the task's where it has one, returned."""
        returned = None
        if hooks := self._hooks[name]:
            task = self.trainer.lightning_module
            before, task._current_fx_name = task._current_fx_name, name
            for hook in hooks:
                returned = hook(*inputs)
            task._current_fx_name = before
        return returned

    def advance(self, data_fetcher: _DataFetcher) -> None:
        if self.restarting or not self.is_short:
            super().advance(data_fetcher)
            return
        self.val_loop.restarting = False
        trainer, task = self.trainer, self.trainer.lightning_module
        batch, _, _ = next(data_fetcher)
        index = self.batch_idx + 1
        self.batch_progress.is_last_batch = data_fetcher.done
        self.batch_progress.increment_ready()
        connector = trainer._logger_connector
        connector.on_batch_start(batch)
        skipped = self._call("on_train_batch_start", batch, index) == -1
        output: Any = None
        if skipped:
            self.batch_progress.increment_by(0, is_last_batch=True)
        else:
            self.batch_progress.increment_started()
            inputs = (batch, index) if self._takes_index else (batch,)
            if task.automatic_optimization:
                output = self._step(trainer.optimizers[0], index, inputs)
            else:
                names = ("batch", "batch_idx")
                output = self.manual_optimization.run(dict(zip(names, inputs, strict=False)))  # type: ignore[arg-type]
        self.batch_progress.increment_processed()
        self.update_lr_schedulers("step", update_plateau_schedulers=False)
        if self._num_ready_batches_reached():
            self.update_lr_schedulers("epoch", update_plateau_schedulers=False)
        if skipped:
            raise StopIteration
        self._call("on_train_batch_end", output, batch, index)
        if self._results:
            connector.on_batch_end()
        else:  # nothing was logged
            self._results.batch = self._results.batch_size = None
        self.batch_progress.increment_completed()
        if self._results:
            connector.update_train_step_metrics()

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        trainer = self.trainer
        if (
            not self.is_short
            or self.batch_progress.is_last_batch
            or trainer.should_stop
            or trainer.lr_scheduler_configs
        ):
            super().on_advance_end(data_fetcher)
            return
        self._batches_that_stepped += 1
        if trainer.received_sigterm and not self._is_training_done:
            raise SIGTERMException

    def _step(self, optimizer: Optimizer, index: int, inputs: tuple[Any, ...]) -> dict[str, Any]:
        """A training step, its gradients and the optimizer's step; gives what ``training_step`` returned."""
        trainer, task = self.trainer, self.trainer.lightning_module
        progress = self.automatic_optimization.optim_progress.optimizer
        result = ClosureResult(None)

        def evaluate() -> Tensor | None:
            nonlocal result
            with torch.enable_grad():
                task._current_fx_name = "training_step"
                result = ClosureResult.from_training_step_output(trainer.strategy.training_step(*inputs))
                task._current_fx_name = "optimizer_step"
                progress.zero_grad.increment_ready()
                self._call("on_before_zero_grad", optimizer)
                progress.zero_grad.increment_started()
                task.optimizer_zero_grad(trainer.current_epoch, index, optimizer)
                progress.zero_grad.increment_completed()
                if result.closure_loss is not None:
                    self._call("on_before_backward", result.closure_loss)
                    task._current_fx_name = "backward"
                    task.backward(result.closure_loss)
                    task._current_fx_name = "optimizer_step"
                    self._call("on_after_backward")
            self._call("on_before_optimizer_step", optimizer)
            return result.loss

        progress.step.increment_ready()
        before, task._current_fx_name = task._current_fx_name, "optimizer_step"
        task.optimizer_step(trainer.current_epoch, index, optimizer, evaluate)
        task._current_fx_name = before
        progress.step.increment_completed()
        return {} if result.loss is None else result.asdict()


def _is_plain(trainer: Trainer) -> bool:
    """Whether a training needs none of what the short way leaves out."""
    task, precision = trainer.lightning_module, trainer.precision_plugin
    exact = type(precision) is Precision and precision.precision == "32-true"
    autocast = type(precision) is MixedPrecision and precision.scaler is None
    data = trainer.datamodule  # type: ignore[attr-defined]
    on_device = data is not None and is_overridden("transfer_batch_to_device", data)
    moved = any(
        is_overridden(name, owner)
        for name in ("on_before_batch_transfer", "on_after_batch_transfer")
        for owner in (task, data)
    )
    validated_once = trainer.val_check_interval == 1.0 and trainer.check_val_every_n_epoch == 1
    return (
        isinstance(trainer.strategy, SingleDeviceStrategy)
        and (exact or autocast)
        and isinstance(trainer.profiler, PassThroughProfiler)  # type: ignore[attr-defined]
        and trainer.accumulate_grad_batches == 1
        and not trainer.gradient_clip_val
        and validated_once
        and not is_overridden("configure_gradient_clipping", task)
        and on_device
        and not moved
    )


def _bind(hook: Callable[..., Any], trainer: Trainer, task: LightningModule) -> Callable[..., None]:
    def call(*inputs: Any) -> None:
        hook(trainer, task, *inputs)

    return call
