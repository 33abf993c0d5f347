"""`folio finetune` in two processes takes the steps of one, and either goes on with what the other has saved."""

import json
import os
import shutil
from pathlib import Path

import process_groups
import pytest
import torch
from safetensors.torch import load_file

from foliogpt.modeling import FolioForCausalLM, preset_config
from foliogpt.tokenization import train_tokenizer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo"),
]

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "free", "tree"]
PAIRS = [(a, b) for a in WORDS for b in WORDS if a != b]
ROWS = {
    "sft": lambda a, b: {"messages": [{"role": "user", "content": f"{a} {b}"}, {"role": "assistant", "content": b}]},
    "dpo": lambda a, b: {"prompt": f"{a} {b}", "chosen": b, "rejected": a},
    "classify": lambda a, b: {"text": f"{a} {b}", "label": "rhyme" if b.endswith("ree") else "other"},
    "tag": lambda a, b: {"tokens": [a, b, "says"], "tags": ["B-N", "I-N", "O"]},
    "qa": lambda a, b: {
        "question": "who", "context": f"{a} or {b}", "answers": {"text": [b], "answer_start": [len(a) + 4]},
    },
    "lm": lambda a, b: {"text": f"{a} {b} says. " * 9},
}  # fmt: skip
EVEN = 5  # steps until a pass over the data ends, with a batch of which the second process gets nothing

DRIVER = """
import json, sys
from accelerate.state import AcceleratorState
from foliogpt.data.arguments import DataArguments
from foliogpt.training.finetuning.arguments import MethodArguments
from foliogpt.training.finetuning.finetuning import finetune
from foliogpt.training.finetuning.trainers import arguments_of
from foliogpt.jobs.processes import exit_process, world_size
from foliogpt.jobs.report import Stages

for folder, task, changes in json.loads(sys.argv[1]):
    fields = dict(max_steps=8, bf16=False, save_steps=4, eval_steps=4, logging_steps=1, learning_rate=0.01)
    args = arguments_of(task)(output_dir=folder, **{**fields, **changes})
    finetune(DataArguments(task, task + ".jsonl"), MethodArguments("base"), args, stages=Stages(silent=True))
    AcceleratorState._reset_state()
if world_size() > 1:
    exit_process(0)
"""


def launch(folder: Path, processes: int, jobs: list) -> None:
    environment = {**os.environ, "HF_DATASETS_CACHE": str(folder / "cache")}
    process_groups.run([DRIVER, json.dumps(jobs)], processes, env=environment, cwd=folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    tokenizer = train_tokenizer([f"{a} {b} says who or" for a, b in PAIRS], 290, show_progress=False)
    torch.manual_seed(0)
    config = preset_config(
        "folio", "nano", vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, residual_init="normal",
        pad_token_id=1, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    FolioForCausalLM(config).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    for task, row in ROWS.items():
        (folder / f"{task}.jsonl").write_text("".join(json.dumps(row(a, b)) + "\n" for a, b in PAIRS))

    def of(task: str, share: int, **changes) -> dict:
        unpacked = {"packing": False} if task == "sft" else {}
        return {"per_device_train_batch_size": 16 // share, "per_device_eval_batch_size": 4, **unpacked, **changes}

    launch(folder, 1, [(f"{task}-one", task, of(task, 1)) for task in ROWS])
    launch(folder, 2, [(f"{task}-two", task, of(task, 2)) for task in ROWS])
    for source, other in (("one", "two"), ("two", "one")):
        shutil.copytree(folder / f"sft-{source}", folder / f"sft-{source}-{other}")
        shutil.rmtree(folder / f"sft-{source}-{other}" / "checkpoint-8")
        for left in ("adapter_model.safetensors", "trainer_state.json"):
            (folder / f"sft-{source}-{other}" / left).unlink()
    launch(folder, 2, [("sft-one-two", "sft", of("sft", 2, resume=True))])
    launch(folder, 1, [("sft-two-one", "sft", of("sft", 1, resume=True))])
    return folder


@pytest.mark.parametrize("name", [*(f"{task}-two" for task in ROWS), "sft-one-two", "sft-two-one"])
def test_the_loss_curve_and_the_weights_are_those_of_one_process(runs, name):
    task = name.partition("-")[0]
    histories = [
        json.loads((runs / run / "trainer_state.json").read_text())["log_history"] for run in (f"{task}-one", name)
    ]
    assert [entry["step"] for entry in histories[1]] == [entry["step"] for entry in histories[0]]
    # What TRL makes of preferences is a mean over each process's rows: they have to be equally many.
    even = [entry for entry in histories[0] if task != "dpo" or entry["step"] <= EVEN]
    for theirs, mine in zip(even, histories[1], strict=False):
        for key in {"loss", "learning_rate", "eval_loss", "eval_accuracy"} & theirs.keys():
            assert mine[key] == pytest.approx(theirs[key], abs=1e-4), (mine["step"], key)
    if task != "dpo":
        weights = load_file(runs / name / "adapter_model.safetensors")
        for key, weight in load_file(runs / f"{task}-one" / "adapter_model.safetensors").items():
            if not key.endswith("qa_outputs.bias"):  # adds the same to all places: what Adam moves it by is noise
                torch.testing.assert_close(weights[key], weight, atol=1e-4, rtol=0, msg=key)


def test_one_process_writes_and_the_report_says_how_many_there_were(runs):
    reports = [json.loads((runs / f"lm-{name}" / "report.json").read_text()) for name in ("one", "two")]
    assert [report["world_size"] for report in reports] == [1, 2]
    assert reports[1]["tokens"] == reports[0]["tokens"]
    assert not list(runs.glob("*/.saving-*"))
    entries = [json.loads(line) for line in (runs / "sft-two" / "metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries if "loss" in entry] == [*range(1, 9)]
