"""What an evaluation found, for people and as JSON."""

from dataclasses import asdict, dataclass, field
from typing import Any

from ..training.metrics.bootstrap import Metric, interval, paired_interval
from .refusal_curve import SHOWN, Refusal


@dataclass(frozen=True)
class EvaluationReport:
    """How good an index is.

    Attributes:
        dataset, embedder: their names.
        documents, chunks: of the index that was asked.
        questions: those that something answers.
        figures: metric -> mode -> figure.
        refusal: what is refused; None where there were too few questions, or no mode gives cosines.
        notes: what a reader has to know.
    """

    dataset: str
    embedder: str
    documents: int
    chunks: int
    questions: int
    figures: dict[str, dict[str, Metric]]
    refusal: Refusal | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def best_mode(self) -> str:
        """The mode with the highest first figure."""
        by_mode = next(iter(self.figures.values()))
        return max(by_mode, key=lambda mode: by_mode[mode].value)

    def verdict(self) -> str:
        """Which mode is best, and which ones cannot be told from it."""
        name, by_mode = next(iter(self.figures.items()))
        best = self.best_mode
        if len(by_mode) == 1:
            return ""
        differences = {mode: paired_interval(by_mode[mode], by_mode[best]) for mode in by_mode if mode != best}
        sure = [mode for mode, bounds in differences.items() if bounds is not None and bounds[0] > 0]
        unsure = [mode for mode in differences if mode not in sure]
        said = [f"{best} is better than {' and '.join(sure)}"] if sure else []
        if unsure:
            said.append(f"there is no telling {' and '.join([best, *unsure])} apart on {self.questions:,} questions")
        return f"By {name}, {', but '.join(said)}."

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        refusal = self.refusal
        return {
            **{name: getattr(self, name) for name in ("dataset", "embedder", "documents", "chunks", "questions")},
            "figures": {
                name: {mode: _entry(each) for mode, each in by_mode.items()} for name, by_mode in self.figures.items()
            },
            "best_mode": self.best_mode,
            "verdict": self.verdict(),
            "refusal": refusal and {
                "answerable": refusal.answerable,
                "unanswerable": refusal.unanswerable,
                "threshold": asdict(refusal.threshold),
                "figures": {
                    line: {name: _entry(each) for name, each in figures.items()}
                    for line, figures in refusal.figures.items()
                },
                "curves": refusal.curves,
            },
            "notes": self.notes,
        }  # fmt: skip

    def __str__(self) -> str:
        modes = list(next(iter(self.figures.values())))
        rows = [[name, *(_cell(by_mode[mode]) for mode in modes)] for name, by_mode in self.figures.items()]
        parts = [
            f"{self.dataset}: {self.questions:,} questions to {self.documents:,} documents in {self.chunks:,} chunks, "
            f"{self.embedder}",
            _table(["", *modes], rows),
            self.verdict(),
            *([_shown(self.refusal)] if self.refusal else []),
            *(f"Note: {note}" for note in self.notes),
        ]
        return "\n\n".join(part for part in parts if part)


def _shown(refusal: Refusal) -> str:
    names = list(next(iter(refusal.figures.values())))
    rows = [[line, *(_cell(each) for each in figures.values())] for line, figures in refusal.figures.items()]
    curve = refusal.curves["cosine and words"]
    points = [next(point for point in reversed(curve) if point[0] >= share) for share in SHOWN]
    shares = [[f"{share:.2f}" for share in column] for column in zip(*points, strict=True)]
    said = (
        f"Refusal, of {refusal.answerable:,} questions that can be answered and {refusal.unanswerable:,} without the "
        "documents that answer them:"
    )
    return "\n\n".join([said, _table(["", *names], rows), _table(["answered", *shares[0]], [["refused", *shares[1]]])])


def _entry(metric: Metric) -> dict[str, Any]:
    return {"value": metric.value, "interval": interval(metric)}


def _cell(metric: Metric) -> str:
    bounds = interval(metric)
    return f"{metric.value:.3f}" + (f" [{bounds[0]:.3f}, {bounds[1]:.3f}]" if bounds else "")


def _table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    filled = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    return "\n".join([filled[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *filled[1:]])
