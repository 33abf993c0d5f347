"""What is decided for a GPU, on one that is pretended to be there."""

import json
from types import SimpleNamespace

import pytest
import torch
from small_runs import MODEL, settings
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from foliogpt.data.packing import PackedCollator
from foliogpt.jobs.report import Stages
from foliogpt.modeling import FolioForCausalLM, preset_config
from foliogpt.training import device
from foliogpt.training.arguments import ModelArguments, PretrainingArguments
from foliogpt.training.device import check_compiler, choose_for_device, missing_gpu
from foliogpt.training.pretraining import pretrain
from foliogpt.training.trainer import FolioTrainer


@pytest.fixture
def gpu(monkeypatch):
    """A GPU of a generation, with so many free bytes."""

    def pretend(generation=(9, 0), free=10**11, count=1):
        there = property(lambda args: (args._setup_devices, torch.device("cuda"))[1])
        monkeypatch.setattr(PretrainingArguments, "device", there)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: generation)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: generation >= (8, 0))
        monkeypatch.setattr(device, "available_bytes", lambda device: free)
        monkeypatch.setattr(device, "enable_tf32", lambda on: tf32.append(on))
        return tf32

    tf32: list[bool] = []
    return pretend


def model_of(**changes):
    network = FolioForCausalLM(preset_config("folio", "nano", vocab_size=300, num_hidden_layers=1, **changes))
    network.loss_chunk_size = 512
    return network


def chosen(network, tmp_path, capsys, model=MODEL, **changes):
    """The arguments, the collator and the line, after the choice."""
    args, collator = settings(tmp_path, **{"bf16": None, **changes}), PackedCollator(0)
    args._n_gpu = torch.cuda.device_count()
    choose_for_device(network, SimpleNamespace(collator=collator, train_documents=3), model, args, Stages())
    return args, collator, capsys.readouterr().out


def test_on_a_new_gpu_it_is_bf16_without_a_mask_and_with_large_chunks(gpu, tmp_path, capsys):
    tf32, network = gpu(), model_of()
    args, collator, said = chosen(network, tmp_path, capsys)
    assert (args.bf16, args.fp16, args.mixed_precision) == (True, False, "bf16")
    assert tf32 == [True]
    assert network.config._attn_implementation == "varlen"
    assert collator.gives_lengths
    assert network.loss_chunk_size == 8192
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (4, 1)
    assert said.count("\n") == 1
    assert "--per_device_train_batch_size 2048" in said  # a step has 128 tokens


def test_on_an_old_gpu_it_is_fp16_with_a_mask_and_a_reason(gpu, tmp_path, capsys):
    tf32, network = gpu(generation=(7, 5)), model_of()
    args, collator, said = chosen(network, tmp_path, capsys)
    assert (args.bf16, args.fp16, args.mixed_precision) == (False, True, "fp16")
    assert not tf32
    assert network.config._attn_implementation == "sdpa"
    assert not collator.gives_lengths
    assert "attention with a mask, as" in said


def test_choose_for_device_keeps_given_settings(gpu, tmp_path, capsys):
    tf32, network = gpu(), model_of()
    model = SimpleNamespace(**{**vars(MODEL), "attn_implementation": "eager"})
    args, collator, said = chosen(network, tmp_path, capsys, model, bf16=False, tf32=False)
    assert (args.bf16, args.fp16, tf32) == (False, False, [])
    assert network.config._attn_implementation == "eager"
    assert not collator.gives_lengths
    assert "fp32; attention eager" in said


def test_a_kernel_that_lets_documents_see_each_other_is_rejected(tmp_path, capsys):
    model = SimpleNamespace(**{**vars(MODEL), "attn_implementation": "flash_attention_2"})
    with pytest.raises(ValueError, match="'flash_attention_2', which does not keep packed documents apart: choose one"):
        chosen(model_of(), tmp_path, capsys, model)


def test_another_architecture_keeps_its_attention(gpu, tmp_path, capsys):
    gpu()
    tiny = LlamaConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=60)
    _, collator, said = chosen(LlamaForCausalLM(tiny), tmp_path, capsys)
    assert not collator.gives_lengths
    assert "attention sdpa" in said


