"""Examples to fine-tune on: any common form is recognised by its columns, and brought to one form for each kind.

| kind | recognised by | columns that come out |
|---|---|---|
| preference | chosen, rejected (and prompt, instruction, question or shared turns) | prompt, chosen, rejected |
| chat | messages or conversations (ShareGPT's, too); a Cornell Movie-Dialogs folder | messages |
| instruction | instruction, output or response (and input or context) | before, instruction, input, output |
| prompt-completion | prompt, question or query, and completion, response or answer | prompt, completion |
| qa | question, context, answers, as in SQuAD, nested or flat | id, context, question, answers |
| summary | dialogue, document or article, and summary or highlights | dialogue, summary |
| tags | tokens or words, and tags, ner_tags, pos_tags or labels | tokens, tags |
| classification | text, sentence, content or review, and label or labels | text, label |
| text | text, sentence, content or review | text |

`messages`, `prompt`, `completion`, `chosen`, `rejected` and `before` (the system's words, and earlier turns) are lists
of messages: dicts with a role and content, and with `weight` 0 where nothing is learnt. Kinds with messages have
`tools`, a list of functions, as well. `label` is a string, a float (then there is a number to predict), or a list of
strings (then several labels may hold). `place` says where the row is, such as "rows.jsonl, line 3".
"""

import contextlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import chain

import pyarrow
from datasets import Dataset, Features, List

from .columns import KINDS, Columns, Malformed, stored_json
from .labels import settle_labels
from .movie_dialogs import is_movie_dialogs, movie_chats
from .readers import MESSAGES, STRING, features, instruction_text, read_example
from .rows import ACCEPTED, BATCH_ROWS, Row, read_rows

logger = logging.getLogger(__name__)
warn_once = cache(logger.warning)

SUMMARIZE = "Summarize this dialogue.\n\n{dialogue}"
ANSWER = "{context}\n\nAnswer from the text above: {question}"
NO_ANSWER = "The text does not say."
KINDS_OF = {  # task: the kinds that it learns from, the likeliest first
    "sft": ("chat", "instruction", "prompt-completion", "summary", "qa"),
    "dpo": ("preference",),
    "classify": ("classification",),
    "tag": ("tags",),
    "qa": ("qa",),
    "lm": ("text", "chat"),
    "summarize": ("summary",),
}


class Skipped:
    """Counts rows of `source` that are left out; the first one ends the run unless they are `allowed` to be."""

    def __init__(self, source: str, allowed: bool):
        self.source, self.allowed = source, allowed
        self.rows: list[str] = []

    @contextlib.contextmanager
    def at(self, place: str) -> Iterator[None]:
        """Whatever is wrong with the row at `place` is said with it; raises ValueError if no row may be left out."""
        try:
            yield
        except ValueError as error:
            what = str(error) if isinstance(error, Malformed) else f"cannot be encoded: {error}"
            if not self.allowed:
                fix = "correct it, or leave such rows out with --skip_malformed"
                raise ValueError(f"{place} {what.removesuffix('.')}: {fix}.") from None
            self.rows.append(f"{place} {what}")

    def warn(self) -> None:
        if self.rows:
            count, first = len(self.rows), self.rows[0]
            logger.warning("%s: %d malformed rows left out, the first one at %s", self.source, count, first)


