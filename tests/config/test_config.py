"""The configuration: what a signature accepts, what a wrong key or value says, and objects built from nodes."""

from __future__ import annotations

import importlib
import math
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, ListConfig, OmegaConf

from medassay import config
from medassay.config.messages import explain
from medassay.core.errors import ConfigError, UserError
from medassay.core.types import NonNegative, Positive, PositiveInt, Probability, Range
from medassay.nets.block_cnn import BlockCNN
from medassay.runs.compose import register_resolvers
from medassay.tasks.classification import Classification

Limited = Annotated[int, Range(ge=1, le=7)]
NODE = {"_target_": "medassay.nets.block_cnn.BlockCNN"}


# --- values and annotations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hint", "accepted", "refused"),
    [
        (int, [0, -3, 10**20], [True, False, 1.0, "1", None, [1]]),
        (float, [0.5, 3, -2, math.inf], [True, "0.5", None, [0.5]]),
        (bool, [True, False], [0, 1, "true", None]),
        (str, ["", "text"], [3, None, True, ["a"]]),
        (Path, ["/a/b"], [3, None]),
        (None, [None], [0, "", False]),
        (Any, [None, 3, "x", [1], {"a": 1}], []),
        (Literal["a", "b"], ["a", "b"], ["c", "A", None, 0, ["a"]]),
        (Literal[1, 3], [1, 3], [2, 1.0, True, "1"]),
        (int | None, [3, None], [3.5, "3", True]),
        (bool | None, [True, None], [0, "null"]),
        (Limited | list[int] | None, [1, 7, None, [0, 99], []], [0, 8, [0.5], [True], "1"]),
        (list[int], [[], [1, 2]], [[1, 2.5], [True], 1, "12", None, {"a": 1}]),
        (list[str | int], [["a", 3]], [["a", 3.5], ["a", None]]),
        (Sequence[float], [[1, 0.5], []], [["x"], 0.5]),
        (list[list[int]], [[[1], []]], [[1], [[1.5]]]),
        (tuple[float, float], [[0.9, 0.999], (1, 2)], [[0.9], [0.9, 0.99, 0.999], [0.9, "x"], 0.9]),
        (tuple[int, ...], [[], [1], [1, 2, 3]], [[1.5], 1]),
        (dict[str, int], [{}, {"a": 1}], [NODE, [1], None]),
        (Mapping[str, str], [{}, {"a": "b"}], [NODE, "a"]),
        (Positive, [1, 1e-9], [0, -1, math.nan, "1", True]),
        (NonNegative, [0, 0.0], [-1e-9, math.nan]),
        (Probability, [0, 1, 0.5], [1.5, -0.5, math.nan]),
        (PositiveInt, [1, 5], [0, 1.5, True]),
        (Limited, [1, 7], [0, 8]),
        (Annotated[list[float], Range(gt=0)], [[1, 2], []], [[1, 0], [math.nan]]),
        (list[PositiveInt], [[1, 2]], [[1, 0], [1, True]]),
        (Annotated[float | None, Range(gt=0)], [None, 1], [0]),
        (Annotated[int, "a note and no range"], [-5], [0.5]),
        (list, [[], [1, "a"]], [3, None, {"a": 1}]),
        (dict, [{}, {"a": 1}], [NODE, [1], None]),
        (torch.nn.Module, [NODE], [{"width": 3}, "BlockCNN", 3, None]),
        (torch.nn.Module | None, [NODE, None], [{}, 3]),
    ],
    ids=str,
)
def test_an_annotation_accepts_its_values_and_no_others(hint: Any, accepted: list[Any], refused: list[Any]) -> None:
    assert [value for value in accepted if not config.conforms(value, hint)] == []
    assert [value for value in refused if config.conforms(value, hint)] == []


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "an integer"),
        (float, "a number"),
        (bool, "true or false"),
        (str, "text"),
        (Path, "a path"),
        (type(None), "null"),
        (Any, "any value"),
        (list, "a list"),
        (Literal["min", "max"], "one of min, max"),
        (Literal[1, True, None], "one of 1, true, null"),
        (int | None, "an integer or null"),
        (Limited | list[int] | None, "an integer >= 1 and <= 7 or a list, each an integer or null"),
        (list[PositiveInt], "a list, each an integer >= 1"),
        (Sequence[str], "a list, each text"),
        (tuple[float, float], "a list of 2 values, each a number"),
        (tuple[int, ...], "a list, each an integer"),
        (Mapping[str, int], "a mapping"),
        (dict[str, int], "a mapping"),
        (Annotated[list[float], Range(gt=0)], "a list, each a number > 0"),
        (Annotated[int, "a note and no range"], "an integer"),
    ],
    ids=str,
)
def test_an_annotation_is_said_in_words(hint: Any, words: str) -> None:
    assert config.describe(hint) == words


