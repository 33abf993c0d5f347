"""What every chapter of the book begins with: quiet libraries, one thread, and the style of the pictures."""

import logging
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import matplotlib.pyplot as plt
import torch

# Legible on white and on black.
GRAY = "#787878"
COLORS = ["#4a86c8", "#d9772b", "#3f9b6b", "#c94f5c", "#8f6fc0", "#9a7b4f"]


def start() -> None:
    """Set the style, and compute with one thread, so that the order of additions, and each digit, stays the same."""
    torch.set_num_threads(1)
    for name in ("torchao", "torch.utils._pytree"):  # where it is installed, torchao talks on being imported
        logging.getLogger(name).setLevel(logging.ERROR)
    plt.rcParams.update(
        {
            "figure.figsize": (7.2, 3.0),
            "figure.dpi": 100,
            "figure.facecolor": "none",
            "figure.constrained_layout.use": True,
            "axes.facecolor": "none",
            "axes.edgecolor": GRAY,
            "axes.labelcolor": GRAY,
            "axes.titlecolor": GRAY,
            "axes.titlesize": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": plt.cycler(color=COLORS),
            "grid.color": GRAY,
            "grid.alpha": 0.3,
            "legend.frameon": False,
            "legend.labelcolor": GRAY,
            "text.color": GRAY,
            "xtick.color": GRAY,
            "ytick.color": GRAY,
            "image.cmap": "viridis",
        }
    )


def shakespeare() -> str:
    """Return the plays that the book is about: 1.1 million characters, public domain."""
    return (Path(__file__).parent / "data" / "shakespeare.txt").read_text(encoding="utf-8")
