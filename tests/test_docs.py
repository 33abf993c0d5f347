"""What the documents tell people to type works."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    return [text for name, text in fenced if name == language]


def test_the_python_example_prints_what_the_readme_says(tmp_path):
    (code,), expected = blocks("python"), blocks("")[0]
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == expected, done.stderr


@pytest.mark.slow
def test_the_folio_commands_work_in_order(tmp_path):
    lines = ["ROMEO: is it the east, and Juliet is the sun?", "JULIET: O Romeo, Romeo! wherefore art thou Romeo?"]
    words = [f"{a} {b} speaks of {c}." for a in "abcdefghij" for b in "klmnopqrst" for c in ("night", "day", "love")]
    (tmp_path / "shakespeare.txt").write_text("\n".join(lines * 40 + words) + "\n")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    commands = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("folio ")]
    assert len(commands) >= 4
    for command in commands:
        command = command.replace("--minutes 3", "--max_steps 2 --bf16 false").replace("size 1024", "size 300")
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr}"


def test_every_make_target_that_is_named_exists():
    makefile = (ROOT / "Makefile").read_text()
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    targets = set(re.findall(r"(?:`|^)make (\w+)", README + contributing, flags=re.MULTILINE))
    assert {"quickstart", "test", "check"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_every_file_that_is_linked_exists():
    for name in ("README.md", "CONTRIBUTING.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", (ROOT / name).read_text()):
            assert (ROOT / link).exists(), f"{name}: {link}"


def test_the_environment_windows_users_install_is_the_one_of_the_makefile():
    assert "-c constraints.txt -e .[dev]" in blocks("powershell")[0]
    assert "-c constraints.txt -e '.[dev]'" in (ROOT / "Makefile").read_text()


def test_the_folder_map_names_the_folders():
    named = set(re.findall(r"^(\w+)/ ", README, flags=re.MULTILINE))
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders <= named