def test_a_class_is_said_as_the_node_that_builds_it() -> None:
    assert config.describe(torch.nn.Module) == "a node with a _target_ that builds a Module"


# --- whole nodes -----------------------------------------------------------------------------------------------------


def model(**changes: Any) -> dict[str, Any]:
    """A classifier's node as the yaml files give it, resolved."""
    node: dict[str, Any] = {
        "_target_": "medassay.tasks.classification.Classification",
        "num_classes": 2,
        "net": {"_target_": "medassay.nets.block_cnn.BlockCNN", "in_channels": 1, "num_classes": 2, "width": 2},
        "optimizer": {"_target_": "medassay.tasks.optim.adam", "lr": 1e-3, "betas": [0.9, 0.999]},
        "class_weights": "balanced",
    }
    return {**node, **changes}


def net(**changes: Any) -> dict[str, Any]:
    return model(net={**model()["net"], **changes})


def test_a_right_configuration_passes() -> None:
    config.check({"model": model()})


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            net(widht=3),
            r"^model\.net\.widht: unknown key\. Did you mean 'width'\? Accepted: in_channels, num_classes, ",
        ),
        (net(zzz=3), r"^model\.net\.zzz: unknown key\. Accepted: "),
        (net(width=0), r"^model\.net\.width=0: expected an integer >= 1$"),
        (net(width=True), r"^model\.net\.width=true: expected an integer >= 1$"),
        (net(width=None), r"^model\.net\.width=null: expected an integer >= 1$"),
        (net(dropout=1), r"^model\.net\.dropout=1: expected a number >= 0 and < 1$"),
        (net(activation="rely"), r"^model\.net\.activation=rely: expected one of .*leaky_relu"),
        (model(net=3), r"^model\.net=3: expected a node with a _target_ that builds a Module$"),
        (model(net={"width": 3}), r"^model\.net=.*: expected a node with a _target_"),
        (model(label_smoothing="none"), r"^model\.label_smoothing=none: expected a number"),
        (
            {k: v for k, v in model().items() if k != "num_classes"},
            r"^model\.num_classes: missing; expected an integer >= 2$",
        ),
        (model(net=NODE), r"^model\.net\.in_channels: missing; expected an integer >= 1$"),
        (net(_target_="os.system"), r"^model\.net\._target_=os\.system: constructors are taken from medassay only"),
    ],
)
def test_the_first_wrong_key_is_named_with_its_whole_path(node: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        config.check({"data": {"name": "x"}, "model": node})
    assert "\n" not in str(error.value)


def test_a_wrong_value_in_a_list_of_nodes_is_named_with_its_place() -> None:
    good = {**NODE, "in_channels": 1, "num_classes": 2}
    with pytest.raises(ConfigError, match=r"^nets\[1\]\.blocks=9: expected an integer >= 1 and <= 7$"):
        config.check({"nets": [good, {**good, "blocks": 9}]})


def test_a_partial_node_may_leave_arguments_out_but_not_misname_them() -> None:
    config.check({"net": {**NODE, "_partial_": True}})
    with pytest.raises(ConfigError, match=r"^net\.widht: unknown key"):
        config.check({"net": {**NODE, "_partial_": True, "widht": 3}})


def test_a_node_that_is_not_partial_may_not_leave_arguments_out() -> None:
    with pytest.raises(ConfigError, match=r"^net\.in_channels: missing"):
        config.check({"net": {**NODE, "_partial_": False}})


def test_plain_values_without_a_constructor_pass_unchecked() -> None:
    config.check({"anything": [1, {"goes": None}], "here": "too"})


# --- constructors ----------------------------------------------------------------------------------------------------

MODULE = '''
from __future__ import annotations
from typing import Any
from medassay.core.errors import ConfigError

class Keeper:
    """Keeps what it is given."""

    def __init__(self, items: list[int] | None = None, table: dict[str, list[int]] | None = None, **others: Any) -> None:
        self.items = items
        self.table = table
        self.others = others

def ratio(n: int) -> float:
    if n == 0:
        raise ConfigError("n=0: cannot divide by it")
    return 1 / n

def broken() -> None:
    raise ZeroDivisionError("a fault in the constructor")
'''


@pytest.fixture
def own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A user's own package, trusted."""
    (tmp_path / "their_nets.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(config.TRUSTED_ENVIRONMENT_VARIABLE, " other_package, their_nets ,")
    yield importlib.import_module("their_nets")
    del sys.modules["their_nets"]


@pytest.mark.parametrize(
    "target", ["os.system", "builtins.eval", "medassayevil.Net", "system", "", "their_nets.Keeper"]
)
def test_constructors_of_other_packages_are_refused(target: str) -> None:
    with pytest.raises(ConfigError, match=f"^model\\._target_={re.escape(target)}: .*MEDASSAY_TRUSTED_PACKAGES$"):
        config.locate(target, "model")


@pytest.mark.parametrize(
    "target",
    [
        "medassay",
        "medassay.nets.nothing.Net",
        "medassay.nets.block_cnn.Net",
        "medassay.config.os.system",
        "medassay.",
        "medassay..Net",
    ],
)
def test_a_name_that_there_is_not_is_one_line(target: str) -> None:
    with pytest.raises(ConfigError, match=f"^model\\._target_={re.escape(target)}: no such class or function") as error:
        config.locate(target, "model")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "target", ["medassay.config", "medassay.config.os", "medassay.config.TRUSTED_ENVIRONMENT_VARIABLE"]
)
def test_a_name_of_something_that_cannot_be_called_is_one_line(target: str) -> None:
    with pytest.raises(ConfigError, match=f"^model\\._target_={re.escape(target)}: no such class or function"):
        config.check({"model": {"_target_": target}})


def test_a_constructor_is_found_by_its_name() -> None:
    assert config.locate("medassay.nets.block_cnn.BlockCNN", "model.net") is BlockCNN


def test_a_package_that_the_user_trusts_is_taken_too(own_package: ModuleType) -> None:
    assert config.locate("their_nets.Keeper", "model") is own_package.Keeper
    assert isinstance(config.build({"_target_": "their_nets.Keeper"}), own_package.Keeper)


def test_a_constructor_that_takes_any_key_is_given_any_key(own_package: ModuleType) -> None:
    node = {"_target_": "their_nets.Keeper", "anything": 3}
    config.check({"model": node})
    assert config.build(node).others == {"anything": 3}


# --- building --------------------------------------------------------------------------------------------------------


def test_nothing_is_built_from_null() -> None:
    assert config.build(None) is None


def test_a_node_is_built_with_the_nodes_in_it() -> None:
    task = config.build(model())
    assert isinstance(task, Classification)
    assert isinstance(task.net, BlockCNN)
    assert task.net.head.in_features == 2 * 2**2  # width 2, doubled twice


def test_arguments_from_python_are_passed_as_they_are(own_package: ModuleType) -> None:
    something = torch.nn.Linear(2, 2)
    assert config.build({"_target_": "their_nets.Keeper"}, thing=something).others["thing"] is something


def test_constructors_get_plain_lists_and_dictionaries(own_package: ModuleType) -> None:
    node = {"items": [1, 2], "table": {"a": [3]}, "deep": {"list": [{"x": [4]}]}}
    keeper = config.build({"_target_": "their_nets.Keeper", **node})

    def containers(value: Any) -> Iterator[Any]:
        yield value
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from containers(item)

    kept = {"items": keeper.items, "table": keeper.table, **keeper.others}
    assert kept == node
    assert not any(isinstance(value, (DictConfig, ListConfig)) for value in containers(kept))
    assert type(keeper.items) is list
    assert type(keeper.table) is dict


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_a_constructors_own_error_comes_out_unwrapped(depth: int, own_package: ModuleType) -> None:
    node: dict[str, Any] = {"_target_": "their_nets.ratio", "n": 0}
    for _ in range(depth):
        node = {"_target_": "their_nets.Keeper", "inner": node}
    with pytest.raises(UserError) as error:
        config.build(node)
    assert type(error.value) is ConfigError
    assert str(error.value) == "n=0: cannot divide by it"


def test_a_fault_in_a_constructor_is_no_user_error(own_package: ModuleType) -> None:
    with pytest.raises(Exception, match="a fault in the constructor") as error:
        config.build({"_target_": "their_nets.broken"})
    assert not isinstance(error.value, UserError)


@pytest.mark.parametrize(
    "target", ["os.getcwd", "medassay.config.checks.os.getcwd", "medassay.runs.directory.subprocess.getoutput"]
)
def test_building_too_refuses_what_is_not_trusted(target: str) -> None:
    with pytest.raises(Exception, match="whitelist"):
        config.build({"_target_": target})


# --- resolving -------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def resolvers() -> None:
    register_resolvers()


def resolve(**values: Any) -> dict[str, Any]:
    return config.resolve(OmegaConf.create(values))


def test_interpolations_are_resolved_to_plain_values() -> None:
    values = resolve(data={"classes": ["a", "b"]}, n="${medassay.len:${data.classes}}", copy="${data}")
    assert values == {"data": {"classes": ["a", "b"]}, "n": 2, "copy": {"classes": ["a", "b"]}}
    assert type(values["copy"]["classes"]) is list


def test_an_interpolation_that_points_nowhere_names_itself_and_its_key() -> None:
    with pytest.raises(ConfigError, match=r"^model\.size: .*data\.sise") as error:
        resolve(data={"size": 28}, model={"size": "${data.sise}"})
    assert "\n" not in str(error.value)


def test_a_mandatory_value_that_is_missing_names_its_key() -> None:
    with pytest.raises(ConfigError, match=r"^data\.path: ") as error:
        resolve(data={"path": "???"})
    assert "\n" not in str(error.value)


def test_an_unknown_resolver_names_its_key() -> None:
    with pytest.raises(ConfigError, match=r"^seed: .*medassay\.sluug"):
        resolve(seed="${medassay.sluug:x}")


def test_an_error_of_a_resolver_is_its_own_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"^data\.path={tmp_path}/none is not a directory: "):
        resolve(data={"classes": f"${{medassay.class_folders:{tmp_path}/none}}"})


