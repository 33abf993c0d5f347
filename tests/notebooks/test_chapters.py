"""Each chapter runs from a fresh kernel: its asserts hold, its solutions pass their checks, and its stubs fail them.

`make book` trains at full length. Here some trainings are shorter: what the chapters assert about them holds as well.
"""

import sys
from pathlib import Path

import pytest

pytest.importorskip("jupytext", reason="needs the extra book")

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))
import build_book
import chapter_rules

SHORTER = {
    "05-attention": {"seed=0, every=10)": "seed=0, every=100)"},
    "06-block": {"build(n, block=block), 200)": "build(n, block=block), 120)"},
    "07-learning": {"1920 //": "1024 //"},
    "08-mini-gpt": {"STEPS, PROMPT = 600": "STEPS, PROMPT = 400", "STEPS, decay=200": "STEPS, decay=150"},
}


def shorten(notebook, chapter: str) -> None:
    """Replace the lengths of trainings, each of which stands in one cell."""
    for long, short in SHORTER.get(chapter, {}).items():
        (cell,) = [cell for cell in notebook.cells if cell.cell_type == "code" and long in cell.source]
        cell.source = cell.source.replace(long, short)


@pytest.mark.slow
@pytest.mark.parametrize("source", build_book.sources(), ids=lambda source: source.stem)
def test_chapter_runs_and_its_stubs_fail(source):
    notebook = build_book.read(source)
    shorten(notebook, source.stem)
    assert build_book.execute(notebook) == []
    assert chapter_rules.form_problems(notebook) == []
