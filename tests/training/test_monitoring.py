"""Metrics, samples and warnings of a run."""

import json
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerControl, TrainerState

from foliogpt.modeling import FolioForCausalLM, preset_config
from foliogpt.tokenization import train_char_tokenizer
from foliogpt.training.callbacks import StepClock
from foliogpt.training.flops import flops_per_token, peak_flops
from foliogpt.training.monitoring import MetricsFile, Samples, Warnings, read_metrics

ARGS = SimpleNamespace(
    learning_rate=0.03, adam_learning_rate=0.03, use_muon=True, weight_decay=0.1, world_size=1, seed=0
)
CONTROL = TrainerControl()


def state(step: int, **fields) -> TrainerState:
    return TrainerState(global_step=step, is_world_process_zero=True, num_input_tokens_seen=step * 10, **fields)


def log(callback, step: int, **logs) -> None:
    callback.on_log(ARGS, state(step), CONTROL, logs=logs)


@pytest.fixture
def warn():
    """Return a function that logs as Trainer does, and returns the warnings so far."""
    shown, history = [], []
    callback = Warnings(shown.append, "a smaller --size")
    callback.on_train_begin(ARGS, state(0), CONTROL)

    def log(step: int, **logs) -> list[str]:
        history.append({"step": step, **logs})
        callback.on_log(ARGS, state(step, log_history=history), CONTROL, logs=logs)
        return shown

    return log


def test_warnings_name_smaller_rates_once_when_the_training_loss_rises_and_stays(warn):
    for step, loss in enumerate([4.0, 3.0, 3.6, 3.1, 2.9, 3.5, 3.6, 3.7, 3.8]):
        shown = warn(step, loss=loss)
        assert len(shown) == (step >= 7)
    assert "risen from 2.90 to 3.70" in shown[0]
    assert "--learning_rate 0.01 --adam_learning_rate 0.01" in shown[0]


def test_warnings_name_the_best_step_when_validation_loss_rises_while_training_loss_falls(warn):
    for step, (loss, held_out) in enumerate([(3.0, 3.1), (2.0, 2.5), (1.5, 2.6), (1.0, 2.7), (0.5, 2.9)]):
        warn(step, loss=loss)
        shown = warn(step, eval_loss=held_out)
        assert len(shown) == (step >= 3)
    assert "lowest at step 1 (2.500) and is 2.700 now" in shown[0]
    assert "--max_steps 1" in shown[0]


def test_warnings_stay_silent_when_both_losses_rise(warn):
    for step, (loss, held_out) in enumerate([(2.0, 2.5), (2.1, 2.6), (2.2, 2.7), (2.3, 2.8)]):
        warn(step, loss=loss)
        assert not warn(step, eval_loss=held_out)


def test_warnings_of_a_resumed_run_use_its_earlier_losses():
    shown = []
    callback = Warnings(shown.append, "a smaller --size")
    history = [{"step": 1, "loss": 2.0}, {"step": 1, "eval_loss": 2.1}, {"step": 2, "loss": 1.0}]
    callback.on_train_begin(ARGS, state(2, log_history=history), CONTROL)
    for step in (3, 4):
        history += [{"step": step, "loss": 0.9}, {"step": step, "eval_loss": 2.3}]
        callback.on_log(ARGS, state(step, log_history=history), CONTROL, logs=history[-1])
    assert "lowest at step 1" in shown[0]


