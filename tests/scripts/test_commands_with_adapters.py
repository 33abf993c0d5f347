"""Every command that takes a model takes an adapter's directory."""

import io
import json

import peft
import pytest
import torch

from foliogpt.modeling import FolioForCausalLM, preset_config
from foliogpt.scripts.cli import main
from foliogpt.tokenization import train_tokenizer

WORDS = ["one", "two", "three", "four", "five", "six", "free", "tree"]
ROWS = {
    "sft": lambda a, b: {"messages": [{"role": "user", "content": a}, {"role": "assistant", "content": b}]},
    "classify": lambda a, b: {"text": f"{a} {b}", "label": "rhyme" if b.endswith("ree") else "other"},
    "qa": lambda a, b: {
        "question": "who", "context": f"{a} {b}", "answers": {"text": [b], "answer_start": [len(a) + 1]},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base, and an adapter of it for each task."""
    folder = tmp_path_factory.mktemp("place")
    tokenizer = train_tokenizer([f"{a} {b} who" for a in WORDS for b in WORDS], 290, show_progress=False)
    torch.manual_seed(0)
    config = preset_config(
        "folio", "nano", vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=128, residual_init="normal",
        pad_token_id=1, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    FolioForCausalLM(config).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    for task, row in ROWS.items():
        data = folder / f"{task}.jsonl"
        data.write_text("".join(json.dumps(row(a, b)) + "\n" for a in WORDS for b in WORDS if a != b))
        command = ["finetune", task, "--model", str(folder / "base"), "--data", str(data), "--max_steps", "20"]
        command += ["--learning_rate", "0.02"]
        assert main([*command, "--eval_strategy", "no", "--output_dir", str(folder / task)]) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "command"),
    [
        ("sft", ["chat", "--do_sample", "false", "--min_new_tokens", "5", "--max_new_tokens", "9"]),
        ("sft", ["summarize", "--text", "one two three", "--min_new_tokens", "5", "--max_new_tokens", "9"]),
        ("sft", ["generate", "--prompt", "one two", "--min_new_tokens", "5", "--max_new_tokens", "9"]),
        ("classify", ["classify", "--text", "one tree"]),
        ("qa", ["answer", "--question", "who", "--context", "one tree"]),
    ],
)
def test_an_adapter_and_its_merged_checkpoint_print_the_same(place, tmp_path, monkeypatch, capsys, task, command):
    assert main(["merge", str(place / task), str(tmp_path / "merged")]) == 0
    said = []
    for model in (place / task, tmp_path / "merged"):
        capsys.readouterr()
        monkeypatch.setattr("sys.stdin", io.StringIO("one two\n"))
        seed = ["--seed", "1"] if command[0] == "generate" else []
        assert main([command[0], "--model", str(model), *command[1:], *seed]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert said[0].strip()


PROMPTS = {
    "prompt": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL),
    "prefix": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL),
    "p-tuning": lambda: peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL),
}
CONTEXT, VIRTUAL = 96, 10


@pytest.fixture(scope="module", params=PROMPTS)
def prompted(request, tmp_path_factory):
    """A prompt adapter for a model with learned positions, which has no position after the last."""
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = train_tokenizer([f"{a} {b} who" for a in WORDS for b in WORDS], 290, show_progress=False)
    torch.manual_seed(0)
    config = preset_config(
        "gpt2", "nano", vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=CONTEXT, initializer_range=0.5, pad_token_id=1, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    FolioForCausalLM(config).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    model = FolioForCausalLM.from_pretrained(folder / "base")
    peft.get_peft_model(model, PROMPTS[request.param]()).save_pretrained(folder / "adapter")
    (folder / "text.txt").write_text("one two three four five six " * 40)
    chat = {"dialogue": "one two three " * 60, "summary": "one"}
    (folder / "summaries.json").write_text(json.dumps([chat, {"dialogue": "two", "summary": "two"}]))
    return folder


@pytest.mark.parametrize(
    "command",
    [
        ["chat", "--do_sample", "false"],
        ["generate", "--prompt", "one two " * 11],
        ["generate", "--prompt", "one two " * 11, "--num_beams", "2"],
        ["summarize", "--text", "one two " * 200, "--truncate"],
        ["evaluate", "--data", "text.txt"],
        ["evaluate", "--data", "text.txt", "--task", "samples", "--max_new_tokens", "60"],
        ["evaluate", "--data", "summaries.json", "--max_new_tokens", "20"],
    ],
    ids=lambda command: " ".join(word for word in command if len(word) < 20),
)
def test_virtual_tokens_reduce_the_context_of_the_text_and_the_answer(prompted, monkeypatch, capsys, command):
    monkeypatch.setattr("sys.stdin", io.StringIO("one two three four\n" * 8))
    files = {name: str(prompted / name) for name in ("text.txt", "summaries.json")}
    less_likely_to_end = ["--suppress_tokens", "[0, 1, 2, 3, 4]"] if command[0] in ("chat", "generate") else []
    argv = [command[0], "--model", str(prompted / "adapter"), *(files.get(word, word) for word in command[1:])]
    assert main([*argv, *less_likely_to_end]) == 0, capsys.readouterr().err


def test_errors_name_the_limits_of_the_adapter(prompted, capsys):
    model = ["--model", str(prompted / "adapter")]
    most = CONTEXT - VIRTUAL
    assert main(["generate", *model, "--prompt", "one two " * 70]) == 2
    assert f"the model's context {most}: shorten the prompt" in capsys.readouterr().err
    assert main(["chat", *model, "--max_new_tokens", str(most)]) == 2
    assert f"use max_new_tokens {most - 1} or less" in capsys.readouterr().err
    assert main(["evaluate", *model, "--data", str(prompted / "text.txt"), "--max_length", str(most + 1)]) == 2
    assert f"give 2 to {most}" in capsys.readouterr().err
