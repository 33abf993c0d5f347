"""The rules that keep the house in order, and checkpoints loadable."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BOTTOM = {"jobs", "tokenization", "modeling"}
MAY_IMPORT = {
    "modeling": set(),
    "jobs": set(),
    "tokenization": {"jobs"},
    "data": BOTTOM,
    "checkpoints": BOTTOM,
    "evaluation": {"checkpoints", "data", *BOTTOM},
    "serving": {"checkpoints", *BOTTOM},
    "training": {"evaluation", "checkpoints", "data", *BOTTOM},
    "rag": {"serving", "evaluation", "checkpoints", "data", *BOTTOM},
    "rag.embedder": {"training"},  # and what rag may
    "scripts": {"rag", "training", "serving", "evaluation", "checkpoints", "data", *BOTTOM},
}
FOLDERS = [folder for folder in MAY_IMPORT if "." not in folder]
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
LINES = 25_000  # of the package, without tests, benchmarks and the book


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in FILES}


def imports(path: Path):
    """(level, module, names) of each import in a file, type annotations included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from ((0, alias.name, []) for alias in node.names)


def imported(path: Path) -> set[str]:
    """The modules of the package that a file imports, by their names below `foliogpt`."""
    package, found = path.relative_to(ROOT).parts[:-1], set()
    for level, module, names in imports(path):
        if level:
            base = ".".join([*package[: len(package) - level + 1], *filter(None, [module])])
            for name in names:
                full = f"{base}.{name}".lstrip(".")
                found.add(full if full in MODULES else base)
    return found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_arrows_point_one_way(path):
    folder, *below = path.relative_to(ROOT).parts
    allowed = {folder} | MAY_IMPORT[folder] | MAY_IMPORT.get(f"{folder}.{below[0]}", set())
    assert {module.split(".")[0] for module in imported(path)} <= allowed
    for level, module, _ in imports(path):
        if level == 0:
            assert module.split(".")[0] not in {"foliogpt", *FOLDERS}, "inside the package, imports are relative"


def test_no_file_is_imported_in_a_circle():
    left = {name: imported(path) & MODULES.keys() - {name} for name, path in MODULES.items()}
    while ends := [name for name, needed in left.items() if not needed & left.keys()]:
        for name in ends:
            del left[name]
    assert not left, "these files import each other, or what does"


def test_every_folder_of_the_root_is_a_room_that_the_design_names():
    there = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    beside = {"tests", "benchmarks", "docs", "notebooks"}
    made_here = {"runs", "build", "dist", "foliogpt.egg-info", "__pycache__"}
    assert there - beside - made_here == set(FOLDERS)


def test_the_package_stays_within_its_size():
    sizes = dict.fromkeys(FOLDERS, 0)
    for path in FILES:
        sizes[path.relative_to(ROOT).parts[0]] += len(path.read_text(encoding="utf-8").splitlines())
    assert sum(sizes.values()) <= LINES, sizes
    assert sizes["modeling"] <= 1_700, sizes
    assert max(sizes.values()) <= 0.25 * sum(sizes.values()), sizes


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
    "packed_attention",
    "positions",
    "peft_targets",
    "registration",
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
                "importlib",
                "inspect",
                "math",
                "sys",
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
