"""Bodies of requests: the fields of OpenAI's API, vLLM and llama.cpp, with their types and ranges."""

import contextlib
import json
import logging
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    Field,
    Json,
    ValidationInfo,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

logger = logging.getLogger(__name__)

MAX_CHOICES = 128  # of one request
MAX_STOPS = 1024  # strings or tokens: each string is looked for after each token
MAX_TEXTS = 2048  # to embed in one request
NO_LIMIT = -1  # as `max_tokens`: as much as the context has room for
MAX_LOGGED = 100  # unknown fields that are named in the log

# What OpenAI's API, vLLM or llama.cpp's server has and this server does not, with the values that ask for nothing.
# Any other is refused. Fields that are in none of these tables change nothing and are named in the log, as in vLLM.
UNSUPPORTED: dict[str, list] = {
    "add_generation_prompt": [True], "allowed_token_ids": [], "audio": [], "background": [False], "bad_words": [[]],
    "best_of": [1], "chat_template": [], "chat_template_kwargs": [{}], "continue_final_message": [False],
    "conversation": [], "documents": [[]], "dry_multiplier": [0], "dynatemp_range": [0], "echo": [False],
    "function_call": ["none"], "functions": [[]], "grammar": [""], "guided_choice": [], "guided_grammar": [],
    "guided_json": [], "guided_regex": [], "include_stop_str_in_output": [False], "instructions": [], "json_schema": [],
    "length_penalty": [1], "max_completion_tokens": [], "max_output_tokens": [], "max_tokens": [], "mirostat": [0],
    "modalities": [["text"]], "n_probs": [0], "previous_response_id": [], "prompt": [], "prompt_logprobs": [],
    "response_format": [], "skip_special_tokens": [True], "structured_outputs": [], "suffix": [""],
    "tool_choice": ["none", "auto"], "tools": [[]], "top_logprobs": [0], "truncate_prompt_tokens": [],
    "truncation": ["disabled"], "use_beam_search": [False], "xtc_probability": [0],
}  # fmt: skip
# Fields that are ignored without a warning: they do not change the answer.
IGNORED = {
    "annotations", "cache_prompt", "metadata", "name", "parallel_tool_calls", "prompt_cache_key", "refusal",
    "safety_identifier", "service_tier", "store", "user",
}  # fmt: skip


_logged: set[str] = set()  # names of unknown fields: each is logged once


def or_say(message: str) -> WrapValidator:
    """Give one message for a value that fits none of several types, instead of one for each."""

    def validate(value: Any, handler: Callable) -> Any:
        try:
            return handler(value)
        except ValueError:
            raise ValueError(message) from None

    return WrapValidator(validate)


Share = Annotated[float | None, Field(ge=0, le=1)]
Alternatives = Annotated[int, Field(ge=0, le=20)]  # likely tokens that are named beside each
OpenAIPenalty = Annotated[float, Field(ge=-2, le=2)]
Seed = Annotated[int | None, Field(ge=-(2**63), lt=2**63), AfterValidator(lambda seed: None if seed == -1 else seed)]
Stop = Annotated[str, Field(min_length=1)]
AsList = AfterValidator(lambda value: [value] if isinstance(value, str) else value)


class Body(BaseModel):
    """Rejects wrong types and unsupported fields; a field that is null counts as not sent."""

    model_config = {"extra": "ignore", "strict": True}

    @model_validator(mode="before")
    @classmethod
    def _drop_defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        known, kept = set(), {}
        for name, field in cls.model_fields.items():
            aliases = field.validation_alias
            known |= set(aliases.choices) if isinstance(aliases, AliasChoices) else {name}
        for name, value in data.items():
            if value is None or (name not in known and (name in IGNORED or value in UNSUPPORTED.get(name, []))):
                continue
            if name not in known and name in UNSUPPORTED:
                message = f"{name} is not supported by this server: leave it out."
                raise PydanticCustomError("unsupported", "{message}", {"message": message, "field": name})
            kept[name] = value
        unknown = {name[:40] for name in kept.keys() - known} - _logged
        if unknown and cls.model_config.get("extra") == "ignore" and len(_logged) < MAX_LOGGED:
            _logged.update(unknown)
            logger.warning("This server does not know these fields of a request, and ignores them: %r", sorted(unknown))
        return kept


class Sampling(Body):
    """The sampling of tokens."""

    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Share = None
    top_k: Annotated[int | None, Field(ge=-1), AfterValidator(lambda k: max(k, 0))] = None  # both keep all tokens
    min_p: Share = None
    typical_p: Annotated[float | None, Field(gt=0, le=1)] = None
    repetition_penalty: Annotated[  # beyond it, the product with a logit can leave the numbers
        float | None, Field(ge=0.01, le=100, validation_alias=AliasChoices("repetition_penalty", "repeat_penalty"))
    ] = None


class HuggingFaceSettings(Sampling):
    """The fields of transformers' `GenerationConfig` that a client may set: `transformers chat` sends them."""

    model_config = {"extra": "forbid"}

    do_sample: bool | None = None
    max_new_tokens: Annotated[int | None, Field(ge=1)] = None
    transformers_version: str | None = None


class NamedModel(Body):
    model: str


