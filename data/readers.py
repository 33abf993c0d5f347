"""Readers of a row as an example of each kind. `formats.py` has the columns that they return."""

from collections.abc import Callable, Mapping, Sequence

from datasets import Json, List, Value

from .columns import Cells, Malformed, describe
from .labels import read_label
from .messages import has_answer, read_message, read_pairs, read_transcript, shared_length

STRING, STRINGS, MESSAGES = Value("string"), List(Value("string")), List(Json())
ANSWERS = {"text": STRINGS, "answer_start": List(Value("int64"))}


def instruction_text(row: Mapping) -> str:
    return f"{row['instruction']}\n\n{row['input']}" if row.get("input") else row["instruction"]


def read_example(kind: str, row: Cells) -> dict:
    """Return a row as an example of a kind; raises Malformed."""
    return KINDS[kind][0](row)


def _tools(row: Cells) -> list[dict]:
    tools = row.list("tools", may_be_empty=True)
    if not all(isinstance(tool, Mapping) for tool in tools):
        raise Malformed(f"has something other than functions in {row.name('tools')}")
    return tools


def _before(row: Cells, messages: Sequence[dict] = ()) -> list[dict]:
    """Put the system's message and earlier turns of a row before its messages."""
    messages = [*read_pairs(row.list("history", may_be_empty=True), row.name("history")), *messages]
    system = row.string("system", may_be_empty=True)
    if not system.strip():
        return messages
    if messages and messages[0]["role"] in ("system", "developer"):
        if messages[0].get("content") != system:
            raise Malformed(f"has {row.name('system')}, and another message of the system: leave out one of them")
        return messages
    return [{"role": "system", "content": system}, *messages]


def _asked(row: Cells) -> list[dict]:
    """Return the messages of a prompt, or one message of a text with its input."""
    if row.is_chat("prompt"):
        return _before(row, _messages(row, "prompt"))
    request = {"instruction": row.string("prompt"), "input": row.string("input", may_be_empty=True)}
    return _before(row, [{"role": "user", "content": instruction_text(request)}])


def _earlier(row: Cells) -> list[dict]:
    return _before(row, _messages(row, "messages", may_be_empty=True))


def _messages(row: Cells, column: str, may_be_empty: bool = False) -> list[dict]:
    return [read_message(message, row.name(column)) for message in row.list(column, may_be_empty)]


def _check_answers(row: Cells, column: str, messages: list[dict]) -> None:
    if not has_answer(messages):
        raise Malformed(f"has no message of the assistant to learn from in {row.name(column)}")


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
        if not prompt:  # both begin with it
            shared = chosen[: shared_length(chosen, rejected)]
            shared = shared[: len(shared) - len(shared.split(" ")[-1])]  # whole words
            if not shared.strip():
                raise Malformed("has no prompt")
            prompt = _before(row, [{"role": "user", "content": shared.rstrip()}])
            chosen, rejected = chosen[len(shared) :], rejected[len(shared) :]
        chosen, rejected = ([{"role": "assistant", "content": text}] for text in (chosen, rejected))
    else:
        prompt, chosen, rejected = _split_chats(row, chosen, rejected)
    _check_answers(row, "chosen", chosen)
    _check_answers(row, "rejected", rejected)
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, "tools": _tools(row)}


def _answer(row: Cells, column: str) -> list[dict] | str:
    """Return one of two answers as messages, or as a text if it holds none."""
    if row.is_chat(column):
        return _messages(row, column)
    if isinstance(message := row.get(column), Mapping):
        return [read_message(message, row.name(column))]
    text = row.string(column)
    return read_transcript(text) or text


def _split_chats(row: Cells, chosen: list[dict], rejected: list[dict]) -> tuple[list[dict], list[dict], list[dict]]:
    """Return the prompt, and the messages after it, of two chats that may begin with the prompt."""
    shared = min(shared_length(chosen, rejected), len(chosen) - 1, len(rejected) - 1)
    prompt = _asked(row) if row.get("prompt") else [] if shared else _earlier(row)
    if prompt and prompt[-1].get("content", "").strip() not in [m.get("content", "").strip() for m in chosen[:shared]]:
        return prompt, chosen, rejected
    # The prompt is repeated in both, or they begin with one that is nowhere else.
    if not shared:
        raise Malformed("has chosen and rejected that answer different chats, or no prompt before them")
    return _before(row, chosen[:shared]), chosen[shared:], rejected[shared:]


def _instruction(row: Cells) -> dict:
    texts = {"instruction": row.string("instruction"), "input": row.string("input", may_be_empty=True)}
    return {"before": _before(row), **texts, "output": row.string("output"), "tools": _tools(row)}


def _strings(*columns: str) -> Callable[[Cells], dict]:
    return lambda row: {column: row.string(column) for column in columns}


def _qa(row: Cells) -> dict:
    context, question, found = row.string("context"), row.string("question"), row.json("answers")
    if isinstance(found, list) and all(isinstance(answer, Mapping) for answer in found):
        found = {key: [answer.get(key) for answer in found] for key in ("text", "answer_start")}
    if not isinstance(found, Mapping):
        raise Malformed(f"has {describe(found)} as answers, not text and answer_start")
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
        raise Malformed(f"has something other than words in {names[0]}, or than labels in {names[1]}")
    return {"tokens": tokens, "tags": [str(tag) for tag in tags]}


def _classification(row: Cells) -> dict:
    return {"text": row.string("text"), "label": read_label(row.get("label"), row.name("label"))}


KINDS: dict[str, tuple[Callable[[Cells], dict], dict]] = {  # kind: how it is read, and the types of its columns
    "preference": (_preference, dict.fromkeys(("prompt", "chosen", "rejected", "tools"), MESSAGES)),
    "chat": (_chat, {"messages": MESSAGES, "tools": MESSAGES}),
    "instruction": (
        _instruction,
        {"before": MESSAGES, **dict.fromkeys(("instruction", "input", "output"), STRING), "tools": MESSAGES},
    ),
    "prompt-completion": (_completion, {"prompt": MESSAGES, "completion": MESSAGES, "tools": MESSAGES}),
    "qa": (_qa, {**dict.fromkeys(("id", "context", "question"), STRING), "answers": ANSWERS}),
    "summary": (_strings("dialogue", "summary"), {"dialogue": STRING, "summary": STRING}),
    "tags": (_tags, {"tokens": STRINGS, "tags": STRINGS}),
    "classification": (_classification, {"text": STRING, "label": STRING}),
    "text": (_strings("text"), {"text": STRING}),
}
