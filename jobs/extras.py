"""Libraries that only some commands need."""

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import first_line


def missing_extra(name: str, what: str, package: str) -> ImportError:
    """Return the error, in one line, that `what` needs a package of the extra `name`."""
    return ImportError(f"{what} needs {package}: pip install 'foliogpt[{name}]'.")


@contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Raise an ImportError of one line that names the extra to install if an import in the block fails."""
    try:
        yield
    except ImportError as error:
        package = error.name.partition(".")[0] if error.name else first_line(error)
        raise missing_extra(name, what, package) from None
