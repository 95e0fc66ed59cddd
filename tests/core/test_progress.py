"""Progress: a bar on a terminal, a line now and then elsewhere, and nothing for short work."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from medassay.core import progress


class Clock:
    """Each look at it is ten seconds later."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 10
        return self.now


def test_long_work_says_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(progress, "time", Clock())
    assert list(progress.track(range(1_000), "sampling", "images")) == list(range(1_000))
    first, *_, last = caplog.messages
    assert first == "sampling: 3 of 1,000 images, 40 s"
    assert last.startswith("sampling: 99")  # the end needs no line
    assert len(caplog.messages) < 1_000 / 3


def test_short_work_says_nothing(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(logging.INFO)
    assert list(progress.track([1, 2], "sampling", "images")) == [1, 2]
    assert not caplog.messages
    assert capsys.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_a_bar_and_no_lines(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(progress, "SECONDS", 0)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.Progress(2, "training", "classifiers") as counter:
        counter.advance(doing="TSTR")
        counter.advance()
    assert "training" in terminal.getvalue()
    assert "TSTR" in terminal.getvalue()
    assert not caplog.messages


def test_without_a_title_nothing_is_shown(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(progress, "SECONDS", 0)
    assert list(progress.track([1, 2, 3], None, "images")) == [1, 2, 3]
    assert not caplog.messages


def test_work_that_breaks_off_leaves_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    counter = progress.Progress(2, "training", "classifiers")
    with pytest.raises(KeyError), counter:
        raise KeyError
    assert counter._bar.disable  # as tqdm is after it was closed
