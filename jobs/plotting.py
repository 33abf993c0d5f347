"""matplotlib without windows: it is an extra, and pictures are written to files."""

from types import ModuleType

from .extras import extra


def pyplot(picture: str) -> ModuleType:
    """matplotlib.pyplot for files; raises ImportError, which names the `picture` and the extra, if it is missing."""
    with extra("plots", picture):
        import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt
