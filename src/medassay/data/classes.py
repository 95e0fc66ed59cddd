"""Classes as a user names them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from medassay.core.errors import ConfigError, suggest_nearest


def find_class(asked: str | int, classes: Sequence[str], key: str) -> int:
    """The index of the class that is asked for by its name, in any case, or by its index.

    Args:
        asked: Name or index of the class.
        classes: Names of all classes, by index.
        key: Configuration key that asks, for the error.

    Raises:
        ConfigError: The class does not exist.
    """
    lowered = [name.lower() for name in classes]
    if isinstance(asked, int) and 0 <= asked < len(classes):
        return asked
    if str(asked).lower() in lowered:
        return lowered.index(str(asked).lower())
    raise ConfigError(
        f"{key}={asked}: no such class.{suggest_nearest(str(asked).lower(), lowered)} Accepted: {list_accepted(classes)}"
    )


def list_accepted(classes: Sequence[str]) -> str:
    """What names a class, in words."""
    return f"0..{len(classes) - 1} or {', '.join(classes)}"


def describe_counts(classes: Sequence[str], counts: Iterable[int]) -> str:
    """``normal 3, pneumonia 2``: how many there are of each class; with a colon after names that are numbers themselves."""
    pairs = zip(classes, counts, strict=True)
    return ", ".join(f"{name}: {count}" if name.isdigit() else f"{name} {count}" for name, count in pairs)


def list_likeliest(probabilities: Sequence[float], classes: Sequence[str], most: int = 3) -> list[tuple[str, float]]:
    """The most probable classes with their probabilities, at most so many; of equal ones the first by index comes first."""
    order = sorted(range(len(classes)), key=lambda k: -probabilities[k])
    return [(classes[k], probabilities[k]) for k in order[:most]]
