"""Licence and citation of data sets, beside the comments of their yamls."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from medassay.data.origins import MEDMNIST, SOURCES, find_origin

CONF = Path(__file__).parents[2] / "conf" / "data"
PUBLISHED = {str(flag): file for file in sorted(CONF.glob("*.yaml")) if (flag := OmegaConf.load(file).get("flag"))}


@pytest.mark.parametrize("flag", PUBLISHED)
def test_a_published_set_has_the_licence_and_the_authors_of_its_yaml(flag: str) -> None:
    comment = PUBLISHED[flag].read_text().partition("defaults:")[0].replace("\n#", "")
    origin = find_origin({"published": True, "md5": "x"}, flag)
    assert origin.licence is not None
    assert f"{origin.licence}" in comment
    assert origin.citation[-1] == MEDMNIST
    for work in origin.citation[:-1]:
        assert work.partition(" ")[0] in comment  # the first author


def test_every_set_named_here_has_a_yaml() -> None:
    assert set(SOURCES) == set(PUBLISHED)


def test_a_file_of_ones_own_has_no_licence_that_we_know_even_under_a_published_name() -> None:
    origin = find_origin({"published": False, "file": "mine.npz"}, "bloodmnist")
    assert (origin.licence, origin.citation) == (None, ())
    assert "mine.npz" in origin.source


def test_phantoms_and_samples_say_what_they_are() -> None:
    phantom = find_origin({"phantom": True}, None)
    assert "Rendered" in phantom.source
    samples = find_origin({"file": "samples.npz", "published": False, "real": {"published": True}}, "bloodmnist")
    assert samples.source.startswith("Images from a generator")
    assert samples.licence == "CC BY 4.0"
    assert find_origin({}, None).source == "Not stated."
