"""Examples to fine-tune on. Their columns tell which kind they are, and each kind has one form.

`columns.py` has the columns by which a kind is recognized, `readers.py` those of the result. Messages are dicts with a
role and content, and with `weight` 0 if they are not learned; `before` has the system's, and earlier turns. `place` is
that of the row, such as "rows.jsonl, line 3".
"""

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from functools import cache

import pyarrow
from datasets import Dataset, Features, List

from .columns import KINDS, Columns, Malformed, stored_json
from .labels import check_classes
from .movie_dialogs import is_movie_dialogs, movie_chats
from .readers import KINDS as READERS
from .readers import MESSAGES, STRING, instruction_text, read_example
from .rows import ACCEPTED, BATCH_ROWS, FIX_OR_SKIP, read_rows

logger = logging.getLogger(__name__)
warn_once = cache(logger.warning)

SUMMARIZE = "Summarize this dialogue.\n\n{dialogue}"
ANSWER = "{context}\n\nAnswer from the text above: {question}"
NO_ANSWER = "The text does not say."
KINDS_OF = {  # task: the kinds that it learns from, the most likely first
    "sft": ("chat", "instruction", "prompt-completion", "summary", "qa"),
    "dpo": ("preference",),
    "classify": ("classification",),
    "tag": ("tags",),
    "qa": ("qa",),
    "lm": ("text", "chat"),
    "summarize": ("summary",),
}


class Skipped:
    """The rows of `source` that are skipped; the first one is an error unless they are `allowed` to be."""

    def __init__(self, source: str, allowed: bool):
        self.source, self.allowed = source, allowed
        self.rows: list[str] = []

    @contextlib.contextmanager
    def at(self, place: str) -> Iterator[None]:
        """Note a ValueError of the row at `place`, or raise it with that place if no row may be skipped."""
        try:
            yield
        except ValueError as error:
            what = str(error) if isinstance(error, Malformed) else f"cannot be encoded: {error}"
            if not self.allowed:
                raise ValueError(f"{place} {what.removesuffix('.')}: {FIX_OR_SKIP}.") from None
            self.rows.append(f"{place} {what}")

    def warn(self) -> None:
        if self.rows:
            text = "%s: %d malformed rows skipped, the first one at %s"
            logger.warning(text, self.source, len(self.rows), self.rows[0])


def load_examples(
    source: str, task: str | None = None, *, split: str = "train", text_column: str | None = None,
    label_column: str | None = None, columns: Mapping[str, str] | None = None, skip_malformed: bool = False,
) -> tuple[Dataset, str]:  # fmt: skip
    """Read the examples in a file, a folder or hub:NAME[:CONFIG], and recognize their kind.

    `task`, of `KINDS_OF`, chooses among the kinds that the columns allow. `split`, of a folder or a dataset on the Hub,
    is train, validation or test. Other columns are as `DataArguments` has them.

    Returns the examples in the columns of `readers.KINDS`, and their kind. Raises ValueError for a malformed row,
    for columns of no kind, or of none for this task, and without a usable row; OSError if there is no source.
    """
    names = Columns({**(columns or {}), **({"text": text_column} if text_column else {})}, label_column)
    rows = movie_chats(source) if is_movie_dialogs(source) else read_rows(source, split)
    skipped, kind, types, messages, schema = Skipped(source, skip_malformed), "", Features(), [], None
    examples, tables = [], []
    for place, value in rows:
        if not kind and isinstance(value, Mapping):
            kind = recognize(value, task, names, source)
            types = Features({**READERS[kind][1], "place": STRING})
            messages = [column for column, type_ in types.items() if type_ == MESSAGES]
            schema = Features({**types, **dict.fromkeys(messages, List(STRING))}).arrow_schema
        with skipped.at(place):
            if not isinstance(value, Mapping):
                not_mapping = f"is {type(value).__name__}, not an object with columns"
                raise Malformed(str(value) if isinstance(value, ValueError) else not_mapping)
            example = read_example(kind, names.cells(kind, value))
            for column in messages:
                example[column] = [stored_json(message) for message in example[column]]
            examples.append({**example, "place": place})
        if len(examples) == BATCH_ROWS:
            tables.append(pyarrow.Table.from_pylist(examples, schema))
            examples = []
    if not examples and not tables:
        raise ValueError(f"{source} has no usable row{''.join(f' ({row})' for row in skipped.rows[:1])}: {ACCEPTED}.")
    if missing := names.missing():
        raise ValueError(f"{source} has no column {missing[0]!r}, only {', '.join(names.all())}: give one of these.")
    skipped.warn()
    if unused := names.unused():
        warn_once(f"{source} has unused columns {', '.join(map(str, unused))}")
    tables.append(pyarrow.Table.from_pylist(examples, schema))
    dataset = Dataset(pyarrow.concat_tables(tables).cast(types.arrow_schema))
    if kind == "classification":
        check_classes(dataset, source)
    return dataset, kind


def recognize(row: Mapping, task: str | None, columns: Columns, source: str) -> str:
    """Return the kind of a row, by its columns; raises ValueError if it is of no kind, or of none for the task."""
    kinds = columns.kinds(row)
    wanted = KINDS_OF[task] if task else tuple(KINDS)
    found = next((kind for kind in wanted if kind in kinds), None)
    if found is None:
        has = f"has the columns {', '.join(map(str, row))}" + (f", which is {kinds[0]} data" if kinds else "")
        needs = f"{task} needs {' or '.join(wanted)} data" if task else "no kind of data has these"
        raise ValueError(f"{source} {has}; {needs}: see docs/finetuning.md for the columns of each.")
    return found


def as_messages(example: Mapping, kind: str) -> list[dict]:
    """Return an example of any kind for sft as a chat; messages that are not learned have a `weight` of 0."""
    if kind == "chat":
        return example["messages"]
    if kind == "prompt-completion":
        return [*({**message, "weight": 0} for message in example["prompt"]), *example["completion"]]
    if kind == "summary":
        request, reply = SUMMARIZE.format(dialogue=example["dialogue"]), example["summary"]
    elif kind == "qa":
        request = ANSWER.format(context=example["context"], question=example["question"])
        reply = next(iter(example["answers"]["text"]), NO_ANSWER)
    else:
        request, reply = instruction_text(example), example["output"]
    before = example.get("before") or []
    return [*before, {"role": "user", "content": request}, {"role": "assistant", "content": reply}]


def key_of(example: Mapping, kind: str) -> str:
    """Return the text that decides whether an example is held out: the request, so that none is in both splits."""
    keys = {"qa": "context", "classification": "text", "tags": "tokens", "summary": "dialogue", "text": "text",
            "chat": "messages"}  # fmt: skip
    if kind == "instruction":
        value = [*example["before"], {"role": "user", "content": instruction_text(example)}]
    else:
        value = example[keys.get(kind, "prompt")]
    if kind in ("instruction", "prompt-completion") and len(value) == 1:
        value = value[0]["content"]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
