"""What a fine-tuning run trains and is judged on: examples, split, encoded for the task, and packed."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import datasets
import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from ..jobs.report import Stages
from .arguments import DataArguments
from .corpora import load_corpus
from .encoding import encode_answer, encode_preference, encode_question, encode_tags, encode_text, encode_turns
from .formats import as_messages, key_of, load_examples
from .labels import label_names, same_labels
from .movie_dialogs import is_movie_dialogs, movie_chats
from .packing import IGNORE_INDEX, PackedCollator, pack
from .rows import splits_in


@dataclass
class Examples:
    """The examples of a run in two splits, ready for a trainer."""

    kind: str
    train: Dataset
    validation: Dataset
    collator: Callable[[list[dict]], dict[str, torch.Tensor]] | None  # None: TRL's own
    labels: list[str] = field(default_factory=list)  # of the head
    problem_type: str | None = None
    prompt: list[dict] | str | None = None  # for samples
    notes: list[str] = field(default_factory=list)
    sizes: tuple[int, int] = (0, 0)  # examples in the two splits, of which a row may be several or a part

    def __post_init__(self):
        if self.sizes == (0, 0):
            self.sizes = len(self.train), len(self.validation)

    def head_fields(self) -> dict[str, Any]:
        """What the config of a model with a head is told."""
        if self.problem_type == "regression":
            return {"num_labels": 1, "problem_type": self.problem_type}
        if not self.labels:
            return {}
        fields = {"id2label": dict(enumerate(self.labels)), "label2id": {n: i for i, n in enumerate(self.labels)}}
        return {**fields, "problem_type": self.problem_type} if self.problem_type else fields

    def fingerprint(self) -> str:
        """A hash of all that is trained on, by which data that has changed is told."""
        digest = hashlib.blake2b(digest_size=16)
        for row in self.train:
            digest.update(repr(row).encode())
        return digest.hexdigest()


def read_examples(args: DataArguments) -> tuple[Dataset, Dataset, str]:
    """The examples to train on, those to judge by, and their kind.

    Those to judge by are `validation_data`, or the data's own validation split, or those of which a hash of what is
    asked says so: adding or reordering others moves none from one split to the other.

    Raises:
        ValueError, OSError: for data that does not work; the message says what to do.
    """
    options: Any = {
        "text_column": args.text_column,
        "label_column": args.label_column,
        "skip_malformed": args.skip_malformed,
    }
    train, kind = load_examples(args.data, args.task, **options)
    source = args.validation_data or args.data
    own = set() if is_movie_dialogs(source) else splits_in(source)
    if args.validation_data or {"train", "validation"} <= own:
        split = "validation" if "validation" in own else "train"
        validation, found = load_examples(source, args.task, split=split, **options)
        if found != kind:
            raise ValueError(f"{args.data} is {kind} data and {source} {found} data: give both in one form.")
        return train, same_labels(train, validation, source) if kind == "classification" else validation, kind
    positions = [_position(key_of(row, kind)) for row in train]
    limit = max(args.validation_split, min(positions))  # one at least
    held_out = [index for index, position in enumerate(positions) if position <= limit]
    kept = [index for index, position in enumerate(positions) if position > limit]
    if not kept:
        raise ValueError(f"{args.data} has too few different examples to hold some out: give --validation_data.")
    return train.select(kept), train.select(held_out), kind


def _position(key: str) -> float:
    """A number between 0 and 1 that depends on the text alone."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") / 2**64


def prepare_examples(
    args: DataArguments, tokenizer: PreTrainedTokenizerBase, max_length: int, packing: bool, stages: Stages
) -> Examples:
    """Read, split and encode the data of a run.

    Args:
        tokenizer: for sft and dpo, that of the chat.
        max_length: tokens of an example at most, and of a packed row.
    """
    with stages("data") as say:
        if args.task == "lm":
            data = _corpus(args, tokenizer, max_length)
        else:
            train, validation, kind = read_examples(args)
            data = _ENCODE[args.task](train, validation, kind, tokenizer, max_length, packing)
        say(f"{args.data}: {data.kind}, {data.sizes[0]:,} to train on, {data.sizes[1]:,} held out")
        for note in data.notes:
            say(note)
    return data


def read_texts(args: DataArguments) -> datasets.DatasetDict:
    """The texts that an `lm` run trains on and those that it is judged by, as "train" and "validation".

    Of movie dialogues, a conversation is a text, and is held out where it would be as a chat.

    Raises:
        ValueError, OSError: as `load_corpus`.
    """

    def documents(source: str) -> datasets.DatasetDict:
        if not is_movie_dialogs(source):
            return load_corpus(source, text_column=args.text_column or "text")
        parts: dict[str, list[str]] = {"train": [], "validation": []}
        for _, chat in movie_chats(source):
            if isinstance(chat, Mapping):
                text = "\n".join(message["content"] for message in chat["messages"])
                held_out = _position(key_of(chat, "chat")) <= args.validation_split
                parts["validation" if held_out else "train"].append(text)
        rows = {name: {"name": texts, "text": texts} for name, texts in parts.items()}
        return datasets.DatasetDict({name: Dataset.from_dict(columns) for name, columns in rows.items()})

    corpus = documents(args.data)
    if not args.validation_data:
        return corpus
    return datasets.DatasetDict(
        train=datasets.concatenate_datasets(list(corpus.values())),
        validation=datasets.concatenate_datasets(list(documents(args.validation_data).values())),
    )


def _corpus(args: DataArguments, tokenizer, max_length: int) -> Examples:
    """Texts of any length, packed into blocks as in pretraining."""
    corpus = read_texts(args)
    prompt = " ".join(corpus["validation"][0]["text"].split()[:4])
    parts = [pack(corpus[split], tokenizer, max_length) for split in ("train", "validation")]
    return Examples("text", *parts, PackedCollator(tokenizer.eos_token_id), prompt=prompt)


def _chats(train, validation, kind, tokenizer, max_length, packing) -> Examples:
    notes: list[str] = []

    def encoded(rows: Dataset) -> Dataset:
        rows = rows.map(
            lambda row: encode_turns(tokenizer, as_messages(row, kind)), remove_columns=rows.column_names, **_UNSEEN
        )
        return _fit(rows, max_length, notes)

    parts = [encoded(train), encoded(validation)]
    sizes = len(parts[0]), len(parts[1])
    if packing:
        from trl import pack_dataset

        parts = [pack_dataset(part, max_length, "bfd", {"desc": "packing"}) for part in parts]
    messages = as_messages(validation[0], kind)
    prompt = messages[: next(i for i, message in enumerate(messages) if message["role"] == "assistant")] or None
    return Examples(kind, *parts, Collator(tokenizer.pad_token_id), prompt=prompt, notes=notes, sizes=sizes)


def _preferences(train, validation, kind, tokenizer, max_length, packing) -> Examples:
    notes: list[str] = []

    def encoded(rows: Dataset) -> Dataset:
        rows = rows.map(lambda row: encode_preference(tokenizer, **row), remove_columns=rows.column_names, **_UNSEEN)
        kept = rows.filter(lambda row: len(row["prompt_ids"]) < max_length, **_UNSEEN)
        if len(kept) < len(rows):
            notes.append(f"{len(rows) - len(kept):,} left out, whose prompt alone has {max_length:,} tokens")
        return _some(kept, max_length)

    return Examples(kind, encoded(train), encoded(validation), None, prompt=validation[0]["prompt"], notes=notes)


def _classes(train, validation, kind, tokenizer, max_length, packing) -> Examples:
    labels = [*train["label"], *validation["label"]]
    problem, names = "regression", []
    if not isinstance(labels[0], float):
        names = label_names(labels)
        problem = "multi_label_classification" if isinstance(labels[0], list) else "single_label_classification"
    known = {name: number for number, name in enumerate(names)}

    def encode(row: dict) -> dict:
        label = row["label"]
        if problem == "multi_label_classification":
            label = [float(name in label) for name in names]
        elif problem == "single_label_classification":
            label = known[label]
        return {"input_ids": encode_text(tokenizer, row["text"], max_length), "labels": label}

    parts = [rows.map(encode, remove_columns=rows.column_names, **_UNSEEN) for rows in (train, validation)]
    return Examples(kind, *parts, Collator(tokenizer.pad_token_id, per_token=False), names, problem)


