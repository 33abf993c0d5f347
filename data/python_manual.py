"""The corpus inside every CPython: the topics of help() and the docstrings of the standard library.

The files are parsed and never imported, which would open a browser (`antigravity`) and print a poem (`this`).
"""

import ast
import contextlib
import functools
import inspect
import sysconfig
from collections.abc import Iterator
from itertools import compress
from pathlib import Path
from pydoc_data.topics import topics

from .preprocessing import drop_duplicates

# Higher than for prose: at 0.8 json.dumps goes as a copy of json.dump, and a manual needs both.
NEAR_DUPLICATE_THRESHOLD = 0.95
# Folders with the library's own tests, and with packages of others (pip's wheels, for instance).
EXCLUDED_FOLDERS = {"test", "tests", "_bundled", "_vendor", "pip", "setuptools", "pkg_resources"}

Docstring = tuple[str, str, str]  # dotted name, title line, cleaned docstring
Scope = ast.Module | ast.ClassDef
Function = ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def python_manual() -> tuple[tuple[str, str], ...]:
    """Read the manual of the Python that is running: some eight thousand (name, text) pairs, sorted by name.

    A topic of help() is named "topics/<its name>". A docstring has the name of its object, such as
    "json.decoder.JSONDecoder.decode", and begins with a line with its signature. Of equal or nearly equal docstrings,
    the first public name stays.
    """
    # Private names sort last, so that of `datetime.date` and `_pydatetime.date` the first stays.
    docstrings = sorted(library_docstrings(), key=lambda found: (is_private(found[0]), found[0]))
    # The title lines are left out: they make nearly every document unique.
    keep = drop_duplicates([body for _, _, body in docstrings], NEAR_DUPLICATE_THRESHOLD)
    documents = [(name, f"{title}\n\n{body}\n") for name, title, body in compress(docstrings, keep)]
    documents += [(f"topics/{name}", f"{text.strip()}\n") for name, text in topics.items()]
    return tuple(sorted(documents))


def library_docstrings(folder: Path | None = None) -> Iterator[Docstring]:
    """Yield (name, title, docstring) of all definitions below `folder`, by default the standard library."""
    folder = folder or Path(sysconfig.get_path("stdlib"))
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        # Tests are left out, and files that cannot be imported (in site-packages and lib-dynload).
        own = all(part.isidentifier() and not part.startswith("test_") and not part.endswith("_test") for part in parts)
        if own and EXCLUDED_FOLDERS.isdisjoint(parts):
            # Templates, other encodings and the like are no modules of this Python.
            with contextlib.suppress(SyntaxError, ValueError, OSError):
                yield from docstrings_in(path.read_bytes(), ".".join(parts).removesuffix(".__init__"))


def docstrings_in(source: bytes, module: str) -> list[Docstring]:
    """Return (name, title, docstring) of a module and all in it; SyntaxError, ValueError if it is not Python."""
    found: dict[str, Docstring] = {}
    for each in _docstrings_in(ast.parse(source), module):
        found.setdefault(each[0], each)  # of several definitions the first: a getter before its setter
    return list(found.values())


def is_private(name: str) -> bool:
    """Return True if a name, or one that it is part of, begins with an underscore."""
    return name.startswith("_") or "._" in name


def _docstrings_in(scope: Scope, name: str) -> Iterator[Docstring]:
    if body := _docstring(scope):
        yield name, _class_title(scope, name) if isinstance(scope, ast.ClassDef) else name, body
    for definition in _definitions(scope.body):
        inner = f"{name}.{definition.name}"
        if isinstance(definition, ast.ClassDef):
            yield from _docstrings_in(definition, inner)
        elif body := _docstring(definition):
            yield inner, _function_title(definition, inner), body


def _definitions(statements: list[ast.stmt]) -> Iterator[ast.ClassDef | Function]:
    """Yield the classes and functions of a scope, those inside `if`, `try`, `with` and loops included."""
    for statement in statements:
        if isinstance(statement, ast.ClassDef | Function):
            yield statement
            continue
        for field in ("body", "handlers", "orelse", "finalbody"):
            yield from _definitions(getattr(statement, field, []))


def _docstring(node: Scope | Function) -> str:
    return inspect.cleandoc(ast.get_docstring(node, clean=False) or "").strip()


def _function_title(function: Function, name: str) -> str:
    decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in function.decorator_list}
    if decorators & {"property", "cached_property", "abstractproperty"}:
        return name
    prefix = "async " if isinstance(function, ast.AsyncFunctionDef) else ""
    returns = f" -> {ast.unparse(function.returns)}" if function.returns else ""
    return f"{prefix}{name}({ast.unparse(function.args)}){returns}"


def _class_title(node: ast.ClassDef, name: str) -> str:
    """Return `class name(...)` with the constructor's parameters, or with the bases if it defines none."""
    for function in _definitions(node.body):
        if isinstance(function, Function) and function.name == "__init__":
            # The line shows the call, which does not pass `self`.
            arguments = ast.unparse(function.args).partition(", ")[2].removeprefix("/, ")
            return f"class {name}({arguments})"
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    return f"class {name}({bases})" if bases else f"class {name}"
