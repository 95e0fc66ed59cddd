"""README.md and docs/: links lead somewhere, commands compose, examples run, the page on the rooms is that of the code."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from PIL import Image

from medassay import config as configuration
from medassay.config.command_line import pair_arguments, parse
from medassay.runs.check import check_training
from medassay.runs.compose import compose_training
from medassay.sweeps.directory import register_resolvers
from tests.helpers import load_script

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))
SEARCHES = sorted(path.stem for path in (ROOT / "conf" / "search").glob("*.yaml"))

GENERATOR = Path(__file__).parent / "fixtures" / "runs" / "cgan"


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def name_page(page: object) -> str:
    return str(page.relative_to(ROOT)) if isinstance(page, Path) else str(page)


def example(page: Path, language: str) -> str:
    """The one fenced block of ``language``."""
    (block,) = re.findall(rf"```{language}\n(.*?)```", read(page), re.DOTALL)
    return str(block)


# --- links -----------------------------------------------------------------------------------------------------------


def links(text: str) -> list[str]:
    """The addresses of links and images, of Markdown and of HTML; code has none."""
    prose = re.sub(r"`[^`\n]+`", "", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r'<img src="([^"]+)"', prose)


def anchors(text: str) -> set[str]:
    """What ``#…`` may name: headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_links_and_images_lead_to_a_file_and_a_heading(page: Path) -> None:
    found = [link for link in links(read(page)) if not re.match(r"https?://", link)]
    for link in found:
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT), f"{link} leaves the repository"
        assert target.exists(), f"{link}: there is no such file"
        assert not anchor or anchor in anchors(read(target)), f"{link}: there is no such heading"


def test_links_are_found_in_prose_and_not_in_code() -> None:
    text = 'See [a](a.md#b-c) and <img src="i.png">.\n\n![d](d.png) `[no](no.md)`\n```\n[no](no.md)\n```\n'
    assert links(text) == ["a.md#b-c", "d.png", "i.png"]
    assert anchors("# A `b`: c\n## The way\n") == {"a-b-c", "the-way"}


def test_the_readme_leads_to_every_page_and_every_picture_is_shown() -> None:
    linked = {(page.parent / link.partition("#")[0]).resolve() for page in PAGES for link in links(read(page))}
    from_readme = {(ROOT / link.partition("#")[0]).resolve() for link in links(read(ROOT / "README.md"))}
    assert set(PAGES[1:]) <= from_readme
    assert set((ROOT / "docs" / "images").iterdir()) <= linked


# --- commands --------------------------------------------------------------------------------------------------------


def commands(text: str) -> Iterator[str]:
    """``python …`` of a line in a block, or of code within a line; in place of ``<…>`` stands PLACE."""
    blocks = re.findall(r"```\n(.*?)```", text, re.DOTALL)
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for line in [*"".join(blocks).splitlines(), *re.findall(r"`([^`\n]+)`", prose)]:
        if line.startswith("python "):
            yield " ".join(shlex.split(re.sub(r"<[^>]*>", "PLACE", line), comments=True)[1:])


