"""Libraries that only some figures need."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Say of an import in the block that fails how to install what it needs.

    Raises:
        ImportError: in one line.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{what} needs {error.name}: pip install 'foliogpt[{name}]'.") from None
