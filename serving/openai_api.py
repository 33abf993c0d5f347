"""One model behind OpenAI's HTTP API: /v1/completions, /v1/chat/completions, /v1/models, and /health.

`transformers serve` is not used: it answers 500 to wrong types, ignores the context's length, n and the end of a
sampled stop string, generates on for clients that have gone, and lets a message write control tokens. What is here
stands on `generate` alone. `/load_model` is there for `transformers chat`, which calls it first.
"""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..jobs.extras import extra
from .chat import UNBOUNDED_TOKENS, end_of_turn
from .generator import Choice, ServerEnding, TextGenerator, generation_config

with extra("serve", "A server"):
    from pydantic import ValidationError
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route

    from .openai_requests import MOST_CHOICES, NO_LIMIT, ChatRequest, CompletionRequest, GenerationRequest, NamedModel

logger = logging.getLogger(__name__)

LARGEST_BODY = 4 * 2**20  # bytes: more than contexts hold, and encoded in seconds
MOST_WAITING = 1024  # texts that wait to be generated, before others are sent away
COMPLETION_TOKENS = 16  # what OpenAI's legacy endpoint generates if nobody says how much
ENDING = "The server is ending."


class ApiError(Exception):
    """An error as OpenAI's clients know it."""

    def __init__(self, message: str, status: int = 400, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class Api:
    """The endpoints, for clients that call the model `name`; `encode_chat` is as for `Chat`."""

    def __init__(self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, encode_chat: Callable):
        self.name, self.tokenizer, self.encode_chat = name, tokenizer, encode_chat
        self.generator = TextGenerator(model, tokenizer)
        self.end_of_turn = end_of_turn(tokenizer, encode_chat)
        self.encoder = ThreadPoolExecutor(1, thread_name_prefix="encode")  # a long prompt holds nobody up
        self.created = int(time.time())

    def application(self) -> Starlette:
        routes = [
            Route("/health", self.health),
            Route("/v1/models", self.models),
            Route("/v1/models/{name:path}", self.models),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/chat/completions", self.chat_completions, methods=["POST"]),
            Route("/load_model", self.load_model, methods=["POST"]),
        ]
        unexpected = ApiError("An error in the server; its log says more.", 500)
        handlers = {
            ApiError: _error,
            HTTPException: _http_error,
            ServerEnding: lambda request, error: _error(request, ApiError(ENDING, 503)),
            ClientDisconnect: lambda request, error: Response(),  # which nobody reads
            Exception: lambda request, error: _error(request, unexpected),
        }
        return Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette):
        yield
        self.encoder.shutdown(cancel_futures=True)
        self.generator.close()

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "unfinished": len(self.generator.unfinished)})

    async def models(self, request: Request) -> Response:
        card = {"id": self.name, "object": "model", "created": self.created, "owned_by": "foliogpt"}
        if "name" not in request.path_params:
            return JSONResponse({"object": "list", "data": [card]})
        self._check_model(request.path_params["name"])
        return JSONResponse(card)

    async def load_model(self, request: Request) -> Response:
        """What `transformers chat` asks for before it begins: the model is loaded."""
        await self._validated(request, NamedModel)
        ready = json.dumps({"status": "ready", "model": self.name, "cached": True})
        return Response(f"data: {ready}\n\n", media_type="text/event-stream")

    async def completions(self, request: Request) -> Response:
        wanted = await self._validated(request, CompletionRequest)
        if len(wanted.prompts) * wanted.n > MOST_CHOICES:
            raise ApiError(f"More than {MOST_CHOICES} texts in one request: send fewer prompts, or a smaller n.")
        prompts = await self._in_encoder(self._encode_prompts, wanted.prompts)
        choices = self._choices(wanted, prompts, COMPLETION_TOKENS)
        answer = _Answer("text_completion", f"cmpl-{uuid.uuid4().hex}", self.name, choices, prompts)
        return await self._respond(request, wanted, answer)

    async def chat_completions(self, request: Request) -> Response:
        wanted = await self._validated(request, ChatRequest)
        if not self.tokenizer.chat_template:
            raise ApiError("This model has no chat template: it continues text, at /v1/completions.", param="messages")
        messages = [message.for_template() for message in wanted.messages]
        prompts = [await self._in_encoder(self._encode_messages, messages)]
        default = self.generator.context_length or UNBOUNDED_TOKENS
        choices = self._choices(wanted, prompts, default, self.end_of_turn)
        answer = _Answer("chat.completion", f"chatcmpl-{uuid.uuid4().hex}", self.name, choices, prompts)
        return await self._respond(request, wanted, answer)

    # What the endpoints share, in the order in which a request goes through it.

    async def _validated(self, request: Request, schema: type[NamedModel]):
        try:
            wanted = schema.model_validate_json(await _body(request))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            param = place or first.get("ctx", {}).get("field")
            raise ApiError(f"{place}: {message}" if place else message, param=param) from None
        self._check_model(wanted.model)
        if len(self.generator.unfinished) >= MOST_WAITING:
            raise ApiError("Too many requests are waiting: try again later.", 429, code="rate_limit_exceeded")
        return wanted

    def _check_model(self, name: str) -> None:
        if name != self.name:
            message = f"The model {name!r} is not here: this server has {self.name!r}."
            raise ApiError(message, 404, "model", "model_not_found")

    async def _in_encoder(self, encode: Callable, prompt) -> list:
        try:
            return await asyncio.get_running_loop().run_in_executor(self.encoder, encode, prompt)
        except ValueError as error:  # such as a template that refuses two turns of one role
            raise ApiError(str(error)) from None

    def _encode_prompts(self, prompts: list[str] | list[list[int]]) -> list[list[int]]:
        encoded = []
        for prompt in prompts:
            ids = self.tokenizer(prompt, verbose=False)["input_ids"] if isinstance(prompt, str) else prompt
            if not ids:
                raise ApiError("The prompt is empty: give some text.", param="prompt")
            encoded.append(self._known(ids, "prompt"))
        if not encoded:
            raise ApiError("There is no prompt.", param="prompt")
        return encoded

    def _encode_messages(self, messages: list[dict]) -> list[int]:
        encoded = self.encode_chat(self.tokenizer, messages, add_generation_prompt=True)
        return self._known(encoded["input_ids"], "messages")

    def _known(self, ids: list[int], param: str) -> list[int]:
        """Refuse ids for which the model has no embedding: on a GPU, one would end all later requests, too."""
        if ids and (min(ids) < 0 or max(ids) >= self.generator.model.get_input_embeddings().num_embeddings):
            raise ApiError(f"A token id of {param} is not in the vocabulary.", param=param)
        return ids

    def _choices(
        self, wanted: GenerationRequest, prompts: list[list[int]], default: int, end_of_turn: int | None = None
    ) -> list[Choice]:
        """The texts to generate: `n` for each prompt."""
        settings, max_tokens, context = wanted.generation_config, wanted.max_tokens, self.generator.context_length
        length = max(map(len, prompts))
        room = context and context - length
        if room is not None and room < max(max_tokens or 1, 1):
            message = f"The model's context is {context} tokens, and the prompt has {length}: "
            message += "shorten it." if room < 1 else f"max_tokens can be at most {room}, not {max_tokens}."
            raise ApiError(message, param=None if room < 1 else "max_tokens", code="context_length_exceeded")
        if max_tokens is None:
            max_tokens = min(settings.max_new_tokens or default, room or default)
        elif max_tokens == NO_LIMIT:
            max_tokens = room or UNBOUNDED_TOKENS
        if wanted.min_tokens > max_tokens:
            message = f"min_tokens is {wanted.min_tokens}, and the text has at most {max_tokens} tokens: ask for fewer."
            raise ApiError(message, param="min_tokens")
        ends = self._known(wanted.stop_token_ids, "stop_token_ids")
        if end_of_turn is not None and not wanted.ignore_eos:
            ends = [*ends, end_of_turn]
        options = {"do_sample": settings.do_sample, **settings.sampling, **wanted.sampling}
        options["min_new_tokens"] = wanted.min_tokens or None
        config = generation_config(self.generator.model, max_tokens, ends, wanted.ignore_eos, **options)
        stop = [*wanted.stop_strings, *self.generator.stop_strings]
        return [
            Choice(ids, config, stop, None if wanted.seed is None else (wanted.seed + i) % 2**63)
            for ids in prompts
            for i in range(wanted.n)
        ]

    async def _respond(self, request: Request, wanted: GenerationRequest, answer: "_Answer") -> Response:
        if wanted.stream:
            events = self._events(answer, wanted.stream_options.include_usage)
            return StreamingResponse(events, media_type="text/event-stream")
        work = asyncio.ensure_future(self._finish(answer))
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            return JSONResponse(work.result() if work.done() else {})  # in the second case nobody reads it
        finally:
            work.cancel()
            gone.cancel()

    async def _finish(self, answer: "_Answer") -> dict:
        for choice in answer.choices:
            async with aclosing(self.generator.stream(choice)) as pieces:
                async for _ in pieces:
                    pass
        return answer.whole()

    async def _events(self, answer: "_Answer", include_usage: bool) -> AsyncIterator[str]:
        """Server-sent events, the last of which is `[DONE]`."""
        try:
            for index, choice in enumerate(answer.choices):
                if answer.is_chat:
                    yield _event(answer.chunk(index, {"role": "assistant", "content": ""}))
                async with aclosing(self.generator.stream(choice)) as pieces:
                    async for piece in pieces:
                        yield _event(answer.chunk(index, {"content": piece}))
                yield _event(answer.chunk(index, {}, choice.finish_reason))
            if include_usage:
                yield _event({**answer.chunk_head, "choices": [], "usage": answer.usage()})
            yield "data: [DONE]\n\n"
        except ServerEnding:
            yield _event(ApiError(ENDING, 503).body())
        except Exception:
            logger.exception("Generation failed.")
            yield _event(ApiError("The generation failed.", 500).body())


