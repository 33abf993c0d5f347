"""A whole training run, small: what it writes, and how it ends."""

import ast
import json
import math
import re
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
import torch
import yaml
from small_runs import MODEL, settings
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, TrainerCallback

from foliogpt.checkpoints.clean_process import logits_in_clean_process
from foliogpt.data.arguments import CorpusArguments
from foliogpt.jobs.saving import last_checkpoint
from foliogpt.scripts.cli import main
from foliogpt.training.arguments import TRACKERS, ModelArguments, PretrainingArguments, run_settings
from foliogpt.training.calibration import calibrate
from foliogpt.training.pretraining import first_words, pretrain, validation_subset
from foliogpt.training.trainer import FolioTrainer, NotFinite


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / 'rhyme: a "v1.0"'  # the card's YAML must survive it
    report = pretrain(corpus, MODEL, settings(folder, max_steps=60), command="folio pretrain ...")
    return folder, report


def test_it_learns(run):
    _, report = run
    assert report["val_bits_per_byte"] < 2.5  # 4.3 before training
    assert report["steps"] == 60


def test_the_report_has_the_fixed_keys_and_is_what_was_returned(run):
    folder, report = run
    fixed = {"parameters", "val_loss", "val_bits_per_byte", "baseline_bits_per_byte", "tokens_per_second", "seconds"}
    assert fixed | {"peak_memory_bytes"} <= report.keys()
    assert set(report["baseline_bits_per_byte"]) == {"zlib", "bz2", "xz"}
    assert json.loads((folder / "report.json").read_text()) == report


def test_the_reported_figure_is_that_of_the_saved_checkpoint(run, corpus):
    folder, report = run
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    text = Path(corpus.corpus[0]).read_text()
    held_out = tokenizer.eos_token + text[int(0.9 * len(text)) :] + tokenizer.eos_token
    ids = tokenizer(held_out, return_tensors="pt")["input_ids"][0]
    nats = 0.0
    for start in range(0, len(ids) - 1, 31):
        block = ids[start : start + 32][None]
        with torch.no_grad():
            nats += model(block, labels=block).loss.item() * (block.shape[1] - 1)
    assert nats / (len(ids) - 1) == pytest.approx(report["val_loss"], rel=1e-4)


def test_the_directory_holds_all_that_a_checkpoint_needs(run):
    folder, report = run
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
            "chat_template.jinja", "modeling_folio.py", "trainer_state.json", "README.md", "report.json", "run.yaml",
            "loss.png"} <= names  # fmt: skip
    assert not [name for name in names if name.startswith(".")]
    card = (folder / "README.md").read_text()
    assert f"{report['val_bits_per_byte']:.3f}" in card
    assert report["command"] in card
    assert yaml.safe_load(card.split("---")[1])["model-index"][0]["name"] == folder.name
    snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    assert str(folder) in [node.value for node in ast.walk(ast.parse(snippet)) if isinstance(node, ast.Constant)]
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "config.json").read_text())["use_cache"] is True


@pytest.mark.usefixtures("forked_strangers")
def test_a_process_without_the_package_computes_the_same_logits(run):
    folder, _ = run
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        here = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
    assert torch.equal(logits_in_clean_process(folder, ids), here)


@pytest.mark.usefixtures("forked_strangers")
def test_a_checkpoint_that_needs_us_is_caught(run, tmp_path):
    (tmp_path / "config.json").write_text((run[0] / "config.json").read_text())
    with pytest.raises(RuntimeError, match="does not work in a process without foliogpt"):
        logits_in_clean_process(tmp_path, torch.zeros(1, 3, dtype=torch.long))


class PoisonAt(TrainerCallback):
    """Makes one weight NaN before a step, or after it."""

    def __init__(self, before=None, after=None):
        self.before, self.after = before, after

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step + 1 == self.before:
            model.lm_head.weight.data[0, 0] = math.nan

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.after:
            model.lm_head.weight.data[0, 0] = math.nan


@pytest.mark.parametrize(
    ("poison", "says"),
    [
        ({"before": 13}, r"loss is nan at step 13, whose batch begins with '.+'"),
        ({"after": 16}, "weight model.embed_tokens.weight is not finite at step 17"),  # a checkpoint is due there
        ({"after": 10}, "weight model.embed_tokens.weight is not finite at step 11"),  # a sample is due there
        ({"after": 20}, "weight model.embed_tokens.weight is not finite at step 21"),  # the end
    ],
)
def test_a_loss_that_is_no_number_ends_the_run_and_no_such_weights_are_kept(
    corpus, tmp_path, monkeypatch, poison, says
):
    start = FolioTrainer.__init__
    monkeypatch.setattr(
        FolioTrainer, "__init__", lambda self, **kw: (start(self, **kw), self.add_callback(PoisonAt(**poison)))[0]
    )
    last = "checkpoint-16" if poison.get("after") == 20 else "checkpoint-8"
    with pytest.raises(NotFinite, match=says + rf".*{last}\. .*--learning_rate below 0.02") as error:
        pretrain(corpus, MODEL, settings(tmp_path))
    assert "\n" not in str(error.value)
    assert last_checkpoint(tmp_path).name == last
    assert not (tmp_path / "config.json").exists()


