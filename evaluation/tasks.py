"""From the names of a model and a data set to figures: which task it is, which rows, and what is done with them."""

import dataclasses
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset, DatasetDict
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..checkpoints.loading import fit_embeddings, load_model, task_of
from ..data.arguments import DataArguments
from ..data.corpora import load_corpus, load_documents
from ..data.corpus_files import ROW_FORMATS
from ..data.examples import read_examples, read_texts
from ..data.formats import as_messages, load_examples
from ..data.movie_dialogs import is_movie_dialogs
from ..data.rows import splits_in
from ..jobs.run_folder import RUN_FILE
from ..tokenization import chat_tokenizer
from ..tokenization.trained import CHAT_TEMPLATE
from .arguments import EvaluationArguments
from .generated import SAMPLES, evaluate_answers, evaluate_samples
from .heads import evaluate_labels, evaluate_spans, evaluate_tags
from .language import evaluate_chats, evaluate_preferences, evaluate_texts
from .results import Evaluation

TASK_OF_KIND = {
    "text": "lm", "chat": "sft", "instruction": "sft", "prompt-completion": "sft", "preference": "dpo",
    "summary": "summarize", "qa": "qa",
}  # fmt: skip


@dataclass
class Rows:
    """What a model is evaluated on."""

    task: str
    kind: str
    split: str
    rows: list[Any]


def load_rows(args: EvaluationArguments, head: str) -> Rows:
    """Read the data for the task that was asked for, or that the model's head and the data's columns tell.

    Raises:
        ValueError, OSError: if the data cannot be read, are for another task, or have no rows.
    """
    source, task = str(args.data), args.task
    if task is None and head != "lm":
        task = head
    if task is None and (_is_corpus(source) or _run_on(args.model, source, texts=True)):
        task = "lm"
    if task in ("lm", "samples"):
        split, texts = _texts(source, args)
        return Rows(task, "text", split, texts[: args.limit] if task == "lm" else texts)
    split, (examples, kind) = _examples(source, None if task == "summarize" else task, args)
    task = task or TASK_OF_KIND.get(kind)
    if task is None:
        raise ValueError(f"{source} is {kind} data, and {args.model} no model for it: name one that is, or --task.")
    if task == "lm":
        return Rows(task, kind, split, [row["text"] for row in examples][: args.limit])
    if task == "summarize" and kind in ("text", "tags", "classification", "preference"):
        raise ValueError(f"{source} is {kind} data; summarize needs rows with a prompt and the right answer.")
    return Rows(task, kind, split, list(examples)[: args.limit])


def _is_corpus(source: str) -> bool:
    """Whether a source can be nothing but texts."""
    path = Path(source).expanduser()
    has_rows = path.is_dir() and any(path.glob(f"*{suffix}") for suffix in ROW_FORMATS)
    is_dialogs = (path / "movie_lines.txt").is_file()
    return not (source.startswith("hub:") or path.suffix.lower() in ROW_FORMATS or has_rows or is_dialogs)


def _texts(source: str, args: EvaluationArguments) -> tuple[str, list[str]]:
    """The split, and its texts."""
    column, split = args.text_column or "text", args.split
    learnt_from = trained_on(args.model, source) or (args.train_data and same_file(args.train_data, source))
    if split is None and learnt_from:
        split = "validation"
    run = _run_on(args.model, source, texts=True)
    if "data" in run or (not run and is_movie_dialogs(source)):
        settings = _data_of(run) or {"task": "lm", "data": source}
        split = split or "all"
        return split, _texts_of(read_texts(DataArguments(**settings)), source, split)
    if source.startswith("hub:"):
        splits = splits_in(source)
        split = split or next((name for name in ("test", "validation") if name in splits), "validation")
        if split in splits:
            examples, _ = load_examples(source, "lm", split=split, text_column=args.text_column)
            return split, [row["text"] for row in examples]
    if split in (None, "all") and not source.startswith("hub:"):
        return "all", [row["text"] for row in load_documents(source, column)]
    return split, _texts_of(load_corpus(source, text_column=column), source, split)


def _texts_of(corpus: DatasetDict, source: str, split: str) -> list[str]:
    if split == "all":
        return [row["text"] for part in corpus.values() for row in part]
    if split not in corpus:
        raise ValueError(f"{source} has no split {split!r}: give --split {', '.join(corpus)} or all.")
    return [row["text"] for row in corpus[split]]


def _examples(source: str, task: str | None, args: EvaluationArguments) -> tuple[str, tuple[Dataset, str]]:
    """The split, and its examples with their kind. Of what the model was fine-tuned on, those that were held out."""
    run = _run_on(args.model, source)
    if args.split in (None, "train", "validation") and run:
        train, validation, kind = read_examples(DataArguments(**_data_of(run)))
        return ("train", (train, kind)) if args.split == "train" else ("validation", (validation, kind))
    split = _split(source, args.split)
    columns = {"text_column": args.text_column, "label_column": args.label_column}
    return split, load_examples(source, task, split=split, skip_malformed=args.skip_malformed, **columns)


def fine_tuned_on(model: str, source: str) -> bool:
    """Whether a run that made the model, or its base, learnt from these examples."""
    return bool(_run_on(model, source))


