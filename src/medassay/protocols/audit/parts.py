"""The parts of an audit: protocols composed by name, with the audit's budget."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from medassay import config as configuration
from medassay.core.errors import ConfigError
from medassay.evaluation.protocol import Protocol

KEY = "protocol.parts"

Budget = Literal["quick", "full"]


@dataclass(frozen=True)
class AuditPart:
    """A protocol and the checked node that it was built from."""

    protocol: Protocol
    node: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.protocol.name

    @property
    def names(self) -> list[str]:
        """Its name, and that of its class, by which a protocol that was renamed still speaks of itself."""
        return [name for name in dict.fromkeys((self.name, type(self.protocol).name)) if name]

    @property
    def question(self) -> str:
        """What the protocol answers: the first line of its class's docstring, where it has one of its own."""
        kind = type(self.protocol)
        text = (inspect.getdoc(kind) or "").partition("\n")[0]
        return "" if text.startswith(f"{kind.__name__}(") else text  # what dataclass makes up


def build_parts(entries: Sequence[Any], budget: Budget, quick: Mapping[str, Mapping[str, Any]]) -> list[AuditPart]:
    """The parts that ``protocol.parts`` names, all checked before any is run.

    Args:
        entries: Each the name of a protocol, ``{name: {key: value}}`` with settings, or a node with a ``_target_``.
        budget: The budget of parts that have one and are told no other.
        quick: By protocol, settings where the budget is ``quick``.

    Raises:
        ConfigError: There is no such protocol, a setting is wrong, or two parts have one name.
    """
    if not entries:
        raise ConfigError(f"{KEY}=[]: name at least one protocol, e.g. {KEY}=[classification,gradcam]")
    parts = [_build_part(entry, budget, quick) for entry in entries]
    for name, count in Counter(part.name for part in parts).items():
        if count > 1:
            raise ConfigError(
                f"{KEY}: {name} stands there {count} times; give each a name of its own: {{{name}: {{name: …}}}}"
            )
    return parts


def _build_part(entry: Any, budget: Budget, quick: Mapping[str, Mapping[str, Any]]) -> AuditPart:
    node, own, key = _read_entry(entry)
    target, protocol = str({**node, **own}["_target_"]), node.get("name")
    configuration.locate(target, key)
    given: dict[str, Any] = {"budget": budget} if configuration.takes_argument(target, "budget") else {}
    if budget == "quick":
        given |= quick.get(str(protocol), {})
    node = {**node, **given, **own}
    configuration.check(node, key)
    built = configuration.build(node)
    if not isinstance(built, Protocol):
        raise ConfigError(f"{key}: a {type(built).__name__} is no protocol; see docs/protocol.md")
    if type(built).__module__.startswith(__package__ or " "):
        raise ConfigError(f"{key}: an audit is no part of an audit; leave it out")
    if not built.name or "/" in built.name or built.name.startswith("."):
        raise ConfigError(f"{key}: name={built.name}: give it a name, which names its directory")
    return AuditPart(built, {**node, "name": built.name})


def _read_entry(entry: Any) -> tuple[dict[str, Any], dict[str, Any], str]:
    """The node that an entry stands for, the settings given with it, and the key that names it in messages."""
    if isinstance(entry, str):
        return configuration.compose_option("protocol", entry, KEY), {}, f"{KEY}.{entry}"
    if isinstance(entry, Mapping) and "_target_" in entry:
        return {}, dict(entry), f"{KEY}.{entry.get('name', entry['_target_'])}"
    if isinstance(entry, Mapping) and len(entry) == 1:
        ((name, settings),) = entry.items()
        if isinstance(settings, Mapping):
            return configuration.compose_option("protocol", str(name), KEY), dict(settings), f"{KEY}.{name}"
    raise ConfigError(
        f"{KEY}: {entry}: expected a protocol's name, {{name: {{key: value}}}}, or a node with a _target_"
    )
