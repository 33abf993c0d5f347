"""matplotlib, where it is installed: an extra, and never a window."""

from types import ModuleType


def pyplot(picture: str) -> ModuleType:
    """matplotlib.pyplot for a picture that goes into a file; `picture` is what an error calls it.

    Raises:
        ImportError: if matplotlib is missing; names the extra that has it.
    """
    try:
        import matplotlib
    except ImportError:
        raise ImportError(f"{picture} needs matplotlib: pip install 'foliogpt[plots]'.") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt
