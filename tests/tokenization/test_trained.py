"""The tokenizer of checkpoints: any text comes back, chats have one form, plain AutoTokenizer opens it."""

import json
import random
import re
import subprocess
import sys

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.hf_api import RepoUrl
from transformers import AutoTokenizer, GenerationConfig, GPT2Tokenizer

from foliogpt.modeling import FolioForCausalLM, preset_config
from foliogpt.tokenization import BPETokenizer, chat_tokenizer, encode_chat, train_char_tokenizer, train_tokenizer
from foliogpt.tokenization.tokenizer_json import LONGEST_RUN, cut_long_runs
from foliogpt.tokenization.trained import SPECIAL_TOKENS

TEXTS = [f"the {animal} sat on the {thing}, and the {thing} was {color}." for animal in ("cat", "dog", "owl")
         for thing in ("mat", "log", "roof") for color in ("red", "blue")]  # fmt: skip

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


def test_train_tokenizer_rejects_a_vocabulary_without_room_for_the_bytes():
    with pytest.raises(ValueError, match=str(256 + len(SPECIAL_TOKENS))):
        train_tokenizer(TEXTS, 100, show_progress=False)


def test_train_tokenizer_rejects_a_large_vocabulary_with_the_largest_possible():
    with pytest.raises(ValueError, match=r"only \d+ tokens") as error:
        train_tokenizer(TEXTS, 5000, show_progress=False)
    possible = int(re.search(r"only (\d+) tokens", str(error.value))[1])
    assert len(train_tokenizer(TEXTS, possible, show_progress=False)) == possible


@pytest.mark.parametrize(
    "train", [lambda texts: train_tokenizer(texts, 261, show_progress=False), train_char_tokenizer]
)
def test_training_rejects_invalid_unicode_with_its_position(train):
    with pytest.raises(ValueError, match="lone surrogate at position 2"):
        train(["fine", "ab\ud800"])


@pytest.mark.parametrize("run", ["".join(random.Random(0).choices("abc", k=30_000)), " " * 30_000, "\r\n" * 9000])
def test_long_runs_are_cut_for_training(run):
    text = f"the cat {run} the cat"
    parts = list(cut_long_runs(text))
    assert "".join(parts) == text
    assert all(len(word) <= LONGEST_RUN for part in parts for word in re.findall(r"\S+|\s+", part))
    ours = BPETokenizer.train([text], 262, special_tokens=SPECIAL_TOKENS)
    assert ours.to_dict()["model"]["vocab"] == train_tokenizer([text], 262, show_progress=False).get_vocab()


def test_other_texts_are_not_cut_for_training():
    for text in ("", "the cat " * 5000, "x" * (LONGEST_RUN - 1), "\n    indented" * 3000):
        assert list(cut_long_runs(text)) == [text]


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


def test_known_characters_come_back_and_others_become_unknown():
    tokenizer = train_char_tokenizer(["abc \n", "é"])
    assert tokenizer.decode(tokenizer.encode("cab\n é  a")) == "cab\n é  a"
    assert len(tokenizer.encode("cab")) == 3
    assert tokenizer.encode("z") == [tokenizer.unk_token_id]


# What OpenAI's clients send


def rendered(tokenizer, *messages: dict, **options) -> str:
    return tokenizer.apply_chat_template(list(messages), tokenize=False, **options)


