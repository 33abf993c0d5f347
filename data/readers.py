"""How an example of each kind is read from a row. What comes out is in `formats.py`."""

from collections.abc import Callable, Mapping
from typing import Any

from datasets import Features, Json, List, Value

from .columns import Cells, Malformed, shown
from .labels import read_labels
from .messages import answers, length_shared, read_message, read_pairs, read_transcript

STRING, STRINGS, MESSAGES = Value("string"), List(Value("string")), List(Json())
ANSWERS = {"text": STRINGS, "answer_start": List(Value("int64"))}
INSTRUCTION = {"before": MESSAGES, "instruction": STRING, "input": STRING, "output": STRING, "tools": MESSAGES}


def features(kind: str, label: Any = None) -> Features:
    """The types of a kind's columns; the label's is that of the labels that were found. `place` is in the source."""
    columns: dict = {"text": STRING, "label": label or STRING} if kind == "classification" else KINDS[kind][1]
    return Features({**columns, "place": STRING})


def instruction_text(row: Mapping) -> str:
    """An instruction with its input, if it has one, as one request."""
    return f"{row['instruction']}\n\n{row['input']}" if row.get("input") else row["instruction"]


def read_example(kind: str, row: Cells, labels: tuple[str, ...] = ()) -> dict:
    """A row as an example of a kind; raises Malformed. `labels` are the names of several columns of labels."""
    return _classification(row, labels) if kind == "classification" else KINDS[kind][0](row)


def _tools(row: Cells) -> list[dict]:
    tools = row.list("tools", may_be_empty=True)
    if not all(isinstance(tool, Mapping) for tool in tools):
        raise Malformed(f"has something else than functions in {row.name('tools')}")
    return tools


def _before(row: Cells, messages: list[dict] | None = None) -> list[dict]:
    """The messages of a row with what was said before them: earlier turns, and first the system's words."""
    messages = read_pairs(row.list("history", may_be_empty=True), row.name("history")) + (messages or [])
    system = row.string("system", may_be_empty=True)
    if not system.strip():
        return messages
    if messages and messages[0]["role"] in ("system", "developer"):
        if messages[0].get("content") != system:
            raise Malformed(f"has {row.name('system')}, and another message of the system: leave out one of them")
        return messages
    return [{"role": "system", "content": system}, *messages]


def _asked(row: Cells) -> list[dict]:
    """The messages of a prompt, or a text with its input as one."""
    if row.is_chat("prompt"):
        return _before(row, _messages(row, "prompt"))
    request = {"instruction": row.string("prompt"), "input": row.string("input", may_be_empty=True)}
    return _before(row, [{"role": "user", "content": instruction_text(request)}])


def _earlier(row: Cells) -> list[dict]:
    """A prompt that is a whole chat in a column of its own."""
    return _before(row, _messages(row, "messages", may_be_empty=True))


def _messages(row: Cells, column: str, may_be_empty: bool = False) -> list[dict]:
    return [read_message(message, row.name(column)) for message in row.list(column, may_be_empty)]


def _check_answers(row: Cells, column: str, messages: list[dict]) -> None:
    if not answers(messages):
        raise Malformed(f"has nothing that the assistant says in {row.name(column)}")


def _chat(row: Cells) -> dict:
    messages = _before(row, _messages(row, "messages"))
    _check_answers(row, "messages", messages)
    return {"messages": messages, "tools": _tools(row)}


def _completion(row: Cells) -> dict:
    if row.is_chat("completion"):
        completion = _messages(row, "completion")
    else:
        completion = [{"role": "assistant", "content": row.string("completion")}]
    _check_answers(row, "completion", completion)
    return {"prompt": _asked(row), "completion": completion, "tools": _tools(row)}


def _preference(row: Cells) -> dict:
    chosen, rejected = (_answer(row, column) for column in ("chosen", "rejected"))
    if isinstance(chosen, str) or isinstance(rejected, str):
        if not (isinstance(chosen, str) and isinstance(rejected, str)):
            raise Malformed("has a chat and a text as chosen and rejected")
        prompt = _asked(row) if row.get("prompt") is not None else _earlier(row)
        if not prompt:  # it is what both begin with
            shared = chosen[: length_shared(chosen, rejected)]
            shared = shared[: len(shared) - len(shared.split(" ")[-1])]  # whole words
            if not shared.strip():
                raise Malformed("has no prompt")
            prompt = _before(row, [{"role": "user", "content": shared.rstrip()}])
            chosen, rejected = chosen[len(shared) :], rejected[len(shared) :]
        chosen, rejected = ([{"role": "assistant", "content": said}] for said in (chosen, rejected))
    else:
        prompt, chosen, rejected = _split_chats(row, chosen, rejected)
    _check_answers(row, "chosen", chosen)
    _check_answers(row, "rejected", rejected)
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, "tools": _tools(row)}


