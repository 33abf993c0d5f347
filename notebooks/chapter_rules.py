"""The rules of a chapter that a program can check; each function returns a line for each rule that is broken."""

import ast
import re
import subprocess
import sys
from pathlib import Path

from exercises import exercises, stub, tagged

MAX_COLUMNS = 84
MIN_ASSERTS, MIN_PICTURES, MIN_EXERCISES = 12, 4, 3
LAST_SECTIONS = ["One thing to change", "Pitfalls", "Reading", "Exercises"]


def rule_problems(path: Path, notebook) -> list[str]:
    """Return all that is wrong with a built chapter, the notebook with solutions at `path`."""
    found = lint_problems(path)
    for check in (form_problems, picture_problems, exercise_problems, number_problems):
        found += check(notebook)
    return found


def lint_problems(path: Path) -> list[str]:
    """What ruff finds. Imports stand where a chapter needs them, and a `zip` is easier to read without `strict`."""
    options = ["--isolated", "--select=E,F,W,UP,B,C4", "--ignore=E402,B905", f"--line-length={MAX_COLUMNS}"]
    command = [sys.executable, "-m", "ruff", "check", "--quiet", "--output-format=concise", *options, str(path)]
    return subprocess.run(command, capture_output=True, text=True).stdout.splitlines()


def form_problems(notebook) -> list[str]:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    found = []
    for line in (line for cell in code for line in cell.source.splitlines()):
        if len(line) > MAX_COLUMNS:
            found.append(f"a line of code has over {MAX_COLUMNS} columns: {line.strip()[:50]}...")
    for output in (output for cell in code for output in cell.outputs):
        if output.output_type == "error" or output.get("name") == "stderr":
            found.append(f"an error or a warning: {output.get('text', output.get('evalue', ''))[:200]}")
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    sections = re.findall(r"^## (.+)$", prose, flags=re.MULTILINE)
    if sections[-len(LAST_SECTIONS) :] != LAST_SECTIONS:
        found.append(f"the last sections are not {', '.join(LAST_SECTIONS)}, but {', '.join(sections[-4:])}")
    asserts = sum(count_asserts(cell.source) for cell in code)
    if asserts < MIN_ASSERTS:
        found.append(f"it has {asserts} asserts, and {MIN_ASSERTS} are needed")
    return found


def count_asserts(code: str) -> int:
    """Count `assert` and calls such as np.testing.assert_allclose."""
    nodes = list(ast.walk(ast.parse(code)))
    calls = [node.func for node in nodes if isinstance(node, ast.Call)]
    named = [call.attr for call in calls if isinstance(call, ast.Attribute) and call.attr.startswith("assert_")]
    return sum(isinstance(node, ast.Assert) for node in nodes) + len(named)


def picture_problems(notebook) -> list[str]:
    """A caption, `*Figure N. ...*`, is the first paragraph after each picture."""
    found, number = [], 0
    for cell, following in zip(notebook.cells, [*notebook.cells[1:], None], strict=True):
        pictures = [output for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
        number += bool(pictures)
        if len(pictures) > 1:
            found.append(f"a cell has {len(pictures)} pictures: draw one, with several axes, beside figure {number}")
        if pictures and (following is None or not following.source.startswith(f"*Figure {number}. ")):
            found.append(f"picture {number} is not followed by a caption that begins with *Figure {number}. ")
    if number < MIN_PICTURES:
        found.append(f"it has {number} pictures, and {MIN_PICTURES} are needed")
    return found


def exercise_problems(notebook) -> list[str]:
    found, pairs = [], exercises(notebook)
    if len(pairs) < MIN_EXERCISES:
        found.append(f"it has {len(pairs)} exercises, and {MIN_EXERCISES} are needed")
    for number, (exercise, check) in enumerate(pairs, 1):
        cell = notebook.cells[check]
        if stub(notebook.cells[exercise].source) == notebook.cells[exercise].source:
            found.append(f"exercise {number} has no lines between `# your code` and `# end`")
        if not tagged(cell, "check"):
            found.append(f"the code cell after exercise {number} has no tag `check`")
        asserts = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Assert)]
        if not asserts or any(node.msg is None for node in asserts):
            found.append(f"check {number} needs asserts, each with a message that names the mistake")
    return found


def number_problems(notebook) -> list[str]:
    """Each decimal and each percentage in prose stands in an output; in `code`, also in the chapter's code."""
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    shown = "\n".join(text for cell in notebook.cells for text in texts(cell))
    found = []
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        prose = re.sub(r"\]\([^)]*\)|\$[^$]*\$|[Ss]ections? [\d.]+", "]", cell.source)  # links, formulas, places
        spans = " ".join(re.findall(r"`[^`]*`", prose))
        for text, allowed in ((re.sub(r"`[^`]*`", "", prose), shown), (spans, shown + code)):
            for number in re.findall(r"\d+\.\d+|\d+(?= ?%)", text):
                if not re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", allowed):
                    found.append(f"{number} is in the prose and in no output: {cell.source[:60]!r}")
    return found


def texts(cell) -> list[str]:
    """Return what a cell printed and showed as text."""
    outputs = cell.get("outputs", [])
    return [o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs]
