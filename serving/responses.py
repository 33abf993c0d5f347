"""OpenAI's Responses API: nothing is stored, so a client sends the whole conversation each time."""

import uuid
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BeforeValidator, Field, model_validator

from .answers import Answer, ApiError
from .openai_requests import ChatRequest, Message, schema_of

NO_FORMAT = {"type": "text"}


def _messages(items: Any) -> Any:
    """Turn a text, or items, into messages; the calls of functions join the assistant's message before them."""
    messages: list[Any] = []
    items = [{"role": "user", "content": items}] if isinstance(items, str) else items
    for item in items if isinstance(items, list) else [None]:
        match item:
            case {"type": "function_call", "call_id": id, "name": name, "arguments": arguments}:
                if not messages or messages[-1]["role"] != "assistant":
                    messages.append({"role": "assistant"})
                call = {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
                messages[-1].setdefault("tool_calls", []).append(call)
            case {"type": "function_call_output", "call_id": id, "output": output}:
                messages.append({"role": "tool", "tool_call_id": id, "content": output})
            case {"role": role, "content": content} if item.get("type", "message") == "message":
                messages.append({"role": role, "content": content})
            case _:
                raise ValueError("give a text, or a list of messages, function calls and their outputs.")
    return messages


class ResponsesRequest(ChatRequest):
    """The body of /v1/responses."""

    messages: Annotated[
        list[Message], Field(min_length=1, validation_alias=AliasChoices("input")), BeforeValidator(_messages)
    ]
    instructions: str | None = None
    include: list[str] = []
    max_tokens: Annotated[int | None, Field(ge=1, validation_alias=AliasChoices("max_output_tokens"))] = None
    n: Literal[1] = 1
    response_format: Annotated[
        dict | bool | None,
        Field(validation_alias=AliasChoices("text")),
        BeforeValidator(lambda text: schema_of(text.get("format", NO_FORMAT) if isinstance(text, dict) else text)),
    ] = None

    @model_validator(mode="after")
    def _begin_with_instructions(self):
        if self.instructions:
            self.messages = [Message(role="system", content=self.instructions), *self.messages]
        return self

    @property
    def alternatives(self) -> int | None:
        return self.top_logprobs if "message.output_text.logprobs" in self.include else super().alternatives


class ItemAnswer(Answer):
    """The answer as items: a message and calls of functions. A stream brings them event by event."""

    wanted: ResponsesRequest
    END = ""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.id, self.sent, self.is_open = uuid.uuid4().hex, 0, False

    def whole(self) -> dict:
        is_cut = self._reason(0) == "length"
        status, usage = "incomplete" if is_cut else "completed", self.usage()
        tokens = {"input_tokens": usage["prompt_tokens"], "input_tokens_details": {"cached_tokens": 0}}
        tokens |= {"output_tokens": usage["completion_tokens"], "output_tokens_details": {"reasoning_tokens": 0}}
        return self._response(
            status, output=self._output(status), usage={**tokens, "total_tokens": usage["total_tokens"]},
            incomplete_details={"reason": "max_output_tokens"} if is_cut else None,
        )  # fmt: skip

    def first(self) -> Iterator[dict]:
        for name in ("created", "in_progress"):
            yield self._event(name, response=self._response("in_progress", output=[], usage=None))

    def pieces(self, index: int, delta: dict | None) -> Iterator[dict]:
        """Yield the events of a piece that was added; calls come complete, after the text."""
        place = {"item_id": f"msg_{self.id}", "output_index": 0, "content_index": 0}
        delta = delta or {}
        if delta.get("content"):
            yield from self._opening(place)
            scored = (self._scores(0) or {}).get("content", [])
            yield self._event("output_text.delta", **place, delta=delta["content"], logprobs=scored)
        for i, cited in enumerate(delta.get("annotations", [])):
            annotation = _flat(cited)
            yield self._event("output_text.annotation.added", **place, annotation_index=i, annotation=annotation)

    def last(self) -> Iterator[dict]:
        response = self.whole()
        for i, item in enumerate(response["output"]):
            place = {"item_id": item["id"], "output_index": i}
            if item["type"] == "message":
                place["content_index"] = 0
                yield from self._opening(place)
                (part,) = item["content"]
                yield self._event("output_text.done", **place, text=part["text"], logprobs=part["logprobs"])
                yield self._event("content_part.done", **place, part=part)
            else:
                begun = {**item, "arguments": "", "status": "in_progress"}
                yield self._event("output_item.added", output_index=i, item=begun)
                yield self._event("function_call_arguments.delta", **place, delta=item["arguments"])
                whole = {"name": item["name"], "arguments": item["arguments"]}
                yield self._event("function_call_arguments.done", **place, **whole)
            yield self._event("output_item.done", output_index=i, item=item)
        yield self._event(response["status"], response=response)

    def failure(self, error: ApiError) -> dict:
        """Return the one form of an error for which no client ends the stream in silence."""
        body = error.body()["error"]
        body["code"] = body["code"] or body["type"]
        return {**self._event("error"), "type": "error", "error": body}

    def _opening(self, place: dict) -> Iterator[dict]:
        if not self.is_open:
            self.is_open = True
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            message = {"type": "message", "id": place["item_id"], "role": "assistant", "content": []}
            yield self._event("output_item.added", output_index=0, item={**message, "status": "in_progress"})
            yield self._event("content_part.added", **place, part=part)

    def _output(self, status: str) -> list[dict]:
        said, self.shown[0] = self.messages[0], 0  # the log-probabilities of the whole text
        scored, calls = (self._scores(0) or {}).get("content", []), said.get("tool_calls", [])
        annotations = [_flat(cited) for cited in said.get("annotations", [])]
        part = {"type": "output_text", "text": said["content"], "annotations": annotations, "logprobs": scored}
        message = {"type": "message", "id": f"msg_{self.id}", "status": status, "role": "assistant", "content": [part]}
        items = [message] if said["content"] or not calls else []
        for call in calls:
            id = {"id": call["id"].replace("call", "fc"), "call_id": call["id"]}
            items.append({"type": "function_call", **id, **call["function"], "status": status})
        return items

    def _event(self, name: str, /, **fields: Any) -> dict:
        self.sent += 1
        return {"type": f"response.{name}", "sequence_number": self.sent - 1, **fields}

    def _response(self, status: str, **fields: Any) -> dict:
        wanted, choice = self.wanted, self.wanted.tool_choice
        return {
            "id": f"resp_{self.id}", "object": "response", "created_at": self.head["created"], "status": status,
            "model": wanted.model, "error": None, "incomplete_details": None, "parallel_tool_calls": True,
            "tools": [_flat(tool) for tool in wanted.tools], "store": False, "instructions": wanted.instructions,
            "tool_choice": _flat(choice) if isinstance(choice, dict) else choice, **fields,
        }  # fmt: skip


def _flat(nested: dict) -> dict:
    """Turn `{"type": "function", "function": {...}}` into one object."""
    return {"type": nested["type"], **nested[nested["type"]]}
