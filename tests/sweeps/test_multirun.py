"""Sweeps as their user sees them: started, killed, stopped, started again. Most jobs here train nothing; some do."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from medassay import cli
from medassay.config.command_line import parse, quote_value
from medassay.core.errors import ConfigError, DataError
from medassay.sweeps import multirun
from medassay.sweeps.directory import SweepDirectory, register_resolvers

ROOT = Path(__file__).parents[2]
JOBS = ROOT / "tests" / "sweeps" / "launchers"  # where sweep_jobs is
LIMIT = 120  # seconds: far beyond what any of these takes, so that a hang is a failure
unix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


class Ended(NamedTuple):
    """How a command ended, and what it wrote to the terminal."""

    code: int
    out: str
    err: str


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join([str(JOBS), *sys.path])}


def started(*argv: str) -> subprocess.Popen[str]:
    """``train -m`` with jobs that train nothing, in a process of its own."""
    line = [sys.executable, "-W", "error", "-c", "import sys, sweep_jobs; sys.exit(sweep_jobs.main(sys.argv[1:]))"]
    fixed = ["-m", "data=chest_phantom"]
    return subprocess.Popen(
        [*line, *fixed, *argv], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen[str]) -> Ended:
    try:
        out, err = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
        process.wait()
    return Ended(process.returncode, out, err)


def until(condition: Callable[[], Any], process: subprocess.Popen[str] | None = None) -> None:
    """Waits for ``condition``; fails if ``process`` ends before."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")  # a process that has ended and that nobody has asked about is not alive
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


def read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def states(sweep: Path) -> list[str]:
    return sorted(read(file)["status"] for file in sweep.glob("*/run.json"))


# --- stopped and started again ---------------------------------------------------------------------------------------


EPOCHS = 4
PARALLEL = ("hydra/launcher=local_parallel", "hydra.launcher.jobs=2", "hydra.launcher.gpus=[]")
STOPPED = ("seed=0,1,2", f"+epochs={EPOCHS}", "+pause=0.4", "sweep.name=stopped", *PARALLEL)
WAITING = ("seed=0,1,2", f"+epochs={EPOCHS}", "+do=wait", "sweep.name=stopped", *PARALLEL)


def expected() -> dict[int, float]:
    """What an uninterrupted sweep gives for each seed: the formula of the jobs, computed here."""
    numbers = {}
    for seed in (0, 1, 2):
        number = seed
        for epoch in range(EPOCHS):
            number = (number * 1103515245 + 12345 + epoch) % 2**31
        numbers[seed] = number / 2**31
    return numbers


def table(sweep: Path) -> dict[int, float]:
    found = [read(job.directory / "metrics.json") for job in SweepDirectory(sweep).jobs()]
    return {numbers["seed"]: numbers["val"]["auroc"] for numbers in found}


@unix
@pytest.mark.parametrize("moment", [pytest.param("jobs are listed", marks=pytest.mark.long), "two checkpoints"])
def test_after_kill_9_the_jobs_end_too_and_a_restart_gives_the_numbers_of_an_uninterrupted_sweep(
    moment: str, tmp_path: Path
) -> None:
    sweep = tmp_path / "outputs" / "sweeps" / "stopped"
    process = started(*STOPPED)
    if moment == "two checkpoints":
        until(lambda: len(list(sweep.glob("*/checkpoint.json"))) == 2, process)
    else:
        until(lambda: SweepDirectory(sweep).jobs(), process)
    process.kill()
    ended(process)
    pids = {read(file)["process"]["pid"] for file in sweep.glob("*/run.json") if "process" in read(file)}
    again = ended(started(*STOPPED))  # at once
    assert again.code == 0, again
    assert table(sweep) == expected()
    assert not any(is_alive(pid) for pid in pids)
    for file in sweep.glob("*/trained.txt"):
        trained = file.read_text().split()
        assert len(trained) <= EPOCHS + 1, "it continued where it stopped, with one epoch replayed at most"
        assert trained[-1] == str(EPOCHS)


