"""An adapter from training to the Hub: saved, switched, merged, and loaded where this package is not."""

import json
import os
import shutil
import signal
import subprocess
import time

import forks
import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from foliogpt.checkpoints.clean_process import logits_in_clean_process
from foliogpt.checkpoints.loading import load_model
from foliogpt.checkpoints.publishing import prepare
from foliogpt.evaluation import evaluate
from foliogpt.evaluation.arguments import EvaluationArguments
from foliogpt.evaluation.tasks import load_rows
from foliogpt.jobs.saving import last_checkpoint
from foliogpt.modeling import FolioForCausalLM, preset_config
from foliogpt.scripts.cli import main
from foliogpt.tokenization import train_tokenizer
from foliogpt.training.finetuning.arguments import RATES
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


@pytest.mark.usefixtures("forked_strangers")
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


def test_merge_raises_a_one_line_error_when_weights_cannot_hold_the_result(place, tmp_path):
    with pytest.raises(FileNotFoundError, match="no adapter's directory"):
        merge(str(place / "base"), tmp_path / "merged")
    with pytest.raises(FileExistsError, match="give another"):
        merge(str(place / "a"), place / "base")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    peft.get_peft_model(load_model(str(place / "base"))[0], config).save_pretrained(tmp_path / "prompt")
    with pytest.raises(ValueError, match="PROMPT_TUNING"):
        merge(str(tmp_path / "prompt"), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("task", ["sft", "lm", "dpo"])
def test_embeddings_with_an_adapter_are_what_was_trained_in_every_road(place, tmp_path, task, tied):
    base = shutil.copytree(place / "base", tmp_path / "base")
    if not tied:
        model = FolioForCausalLM.from_pretrained(base, tie_word_embeddings=False)
        model.lm_head.weight.data = torch.randn_like(model.lm_head.weight) / 10
        model.save_pretrained(base)
    data = tmp_path / "data.jsonl"
    row = {
        "sft": lambda n: {"prompt": f"one {n}", "completion": "two"},
        "lm": lambda n: {"text": f"one {n} two " * 9},
        "dpo": lambda n: {"prompt": f"one {n}", "chosen": "two", "rejected": "three"},
    }[task]
    data.write_text("".join(json.dumps(row(n)) + "\n" for n in range(20)))
    argv = ["finetune", task, "--model", str(base), "--data", str(data), "--output_dir", str(tmp_path / "adapter")]
    more = ["--max_steps", "3", "--learning_rate", "0.05", "--eval_strategy", "no"]
    assert main([*argv, *more, "--lora_target_modules", "q_proj", "embed_tokens"]) == 0
    trained, _ = load_model(str(tmp_path / "adapter"))
    unmerged = peft.AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "adapter"))
    if task == "sft":  # two new tokens, told apart by the head though their embeddings began alike
        assert unmerged.active_peft_config.trainable_token_indices.keys() == {"lm_head"}
        assert not torch.equal(*trained.get_output_embeddings().weight[-2:])
    torch.testing.assert_close(logits(trained), logits(unmerged), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(logits(trained), logits(FolioForCausalLM.from_pretrained(base))[..., :270], atol=1e-2)
    merge(str(tmp_path / "adapter"), tmp_path / "merged")
    torch.testing.assert_close(logits(load_model(str(tmp_path / "merged"))[0]), logits(unmerged), atol=1e-4, rtol=1e-4)
    if task == "lm":
        losses = [
            evaluate(EvaluationArguments(str(tmp_path / name), str(data)))["figures"]["loss"]["value"]
            for name in ("adapter", "merged")
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("task", ["sft", "lm"])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--lora_target_modules", "q_proj", "lm_head"], "has lm_head, which {task} cannot adapt: choose among"),
        (
            ["--lora_target_modules", "q_proj", "nope"],
            "has nope, which {task} cannot adapt: choose among down_proj",
        ),
        (["--lora_target_modules", "mlp"], "has mlp, which {task} cannot adapt"),
        (["--lora_target_modules", "q_proj", "--method", "ia3"], "leave it out with --method ia3"),
    ],
)
def test_targets_that_would_not_be_trained_give_a_one_line_error(place, tmp_path, capsys, task, options, says):
    argv = [*command(place, "a"), *options]
    argv[1], argv[argv.index("--output_dir") + 1] = task, str(tmp_path / "adapter")
    (tmp_path / "text.jsonl").write_text('{"text": "one two three"}\n' * 40)
    if task == "lm":
        argv[argv.index("--data") + 1] = str(tmp_path / "text.jsonl")
    assert main([*argv, "--max_steps", "1"]) == 2
    assert says.format(task=task) in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "adapter" / "adapter_config.json").exists()


