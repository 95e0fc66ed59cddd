"""A search space as Hydra's command line writes it, read into Optuna's distributions.

``choice(a, b)``, ``a,b``, ``range(1, 9)``, ``interval(0.1, 0.5)`` and ``tag(log, interval(1e-4, 1e-2))``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Transformer

from medassay.config.command_line import parse
from medassay.core.errors import ConfigError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


@dataclass(frozen=True)
class SearchSpace:
    """What a study searches, and what it leaves as it is.

    Attributes:
        distributions: What is drawn, by the key of its override (``model.net.width``, ``+x``).
        fixed: The text of every single value, by the key of its override.
        deletions: The overrides that delete a key (``~callbacks.pruning``).
    """

    distributions: dict[str, BaseDistribution]
    fixed: dict[str, str]
    deletions: list[str]

    def list_overrides(self, params: Mapping[str, Any]) -> list[str]:
        """The overrides of the job whose trial drew ``params``."""
        return [*(f"{key}={value}" for key, value in {**params, **self.fixed}.items()), *self.deletions]


def read_search_space(arguments: Sequence[str]) -> SearchSpace:
    """Reads overrides; a key that is given a single value is not searched.

    Raises:
        ConfigError: An override that cannot be read, or values that cannot be drawn from.
    """
    distributions: dict[str, BaseDistribution] = {}
    fixed: dict[str, str] = {}
    deletions: list[str] = []
    for override in parse(arguments):
        key = override.get_key_element()
        if override.is_delete():
            deletions.append(override.input_line or "")
        elif override.is_sweep_override():
            distributions[key] = _read_distribution(override)
        else:
            fixed[key] = override.get_value_element_as_str()
    return SearchSpace({key: values for key, values in distributions.items() if key not in fixed}, fixed, deletions)


def _read_distribution(override: Override) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    try:
        if isinstance(value, IntervalSweep):
            if isinstance(value.start, int) and isinstance(value.end, int):
                return IntDistribution(value.start, value.end, log="log" in value.tags)
            assert value.start is not None
            assert value.end is not None
            return FloatDistribution(value.start, value.end, log="log" in value.tags)
        if isinstance(value, RangeSweep) and not value.shuffle and not value.transformers:
            return _read_range(value)
        if isinstance(value, (ChoiceSweep, RangeSweep)):
            choices: Any = list(override.sweep_iterator(transformer=Transformer.encode))
            return CategoricalDistribution(choices)
    except ValueError as error:
        raise ConfigError(f"hydra.sweeper.params: {override.input_line}: {error}") from error
    raise ConfigError(
        f"hydra.sweeper.params: {override.input_line}: cannot be drawn from; expected choice(…), range(…), interval(…), "
        "tag(log, interval(…)) or a list of values"
    )


def _read_range(sweep: RangeSweep) -> BaseDistribution:
    """The numbers of a range, the end left out as in Hydra; Optuna counts both ends."""
    from optuna.distributions import FloatDistribution, IntDistribution

    if sweep.step == 0:
        raise ValueError("the step of a range must not be 0")
    start, stop, step = (Decimal(str(number)) for number in (sweep.start, sweep.stop, sweep.step))
    count = math.ceil((stop - start) / step)
    if count < 1:
        raise ValueError("the range is empty")
    low, high = sorted((start, start + (count - 1) * step))
    if all(isinstance(number, int) for number in (sweep.start, sweep.stop, sweep.step)):
        return IntDistribution(int(low), int(high), step=int(abs(step)))
    return FloatDistribution(float(low), float(high), step=float(abs(step)))
