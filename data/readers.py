"""How each kind of example is recognised by its columns, and read from a row. What comes out is in `formats.py`."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Features, Json, List, Value

from .labels import read_labels

SHAREGPT = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "function_call": "assistant",
    "observation": "tool",
}
ROLES = {"system", "developer", "user", "assistant", "tool"}
STRING = Value("string")
FEATURES = {
    "preference": Features({"prompt": List(Json()), "chosen": STRING, "rejected": STRING}),
    "chat": Features({"messages": List(Json())}),
    "instruction": Features({"instruction": STRING, "input": STRING, "output": STRING}),
    "prompt-completion": Features({"prompt": STRING, "completion": STRING}),
    "qa": Features(
        {
            "id": STRING,
            "context": STRING,
            "question": STRING,
            "answers": {"text": List(STRING), "answer_start": List(Value("int64"))},
        }
    ),
    "summary": Features({"dialogue": STRING, "summary": STRING}),
    "tags": Features({"tokens": List(STRING), "tags": List(STRING)}),
    "classification": None,  # the type of the labels is found
    "text": Features({"text": STRING}),
}


class Malformed(ValueError):
    """A row that is not what its data set's columns promise. The message completes "row 3 ..."."""


@dataclass(frozen=True)
class Columns:
    """Names of columns that the user gave, where they are not the usual ones."""

    text: str | None = None
    label: tuple[str, ...] = ()


def instruction_text(row: Mapping) -> str:
    """An instruction with its input, if it has one, as one request."""
    return f"{row['instruction']}\n\n{row['input']}" if row.get("input") else row["instruction"]


def _any_of(*names: str) -> Callable[[Mapping], str | None]:
    return lambda row: next((name for name in names if name in row), None)


_MESSAGES, _PROMPT = _any_of("messages", "conversations", "conversation"), _any_of("prompt", "question", "instruction")
_COMPLETION, _DIALOGUE = _any_of("completion", "response"), _any_of("dialogue", "dialog", "document", "article")
_SUMMARY, _TOKENS = _any_of("summary", "highlights"), _any_of("tokens", "words")
_TAGS, _TEXT = _any_of("tags", "ner_tags", "pos_tags", "labels"), _any_of("text", "sentence", "content", "review")
_LABEL, _INPUT, _OUTPUT = _any_of("label", "labels"), _any_of("input", "context"), _any_of("output", "response")

FITS: dict[str, Callable[[Mapping, Columns], Any]] = {
    "preference": lambda row, columns: {"chosen", "rejected"} <= row.keys(),
    "chat": lambda row, columns: _MESSAGES(row),
    "instruction": lambda row, columns: "instruction" in row and _OUTPUT(row),
    "prompt-completion": lambda row, columns: "prompt" in row and _COMPLETION(row),
    "qa": lambda row, columns: {"question", "context", "answers"} <= row.keys(),
    "summary": lambda row, columns: _DIALOGUE(row) and _SUMMARY(row),
    "tags": lambda row, columns: _TOKENS(row) and (columns.label or _TAGS(row)),
    "classification": lambda row, columns: (
        (columns.text or _TEXT(row)) and (columns.label or _LABEL(row)) and not _TOKENS(row)
    ),
    "text": lambda row, columns: columns.text or "text" in row,
}


def _string(row: Mapping, name: str, may_be_empty: bool = False) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise Malformed(f"has {_shown(value)} as {name}, not a string")
    if not may_be_empty and not value.strip():
        raise Malformed(f"has nothing as {name}")
    return value


def _shown(value: Any) -> str:
    return "no value" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"


def _listed(row: Mapping, name: str) -> list:
    value = row.get(name)
    if isinstance(value, str) and value.lstrip().startswith("["):  # in a CSV file
        try:
            value = json.loads(value)
        except ValueError:
            raise Malformed(f"has no JSON list as {name}") from None
    if not isinstance(value, list) or not value:
        raise Malformed(f"has {_shown(value)} as {name}, not a list with something in it")
    return value


def _messages(value: list, name: str) -> list[dict]:
    messages = []
    for message in value:
        if not isinstance(message, Mapping):
            raise Malformed(f"has {_shown(message)} in {name}, not a message")
        if "from" in message and "value" in message:
            message = {"role": SHAREGPT.get(message["from"], message["from"]), "content": message["value"]}
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise Malformed(f"has a message of {_shown(role)} in {name}, who is none of {', '.join(sorted(ROLES))}")
        if not isinstance(content, (str, list)) and not message.get("tool_calls"):
            raise Malformed(f"has a message with {_shown(content)} as content in {name}")
        messages.append({key: part for key, part in message.items() if part is not None})
    return messages


def _read_chat(row: Mapping, columns: Columns) -> dict:
    name = _MESSAGES(row) or "messages"
    messages = _messages(_listed(row, name), name)
    if not any(m["role"] == "assistant" and (m.get("content") or m.get("tool_calls")) for m in messages):
        raise Malformed(f"has nothing that the assistant says in {name}")
    return {"messages": messages}


