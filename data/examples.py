"""The data of a fine-tuning run: examples, split, and encoded for the task."""

import contextlib
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

import datasets
import torch
from datasets import Dataset, Features, List, Value
from datasets.fingerprint import generate_random_fingerprint
from transformers import PreTrainedTokenizerBase

from ..jobs.report import Stages
from ..tokenization.special_tokens import ChatEncoder
from .arguments import DataArguments, named_columns
from .corpora import load_corpus, position_of
from .encoding import TurnEncoder, encode_answer, encode_preference, encode_question, encode_tags, encode_text
from .formats import Skipped, as_messages, key_of, load_examples
from .labels import label_names
from .movie_dialogs import is_movie_dialogs
from .packing import IGNORE_INDEX, Collator, PackedCollator, hash_of, pack
from .rows import splits_in

logger = logging.getLogger(__name__)


@dataclass
class Examples:
    """The examples of a run in two splits, ready for a trainer."""

    kind: str
    train: Dataset
    validation: Dataset
    collator: Callable[[list[dict]], dict[str, torch.Tensor]] | None  # None: TRL's own
    labels: list[str] = field(default_factory=list)  # names of the head's classes
    prompt: list[dict] | str | None = None  # the beginning of samples
    notes: list[str] = field(default_factory=list)
    sizes: tuple[int, int] = (0, 0)  # examples in the two splits; a row may be several of them, or a part of one

    def __post_init__(self):
        if self.sizes == (0, 0):
            self.sizes = len(self.train), len(self.validation)

    def head_fields(self) -> dict[str, Any]:
        """Return the config fields of a model's head."""
        if not self.labels:
            return {}
        fields = {"id2label": dict(enumerate(self.labels)), "label2id": {n: i for i, n in enumerate(self.labels)}}
        return fields | ({"problem_type": "single_label_classification"} if self.kind == "classification" else {})

    def fingerprint(self) -> str:
        """Return a hash of all training rows, which changes with any of them."""
        return hash_of(map(repr, self.train))


def read_examples(args: DataArguments) -> tuple[Dataset, Dataset, str]:
    """Read the examples for training, those for validation, and their kind; raises ValueError, OSError.

    Validation rows come from `validation_data`, else from the data's own validation split, else they are chosen by a
    hash of the request: adding or reordering others moves none from one split to the other.
    """
    names: Any = {"columns": named_columns(args.columns), "text_column": args.text_column}
    options = {**names, "label_column": args.label_column, "skip_malformed": args.skip_malformed}
    train, kind = load_examples(args.data, args.task, **options)
    source = args.validation_data or args.data
    own = set() if is_movie_dialogs(source) else splits_in(source)
    if args.validation_data or {"train", "validation"} <= own:
        split = "validation" if "validation" in own else "train"
        validation, found = load_examples(source, args.task, split=split, **options)
        if found != kind:
            raise ValueError(f"{args.data} is {kind} data and {source} {found} data: give both in one form.")
        return train, validation, kind
    keys = [key_of(row, kind) for row in train]
    kept, held_out = _hold_out(keys, args.validation_split)
    if len(held_out) > len(keys) * (1 + args.validation_split) / 2:  # most rows have the same request
        whole = [json.dumps(row) for row in train.remove_columns("place")]
        kept, held_out = _hold_out(whole, args.validation_split)
        if not kept:
            raise ValueError(f"{args.data} has too few different examples to hold some out: give --validation_data.")
        few = f"few different prompts ({len(set(keys))} in {len(keys)} rows)"
        logger.warning("%s has %s, so held-out rows have no new ones: give --validation_data", args.data, few)
    return train.select(kept), train.select(held_out), kind


def _hold_out(keys: list[str], share: float) -> tuple[list[int], list[int]]:
    """Return the rows for training and those for validation: those whose keys are first by hash, at least one key."""
    positions = [position_of(key) for key in keys]
    limit = max(share, min(positions))
    return [i for i, p in enumerate(positions) if p > limit], [i for i, p in enumerate(positions) if p <= limit]


