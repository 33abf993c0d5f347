"""Where text and examples come from."""

import math
from dataclasses import dataclass, field

from ..jobs.options import option

# Task of fine-tuning: what `load_model` loads its result for.
LOADED_FOR = {"sft": "lm", "dpo": "lm", "lm": "lm", "classify": "classify", "tag": "tag", "qa": "qa"}


@dataclass
class CorpusArguments:
    """Where the text comes from."""

    _argument_group_name = "the text"

    corpus: list[str] = field(
        default_factory=lambda: ["python-manual"],
        metadata={
            "help": "the text: python-manual, a file, a folder, a glob, JSONL, CSV or Parquet (also compressed), "
            "or hub:NAME[:CONFIG] for a data set on the Hub; or several of these"
        },
    )
    corpus_weights: list[float] | None = field(
        default=None, metadata={"help": "of several corpora: the share of each in the tokens, for instance 0.7 0.3"}
    )
    text_column: str = option("text", "the column with the text, where there are columns")
    streaming: bool = option(False, "read while training; for text larger than the disk")
    shuffle_buffer_size: int = option(1000, "with --streaming: the documents among which the next one is drawn")
    skip_malformed: bool = option(False, "leave out rows that are not as they should be")

    def __post_init__(self):
        if isinstance(self.corpus, str):
            self.corpus = [self.corpus]
        if self.shuffle_buffer_size < 1:
            raise ValueError(f"shuffle_buffer_size is {self.shuffle_buffer_size}: give at least 1.")
        if len(set(self.corpus)) < len(self.corpus):
            raise ValueError("A corpus is named twice: name each once, and give its share with --corpus_weights.")
        weights = self.corpus_weights
        if weights is None:
            if self.streaming and len(self.corpus) > 1:
                raise ValueError("Streams have no length to be mixed by: give the share of each with --corpus_weights.")
        elif len(weights) != len(self.corpus):
            raise ValueError(f"{len(weights)} corpus_weights for {len(self.corpus)} corpora: give one for each.")
        elif not all(0 < weight < math.inf for weight in weights):
            raise ValueError(f"corpus_weights are {weights}: give numbers above 0.")


@dataclass
class DataArguments:
    """What is learnt, and from which examples."""

    _argument_group_name = "the examples"

    task: str = field(metadata={"help": "what is learnt; can come first, without flag", "choices": list(LOADED_FOR)})
    data: str = field(metadata={"help": "a file or folder of examples, or hub:NAME[:CONFIG]"})
    validation_data: str | None = option(None, "examples to judge by; if not given, the data's own, or a share of it")
    validation_split: float = option(0.05, "the share that is held out of the data")
    text_column: str | None = option(None, "the column with the text, if it is not found")
    label_column: list[str] | None = field(
        default=None, metadata={"help": "the column with the label, if it is not found; or several, each 0 or 1"}
    )
    columns: list[str] | None = field(default=None, metadata={"help": "others, such as prompt=ask completion=reply"})
    skip_malformed: bool = option(False, "leave out rows that are not as they should be")

    def __post_init__(self):
        if not 0 < self.validation_split < 1:
            raise ValueError(f"validation_split is {self.validation_split}: give a share between 0 and 1.")
        named_columns(self.columns)


def named_columns(pairs: list[str] | None) -> dict[str, str]:
    """Pairs such as "prompt=ask" as a mapping; raises ValueError for something else."""
    for pair in pairs or []:
        if not all(pair.partition("=")):
            raise ValueError(f"columns has {pair!r}: give pairs, such as prompt=ask completion=reply.")
    return dict(pair.split("=", 1) for pair in pairs or [])
