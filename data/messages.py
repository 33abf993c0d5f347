"""Messages of chats, in any common form, as a role, a content, and calls of tools."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .columns import Malformed, describe, nested_json

NAMES = {  # role, as chat templates call it: as others do
    "system": ("system", "developer"),
    "user": ("user", "human", "prompter"),
    "assistant": ("assistant", "gpt", "chatgpt", "bard", "bing", "bot", "model", "function_call"),
    "tool": ("tool", "function", "function_response", "ipython", "observation"),
}
ROLES = {name: role for role, names in NAMES.items() for name in names}
TURN = re.compile(r"\n\n(Human|Assistant):[ ]?")  # of Anthropic's preferences


def read_message(message: Any, name: str) -> dict:
    """Read a message in the column `name`, with `weight` 0 if it is not learned; raises Malformed if it is no text."""
    if not isinstance(message, Mapping):
        raise Malformed(f"has {describe(message)} in {name}, not a message")
    if "from" in message and "value" in message:
        names = {"from": "role", "value": "content"}
        message = {names.get(key, key): part for key, part in message.items()}
    given, content = message.get("role"), message.get("content")
    role = ROLES.get(given.strip().lower()) if isinstance(given, str) else None
    if role is None:
        raise Malformed(f"has a message of {describe(given)} in {name}, who is none of {', '.join(sorted(NAMES))}")
    read = {key: part for key, part in message.items() if part is not None}
    read["role"] = role
    if isinstance(content, list):
        read["content"] = _text(content, name)
    if given == "function_call" and (call := _call(content)):
        read |= {"content": "", "tool_calls": [call]}
    if calls := read.get("tool_calls"):
        _check_calls(calls, name)
    elif not isinstance(read.get("content"), str):
        raise Malformed(f"has a message with {describe(content)} as content in {name}")
    if role == "assistant" and not _is_learned(read, name):
        read["weight"] = 0
    return read


def _text(parts: list, name: str) -> str:
    """Join a content in parts. Templates of models that read text alone would write the list of parts as it is."""
    for part in parts:
        kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
        if kind != "text" or not isinstance(part.get("text"), str):
            raise Malformed(f"has a part of type {kind} in {name}, and only text can be read")
    return "".join(part["text"] for part in parts)


def _call(content: Any) -> dict | None:
    """Read the call of a tool that is written as JSON, as ShareGPT has it; None for other texts."""
    try:
        call = nested_json(content)
        return {"type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}
    except (ValueError, TypeError, KeyError):
        return None


def _check_calls(calls: Any, name: str) -> None:
    for call in calls if isinstance(calls, list) else [calls]:
        function = call.get("function") or call if isinstance(call, Mapping) else {}
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise Malformed(f"has a call of a tool without a name in {name}")
        if not isinstance(function.get("arguments"), (Mapping, str)):
            what = f"a call of {function['name']} without arguments"
            raise Malformed(f"has {what} in {name}: give {{}} if there are none")


def _is_learned(message: dict, name: str) -> bool:
    """Return True if the loss is on a message of the assistant: OpenAI's `weight`, and axolotl's `train`."""
    weight = message.get("weight", 1)
    if weight not in (0, 1):
        raise Malformed(f"has a message of weight {weight!r} in {name}: give 0 or 1")
    return bool(weight) and message.get("train") is not False and message.get("training") is not False


def read_pairs(history: list, name: str) -> list[dict]:
    """Read earlier turns as Alpaca's `history` has them: pairs of a question and an answer."""
    messages = []
    for pair in history:
        if isinstance(pair, Mapping):
            messages.append(read_message(pair, name))
        elif isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(text, str) for text in pair):
            messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
        else:
            raise Malformed(f"has {describe(pair)} in {name}, not a pair of a question and an answer")
    return messages


def read_transcript(text: str) -> list[dict] | None:
    """Read the messages in a text such as "\\n\\nHuman: Hi\\n\\nAssistant: Hello"; None for other texts."""
    before, *parts = TURN.split(text)
    if before.strip() or not parts:
        return None
    turns = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": ROLES[speaker.lower()], "content": text} for speaker, text in turns]


def has_answer(messages: list[dict]) -> bool:
    """Return True if a message of the assistant is learned and not empty."""
    learned = (m for m in messages if m["role"] == "assistant" and m.get("weight") != 0)
    return any(message.get("content") or message.get("tool_calls") for message in learned)


def shared_length(one: Sequence, other: Sequence) -> int:
    """Return the length of the common beginning of two texts, chats or lists of ids."""
    if one == other[: len(one)]:
        return len(one)
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
