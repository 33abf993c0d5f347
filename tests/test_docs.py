"""What the documents tell people to type works."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import forks
import pytest
import stand_ins

from foliogpt.data.python_manual import python_manual
from foliogpt.scripts.cli import main as folio

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
SHORTER = {
    "--max_steps 300": "--max_steps 2 --max_length 64",
    "--max_steps 20": "--max_steps 2",
    "max_steps: 20": "max_steps: 2\n  bf16: false",
    "runs: 2": "runs: 1",
    "--minutes 3": "--max_steps 2 --bf16 false",
    "size 1024": "size 300",
    "size: 1024": "size: 300",
}


def blocks(language: str, page: Path = README) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [text for name, text in fenced if name == language]


def test_the_python_example_prints_what_the_readme_says(tmp_path):
    (code,), expected = blocks("python"), blocks("")[0]
    done = forks.run([code], cwd=tmp_path)
    assert done.stdout == expected, done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("forked_strangers")
@pytest.mark.parametrize("page", [page for page in PAGES if "```bash" in page.read_text()], ids=lambda page: page.name)
def test_the_folio_commands_work_in_order(page, tmp_path, monkeypatch):
    """Each page stands alone: its commands begin in a folder that holds nothing, or shakespeare.txt alone."""
    lines = ["ROMEO: is it the east, and Juliet is the sun?", "JULIET: O Romeo, Romeo! wherefore art thou Romeo?"]
    words = [f"{a} {b} speaks of {c}." for a in "ABCDEFGHIJ" for b in "klmnopqrst" for c in ("night", "day", "love")]
    text = "\n".join(lines * 40 + words) + "\n"
    if page != README:
        (tmp_path / "shakespeare.txt").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(stand_ins.folder() / "python"))  # which a sweep starts
    monkeypatch.setattr("foliogpt.data.corpora.python_manual", lambda: python_manual()[::10])
    scripts = [script for block in blocks("bash", page) for script in commands(block)]
    for script in scripts:
        for long, short in SHORTER.items():
            script = script.replace(long, short)
        run(script)
        if script == "folio data shakespeare":  # all of it takes minutes to embed
            assert "JULIET" in (tmp_path / "shakespeare.txt").read_text()
            (tmp_path / "shakespeare.txt").write_text(text)


def commands(block: str) -> list[str]:
    """The commands one by one, each with its here-document; of a block without a shell's syntax, those of folio."""
    joined = block.replace("\\\n", " ")
    found = [match[0] for match in re.finditer(r"^.*<< *'(\w+)'\n[\s\S]*?\n\1$|^.+$", joined, flags=re.MULTILINE)]
    if re.search(r"<<|[|>]", block):
        return found
    return [line for line in found if line.startswith("folio ")]


def run(script: str) -> None:
    """In this process, where all is imported already, if it is a command alone."""
    if script.startswith("folio ") and not re.search(r"[<|>]", script):
        assert folio(shlex.split(script, comments=True)[1:]) == 0, script
        return
    done = subprocess.run(["bash", "-e", "-c", script], env=stand_ins.environment(), capture_output=True, text=True)
    assert done.returncode == 0, f"{script}\n{done.stderr}"


def test_every_make_target_that_is_named_exists():
    makefile = (ROOT / "Makefile").read_text()
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    pages = "".join(page.read_text() for page in PAGES)
    targets = set(re.findall(r"(?:`|^)make (\w+)", pages + contributing, flags=re.MULTILINE))
    assert {"quickstart", "test", "check"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_every_file_that_is_linked_exists():
    for page in (*PAGES, ROOT / "CONTRIBUTING.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_environment_windows_users_install_is_the_one_of_the_makefile():
    assert "-c constraints.txt -e .[dev]" in blocks("powershell", ROOT / "docs" / "install.md")[0]
    assert "-c constraints.txt -e '.[dev]'" in (ROOT / "Makefile").read_text()


def test_the_folder_map_names_the_folders():
    named = set(re.findall(r"^(\w+)/ ", README.read_text(), flags=re.MULTILINE))
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders <= named


def test_shares_in_the_text_are_those_of_the_table():
    """How much of what pretraining gained on the manual is lost: (after - before) / (fresh - before)."""
    page = (ROOT / "docs" / "finetuning.md").read_text(encoding="utf-8")
    section = page.split("**Dialogues of 59 films**")[1].split("**Summaries**")[0]
    manual = {
        cells[0]: float(cells[-1].split()[0])
        for row in re.findall(r"^\| ((?:pretrained|fresh).*\d\]) \|$", section, flags=re.MULTILINE)
        if len(cells := re.split(r" *\| *", row)) == 6
    }
    before, fresh = manual["pretrained, as it was"], manual["fresh weights, full"]
    shares = [round(100 * (manual[f"pretrained, {how}"] - before) / (fresh - before)) for how in ("full", "LoRA")]
    assert "{} % (full) or {} % (LoRA)".format(*shares) in section