def test_metrics_are_lines_of_json_and_a_resumed_run_writes_none_twice(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.on_train_begin(ARGS, state(0), CONTROL)
    for step in (1, 2, 3):
        log(file, step, loss=1.0 / step, grad_norm=float("inf"))
    with file.path.open("a") as opened:
        opened.write('{"step": 4, "lo')  # killed while writing
    again = MetricsFile(file.path)
    again.on_train_begin(ARGS, state(2), CONTROL)
    log(again, 3, loss=0.25)
    entries = [json.loads(line, parse_constant=pytest.fail) for line in file.path.read_text().splitlines()]
    assert [(entry["step"], entry["loss"]) for entry in entries] == [(1, 1.0), (2, 0.5), (3, 0.25)]
    assert [entry["tokens"] for entry in entries] == [10, 20, 30]
    assert entries[2]["seconds"] >= entries[1]["seconds"]
    MetricsFile(file.path).on_train_begin(ARGS, state(0), CONTROL)
    assert read_metrics(file.path) == []


def test_metrics_logged_after_a_checkpoint_are_cut_off_on_resume(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.on_train_begin(ARGS, state(0), CONTROL)
    log(file, 0, eval_loss=3.0)
    log(file, 2, loss=1.0)
    log(file, 2, train_loss=1.5)  # when training stopped there
    MetricsFile(file.path).on_train_begin(ARGS, state(2), CONTROL)
    assert [entry.keys() & {"eval_loss", "loss", "train_loss"} for entry in read_metrics(file.path)] == [
        {"eval_loss"},
        {"loss"},
    ]
    MetricsFile(file.path).on_train_begin(ARGS, state(0), CONTROL)
    assert read_metrics(file.path) == []


def test_a_kill_while_the_metrics_are_cut_back_loses_none(tmp_path, monkeypatch):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.on_train_begin(ARGS, state(0), CONTROL)
    log(file, 1, loss=1.0)
    before = file.path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        MetricsFile(file.path).on_train_begin(ARGS, state(1), CONTROL)
    assert file.path.read_bytes() == before


def test_metrics_that_cannot_be_written_raise_an_error_with_the_remedy(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.on_train_begin(ARGS, state(0), CONTROL)
    file.path.unlink()
    file.path.mkdir()
    with pytest.raises(OSError, match=r"Cannot write to .*metrics.jsonl .*Make room, then continue with --resume"):
        log(file, 1, loss=1.0)


def test_step_clock_reports_speed_and_its_share_of_the_peak():
    clock = StepClock()
    assert clock.metrics(state(1)) == {}
    clock.seconds, clock.tokens_before, clock.flops_per_token = 2.0, 0, 1e6
    assert clock.metrics(state(100)) == {"tokens_per_second": 500.0}
    clock.peak_flops = 1e9
    assert clock.metrics(state(100)) == {"tokens_per_second": 500.0, "fraction_of_peak_flops": 0.5}


@pytest.mark.parametrize("tie", [True, False])
def test_flops_are_those_that_torch_counts(tie):
    from torch.utils.flop_counter import FlopCounterMode

    config = preset_config("folio", "nano", vocab_size=300, tie_word_embeddings=tie)
    config._attn_implementation = "eager"
    model = FolioForCausalLM(config)
    ids = torch.randint(0, 300, (2, 64))
    with FlopCounterMode(display=False) as counter:
        model(ids, labels=ids).loss.backward()
    assert flops_per_token(model, 64) == pytest.approx(counter.get_total_flops() / ids.numel(), rel=0.02)


def test_peak_flops_of_a_cpu_are_measured():
    assert 1e8 < peak_flops(torch.device("cpu"), torch.float32) < 1e15


def test_samples_are_shown_and_change_nothing_about_the_run(tmp_path):
    tokenizer = train_char_tokenizer(["abc def"])
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model = FolioForCausalLM(
        preset_config("folio", "nano", vocab_size=len(tokenizer), max_position_embeddings=16, **ids)
    )
    model.generation_config.update(do_sample=True)
    metrics, shown = MetricsFile(tmp_path / "metrics.jsonl"), []
    metrics.on_train_begin(ARGS, state(0), CONTROL)
    samples = Samples(tokenizer, tokenizer.encode("abc"), shown.append, metrics)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    samples.on_evaluate(ARGS, state(7), CONTROL, model=model)
    assert torch.equal(torch.rand(4), expected)
    assert shown[0].startswith("  step 7:\n    abc")
    (entry,) = read_metrics(metrics.path)
    assert entry["sample"].startswith("abc")
    Samples(tokenizer, list(range(16)), shown.append, metrics).on_evaluate(ARGS, state(8), CONTROL, model=model)
    assert len(shown) == 1  # the prompt fills the context