def _tags(train, validation, kind, tokenizer, max_length, packing) -> Examples:
    names = label_names([*train["tags"], *validation["tags"]])

    def encode(row: dict) -> dict:
        return encode_tags(tokenizer, row["tokens"], row["tags"], names, max_length)

    parts = [rows.map(encode, remove_columns=rows.column_names, **_UNSEEN) for rows in (train, validation)]
    return Examples(kind, *parts, Collator(tokenizer.pad_token_id), names)


def _questions(train, validation, kind, tokenizer, max_length, packing) -> Examples:
    def encode(batch: dict) -> dict:
        rows: dict[str, list] = {"input_ids": [], "labels": []}
        for question, context, answers in zip(batch["question"], batch["context"], batch["answers"], strict=True):
            start = next(iter(answers["answer_start"]), 0)
            text = next(iter(answers["text"]), "")
            for ids, spans in encode_question(tokenizer, question, context, max_length):
                rows["input_ids"].append(ids)
                rows["labels"].append(encode_answer(spans, start, text))
        return rows

    parts = [
        rows.map(encode, batched=True, remove_columns=rows.column_names, **_UNSEEN) for rows in (train, validation)
    ]
    sizes = len(train), len(validation)
    return Examples(kind, *parts, Collator(tokenizer.pad_token_id, per_token=False), sizes=sizes)


_ENCODE = {"sft": _chats, "dpo": _preferences, "classify": _classes, "tag": _tags, "qa": _questions}
# Not stored: hashing a tokenizer to look for what was stored takes longer than encoding.
_UNSEEN: dict[str, Any] = {"load_from_cache_file": False, "keep_in_memory": True, "desc": "encoding"}


def _fit(rows: Dataset, max_length: int, notes: list[str]) -> Dataset:
    """Cut what is too long, and leave out what then has nothing to learn from."""
    long = sum(len(ids) > max_length for ids in rows["input_ids"])
    rows = rows.map(lambda row: {name: ids[:max_length] for name, ids in row.items()}, **_UNSEEN)
    kept = rows.filter(lambda row: any(label != IGNORE_INDEX for label in row["labels"][1:]), **_UNSEEN)
    if long:
        notes.append(f"{long:,} longer than {max_length:,} tokens, cut at the end")
    if len(kept) < len(rows):
        notes.append(f"{len(rows) - len(kept):,} left out, in which the assistant says nothing by then")
    return _some(kept, max_length)


def _some(rows: Dataset, max_length: int) -> Dataset:
    if not len(rows):
        raise ValueError(f"No example fits in {max_length:,} tokens: use a model with a longer context.")
    return rows


class Collator:
    """Pads examples at the end.

    Rows of several examples get positions that start at 0 with each, and no attention mask: transformers then reads
    from the positions where examples begin, and none of them attends to another.

    Args:
        pad_token_id: fills up short rows; it is neither attended to nor learnt.
        per_token: there is a label for each token, not for each example.
    """

    def __init__(self, pad_token_id: int, per_token: bool = True):
        self.pad_token_id = pad_token_id
        self.per_token = per_token

    def __call__(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        """Batch of `input_ids` (B, T), `labels` (B, T) or those of the examples, and mask or positions (B, T)."""
        ids = [torch.tensor(example["input_ids"]) for example in examples]
        batch = {"input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id)}
        length = batch["input_ids"].shape[1]
        if self.per_token:
            labels = [torch.tensor(example["labels"]) for example in examples]
            batch["labels"] = pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX)
        else:
            batch["labels"] = torch.tensor([example["labels"] for example in examples])
        if "seq_lengths" in examples[0]:
            # What fills up a row is one more example.
            spans = [[*e["seq_lengths"], length - len(e["input_ids"])] for e in examples]
            batch["position_ids"] = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in spans])
        else:
            batch["attention_mask"] = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
        return batch
