"""`--assistant_model` and `--prompt_lookup_num_tokens` change how fast a text comes, and not the text."""

import pytest
import torch

from foliogpt.modeling import FolioForCausalLM
from foliogpt.scripts.cli import main
from foliogpt.tokenization import train_tokenizer

DRAFTS = {"lookup": ("--prompt_lookup_num_tokens", "3"), "assistant": ("--assistant_model", "small")}


@pytest.fixture
def models(tiny, tmp_path, monkeypatch):
    """Two models in the working directory, and one with another tokenizer."""
    monkeypatch.chdir(tmp_path)
    for seed, (name, text) in enumerate({"large": "the cat", "small": "the cat", "other": "xx yy zz"}.items()):
        tokenizer = train_tokenizer([f"{text} is free"] * 20, vocab_size=264, show_progress=False)
        torch.manual_seed(seed)
        FolioForCausalLM(tiny(vocab_size=264, max_position_embeddings=128, initializer_range=0.3)).save_pretrained(name)
        tokenizer.save_pretrained(name)


@pytest.mark.parametrize("draft", DRAFTS.values(), ids=DRAFTS)
def test_drafts_change_no_text(models, capsys, monkeypatch, draft):
    def said(*argv: str) -> str:
        assert main([*argv, "--max_new_tokens", "30", "--min_new_tokens", "30", "--do_sample", "false"]) == 0
        return capsys.readouterr().out

    generate = ("generate", "--model", "large", "--prompt", "the cat the cat")
    assert said(*generate, *draft) == said(*generate)
    texts = []
    for options in ((), draft):
        lines = iter(["the cat the cat", "is"])
        monkeypatch.setattr("builtins.input", lambda _, lines=lines: next(lines, None) or end())
        texts.append(said("chat", "--model", "large", *options))
    assert texts[0] == texts[1] != "\n\n"


def end() -> str:
    raise EOFError


def test_an_assistant_with_another_tokenizer_is_refused(models, capsys):
    for command in (("generate", "--prompt", "the"), ("chat",), ("serve", "--port", "0")):
        assert main([*command, "--model", "large", "--assistant_model", "other"]) == 2
        assert "--assistant_model other has another vocabulary" in capsys.readouterr().err


def test_a_server_drafts_no_fewer_than_one_token(models, capsys):
    assert main(["serve", "--model", "large", "--port", "0", "--prompt_lookup_num_tokens", "0"]) == 2
    assert "--prompt_lookup_num_tokens is 0: give 1 or more." in capsys.readouterr().err
