"""The rules that keep the house in order, and checkpoints loadable."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "modeling": set(),
    "tokenization": {"modeling"},
    "training": {"modeling", "tokenization"},
    "rag": {"modeling", "tokenization", "training"},
    "scripts": {"modeling", "tokenization", "training", "rag"},
}
FILES = [path for folder in MAY_IMPORT for path in sorted((ROOT / folder).rglob("*.py"))]


def imports(path: Path):
    """(level, module, names) of each import in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from ((0, alias.name, []) for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_arrows_point_one_way(path):
    folder, *below = path.relative_to(ROOT).parts
    for level, module, names in imports(path):
        if level == len(below) + 1:  # as many dots as lead to the top
            targets = {module.split(".")[0]} if module else set(names)
            assert targets <= MAY_IMPORT[folder]
        if level == 0:
            assert module.split(".")[0] not in {"foliogpt", *MAY_IMPORT}, "inside the package, imports are relative"


# The files that `modeling_folio.py` needs; the others in the folder stay at home.
TRAVELLERS = [
    "attention",
    "block",
    "configuration_folio",
    "feed_forward",
    "forward_arguments",
    "loss",
    "modeling_folio",
    "normalization",
    "positions",
]


@pytest.mark.parametrize("name", TRAVELLERS)
def test_code_that_travels_imports_what_a_stranger_has(name):
    path = ROOT / "modeling" / f"{name}.py"
    for level, module, _ in imports(path):
        assert level <= 1
        assert level == 0 or module, "`from . import x` does not travel"
        if level == 0:
            assert module.split(".")[0] in {
                "torch",
                "transformers",
                "huggingface_hub",
                "functools",
                "inspect",
                "math",
                "typing",
            }
    # transformers looks for imports with a regular expression, in docstrings too.
    found = re.findall(r"^\s*from\s+\.(\S+)\s+import", path.read_text(), flags=re.MULTILINE)
    assert set(found) <= set(TRAVELLERS)


def test_every_folder_is_in_the_wheel():
    packages = re.findall(r'^    "foliogpt\.(.+)",$', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    folders = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in FILES}
    assert set(packages) == folders


def test_no_two_test_files_have_the_same_name():
    """pytest imports them by their names alone."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(set(names)) == len(names)
