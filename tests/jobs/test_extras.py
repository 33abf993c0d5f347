import ast
import re
import tomllib
from pathlib import Path

import pytest

from foliogpt.jobs.extras import extra
from foliogpt.training.arguments import TRACKERS

ROOT = Path(__file__).parents[2]
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"])
FOLDERS = "modeling jobs tokenization data checkpoints evaluation training serving rag scripts"
HINTS = ROOT / "jobs" / "extras.py"  # the one file that writes them
SOURCES = [path for folder in FOLDERS.split() for path in (ROOT / folder).rglob("*.py") if path != HINTS]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.py")]


def extras_named(path: Path) -> list[str]:
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    return [ast.literal_eval(call.args[0]) for call in calls if ast.unparse(call.func) in ("extra", "missing_extra")]


def test_every_missing_library_names_an_extra_that_exists():
    named = {name for path in SOURCES for name in extras_named(path)}
    assert named | {*TRACKERS} == EXTRAS - {"dev", "all", "book", "site"}
    assert [path for path in SOURCES if "pip install 'foliogpt[" in path.read_text(encoding="utf-8")] == []


def test_every_extra_in_the_docs_exists():
    found = [m for path in PAGES for m in re.findall(r"foliogpt\[([\w,]+)\]", path.read_text(encoding="utf-8"))]
    assert found
    assert {name for names in found for name in names.split(",")} <= EXTRAS


@pytest.mark.parametrize(
    ("error", "package"),
    [
        (ModuleNotFoundError("No module named 'b'", name="sentence_transformers.b"), "sentence_transformers"),
        (ImportError("It needs torch 3.\nUpgrade."), "It needs torch 3"),
    ],
)
def test_extra_raises_a_one_line_error_when_a_library_is_missing(error, package):
    with pytest.raises(ImportError) as caught, extra("rag", "A reranker"):
        raise error
    assert str(caught.value) == f"A reranker needs {package}: pip install 'foliogpt[rag]'."