@pytest.mark.parametrize(("free", "chunk"), [(30_000_000, 30_000_000 // 8 // (12 * 300)), (1000, 512)])
def test_the_logits_of_a_chunk_take_a_small_part_of_the_memory(free, chunk, gpu, tmp_path, capsys):
    gpu(free=free)
    network = model_of()
    chosen(network, tmp_path, capsys)
    assert network.loss_chunk_size == chunk


def test_one_process_uses_one_gpu(gpu, tmp_path, capsys):
    gpu(count=2)
    args, _, said = chosen(model_of(), tmp_path, capsys)
    assert args.global_batch_size == 4
    assert "1 of 2 GPUs" in said


@pytest.mark.parametrize(
    ("cuda", "visible", "there", "says"),
    [
        ("12.8", "7", True, "CUDA_VISIBLE_DEVICES is '7'"),
        ("12.8", None, True, "driver may be too old for CUDA 12.8"),
        (None, None, True, "cannot use it: install one for CUDA"),
        ("12.8", "-1", True, None),
        ("12.8", None, False, None),
        (None, "0", False, None),
    ],
)
def test_missing_gpu_explains_why_a_gpu_is_not_used(cuda, visible, there, says, monkeypatch, tmp_path):
    file = tmp_path / "nvidia0"
    if there:
        file.touch()
    monkeypatch.setattr(device, "GPU_FILE", file)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    reason = missing_gpu()
    assert (reason is None) if says is None else (says in reason)


def test_compiling_without_a_compiler_is_rejected(tmp_path, monkeypatch, gpu):
    args = settings(tmp_path, torch_compile=True)
    monkeypatch.setattr(device.sys, "platform", "linux")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="no-such-compiler is not on the PATH: install it"):
        check_compiler(args)
    gpu()
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(ValueError, match="gcc or clang is not on the PATH"):
        check_compiler(args)
    check_compiler(settings(tmp_path, torch_compile=True, torch_compile_backend="aot_eager"))


@pytest.mark.parametrize("mode", [None, "default"])
def test_a_compiled_run_is_the_run(mode, corpus, tmp_path):
    common = {"max_steps": 4, "gradient_accumulation_steps": 2, "z_loss": 1e-3, "logging_steps": 1, "eval_steps": 2}
    curves = []
    for name, more in (("eager", {}), ("compiled", {"torch_compile": True, "torch_compile_backend": "aot_eager"})):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        args = settings(tmp_path / name, **common, **more, torch_compile_mode=mode if more else None)
        report = pretrain(corpus, MODEL, args, stages=Stages(silent=True))
        lines = map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
        curves.append([report["val_loss"], *[line.get("loss", line.get("eval_loss", 0)) for line in lines]])
        if more:
            found = torch._dynamo.utils.counters
            assert found["stats"]["unique_graphs"] <= (1 if mode else 6)  # of four blocks one is compiled
            assert not found["graph_break"]
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)
    torch._dynamo.reset()


class Waits(TorchDispatchMode):
    """Counts what a GPU would be waited for: numbers that go to Python, and shapes that depend on values."""

    def __init__(self):
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal"):
            self.seen.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_a_step_waits_for_nothing(corpus, tmp_path, monkeypatch):
    seen = []

    class Counted(FolioTrainer):
        checks_each_step = property(lambda self: False, lambda self, value: None)  # as on a GPU

        def training_step(self, *args):
            with Waits() as waits:
                loss = super().training_step(*args)
                self._track_num_input_tokens(args[1])
            seen.append(waits.seen)
            return loss

        def _clip_grad_norm(self, model):
            with Waits() as waits:
                norm = super()._clip_grad_norm(model)
            seen.append(waits.seen)
            return norm

    args = settings(tmp_path, max_steps=6, eval_strategy="no", logging_steps=100)
    pretrain(corpus, ModelArguments(tokenizer="char", block_size=32), args, trainer_class=Counted)
    assert not args.logging_nan_inf_filter
    assert any(seen[0])  # the first step is looked at, and the masks of packed rows need a look at their positions
    allowed = {"_local_scalar_dense"}  # of `create_causal_mask`, which a kernel without a mask has no need for
    assert all(set(waits) <= allowed and len(waits) <= 1 for waits in seen[2:]), seen
