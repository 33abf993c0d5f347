"""An adapter from training to the Hub: saved, switched, merged, and loaded where this package is not."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import peft
import pytest
import torch
from safetensors.torch import load_file

from foliogpt.checkpoints.clean_process import logits_in_clean_process
from foliogpt.checkpoints.loading import load_model
from foliogpt.checkpoints.publishing import prepare
from foliogpt.evaluation.arguments import EvaluationArguments
from foliogpt.evaluation.tasks import load_rows
from foliogpt.jobs.saving import last_checkpoint
from foliogpt.modeling import FolioForCausalLM, preset_config
from foliogpt.scripts.cli import main
from foliogpt.tokenization import train_tokenizer
from foliogpt.training.finetuning.merging import merge

IDS = torch.arange(5, 17)[None]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base, and two adapters of it, made by the command."""
    folder = tmp_path_factory.mktemp("place")
    tokenizer = train_tokenizer(["one two three says who"] * 9, 270, show_progress=False)
    torch.manual_seed(0)
    config = preset_config(
        "folio", "nano", vocab_size=270, hidden_size=32, num_hidden_layers=2, max_position_embeddings=64,
        residual_init="normal", pad_token_id=1, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    FolioForCausalLM(config).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    for name, said in (("a", "two"), ("b", "three")):
        rows = [{"prompt": f"one {i}", "completion": said} for i in range(40)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert main([*command(folder, name), "--max_steps", "4"]) == 0
    return folder


def command(folder, name) -> list[str]:
    files = ["--model", str(folder / "base"), "--data", str(folder / f"{name}.jsonl")]
    return ["finetune", "sft", *files, "--output_dir", str(folder / name), "--learning_rate", "0.05"]


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def unmerged(place, name):
    base = FolioForCausalLM.from_pretrained(place / "base")
    return logits(peft.PeftModel.from_pretrained(base, str(place / name)))


def test_merged_is_unmerged(place, tmp_path):
    expected = unmerged(place, "a")
    assert not torch.allclose(expected, logits(FolioForCausalLM.from_pretrained(place / "base")), atol=1e-2)
    torch.testing.assert_close(logits(load_model(str(place / "a"))[0]), expected, atol=1e-5, rtol=0)
    assert main(["merge", str(place / "a"), str(tmp_path / "merged")]) == 0
    model, tokenizer = load_model(str(tmp_path / "merged"))
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=0)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tokenizer.eos_token == "<|im_end|>"
    card = (tmp_path / "merged" / "README.md").read_text()
    assert json.dumps(str(tmp_path / "merged")) in card
    assert "PeftModel" not in card
    torch.testing.assert_close(logits_in_clean_process(tmp_path / "merged", IDS), expected, atol=1e-5, rtol=0)


def test_a_merged_checkpoint_knows_what_it_learnt_from_and_is_no_run_to_resume(place, tmp_path, capsys):
    merged = str(tmp_path / "merged")
    merge(str(place / "a"), merged)
    rows = load_rows(EvaluationArguments(merged, str(place / "a.jsonl")), "lm")
    assert (rows.split, len(rows.rows)) == (
        "validation",
        json.loads((place / "a/report.json").read_text())["val_examples"],
    )
    weights = load_file(tmp_path / "merged" / "model.safetensors")
    assert main(["finetune", "sft", "--output_dir", merged, "--resume"]) == 2
    assert "its model is ready to use" in capsys.readouterr().err
    torch.testing.assert_close(load_file(tmp_path / "merged" / "model.safetensors"), weights)


def test_what_cannot_be_merged_is_one_line(place, tmp_path):
    with pytest.raises(FileNotFoundError, match="no adapter's directory"):
        merge(str(place / "base"), tmp_path / "merged")
    with pytest.raises(FileExistsError, match="give another"):
        merge(str(place / "a"), place / "base")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    peft.get_peft_model(load_model(str(place / "base"))[0], config).save_pretrained(tmp_path / "prompt")
    with pytest.raises(ValueError, match="PROMPT_TUNING"):
        merge(str(tmp_path / "prompt"), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_several_adapters_are_switched_between(place):
    model = peft.PeftModel.from_pretrained(
        FolioForCausalLM.from_pretrained(place / "base"), str(place / "a"), adapter_name="a"
    )
    model.load_adapter(str(place / "b"), adapter_name="b")
    for name in ("b", "a"):
        model.set_adapter(name)
        torch.testing.assert_close(logits(model), unmerged(place, name))


def test_an_adapter_is_loaded_without_our_package(place, tmp_path):
    script = """
import sys
sys.modules["foliogpt"] = None
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
base, adapter, out = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(adapter)
assert "<|im_start|>assistant" in tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False,
                                                                 add_generation_prompt=True)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, trust_remote_code=True), adapter).eval()
with torch.no_grad():
    save_file({"logits": model(input_ids=torch.arange(5, 17)[None]).logits}, out)
"""
    names = [str(place / "base"), str(place / "a"), str(tmp_path / "out.safetensors")]
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run([sys.executable, "-c", script, *names], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(load_file(tmp_path / "out.safetensors")["logits"], unmerged(place, "a"))


def test_an_adapter_is_smaller_than_its_base_and_can_be_pushed(place, tmp_path):
    folder = shutil.copytree(place / "a", tmp_path / "a")
    sizes = [(place / name).stat().st_size for name in ("a/adapter_model.safetensors", "base/model.safetensors")]
    assert sizes[0] < sizes[1]  # though this base is tiny
    (problem,) = prepare(folder, "me/adapter", "mit").problems
    assert "no base model that others can load" in problem
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "me/gpt"}))
    publication = prepare(folder, "me/adapter", "mit")
    assert publication.problems == []
    assert {"adapter_model.safetensors", "base_model.json", "chat_template.jinja", "tokenizer.json"} <= set(
        publication.files
    )


@pytest.mark.slow
def test_a_killed_run_loses_the_steps_since_the_last_checkpoint_and_no_more(place):
    argv = [sys.executable, "-m", "foliogpt.scripts.cli", *command(place, "a")]
    argv[argv.index("--output_dir") + 1] = str(place / "killed")
    run = subprocess.Popen([*argv, "--max_steps", "2000", "--save_steps", "3"], stderr=subprocess.DEVNULL)
    while last_checkpoint(place / "killed") is None if (place / "killed").exists() else run.poll() is None:
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    step = int(last_checkpoint(place / "killed").name.split("-")[1])
    done = subprocess.run([*argv, "--resume", "--max_steps", str(step + 3)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((place / "killed" / "report.json").read_text())["steps"] == step + 3
