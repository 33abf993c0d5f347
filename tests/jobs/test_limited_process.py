"""A call that ends, hangs or crashes its process is one error, and the next call is answered."""

from contextlib import closing

import pytest

from foliogpt.jobs.limited_process import LimitedProcess


def test_calls_give_what_the_function_gives_from_one_process():
    with closing(LimitedProcess("json", "loads", 2**30)) as process:
        assert process.call(9, "[1, 2.5]") == [1, 2.5]
        first = process._running()
        with pytest.raises(ValueError, match="Expecting value"):
            process.call(9, "[")
        assert process.call(9, "1", parse_int=str) == "1"
        assert process._running() is first
    assert first.returncode == 0


@pytest.mark.parametrize(
    ("module", "name", "seconds", "argument", "says"),
    [
        ("time", "sleep", 0.3, 60, "takes more than 0.3 seconds"),
        ("os", "_exit", 60, 7, r"ends its process \(exit code 7\)"),
        ("os", "listdir", 60, 1.5, r"ends its process \(exit code 1\)"),  # TypeError: a fault in the function
    ],
)
def test_a_call_that_does_not_return_is_an_error_and_the_next_one_is_answered(module, name, seconds, argument, says):
    with closing(LimitedProcess(module, name, 2**30)) as process:
        with pytest.raises(ValueError, match=f"^{says}$"):
            process.call(seconds, argument)
        process.function = ("operator", "add")
        assert process.call(9, 1, 2) == 3
