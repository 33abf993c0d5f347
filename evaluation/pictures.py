"""Pictures of an evaluation: which labels are mistaken for which, and what training has changed."""

from pathlib import Path

import numpy as np

from ..jobs.plotting import pyplot

LARGEST = 30  # labels whose counts can be read


def check_picture(task: str, before: str | None) -> None:
    """Raises ImportError or ValueError before the work if there is no matplotlib, or nothing to draw."""
    pyplot("--picture")
    if task != "classify" and not before:
        raise ValueError("--picture draws the confusion matrix of classify, or before and after: give --before.")


def draw(results: dict, file: str | Path) -> None:
    """Draw before and after with intervals, or the confusion matrix, into a PNG file; raises OSError, ImportError."""
    plt = pyplot("--picture")
    matrix = results.get("details", {}).get("confusion_matrix")
    figure = before_and_after(plt, results) if results["before"] else confusion(plt, matrix, results["data"])
    save(plt, figure, file)


def save(plt, figure, file: str | Path) -> None:
    """Write a figure into a PNG file, and forget it."""
    path = Path(file).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, format="png")
    plt.close(figure)


def confusion(plt, matrix: dict, data: str):
    """The confusion matrix, shaded by the share of each true label."""
    labels, counts = matrix["labels"], np.array(matrix["counts"], float)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = 2.5 + 0.45 * min(len(labels), LARGEST)
    figure, axes = plt.subplots(figsize=(size + 1, size), layout="constrained")
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(labels) <= LARGEST:
        for (row, column), count in np.ndenumerate(counts):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{count:,.0f}", ha="center", va="center", color=color)
        axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="predicted", ylabel="true", title=f"Labels of {Path(data).name}")
    figure.colorbar(image, label="share of the true label", shrink=0.8)
    return figure


def before_and_after(plt, results: dict):
    """Each figure before and after, with its interval, on a scale of its own."""
    figures = {name: entry for name, entry in results["figures"].items() if "before" in entry}
    size = (6.5, 0.6 + 0.75 * len(figures))
    figure, rows = plt.subplots(len(figures), 1, figsize=size, layout="constrained", squeeze=False)
    for axes, (name, entry) in zip(rows[:, 0], figures.items(), strict=True):
        sides = (("tab:blue", entry), ("tab:gray", entry["before"]))
        for place, (color, values) in enumerate(sides):
            low, high = values["interval"] or (values["value"], values["value"])
            axes.plot([low, high], [place, place], color=color, linewidth=3, solid_capstyle="round")
            axes.plot(values["value"], place, "o", color=color)
            axes.annotate(f"{values['value']:.3f}", (values["value"], place), (0, 5), textcoords="offset points",
                          ha="center", fontsize=8)  # fmt: skip
        axes.set_yticks([0, 1], ["after", "before"])
        axes.set(ylim=(-0.6, 1.9), title=None)
        axes.set_ylabel(name.replace("_", " "), rotation=0, ha="right", va="center", labelpad=10)
        axes.margins(x=0.2)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.grid(axis="x", alpha=0.3)
    figure.suptitle(f"{results['task']} on {Path(results['data']).name}, with 95 % intervals", fontsize=11)
    figure.align_ylabels()
    return figure
