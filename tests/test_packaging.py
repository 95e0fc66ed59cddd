"""What a clone is installed from: the requirements, their lock, the Makefile, and what the README says of it."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from itertools import pairwise
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PLATFORMS = ("linux", "darwin")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def direct_requirements() -> list[Requirement]:
    tables = tomllib.loads(PYPROJECT)
    return [Requirement(line) for line in tables["project"]["dependencies"] + tables["dependency-groups"]["dev"]]


def locked_requirements() -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for line in LOCK.splitlines())
    return [Requirement(line) for line in lines if line]


def locked_versions(*, platform: str, python: str) -> dict[str, Version]:
    environment = {
        "sys_platform": platform,
        "os_name": "posix",
        "platform_machine": "aarch64" if platform == "linux" else "arm64",
        "platform_python_implementation": "CPython",
        "python_version": python,
        "python_full_version": f"{python}.2",
    }
    return {
        requirement.name: Version(next(iter(requirement.specifier)).version)
        for requirement in locked_requirements()
        if requirement.marker is None or requirement.marker.evaluate(environment)
    }


def requirement_lines() -> list[tuple[str, str]]:
    """Each line of a dependency table that holds a requirement, with the line above it."""
    lines = [line.strip() for line in PYPROJECT.splitlines()]
    tables = re.findall(r"^(?:dependencies|dev) = \[\n(.*?)^\]", PYPROJECT, re.MULTILINE | re.DOTALL)
    inside = {line.strip() for table in tables for line in table.splitlines()}
    return [(line, above) for above, line in pairwise(lines) if line in inside and line.startswith('"')]


def imported_packages(folder: Path) -> set[str]:
    modules: list[str] = []
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                modules += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules.append(node.module or "")
    return {module.partition(".")[0] for module in modules}


def test_every_dependency_says_why_it_is_there() -> None:
    lines = requirement_lines()
    assert len(lines) == len(direct_requirements()), "one requirement a line"
    assert [line for line, above in lines if "#" not in line and not above.startswith("#")] == []


def test_every_package_that_the_code_imports_is_declared() -> None:
    # A package that only another one brings along would be gone with that one's next release.
    distributions = packages_distributions()
    project = tomllib.loads(PYPROJECT)["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    undeclared = {
        package
        for package in imported_packages(ROOT / "src") - sys.stdlib_module_names - {"medassay"}
        if not declared & {canonicalize_name(name) for name in distributions.get(package, [package])}
    }
    assert undeclared == set()


def test_the_lock_pins_every_package_to_one_exact_version() -> None:
    loose = [
        str(requirement)
        for requirement in locked_requirements()
        if requirement.url or [part.operator for part in requirement.specifier] != ["=="] or "*" in str(requirement)
    ]
    assert loose == []


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_satisfies_every_direct_dependency(platform: str, python: str) -> None:
    locked = locked_versions(platform=platform, python=python)
    unmet = [
        str(requirement)
        for requirement in direct_requirements()
        if requirement.name not in locked
        or not requirement.specifier.contains(locked[requirement.name], prereleases=True)
    ]
    assert unmet == [], "make lock resolves them"


def test_the_lock_names_no_host_no_path_and_no_local_build() -> None:
    assert re.findall(r".*(?:://|@|--\w|file:|\s/|\.\./|==\S*\+).*", LOCK) == []


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("python", PYTHONS)
def test_torch_and_torchvision_are_locked_as_the_pair_built_together(platform: str, python: str) -> None:
    locked = locked_versions(platform=platform, python=python)
    assert (locked["torch"], locked["torchvision"]) == (Version("2.15.0"), Version("0.29.2"))


def test_only_linux_is_given_cuda_packages() -> None:
    def cuda_packages(platform: str) -> list[str]:
        locked = locked_versions(platform=platform, python="3.11")
        return [name for name in locked if name.startswith(("nvidia-", "cuda-", "triton"))]

    assert cuda_packages("linux")
    assert cuda_packages("darwin") == []


def test_only_the_hydra_family_is_locked_to_pre_releases() -> None:
    locked = locked_versions(platform="linux", python="3.11")
    assert {name for name, version in locked.items() if version.is_prerelease} <= {
        "hydra-core",
        "omegaconf",
    }


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_alone_lists_every_target() -> None:
    # Without the flags and variables that `make test` hands down.
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKEOVERRIDES")}
    listing = subprocess.run(
        ["make", "-s", "--no-print-directory"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    described = re.findall(r"^  make ([a-z-]+) +\S", listing.stdout, re.MULTILINE)
    phony = re.findall(r"^\.PHONY: ([a-z -]+)$", MAKEFILE, re.MULTILINE)
    assert sorted(described) == sorted(" ".join(phony).split())
    assert {"setup", "demo", "test", "test-long", "lint", "types", "lock", "clean"} <= set(described)


@pytest.mark.parametrize("command", ["make demo", "make test"])
def test_the_readme_names_the_first_commands(command: str) -> None:
    assert command in (ROOT / "README.md").read_text(encoding="utf-8")


def test_ci_can_be_started_directly() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
