"""A sweep over what the command line says and nothing else: further seeds of a configuration that is fixed."""

from __future__ import annotations

import itertools
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class ArgumentsSweeper(Sweeper):
    """All combinations of the values on the command line.

    Args:
        **of_another: The settings of another sweeper, which a search has set; they are ignored.
    """

    def __init__(self, **of_another: Any) -> None:
        return

    launcher: Launcher

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Launches one job for each combination."""
        values: list[list[str]] = []
        for override in OverridesParser.create().parse_overrides(arguments):
            if override.is_sweep_override():
                key = override.get_key_element()
                values.append([f"{key}={value}" for value in override.sweep_string_iterator()])
            else:
                assert override.input_line is not None
                values.append([override.input_line])
        return self.launcher.launch([list(job) for job in itertools.product(*values)], initial_job_idx=0)