@unix
@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)]
)
def test_a_sweep_that_is_stopped_records_its_running_jobs_and_says_how_to_go_on(
    signum: signal.Signals, code: int, tmp_path: Path
) -> None:
    sweep = tmp_path / "outputs" / "sweeps" / "stopped"
    process = started(*WAITING)
    until(lambda: len(list(sweep.glob("*/checkpoint.json"))) == 2, process)
    process.send_signal(signum)
    stopped = ended(process)
    assert stopped.code == code
    assert stopped.err == "medassay: interrupted; finished jobs are kept: start the same command again to continue\n"
    assert states(sweep) == ["interrupted", "interrupted"]
    (sweep / "go").touch()
    again = ended(started(*WAITING))
    assert (again.code, again.err) == (0, "")
    assert table(sweep) == expected()


@unix
def test_an_unnamed_sweep_that_is_stopped_says_the_name_to_go_on_with(tmp_path: Path) -> None:
    process = started("seed=0,1", "+epochs=1000", "+pause=0.1")
    until(lambda: list((tmp_path / "outputs").glob("sweeps/*/*/checkpoint.json")), process)
    process.send_signal(signal.SIGINT)
    stopped = ended(process)
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    assert stopped.code == 130
    assert stopped.err.endswith(f"start the same command again with sweep.name={sweep.name} to continue\n")
    assert states(sweep) == ["interrupted"]


# --- two commands at once --------------------------------------------------------------------------------------------


def test_of_two_equal_commands_started_at_once_one_is_refused_and_names_the_other(tmp_path: Path) -> None:
    argv = ("seed=0,1", "+do=wait", "sweep.name=same")
    processes = [started(*argv), started(*argv)]
    until(lambda: any(process.poll() is not None for process in processes))
    refused, working = sorted(processes, key=lambda process: process.poll() is None)
    sweep = tmp_path / "outputs" / "sweeps" / "same"
    (sweep / "go").touch()
    message = ended(refused)
    assert message.code == 2
    assert message.err.count("\n") == 1
    assert f"being run by process {working.pid} on " in message.err
    assert ended(working).code == 0
    assert states(sweep) == ["done", "done"]
    begun = [json.loads(line) for line in (sweep / "processes.jsonl").read_text().splitlines()]
    assert {line["pid"] for line in begun} == {working.pid}


def test_two_unnamed_sweeps_at_the_same_moment_have_directories_of_their_own() -> None:
    register_resolvers()
    directories = {multirun._prepare_sweep(parse(["data=chest_phantom", "seed=0,1"]))[0] for _ in range(2)}
    assert len(directories) == 2


# --- the command line ------------------------------------------------------------------------------------------------


def prepared(*argv: str) -> list[str]:
    register_resolvers()
    return multirun._prepare_sweep(parse(["data=chest_phantom", *argv]))[2]


@pytest.mark.parametrize(
    ("argv", "test"),
    [
        (["seed=0,1"], "true"),
        (["seed=range(0,3)"], "true"),
        (["seed=0,1", "model.net.width=2"], "true"),
        (["seed=0,1", "model.net.width=2,3"], "false"),
        (["model.net.width=2,3"], "false"),
        (["+hydra.sweeper.params={model.net.width: '2,3'}", "seed=0,1"], "false"),
        (["+hydra.sweeper.params={seed: '0,1'}"], "true"),
        (["hydra/sweeper=arguments", "seed=0,1"], "true"),
        (["hydra/sweeper=optuna_study", "seed=choice(0,1)"], "true"),
        (["hydra/sweeper=optuna_study", "hydra.sweeper.custom_search_space=a.suggest", "seed=choice(0,1)"], "false"),
        (["hydra/sweeper=optuna_study", "hydra.sweeper.custom_search_space=a.suggest"], "false"),
    ],
)
def test_jobs_look_at_test_images_only_where_nothing_is_chosen_among_them(argv: list[str], test: str) -> None:
    assert f"test={test}" in prepared(*argv)


@pytest.mark.parametrize("argv", [["test=false"], ["test=true", "model.net.width=2,3"]])
def test_what_is_said_about_test_images_holds(argv: list[str]) -> None:
    assert not any(added.startswith("test=") for added in prepared("seed=0,1", *argv))


