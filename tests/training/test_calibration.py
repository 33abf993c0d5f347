"""What is timed before a run, and what follows from it."""

import math

import pytest
import torch
from small_runs import settings

from foliogpt.modeling import FolioForCausalLM, preset_config
from foliogpt.training import calibration
from foliogpt.training.arguments import PretrainingArguments
from foliogpt.training.calibration import Timing, calibrate, time_steps


def model_of(size="nano"):
    torch.manual_seed(0)
    network = FolioForCausalLM(preset_config("folio", size, vocab_size=60, max_position_embeddings=32))
    network.loss_chunk_size = 16
    return network


def batch_of(rows=2):
    ids = torch.randint(3, 60, (rows, 16), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "labels": ids}


def arguments(tmp_path, **changes):
    args = settings(tmp_path, **{"bf16": True, **changes})
    args.torch_compile = changes.get("torch_compile")  # open, if it is not given
    return args


@pytest.fixture
def gpu(monkeypatch):
    """A GPU on which steps take these seconds, eager and by mode; a mode may fail, or compute something else."""
    tried = []

    def pretend(eager, **modes):
        there = property(lambda args: (args._setup_devices, torch.device("cuda"))[1])
        monkeypatch.setattr(PretrainingArguments, "device", there)

        def steps(model, batch, args, bf16, compile=False):
            found = modes[(args.torch_compile_mode or "by_parts").replace("-", "_")] if compile else eager
            tried.append(args.torch_compile_mode if compile else "eager")
            if isinstance(found, Exception):
                raise found
            return found if isinstance(found, Timing) else Timing(found, 3.0, 1.0)

        monkeypatch.setattr(calibration, "time_steps", steps)
        return tried

    return pretend


def test_the_compiled_model_is_what_is_timed_and_it_computes_the_same(tmp_path):
    args = arguments(tmp_path, bf16=False, torch_compile=True, torch_compile_backend="aot_eager")
    args.gradient_accumulation_steps = 2
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    network = model_of()
    before = {name: p.clone() for name, p in network.named_parameters()}
    timings = [time_steps(network, batch_of(), args, False, compile=compile) for compile in (False, True)]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert timings[1][1:] == pytest.approx(timings[0][1:], rel=1e-4)
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())
    torch._dynamo.reset()


def test_a_long_run_is_compiled_and_its_minutes_count_compiled_steps(gpu, tmp_path):
    tried = gpu(0.2, by_parts=0.1)
    args, network = arguments(tmp_path, minutes=10, max_steps=-1), model_of()
    network.num_parameters = lambda: calibration.SMALL
    assert calibrate(network, batch_of(), args) == {"bf16": 0.1}
    assert tried == ["eager", None]
    assert (args.torch_compile, args.torch_compile_backend, args.torch_compile_mode) == (True, "inductor", None)
    assert args.max_steps == 6000


def test_choose_compiler_records_a_small_model_in_full_if_that_works(gpu, tmp_path):
    tried = gpu(0.02, reduce_overhead=0.005, by_parts=0.01)
    args = arguments(tmp_path)
    assert calibrate(model_of(), batch_of(), args, steps=10**6) == {"bf16": 0.005}
    assert (args.torch_compile, args.torch_compile_mode) == (True, "reduce-overhead")
    assert tried == ["eager", "reduce-overhead"]


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (RuntimeError("no kernel image\nand more"), "torch.compile failed, so it is not used: no kernel image"),
        (Timing(0.001, 3.0, 0.0), "computes another loss or gradient"),
        (Timing(0.001, math.nan, 1.0), "computes another loss or gradient"),
        (Timing(0.03, 3.0, 1.0), ""),
    ],
    ids=["fails", "no gradient", "no number", "slower"],
)
def test_a_compiler_that_fails_or_computes_something_else_is_not_used(found, says, gpu, tmp_path, caplog):
    tried = gpu(0.02, reduce_overhead=found, by_parts=found)
    args = arguments(tmp_path)
    assert calibrate(model_of(), batch_of(), args, steps=10**6) == {"bf16": 0.02}
    assert (args.torch_compile, args.torch_compile_backend, args.torch_compile_mode) == (False, None, None)
    assert len(tried) == 3
    assert says in caplog.text
    assert "and more" not in caplog.text


def test_a_short_run_is_not_compiled(gpu, tmp_path):
    tried = gpu(0.02, by_parts=0.001)
    args = arguments(tmp_path)
    calibrate(model_of(), batch_of(), args, steps=100)
    assert (args.torch_compile, tried) == (False, ["eager"])


@pytest.mark.parametrize("given", [True, False])
def test_calibrate_keeps_given_settings(given, gpu, tmp_path):
    tried = gpu(0.02, by_parts=0.01)
    args = arguments(tmp_path, torch_compile=given, minutes=10, max_steps=-1)
    assert calibrate(model_of(), batch_of(), args) == {"bf16": 0.01 if given else 0.02}
    assert args.torch_compile is given
    assert tried == [None if given else "eager"]
    assert args.max_steps == (60_000 if given else 30_000)


def test_on_a_cpu_nothing_is_compiled_unasked(tmp_path):
    args = arguments(tmp_path, bf16=False)
    calibrate(model_of(), batch_of(), args)
    assert args.torch_compile is False
