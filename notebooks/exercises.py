"""Exercises of a chapter: cells with the tag `exercise`, each with its check in the next code cell."""

import itertools
import re

STUB = 'raise NotImplementedError("Replace this line with your code.")'


def tagged(cell, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def exercises(notebook) -> list[tuple[int, int]]:
    """Return the indices of each exercise and of its check, which is the next code cell."""
    code = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    following = dict(itertools.pairwise(code))
    return [(i, following.get(i, i)) for i in code if tagged(notebook.cells[i], "exercise")]


def stub(code: str) -> str:
    """Replace the lines between `# your code` and `# end` with one that raises NotImplementedError."""
    solution = re.compile(r"^( *)# your code\n.*?^ *# end$", flags=re.MULTILINE | re.DOTALL)
    return solution.sub(rf"\1# your code\n\1{STUB}\n\1# end", code)