def prepare_examples(
    args: DataArguments, tokenizer: PreTrainedTokenizerBase, max_length: int, stages: Stages
) -> Examples:
    """Read, split and encode a run's data in rows of at most `max_length` tokens."""
    with stages("data") as say:
        if args.task == "lm":  # texts of any length, packed into blocks as in pretraining
            corpus = read_texts(args)
            prompt = " ".join(corpus["validation"][0]["text"].split()[:4])
            parts = [pack(corpus[split], tokenizer, max_length) for split in ("train", "validation")]
            data = Examples("text", *parts, PackedCollator(tokenizer.eos_token_id), prompt=prompt)
        else:
            train, validation, kind = read_examples(args)
            skipped = Skipped(args.data, args.skip_malformed)
            data = _ENCODE[args.task](_Read(train, validation, kind, tokenizer, max_length, skipped))
            skipped.warn()
        say(f"{args.data}: {data.kind}, {data.sizes[0]:,} to train on, {data.sizes[1]:,} held out")
        for note in data.notes:
            say(note)
    return data


def read_texts(args: DataArguments) -> datasets.DatasetDict:
    """Read the texts of an `lm` run in two splits. Conversations of movies are texts, and split as chats are."""

    def documents(source: str) -> datasets.DatasetDict:
        if not is_movie_dialogs(source):
            column = args.text_column or "text"
            return load_corpus(source, text_column=column, skip_malformed=args.skip_malformed)
        chats, kind = load_examples(source, args.task, skip_malformed=args.skip_malformed)
        texts = ["\n".join(message["content"] for message in chat["messages"]) for chat in chats]
        train, validation = _hold_out([key_of(chat, kind) for chat in chats], args.validation_split)
        rows = Dataset.from_dict({"name": texts, "text": texts})
        return datasets.DatasetDict(train=rows.select(train), validation=rows.select(validation))

    if not args.validation_data:
        return documents(args.data)
    sources = {"train": documents(args.data), "validation": documents(args.validation_data)}
    return datasets.DatasetDict({s: datasets.concatenate_datasets([*all.values()]) for s, all in sources.items()})


IDS = List(Value("int64"))
OF_TOKENS = {"input_ids": IDS, "labels": IDS}


class _Read(NamedTuple):
    """Examples of a kind in two splits, and the settings of their encoding."""

    train: Dataset
    validation: Dataset
    kind: str
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    skipped: Skipped

    def examples(self, parts: list[Dataset], per_token: bool = True, **fields: Any) -> Examples:
        return Examples(self.kind, *parts, Collator(self.tokenizer.pad_token_id, per_token), **fields)

    def encoded(
        self, encode: Callable[[dict], Any], types: dict, finish: Callable[[list], Iterable[dict]] = chain.from_iterable
    ) -> list[Dataset]:
        """Encode both splits: `encode` a row, then `finish` many; raises ValueError for a bad row, or for no row."""

        def batch(columns: dict[str, list]) -> dict[str, list]:
            found, examples = [], []
            for values in zip(*columns.values(), strict=True):
                row = dict(zip(columns, values, strict=True))
                with self.skipped.at(row["place"]):
                    found.append((row["place"], encode(row)))
            try:
                examples += finish([encoded for _, encoded in found])
            except ValueError:  # from one of them
                for place, encoded in found:
                    with self.skipped.at(place):
                        examples += finish([encoded])
            return {name: [example[name] for example in examples] for name in types}

        parts = []
        for rows in (self.train, self.validation):
            # With a random fingerprint: hashing the tokenizer, to look for stored rows, takes longer than encoding.
            options: Any = {"new_fingerprint": generate_random_fingerprint(), "keep_in_memory": True}
            options |= {"remove_columns": rows.column_names, "features": Features(types), "desc": "encoding"}
            parts.append(rows.map(batch, batched=True, **options))
            if not len(parts[-1]):
                why = f"{self.max_length:,} tokens" + (f" ({self.skipped.rows[0]})" if self.skipped.rows else "")
                raise ValueError(f"No example fits in {why}: use a model with a longer context.")
        return parts


