import pytest

from foliogpt.jobs.errors import first_line


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("No such model.", "No such model"),
        ("\n  First.\nSecond.\n", "First"),
        ("", "ValueError"),
        (" \n", "ValueError"),
        ("...", "ValueError"),
    ],
)
def test_the_first_line_of_an_error_is_never_empty(message, line):
    assert first_line(ValueError(message)) == line
