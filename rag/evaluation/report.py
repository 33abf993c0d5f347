"""What an evaluation found, for people and as JSON."""

from dataclasses import asdict, dataclass, field
from typing import Any

from ...evaluation.bootstrap import Metric, interval, paired_interval
from ...evaluation.results import cell
from ...jobs.markdown import markdown_table
from ..refusal import Refusal


@dataclass(frozen=True)
class EvaluationReport:
    """How good an index is."""

    dataset: str
    embedder: str
    documents: int  # of the index that was asked
    chunks: int
    questions: int  # those that something answers
    figures: dict[str, dict[str, Metric]]  # metric -> mode -> figure
    refusal: Refusal | None = None  # None if there were too few questions, or no mode gives cosines
    answers: dict[str, dict[str, Metric]] = field(default_factory=dict)  # metric -> what the writer was given -> figure
    notes: list[str] = field(default_factory=list)  # what a reader has to know

    @property
    def best_mode(self) -> str:
        """The mode with the highest first figure."""
        by_mode = next(iter(self.figures.values()))
        return max(by_mode, key=lambda mode: by_mode[mode].value)

    def verdict(self) -> str:
        """Which mode is best, and which ones cannot be told from it."""
        (name, by_mode), best = next(iter(self.figures.items())), self.best_mode
        if len(by_mode) == 1:
            return ""
        differences = {mode: paired_interval(by_mode[mode], by_mode[best]) for mode in by_mode if mode != best}
        sure = [mode for mode, bounds in differences.items() if bounds is not None and bounds[0] > 0]
        unsure = [mode for mode in differences if mode not in sure]
        said = [f"{best} is better than {_listed(sure)}"] if sure else []
        if unsure:
            said.append(f"there is no telling {_listed([best, *unsure])} apart on {self.questions:,} questions")
        return f"By {name}, {', but '.join(said)}."

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        found = {**vars(self), "figures": _entries(self.figures), "answers": _entries(self.answers)}
        found |= {"best_mode": self.best_mode, "verdict": self.verdict()}
        if line := self.refusal:
            found["refusal"] = {**vars(line), "threshold": asdict(line.threshold), "figures": _entries(line.figures)}
        return found

    def __str__(self) -> str:
        parts = [
            f"{self.dataset}: {self.questions:,} questions to {self.documents:,} documents in {self.chunks:,} chunks, "
            f"{self.embedder}",
            _table(self.figures),
            self.verdict(),
            *([str(self.refusal), _table(self.refusal.figures)] if self.refusal else []),
            *(["Answers, by what the writer is given:", _table(self.answers)] if self.answers else []),
            *(f"Note: {note}" for note in self.notes),
        ]
        return "\n\n".join(part for part in parts if part)


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _entries(figures: dict[str, dict[str, Metric]]) -> dict[str, dict[str, dict]]:
    rows = figures.items()
    return {row: {name: {"value": m.value, "interval": interval(m)} for name, m in each.items()} for row, each in rows}


def _table(figures: dict[str, dict[str, Metric]]) -> str:
    """Figures in Markdown, with 95 % intervals in brackets."""
    columns = list(next(iter(figures.values())))
    rows = _entries(figures).items()
    cells = [[name, *(cell(row[column]) if column in row else "" for column in columns)] for name, row in rows]
    return markdown_table(["", *columns], cells)