def test_a_loss_of_nan_gives_a_one_line_error(corpus, tmp_path, capsys):
    rates = ["--learning_rate", "99", "--adam_learning_rate", "99"]
    model = ["--tokenizer", "char", "--block_size", "32", "--preset", "vaswani", "--bf16", "false"]
    command = ["pretrain", "--corpus", *corpus.corpus, *model, *rates, "--output_dir", str(tmp_path)]
    assert main([*command, "--max_steps", "60", "--save_strategy", "no", "--eval_strategy", "no"]) == 2
    assert "Start again with --learning_rate below 99" in capsys.readouterr().err


def test_a_secret_is_not_kept(tmp_path):
    args = settings(tmp_path, hub_token="hf_secret", accelerator_config={"even_batches": False})
    text = yaml.safe_dump(run_settings(CorpusArguments(), MODEL, args))
    assert "hf_secret" not in text
    assert "even_batches: false" in text


def test_a_block_longer_than_the_corpus_is_rejected_with_the_size_that_works(corpus, tmp_path):
    with pytest.raises(ValueError, match=r"use --block_size (\d+)") as error:
        pretrain(corpus, replace(MODEL, block_size=10_000), settings(tmp_path))
    largest = int(re.search(r"--block_size (\d+)", str(error.value))[1])
    assert pretrain(corpus, replace(MODEL, block_size=largest), settings(tmp_path, max_steps=1))["steps"] == 1


@pytest.mark.parametrize(
    ("fields", "world", "says"),
    [
        ({"fsdp": True}, 1, "fsdp shards the weights over several processes, and this is one: start it with torchrun"),
        ({"auto_find_batch_size": True}, 2, "auto_find_batch_size works in one process"),
        ({"fsdp": True, "z_loss": 1e-4}, 2, "z_loss"),
        ({"fsdp": True, "fsdp_config": {"state_dict_type": "SHARDED_STATE_DICT"}}, 2, "state_dict_type"),
    ],
)
def test_settings_that_do_not_fit_the_processes_are_rejected(fields, world, says, tmp_path, monkeypatch):
    monkeypatch.setattr(PretrainingArguments, "world_size", world)
    with pytest.raises(ValueError, match=says):
        settings(tmp_path, **fields)


def test_a_schedule_that_does_not_fit_the_run_is_rejected(corpus, tmp_path):
    with pytest.raises(ValueError, match="1 warmup_steps and 50 decay_steps do not fit into 20 steps"):
        pretrain(corpus, MODEL, settings(tmp_path, decay_steps=50))


def test_speed_is_that_of_the_training_steps_alone(corpus, tmp_path, monkeypatch):
    slow = FolioTrainer.evaluate
    monkeypatch.setattr(FolioTrainer, "evaluate", lambda *a, **k: (time.sleep(1), slow(*a, **k))[1])
    report = pretrain(corpus, MODEL, settings(tmp_path, max_steps=4, eval_steps=1))
    assert report["tokens"] == 4 * 4 * 32
    assert report["tokens_per_second"] > 1.5 * report["tokens"] / report["seconds"]["training"]


def test_only_tokens_that_there_were_are_counted(corpus, tmp_path):
    args = settings(tmp_path, max_steps=2, per_device_train_batch_size=4096)
    report = pretrain(corpus, MODEL, args)
    blocks = math.ceil((int(0.9 * Path(corpus.corpus[0]).stat().st_size) + 1) / 31)  # that overlap by one token
    assert report["tokens"] == 2 * blocks * 32
    with pytest.raises(ValueError, match="fewer than one batch"):
        pretrain(corpus, MODEL, settings(tmp_path / "b", per_device_train_batch_size=4096, dataloader_drop_last=True))


def test_a_figure_that_a_tokenizer_made_too_good_says_so(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("The cat sat on the mat. " * 90 + "Ω and ψ are Greek. " * 10)
    corpus = CorpusArguments(corpus=str(tmp_path / "text.txt"))
    report = pretrain(corpus, MODEL, settings(tmp_path / "run", max_steps=1))
    assert report["val_documents_changed"] == 1
    assert "too good" in capsys.readouterr().out


def test_a_failed_checkpoint_is_removed_and_the_one_before_remains(corpus, tmp_path, monkeypatch):
    real, saved = torch.save, []

    def fill_the_disk(obj, file, **kwargs):
        saved.append(file)
        if "checkpoint-16" in str(file):
            real(obj, file, **kwargs)
            raise RuntimeError("PytorchStreamWriter failed writing file")
        return real(obj, file, **kwargs)

    monkeypatch.setattr(torch, "save", fill_the_disk)
    with pytest.raises(OSError, match=r"Could not save.*--resume"):
        pretrain(corpus, MODEL, settings(tmp_path / "run"))
    assert saved
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-8"]


def test_minutes_become_steps_and_precision_is_chosen_by_timing(tmp_path, monkeypatch):
    seconds = {True: 0.5, False: 0.25}
    monkeypatch.setattr("foliogpt.training.calibration.step_seconds", lambda m, b, a, bf16: seconds[bf16])
    args = PretrainingArguments(output_dir=str(tmp_path), minutes=1)
    assert calibrate(None, {}, args) == {"fp32": 0.25, "bf16": 0.5}
    assert (args.bf16, args.max_steps, args.minutes) == (False, 240, None)
    args = PretrainingArguments(output_dir=str(tmp_path), minutes=1, bf16=True)
    calibrate(None, {}, args, steps_done=30)
    assert (args.bf16, args.max_steps) == (True, 150)


@pytest.mark.parametrize("optim", ["muon", "adamw_torch", "adamw_torch_fused", "sgd"])
def test_saved_settings_bring_back_the_optimizer(optim, tmp_path):
    args = PretrainingArguments(output_dir=str(tmp_path), optim=optim)
    saved = {name: value for name, value in run_settings(CorpusArguments(), MODEL, args).items() if hasattr(args, name)}
    again = PretrainingArguments(output_dir=str(tmp_path), **saved)
    assert (again.optim, again.learning_rate, again.use_muon) == (args.optim, args.learning_rate, optim == "muon")


def test_a_tokenizer_with_gaps_and_nothing_for_the_first_words_trains(tmp_path):
    vocabulary = {"<e>": 0, "a": 7, "e": 9, " ": 11}  # no padding, and what is not here is left out
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE(vocabulary, [])), eos_token="<e>").save_pretrained(tmp_path)
    (tmp_path / "text.txt").write_text("a e e " * 306 + "zzzzz\n" + "a e e " * 33)
    model = ModelArguments(tokenizer=str(tmp_path), block_size=16)
    report = pretrain(CorpusArguments(str(tmp_path / "text.txt")), model, settings(tmp_path / "run", max_steps=2))
    assert report["prompt"] == "zzzzz"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "run").config.vocab_size == 12


def test_the_steps_that_are_timed_take_as_little_memory_as_those_of_the_run(corpus, tmp_path, monkeypatch):
    timed = []
    monkeypatch.setattr(
        "foliogpt.training.calibration.step_seconds",
        lambda model, *_: timed.append(model.is_activation_checkpointing) or 1.0,
    )
    pretrain(corpus, MODEL, settings(tmp_path, max_steps=1, activation_checkpointing=True, bf16=None))
    assert timed == [True, True]


@pytest.mark.parametrize("preset", ["vaswani", "gpt2", "speedrun"])
def test_other_presets_and_stock_optimizers_train(corpus, tmp_path, preset):
    model = ModelArguments(tokenizer="char", block_size=32, preset=preset)
    args = settings(tmp_path / preset, max_steps=4, optim="adamw_torch", label_smoothing_factor=0.1)
    assert pretrain(corpus, model, args)["steps"] == 4


