"""The arguments of `folio evaluate`."""

from dataclasses import dataclass, field

from ..jobs.options import option

TASKS = ("lm", "sft", "dpo", "classify", "tag", "qa", "summarize", "samples")


@dataclass
class EvaluationArguments:
    """The model, the data, and where the metrics go."""

    model: str = field(metadata={"help": "the directory or Hub name of a checkpoint or adapter"})
    data: str = field(metadata={"help": "a file, a folder or hub:NAME[:CONFIG]; for lm and samples any corpus"})
    task: str | None = option(None, "the task to evaluate; by default that of the model and the data", choices=TASKS)
    baseline: str | None = option(None, "a second model to compare with, for instance the one before fine-tuning")
    split: str | None = option(None, "train, validation, test or all; by default what was held out, test or all")
    train_data: str | None = option(None, "the model's training data, for classify's baseline or to search for copies")
    text_column: str | None = option(None, "the column of the text, if it has an unusual name")
    label_column: str | None = option(None, "the column of the label, if it has an unusual name")
    columns: list[str] | None = field(
        default=None, metadata={"help": "other columns with unusual names, such as prompt=ask completion=reply"}
    )
    skip_malformed: bool = option(False, "skip malformed rows")
    limit: int | None = option(None, "the number of rows, from the first; for samples, the number of samples")
    batch_size: int = option(8, "the number of inputs at once; it changes no metric")
    max_length: int | None = option(None, "the context in tokens; the model's by default, at most 2048 for lm, sft, qa")
    seed: int = option(0, "random seed of the bootstrap and of samples")
    output: str | None = option(None, "write all metrics to this JSON file")
    trust_remote_code: bool = option(False, "run Python code from the checkpoint (not needed for FolioGPT checkpoints)")

    def __post_init__(self):
        for name in ("batch_size", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} is {value}: give a whole number from 1 on.")
