"""What clients of OpenAI's API may send: its fields and those of vLLM and llama.cpp, their types and ranges."""

import contextlib
import json
import logging
import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Json,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

logger = logging.getLogger(__name__)

MOST_CHOICES = 128  # of one request
MOST_STOPS = 1024  # strings or tokens: each string is looked for after each token
NO_LIMIT = -1  # as `max_tokens`: as much as the context has room for
MOST_TOLD = 100  # unknown fields that are named in the log

# What OpenAI's API, vLLM or llama.cpp's server has and this server does not, with the values that ask for nothing.
# Any other is refused. Fields that are in none of these tables change nothing and are named in the log, as in vLLM.
UNSUPPORTED: dict[str, list] = {
    "add_generation_prompt": [True], "allowed_token_ids": [], "audio": [], "bad_words": [[]], "best_of": [1],
    "chat_template": [], "chat_template_kwargs": [{}], "continue_final_message": [False], "documents": [[]],
    "dry_multiplier": [0], "dynatemp_range": [0], "echo": [False], "function_call": ["none"], "functions": [[]],
    "grammar": [""], "guided_choice": [], "guided_grammar": [], "guided_json": [], "guided_regex": [],
    "include_stop_str_in_output": [False], "json_schema": [], "length_penalty": [1], "mirostat": [0],
    "modalities": [["text"]], "n_probs": [0], "prompt_logprobs": [], "skip_special_tokens": [True],
    "structured_outputs": [], "suffix": [""], "tool_choice": ["none", "auto"], "tools": [[]], "top_logprobs": [0],
    "truncate_prompt_tokens": [], "use_beam_search": [False], "xtc_probability": [0],
}  # fmt: skip
# What can be passed over without changing the answer, and without a word.
IGNORED = {
    "annotations", "cache_prompt", "metadata", "name", "parallel_tool_calls", "prompt_cache_key", "refusal",
    "safety_identifier", "service_tier", "store", "user",
}  # fmt: skip


_told: set[str] = set()  # names of unknown fields: each is logged once


def _or_say(message: str) -> WrapValidator:
    """One message for what fits none of several types, in place of one for each."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise ValueError(message) from None

    return WrapValidator(validate)


Temperature = Annotated[float | None, Field(ge=0, le=2)]
Share = Annotated[float | None, Field(ge=0, le=1)]
Count = Annotated[int | None, Field(ge=1)]
Alternatives = Annotated[int, Field(ge=0, le=20)]  # likely tokens that are named beside each
OpenAIPenalty = Annotated[float, Field(ge=-2, le=2)]
TopK = Annotated[int | None, Field(ge=-1), AfterValidator(lambda k: max(k, 0))]  # both keep all tokens
Penalty = Annotated[  # beyond it, the product with a logit can leave the numbers
    float | None, Field(ge=0.01, le=100), Field(validation_alias=AliasChoices("repetition_penalty", "repeat_penalty"))
]
Seed = Annotated[int | None, Field(ge=-(2**63), lt=2**63), AfterValidator(lambda seed: None if seed == -1 else seed)]
Stop = Annotated[str, Field(min_length=1)]
Stops = Annotated[
    Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)], _or_say(f"give a string, or up to {MOST_STOPS:,}.")
]


def _limit(tokens: int | None) -> int | None:
    if tokens is not None and tokens < 1 and tokens != NO_LIMIT:
        raise ValueError(f"give a whole number from 1 on, or {NO_LIMIT} for as many as the context has room for.")
    return tokens


MaxTokens = Annotated[
    int | None,
    AfterValidator(_limit),
    Field(validation_alias=AliasChoices("max_completion_tokens", "max_tokens", "n_predict")),
]


class Body(BaseModel):
    """Refuses wrong types and what is not supported; a field that is null is as one that was not sent."""

    model_config = ConfigDict(extra="ignore", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_what_asks_for_nothing(cls, data: Any) -> Any:
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
        unknown = {name[:40] for name in kept.keys() - known} - _told
        if unknown and cls.model_config.get("extra") == "ignore" and len(_told) < MOST_TOLD:
            _told.update(unknown)
            logger.warning("This server does not know these fields of a request, and ignores them: %r", sorted(unknown))
        return kept


class Sampling(Body):
    """How tokens are drawn."""

    temperature: Temperature = None
    top_p: Share = None
    top_k: TopK = None
    min_p: Share = None
    typical_p: Annotated[float | None, Field(gt=0, le=1)] = None
    repetition_penalty: Penalty = None

    @property
    def sampling(self) -> dict[str, float]:
        """The fields that were sent, by their names in transformers' `GenerationConfig`."""
        return {name: value for name in Sampling.model_fields if (value := getattr(self, name)) is not None}


