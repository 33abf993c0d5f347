"""The report of an evaluation: tables for people, and JSON."""

from dataclasses import asdict, dataclass, field
from typing import Any

from ...evaluation.bootstrap import Metric, interval, paired_interval
from ...evaluation.results import cell
from ...jobs.markdown import markdown_table
from ..refusal import Refusal

Metrics = dict[str, dict[str, Metric]]  # name -> mode, or what a generator was given -> metric


@dataclass(frozen=True)
class EvaluationReport:
    dataset: str
    embedder: str
    documents: int  # of the evaluated index
    chunks: int
    questions: int  # those with an answer
    figures: Metrics  # of retrieval, by mode
    refusal: Refusal | None = None  # None if there were too few questions, or no mode gives cosines
    answers: Metrics = field(default_factory=dict)  # by what the generator was given
    notes: list[str] = field(default_factory=list)

    @property
    def best_mode(self) -> str:
        by_mode = next(iter(self.figures.values()))
        return max(by_mode, key=lambda mode: by_mode[mode].value)

    def verdict(self) -> str:
        """Return a sentence about which modes are worse than the best one, and which do not differ from it."""
        (name, by_mode), best = next(iter(self.figures.items())), self.best_mode
        intervals = {mode: paired_interval(by_mode[mode], by_mode[best]) for mode in by_mode if mode != best}
        worse = [mode for mode, bounds in intervals.items() if bounds is not None and bounds[0] > 0]
        unsure = [mode for mode in intervals if mode not in worse]
        parts = [f"is better than {' and '.join(worse)}"] if worse else []
        if unsure:
            parts.append(f"does not differ significantly from {' and '.join(unsure)} on {self.questions:,} questions")
        return f"By {name}, {best} {', but '.join(parts)}." if parts else ""

    def to_dict(self) -> dict[str, Any]:
        found = {**vars(self), "figures": _entries(self.figures), "answers": _entries(self.answers)}
        found |= {"best_mode": self.best_mode, "verdict": self.verdict()}
        if each := self.refusal:
            found["refusal"] = {**vars(each), "threshold": asdict(each.threshold), "figures": _entries(each.figures)}
        return found

    def __str__(self) -> str:
        size = f"{self.documents:,} documents in {self.chunks:,} chunks"
        parts = [f"{self.dataset}: {self.questions:,} questions to {size}, {self.embedder}", _table(self.figures)]
        parts += [self.verdict(), *([str(self.refusal), _table(self.refusal.figures)] if self.refusal else [])]
        parts += ["Answers, by what the generator is given:", _table(self.answers)] if self.answers else []
        return "\n\n".join(filter(None, [*parts, *(f"Note: {note}" for note in self.notes)]))


def _entries(metrics: Metrics) -> dict[str, dict[str, dict]]:
    rows = metrics.items()
    return {row: {name: {"value": m.value, "interval": interval(m)} for name, m in each.items()} for row, each in rows}


def _table(metrics: Metrics) -> str:
    columns = list(next(iter(metrics.values())))
    rows = _entries(metrics).items()
    cells = [[name, *(cell(row[column]) if column in row else "" for column in columns)] for name, row in rows]
    return markdown_table(["", *columns], cells)