@pytest.mark.parametrize("method", sorted(RATES.keys() - {"full"}))
def test_peft_opens_an_adapter_by_itself(place, tmp_path, method):
    argv = [*command(place, "a"), "--max_steps", "2", "--method", method]
    argv[argv.index("--output_dir") + 1] = str(tmp_path / "adapter")
    assert main(argv) == 0
    found = peft.AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(found), logits(load_model(str(tmp_path / "adapter"))[0]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", ["lora", "vera", "oft"])
@pytest.mark.parametrize(
    ("task", "auto_class", "row"),
    [
        (
            "classify",
            peft.AutoPeftModelForSequenceClassification,
            lambda n: {"text": f"one {n}", "label": "abc"[n % 3]},
        ),
        ("tag", peft.AutoPeftModelForTokenClassification, lambda n: {"tokens": ["one", str(n)], "tags": ["A", "B"]}),
    ],
)
def test_peft_opens_an_adapter_with_a_head_by_itself(place, tmp_path, task, auto_class, row, method):
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row(n)) + "\n" for n in range(30)))
    argv = ["finetune", task, "--model", str(place / "base"), "--data", str(tmp_path / "data.jsonl")]
    assert main([*argv, "--output_dir", str(tmp_path / "adapter"), "--max_steps", "2", "--method", method]) == 0
    model, _ = load_model(str(tmp_path / "adapter"), task)
    found = auto_class.from_pretrained(str(tmp_path / "adapter"), num_labels=model.config.num_labels)
    torch.testing.assert_close(logits(found), logits(model), atol=1e-4, rtol=1e-4)


def test_the_new_pooler_of_an_encoder_is_saved_with_its_adapter(place, tmp_path):
    size = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 48}
    BertForMaskedLM(BertConfig(vocab_size=270, **size)).save_pretrained(tmp_path / "bert")  # it has no pooler
    AutoTokenizer.from_pretrained(place / "base").save_pretrained(tmp_path / "bert")
    (tmp_path / "data.jsonl").write_text("".join(f'{{"text": "one {n}", "label": {n % 2}}}\n' for n in range(30)))
    argv = ["finetune", "classify", "--model", str(tmp_path / "bert"), "--data", str(tmp_path / "data.jsonl")]
    assert main([*argv, "--max_steps", "1", "--max_length", "16", "--output_dir", str(tmp_path / "adapter")]) == 0
    found = [logits(load_model(str(tmp_path / "adapter"), "classify")[0]) for _ in range(2)]
    torch.testing.assert_close(*found)


def test_a_method_without_a_layer_to_adapt_gives_a_one_line_error(place, tmp_path, capsys):
    GPT2LMHeadModel(GPT2Config(vocab_size=270, n_embd=32, n_layer=1, n_head=2)).save_pretrained(tmp_path / "gpt2")
    AutoTokenizer.from_pretrained(place / "base").save_pretrained(tmp_path / "gpt2")
    argv = [*command(place, "a"), "--method", "oft"]
    argv[argv.index("--model") + 1], argv[argv.index("--output_dir") + 1] = (
        str(tmp_path / "gpt2"),
        str(tmp_path / "out"),
    )
    assert main(argv) == 2
    assert "oft cannot adapt gpt2 (Target module Conv1D" in capsys.readouterr().err.splitlines()[-1]


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
    done = forks.run([script, *names], stranger=True, env=environment)
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
    argv = forks.folio(*command(place, "a"))
    argv[argv.index("--output_dir") + 1] = str(place / "killed")
    run = forks.Popen([*argv, "--max_steps", "2000", "--save_steps", "3"], stderr=subprocess.DEVNULL)
    while last_checkpoint(place / "killed") is None if (place / "killed").exists() else run.poll() is None:
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    step = int(last_checkpoint(place / "killed").name.split("-")[1])
    done = forks.run([*argv, "--resume", "--max_steps", str(step + 3)])
    assert done.returncode == 0, done.stderr
    assert json.loads((place / "killed" / "report.json").read_text())["steps"] == step + 3
