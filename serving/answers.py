"""The JSON of OpenAI's completions and chats, whole or in chunks, and of its errors."""

import time
import uuid
from collections.abc import Awaitable, Callable, Iterator

from starlette.responses import JSONResponse
from transformers import PreTrainedTokenizerBase

from .generator import Choice
from .openai_requests import ChatRequest, GenerationRequest

MIN_LOGPROB = -9999.0  # JSON has no infinity


class ApiError(Exception):
    """An error as OpenAI's clients know it."""

    def __init__(self, message: str, status: int = 400, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, {"Retry-After": "5"} if self.status == 429 else None)


class Answer:
    """The answer to a request: its choices, and `produce(choice, put)`, which puts the pieces of one's message."""

    END = "data: [DONE]\n\n"  # of a stream

    def __init__(
        self, wanted: GenerationRequest, tokenizer: PreTrainedTokenizerBase, choices: list[Choice],
        prompts: list[list[int]], produce: Callable[[Choice, Callable[[dict], None]], Awaitable[None]],
    ):  # fmt: skip
        self.wanted, self.is_chat = wanted, isinstance(wanted, ChatRequest)
        id = f"{'chatcmpl' if self.is_chat else 'cmpl'}-{uuid.uuid4().hex}"
        kind = "chat.completion" if self.is_chat else "text_completion"
        self.head = {"id": id, "object": kind, "created": int(time.time()), "model": wanted.model}
        self.chunk_head = {**self.head, "object": f"{kind}.chunk" if self.is_chat else kind}
        self.tokenizer, self.choices, self.prompts, self.produce = tokenizer, choices, prompts, produce
        self.messages: list[dict] = [{"role": "assistant", "content": "", "refusal": None} for _ in choices]
        self.shown, self.offsets = [0] * len(choices), [0] * len(choices)

    def usage(self) -> dict:
        prompt, generated = sum(map(len, self.prompts)), sum(choice.tokens for choice in self.choices)
        return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}

    def add(self, index: int, delta: dict | None) -> None:
        """Append a piece to a message."""
        message = self.messages[index]
        for name, piece in (delta or {}).items():
            message[name] = message[name] + piece if name in message else piece

    def whole(self) -> dict:
        choices = [
            {**self._choice(place, "message", self.messages[place], self._reason(place)), "index": i}
            for i, place in enumerate(self._best())
        ]
        return {**self.head, "choices": choices, "usage": self.usage()}

    def _best(self) -> list[int]:
        """Return the places of the `n` best texts of each prompt: those whose tokens are most likely, on average."""
        n, count = self.wanted.n, self.wanted.count
        groups: list = [range(start, start + count) for start in range(0, len(self.choices), count)]
        if count > n:
            groups = [sorted(group, key=self._surprise) for group in groups]
        return [place for group in groups for place in group[:n]]

    def _surprise(self, place: int) -> float:
        choice = self.choices[place]
        scores = [score for _, score, _ in choice.scored[len(choice.scored) - choice.tokens :]]
        return -sum(scores) / max(len(scores), 1)

    def first(self) -> Iterator[dict]:
        """Yield the chunks at the beginning of a stream."""
        for index in range(len(self.choices) if self.is_chat else 0):
            yield from self.pieces(index, {"role": "assistant", "content": ""})

    def pieces(self, index: int, delta: dict | None) -> Iterator[dict]:
        """Yield the chunk of a piece that was added; None is the end of a message."""
        reason = self._reason(index) if delta is None else None
        yield {**self.chunk_head, "choices": [self._choice(index, "delta", delta or {}, reason)]}

    def last(self) -> Iterator[dict]:
        if self.wanted.stream_options.get("include_usage"):
            yield {**self.chunk_head, "choices": [], "usage": self.usage()}

    def failure(self, error: ApiError) -> dict:
        return error.body()

    def _reason(self, index: int) -> str:
        return "tool_calls" if "tool_calls" in self.messages[index] else self.choices[index].finish_reason

    def _choice(self, index: int, part: str, message: dict, finish_reason: str | None) -> dict:
        """Return the JSON of a text or a piece of one; a chat's has more fields than its content."""
        text = {part: message} if self.is_chat else {"text": message.get("content", "")}
        return {"index": index, **text, "logprobs": self._scores(index), "finish_reason": finish_reason}

    def _scores(self, index: int) -> dict | None:
        """Return the log-probabilities of the tokens that no piece has shown; the first of a prompt has none."""
        scored = self.choices[index].scored[self.shown[index] :]
        self.shown[index] += len(scored)
        if not scored or self.wanted.alternatives is None:
            return None
        if self.is_chat:
            entries = [[self._entry(*each) for each in [(token, score), *top]] for token, score, top in scored]
            return {"content": [{**entry, "top_logprobs": top} for entry, *top in entries]}
        table: dict[str, list] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token, score, top in scored:
            entry, *others = [self._entry(*each) for each in [(token, score), *top]]
            named = {each["token"]: each["logprob"] for each in [*others, entry]}
            row = entry["token"], entry["logprob"], None if score is None else named, self.offsets[index]
            for column, value in zip(table.values(), row, strict=True):
                column.append(value)
            self.offsets[index] += len(self.tokenizer.decode([token], skip_special_tokens=True))
        return table

    def _entry(self, token: int, score: float | None) -> dict:
        text = self.tokenizer.decode([token])
        data = [*text.encode()]
        if "\N{REPLACEMENT CHARACTER}" in text:  # a part of a character
            text, data = self.tokenizer.convert_ids_to_tokens(token), None
        return {"token": text, "logprob": None if score is None else max(score, MIN_LOGPROB), "bytes": data}
