"""matplotlib without windows: it is an extra, and pictures are written to files."""

from types import ModuleType

from .extras import extra


def pyplot(picture: str) -> ModuleType:
    """Import matplotlib.pyplot to write a picture to a file; `picture` is its name in the error.

    Raises:
        ImportError: if matplotlib is missing; names the extra that has it.
    """
    with extra("plots", picture):
        import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt
