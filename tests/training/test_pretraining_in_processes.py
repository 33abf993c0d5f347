"""`folio pretrain` in two processes takes the steps of one, and either goes on with what the other has saved."""

import json
import os
import shutil
from pathlib import Path

import process_groups
import pytest
import torch
from safetensors.torch import load_file

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo"),
]

# Several runs in one launch. Each job: (folder, settings of the run).
DRIVER = """
import json, sys
from accelerate.state import AcceleratorState
from foliogpt.data.arguments import CorpusArguments
from foliogpt.training.arguments import ModelArguments, PretrainingArguments
from foliogpt.training.pretraining import pretrain
from foliogpt.jobs.processes import exit_process, world_size
from foliogpt.jobs.report import Stages

text, jobs = sys.argv[1], json.loads(sys.argv[2])
for folder, changes in jobs:
    corpus = CorpusArguments(text, streaming=changes.pop("streaming", False))
    fields = dict(max_steps=12, bf16=False, save_steps=5, save_total_limit=None, eval_steps=4, decay_steps=4)
    fields["logging_steps"] = 1
    args = PretrainingArguments(output_dir=folder, **{**fields, **changes})
    model = ModelArguments("char", block_size=32, hidden_size=32, num_hidden_layers=2)
    pretrain(corpus, model, args, stages=Stages(silent=True))
    AcceleratorState._reset_state()
if world_size() > 1:
    exit_process(0)
"""


def launch(folder: Path, processes: int, jobs: list) -> None:
    text = folder / "text.jsonl"
    if not text.exists():
        lines = [f"{i} times {i % 7} is {i * (i % 7)}, and the cat is on the mat." for i in range(160)]
        text.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    environment = {**os.environ, "HF_DATASETS_CACHE": str(folder / "cache")}
    process_groups.run([DRIVER, str(text), json.dumps(jobs)], processes, env=environment, cwd=folder)


# 155 blocks or so: a pass ends within the run, with a batch that cannot be dealt equally.
HALF, WHOLE = {"per_device_train_batch_size": 16}, {"per_device_train_batch_size": 32}
SPREAD = {
    "ddp": HALF,
    "accumulating": {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2},
    "fsdp": {**HALF, "fsdp": True},
}
STREAM = {"streaming": True, "save_strategy": "no"}
# From whose checkpoint at step 5, in how many processes, with which settings.
RESUMED = {
    "one-ddp": ("one", 2, SPREAD["ddp"]),
    "one-fsdp": ("one", 2, SPREAD["fsdp"]),
    "fsdp-ddp": ("fsdp", 2, SPREAD["ddp"]),
    "ddp-one": ("ddp", 1, WHOLE),
    "fsdp-one": ("fsdp", 1, WHOLE),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")

    def resumed(processes):
        jobs = []
        for name, (source, count, settings) in RESUMED.items():
            if count == processes:
                shutil.copytree(folder / source, folder / name)
                for later in ("checkpoint-10", "checkpoint-12"):
                    shutil.rmtree(folder / name / later)
                for left in ("model.safetensors", "trainer_state.json"):
                    (folder / name / left).unlink()
                jobs.append((name, {**settings, "resume": True}))
        return jobs

    launch(folder, 1, [("one", WHOLE), ("one-stream", {**WHOLE, **STREAM})])
    launch(folder, 2, [*SPREAD.items(), ("ddp-stream", {**HALF, **STREAM})])
    launch(folder, 2, resumed(2))
    launch(folder, 1, resumed(1))
    return folder


def history(run: Path) -> list[dict]:
    return json.loads((run / "trainer_state.json").read_text())["log_history"]


@pytest.mark.parametrize("name", [*SPREAD, *RESUMED, "ddp-stream"])
def test_the_loss_curve_and_the_weights_are_those_of_one_process(runs, name):
    one, other = runs / ("one-stream" if name.endswith("stream") else "one"), runs / name
    assert [entry["step"] for entry in history(other)] == [entry["step"] for entry in history(one)]
    for mine, theirs in zip(history(other), history(one), strict=True):
        for key in {"loss", "eval_loss", "learning_rate"} & theirs.keys():
            assert mine[key] == pytest.approx(theirs[key], abs=1e-4), (mine["step"], key)
    weights = load_file(other / "model.safetensors")
    for key, weight in load_file(one / "model.safetensors").items():
        torch.testing.assert_close(weights[key], weight, atol=1e-4, rtol=0, msg=key)
    reports = [json.loads((run / "report.json").read_text()) for run in (one, other)]
    assert reports[1]["val_bits_per_byte"] == pytest.approx(reports[0]["val_bits_per_byte"], abs=1e-5)
    assert reports[1]["tokens"] == reports[0]["tokens"]


def test_a_checkpoint_is_the_same_however_the_weights_were_spread(runs):
    names = {file.name for file in (runs / "one" / "checkpoint-5").iterdir()} - {"rng_state.pth"}
    for way in SPREAD:
        folder = runs / way / "checkpoint-5"
        assert {file.name for file in folder.iterdir()} == names | {"rng_state_0.pth", "rng_state_1.pth"}
        mine, theirs = (
            torch.load(run / "optimizer.pt", weights_only=True)["state"] for run in (folder, runs / "one/checkpoint-5")
        )
        for index, state in theirs.items():
            for key, value in state.items():
                torch.testing.assert_close(mine[index][key], value, atol=1e-4, rtol=0)


def test_the_report_says_in_how_many_processes_the_run_was(runs):
    report = json.loads((runs / "fsdp" / "report.json").read_text())
    assert (report["world_size"], report["backend"]) == (2, "gloo")
    assert not list(runs.glob("*/.saving-*")) + list(runs.glob("*/.lock"))