# --- resolvers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("model.net.width=8,data.batch_size=32", "model.net.width-8-data.batch_size-32"),
        ("a/b\\c: d[e]{f}'g'", "a-b-c-d-e-f-g"),
        ("βήτα=1", "1"),
        ("../../etc", "etc"),
        ("-.hidden.-", "hidden"),
        ("", ""),
    ],
)
def test_a_jobs_name_uses_only_characters_that_every_file_system_takes(text: str, name: str) -> None:
    assert config.make_slug(text) == name


def test_a_jobs_name_is_shortened_and_does_not_end_in_a_dash() -> None:
    assert config.make_slug("x" * 200) == "x" * 60
    assert config.make_slug("abcd=efgh", 5) == "abcd"
    assert config.make_slug("x" * 20, length=7) == "x" * 7


def test_two_runs_of_the_same_second_are_told_apart_by_four_hexadecimal_digits() -> None:
    ids = [config.make_run_id("bloodmnist") for _ in range(50)]
    assert all(re.fullmatch(r"[0-9a-f]{4}", text) for text in ids)
    assert len(set(ids)) > 40


def test_a_run_on_phantoms_says_so_in_its_name() -> None:
    assert re.fullmatch(r"[0-9a-f]{4}_blood_phantom", config.make_run_id("blood_phantom"))