class _Answer:
    """The JSON of both endpoints, whole or in chunks."""

    def __init__(self, kind: str, id: str, model: str, choices: list[Choice], prompts: list[list[int]]):
        self.choices, self.is_chat = choices, kind == "chat.completion"
        self.head = {"id": id, "object": kind, "created": int(time.time()), "model": model}
        self.chunk_head = {**self.head, "object": f"{kind}.chunk" if self.is_chat else kind}
        self.prompt_tokens = sum(map(len, prompts))

    def usage(self) -> dict:
        asked, generated = self.prompt_tokens, sum(choice.tokens for choice in self.choices)
        return {"prompt_tokens": asked, "completion_tokens": generated, "total_tokens": asked + generated}

    def whole(self) -> dict:
        choices = []
        for i, choice in enumerate(self.choices):
            message = {"role": "assistant", "content": choice.text, "refusal": None}
            choices.append(self._choice(i, "message", message, choice.finish_reason))
        return {**self.head, "choices": choices, "usage": self.usage()}

    def chunk(self, index: int, delta: dict, finish_reason: str | None = None) -> dict:
        return {**self.chunk_head, "choices": [self._choice(index, "delta", delta, finish_reason)]}

    def _choice(self, index: int, part: str, said: dict, finish_reason: str | None) -> dict:
        """A text or a piece of one; a chat's has more fields than its content."""
        text = {part: said} if self.is_chat else {"text": said.get("content", "")}
        return {"index": index, **text, "logprobs": None, "finish_reason": finish_reason}


def _event(data: dict) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


async def _body(request: Request) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # any page can have a browser send other types
        raise ApiError(f"The Content-Type is {kind or 'missing'}: send application/json.", 415)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_BODY:
            raise ApiError(f"The request has more than {LARGEST_BODY:,} bytes.", 413)
    return bytes(body)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _error(request: Request, error: ApiError) -> Response:
    return JSONResponse(error.body(), status_code=error.status)


def _http_error(request: Request, error: HTTPException) -> Response:
    """No such path, or not by this method."""
    return _error(request, ApiError(f"{request.method} {request.url.path}: {error.detail}.", error.status_code))
