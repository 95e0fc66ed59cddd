"""The one door to Hydra's ``instantiate``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import hydra.utils
from omegaconf import OmegaConf

from medassay.config.checks import trusted_targets
from medassay.core.errors import UserError


def build(node: Mapping[str, Any] | None, **extra: Any) -> Any:
    """The object that ``node`` (checked, plain values) describes, nested nodes included; ``extra`` arguments as given.

    Raises:
        UserError: as raised by the constructor.
    """
    if node is None:
        return None
    try:
        return hydra.utils.instantiate(
            OmegaConf.create(dict(node), flags={"allow_objects": True}),
            **extra,
            _convert_="all",
            _execution_whitelist_=trusted_targets(),
        )
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:  # hydra wraps what a constructor raises
            if isinstance(cause, UserError):
                raise cause from None
            cause = cause.__cause__
        raise
