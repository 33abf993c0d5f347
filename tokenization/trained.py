"""The tokenizer of checkpoints: trained with the `tokenizers` library, loaded by plain `AutoTokenizer`."""

import copy
import os
import sys
from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..jobs.errors import first_line
from .tokenizer_json import check_filled, check_room, check_unicode, cut_long_runs

END_OF_TEXT, PAD, START_OF_TURN, END_OF_TURN = "<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = [END_OF_TEXT, PAD, START_OF_TURN, END_OF_TURN]

# ChatML. `generation` marks the assistant's text and its end of turn, for training on these alone; tools are described,
# called and answered as JSON. Contents and arguments may be as OpenAI's clients send them: a list of parts, and JSON in
# a string.
CHAT_TEMPLATE = """\
{%- macro text(content) %}
    {%- if content is string %}
        {{- content }}
    {%- else %}
        {%- for part in content or [] %}
            {%- if part['type'] != 'text' %}
                {{- raise_exception('a message has a part of type ' ~ part['type'] ~ ', but this model reads text') }}
            {%- endif %}
            {{- part['text'] }}
        {%- endfor %}
    {%- endif %}
{%- endmacro %}
{%- set system = text(messages[0]['content']) if messages and messages[0]['role'] == 'system' else '' %}
{%- if tools %}
    {{- '<|im_start|>system\\n' + (system + '\\n\\n' if system else '') }}
    {{- 'These functions can be called, each with <tool_call>{"name": ..., "arguments": ...}</tool_call>:' }}
    {%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- elif system %}
    {{- '<|im_start|>system\\n' + system + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message['role'] == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- generation %}
            {{- text(message['content']) }}
            {%- for call in message['tool_calls'] or [] %}
                {%- set function = call['function'] or call %}
                {%- set arguments = function['arguments'] %}
                {{- '\\n<tool_call>{"name": ' + (function['name'] | tojson) + ', "arguments": ' }}
                {{- (arguments if arguments is string else arguments | tojson) + '}</tool_call>' }}
            {%- endfor %}
            {{- '<|im_end|>' }}
        {%- endgeneration %}
        {{- '\\n' }}
    {%- elif message['role'] == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>' + text(message['content']) + '</tool_response><|im_end|>\\n' }}
    {%- elif not (loop.first and message['role'] == 'system') %}
        {{- '<|im_start|>' + message['role'] + '\\n' + text(message['content']) + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
# Parses the text that a model writes with the template.
RESPONSE_TEMPLATE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "tool_calls": {
            "open_pattern": r"\s*<tool_call>", "close": "</tool_call>", "repeats": True, "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"content": "text"},
    },
}  # fmt: skip


def train_tokenizer(
    texts: Iterable[str], vocab_size: int = 4096, show_progress: bool = True
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer (Sennrich et al., 2016, over bytes as GPT-2 does) on a stream of texts.

    Raises ValueError if `vocab_size` is too small, or too large for the texts, or these are not valid Unicode.
    """
    check_room(vocab_size, len(SPECIAL_TOKENS))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=show_progress and sys.stdout.isatty(),  # else it prints lines, and panics if stdout is closed
    )  # fmt: skip
    tokenizer.train_from_iterator((part for text in texts for part in cut_long_runs(text)), trainer)
    check_filled(tokenizer.get_vocab_size(), vocab_size)
    return as_pretrained(tokenizer)


def train_char_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Make a tokenizer with an id for each character in `texts`, as nanoGPT does; others become `<|unk|>`."""
    unknown = "<|unk|>"
    characters = set()
    for text in texts:
        check_unicode(text)
        characters.update(text)
    vocabulary = {token: i for i, token in enumerate([*SPECIAL_TOKENS, unknown, *sorted(characters)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return as_pretrained(tokenizer, unk_token=unknown)


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a directory or Hub name without its code; raises ValueError in one line."""
    try:
        return AutoTokenizer.from_pretrained(os.path.expanduser(source), trust_remote_code=False)
    except BaseException as error:  # any file can raise any error; a panic in Rust is no Exception
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        why = first_line(error)
        raise ValueError(f"{source} is not a tokenizer's directory or Hub name ({why}): check it.") from None


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the rows that embeddings need: the largest id + 1. `len` counts tokens, and ids may have gaps."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def chat_tokenizer(base: PreTrainedTokenizerFast) -> tuple[PreTrainedTokenizerFast, dict[str, int | list[int]]]:
    """Make the tokenizer of a chat model from that of a base model: generation stops at the end of a turn.

    A tokenizer with a chat template keeps it, and its end of turn. Another gets ours, and the special tokens that it
    lacks; then the model must be resized. Returns a copy whose `eos_token` is the end of turn, and the fields of the
    model's generation config that follow from it: both end tokens stop generation.
    """
    tokenizer = copy.deepcopy(base)
    ends = [tokenizer.eos_token]
    if not tokenizer.chat_template:
        tokenizer.chat_template = CHAT_TEMPLATE
        lacking = [token for token in (START_OF_TURN, END_OF_TURN) if token not in tokenizer.get_vocab()]
        tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in lacking])
    if tokenizer.chat_template == CHAT_TEMPLATE:
        tokenizer.eos_token = END_OF_TURN
    if tokenizer.pad_token is None:
        tokenizer.pad_token = base.eos_token or tokenizer.eos_token
    tokenizer.padding_side = "left"
    stops = [tokenizer.convert_tokens_to_ids(end) for end in dict.fromkeys([tokenizer.eos_token, *ends]) if end]
    generation = {"eos_token_id": stops, "pad_token_id": tokenizer.pad_token_id}
    if tokenizer.bos_token_id is not None:
        generation["bos_token_id"] = tokenizer.bos_token_id
    return tokenizer, generation


def as_pretrained(tokenizer: Tokenizer, **special) -> PreTrainedTokenizerFast:
    """Wrap a trained `tokenizers.Tokenizer` for transformers, with our special tokens and chat template."""
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=PAD,
        extra_special_tokens=[START_OF_TURN, END_OF_TURN], clean_up_tokenization_spaces=False,
        padding_side="left",  # a batch of prompts must end at the same place
        **special,
    )  # fmt: skip
    wrapped.chat_template, wrapped.response_template = CHAT_TEMPLATE, RESPONSE_TEMPLATE
    return wrapped
