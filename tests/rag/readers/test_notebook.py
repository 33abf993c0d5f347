"""A notebook is the sources of its cells and what they put out as text."""

import json

import pytest
from reading import headings, read


def test_notebook_has_cells_and_the_text_of_outputs_without_images():
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "\n", "words"]},
        {"cell_type": "code", "source": "print('a')", "outputs": [
            {"output_type": "stream", "text": ["\x1b[31mred\x1b[0m\n", "line\n"]},
            {"output_type": "display_data", "data": {"text/plain": "<Figure>", "image/png": "iVBORw0KGgo"}},
            {"output_type": "error", "ename": "ValueError", "evalue": "is wrong", "traceback": ["\x1b[0m"]}]},
        {"cell_type": "raw", "source": "raw"},
        {"cell_type": "markdown", "source": "## Part\ntext"},
    ]  # fmt: skip
    document = read("a.ipynb", json.dumps({"cells": cells, "nbformat": 4}))
    assert headings(document) == [(1, "Title"), (2, "Part")]
    assert document.text[document.headings[1].start :].startswith("## Part")
    assert document.title == "Title"
    text = " ".join(document.text.split())
    assert text == "# Title words print('a') red line <Figure> is wrong raw ## Part text"


def test_old_notebooks_are_read_and_broken_ones_named():
    old = {"worksheets": [{"cells": [{"cell_type": "code", "input": ["x = 1"], "outputs": []}]}]}
    assert read("a.ipynb", json.dumps(old)).text.strip() == "x = 1"
    for data, says in (
        ("{", "is a broken ipynb"),
        ('{"cells": []}', "holds no text"),
        ("[" * 100_000, "nested too deep"),
    ):
        with pytest.raises(ValueError, match=says):
            read("a.ipynb", data)
