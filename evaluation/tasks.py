"""The task, the rows and the evaluation that the names of a model and a dataset ask for."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from ..checkpoints.loading import fit_embeddings, load_model, task_of
from ..data.arguments import DataArguments, named_columns
from ..data.corpora import load_corpus, load_documents
from ..data.examples import read_examples, read_texts
from ..data.files import ROW_SUFFIXES, kind_of
from ..data.formats import as_messages, load_examples
from ..data.movie_dialogs import is_movie_dialogs
from ..data.rows import splits_in
from ..jobs.run_folder import read_settings
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
class EvalData:
    """The rows that a model is evaluated on."""

    task: str
    kind: str
    split: str
    rows: list[Any]


def load_rows(args: EvaluationArguments, head: str) -> EvalData:
    """Read data for the task that was asked for, or that head and columns tell; raises ValueError, OSError."""
    source, task = str(args.data), args.task or (head if head != "lm" else None)
    if task is None and (_is_corpus(source) or run_on(args.model, source, texts=True)):
        task = "lm"
    if task in ("lm", "samples"):
        split, texts = _texts(source, args)
        return EvalData(task, "text", split, texts[: args.limit] if task == "lm" else texts)
    split, (examples, kind) = _examples(source, None if task == "summarize" else task, args)
    task = task or TASK_OF_KIND.get(kind)
    if task is None:
        what = f"{args.model} cannot be evaluated on {kind} data ({source})"
        raise ValueError(f"{what}: give a model for that task, or set --task.")
    if task == "summarize" and kind in ("text", "tags", "classification", "preference"):
        raise ValueError(f"{source} is {kind} data; summarize needs rows with a prompt and the right answer.")
    rows = [row["text"] for row in examples] if task == "lm" else list(examples)
    return EvalData(task, kind, split, rows[: args.limit])


def _is_corpus(source: str) -> bool:
    """Return True if a source can hold nothing but texts."""
    path = Path(source).expanduser()
    has_rows = path.is_dir() and any(kind_of(file) in ROW_SUFFIXES for file in path.rglob("*"))
    return not (source.startswith("hub:") or kind_of(path) in ROW_SUFFIXES or has_rows or is_movie_dialogs(source))


def _texts(source: str, args: EvaluationArguments) -> tuple[str, list[str]]:
    """Return the split and its texts."""
    split, run = args.split, run_on(args.model, source, texts=True)
    if split is None and (run or (args.train_data and same_file(args.train_data, source))):
        split = "validation"
    if "data" in run or (not run and is_movie_dialogs(source)):
        settings, split = run or {"task": "lm", "data": source, "skip_malformed": args.skip_malformed}, split or "all"
        return split, _texts_of(read_texts(_data_arguments(settings)), source, split)
    if source.startswith("hub:"):
        splits = splits_in(source)
        split = split or _test_split(splits, "validation")
        if split in splits:
            named = named_columns(args.columns)
            examples, _ = load_examples(source, "lm", split=split, text_column=args.text_column, columns=named)
            return split, [row["text"] for row in examples]
    elif split in (None, "all"):
        return "all", [row["text"] for row in load_documents(source, args.text_column or "text")]
    return split, _texts_of(load_corpus(source, text_column=args.text_column or "text"), source, split)


def _texts_of(corpus: DatasetDict, source: str, split: str) -> list[str]:
    if split != "all" and split not in corpus:
        raise ValueError(f"{source} has no split {split!r}: give --split {', '.join(corpus)} or all.")
    return [row["text"] for name, part in corpus.items() if split in (name, "all") for row in part]


def _examples(source: str, task: str | None, args: EvaluationArguments) -> tuple[str, tuple[Dataset, str]]:
    """Return the split and its examples with their kind; of data for fine-tuning, those that were held out."""
    run, split = run_on(args.model, source), args.split
    if split in (None, "train", "validation") and run:
        train, validation, kind = read_examples(_data_arguments(run))
        return ("train", (train, kind)) if split == "train" else ("validation", (validation, kind))
    if Path(source).expanduser().is_file():
        if split not in (None, "all"):
            raise ValueError(f"{source} is one file, which has no splits: leave out --split.")
        split = "all"
    split = split or _test_split(splits_in(source), "train")
    return split, load_examples(
        source, task, split=split, skip_malformed=args.skip_malformed, text_column=args.text_column,
        label_column=args.label_column, columns=named_columns(args.columns),
    )  # fmt: skip


def _test_split(splits: set[str], otherwise: str) -> str:
    return next((name for name in ("test", "validation") if name in splits), otherwise)


def run_on(model: str, source: str, texts: bool = False) -> dict:
    """Return the settings of the newest run for the model, its base or the base of that, that read `source`, or {}."""
    seen = set()
    while (place := Path(model).expanduser().resolve()) not in seen and (run := read_settings(place)):
        read = run.get("corpus") or run.get("data") or []
        names = map(str, read if isinstance(read, list) else [read])
        reads_texts = run.get("task", "lm") == "lm"  # pretraining has no task
        if reads_texts == texts and any(name == source or same_file(name, source) for name in names):
            return run
        seen.add(place)
        model = str(run.get("model", place))
    return {}


def _data_arguments(run: dict) -> DataArguments:
    names = {field.name for field in dataclasses.fields(DataArguments)}
    return DataArguments(**{name: run[name] for name in names & run.keys()})


def same_file(one: str, other: str) -> bool:
    return os.path.realpath(os.path.expanduser(one)) == os.path.realpath(os.path.expanduser(other))


def evaluate_checkpoint(
    name: str, data: EvalData, args: EvaluationArguments, options: dict[str, Any], train: EvalData | None = None
) -> Evaluation:
    """Evaluate a model on rows; from `train` a baseline learns, or samples are copied. Raises ValueError, OSError."""
    head = task_of(name, args.trust_remote_code)
    needed = data.task if data.task in ("classify", "tag") or (data.task, head) == ("qa", "qa") else "lm"
    model, tokenizer = load_model(name, needed, args.trust_remote_code)
    if needed == "lm" and data.task not in ("lm", "samples") and tokenizer.chat_template in (None, "", CHAT_TEMPLATE):
        tokenizer, generation = chat_tokenizer(tokenizer)  # that fine-tuning would give a base model
        fit_embeddings(model, tokenizer)
        model.generation_config.update(**generation)
    subject = Subject(model, tokenizer, args.batch_size, args.max_length, os.path.basename(os.path.normpath(name)))
    rows, train_rows = data.rows, train.rows if train else []
    match data.task:
        case "lm":
            return evaluate_texts(subject, rows)
        case "dpo":
            return evaluate_preferences(subject, rows)
        case "classify":
            return evaluate_labels(subject, rows, train_rows, args.seed)
        case "tag":
            return evaluate_tags(subject, rows)
        case "samples":
            return evaluate_samples(subject, rows, train_rows, options, args.seed, args.limit or SAMPLES)
        case "qa" if head == "qa":
            return evaluate_spans(subject, rows)
    chats = [as_messages(row, data.kind) for row in rows]
    if data.task == "sft":
        return evaluate_chats(subject, chats, [row.get("tools") for row in rows])
    references = [row["answers"]["text"] for row in rows] if data.task == "qa" else None
    return evaluate_answers(subject, chats, references, options, args.seed)