def test_arguments_in_a_string_of_json_read_as_those_in_a_dict(tokenizer):
    def call(arguments) -> dict:
        function = {"name": "find", "arguments": arguments}
        return {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": function}]}

    text = rendered(tokenizer, call('{"who": "dog"}'))
    assert text == rendered(tokenizer, call({"who": "dog"}))
    assert '<tool_call>{"name": "find", "arguments": {"who": "dog"}}</tool_call><|im_end|>' in text


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_parts_of_text_are_joined_and_no_content_is_empty(tokenizer, role):
    parts = [{"type": "text", "text": "On the "}, {"type": "text", "text": "mat."}]
    joined = rendered(tokenizer, CHAT[1], {"role": role, "content": parts})
    assert joined == rendered(tokenizer, CHAT[1], {"role": role, "content": "On the mat."})
    empty = rendered(tokenizer, CHAT[1], {"role": role, "content": None})
    assert empty == rendered(tokenizer, CHAT[1], {"role": role, "content": ""})


def test_a_message_part_that_is_not_text_is_rejected(tokenizer):
    picture = {"type": "image_url", "image_url": {"url": "http://localhost/cat.png"}}
    with pytest.raises(ValueError, match="rejects these messages: a message has a part of type image_url"):
        encode_chat(tokenizer, [{"role": "user", "content": [{"type": "text", "text": "What?"}, picture]}])


# Chat models


def test_the_tokenizer_of_a_chat_model_ends_where_the_turn_does(tokenizer, tmp_path):
    chat, generation = chat_tokenizer(tokenizer)
    assert tokenizer.eos_token == "<|endoftext|>", "the base tokenizer is left as it was"
    assert generation == {"eos_token_id": [3, 0], "pad_token_id": 1, "bos_token_id": 0}
    assert GenerationConfig(**generation).eos_token_id == [3, 0]
    chat.save_pretrained(tmp_path)
    for each in (chat, AutoTokenizer.from_pretrained(tmp_path)):
        assert (each.eos_token, each.bos_token, each.pad_token) == ("<|im_end|>", "<|endoftext|>", "<|pad|>")
        assert each.get_vocab() == tokenizer.get_vocab()
        assert each.chat_template == tokenizer.chat_template
        assert each.padding_side == "left"
        assert encode_chat(each, CHAT) == encode_chat(tokenizer, CHAT)


def test_chat_tokenizer_appends_missing_tokens_to_another_tokenizer():
    vocab = {token: id for id, token in enumerate(["<|endoftext|>", *map(chr, range(33, 127)), "Ġ", "Ċ"])}
    other = GPT2Tokenizer(vocab=vocab, merges=[])
    chat, generation = chat_tokenizer(other)
    assert len(chat) == len(other) + 2
    assert generation == {"eos_token_id": [98, 0], "pad_token_id": 0, "bos_token_id": 0}
    assert chat.decode(encode_chat(chat, CHAT[:2])["input_ids"]) == rendered(chat, *CHAT[:2])


def test_chat_tokenizer_keeps_another_chat_template_and_end_of_turn(tokenizer):
    other = train_tokenizer(TEXTS, 290, show_progress=False)
    other.chat_template = "{% for message in messages %}{{ message['content'] + eos_token }}{% endfor %}"
    chat, generation = chat_tokenizer(other)
    assert chat.chat_template == other.chat_template
    assert (chat.eos_token, generation["eos_token_id"]) == ("<|endoftext|>", [0])


# The way to the Hub and back


def test_push_uploads_the_complete_tokenizer_without_code(tokenizer, monkeypatch, tmp_path):
    def no_card(*args, **kwargs):
        raise EntryNotFoundError("there is no card yet")

    def commit(self, repo_id, operations, **kwargs):
        for operation in operations:
            with operation.as_file() as file:
                (tmp_path / operation.path_in_repo).write_bytes(file.read())

    monkeypatch.setattr(ModelCard, "load", no_card)
    monkeypatch.setattr(HfApi, "create_repo", lambda *args, **kwargs: RepoUrl("https://huggingface.co/me/mine"))
    monkeypatch.setattr(HfApi, "create_commit", commit)
    tokenizer.push_to_hub("me/mine")
    names = {"README.md", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json"}
    assert {file.name for file in tmp_path.iterdir()} == names
    pulled = AutoTokenizer.from_pretrained(tmp_path)
    assert encode_chat(pulled, CHAT) == encode_chat(tokenizer, CHAT)


def test_tokens_can_be_added_and_a_model_resized_to_them(tmp_path):
    tokenizer = train_tokenizer(TEXTS, 290, show_progress=False)
    model = FolioForCausalLM(preset_config("folio", "nano", vocab_size=len(tokenizer))).eval()
    before = model(torch.tensor([tokenizer.encode(TEXTS[0])])).logits
    tokenizer.add_tokens(["zebra"])
    tokenizer.add_special_tokens({"extra_special_tokens": [*SPECIAL_TOKENS[2:], "<|tool|>"]})
    model.resize_token_embeddings(len(tokenizer))
    tokenizer.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    again = FolioForCausalLM.from_pretrained(tmp_path).eval()
    assert len(loaded) == again.config.vocab_size == 292
    assert loaded.encode("zebra<|tool|>") == [290, 291]
    assert loaded.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])
    after = again(torch.tensor([loaded.encode(TEXTS[0])])).logits
    assert after.shape[-1] == 292
    assert torch.equal(after[..., :290], before)


TRAIN_ON_A_STREAM = """
import resource, sys
from foliogpt.tokenization import train_tokenizer

def texts(documents):
    for number in range(documents):
        yield "the cat sat on the mat, and the owl was blue. " * 200 + str(number)

train_tokenizer(texts(200), 262, show_progress=False)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
train_tokenizer(texts(3000), 262, show_progress=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory in KiB")
def test_a_corpus_is_trained_on_as_a_stream():
    """The texts are 27 MB together; the library reads 256 of them at a time."""
    done = subprocess.run([sys.executable, "-c", TRAIN_ON_A_STREAM], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 10_000