def _chats(data: _Read) -> Examples:
    encoder, long, unlearned, max_length = TurnEncoder(data.tokenizer), 0, 0, data.max_length

    def encode(chats: list[tuple]) -> list[dict]:
        """Encode rendered chats, cut them to the longest length, and skip those that then have no label."""
        nonlocal long, unlearned
        rows = encoder.encode_batch(chats)
        long += sum(len(row["input_ids"]) > max_length for row in rows)
        rows = [{name: ids[:max_length] for name, ids in row.items()} for row in rows]
        kept = [row for row in rows if any(label != IGNORE_INDEX for label in row["labels"][1:])]
        unlearned += len(rows) - len(kept)
        return kept

    parts = data.encoded(lambda row: encoder.render(as_messages(row, data.kind), row.get("tools")), OF_TOKENS, encode)
    notes = [f"{long:,} are longer than {max_length:,} tokens and are cut at the end"] if long else []
    if unlearned:
        notes.append(f"{unlearned:,} skipped, as they have no message of the assistant within that length")
    prompt = _sample(encoder.chats, (as_messages(row, data.kind) for row in data.validation))
    return data.examples(parts, prompt=prompt, notes=notes)


def _sample(encoder: ChatEncoder, chats: Iterable[list[dict]]) -> list[dict] | None:
    """Return the beginning of the first chat that can be encoded, up to the assistant's first learned message."""
    for messages in chats:
        end = next(i for i, m in enumerate(messages) if m["role"] == "assistant" and m.get("weight") != 0)
        prompt = [{name: part for name, part in m.items() if name != "weight"} for m in messages[:end]]
        with contextlib.suppress(ValueError):
            encoder.encode_batch([encoder.render(prompt, add_generation_prompt=True)])
            return prompt
    return None


def _preferences(data: _Read) -> Examples:
    encoder, long = ChatEncoder(data.tokenizer), 0

    def encode(row: dict) -> list[dict]:
        nonlocal long
        encoded = encode_preference(encoder, row["prompt"], row["chosen"], row["rejected"], row["tools"])
        is_long = len(encoded["prompt_ids"]) >= data.max_length
        long += is_long
        return [] if is_long else [encoded]

    parts = data.encoded(encode, dict.fromkeys(("prompt_ids", "chosen_ids", "rejected_ids"), IDS))
    notes = [f"{long:,} skipped, whose prompt alone has {data.max_length:,} tokens"] if long else []
    prompt = _sample(encoder, ([*row["prompt"], *row["chosen"]] for row in data.validation))
    return Examples(data.kind, *parts, None, prompt=prompt, notes=notes)


def _classes(data: _Read) -> Examples:
    names = label_names([*data.train["label"], *data.validation["label"]])
    ids = {name: id for id, name in enumerate(names)}

    def encode(row: dict) -> list[dict]:
        text = encode_text(data.tokenizer, row["text"], data.max_length)
        return [{"input_ids": text, "labels": ids[row["label"]]}]

    parts = data.encoded(encode, {"input_ids": IDS, "labels": Value("int64")})
    return data.examples(parts, per_token=False, labels=names)


def _tags(data: _Read) -> Examples:
    names = label_names(chain(*data.train["tags"], *data.validation["tags"]))

    def encode(row: dict) -> list[dict]:
        return [encode_tags(data.tokenizer, row["tokens"], row["tags"], names, data.max_length)]

    return data.examples(data.encoded(encode, OF_TOKENS), labels=names)


def _questions(data: _Read) -> Examples:
    def encode(row: dict) -> list[dict]:
        start, text = next(iter(row["answers"]["answer_start"]), 0), next(iter(row["answers"]["text"]), "")
        windows = encode_question(data.tokenizer, row["question"], row["context"], data.max_length)
        return [{"input_ids": ids, "labels": encode_answer(spans, start, text)} for ids, spans in windows]

    sizes = len(data.train), len(data.validation)
    return data.examples(data.encoded(encode, OF_TOKENS), per_token=False, sizes=sizes)


_ENCODE = {"sft": _chats, "dpo": _preferences, "classify": _classes, "tag": _tags, "qa": _questions}
