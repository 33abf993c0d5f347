"""The tokenizer that checkpoints carry: any text comes back, chats have one form, plain AutoTokenizer opens it."""

import json

import pytest
from transformers import AutoTokenizer

from foliogpt.tokenization import train_char_tokenizer, train_tokenizer
from foliogpt.tokenization.trained import SMALLEST_VOCABULARY, SPECIAL_TOKENS

TEXTS = [f"the {animal} sat on the {thing}, and the {thing} was {colour}." for animal in ("cat", "dog", "owl")
         for thing in ("mat", "log", "roof") for colour in ("red", "blue")]  # fmt: skip

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where is the cat?"},
    {"role": "assistant", "content": "On the mat."},
    {"role": "user", "content": "And the dog?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "find", "arguments": {"who": "dog"}}}],
    },
    {"role": "tool", "content": "log"},
    {"role": "assistant", "content": "On the log."},
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 290, show_progress=False)


@pytest.fixture(scope="module")
def saved(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "text", ["the cat", " two  spaces\n\n\ttabs\r\n", "héllo wörld", "漢字 🧑‍🚀 नमस्ते مرحبا", "\x00\x01", "don't  "]
)
def test_any_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_plain_auto_tokenizer_opens_it_and_gives_the_same_ids(tokenizer, saved):
    loaded = AutoTokenizer.from_pretrained(saved)
    assert loaded.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])
    assert (loaded.eos_token, loaded.bos_token, loaded.pad_token) == ("<|endoftext|>", "<|endoftext|>", "<|pad|>")
    assert loaded.pad_token_id != loaded.eos_token_id
    assert loaded.padding_side == "left"
    assert loaded.chat_template == tokenizer.chat_template
    assert "auto_map" not in json.loads((saved / "tokenizer_config.json").read_text())
    assert not list(saved.glob("*.py"))


def test_special_tokens_are_the_first_ids(tokenizer):
    assert tokenizer.convert_tokens_to_ids(SPECIAL_TOKENS) == [0, 1, 2, 3]


def test_a_vocabulary_without_room_for_the_bytes_is_refused():
    with pytest.raises(ValueError, match=str(SMALLEST_VOCABULARY)):
        train_tokenizer(TEXTS, 100, show_progress=False)


def test_a_vocabulary_that_the_text_cannot_fill_is_refused_with_what_it_can():
    with pytest.raises(ValueError, match=r"at most (\d+)") as error:
        train_tokenizer(TEXTS, 5000, show_progress=False)
    possible = int(str(error.value).split("at most ")[1].split(",")[0])
    assert len(train_tokenizer(TEXTS, possible, show_progress=False)) == possible


def test_a_chat_has_the_form_of_chatml(tokenizer):
    text = tokenizer.apply_chat_template(CHAT[:2], tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWhere is the cat?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_assistants_words_and_ends_of_turn_are_marked_and_nothing_else(tokenizer):
    encoded = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    marked = [i for i, mark in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if mark]
    assert tokenizer.decode(marked) == (
        "On the mat.<|im_end|>"
        '\n<tool_call>{"name": "find", "arguments": {"who": "dog"}}</tool_call><|im_end|>'
        "On the log.<|im_end|>"
    )


def test_tools_are_described_once_before_the_chat(tokenizer):
    tool = {"type": "function", "function": {"name": "find", "description": "Find an animal."}}
    text = tokenizer.apply_chat_template(CHAT, tools=[tool], tokenize=False)
    assert text.startswith("<|im_start|>system\nBe brief.\n\n")
    assert text.count('"description": "Find an animal."') == 1
    assert text.count("<|im_start|>system") == 1


def test_characters_come_back_and_strangers_become_unknown():
    tokenizer = train_char_tokenizer(["abc \n", "é"])
    assert tokenizer.decode(tokenizer.encode("cab\n é  a")) == "cab\n é  a"
    assert len(tokenizer.encode("cab")) == 3
    assert tokenizer.encode("z") == [tokenizer.unk_token_id]