def _read_preference(row: Mapping, columns: Columns) -> dict:
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if isinstance(chosen, list) and isinstance(rejected, list):  # whole chats, or their last messages
        chosen, rejected = _messages(_listed(row, "chosen"), "chosen"), _messages(_listed(row, "rejected"), "rejected")
        prompt = chosen[:-1]
        if not prompt and (name := _PROMPT(row)):
            prompt = _prompt(row, name)
        elif rejected[:-1] != chosen[:-1]:
            raise Malformed("has chosen and rejected that answer different chats")
        answers = [messages[-1].get("content") for messages in (chosen, rejected)]
        answers = {"chosen": answers[0], "rejected": answers[1]}
    else:
        name, answers = _PROMPT(row), row
        if name is None:
            raise Malformed("has no prompt")
        prompt = _prompt(row, name)
    if not prompt:
        raise Malformed("has no prompt before chosen and rejected")
    return {"prompt": prompt, "chosen": _string(answers, "chosen"), "rejected": _string(answers, "rejected")}


def _prompt(row: Mapping, name: str) -> list[dict]:
    if isinstance(row[name], list):
        return _messages(_listed(row, name), name)
    text = _string(row, name)
    return [{"role": "user", "content": instruction_text({**row, "instruction": text})}]


def _read_instruction(row: Mapping, columns: Columns) -> dict:
    name = _INPUT(row)
    extra = "" if name is None or row[name] is None else _string(row, name, may_be_empty=True)
    return {
        "instruction": _string(row, "instruction"),
        "input": extra,
        "output": _string(row, _OUTPUT(row) or "output"),
    }


def _read_completion(row: Mapping, columns: Columns) -> dict:
    return {"prompt": _string(row, "prompt"), "completion": _string(row, _COMPLETION(row) or "completion")}


def _read_summary(row: Mapping, columns: Columns) -> dict:
    dialogue, summary = _string(row, _DIALOGUE(row) or "dialogue"), _string(row, _SUMMARY(row) or "summary")
    return {"dialogue": dialogue, "summary": summary}


def _read_qa(row: Mapping, columns: Columns) -> dict:
    context, question, answers = _string(row, "context"), _string(row, "question"), row.get("answers")
    if isinstance(answers, str):  # in a CSV file
        try:
            answers = json.loads(answers)
        except ValueError:
            raise Malformed("has no JSON as answers") from None
    if isinstance(answers, list):
        if not all(isinstance(answer, Mapping) for answer in answers):
            raise Malformed("has answers without text and answer_start")
        answers = {key: [answer.get(key) for answer in answers] for key in ("text", "answer_start")}
    if not isinstance(answers, Mapping):
        raise Malformed(f"has {_shown(answers)} as answers, not text and answer_start")
    texts, starts = answers.get("text"), answers.get("answer_start")
    if not (isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts)):
        raise Malformed("has answers without as many answer_start as text")
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str) or not isinstance(start, int) or context[start : start + len(text)] != text:
            raise Malformed(f"has the answer {str(text)[:40]!r}, which is not at {start} in its context")
    id = str(row.get("id") or "")
    return {"id": id, "context": context, "question": question, "answers": {"text": texts, "answer_start": starts}}


def _read_tags(row: Mapping, columns: Columns) -> dict:
    names = (_TOKENS(row) or "tokens", columns.label[0] if columns.label else _TAGS(row) or "tags")
    tokens, tags = (_listed(row, name) for name in names)
    if len(tokens) != len(tags):
        raise Malformed(f"has {len(tokens)} {names[0]} and {len(tags)} {names[1]}")
    if not all(isinstance(token, str) for token in tokens) or any(
        tag is None or isinstance(tag, float) for tag in tags
    ):
        raise Malformed(f"has something else than words in {names[0]}, or than labels in {names[1]}")
    return {"tokens": tokens, "tags": [str(tag) for tag in tags]}


def _read_classification(row: Mapping, columns: Columns) -> dict:
    text = _string(row, columns.text or _TEXT(row) or "text")
    names = columns.label or (_LABEL(row) or "label",)
    try:
        return {"text": text, "label": read_labels(row, names)}
    except ValueError as error:
        raise Malformed(str(error)) from None


def _read_text(row: Mapping, columns: Columns) -> dict:
    return {"text": _string(row, columns.text or "text")}


READ: dict[str, Callable[[Mapping, Columns], dict]] = {
    "preference": _read_preference,
    "chat": _read_chat,
    "instruction": _read_instruction,
    "prompt-completion": _read_completion,
    "qa": _read_qa,
    "summary": _read_summary,
    "tags": _read_tags,
    "classification": _read_classification,
    "text": _read_text,
}