def test_the_run_id_is_the_same_wherever_one_configuration_names_it() -> None:
    values = resolve(a="${medassay.run_id:x}", b="${medassay.run_id:x}")
    assert values["a"] == values["b"]


def test_text_is_never_an_interpolation_for_a_constructor(own_package: ModuleType) -> None:
    names = ["${oc.env:HOME}", "a\\${b}", "c\\d", "${", "e\\"]
    built = config.build({"_target_": "their_nets.Keeper", "inner": {"classes": names, "one": names[0]}})
    assert built.others["inner"] == {"classes": names, "one": names[0]}


@pytest.mark.parametrize("classes", [[10, 2, 1], ["a", 3]])
def test_class_names_that_look_like_numbers_are_told_how_to_be_quoted(classes: list[Any]) -> None:
    node = {"_target_": "medassay.data.sources.folder_data", "name": "x", "path": "x", "classes": classes}
    with pytest.raises(ConfigError, match=r"quoted twice: data\.classes=") as error:
        config.check(node, "data")
    advised = str(error.value).split("quoted twice: ")[1]
    (argument,) = shlex.split(advised)
    (override,) = OverridesParser.create().parse_overrides([argument])
    assert override.value() == [str(name) for name in classes]


# --- composing -------------------------------------------------------------------------------------------------------