class EmbeddingRequest(NamedModel):
    """The body of /v1/embeddings."""

    input: Annotated[
        Stop | Annotated[list[Stop], Field(min_length=1, max_length=MAX_TEXTS)],
        AsList,
        or_say(f"give a text, or a list of up to {MAX_TEXTS:,}; none may be empty, and token ids are not accepted."),
    ]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None


def schema_of(wanted: Any) -> dict | bool | None:
    """Return the schema of a `response_format`, or of the flat one of the Responses API."""
    match wanted:
        case {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return {"type": "object"}
        case {"type": "json_schema", "json_schema": {"schema": dict() | bool() as schema}}:
            return schema
        case {"type": "json_schema", "schema": dict() | bool() as schema}:
            return schema
    raise ValueError('give {"type": "text"}, "json_object", or "json_schema" with its schema.')


class GenerationRequest(NamedModel, Sampling):
    """The fields of both completions and chats."""

    max_tokens: Annotated[
        Annotated[int, Field(ge=1)] | Literal[-1] | None,
        or_say(f"give a whole number from 1 on, or {NO_LIMIT} for as many as the context has room for."),
        Field(validation_alias=AliasChoices("max_completion_tokens", "max_tokens", "n_predict")),
    ] = None
    min_tokens: Annotated[int, Field(ge=0)] = 0
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    stop: Annotated[
        Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)], AsList, or_say(f"give up to {MAX_STOPS:,} strings.")
    ] = []
    stop_token_ids: Annotated[list[int], Field(max_length=MAX_STOPS)] = []
    ignore_eos: bool = False
    frequency_penalty: OpenAIPenalty = 0
    presence_penalty: OpenAIPenalty = 0
    logit_bias: dict[Annotated[int, Field(strict=False)], Annotated[float, Field(ge=-100, le=100)]] = {}
    response_format: Annotated[dict | bool | None, BeforeValidator(schema_of)] = None
    seed: Seed = None
    stream: bool = False
    stream_options: dict[str, bool | None] = {}
    generation_config: Json[HuggingFaceSettings] = HuggingFaceSettings()

    @property
    def count(self) -> int:
        """The number of texts to generate for a prompt."""
        return self.n

    @property
    def options(self) -> dict:
        """The sampling as fields of `GenerationConfig`."""
        given = {"include": {"do_sample", *Sampling.model_fields}, "exclude_none": True}
        return self.generation_config.model_dump(**given) | self.model_dump(**given)


class CompletionRequest(GenerationRequest):
    """The body of /v1/completions. A prompt is text or token ids; there may be a list of them."""

    prompt: Annotated[
        str | list[str] | list[int] | list[list[int]],
        AfterValidator(lambda p: [p] if isinstance(p, str) or isinstance((p or [0])[0], int) else p),
        or_say("give a text, its token ids, or a list of either."),
    ]
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    echo: bool = False
    alternatives: Annotated[Alternatives | None, Field(validation_alias=AliasChoices("logprobs"))] = None

    @property
    def count(self) -> int:
        return max(self.n, self.best_of)


def function_of(value: Any) -> Any:
    """Return a tool, a call of one, or the choice of one, as in a chat; in the Responses API they are flat."""
    match value:
        case {"type": "function", "function": {"name": str() as name}} if re.fullmatch(r"[a-zA-Z0-9_.-]{1,64}", name):
            return value
        case {"type": "function", "name": _, **rest} if "function" not in rest:
            return function_of({"type": "function", "function": {"name": value["name"], **rest}})
    raise ValueError('give a function ({"type": "function"}) with a name of letters, digits, ".-_".')


def _content(content: Any, info: ValidationInfo) -> Any:
    """Return the text of a message, whose content may come in parts."""
    if content is None and not info.data.get("tool_calls"):
        raise ValueError("the message has no content: give its text.")
    texts: list = []
    for part in content if isinstance(content, list) else []:
        is_text = isinstance(part, dict) and part.get("type") in ("text", "input_text", "output_text")
        texts.append(part.get("text") if is_text else None)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError('this model reads text alone: send a string, or parts like {"type": "text", "text": ""}.')
    return "".join(texts) if content is None or isinstance(content, list) else content


class Message(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    tool_calls: list[Annotated[dict, BeforeValidator(function_of)]] = []
    tool_call_id: str | None = None
    content: Annotated[str, BeforeValidator(_content), Field(default=None, validate_default=True)]

    def for_template(self) -> dict[str, Any]:
        """Return the message as templates expect it: arguments are an object, unless a model wrote something else."""
        message: dict[str, Any] = self.model_dump(exclude_defaults=True) | {"content": self.content}
        for function in (call["function"] for call in message.get("tool_calls", [])):
            with contextlib.suppress(KeyError, TypeError, ValueError, RecursionError):
                if isinstance(value := json.loads(function["arguments"]), dict):
                    function["arguments"] = value
        return message | {"role": "system" if self.role == "developer" else self.role}


class ChatRequest(GenerationRequest):
    """The body of /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    logprobs: bool = False
    top_logprobs: Alternatives = 0
    tools: list[Annotated[dict, BeforeValidator(function_of)]] = []
    tool_choice: Annotated[
        Literal["none", "auto", "required"] | Annotated[dict, BeforeValidator(function_of)],
        or_say("give none, auto, required, or one of the tools."),
    ] = "auto"

    @property
    def alternatives(self) -> int | None:
        return self.top_logprobs if self.logprobs or self.top_logprobs else None