def _answer(row: Cells, column: str) -> list[dict] | str:
    """One of two answers: messages, or a text that is none."""
    if row.is_chat(column):
        return _messages(row, column)
    if isinstance(message := row.get(column), Mapping):
        return [read_message(message, row.name(column))]
    text = row.string(column)
    return read_transcript(text) or text


def _split_chats(row: Cells, chosen: list[dict], rejected: list[dict]) -> tuple[list[dict], list[dict], list[dict]]:
    """The prompt, and what follows it in two chats, which may begin with the prompt."""
    shared = min(length_shared(chosen, rejected), len(chosen) - 1, len(rejected) - 1)
    prompt = _asked(row) if row.get("prompt") else [] if shared else _earlier(row)
    said = [message.get("content", "").strip() for message in chosen[:shared]]
    last = prompt[-1].get("content", "").strip() if prompt else None
    if prompt and last not in said:
        return prompt, chosen, rejected
    # The prompt is repeated in both, or they begin with one that is nowhere else.
    if not shared:
        raise Malformed("has chosen and rejected that answer different chats, or no prompt before them")
    return _before(row, chosen[:shared]), chosen[shared:], rejected[shared:]


def _instruction(row: Cells) -> dict:
    return {
        "before": _before(row),
        "instruction": row.string("instruction"),
        "input": row.string("input", may_be_empty=True),
        "output": row.string("output"),
        "tools": _tools(row),
    }


def _strings(*columns: str) -> Callable[[Cells], dict]:
    return lambda row: {column: row.string(column) for column in columns}


def _qa(row: Cells) -> dict:
    context, question, found = row.string("context"), row.string("question"), row.json("answers")
    if isinstance(found, str):
        raise Malformed("has no JSON as answers")
    if isinstance(found, list):
        if not all(isinstance(answer, Mapping) for answer in found):
            raise Malformed("has answers without text and answer_start")
        found = {key: [answer.get(key) for answer in found] for key in ("text", "answer_start")}
    if not isinstance(found, Mapping):
        raise Malformed(f"has {shown(found)} as answers, not text and answer_start")
    texts, starts = found.get("text"), found.get("answer_start")
    if not (isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts)):
        raise Malformed("has answers without as many answer_start as text")
    for text, start in zip(texts, starts, strict=True):
        is_there = isinstance(text, str) and isinstance(start, int) and start >= 0 and context.startswith(text, start)
        if not is_there or not text:
            raise Malformed(f"has the answer {str(text)[:40]!r}, which is not at {start} in its context")
    id = str(row.get("id") or "")
    return {"id": id, "context": context, "question": question, "answers": {"text": texts, "answer_start": starts}}


def _tags(row: Cells) -> dict:
    tokens, tags = row.list("tokens"), row.list("tags")
    names = row.name("tokens"), row.name("tags")
    if len(tokens) != len(tags):
        raise Malformed(f"has {len(tokens)} {names[0]} and {len(tags)} {names[1]}")
    if not all(isinstance(token, str) for token in tokens) or any(not isinstance(tag, str | int) for tag in tags):
        raise Malformed(f"has something else than words in {names[0]}, or than labels in {names[1]}")
    return {"tokens": tokens, "tags": [str(tag) for tag in tags]}


def _classification(row: Cells, labels: tuple[str, ...]) -> dict:
    text = row.string("text")
    try:
        return {"text": text, "label": read_labels(row.row, labels or (row.name("label"),))}
    except ValueError as error:
        raise Malformed(str(error)) from None


KINDS: dict[str, tuple[Callable[[Cells], dict], dict]] = {  # kind: how it is read, and the types of its columns
    "preference": (_preference, dict.fromkeys(("prompt", "chosen", "rejected", "tools"), MESSAGES)),
    "chat": (_chat, {"messages": MESSAGES, "tools": MESSAGES}),
    "instruction": (_instruction, INSTRUCTION),
    "prompt-completion": (_completion, {"prompt": MESSAGES, "completion": MESSAGES, "tools": MESSAGES}),
    "qa": (_qa, {**dict.fromkeys(("id", "context", "question"), STRING), "answers": ANSWERS}),
    "summary": (_strings("dialogue", "summary"), {"dialogue": STRING, "summary": STRING}),
    "tags": (_tags, {"tokens": STRINGS, "tags": STRINGS}),
    "text": (_strings("text"), {"text": STRING}),
}
