"""A checkpoint that gives wrong text in a process without foliogpt is rejected."""

import json
import re

import pytest
import torch

from foliogpt import modeling
from foliogpt.checkpoints.clean_process import load_in_clean_process, logits_in_clean_process
from foliogpt.checkpoints.publishing import prepare
from foliogpt.modeling import FolioForCausalLM, FolioForSequenceClassification, preset_config
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


@pytest.mark.slow
@pytest.mark.usefixtures("forked_strangers")
def test_reload_and_push_reject_code_that_drops_the_cache(checkpoint):
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        expected = FolioForCausalLM.from_pretrained(checkpoint)(ids).logits
    assert torch.equal(logits_in_clean_process(checkpoint, ids), expected)
    (checkpoint / "README.md").write_text("---\nlicense: apache-2.0\n---\n\n# A model\n")
    swallow_cache(checkpoint)
    with pytest.raises(RuntimeError, match=r"without foliogpt: .*CacheMismatchError: With transformers \d"):
        logits_in_clean_process(checkpoint, ids)
    problems = prepare(checkpoint, "somebody/model", license="apache-2.0", trust_remote_code=True).problems
    (problem,) = problems
    assert "CacheMismatchError: With transformers" in problem


def test_load_in_clean_process_loads_and_names_a_head(checkpoint):
    """A file of the checkpoint that is called like an installed module is not imported in its place."""
    config = preset_config("folio", "nano", vocab_size=270, num_hidden_layers=2, num_labels=3)
    FolioForSequenceClassification(config).save_pretrained(checkpoint)
    (checkpoint / "torch.py").write_text("raise SystemExit('this is no module')")
    facts, outputs = load_in_clean_process(checkpoint, trust_remote_code=True)
    assert re.fullmatch(
        r"FolioForSequenceClassification of [\d,]+ parameters loads without foliogpt, and so does its tokenizer of 270 "
        "tokens",
        facts,
    )
    assert outputs == {}
    with pytest.raises(RuntimeError, match=r"^does not work in a process without foliogpt: .*trust_remote_code"):
        load_in_clean_process(checkpoint)


@pytest.mark.usefixtures("forked_strangers")
def test_logits_in_clean_process_names_weights_of_another_config(checkpoint):
    preset_config("folio", "nano", vocab_size=270, num_hidden_layers=3).save_pretrained(checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    config["architectures"] = ["FolioForCausalLM"]
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(RuntimeError) as raised:
        logits_in_clean_process(checkpoint, torch.tensor([[5, 6, 7]]))
    assert str(raised.value).startswith(
        f"{checkpoint} does not work in a process without foliogpt: the weights are not those of the config: "
    )


def test_serve_does_not_start_when_the_cache_is_dropped(checkpoint, monkeypatch, capsys):
    forward = modeling.FolioModel.forward

    def swallow(self, *args, cache=None, past_key_values=None, **kwargs):
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(modeling.FolioModel, "forward", swallow)
    assert main(["serve", "--model", str(checkpoint), "--port", "0"]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("folio serve: With transformers ")