def test_hydras_own_launcher_is_replaced_and_a_chosen_one_is_not() -> None:
    assert "hydra/launcher=serial" in prepared("seed=0,1")
    assert not any("launcher" in added for added in prepared("seed=0,1", "hydra/launcher=local_parallel"))


def test_a_launcher_that_cannot_skip_jobs_is_replaced_with_a_line_that_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "hydra/launcher=serial" in prepared("seed=0,1", "hydra/launcher=basic")
    assert capsys.readouterr().err.count("hydra/launcher=serial runs them") == 1


def test_an_old_key_that_a_search_sweeps_over_is_answered_with_the_new_one_before_any_job() -> None:
    with pytest.raises(
        ConfigError, match=r"^hydra\.sweeper\.params\.model\.recipe\.batch_size: it is called recipe\.batch_size now$"
    ):
        prepared("+hydra.sweeper.params={model.recipe.batch_size: '32,64'}")


@pytest.mark.parametrize("argument", ["sweep.name=a,b", "outputs=a,b", "hydra/launcher=serial,local_parallel"])
def test_what_belongs_to_the_whole_sweep_has_one_value(argument: str) -> None:
    with pytest.raises(ConfigError, match="one value for the whole sweep"):
        prepared(argument)


@pytest.mark.parametrize(
    ("argument", "fact"),
    [
        ("sweep.name=../x", "it names a directory"),
        ("sweep.nam=x", "Did you mean 'sweep.name'"),
        ("sweep.keep=some", "expected one of best, none, all"),
        ("sweep.metric=test/auroc", "chosen on validation data"),
        ("sweep.metric=val/loss", "belong together"),
        ("hydra/launcher=parallel", "Accepted"),
        ("hydra.launcher.jobs=two", "hydra.launcher.jobs"),
    ],
)
def test_what_is_wrong_with_a_sweep_is_one_line_and_leaves_no_directory(
    argument: str, fact: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher = ["hydra/launcher=local_parallel"] if "launcher." in argument else []
    code = cli.main("train", ["-m", "data=chest_phantom", "seed=0,1", *launcher, argument])
    captured = capsys.readouterr()
    assert (code, captured.err.count("\n")) == (2, 1), captured
    assert fact in captured.err
    assert not list((tmp_path / "outputs").glob("sweeps/*"))


def test_a_directory_with_spaces_and_signs_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(multirun, "_launch", lambda argv: asked.append(list(argv)))
    monkeypatch.setattr(multirun, "_conclude", lambda *_: 0)
    there = tmp_path / "a=b [c], it's"
    argv = ["-m", "data=chest_phantom", "seed=0,1", f"outputs={quote_value(str(there))}", "sweep.name=x"]
    assert cli.main("train", argv) == 0
    (given,) = parse([asked[0][-1]])
    assert (given.key_or_group, given.value()) == ("hydra.sweep.dir", str(there / "sweeps" / "x"))


@pytest.mark.parametrize(("first", "code"), [(KeyboardInterrupt, 130), (DataError, 2)])
@pytest.mark.parametrize("record", [b"{", None])
def test_a_second_fault_at_the_end_of_a_sweep_hides_nothing(
    first: type[BaseException],
    code: int,
    record: bytes | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    sweep = tmp_path / "sweep"

    def spoil(argv: list[str]) -> None:
        if record is None:
            shutil.rmtree(sweep)
        else:
            (sweep / "sweep.json").write_bytes(record)
        raise first("the first reason")

    monkeypatch.setattr(multirun, "_launch", spoil)
    assert cli.main("train", ["-m", "data=chest_phantom", "seed=0,1", f"hydra.sweep.dir={sweep}"]) == code
    assert {130: "interrupted; finished jobs are kept", 2: "the first reason"}[code] in capsys.readouterr().err


# --- a study that ends early ------------------------------------------------------------------------------------------


def test_a_study_that_ends_early_is_summarised_and_says_so_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(JOBS)
    monkeypatch.setattr(multirun, "TrainJob", importlib.import_module("sweep_jobs").FakeJob)
    argv = ["-m", "data=chest_phantom", "seed=choice(0,1)", "+do=fail", "hydra/sweeper=optuna_study", "sweep.name=ends"]
    assert cli.main("train", [*argv, "hydra.sweeper.max_failure_rate=0.5", "sweep.final=true"]) == 1
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1].startswith("medassay: the study ended: 2 of 2 trials")
    assert "Traceback" not in captured.err
    sweep = tmp_path / "outputs" / "sweeps" / "ends"
    assert "Failed: 2" in (sweep / "summary.md").read_text()
    assert read(sweep / "sweep.json")["ended"] is not None


# --- jobs that train -------------------------------------------------------------------------------------------------

REAL = (
    *(
        "-m",
        "data=chest_phantom",
        "data.train=64",
        "data.val=32",
        "data.test=32",
        "data.batch_size=16",
        "trainer.gpus=0",
    ),
    *(
        "trainer.threads=1",
        "model.net.width=2",
        "logger=none",
        "callbacks.early_stopping=null",
        "model.net.dropout=0.3",
    ),
)


def test_a_sweep_from_its_command_to_the_test_of_what_it_chose(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*REAL, "trainer.max_epochs=2", "model.optimizer.lr=1e-3,1e-2", "sweep.name=small", "sweep.final=true"]
    assert cli.main("train", [*argv, "sweep.final_seeds=[0,1]"]) == 0, capsys.readouterr().err
    sweep = tmp_path / "outputs" / "sweeps" / "small"
    for name in ("summary.csv", "summary.md", "sweep.html", "multirun.yaml"):
        assert (sweep / name).stat().st_size > 0
    record = read(sweep / "sweep.json")
    assert (record["name"], len(record["jobs"]), record["ended"] is None) == ("small", 2, False)
    jobs = {next(o for o in job.overrides if ".lr=" in o): job.directory for job in SweepDirectory(sweep).jobs()}
    ranked = {lr: read(directory / "metrics.json") for lr, directory in jobs.items()}
    assert not any("test" in numbers for numbers in ranked.values())
    best = max(ranked, key=lambda lr: ranked[lr]["val"]["auroc"])
    assert best in record["chosen"]["overrides"]
    assert record["chosen"]["mean"] == pytest.approx(ranked[best]["val"]["auroc"])
    (further,) = SweepDirectory(sweep).jobs(final=True)
    assert {best, "seed=1"} <= set(further.overrides)
    tested = {file.parents[2] for file in sweep.glob("*/eval/*/metrics.json")}
    assert tested == {jobs[best], further.directory}  # the chosen configuration, it alone


@pytest.mark.long
@unix
@pytest.mark.parametrize(("whom", "jobs"), [("the command alone", 1), ("every process", 2)])
def test_after_kill_9_training_jobs_end_with_the_numbers_of_an_uninterrupted_sweep_bit_for_bit(
    whom: str, jobs: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = tmp_path / "outputs" / "sweeps" / "cut"
    argv = [*REAL, "trainer.max_epochs=12", "seed=0,1", "test=false"]
    line = [sys.executable, str(ROOT / "train.py"), *argv, "sweep.name=cut", "hydra/launcher=local_parallel"]
    line += [f"hydra.launcher.jobs={jobs}", "hydra.launcher.gpus=[]"]
    process = subprocess.Popen(line, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(lambda: list(sweep.glob("*/checkpoints/last.ckpt")), process)
    process.kill()
    ended(process)
    pids = [read(file)["process"]["pid"] for file in sweep.glob("*/run.json")]
    if whom == "every process":
        for pid in filter(is_alive, pids):
            os.kill(pid, signal.SIGKILL)
    until(lambda: not any(map(is_alive, pids)))
    trained = sum(len(read(file)["rows"]) for file in sweep.glob("*/history.json"))
    assert 0 < trained < 12 * jobs, "it was killed too late"
    assert cli.main("train", [*argv, "sweep.name=cut"]) == 0, capsys.readouterr().err
    assert cli.main("train", [*argv, "sweep.name=straight"]) == 0, capsys.readouterr().err
    assert len(SweepDirectory(sweep).jobs()) == 2
    for run in SweepDirectory(sweep).jobs():
        straight = sweep.with_name("straight") / run.directory.name
        for name in ("metrics.json", "history.json"):
            assert (run.directory / name).read_bytes() == (straight / name).read_bytes()