def test_the_yaml_files_are_found() -> None:
    assert (config.find_conf_directory() / "train.yaml").is_file()
    assert (config.find_conf_directory() / "evaluate.yaml").is_file()


def test_composing_gives_the_configuration_and_the_run_directory(tmp_path: Path) -> None:
    cfg = config.compose("train", ["model=cgan", "data=blood_phantom", "seed=7", f"outputs={tmp_path}"])
    directory = config.find_run_directory(cfg)
    assert (cfg.recipe.name, cfg.data.name, cfg.seed) == ("cgan", "blood_phantom", 7)
    assert "hydra" not in config.drop_hydra(cfg)
    assert directory.parent == tmp_path / "cgan"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_[0-9a-f]{4}_blood_phantom", directory.name)
    assert not directory.exists()


def test_composing_twice_gives_two_directories_even_in_one_second() -> None:
    names = {config.find_run_directory(config.compose("train", ["data=chest_phantom"])).name for _ in range(2)}
    assert len(names) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"seed: 1\nnotes:\n\t- a\n", "mine.yaml, line 3: no valid YAML (found character that cannot start any token)"),
        (
            b"tags: [a, b\nseed: 1\n",
            "mine.yaml, line 2: no valid YAML (did not find expected ',' or ']', while parsing a ",
        ),
        (b"seed: 1\nnotes: a\nseed: 2\n", "mine.yaml, line 3: no valid YAML (found duplicate key seed, while "),
        (b"notes: a\x07b\n", "mine.yaml: no valid YAML (unacceptable character #x0007"),
        ("# eins\nnotes: für\n".encode("latin-1"), "mine.yaml, line 2: this is no text in UTF-8"),
    ],
    ids=["tab", "open bracket", "key twice", "control character", "Latin-1"],
)
def test_a_fault_in_a_yaml_of_the_users_names_file_and_line(text: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_bytes(text)
    with pytest.raises(ConfigError) as caught:
        config.compose("train", ["experiment=mine", f"hydra.searchpath=[file://{tmp_path}]"])
    assert str(caught.value).startswith(f"{tmp_path}/experiment/{message}")


def test_text_that_cannot_be_decoded_elsewhere_is_no_matter_of_a_yaml() -> None:
    with pytest.raises(UnicodeDecodeError) as caught:
        b"\xff".decode()
    assert explain(caught.value) is None


def test_composing_leaves_hydra_ready_for_another_caller() -> None:
    from hydra.core.global_hydra import GlobalHydra

    config.compose("train", [])
    assert not GlobalHydra.instance().is_initialized()
