"""Messages of errors that other libraries raise."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message without its full stop, or the error's class if that is empty."""
    lines = str(error).strip().splitlines()
    return (lines[0].rstrip(". ") if lines else "") or type(error).__name__
