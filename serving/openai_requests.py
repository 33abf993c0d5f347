"""What clients of OpenAI's API may send: its fields, their types and ranges."""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Json,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

MOST_CHOICES = 128  # of one request

# What OpenAI's API has and this server does not, with the values that ask for nothing. Any other is refused.
UNSUPPORTED: dict[str, list] = {
    "best_of": [1],
    "echo": [False],
    "frequency_penalty": [0],
    "function_call": ["none"],
    "functions": [[]],
    "logit_bias": [{}],
    "logprobs": [False],
    "modalities": [["text"]],
    "presence_penalty": [0],
    "response_format": [{"type": "text"}],
    "suffix": [""],
    "tool_calls": [[]],
    "tool_choice": ["none", "auto"],
    "tools": [[]],
    "top_logprobs": [0],
}
# What can be passed over without changing the answer.
IGNORED = {
    "annotations",
    "metadata",
    "name",
    "parallel_tool_calls",
    "prompt_cache_key",
    "refusal",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
}


def _or_say(message: str) -> WrapValidator:
    """One message for what fits none of several types, in place of one for each."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise ValueError(message) from None

    return WrapValidator(validate)


Temperature = Annotated[float | None, Field(ge=0, le=2)]
TopP = Annotated[float | None, Field(gt=0, le=1)]
Count = Annotated[int | None, Field(ge=1)]
Stop = Annotated[str, Field(min_length=1)]


class Strict(BaseModel):
    """Refuses unknown fields and wrong types; a field that is null is as one that was not sent."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_what_asks_for_nothing(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        kept = {}
        for name, value in data.items():
            known = name in cls.model_fields
            if value is None or (not known and (name in IGNORED or value in UNSUPPORTED.get(name, []))):
                continue
            if not known and name in UNSUPPORTED:
                raise ValueError(f"{name} is not supported by this server: leave it out.")
            kept[name] = value
        return kept


class HuggingFaceSettings(Strict):
    """The fields of transformers' `GenerationConfig` that a client may set: `transformers chat` sends them."""

    do_sample: bool | None = None
    max_new_tokens: Count = None
    temperature: Temperature = None
    top_p: TopP = None
    top_k: Annotated[int | None, Field(ge=0)] = None
    repetition_penalty: Annotated[float | None, Field(gt=0)] = None
    transformers_version: str | None = None


class StreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: bool = False


class NamedModel(Strict):
    model: str


class GenerationRequest(NamedModel):
    """What both endpoints take."""

    max_tokens: Count = None
    temperature: Temperature = None
    top_p: TopP = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] = 1
    stop: Annotated[Stop | Annotated[list[Stop], Field(max_length=4)], _or_say("give a string, or up to four.")] = []
    seed: Annotated[int | None, Field(ge=0, lt=2**63)] = None
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


class Message(Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_joined_text)]

    def for_template(self) -> dict[str, str]:
        return {"role": "system" if self.role == "developer" else self.role, "content": self.content}


class ChatRequest(GenerationRequest):
    """The body of /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Count = None
