"""One model behind OpenAI's HTTP API: completions, chats, the models, and an embedder's embeddings.

`transformers serve` is not used: it answers 500 to wrong types, ignores the context's length, n and the end of a
sampled stop string, and lets a message write special tokens. `/load_model` is there for `transformers chat`, which
calls it first.
"""

import asyncio
import copy
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from functools import partial

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..checkpoints.named_adapters import Variant
from ..jobs.extras import extra
from ..tokenization.trained import RESPONSE_TEMPLATE
from .chat import DEFAULT_MAX_TOKENS, end_of_turn
from .choice import StopFilter
from .generator import Choice, TextGenerator, generation_config
from .processors import Adjustment, Structured, compiled, json_rule, prompt_scores
from .tools import OPEN, call_grammar, message_of, response_template

with extra("serve", "A server"):
    from pydantic import ValidationError
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
    from starlette.routing import Route

    from .answers import Answer, ApiError
    from .documents import Documents
    from .embeddings import Embedder
    from .openai_requests import (
        MAX_CHOICES,
        NO_LIMIT,
        ChatRequest,
        CompletionRequest,
        EmbeddingRequest,
        GenerationRequest,
        NamedModel,
    )
    from .responses import ItemAnswer, ResponsesRequest
    from .streams import api_error, complete, event, events, while_connected

MAX_BODY_BYTES = 4 * 2**20  # more than contexts hold, and encoded in seconds
MAX_WAITING = 1024  # texts that wait to be generated, before further requests are answered with 429
COMPLETION_TOKENS = 16  # OpenAI's default for the legacy endpoint


