"""What a reader is told of an evaluation: warnings, and the command to repeat it."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import shlex
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from medassay import config as configuration
from medassay import protocols
from medassay.evaluation.about import About, flatten, format_command, list_data_warnings, list_warnings

PUBLISHED = {"name": "bloodmnist", "published": True}
PHANTOM = {"name": "blood_phantom", "phantom": True}


def about(data: dict[str, Any], *, generated: bool = False) -> About:
    return About("a_run", "a_model", 0, data, generated, ["a", "b"], {})


# --- warnings --------------------------------------------------------------------------------------------------------


def test_of_a_finished_run_judged_on_published_data_there_is_nothing_to_warn_of() -> None:
    assert list_warnings(about(PUBLISHED), {"status": "done", "overrides": {}}, "test") == []


@pytest.mark.parametrize(
    ("data", "fact"),
    [
        (PHANTOM, "The data are rendered phantoms"),
        ({"real": PHANTOM}, "The data are rendered phantoms"),
        ({"name": "mine", "md5": "abc"}, r"not a published file (md5 abc)"),
    ],
)
def test_the_origin_of_the_images_judged_is_said(data: dict[str, Any], fact: str) -> None:
    (text,) = list_warnings(about(data), {}, "test")
    assert fact in text


def test_where_other_images_are_judged_only_a_model_that_learnt_from_phantoms_is_warned_of() -> None:
    renamed = {"overrides": {"data.file": "x.npz"}}
    assert list_warnings(about({"name": "mine"}, generated=True), renamed, None) == []
    (text,) = list_warnings(about({"real": PHANTOM}), renamed, None)
    assert "learnt from rendered phantoms, not real images: what it says of real images means nothing" in text


@pytest.mark.parametrize("split", ["test", "val", None])
def test_duplicates_in_the_runs_data_are_said_whatever_is_judged(split: str | None) -> None:
    (text,) = list_warnings(about({**PUBLISHED, "duplicates": {"train/test": 2, "val": 1}}), {}, split)
    assert "2 of test also in train, 1 repeated within val" in text


def test_tables_of_many_runs_say_the_origin_and_the_duplicates_of_each() -> None:
    assert list_data_warnings(PUBLISHED) == []
    origin, duplicates = list_data_warnings({**PHANTOM, "duplicates": {"train": 5}})
    assert "phantoms" in origin
    assert "5 repeated within train" in duplicates


@pytest.mark.parametrize("key", ["data.file", "data.path"])
def test_data_named_anew_are_said_to_be(key: str) -> None:
    (text,) = list_warnings(about(PUBLISHED), {"overrides": {key: "x", "trainer.gpus": 0}}, "test")
    assert "named anew" in text
    assert list_warnings(about(PUBLISHED), {"overrides": {"data.root": "x"}}, "test") == []


@pytest.mark.parametrize(
    ("split", "fact"), [("val", "the validation images are generated too"), ("test", "the test images are real")]
)
def test_a_model_that_learnt_from_generated_images_is_said_to(split: str, fact: str) -> None:
    (text,) = list_warnings(about(PUBLISHED, generated=True), {}, split)
    assert f"learnt from generated images only; {fact}" in text


@pytest.mark.parametrize("split", ["test", None])
def test_a_run_that_is_not_done_is_said_to_be_unfinished(split: str | None) -> None:
    (text,) = list_warnings(about(PUBLISHED), {"status": "interrupted"}, split)
    assert "status is interrupted: the model was judged before its training was finished" in text


# --- the command -----------------------------------------------------------------------------------------------------

SHORTCUT = {"_target_": "medassay.protocols.shortcut.protocol.Shortcut", "name": "shortcut"}


def test_the_command_names_every_setting_and_override() -> None:
    protocol = {**SHORTCUT, "colormaps": ["gray", "jet"], "heat_maps": 3}
    record = {"run": "outputs/x y", "protocol": protocol, "overrides": {"trainer.gpus": 0}}
    assert format_command(record) == (
        "python evaluate.py 'run='\"'\"'outputs/x y'\"'\"'' trainer.gpus=0 protocol=shortcut "
        "'protocol.colormaps=[gray,jet]' protocol.heat_maps=3"
    )


def test_a_protocol_that_was_renamed_is_named_as_the_command_takes_it() -> None:
    node = {"_target_": "medassay.protocols.fairness.protocol.Fairness", "name": "fair_b", "split": "val"}
    words = format_command({"run": "x", "protocol": node})
    assert words == "python evaluate.py run=x protocol=fairness protocol.name=fair_b protocol.split=val"


def test_every_protocol_of_ours_is_named_after_its_yaml() -> None:
    paths = [*(configuration.find_conf_directory() / "protocol").glob("*.yaml")]
    assert len(paths) > 10
    for path in paths:
        node = configuration.compose_option("protocol", path.stem, "protocol")
        assert f" protocol={path.stem} " in f"{format_command({'run': 'x', 'protocol': node})} "


def test_letters_that_hydra_takes_only_in_quotes_are_quoted() -> None:
    command = format_command({"run": "outputs/é_ü", "protocol": {"name": "gradcam"}})
    assert command is not None
    (override,) = (word for word in shlex.split(command) if word.startswith("run="))
    assert OverridesParser.create().parse_override(override).value() == "outputs/é_ü"


@pytest.mark.parametrize(
    "text",
    ["42", "-1", "1e3", "1_000", "true", "False", "null", "nan", "inf", "", "a", "cat/dog", "1:2", "..", "a'b", "C:\\x\\",
     "\\'", "a,b", "${x}", " x "],
)  # fmt: skip
def test_a_text_is_read_back_as_the_same_text_alone_and_in_a_list(text: str) -> None:
    record = {"run": text or "x", "protocol": {"name": "x", "text": text, "texts": [text, "b"]}, "overrides": {}}
    command = format_command(record)
    assert command is not None
    read = {o.key_or_group: o.value() for o in map(OverridesParser.create().parse_override, shlex.split(command)[2:])}
    assert (read["run"], read["protocol.text"], read["protocol.texts"]) == (text or "x", text, [text, "b"])


def test_numbers_and_truth_values_keep_their_kind() -> None:
    command = format_command({"run": "x", "protocol": {"name": "x", "a": 42, "b": 1e-5, "c": True, "d": [1, "1"]}})
    assert (
        command
        == "python evaluate.py run=x protocol=x protocol.a=42 protocol.b=1e-05 protocol.c=true "
        + shlex.quote("protocol.d=[1,'1']")
    )


def test_a_null_that_is_the_default_is_left_out_and_another_is_named() -> None:
    record = {"run": "x", "protocol": {**SHORTCUT, "stamp": None, "seed": None}}
    assert format_command(record) == "python evaluate.py run=x protocol=shortcut protocol.seed=null"


def test_the_settings_of_a_node_inside_are_named_by_dotted_keys() -> None:
    stamp = {"_target_": "medassay.data.stamps.Stamp", "kind": "date", "label": None}
    words = format_command({"run": "x", "protocol": {**SHORTCUT, "stamp": stamp}})
    assert words == "python evaluate.py run=x protocol=shortcut protocol.stamp.kind=date"


def test_a_table_of_values_that_builds_nothing_is_named_by_dotted_keys_too() -> None:
    words = format_command({"run": "x", "protocol": {"name": "mine", "weights": {"a": 1, "b": None}}})
    assert words == "python evaluate.py run=x protocol=mine protocol.weights.a=1"


def test_the_command_for_samples_has_its_overrides_as_they_were_typed() -> None:
    record = {"samples": "a.npz", "protocol": {"name": "assay"}, "overrides": ["data=bloodmnist"], "resize": True}
    assert format_command(record) == "python evaluate.py samples=a.npz data=bloodmnist resize=true protocol=assay"


def test_without_a_record_of_what_was_evaluated_there_is_no_command() -> None:
    assert format_command({"protocol": {"name": "assay"}}) is None
    assert format_command({"run": "x"}) is None


# --- for a reader ----------------------------------------------------------------------------------------------------


def test_nested_values_are_shown_by_the_names_of_all_levels() -> None:
    values = {"best_epoch": None, "hardware": {"gpus": 0, "fast": True}}
    assert dict(flatten(values)) == {"best epoch": "–", "hardware: gpus": 0, "hardware: fast": "yes"}


def test_no_result_takes_the_place_of_what_is_known_of_the_run() -> None:
    """``<protocol>.json`` holds both beside each other; what both have is the same in both."""
    facts = {field.name for field in dataclasses.fields(About)} | {"run", "checkpoint", "protocol", "environment"}
    taken: dict[str, set[str]] = {}
    for found in pkgutil.walk_packages(protocols.__path__, f"{protocols.__name__}."):
        for name, kind in vars(importlib.import_module(found.name)).items():
            if name.endswith("Results") and dataclasses.is_dataclass(kind):
                names = {field.metadata.get("name", field.name) for field in dataclasses.fields(kind)}
                taken[name] = names & facts - {"name", "data", "classes"}
    assert len(taken) > 15
    assert {name: names for name, names in taken.items() if names} == {}
