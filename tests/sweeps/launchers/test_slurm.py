"""Jobs through submitit: on this machine, and on a cluster whose commands are stood in for."""

from __future__ import annotations

import importlib.util
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from medassay.core.errors import ConfigError, Interrupted
from medassay.sweeps.launchers import slurm
from medassay.sweeps.launchers.slurm import SlurmLauncher

from .cluster_job import DIES, FAILS, FINISHED_BEFORE, GOES_WELL, TAKES_LONG, TIMES_OUT, interrupt_once, run_of, start

LOCAL = ("hydra/launcher=slurm", "hydra.launcher.cluster=local", "hydra.launcher.gpus_per_node=0")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The directory of a sweep with every kind of job, and what the command said."""
    directory = tmp_path_factory.mktemp("slurm") / "sweep"
    seeds = (GOES_WELL, FAILS, DIES, TIMES_OUT, FINISHED_BEFORE)
    said, _ = start(directory, seeds, *LOCAL, "hydra.launcher.cpus_per_task=3").communicate()
    return directory, said


def test_a_job_that_goes_well_says_its_result(sweep: tuple[Path, str]) -> None:
    assert re.search(r"done in \d+ s, 0\.0000$", sweep[1], re.MULTILINE)


def test_a_job_has_the_threads_that_are_its_cores(sweep: tuple[Path, str]) -> None:
    assert run_of(sweep[0], GOES_WELL)["threads"] == "3"


def test_a_job_that_raises_is_failed_with_its_reason(sweep: tuple[Path, str]) -> None:
    assert run_of(sweep[0], FAILS)["reason"] == "ValueError: no such luck"


def test_a_job_that_is_killed_is_failed_and_names_its_log(sweep: tuple[Path, str]) -> None:
    record = run_of(sweep[0], DIES)
    log = Path(record["reason"].rpartition("see ")[2])
    assert (record["status"], log.is_file()) == ("failed", True)


def test_a_job_at_its_time_limit_is_started_again_and_goes_on(sweep: tuple[Path, str]) -> None:
    record = run_of(sweep[0], TIMES_OUT)
    assert (record["status"], len(record["starts"])) == ("done", 2)


def test_a_finished_job_is_not_queued(sweep: tuple[Path, str]) -> None:
    assert "1 of 5 jobs were finished before" in sweep[1]
    assert run_of(sweep[0], FINISHED_BEFORE) == {}


def test_an_interrupted_sweep_leaves_interrupted_jobs(tmp_path: Path) -> None:
    command = start(tmp_path, [TAKES_LONG], *LOCAL)
    interrupt_once(command, tmp_path, (TAKES_LONG, "running"))
    assert run_of(tmp_path, TAKES_LONG)["status"] == "interrupted"


# --- a cluster -------------------------------------------------------------------------------------------------------

CLUSTER = f"""#!{sys.executable}
# sbatch, srun and sacct, as far as submitit needs them: an array's jobs start at once, here
import os, pathlib, re, subprocess, sys
name, args, home = pathlib.Path(sys.argv[0]).name, sys.argv[1:], pathlib.Path(__file__).parent
if name == "sbatch":
    script = pathlib.Path(args[0]).read_text()
    (home / "script.sh").write_text(script)
    last = int(re.search(r"--array=0-(\\d+)", script)[1])
    for task in range(last + 1):
        ids = {{"SLURM_JOB_ID": str(70 + task), "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(task)}}
        command = f"bash {{home}}/script.sh > /dev/null 2>&1; touch {{home}}/ended_{{task}}"
        quiet = {{"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}}
        subprocess.Popen(command, shell=True, env={{**os.environ, **ids}}, start_new_session=True, **quiet)
    print("Submitted batch job 7")
elif name == "srun":
    command = args[next(i for i, a in enumerate(args) if a == sys.executable):]
    error = args[args.index("--error") + 1].replace("%A", "7").replace("%a", os.environ["SLURM_ARRAY_TASK_ID"])
    pathlib.Path(error).parent.mkdir(parents=True, exist_ok=True)
    sys.exit(subprocess.call(command, stdout=subprocess.DEVNULL, stderr=open(error.replace("%t", "0"), "w")))
elif name == "sacct":
    print("JobID|State|NodeList")
    for task in range(2):
        print(f"7_{{task}}|" + ("FAILED" if (home / f"ended_{{task}}").exists() else "RUNNING") + "|here")
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The directory of a sweep on the cluster, and the script that it queued."""
    top = tmp_path_factory.mktemp("cluster")
    (top / "bin").mkdir()
    for name in ("sbatch", "srun", "sacct"):
        (top / "bin" / name).write_text(CLUSTER)
        (top / "bin" / name).chmod(0o755)
    options = ("partition=gpu", "account=lab", "mem_gb=8", "cpus_per_task=2", "timeout_min=90", "array_parallelism=5")
    more = ("setup=[module load cuda]", "additional_parameters={constraint: a100}")
    overrides = [f"hydra.launcher.{option}" for option in (*options, *more)]
    command = start(
        top / "sweep", [GOES_WELL, DIES], "hydra/launcher=slurm", *overrides, PATH=f"{top / 'bin'}:/usr/bin:/bin"
    )
    said, _ = command.communicate()
    assert "[2/2]" in said, said
    return top / "sweep", (top / "bin" / "script.sh").read_text()


@pytest.mark.parametrize(
    "option",
    [
        "--partition=gpu",
        "--account=lab",
        "--mem=8GB",
        "--cpus-per-task=2",
        "--time=90",
        "--array=0-1%2",
        "--gpus-per-node=1",
        "--constraint=a100",
        "--job-name=sweep",
    ],
)
def test_options_reach_the_batch_script(cluster: tuple[Path, str], option: str) -> None:
    assert f"#SBATCH {option}\n" in cluster[1]


def test_setup_commands_come_before_the_job(cluster: tuple[Path, str]) -> None:
    assert 0 < cluster[1].index("\nmodule load cuda\n") < cluster[1].index("\nsrun ")


def test_a_job_on_the_cluster_gets_all_its_cores(cluster: tuple[Path, str]) -> None:
    srun = next(line for line in cluster[1].splitlines() if line.startswith("srun "))
    assert " --cpus-per-task=2 " in srun


def test_a_job_killed_on_the_cluster_is_failed_and_the_other_done(cluster: tuple[Path, str]) -> None:
    assert run_of(cluster[0], GOES_WELL)["status"] == "done"
    assert "ended without a result (FAILED)" in run_of(cluster[0], DIES)["reason"]


def at_its_limit(monkeypatch: pytest.MonkeyPatch, exit_code: int) -> None:
    """A job that reaches its time limit, with ``scontrol requeue`` ending so."""

    def scontrol(signum: int, frame: Any) -> None:
        raise subprocess.CalledProcessError(exit_code, ["scontrol", "requeue", "7"])

    def interrupted(given: bytes) -> None:
        raise Interrupted(signal.SIGUSR2)

    monkeypatch.setenv("SUBMITIT_LOG_LEVEL", "NOCONFIG")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setattr(slurm, "run_payload", interrupted)
    before = signal.signal(signal.SIGUSR2, scontrol)
    try:
        slurm.QueuedJob(b"")()
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_job_that_slurm_ends_while_it_is_queued_again_leaves_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        at_its_limit(monkeypatch, -signal.SIGTERM)


def test_a_job_that_cannot_be_queued_again_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        at_its_limit(monkeypatch, 1)


# --- errors ----------------------------------------------------------------------------------------------------------


def set_up(launcher: Any) -> None:
    launcher.setup(hydra_context=None, task_function=None, config=None)


def test_without_submitit_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs submitit: pip install 'medassay\[slurm\]'"):
        set_up(SlurmLauncher())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"cluster": "lsf"}, "cluster=lsf"),
        ({"timeout_min": 0}, "timeout_min=0"),
        ({"gpus_per_node": -1}, "gpus_per_node=-1"),
        ({"array_parallelism": 0}, "array_parallelism=0"),
    ],
)
def test_a_wrong_setting_is_named(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=f"hydra.launcher.{named}: "):
        set_up(SlurmLauncher(**arguments))