def test_a_stream_trains(corpus, tmp_path, private_datasets_cache):
    rows = tmp_path / "rows.jsonl"
    lines = Path(corpus.corpus[0]).read_text().splitlines()
    rows.write_text("".join(json.dumps({"text": line + f" {i}"}) + "\n" for i, line in enumerate(lines * 5)))
    stream = CorpusArguments(corpus=str(rows), streaming=True)
    with pytest.raises(ValueError, match="--max_steps"):
        pretrain(stream, MODEL, settings(tmp_path / "endless", max_steps=-1))
    report = pretrain(stream, MODEL, settings(tmp_path / "run", max_steps=6))
    assert report["steps"] == 6
    assert report["train_bytes"] is None
    other = tmp_path / "other.jsonl"
    other.write_text(rows.read_text())
    with pytest.raises(ValueError, match="not the text that this run began with"):
        pretrain(replace(stream, corpus=str(other)), MODEL, settings(tmp_path / "run", max_steps=8, resume=True))
    assert pretrain(stream, MODEL, settings(tmp_path / "run", max_steps=8, resume=True))["steps"] == 8
    assert "an unknown number of" in (tmp_path / "run" / "README.md").read_text()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"minutes": float("inf")}, "minutes"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps"),
        ({"logging_steps": 0}, "logging_steps"),
        ({"eval_steps": -1}, "eval_steps"),
        ({"learning_rate": 1e9}, "learning_rate"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"z_loss": -1.0}, "z_loss"),
        ({"z_loss": 0.1, "label_smoothing_factor": 0.1}, "choose one"),
        ({"minutes": 0.0}, "minutes"),
        ({"max_steps": 0}, "max_steps"),
        ({"max_steps": -5}, "max_steps"),
        ({"resume_from_checkpoint": "run"}, "--resume"),
        ({"metric_for_best_model": "bleu"}, "metric_for_best_model"),
        ({"num_train_epochs": 0.0}, "num_train_epochs"),
        ({"adam_learning_rate": -1.0}, "adam_learning_rate"),
        ({"adam_beta2": 2.0}, "adam_beta2"),
        ({"decay_steps": -1.0}, "decay_steps"),
        ({"max_grad_norm": -1.0}, "max_grad_norm"),
        ({"label_smoothing_factor": 1.0}, "label_smoothing_factor"),
        ({"weight_decay": float("nan")}, "weight_decay"),
    ],
)
def test_settings_that_cannot_work_are_rejected(fields, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        PretrainingArguments(output_dir=str(tmp_path), **fields)


class Tracker(TrainerCallback):
    """Stands for what `--report_to` adds: it is told what any of Trainer's trackers is told."""

    def __init__(self):
        self.told = {}

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.told |= logs


def test_trackers_receive_all_logged_metrics(corpus, tmp_path, monkeypatch):
    from transformers import trainer

    tracker = Tracker()
    monkeypatch.setattr("foliogpt.training.arguments.get_available_reporting_integrations", lambda: ["tensorboard"])
    monkeypatch.setattr(trainer, "get_reporting_integration_callbacks", lambda names: [tracker] if names else [])
    pretrain(corpus, MODEL, settings(tmp_path, max_steps=10, logging_steps=5, report_to=["tensorboard"]))
    shown = {"loss", "grad_norm", "learning_rate", "eval_loss", "tokens_per_second", "fraction_of_peak_flops"}
    assert shown <= tracker.told.keys()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        *[(name, f"pip install 'foliogpt[{name}]'") for name in TRACKERS],
        ("mlflow", "--report_to mlflow needs a package that is not installed"),
        ("wandbb", "report_to names 'wandbb': choose of none, all, "),
    ],
)
def test_a_missing_tracker_is_reported_before_any_data_is_read(name, says, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("foliogpt.training.arguments.get_available_reporting_integrations", lambda: [])
    argv = ["pretrain", "--corpus", "no-text", "--output_dir", str(tmp_path / "run"), "--report_to", name]
    assert main(argv) == 2
    said = capsys.readouterr().err.strip()
    assert says in said
    assert len(said.splitlines()) == 1
    assert main([*argv[:-1], "none"]) == 2  # for its text
    assert "no-text" in capsys.readouterr().err


def test_every_tracker_with_an_extra_is_known_to_transformers():
    from transformers.integrations import integration_utils

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(TRACKERS) <= integration_utils.INTEGRATION_TO_CALLBACK.keys() & project["optional-dependencies"].keys()


@pytest.mark.parametrize(("blocks", "steps", "room"), [(1000, 100, 96), (50, 100, 96), (1000, 1, 16)])
def test_evaluations_on_the_way_take_a_tenth_of_the_time(blocks, steps, room, tmp_path):
    """Of 1,600 blocks trained on, a tenth is 160; without the way back 480 take as long, in five evaluations 96."""
    stored = datasets.Dataset.from_dict({"n": list(range(blocks))})
    data = SimpleNamespace(validation_blocks=[stored], train_documents=1)
    args = settings(tmp_path, max_steps=steps, per_device_train_batch_size=16, per_device_eval_batch_size=16,
                    eval_strategy="steps", eval_steps=0.2)  # fmt: skip
    found = validation_subset(data, args)["n"]
    stride = found[1]
    assert room / 2 < len(found) <= room
    assert found == list(range(0, blocks, stride))  # of all parts of the text alike
    args.load_best_model_at_end = True
    assert len(validation_subset(data, args)) == blocks


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("?\n\nGREMIO:\nGood morrow, neighbour.", "GREMIO:"),
        ("ther than this.\n\nThe for statement is used", "The for statement is"),
        ("Once upon a time\n\nThe end", "Once upon a time"),
        ("从前有一个国王", "从前有一个国王"),
        ("... 12", "... 12"),
        ('"Oh" \\ he', "Oh  he"),
    ],
)
def test_a_prompt_begins_as_texts_do(text, prompt):
    assert first_words(text) == prompt
