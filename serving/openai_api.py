"""One model behind OpenAI's HTTP API: /v1/completions, /v1/chat/completions, /v1/models, and /health.

`transformers serve` is not used: it answers 500 to wrong types, ignores the context's length, n and the end of a
sampled stop string, generates on for clients that have gone, and lets a message write control tokens. `/load_model` is
there for `transformers chat`, which calls it first.
"""

import asyncio
import copy
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from functools import partial

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..jobs.extras import extra
from .answers import Answer
from .chat import UNBOUNDED_TOKENS, end_of_turn
from .generator import Choice, NotScored, ServerEnding, TextGenerator, generation_config
from .processors import Adjustment, Structured, compiled, json_rule, prompt_scores
from .tools import demand, message_of, response_template

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
        self.headers = {"Retry-After": "5"} if status == 429 else None

    def body(self) -> dict:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class Api:
    """The endpoints, for clients that call the model `name`; `encode_chat` is as for `Chat`."""

    def __init__(self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, encode_chat: Callable):
        self.name, self.tokenizer, self.encode_chat = name, tokenizer, encode_chat
        self.reader = copy.deepcopy(tokenizer)  # decodes, while another thread encodes with the original
        self.generator = TextGenerator(model, tokenizer)
        self.rows = model.get_input_embeddings().num_embeddings
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
            NotScored: lambda request, error: _error(request, ApiError(str(error), param="logprobs")),
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
        choices = await self._in_encoder(self._choices, wanted, prompts, COMPLETION_TOKENS)
        for i, choice in enumerate(choices if wanted.echo else []):
            prompt = wanted.prompts[i // wanted.n]
            choice.text = prompt if isinstance(prompt, str) else self.reader.decode(prompt, skip_special_tokens=True)
            if wanted.logprobs is not None:  # in the one thread that runs the model
                arguments = self.generator.model, choice.prompt_ids, wanted.logprobs
                choice.scored += await asyncio.wrap_future(self.generator.thread.submit(prompt_scores, *arguments))
        answer = Answer("text_completion", self.name, self.reader, choices, prompts, wanted.logprobs is not None)
        return await self._respond(request, wanted, answer)

    async def chat_completions(self, request: Request) -> Response:
        wanted = await self._validated(request, ChatRequest)
        if not self.tokenizer.chat_template:
            raise ApiError("This model has no chat template: it continues text, at /v1/completions.", param="messages")
        if wanted.tool_choice == "none":
            wanted.tools = []
        prompts = [await self._in_encoder(self._encode_messages, wanted)]
        default = self.generator.context_length or UNBOUNDED_TOKENS
        choices = await self._in_encoder(self._choices, wanted, prompts, default, self.end_of_turn)
        shows_scores = wanted.alternatives is not None
        answer = Answer("chat.completion", self.name, self.reader, choices, prompts, shows_scores)
        if wanted.tools:
            answer.read = partial(message_of, prompt_ids=prompts[0], tokenizer=self.reader, tools=wanted.tools)
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

    async def _in_encoder(self, encode: Callable, *args) -> list:
        try:
            return await asyncio.get_running_loop().run_in_executor(self.encoder, encode, *args)
        except (ImportError, ValueError) as error:  # such as a template that refuses two turns of one role
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

    def _encode_messages(self, wanted: ChatRequest) -> list[int]:
        messages = [message.for_template() for message in wanted.messages]
        encode = partial(self.encode_chat, self.tokenizer, messages, add_generation_prompt=True)
        encoded = encode(tools=wanted.tools)
        if wanted.tools and response_template(self.tokenizer) and encoded == encode():
            raise ApiError("This model's chat template does not write tools: send none.", param="tools")
        return self._known(encoded["input_ids"], "messages")

    def _known(self, ids: list[int], param: str) -> list[int]:
        """Refuse ids for which the model has no embedding: on a GPU, one would end all later requests, too."""
        if ids and (min(ids) < 0 or max(ids) >= self.rows):
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
        self._known([*wanted.logit_bias], "logit_bias")
        adjustments = wanted.frequency_penalty, wanted.presence_penalty, wanted.logit_bias
        matcher, choices = self._matcher(wanted, config), []
        for ids in prompts:
            for i in range(wanted.n):
                seed = None if wanted.seed is None else (wanted.seed + i) % 2**63
                processors = [Adjustment(len(ids), *adjustments)] if any(adjustments) else []
                processors += [Structured(matcher.deep_copy(), len(ids))] if matcher else []
                choices.append(Choice(ids, config, stop, seed, wanted.alternatives, processors))
        return choices

    def _matcher(self, wanted: GenerationRequest, config: GenerationConfig):
        """What llguidance makes of the structure that the text must follow, if any."""
        tools, choice = (wanted.tools, wanted.tool_choice) if isinstance(wanted, ChatRequest) else ([], "auto")
        param = "response_format" if choice in ("none", "auto") else "tool_choice"
        if param == "response_format" and wanted.response_format is None:
            return None
        if param == "response_format" and tools:
            raise ApiError("The response_format leaves no room for tools: set tool_choice to none.", param=param)
        ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        ends = [end for end in [*ends, self.tokenizer.eos_token_id] if end is not None]
        try:
            if param == "tool_choice":
                lark = demand(tools, choice, response_template(self.tokenizer))
            else:
                lark = f"start: {json_rule(wanted.response_format)}"
            return compiled(lark, self.reader, self.rows, ends)
        except ValueError as error:
            raise ApiError(str(error), param=param) from None

    async def _respond(self, request: Request, wanted: GenerationRequest, answer: Answer) -> Response:
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

    async def _finish(self, answer: Answer) -> dict:
        async with aclosing(self._deltas(answer)) as deltas:
            async for index, delta in deltas:
                answer.add(index, delta)
        return answer.whole()

    async def _events(self, answer: Answer, include_usage: bool) -> AsyncIterator[str]:
        """Server-sent events, the last of which is `[DONE]`."""
        try:
            for index in range(len(answer.choices) if answer.is_chat else 0):
                yield _event(answer.chunk(index, {"role": "assistant", "content": ""}))
            async with aclosing(self._deltas(answer)) as deltas:
                async for index, delta in deltas:
                    answer.add(index, delta)
                    yield _event(answer.chunk(index, delta))
            if include_usage:
                yield _event({**answer.chunk_head, "choices": [], "usage": answer.usage()})
            yield "data: [DONE]\n\n"
        except ServerEnding:
            yield _event(ApiError(ENDING, 503).body())
        except (ApiError, NotScored) as error:
            yield _event((error if isinstance(error, ApiError) else ApiError(str(error), param="logprobs")).body())
        except Exception:
            logger.exception("Generation failed.")
            yield _event(ApiError("The generation failed.", 500).body())

    async def _deltas(self, answer: Answer) -> AsyncGenerator[tuple[int, dict | None]]:
        """Pieces of the choices, which are generated together, as they come; None after the last of each."""
        queue = asyncio.Queue()
        tasks = [asyncio.ensure_future(self._run(answer, index, queue)) for index in range(len(answer.choices))]
        for task in tasks:
            task.add_done_callback(queue.put_nowait)
        try:
            while not (all(task.done() for task in tasks) and queue.empty()):
                if isinstance(item := await queue.get(), asyncio.Task):
                    item.result()
                else:
                    yield item
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, answer: Answer, index: int, queue: asyncio.Queue) -> None:
        choice = answer.choices[index]
        if choice.text:  # the prompt's
            queue.put_nowait((index, {"content": choice.text}))
        async with aclosing(self.generator.stream(choice)) as pieces:
            async for piece in pieces:
                if answer.read is None:
                    queue.put_nowait((index, {"content": piece}))
        for processor in choice.processors:
            if isinstance(processor, Structured) and processor.failure:
                raise ApiError(f"The text could not follow the schema to its end: {processor.failure}.")
        if answer.read is not None:
            queue.put_nowait((index, answer.read(choice.text)))
        queue.put_nowait((index, None))


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
    return JSONResponse(error.body(), error.status, error.headers)


def _http_error(request: Request, error: HTTPException) -> Response:
    """No such path, or not by this method."""
    return _error(request, ApiError(f"{request.method} {request.url.path}: {error.detail}.", error.status_code))