class Api:
    """The endpoints, for clients that call the model `name`; `encode_chat` is as for `Chat`.

    With `documents`, they answer the chats. `adapters` are the variants of a model by the names that clients call them.
    """

    def __init__(
        self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, encode_chat: Callable,
        embedder: Embedder | None = None, documents: Documents | None = None,
        adapters: dict[str, Variant] | None = None,
    ):  # fmt: skip
        self.name, self.encode_chat, self.embedder, self.documents = name, encode_chat, embedder, documents
        self.variants = adapters or {name: Variant(None, tokenizer, model.generation_config)}
        # These decode, while another thread encodes with the originals.
        self.decoders = {name: copy.deepcopy(variant.tokenizer) for name, variant in self.variants.items()}
        self.turn_ends = {name: end_of_turn(each.tokenizer, encode_chat) for name, each in self.variants.items()}
        names = [variant.adapter for variant in adapters.values()] if adapters else []
        self.generator = TextGenerator(model, tokenizer, adapters=names)
        self.rows = model.config.get_text_config().vocab_size
        self.encoder = ThreadPoolExecutor(1, thread_name_prefix="encode")  # a long prompt delays no other client
        self.created, self.requests = int(time.time()), Counter()  # by path and status

    def application(self) -> Starlette:
        gets = {
            "/health": self.health, "/metrics": self.metrics, "/v1/models": self.models,
            "/v1/models/{name:path}": self.models,
        }  # fmt: skip
        posts = {
            "/v1/completions": (self.completions, CompletionRequest),
            "/v1/chat/completions": (self.chat_completions, ChatRequest),
            "/v1/responses": (self.chat_completions, ResponsesRequest),
            "/v1/embeddings": (self.embeddings, EmbeddingRequest),
            "/load_model": (self.load_model, NamedModel),
        }
        routes = [Route(path, partial(self._handle, path, endpoint, None)) for path, endpoint in gets.items()]
        routes += [Route(path, partial(self._handle, path, *each), methods=["POST"]) for path, each in posts.items()]
        return Starlette(routes=routes, exception_handlers={HTTPException: _http_error}, lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette):
        yield
        self.encoder.shutdown(cancel_futures=True)
        self.generator.close()

    async def _handle(self, path: str, endpoint: Callable, schema: type[NamedModel] | None, request: Request):
        try:
            response = await endpoint(request, *([await self._validated(request, schema)] if schema else []))
        except ClientDisconnect:
            return Response()  # the client has gone
        except Exception as error:
            response = api_error(error).response()
        self.requests[path, response.status_code] += 1
        return response

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "unfinished": len(self.generator.unfinished)})

    async def metrics(self, request: Request) -> Response:
        """Render the counts in Prometheus' text format."""
        begun, counts = [choice.tokens > 0 for choice in list(self.generator.unfinished)], self.generator.counts
        requests = {f'{{endpoint="{path}",status="{code}"}}': n for (path, code), n in self.requests.items()}
        families = {
            "folio_requests_total counter": requests,
            "folio_prompt_tokens_total counter": {"": counts["prompt"]},
            "folio_generated_tokens_total counter": {"": counts["generated"]},
            "folio_first_token_seconds summary": {"_sum": counts["seconds"], "_count": counts["first"]},
            "folio_texts_running gauge": {"": sum(begun)},
            "folio_texts_waiting gauge": {"": len(begun) - sum(begun)},
        }
        lines = []
        for family, samples in families.items():
            lines += [f"# TYPE {family}", *(f"{family.split()[0]}{name} {value}" for name, value in samples.items())]
        return PlainTextResponse("\n".join([*lines, ""]), media_type="text/plain; version=0.0.4")

    async def models(self, request: Request) -> Response:
        names = [*self.variants, *([self.embedder.name] if self.embedder else [])]
        cards = [{"id": name, "object": "model", "created": self.created, "owned_by": "foliogpt"} for name in names]
        if (name := request.path_params.get("name")) is None:
            return JSONResponse({"object": "list", "data": cards})
        _check_model(name, names)
        return JSONResponse(cards[names.index(name)])

    async def load_model(self, request: Request, wanted: NamedModel) -> Response:
        """Tell `transformers chat`, which asks before it begins, that the model is loaded."""
        ready = {"status": "ready", "model": self.name, "cached": True}
        return Response(event(ready), media_type="text/event-stream")

    async def embeddings(self, request: Request, wanted: EmbeddingRequest) -> Response:
        if self.embedder is None:
            raise ApiError("This server has no embedder: start it with --embedder.", 404)
        return await while_connected(request, self.embedder.embed(wanted))

    async def completions(self, request: Request, wanted: CompletionRequest) -> Response:
        if len(wanted.prompt) * wanted.count > MAX_CHOICES:
            raise ApiError(f"More than {MAX_CHOICES} texts in one request: send fewer prompts, or a smaller n.")
        if wanted.count > wanted.n and wanted.stream:
            raise ApiError("The best of several texts is known at their end: do not stream.", param="best_of")
        decoder = self.decoders[wanted.model]
        prompts = await self._in_encoder(self._encode_prompts, wanted)
        choices = await self._in_encoder(self._choices, wanted, prompts, COMPLETION_TOKENS)
        for i, choice in enumerate(choices if wanted.echo else []):
            prompt = wanted.prompt[i // wanted.count]
            choice.text = prompt if isinstance(prompt, str) else decoder.decode(prompt, skip_special_tokens=True)
            if wanted.alternatives is not None:  # in the one thread that runs the model
                arguments = self.generator.model, choice.prompt_ids, wanted.alternatives
                scores = partial(prompt_scores, *arguments, **self.generator.batch.names([choice]))
                choice.scored += await asyncio.wrap_future(self.generator.thread.submit(scores))
        return await self._respond(request, Answer(wanted, decoder, choices, prompts, self._generate))

    async def chat_completions(self, request: Request, wanted: ChatRequest) -> Response:
        decoder = self.decoders[wanted.model]
        if not decoder.chat_template:
            raise ApiError("This model has no chat template: it continues text, at /v1/completions.", param="messages")
        kind = ItemAnswer if isinstance(wanted, ResponsesRequest) else Answer
        if wanted.tool_choice == "none":
            wanted.tools, wanted.tool_choice = [], "auto"
        if self.documents:
            produce = self.documents.answering(wanted, self.generator, decoder)
            choice = Choice([], self.generator.model.generation_config)
            return await self._respond(request, kind(wanted, decoder, [choice], [choice.prompt_ids], produce))
        prompts = [await self._in_encoder(self._encode_messages, wanted)]
        default = self.generator.context_length or DEFAULT_MAX_TOKENS
        choices = await self._in_encoder(self._choices, wanted, prompts, default, self.turn_ends[wanted.model])
        produce = self._generate
        if wanted.tools:
            read = partial(message_of, prompt_ids=prompts[0], tokenizer=decoder, tools=wanted.tools)
            is_known = response_template(decoder) == RESPONSE_TEMPLATE
            produce = partial(self._generate, read=read, opening=OPEN if is_known else "")
        return await self._respond(request, kind(wanted, decoder, choices, prompts, produce))

    # What the endpoints share, in the order in which a request goes through it.

    async def _validated(self, request: Request, schema: type[NamedModel]) -> NamedModel:
        try:
            wanted = schema.model_validate_json(await _body(request))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            param = place or first.get("ctx", {}).get("field")
            raise ApiError(f"{place}: {message}" if place else message, param=param) from None
        embeds = isinstance(wanted, EmbeddingRequest) and self.embedder
        _check_model(wanted.model, [embeds.name] if embeds else [*self.variants])
        if len(self.generator.unfinished) >= MAX_WAITING:
            raise ApiError("Too many requests are waiting: try again later.", 429, code="rate_limit_exceeded")
        return wanted

    async def _in_encoder(self, encode: Callable, *args) -> list:
        try:
            return await asyncio.get_running_loop().run_in_executor(self.encoder, encode, *args)
        except (ImportError, ValueError) as error:  # such as a template that refuses two turns of one role
            raise ApiError(str(error)) from None

    def _encode_prompts(self, wanted: CompletionRequest) -> list[list[int]]:
        encoded, tokenizer = [], self.variants[wanted.model].tokenizer
        for prompt in wanted.prompt:
            ids = tokenizer(prompt, verbose=False)["input_ids"] if isinstance(prompt, str) else prompt
            if not ids:
                raise ApiError("The prompt is empty: give some text.", param="prompt")
            encoded.append(self._checked_ids(ids, "prompt"))
        return encoded

    def _encode_messages(self, wanted: ChatRequest) -> list[int]:
        messages = [message.for_template() for message in wanted.messages]
        tokenizer = self.variants[wanted.model].tokenizer
        encode = partial(self.encode_chat, tokenizer, messages, add_generation_prompt=True)
        encoded = encode(tools=wanted.tools)
        if wanted.tools and response_template(tokenizer) and encoded == encode():
            raise ApiError("This model's chat template does not write tools: send none.", param="tools")
        return self._checked_ids(encoded["input_ids"], "messages")

    def _checked_ids(self, ids: list[int], param: str) -> list[int]:
        """Reject ids without an embedding: on a GPU, one would make all later requests fail, too."""
        if ids and (min(ids) < 0 or max(ids) >= self.rows):
            raise ApiError(f"A token id of {param} is not in the vocabulary.", param=param)
        return ids

    def _choices(
        self, wanted: GenerationRequest, prompts: list[list[int]], default: int, end_of_turn: int | None = None
    ) -> list[Choice]:
        """Return the texts to generate: `n` for each prompt."""
        max_tokens, context = wanted.max_tokens, self.generator.context_length
        length = max(map(len, prompts))
        room = context and context - length
        if room is not None and room < max(max_tokens or 1, 1):
            message = f"The model's context is {context} tokens, and the prompt has {length}: "
            message += "shorten it." if room < 1 else f"max_tokens can be at most {room}, not {max_tokens}."
            raise ApiError(message, param=None if room < 1 else "max_tokens", code="context_length_exceeded")
        if max_tokens is None:
            max_tokens = min(wanted.generation_config.max_new_tokens or default, room or default)
        elif max_tokens == NO_LIMIT:
            max_tokens = room or DEFAULT_MAX_TOKENS
        if wanted.min_tokens > max_tokens:
            message = f"min_tokens is {wanted.min_tokens}, and the text has at most {max_tokens} tokens: ask for fewer."
            raise ApiError(message, param="min_tokens")
        ends = self._checked_ids(wanted.stop_token_ids, "stop_token_ids")
        if end_of_turn is not None and not wanted.ignore_eos:
            ends = [*ends, end_of_turn]
        options = {**wanted.options, "min_new_tokens": wanted.min_tokens or None}
        variant = self.variants[wanted.model]
        config = generation_config(variant, max_tokens, ends, wanted.ignore_eos, **options)
        own = variant.generation_config.stop_strings or self.generator.stop_strings
        stop = [*wanted.stop, *([own] if isinstance(own, str) else own)]
        self._checked_ids([*wanted.logit_bias], "logit_bias")
        adjustments = wanted.frequency_penalty, wanted.presence_penalty, wanted.logit_bias
        alternatives = 0 if wanted.alternatives is None and wanted.count > wanted.n else wanted.alternatives
        matcher, choices = self._matcher(wanted, config), []
        for ids in prompts:
            for i in range(wanted.count):
                seed = None if wanted.seed is None else (wanted.seed + i) % 2**63
                processors = [Adjustment(len(ids), *adjustments)] if any(adjustments) else []
                processors += [Structured(matcher.deep_copy(), len(ids))] if matcher else []
                choices.append(Choice(ids, config, stop, seed, alternatives, processors, variant.adapter))
        if alternatives is not None and not self.generator.batch.can_take(choices[0]):
            why = self.generator.batch.fault or "a field of its generation_config.json rules them out"
            raise ApiError(f"There are no log-probabilities, since {why}.", param="logprobs")
        return choices

    def _matcher(self, wanted: GenerationRequest, config: GenerationConfig):
        """Compile the structure that the text must follow, if any."""
        tools, choice = (wanted.tools, wanted.tool_choice) if isinstance(wanted, ChatRequest) else ([], "auto")
        param = "response_format" if choice == "auto" else "tool_choice"
        if param == "response_format" and wanted.response_format is None:
            return None
        if param == "response_format" and tools:
            raise ApiError("The response_format leaves no room for tools: set tool_choice to none.", param=param)
        tokenizer = self.decoders[wanted.model]
        ends = [end for end in [*(config.eos_token_id or []), tokenizer.eos_token_id] if end is not None]
        try:
            if param == "tool_choice":
                lark = call_grammar(tools, choice, response_template(tokenizer))
            else:
                lark = f"start: {json_rule(wanted.response_format)}"
            return compiled(lark, tokenizer, self.rows, ends)
        except ValueError as error:
            raise ApiError(str(error), param=param) from None

    async def _respond(self, request: Request, answer: Answer) -> Response:
        if answer.wanted.stream:
            return StreamingResponse(events(answer), media_type="text/event-stream")
        return await while_connected(request, complete(answer))

    async def _generate(
        self, choice: Choice, put: Callable[[dict], None], read: Callable | None = None, opening: str = ""
    ) -> None:
        """Put a text piece by piece; with `read`, only what is before `opening`, and then the message that it makes."""
        if choice.text:  # the prompt's
            put({"content": choice.text})
        before, text, shown = StopFilter([opening]), "", ""
        async with aclosing(self.generator.stream(choice)) as pieces:
            async for piece in pieces:
                if read is None:
                    put({"content": piece})
                elif opening and (certain := (text := text + before.push(piece)).rstrip()) != shown:
                    put({"content": certain[len(shown) :]})  # without spaces, which are dropped before a call
                    shown = certain
        for processor in choice.processors:
            if isinstance(processor, Structured) and processor.failure:
                raise ApiError(f"The text could not follow the schema to its end: {processor.failure}.")
        if read is not None:
            message = read(choice.text)
            put({**message, "content": message["content"].removeprefix(shown)})


def _check_model(name: str, names: list[str]) -> None:
    if name not in names:
        message = f"The model {name!r} is not here: this server has {', '.join(map(repr, names))}."
        raise ApiError(message, 404, "model", "model_not_found")


async def _body(request: Request) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # any page can have a browser send other types
        raise ApiError(f"The Content-Type is {kind or 'missing'}: send application/json.", 415)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise ApiError(f"The request has more than {MAX_BODY_BYTES:,} bytes.", 413)
    return bytes(body)


def _http_error(request: Request, error: HTTPException) -> Response:
    return ApiError(f"{request.method} {request.url.path}: {error.detail}.", error.status_code).response()
