"""A checkpoint that a process without foliogpt would get wrong text from is refused."""

import pytest
import torch

from foliogpt import modeling
from foliogpt.checkpoints.publishing import prepare
from foliogpt.checkpoints.reload import logits_of_stranger
from foliogpt.modeling import FolioForCausalLM, preset_config
from foliogpt.scripts.cli import main
from foliogpt.tokenization import train_tokenizer

TAKES = "return forward(self, *args, **kwargs)"


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["One two three, the cat is free. " * 30], 270, show_progress=False)
    folder = tmp_path / "checkpoint"
    config = preset_config("folio", "nano", vocab_size=len(tokenizer), num_hidden_layers=2)
    FolioForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def swallow_cache(folder) -> None:
    """Let the code in the checkpoint do what ours did with transformers 5.24."""
    file = folder / "forward_arguments.py"
    code = file.read_text()
    assert code.count(TAKES) == 1
    file.write_text(code.replace(TAKES, f"kwargs.pop('cache', None)\n        {TAKES}"))


def test_reload_and_push_refuse_code_that_swallows_the_cache(checkpoint):
    ids = torch.tensor([[5, 6, 7]])
    assert logits_of_stranger(checkpoint, ids).shape == (1, 3, FolioForCausalLM.from_pretrained(checkpoint).vocab_size)
    (checkpoint / "README.md").write_text("---\nlicense: apache-2.0\n---\n\n# A model\n")
    swallow_cache(checkpoint)
    with pytest.raises(RuntimeError, match=r"without foliogpt: .*CacheMismatchError: With transformers \d"):
        logits_of_stranger(checkpoint, ids)
    problems = prepare(checkpoint, "somebody/model", license="apache-2.0", trust_remote_code=True).problems
    (problem,) = problems
    assert "CacheMismatchError: With transformers" in problem


def test_serve_refuses_to_start_when_the_cache_is_swallowed(checkpoint, monkeypatch, capsys):
    forward = modeling.FolioModel.forward

    def swallow(self, *args, cache=None, past_key_values=None, **kwargs):
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(modeling.FolioModel, "forward", swallow)
    assert main(["serve", "--model", str(checkpoint), "--port", "0"]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("folio serve: With transformers ")
