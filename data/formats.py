"""Examples to fine-tune on: any common form is recognised by its columns, and brought to one form for each kind.

| kind | recognised by | columns that come out |
|---|---|---|
| preference | chosen, rejected (and prompt, instruction, question or shared turns) | prompt, chosen, rejected |
| chat | messages or conversations (ShareGPT's, too); a Cornell Movie-Dialogs folder | messages |
| instruction | instruction, output or response (and input or context) | instruction, input, output |
| prompt-completion | prompt, completion or response | prompt, completion |
| qa | question, context, answers, as in SQuAD, nested or flat | id, context, question, answers |
| summary | dialogue, document or article, and summary or highlights | dialogue, summary |
| tags | tokens or words, and tags, ner_tags, pos_tags or labels | tokens, tags |
| classification | text, sentence, content or review, and label or labels | text, label |
| text | text | text |

In `messages` and `prompt` each message is a dict with a role and content. `label` is a string, a float (then there is
a number to predict), or a list of strings (then several labels may hold).
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from datasets import Dataset

from .labels import settle_labels
from .movie_dialogs import is_movie_dialogs, movie_chats
from .readers import FEATURES, FITS, READ, Columns, Malformed, instruction_text
from .rows import ACCEPTED, Row, read_rows

logger = logging.getLogger(__name__)

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


def load_examples(
    source: str,
    task: str | None = None,
    *,
    split: str = "train",
    text_column: str | None = None,
    label_column: str | list[str] | None = None,
    skip_malformed: bool = False,
) -> tuple[Dataset, str]:
    """Read examples and recognise what they are.

    Args:
        source: a file, a folder, or hub:NAME[:CONFIG].
        task: sft, dpo, classify, tag, qa, lm or summarize: of the kinds that the columns allow, take one for it.
        split: of a folder or a data set on the Hub: train, validation or test.
        text_column, label_column: where the columns of texts and labels have unusual names. Several columns of labels,
            each with 0 or 1, say which labels hold.
        skip_malformed: leave out rows that are not as they should be; a warning says how many.

    Returns:
        The examples in the columns that the module's table says, and their kind.

    Raises:
        ValueError: for a row that is malformed, with its number; for columns that no kind has, or none for this task;
            if no usable row is left.
        OSError: if nothing is at the source, or it cannot be reached.
    """
    labels = (label_column,) if isinstance(label_column, str) else tuple(label_column or ())
    columns = Columns(text_column, labels)
    rows = movie_chats(source) if is_movie_dialogs(source) else read_rows(source, split)
    first, rows = _first_mapping(rows)
    if first is None:
        wrong = next((f" ({place} {value})" for place, value in rows), "")
        raise ValueError(f"{source} has no usable row{wrong}: {ACCEPTED}.")
    kind = recognise(first, task, columns, source)
    examples, skipped = [], []
    for place, value in rows:
        try:
            examples.append(READ[kind](_mapping(value), columns))
        except Malformed as error:
            if not skip_malformed:
                fix = "correct it, or leave such rows out with --skip_malformed"
                raise ValueError(f"{place} {error}: {fix}.") from None
            skipped.append(f"{place} {error}")
    if not examples:
        raise ValueError(f"{source} has no usable row ({skipped[0]}): give other data.")
    if skipped:
        logger.warning("%s: %d malformed rows left out, the first one at %s", source, len(skipped), skipped[0])
    if kind == "classification":
        examples, features = settle_labels(examples, source)
    else:
        features = FEATURES[kind]
    return Dataset.from_list(examples, features=features), kind


def recognise(row: Mapping, task: str | None = None, columns: Columns | None = None, source: str = "the data") -> str:
    """The kind of a row, by its columns.

    Raises:
        ValueError: if it is of no kind, or of none that the task learns from; says what it has and what is needed.
    """
    kinds = [kind for kind, fits in FITS.items() if fits(row, columns or Columns())]
    wanted = KINDS_OF[task] if task else tuple(FEATURES)
    found = next((kind for kind in wanted if kind in kinds), None)
    if found is None:
        has = f"has the columns {', '.join(map(str, row))}" + (f", which is {kinds[0]} data" if kinds else "")
        needs = f"{task} needs {' or '.join(wanted)} data" if task else "no kind of data has these"
        raise ValueError(f"{source} {has}; {needs}: see docs/finetuning.md for the columns of each.")
    return found


def as_messages(example: Mapping, kind: str) -> list[dict]:
    """An example of any kind for sft as a chat whose last message is what the assistant should say."""
    if kind == "chat":
        return example["messages"]
    if kind == "summary":
        asked, said = SUMMARIZE.format(dialogue=example["dialogue"]), example["summary"]
    elif kind == "qa":
        asked = ANSWER.format(context=example["context"], question=example["question"])
        said = next(iter(example["answers"]["text"]), NO_ANSWER)
    elif kind == "instruction":
        asked, said = instruction_text(example), example["output"]
    else:
        asked, said = example["prompt"], example["completion"]
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]


def key_of(example: Mapping, kind: str) -> str:
    """What decides whether an example is held out: what is asked, so that no question is in both splits."""
    keys = {"qa": "context", "classification": "text", "tags": "tokens", "summary": "dialogue", "text": "text",
            "chat": "messages"}  # fmt: skip
    if kind == "instruction":
        return instruction_text(example)
    value = example[keys.get(kind, "prompt")]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _first_mapping(rows: Iterator[Row]) -> tuple[Mapping | None, Iterable[Row]]:
    """The first row that says what the columns are, and all rows."""
    seen = []
    for row in rows:
        seen.append(row)
        if isinstance(row.value, Mapping):
            return row.value, chain(seen, rows)
    return None, seen


def _mapping(value: Any) -> Mapping:
    if isinstance(value, ValueError):
        raise Malformed(str(value))
    if not isinstance(value, Mapping):
        raise Malformed(f"is {type(value).__name__}, not an object with columns")
    return value
