"""The files around the package: workflows, hooks, issue forms, the Dockerfile, and what CONTRIBUTING.md says."""

import re
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
YAML_FILES = sorted([*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml"])
WORKFLOWS = [path for path in YAML_FILES if path.parent.name == "workflows"]
VERSIONS = re.findall(r"Python :: (3\.\d+)$", "\n".join(PROJECT["project"]["classifiers"]), flags=re.MULTILINE)
OLDEST = PROJECT["project"]["requires-python"].removeprefix(">=")


def load(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: path.name)
def test_yaml_files_are_mappings(path):
    assert isinstance(load(path), dict)


def test_the_classifiers_begin_at_the_oldest_python_and_leave_none_out():
    assert VERSIONS[0] == OLDEST
    assert all(int(b.split(".")[1]) == int(a.split(".")[1]) + 1 for a, b in pairwise(VERSIONS))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_the_python_versions_that_the_project_names(path):
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert "concurrency" in workflow
    for name, job in workflow["jobs"].items():
        (python,) = [step["with"]["python-version"] for step in job["steps"] if "setup-python" in step.get("uses", "")]
        if "matrix" in python:
            assert job["strategy"]["matrix"]["python"] == VERSIONS, name
        else:
            assert python == OLDEST, name
        for step in job["steps"]:
            assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/x@v1")), "pin the major version"


def test_the_workflows_call_targets_and_files_that_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    commands = [
        step.get("run", "") for path in WORKFLOWS for job in load(path)["jobs"].values() for step in job["steps"]
    ]
    assert ".ci/run" in commands
    assert (ROOT / ".ci" / "run").exists()
    for target in load(ROOT / ".github/workflows/nightly.yml")["jobs"]["ends"]["strategy"]["matrix"]["target"]:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def installs(text: str) -> set[str]:
    """What each `python -m pip install` of a file is given."""
    return {line.replace("'", "") for line in re.findall(r"python -m pip install (.+)", text)}


def test_the_install_lines_of_the_dockerfile_are_those_of_the_readme():
    ours = installs((ROOT / "Dockerfile").read_text(encoding="utf-8"))
    assert ours
    assert ours == installs((ROOT / "docs" / "install.md").read_text(encoding="utf-8"))


def test_the_dockerfile_has_the_oldest_python_and_does_not_end_as_root():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert f"ARG BASE=python:{OLDEST}-slim" in text
    assert re.findall(r"^USER (\w+)", text, flags=re.MULTILINE) == ["folio"]


def hooks() -> dict[str, dict]:
    (local,) = load(ROOT / ".pre-commit-config.yaml")["repos"]
    assert local["repo"] == "local"
    return {hook["id"]: hook for hook in local["hooks"]}


def test_the_linters_before_a_commit_are_those_of_make_check():
    """They are installed in .venv with the versions in constraints.txt."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    for hook, command in {"ruff-check": "ruff check", "ruff-format": "ruff format", "pyright": "pyright"}.items():
        assert hooks()[hook]["entry"].startswith(f".venv/bin/{command}")
        assert f"$(BIN)/{command}" in makefile
        assert f"\n{command.split()[0]}==" in pins


@pytest.mark.parametrize(
    ("subject", "allowed"), [("x" * 72, True), ("ä" * 72, True), ("x" * 73, False), ("ä" * 73, False)]
)
def test_commit_subjects_have_at_most_72_characters(subject, allowed):
    message = f"{subject}\n\n{'b' * 90}\n".encode()
    found = re.search(hooks()["subject"]["entry"].encode(), message, flags=re.MULTILINE | re.DOTALL)
    assert (found is None) == allowed


def test_every_top_level_folder_is_typed():
    """A `py.typed` in a folder below the namespace is for all that is in the folder, too (PEP 561)."""
    folders = {name.split(".")[1] for name in PROJECT["tool"]["setuptools"]["packages"]}
    assert all((ROOT / folder / "py.typed").exists() for folder in folders)
    assert PROJECT["tool"]["setuptools"]["package-data"] == {"*": ["py.typed", "*.css", "*.js"]}


def test_what_to_read_first_exists_and_is_as_long_as_it_says():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.split("## Read first")[1].split("\n## ")[0]
    files = [ROOT / link for link in re.findall(r"\]\(([^)]+\.py)\)", section)]
    assert files[0].name == "modeling_folio.py"
    (said,) = re.findall(r"[Aa]bout ([\d,]+) lines", section)
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
    assert abs(lines - int(said.replace(",", ""))) < 300
