"""What `folio evaluate` can be told."""

from dataclasses import dataclass, field

from ..jobs.options import option

TASKS = ("lm", "sft", "dpo", "classify", "tag", "qa", "summarize", "samples")


@dataclass
class EvaluationArguments:
    """The model, the data, and what to do with the figures."""

    model: str = field(metadata={"help": "the directory or Hub name of a checkpoint or adapter"})
    data: str = field(metadata={"help": "a file, a folder or hub:NAME[:CONFIG]; for lm and samples any corpus"})
    task: str | None = option(None, "by default what the model and the data are for", choices=TASKS)
    before: str | None = option(None, "another model to compare with on the same rows, such as the one fine-tuned")
    split: str | None = option(None, "train, validation, test or all; by default what was held out, or test, or all")
    train_data: str | None = option(None, "the training data: the baseline of classify learns it, samples may copy it")
    text_column: str | None = option(None, "the column of the text, where it has an unusual name")
    label_column: list[str] | None = field(default=None, metadata={"help": "the column or columns of the labels"})
    columns: list[str] | None = field(
        default=None, metadata={"help": "other columns that are not found, such as prompt=ask completion=reply"}
    )
    skip_malformed: bool = option(False, "leave out rows that are not as they should be")
    limit: int | None = option(None, "evaluate on the first so many rows; for samples, write so many")
    batch_size: int = option(8, "inputs at once; it changes no figure")
    max_length: int | None = option(None, "tokens of context; by default the model's, for lm, sft and qa up to 2048")
    seed: int = option(0, "random seed of the bootstrap and of samples")
    output: str | None = option(None, "write all figures to this JSON file")
    trust_remote_code: bool = option(False, "run the code in the checkpoint; not for ours")

    def __post_init__(self):
        for name in ("batch_size", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} is {value}: give a whole number from 1 on.")
