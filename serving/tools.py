"""Functions that a model may call; its calls are parsed by its tokenizer's `response_template`."""

import json
import re
import uuid

from transformers import PreTrainedTokenizerBase

from ..tokenization.trained import RESPONSE_TEMPLATE
from .processors import json_rule

CALL = re.compile(r"\s*<tool_call>.*?(?:</tool_call>|\Z)", re.DOTALL)  # the parser takes the end for a close, too
OPEN, CLOSE = "<tool_call>", "</tool_call>"  # what our chat template, and those of Qwen, SmolLM3 and Hermes, write


def response_template(tokenizer: PreTrainedTokenizerBase) -> dict:
    """Return how a tokenizer's model writes calls; ValueError if it has no template, or one of special tokens."""
    template = getattr(tokenizer, "response_template", None)
    template = template or (RESPONSE_TEMPLATE if OPEN in str(tokenizer.chat_template) else {"fields": {}})
    calls = template["fields"].get("tool_calls") or {}
    begin = f"{calls.get('open')}{calls.get('open_pattern')}"
    if not calls or any(token in begin for token in tokenizer.all_special_tokens):
        raise ValueError("This tokenizer has no response_template that reads tool calls in text: send no tools.")
    return template


def call_grammar(tools: list[dict], choice: str | dict, template: dict) -> str:
    """Write the grammar of a call of one of the tools, or of the chosen one, in Lark; ValueError if it cannot be."""
    is_chosen = {choice["function"]["name"]}.__contains__ if isinstance(choice, dict) else str
    functions = [tool["function"] for tool in tools if is_chosen(tool["function"]["name"])]
    if not functions or OPEN not in str(template):
        raise ValueError(f"tool_choice asks for a tool that is not there, or that this model does not call by {OPEN}.")
    lines = ["start: " + " | ".join(f"call_{i}" for i in range(len(functions)))]
    for i, function in enumerate(functions):
        begin = f'{OPEN}{{"name": {json.dumps(function["name"])}, "arguments": '
        schema = function.get("parameters") or {"type": "object", "additionalProperties": False}
        lines.append(f"call_{i}: {json.dumps(begin)} arguments_{i} {json.dumps('}' + CLOSE)}")
        lines.append(f"arguments_{i}: {json_rule(schema)}")
    return "\n".join(lines)


def message_of(text: str, prompt_ids: list[int], tokenizer: PreTrainedTokenizerBase, tools: list[dict]) -> dict:
    """Parse a text into OpenAI's content and calls, or content alone if a call is not valid."""
    template, prefix, calls = response_template(tokenizer), tokenizer.decode(prompt_ids), []
    names = {tool["function"]["name"] for tool in tools}
    try:
        message = tokenizer.parse_response(text, template, prefix=prefix, tools=tools)
    except (ValueError, RecursionError):
        return {"content": text}
    for call in message.get("tool_calls", []):
        match call:
            case {"function": {"name": str() as name, "arguments": dict() as arguments}} if name in names:
                function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
                calls.append({"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function})
            case _:
                return {"content": text}
    calls = [{"index": index, **call} for index, call in enumerate(calls)]
    # Of several texts between calls, the parser keeps the last.
    content = CALL.sub("", text).rstrip() if template == RESPONSE_TEMPLATE else message.get("content", "")
    return {"content": content, "tool_calls": calls} if calls else {"content": text}
