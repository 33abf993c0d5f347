"""From the names of a model and a data set to figures: which task it is, which rows, and what is done with them."""

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset, DatasetDict

from ..checkpoints.loading import fit_embeddings, load_model, task_of
from ..data.arguments import DataArguments, named_columns
from ..data.corpora import load_corpus, load_documents
from ..data.examples import read_examples, read_texts
from ..data.files import ROW_SUFFIXES, kind_of
from ..data.formats import as_messages, load_examples
from ..data.movie_dialogs import is_movie_dialogs
from ..data.rows import splits_in
from ..jobs.run_folder import RUN_FILE
from ..tokenization import chat_tokenizer
from ..tokenization.trained import CHAT_TEMPLATE
from .arguments import EvaluationArguments
from .generated import SAMPLES, evaluate_answers, evaluate_samples
from .heads import evaluate_labels, evaluate_spans, evaluate_tags
from .inference import Subject
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
    """Read data for the task that was asked for, or that head and columns tell; raises ValueError, OSError."""
    source, task = str(args.data), args.task or (head if head != "lm" else None)
    if task is None and (_is_corpus(source) or run_on(args.model, source, texts=True)):
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
    has_rows = path.is_dir() and any(kind_of(file) in ROW_SUFFIXES for file in path.rglob("*"))
    return not (source.startswith("hub:") or kind_of(path) in ROW_SUFFIXES or has_rows or is_movie_dialogs(source))


def _texts(source: str, args: EvaluationArguments) -> tuple[str, list[str]]:
    """The split, and its texts."""
    column, split = args.text_column or "text", args.split
    run = run_on(args.model, source, texts=True)
    if split is None and (run or (args.train_data and same_file(args.train_data, source))):
        split = "validation"
    if "data" in run or (not run and is_movie_dialogs(source)):
        settings = _data_of(run) or {"task": "lm", "data": source}
        split = split or "all"
        return split, _texts_of(read_texts(DataArguments(**settings)), source, split)
    if source.startswith("hub:"):
        splits = splits_in(source)
        split = split or next((name for name in ("test", "validation") if name in splits), "validation")
        if split in splits:
            named = named_columns(args.columns)
            examples, _ = load_examples(source, "lm", split=split, text_column=args.text_column, columns=named)
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
    run = run_on(args.model, source)
    if args.split in (None, "train", "validation") and run:
        train, validation, kind = read_examples(DataArguments(**_data_of(run)))
        return ("train", (train, kind)) if args.split == "train" else ("validation", (validation, kind))
    split = _split(source, args.split)
    return split, load_examples(
        source, task, split=split, skip_malformed=args.skip_malformed, text_column=args.text_column,
        label_column=args.label_column, columns=named_columns(args.columns),
    )  # fmt: skip


def run_on(model: str, source: str, texts: bool = False) -> dict:
    """The settings of the newest run for the model, its base or the base of that, that read `source`; or nothing."""
    for run in _runs_of(model):
        read = run.get("corpus") or run.get("data") or []
        names = map(str, read if isinstance(read, list) else [read])
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
    names = {field.name for field in dataclasses.fields(DataArguments)}
    return {name: run[name] for name in names & run.keys()}


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
    """Evaluate a model on rows; from `train` a baseline learns, or samples are copied. Raises ValueError, OSError."""
    head = task_of(name, args.trust_remote_code)
    needed = rows.task if rows.task in ("classify", "tag") else "qa" if rows.task == "qa" and head == "qa" else "lm"
    model, tokenizer = load_model(name, needed, args.trust_remote_code)
    if needed == "lm" and rows.task not in ("lm", "samples") and tokenizer.chat_template in (None, "", CHAT_TEMPLATE):
        tokenizer, generation = chat_tokenizer(tokenizer)  # that fine-tuning would give a base model
        fit_embeddings(model, tokenizer)
        model.generation_config.update(**generation)
    subject = Subject(model, tokenizer, args.batch_size, args.max_length, os.path.basename(os.path.normpath(name)))
    data, train_rows = rows.rows, train.rows if train else []
    match rows.task:
        case "lm":
            return evaluate_texts(subject, data)
        case "dpo":
            return evaluate_preferences(subject, data)
        case "classify":
            return evaluate_labels(subject, data, train_rows, args.seed)
        case "tag":
            return evaluate_tags(subject, data)
        case "samples":
            return evaluate_samples(subject, data, train_rows, options, args.seed, args.limit or SAMPLES)
        case "qa" if head == "qa":
            return evaluate_spans(subject, data)
    chats = [as_messages(row, rows.kind) for row in data]
    if rows.task == "sft":
        return evaluate_chats(subject, chats, [row.get("tools") for row in data])
    references = [row["answers"]["text"] for row in data] if rows.task == "qa" else None
    return evaluate_answers(subject, chats, references, options, args.seed)
