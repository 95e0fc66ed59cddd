"""``--help``, shell completion, and the next commands that a training names."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from medassay import cli
from medassay.config.command_line import find_value, format_shell_override, parse
from tests.helpers import Command

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_says_what_the_command_is_for_gives_five_examples_and_no_dump(flag: str, command: Command) -> None:
    result = command("train", flag)
    assert result.code == 0
    assert result.out.startswith("Trains a model on medical images")
    assert result.out.count("\n  python train.py ") == 5
    assert "ydra is" not in result.out
    assert "powered by" not in result.out
    assert "_target_" not in result.out


@pytest.mark.parametrize(
    ("argv", "files"),
    [
        (["train"], ["train", "trainer/default", "data/base/options", "model/pneumonia_cnn", "model/net/block_cnn"]),
        (["train", "model=cvae"], ["model/net/cvae"]),
        (["evaluate"], ["evaluate", "protocol/classification"]),
        (["evaluate", "protocol=gradcam"], ["protocol/gradcam"]),
    ],
)
def test_help_has_the_comment_of_every_key(argv: list[str], files: list[str], command: Command) -> None:
    shown = command(argv[0], "--help", *argv[1:]).out
    for file in files:
        text = (CONF / f"{file}.yaml").read_text().partition("\nhydra:")[0].partition("\n\nseed:")
        for comment in re.findall(r"^ *\w+:.*?\s# (.+)$", "seed:".join(text[1:]) or text[0], flags=re.MULTILINE):
            assert f"# {comment}" in shown


def test_help_of_another_choice_shows_its_value_and_its_own_comment(command: Command) -> None:
    shown = command("train", "--help", "model=cgan", "model/optimizer=adamw").out
    assert re.search(r"model\.optimizer\.lr=0\.0002 +# learning rate of generator and discriminator alike", shown)
    assert re.search(r"model\.net\.latent=100 +# ", shown)


def test_help_of_a_choice_that_there_is_not_is_one_line(command: Command) -> None:
    result = command("train", "--help", "model=cgann")
    assert (result.code, result.err.count("\n")) == (2, 1)


def test_help_imports_no_torch() -> None:
    code = "import sys\nfrom medassay import cli\ncli.main('train', ['--help'])\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode == 0


# --- the next command ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["outputs/cnn/1", "a b/c=d [e]", "it's", 'say "x"', "back\\slash", "end\\", "both\\'", "日本", "a,b", "$HOME"],
)
def test_a_path_goes_through_shell_and_hydra_unchanged(path: str) -> None:
    (argument,) = shlex.split(format_shell_override("run", path))
    assert find_value(parse([argument]), "run") == path


def test_a_training_names_the_next_commands(command: Command, tmp_path: Path) -> None:
    sizes = ["data.train=16", "data.val=16", "data.test=16", "data.batch_size=8", "model.net.width=2"]
    place = f"hydra.run.dir='{tmp_path}/a run (1)'"
    trained = command("train", "data=chest_phantom", *sizes, "trainer.max_epochs=1", "trainer.gpus=0", place)
    assert trained.code == 0
    lines = [line.split(":", 1) for line in trained.out.splitlines()[-3:]]
    assert [name for name, _ in lines] == ["run directory", "look at it", "next"]
    board, following = (shlex.split(line) for _, line in lines[1:])
    assert board == ["tensorboard", "--logdir", f"{tmp_path}/a run (1)"]
    assert following[:2] == ["python", "evaluate.py"]
    named = find_value(parse(following[2:]), "run")
    assert named is not None
    assert Path(named, "run.json").is_file()


def test_the_next_command_of_an_installed_package_is_its_console_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/medassay-train"])
    assert cli.help.name_program("evaluate") == "medassay-evaluate"


# --- completion ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "typed", "offered"),
    [
        ("train.py", "model=c", {"model=cgan", "model=cgan_strong", "model=curve", "model=cvae"}),
        ("evaluate.py", "protocol=gr", {"protocol=gradcam"}),
    ],
)
def test_bash_completes_what_is_typed(script: str, typed: str, offered: set[str]) -> None:
    line = f"python {script} {typed}"
    program = f"""python() {{ {sys.executable} "$@"; }}
        PATH={Path(sys.executable).parent}:$PATH
        eval "$({sys.executable} {script} -sc install=bash)"
        COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)} COMP_CWORD=2
        unset -f python; hydra_bash_completion; echo "${{COMPREPLY[@]}}" """
    done = subprocess.run(["bash", "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert set(done.stdout.split()) == offered, done