def load_examples(
    source: str,
    task: str | None = None,
    *,
    split: str = "train",
    text_column: str | None = None,
    label_column: str | list[str] | None = None,
    columns: Mapping[str, str] | None = None,
    skip_malformed: bool = False,
) -> tuple[Dataset, str]:
    """Read the examples in a file, a folder or hub:NAME[:CONFIG], and recognise what they are.

    Args:
        task: sft, dpo, classify, tag, qa, lm or summarize: of the kinds that the columns allow, take one for it.
        split: train, validation or test, of a folder or a data set on the Hub.
        text_column, label_column: if they have unusual names. Several columns of labels, each with 0 or 1, say which
            labels hold.
        columns: all others that have unusual names, such as {"prompt": "ask", "completion": "reply"}.
        skip_malformed: leave out rows that are not as they should be; a warning says how many.

    Returns the examples in the columns that the module's table says, and their kind. Raises ValueError for a malformed
    row, for columns that no kind has, or none for this task, and without a usable row; OSError if there is no source.
    """
    labels = (label_column,) if isinstance(label_column, str) else tuple(label_column or ())
    names = Columns({**(columns or {}), **({"text": text_column} if text_column else {})}, labels)
    rows = movie_chats(source) if is_movie_dialogs(source) else read_rows(source, split)
    first, rows = _first_mapping(rows)
    if first is None:
        wrong = next((f" ({place} {value})" for place, value in rows), "")
        raise ValueError(f"{source} has no usable row{wrong}: {ACCEPTED}.")
    kind = recognise(first, task, names, source)
    examples, tables, skipped = [], [], Skipped(source, skip_malformed)
    types = features(kind)
    messages = [column for column, type_ in types.items() if type_ == MESSAGES]
    schema = Features({**types, **dict.fromkeys(messages, List(STRING))}).arrow_schema
    for place, value in rows:
        with skipped.at(place):
            if not isinstance(value, Mapping):
                not_mapping = f"is {type(value).__name__}, not an object with columns"
                raise Malformed(str(value) if isinstance(value, ValueError) else not_mapping)
            example = read_example(kind, names.cells(kind, value), labels if len(labels) > 1 else ())
            for column in messages:
                example[column] = [stored_json(message) for message in example[column]]
            examples.append({**example, "place": place})
        if len(examples) == BATCH_ROWS and kind != "classification":  # of which all labels must be known
            tables.append(pyarrow.Table.from_pylist(examples, schema))
            examples = []
    if missing := names.missing():
        raise ValueError(f"{source} has no column {missing[0]!r}, only {', '.join(first)}: give the name of one.")
    if not examples and not tables:
        raise ValueError(f"{source} has no usable row ({skipped.rows[0]}): give other data.")
    skipped.warn()
    if unused := names.unused():
        warn_once(f"{source}: not used are the columns {', '.join(map(str, unused))}")
    if kind == "classification":
        examples, label = settle_labels(examples, source)
        return Dataset.from_list(examples, features=features(kind, label)), kind
    tables.append(pyarrow.Table.from_pylist(examples, schema))
    return Dataset(pyarrow.concat_tables(tables).cast(types.arrow_schema)), kind


def recognise(row: Mapping, task: str | None = None, columns: Columns | None = None, source: str = "the data") -> str:
    """The kind of a row, by its columns; raises ValueError if it is of no kind, or of none for the task."""
    kinds = (columns or Columns()).kinds(row)
    wanted = KINDS_OF[task] if task else tuple(KINDS)
    found = next((kind for kind in wanted if kind in kinds), None)
    if found is None:
        has = f"has the columns {', '.join(map(str, row))}" + (f", which is {kinds[0]} data" if kinds else "")
        needs = f"{task} needs {' or '.join(wanted)} data" if task else "no kind of data has these"
        raise ValueError(f"{source} {has}; {needs}: see docs/finetuning.md for the columns of each.")
    return found


def as_messages(example: Mapping, kind: str) -> list[dict]:
    """An example of any kind for sft as a chat; what the assistant should say has no `weight` of 0."""
    if kind == "chat":
        return example["messages"]
    if kind == "prompt-completion":
        return [*({**message, "weight": 0} for message in example["prompt"]), *example["completion"]]
    if kind == "summary":
        asked, said = SUMMARIZE.format(dialogue=example["dialogue"]), example["summary"]
    elif kind == "qa":
        asked = ANSWER.format(context=example["context"], question=example["question"])
        said = next(iter(example["answers"]["text"]), NO_ANSWER)
    else:
        asked, said = instruction_text(example), example["output"]
    before = example.get("before") or []
    return [*before, {"role": "user", "content": asked}, {"role": "assistant", "content": said}]


def key_of(example: Mapping, kind: str) -> str:
    """What decides whether an example is held out: what is asked, so that no question is in both splits."""
    keys = {"qa": "context", "classification": "text", "tags": "tokens", "summary": "dialogue", "text": "text",
            "chat": "messages"}  # fmt: skip
    if kind == "instruction":
        value = [*example["before"], {"role": "user", "content": instruction_text(example)}]
    else:
        value = example[keys.get(kind, "prompt")]
    if kind in ("instruction", "prompt-completion") and len(value) == 1:
        value = value[0]["content"]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _first_mapping(rows: Iterator[Row]) -> tuple[Mapping | None, Iterable[Row]]:
    """The first row that says what the columns are, and all rows."""
    seen = []
    for row in rows:
        seen.append(row)
        if isinstance(row.value, Mapping):
            return row.value, chain(seen, rows)
    return None, seen
