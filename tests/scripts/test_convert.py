"""`folio convert` as a user meets it."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from foliogpt.modeling import FolioForCausalLM
from foliogpt.scripts.cli import main

CONFIG = GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=0)


def test_a_checkpoint_is_converted_and_the_differences_are_shown(tmp_path, capsys):
    native = GPT2LMHeadModel(CONFIG).eval()
    native.save_pretrained(tmp_path / "native")
    assert main(["convert", str(tmp_path / "native"), str(tmp_path / "deep" / "er" / "ours"), "--to", "folio"]) == 0
    out = capsys.readouterr().out
    assert "(gpt2, 30,688 parameters, float32)" in out
    assert "Largest difference of a logit in float32:" in out
    assert "no tokenizer" in out
    ids = torch.randint(99, (1, 30))
    ours = FolioForCausalLM.from_pretrained(tmp_path / "deep" / "er" / "ours")
    torch.testing.assert_close(ours(ids).logits, native(ids).logits, atol=1e-4, rtol=0)


def test_mistakes_end_in_one_line(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for argv, message in {
        ("a", "b"): "--to",
        ("a", "--to", "folio"): "DST",
        ("a", "b", "c", "--to", "folio"): "There is no option 'c'",
        (str(tmp_path / "empty"), str(tmp_path / "x"), "--to", "gpt2"): "has no config.json",
        (str(tmp_path / "empty"), str(tmp_path / "empty"), "--to", "gpt2"): "already there",
    }.items():
        assert main(["convert", *argv]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("folio convert: ")
        assert message in line
