"""The settings of corpora and of examples."""

import math
from dataclasses import dataclass, field

from ..jobs.options import option

CORPUS = "python-manual, files, folders, globs (text, JSONL, CSV, Parquet; compressed), hub:NAME[:CONFIG]; or several"
# Task of fine-tuning: the task for which `load_model` loads its result.
LOADED_FOR = {"sft": "lm", "dpo": "lm", "lm": "lm", "classify": "classify", "tag": "tag", "qa": "qa"}


@dataclass
class CorpusArguments:
    """The text of a run."""

    _argument_group_name = "the text"

    corpus: list[str] = field(default_factory=lambda: ["python-manual"], metadata={"help": CORPUS})
    corpus_weights: list[float] | None = field(
        default=None, metadata={"help": "the share of each of several corpora in the tokens, for instance 0.7 0.3"}
    )
    text_column: str = option("text", "the column with the text, if the corpus has columns")
    streaming: bool = option(False, "read the text during training, as needed if it is larger than the disk")
    shuffle_buffer_size: int = option(1000, "the number of documents among which --streaming draws the next one")
    skip_malformed: bool = option(False, "skip rows that cannot be read or have wrong values")

    def __post_init__(self):
        if isinstance(self.corpus, str):
            self.corpus = [self.corpus]
        if self.shuffle_buffer_size < 1:
            raise ValueError(f"--shuffle_buffer_size is {self.shuffle_buffer_size}: give at least 1.")
        if len(set(self.corpus)) < len(self.corpus):
            raise ValueError("A corpus is named twice: name each once, and give its share with --corpus_weights.")
        weights = self.corpus_weights
        if weights is None:
            if self.streaming and len(self.corpus) > 1:
                raise ValueError("--streaming mixes several corpora by --corpus_weights: give the share of each.")
        elif len(weights) != len(self.corpus):
            raise ValueError(f"--corpus_weights has {len(weights)} for {len(self.corpus)} corpora: give one for each.")
        elif not all(0 < weight < math.inf for weight in weights):
            raise ValueError(f"--corpus_weights is {weights}: give numbers above 0.")


@dataclass
class DataArguments:
    """The task of fine-tuning, and its examples."""

    _argument_group_name = "the examples"

    task: str = field(metadata={"help": "the task; can be the first word, without flag", "choices": list(LOADED_FOR)})
    data: str = field(metadata={"help": "examples: a file or folder, or hub:NAME[:CONFIG]"})
    validation_data: str | None = option(None, "examples for validation; by default, the data's own or a share of it")
    validation_split: float = option(0.05, "the share of the data that is held out for validation")
    text_column: str | None = option(None, "the column with the text, if it has an unusual name")
    label_column: str | None = option(None, "the column with the label, if it has an unusual name")
    columns: list[str] | None = field(
        default=None, metadata={"help": "columns with other unusual names, such as prompt=ask completion=reply"}
    )
    skip_malformed: bool = option(False, "skip rows that cannot be read or have wrong values")

    def __post_init__(self):
        if not 0 < self.validation_split < 1:
            raise ValueError(f"--validation_split is {self.validation_split}: give a share between 0 and 1.")
        named_columns(self.columns)


def named_columns(pairs: list[str] | None) -> dict[str, str]:
    """Return pairs such as "prompt=ask" as a mapping; raises ValueError for other strings."""
    for pair in pairs or []:
        if not all(pair.partition("=")):
            raise ValueError(f"--columns has {pair!r}: give pairs, such as prompt=ask completion=reply.")
    return dict(pair.split("=", 1) for pair in pairs or [])
