"""The study of the audits' verdicts: its arms compose, counts and intervals are right, what is there is not trained again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medassay.core.errors import UserError
from medassay.core.files import read_json
from medassay.evaluation.evaluate import load_protocol_node
from medassay.runs.check import check_training
from medassay.runs.compose import compose_training
from tests.helpers import load_script

study = load_script("audit_study")
ARMS = [(audit, arm) for audit, one in study.STUDIES.items() for arm in one.arms]


@pytest.mark.parametrize(("audit", "arm"), ARMS)
def test_every_arm_composes_and_its_images_are_of_its_seed(audit: str, arm: str) -> None:
    config = compose_training(study.list_settings(study.STUDIES[audit], arm, [], 3))
    assert (config.seed, config.data.phantom_seed, config.test) == (3, 3, False)
    if config.data.group.kind != "none":
        assert config.data.group.seed == 3


@pytest.mark.parametrize("audit", study.STUDIES)
def test_an_arm_of_each_kind_is_the_default_and_the_audit_knows_its_settings(audit: str) -> None:
    one = study.STUDIES[audit]
    assert [one.arms[arm].fault for arm in study.choose_arms(one, None)] == [True, False]
    assert load_protocol_node(audit, **one.protocol)["name"] == audit


@pytest.mark.parametrize("arm", ["clean", "infected", "every"])
def test_data_from_elsewhere_are_taken_as_they_are(arm: str) -> None:
    settings = study.list_settings(study.STUDIES["shortcut"], arm, ["data=pneumoniamnist"], 0)
    assert check_training(compose_training(settings))["data"]["name"] == "pneumoniamnist"
    assert not any(text.startswith("data.phantom_seed") for text in settings)
    asked = study.list_settings(study.STUDIES["shortcut"], arm, ["data=pneumoniamnist", "data.subset=64"], 0)
    assert "data.subset=64" in asked


def test_groups_drawn_into_phantoms_are_refused_with_other_data() -> None:
    with pytest.raises(UserError, match=r"data=pneumoniamnist: the groups of arm 'planted' are drawn into phantoms"):
        study.list_settings(study.STUDIES["fairness"], "planted", ["data=pneumoniamnist"], 0)


def test_settings_are_divided_between_training_and_audit() -> None:
    training, protocol = study.divide(
        study.STUDIES["shortcut"], ["protocol.heat_maps=50", "data.train=64", "protocol.a=[b]", "protocol.c=[1]"]
    )
    assert training == ["data.train=64"]
    assert protocol == {"heat_maps": 50, "a": "[b]", "c": [1]}


def test_rates_have_exact_intervals_and_missing_numbers_a_dash() -> None:
    one = study.STUDIES["shortcut"]
    rows: list[dict[str, Any]] = [{"level": "learned", "numbers": {"x": 0.25, "y": None}} for _ in range(10)]
    found = study.summarise(one, "infected", rows)
    assert (found["n"], found["found"], found["levels"], found["fault"]) == (10, 10, {"learned": 10}, True)
    assert found["interval_95"] == [pytest.approx(0.025**0.1), 1]
    line = study.format_table("shortcut", {"infected": found}).splitlines()[4]
    assert line == "| infected | yes | 10 | 10 | [0.69, 1.00] | 10 learned | 0.25 to 0.25 | – |"


FEW = {"shortcut": ["protocol.heat_maps=2"], "inversion": ["protocol.images=1"]}


@pytest.mark.long
@pytest.mark.parametrize("audit", study.STUDIES)
def test_a_study_trains_audits_and_goes_on_from_what_is_there(
    audit: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arm = study.choose_arms(study.STUDIES[audit], None)[1]
    command = [audit, str(tmp_path), "--arms", arm, "data.train=64", "data.val=32", "data.test=256"]
    command += ["trainer.max_epochs=2", "trainer.gpus=0", *FEW.get(audit, [])]
    assert study.main([*command, "--seeds", "1"]) == 0
    first = read_json(tmp_path / "study.json")["nets"]
    assert set(first[0]["numbers"].values()) != {None}  # one or other may be undefined of a net that learnt nothing
    written = (tmp_path / f"{arm}_seed-0" / "metrics.json").stat().st_mtime_ns
    assert study.main([*command, "--seeds", "2"]) == 0
    both = read_json(tmp_path / "study.json")["nets"]
    assert both[0] == first[0]
    assert [row["seed"] for row in both] == [0, 1]
    assert (tmp_path / f"{arm}_seed-0" / "metrics.json").stat().st_mtime_ns == written
    assert f"| {arm} | no | 2 | " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "said"), [(["--arms", "ill"], "no such arm: ill"), (["protocol.heat_maps"], "protocol.<key>=<value>")]
)
def test_wrong_words_are_one_line(
    given: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study.main(["shortcut", str(tmp_path), *given]) == 2
    assert said in capsys.readouterr().err
