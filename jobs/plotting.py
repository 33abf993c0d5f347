"""matplotlib, an extra, without windows: plots are written to files."""

from types import ModuleType

from .extras import extra


def pyplot(plot: str) -> ModuleType:
    """Return matplotlib.pyplot for files; raises ImportError that names the `plot` and the extra if it is missing."""
    with extra("plots", plot):
        import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt
