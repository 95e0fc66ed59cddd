"""The one door to Hydra's ``instantiate``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import hydra.utils
from omegaconf import DictConfig, OmegaConf

from medassay.config.checks import check, list_trusted_targets
from medassay.config.composition import quote_text, resolve
from medassay.core.errors import UserError


def build(node: Mapping[str, Any] | DictConfig | None, **extra: Any) -> Any:
    """The object that a node of a configuration describes, nested nodes included; None of None.

    Args:
        node: Checked plain values; or a node as composed, ``cfg.model``, which is resolved and checked first.
        **extra: Further arguments of the constructor, as they are.

    Raises:
        UserError: A node as composed has a wrong key or value, or a constructor refuses its arguments.
    """
    if node is None:
        return None
    if isinstance(node, DictConfig):
        node = resolve(node)
        check(node)
    try:
        return hydra.utils.instantiate(
            OmegaConf.create(quote_text(node), flags={"allow_objects": True}),
            **extra,
            _convert_="all",
            _execution_whitelist_=list_trusted_targets(),
        )
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:  # hydra wraps what a constructor raises
            if isinstance(cause, UserError):
                raise cause from None
            cause = cause.__cause__
        raise
