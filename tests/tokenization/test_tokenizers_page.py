"""The Python of docs/tokenizers.md prints the output on the page."""

import re
from pathlib import Path

import forks
import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "tokenizers.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("example", range(len(EXAMPLES)))
def test_an_example_prints_the_output_on_the_page(example, tmp_path):
    code, expected = EXAMPLES[example]
    done = forks.run([code], cwd=tmp_path)
    assert done.stdout == expected, done.stderr


def test_every_example_is_run():
    assert len(EXAMPLES) == PAGE.count("```python") == 3