def trained_on(model: str, source: str) -> bool:
    """Whether a run that made the model, or its base, read this corpus."""
    return bool(_run_on(model, source, texts=True))


def _run_on(model: str, source: str, texts: bool = False) -> dict:
    """The settings of the newest run that learnt from `source`, as examples or as texts; none if there is none."""
    for run in _runs_of(model):
        names = _listed(run.get("corpus") or run.get("data"))
        reads_texts = run.get("task", "lm") == "lm"  # pretraining has no task
        if reads_texts == texts and any(name == source or same_file(name, source) for name in names):
            return run
    return {}


def _runs_of(model: str) -> Iterator[dict]:
    """The settings of the run that trained a model, of the one that trained its base, and so on, if beside them."""
    seen = set()
    while (place := os.path.realpath(os.path.expanduser(model))) not in seen:
        seen.add(place)
        try:
            settings = yaml.safe_load((Path(place) / RUN_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            return
        if not isinstance(settings, dict):
            return
        yield settings
        model = str(settings.get("model", place))


def _data_of(run: dict) -> dict:
    """The settings of a fine-tuning run that say what it read."""
    names = {field.name for field in dataclasses.fields(DataArguments)}
    return {name: run[name] for name in names & run.keys()}


def _listed(value: Any) -> list[str]:
    return [str(one) for one in (value if isinstance(value, list) else [value] if value else [])]


def same_file(one: str, other: str) -> bool:
    return os.path.realpath(os.path.expanduser(one)) == os.path.realpath(os.path.expanduser(other))


def _split(source: str, wanted: str | None) -> str:
    if Path(source).expanduser().is_file():
        if wanted not in (None, "all"):
            raise ValueError(f"{source} is one file, which has no splits: leave out --split.")
        return "all"
    if wanted is not None:
        return wanted
    splits = splits_in(source)
    return next((name for name in ("test", "validation") if name in splits), "train")


def evaluate_checkpoint(
    name: str, rows: Rows, args: EvaluationArguments, options: dict[str, Any], train: Rows | None = None
) -> Evaluation:
    """Load a model for the task, and evaluate it on the rows.

    Args:
        options: fields of GenerationConfig, where text is generated.
        train: what the baseline of a classifier learns from, or where samples may be copied from.

    Raises:
        ValueError, OSError: if the model or the rows do not do; the message says what to do.
    """
    head = task_of(name, args.trust_remote_code)
    needed = rows.task if rows.task in ("classify", "tag") else "qa" if rows.task == "qa" and head == "qa" else "lm"
    model, tokenizer = load_model(name, needed, args.trust_remote_code)
    if needed == "lm" and rows.task not in ("lm", "samples"):
        tokenizer = prepare_for_chat(model, tokenizer)
    progress = Progress(os.path.basename(os.path.normpath(name)))
    train_rows = train.rows if train else []
    try:
        return _run(model, tokenizer, head == "qa", rows, train_rows, args, options, progress)
    finally:
        progress.close()


def _run(model, tokenizer, is_marking: bool, rows: Rows, train_rows, args, options, said) -> Evaluation:
    data, batch_size, max_length = rows.rows, args.batch_size, args.max_length
    generation = {"options": options, "seed": args.seed, "said": said}
    match rows.task:
        case "lm":
            return evaluate_texts(model, tokenizer, data, batch_size, max_length, said)
        case "dpo":
            return evaluate_preferences(model, tokenizer, data, batch_size, max_length, said)
        case "classify":
            return evaluate_labels(model, tokenizer, data, train_rows, batch_size, max_length, said, args.seed)
        case "tag":
            return evaluate_tags(model, tokenizer, data, batch_size, max_length, said)
        case "samples":
            count = args.limit or SAMPLES
            return evaluate_samples(model, tokenizer, data, train_rows, batch_size, count=count, **generation)
        case "qa" if is_marking:
            return evaluate_spans(model, tokenizer, data, batch_size, max_length, said)
    chats = [as_messages(row, rows.kind) for row in data]
    if rows.task == "sft":
        return evaluate_chats(model, tokenizer, chats, batch_size, max_length, said)
    references = [row["answers"]["text"] for row in data] if rows.task == "qa" else None
    return evaluate_answers(model, tokenizer, chats, references, batch_size, **generation)


def prepare_for_chat(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Give a base model the chat template, and the ends of turn, that fine-tuning would give it."""
    if tokenizer.chat_template and tokenizer.chat_template != CHAT_TEMPLATE:
        return tokenizer
    tokenizer, generation = chat_tokenizer(tokenizer)
    fit_embeddings(model, tokenizer)
    model.generation_config.update(**generation)
    return tokenizer


class Progress:
    """A line on the error stream: how much is done, and the time that is left."""

    def __init__(self, name: str):
        self.name = name
        self.bar: tqdm | None = None

    def __call__(self, done: int, total: int) -> None:
        if self.bar is None:
            interval = 0.5 if sys.stderr.isatty() else 30  # in a log file seldom
            self.bar = tqdm(total=total, desc=self.name, mininterval=interval, dynamic_ncols=True, delay=2)
        self.bar.update(done)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