class HuggingFaceSettings(Sampling):
    """The fields of transformers' `GenerationConfig` that a client may set: `transformers chat` sends them."""

    model_config = ConfigDict(extra="forbid")

    do_sample: bool | None = None
    max_new_tokens: Count = None
    transformers_version: str | None = None


class StreamOptions(Body):
    include_usage: bool = False
    include_obfuscation: bool = False


class NamedModel(Body):
    model: str


def _schema(wanted: Any) -> dict | bool | None:
    """The schema that a text of this `response_format` follows."""
    match wanted:
        case {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return {"type": "object"}
        case {"type": "json_schema", "json_schema": {"schema": dict() | bool() as schema}}:
            return schema
    raise ValueError('give {"type": "text"}, "json_object", or "json_schema" with {"json_schema": {"schema": {}}}.')


class GenerationRequest(NamedModel, Sampling):
    """What both endpoints take."""

    max_tokens: MaxTokens = None
    min_tokens: Annotated[int, Field(ge=0)] = 0
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] = 1
    stop: Stops = []
    stop_token_ids: Annotated[list[int], Field(max_length=MOST_STOPS)] = []
    ignore_eos: bool = False
    frequency_penalty: OpenAIPenalty = 0
    presence_penalty: OpenAIPenalty = 0
    logit_bias: dict[Annotated[int, Field(strict=False)], Annotated[float, Field(ge=-100, le=100)]] = {}
    response_format: Annotated[dict | bool | None, BeforeValidator(_schema)] = None
    seed: Seed = None
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    generation_config: Json[HuggingFaceSettings] = HuggingFaceSettings()

    @property
    def stop_strings(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop


class CompletionRequest(GenerationRequest):
    """The body of /v1/completions. A prompt is text or token ids; there may be a list of them."""

    prompt: Annotated[
        str | list[str] | list[int] | list[list[int]], _or_say("give a text, its token ids, or a list of either.")
    ]

    echo: bool = False
    logprobs: Alternatives | None = None

    @property
    def alternatives(self) -> int | None:
        return self.logprobs

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        is_one = isinstance(self.prompt, str) or (self.prompt and isinstance(self.prompt[0], int))
        return [self.prompt] if is_one else self.prompt


def _joined_text(content: Any) -> Any:
    """The text of a message whose content comes in parts."""
    if not isinstance(content, list):
        return content
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ValueError('this model reads text alone: send a string, or parts like {"type": "text", "text": ""}.')
    return "".join(part["text"] for part in content)


def _function(value: Any) -> Any:
    """A tool, a call of one, or the choice of one."""
    match value:
        case {"type": "function", "function": {"name": str() as name}} if re.fullmatch(r"[a-zA-Z0-9_.-]{1,64}", name):
            return value
    raise ValueError('give {"type": "function", "function": {"name": "f"}}, with a name of letters, digits, ".-_".')


def _content(content: Any, info: ValidationInfo) -> Any:
    if content is None and not info.data.get("tool_calls"):
        raise ValueError("the message has no content: give its text.")
    return "" if content is None else _joined_text(content)


class Message(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    tool_calls: list[Annotated[dict, BeforeValidator(_function)]] = []
    tool_call_id: str | None = None
    content: Annotated[str, BeforeValidator(_content), Field(default=None, validate_default=True)]

    def for_template(self) -> dict[str, Any]:
        """As templates expect it: arguments are an object, unless a model wrote something else."""
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
    tools: list[Annotated[dict, BeforeValidator(_function)]] = []
    tool_choice: Annotated[
        Literal["none", "auto", "required"] | Annotated[dict, BeforeValidator(_function)],
        _or_say("give none, auto, required, or one of the tools."),
    ] = "auto"

    @property
    def alternatives(self) -> int | None:
        return self.top_logprobs if self.logprobs or self.top_logprobs else None