COMMANDS = sorted({command for page in PAGES for command in commands(read(page))})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with an image each."""
    top = tmp_path_factory.mktemp("folder")
    for name in ("round", "square"):
        (top / name).mkdir()
        Image.new("RGB", (28, 28)).save(top / name / "0.png")
    return top


def compose_train(argv: list[str]) -> None:
    """Composes and checks a ``train.py`` command, of a sweep the job with the first of all values."""
    plain = []
    for argument, override in pair_arguments(argv):
        if override is None:
            continue
        key = override.key_or_group
        if key == "data.generator":  # of a run that there is not here
            argument = f"data.generator={GENERATOR}"
        if key == "model.transfer.weights":
            argument = f"model.transfer.weights={GENERATOR.with_name('cnn')}"
        first = f"{key}={next(override.sweep_string_iterator())}" if override.is_sweep_override() else argument
        plain.append(first)
    cfg = compose_training(plain)
    check_training(cfg)


def compose_evaluate(argv: list[str]) -> None:
    """Composes an ``evaluate.py`` command and checks its protocol."""
    own = ("run", "samples", "resize", "outputs", "protocol")
    given = [a for a, o in pair_arguments(argv) if o is not None and o.key_or_group.partition(".")[0] in own]
    if not any(argument.startswith("protocol=") for argument in given):
        given.append("protocol=assay")
    cfg = configuration.compose("evaluate", given)
    configuration.check(OmegaConf.to_container(cfg.protocol), "protocol")


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith(("train.py", "evaluate.py"))])
def test_every_command_composes_and_passes_the_check(command: str, folder: Path) -> None:
    register_resolvers()
    script, *argv = command.split()
    keys = {override.key_or_group for override in parse(argv)}
    if "resume" in keys or "--config-dir" in argv:  # the first stands alone, the second is tested with its example
        return
    argv = [f"data.path={folder}" if argument == "data.path=PLACE" else argument for argument in argv]
    (compose_train if script == "train.py" else compose_evaluate)(argv)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("scripts/")])
def test_every_script_that_a_page_names_takes_the_arguments(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, *argv = command.split()
    flags = [argument.partition("=")[0] for argument in argv if argument.startswith("--")]
    monkeypatch.setattr("sys.argv", [path, "--help"])
    with pytest.raises(SystemExit) as ended:
        load_script(Path(path).stem).main()
    usage = capsys.readouterr().out
    assert ended.value.code == 0
    assert all(flag in usage for flag in flags)


def test_commands_are_found_in_blocks_and_within_lines() -> None:
    text = "Type `python train.py data.path=<a b>` or\n```\npython evaluate.py 'run=[a,b]'  # both\nmake\n```\n"
    assert sorted(commands(text)) == ["evaluate.py run=[a,b]", "train.py data.path=PLACE"]


# --- examples --------------------------------------------------------------------------------------------------------


def test_the_readmes_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = example(ROOT / "README.md", "python")
    small = {
        "train=2048": "train=64, val=32, test=32",
        "max_epochs=3,": "max_epochs=1,",
        '"trainer.max_epochs=3"': '"debug=fast", "data.train=48", "data.val=32", "data.test=32"',
    }
    for written, run in small.items():
        assert code.count(written) == 1
        code = code.replace(written, run)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDASSAY_OUTPUTS", str(tmp_path / "outputs"))
    exec(compile(code, "README.md", "exec"), {})
    last_lines = capsys.readouterr().out.splitlines()[-4:]
    assert all(len(re.findall(r"\d\.\d+", line)) == 2 for line in last_lines), last_lines  # four images, two classes


def test_the_readmes_data_set_is_one_yaml(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "octmnist.yaml").write_text(example(ROOT / "README.md", "yaml"), encoding="utf-8")
    overrides = [f"hydra.searchpath=[file://{tmp_path}]", "data=octmnist"]
    cfg = compose_training(overrides)
    values = check_training(cfg)
    assert (values["data"]["flag"], values["model"]["num_classes"]) == ("octmnist", 4)
    data = configuration.build({k: v for k, v in values["data"].items() if not k.startswith("generator")})
    assert data.image_shape == (1, 28, 28)


# --- experiments -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [f"experiment={n}" for n in EXPERIMENTS] + [f"search={n}" for n in SEARCHES])
def test_every_recipe_is_named_in_a_page(name: str) -> None:
    choice = name.partition("=")[2]
    assert re.search(rf"{name}\b|`{choice}`", "\n".join(read(page) for page in PAGES))


@pytest.mark.parametrize(
    ("name", "measured"),
    [
        ("pneumonia", "model=pneumonia_cnn trainer.threads=1 sweep.name=pneumonia"),
        ("pneumonia_phantom", "data=chest_phantom trainer.threads=1 hydra.run.dir=outputs/pneumonia_cnn/chest_phantom"),
        (
            "bloodmnist_cgan",
            "model=cgan trainer.precision=bf16-mixed trainer.threads=1 hydra.run.dir=outputs/cgan/blood",
        ),
        ("bloodmnist_cvae", "model=cvae trainer.threads=1 hydra.run.dir=outputs/cvae/blood"),
        (
            "bloodmnist_diffusion",
            "model=diffusion model.net.width=64 model.solver=multistep model.steps=25 model.sigma_min=0.005 "
            "recipe.max_epochs=85 trainer.threads=1 hydra.run.dir=outputs/diffusion/blood",
        ),
        (
            "bloodmnist_cgan_strong",
            "model=cgan_strong augment=cells model.net.width=24 model.net.discriminator_width=16 recipe.max_epochs=36 "
            "trainer.precision=bf16-mixed trainer.threads=1 hydra.run.dir=outputs/cgan_strong/blood",
        ),
    ],
)
def test_an_experiment_is_what_was_measured(name: str, measured: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEDASSAY_OUTPUTS", raising=False)
    own = compose_training([f"experiment={name}"])
    expected = compose_training(measured.split())
    assert check_training(own) == check_training(expected)
    if "hydra.run.dir" in measured:
        assert configuration.find_run_directory(own) == configuration.find_run_directory(expected)


def test_the_five_seeds_of_the_pneumonia_experiment_are_a_sweep_over_seeds_alone() -> None:
    register_resolvers()
    cfg = configuration.compose_with_hydra("train", ["experiment=pneumonia"])
    assert OmegaConf.to_container(cfg.hydra.sweeper.params) == {"seed": "0,1,2,3,4"}
    assert str(cfg.hydra.sweep.dir).endswith("sweeps/pneumonia")
