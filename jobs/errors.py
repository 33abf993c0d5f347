"""Messages of errors that other libraries raise."""

from huggingface_hub.errors import StrictDataclassError


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message without its full stop, or the error's class if that is empty."""
    error = error.__cause__ if isinstance(error, StrictDataclassError) and error.__cause__ else error
    lines = str(error).strip().splitlines()
    return (lines[0].rstrip(". ") if lines else "") or type(error).__name__
