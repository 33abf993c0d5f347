"""The refusal curve: how many unanswerable questions are refused, against how many answerable ones are answered."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...evaluation.bootstrap import Metric, mean
from ...evaluation.pictures import save
from ...jobs.plotting import pyplot
from ..refusal import Features, Threshold, calibrate

KEEP = 0.95
FEWEST = 20  # questions of a kind; a threshold that rests on fewer is chance
SHOWN = (1.0, 0.99, 0.98, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
POINTS = [share / 100 for share in range(100, 49, -1)]


@dataclass(frozen=True)
class Refusal:
    """What a line between questions does."""

    answerable: int  # questions whose answer is found
    unanswerable: int  # others
    threshold: Threshold  # the best line, of all the questions
    # By the line's name, "answered" (of the answerable) and "refused" (of the others), each question judged by a line
    # that was drawn without it; "refused, marked" is of those that the data set calls unanswerable.
    figures: dict[str, dict[str, Metric]]
    curve: list[tuple[float, float]]  # answered and refused shares, of lines that keep fewer and fewer


def measure(
    answerable: Sequence[Features], unanswerable: Sequence[Features], marked: Sequence[Features], current: Threshold
) -> Refusal:
    """Draw the best line between two kinds of questions, and see what it and the `current` one do.

    What is answerable was found, what is unanswerable was asked without the documents that answer it, and nothing is
    fitted to what is `marked` as unanswerable by a data set.
    """
    check_enough(len(answerable), len(unanswerable))
    kinds = answerable, unanswerable, marked
    now, best = [[current.answers(each) for each in kind] for kind in kinds], calibrate(answerable, unanswerable, KEEP)
    figures = {"the index's threshold": _figures(*now), "calibrated": _figures(*_held_out(*kinds))}
    curve = []
    for keep in POINTS:
        line = calibrate(answerable, unanswerable, keep)
        kept, others = (np.mean([line.answers(each) for each in kind]) for kind in (answerable, unanswerable))
        curve.append((float(kept), float(1 - others)))
    return Refusal(len(answerable), len(unanswerable), best, figures, curve)


def check_enough(answerable: int, unanswerable: int) -> None:
    if min(answerable, unanswerable) < FEWEST:
        raise ValueError(
            f"A threshold needs {FEWEST} questions whose answer is found and {FEWEST} that nothing answers, and there "
            f"are {answerable} and {unanswerable}: give more, of several documents."
        )


def _held_out(*kinds: Sequence[Features]) -> list[list[bool]]:
    """Whether each question is answered, by the line that is best for the other half of the questions."""
    answered = [[False] * len(kind) for kind in kinds]
    for half in (0, 1):
        threshold = calibrate(kinds[0][1 - half :: 2], kinds[1][1 - half :: 2], KEEP)
        for kind, found in zip(kinds, answered, strict=True):
            found[half::2] = [threshold.answers(each) for each in kind[half::2]]
    return answered


def _figures(answerable: list[bool], unanswerable: list[bool], marked: list[bool]) -> dict[str, Metric]:
    figures = {"answered": mean("answered", answerable), "refused": mean("refused", ~np.array(unanswerable))}
    return figures | ({"refused, marked": mean("refused, marked", ~np.array(marked))} if marked else {})


def draw(refusal: Refusal, file: str | Path, title: str) -> None:
    """Draw the curve into a PNG file, and where the lines stand. Raises ImportError or OSError if that cannot be."""
    plt = pyplot("The refusal curve")
    figure, axes = plt.subplots(figsize=(6, 4.5), layout="constrained")
    axes.plot(*zip(*refusal.curve, strict=True), label="nearness and words")
    for (name, figures), marker in zip(refusal.figures.items(), "xo", strict=True):
        axes.plot(figures["answered"].value, figures["refused"].value, marker, color="black", label=name)
    axes.set(xlabel="answered, of the answerable questions", ylabel="refused, of the others", title=title)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    save(plt, figure, file)
