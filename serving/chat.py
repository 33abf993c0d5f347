"""A chat of any length with a model of limited context: its oldest turns are dropped, each completely."""

from bisect import bisect_left
from collections.abc import Callable

from transformers import PreTrainedTokenizerBase

from .generator import Choice, TextGenerator, generation_config

DEFAULT_MAX_TOKENS = 1024  # of an answer without a limit, if the context has room


class TooLong(ValueError):
    """Raised if the system prompt and the last message do not fit into the model's context: shorten them."""


class Chat:
    """Chats with a model; ValueError if its tokenizer has no chat template.

    `encode_chat(tokenizer, messages, add_generation_prompt=...)` returns `input_ids` without an injected token.
    """

    def __init__(self, generator: TextGenerator, tokenizer: PreTrainedTokenizerBase, encode_chat: Callable):
        if not tokenizer.chat_template:
            raise ValueError(
                "This model has no chat template, so it was not made for chats: `folio generate` continues a text with "
                "it, and `folio finetune sft` makes a model that chats of it."
            )
        self.generator, self.tokenizer, self.encode_chat = generator, tokenizer, encode_chat
        self.end_of_turn = end_of_turn(tokenizer, encode_chat)

    def answer(self, messages: list[dict], seed: int | None = None, **options) -> tuple[Choice, int]:
        """Prepare an answer for `generator.stream`; also return the number of old messages that were dropped.

        The options are fields of transformers' `GenerationConfig`; those that are not given are the checkpoint's.
        Without `max_new_tokens`, a quarter of the context is kept for the answer, and it takes what is left.
        Raises TooLong; ValueError if the template refuses the messages, or an option cannot be.
        """
        context, wanted = self.generator.context_length, options.pop("max_new_tokens", None)
        if wanted is not None and (type(wanted) is not int or wanted < 1):
            raise ValueError(f"max_new_tokens is {wanted!r}: give a whole number from 1 on.")
        if context is not None and wanted is not None and wanted >= context:
            raise ValueError(f"The model's context is {context} tokens: use max_new_tokens {context - 1} or less.")
        ids, forgotten = self._fitted(messages, context, wanted)
        if max(ids) >= self.generator.model.config.get_text_config().vocab_size:
            raise ValueError("The chat template writes tokens that the model does not have: it was not made for chats.")
        left = min(DEFAULT_MAX_TOKENS, context - len(ids)) if context else DEFAULT_MAX_TOKENS
        stop = options.pop("stop_strings", None) or self.generator.stop_strings
        ends = [] if self.end_of_turn is None else [self.end_of_turn]
        config = generation_config(self.generator.model, wanted or left, ends, **options)
        config.validate()
        return Choice(ids, config, [stop] if isinstance(stop, str) else stop, seed), forgotten

    def _fitted(self, messages: list[dict], context: int | None, wanted: int | None) -> tuple[list[int], int]:
        """Return the ids of the system prompt and of the last turns that fit, and the number of dropped messages."""
        system = messages[:1] if messages and messages[0]["role"] == "system" else []
        said = messages[len(system) :]

        def encode(start: int) -> list[int]:
            return self.encode_chat(self.tokenizer, system + said[start:], add_generation_prompt=True)["input_ids"]

        ids = encode(0)
        most = len(ids) if context is None else context - (wanted or max(context // 4, 1))
        if len(ids) <= most:
            return ids, 0
        turns = [index for index, message in enumerate(said) if message["role"] == "user" and index > 0]
        turn = bisect_left(turns, True, key=lambda start: len(encode(start)) <= most)
        start = turns[min(turn, len(turns) - 1)] if turns else 0
        ids = encode(start)
        most = most if wanted else context - 1
        if len(ids) > most:
            has = f"The message, with the system prompt, has {len(ids)} tokens"
            raise TooLong(f"{has}, and there is room for {most}: shorten it.")
        return ids, start


def end_of_turn(tokenizer: PreTrainedTokenizerBase, encode_chat: Callable) -> int | None:
    """Find the token that ends a turn of the assistant: a model that was not trained on chats must stop there, too."""
    if not tokenizer.chat_template:
        return None
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    try:
        ids = encode_chat(tokenizer, messages)["input_ids"]
    except ValueError:  # this template has other ideas of a chat
        return None
    return next((id for id in reversed(ids) if id in tokenizer.all_special_ids), None)
