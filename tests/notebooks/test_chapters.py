"""Each chapter runs from a fresh kernel: its asserts hold, its solutions pass their checks, and its stubs fail them."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("jupytext", reason="needs the extra book")

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))
import build_book
import chapter_rules


@pytest.mark.slow
@pytest.mark.parametrize("source", build_book.sources(), ids=lambda source: source.stem)
def test_chapter_runs_and_its_stubs_fail(source):
    notebook = build_book.read(source)
    assert build_book.execute(notebook) == []
    assert chapter_rules.form_problems(notebook) == []
