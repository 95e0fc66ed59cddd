"""Whether a data set is still the one that a run has on record: test images that were learnt from judge nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from medassay.core.errors import DataError
from medassay.data.kinds import AnyData

_NO_CONTENT = {
    "file",
    "path",
    "root",
    "groups",
    "duplicates",
    "left_out",
}  # places, and what is compared or counted by itself


def refuse_changed_data(data: AnyData, recorded: Mapping[str, Any], named: Collection[str]) -> None:
    """Raises :class:`DataError` where the data are not the recorded ones and nobody asked for others; reads the images.

    Args:
        data: The data set; of one with a generator's images the real test images are compared.
        recorded: What the run's record says of its data.
        named: The keys given now: ``data.file`` and ``data.path`` ask for other data, ``data.groups`` for other groups.
    """
    recorded, now = _describe_both(data, recorded)
    groups, before = (one.get("groups", {}) for one in (now, recorded))
    if before and groups.get("md5") != before["md5"] and "data.groups" not in named:
        raise DataError(
            f"the groups have changed since training: md5 {before['md5']} then, {groups.get('md5')} now "
            f"({groups.get('file')}); put the old table back, or name this one with data.groups= (a sweep: give it another "
            "sweep.name)"
        )
    if recorded.get("md5") != now.get("md5") and not {"data.file", "data.path"} & set(named):
        raise DataError(
            f"the data have changed since training: md5 {recorded.get('md5')} then, {now.get('md5')} now "
            f"({now.get('file', now.get('path'))}); put the old ones back, or name these with data.file= or data.path= (a "
            "sweep: give it another sweep.name)"
        )


def is_other_data(data: AnyData, recorded: Mapping[str, Any]) -> bool:
    """Whether the images are not those on record, by all that is known of both but where they lie; reads the images.

    Args:
        data: The data set; of one with a generator's images the real test images are compared.
        recorded: What the run's record says of its data.
    """
    recorded, now = _describe_both(data, recorded)
    if not recorded or recorded.get("md5") != now.get("md5"):  # what is not on record may be any
        return True
    return any(recorded[key] != now[key] for key in (set(recorded) & set(now)) - _NO_CONTENT)


def _describe_both(data: AnyData, recorded: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Provenance of the test images, on record and now."""
    judged = data.data_of("test")
    _ = judged.splits
    return recorded.get("real", recorded), judged.provenance()
