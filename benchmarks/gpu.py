"""One visit to a GPU: training steps, whole runs, a race with nanoGPT, decoding, and what only a GPU can show.

    python -m benchmarks.gpu --json gpu.json
    python -m benchmarks.gpu --nanogpt ../nanoGPT --only step race
    python -m benchmarks.gpu --tiny

All of it ends after `--minutes`, 8 if not given; what there was no time for is a row that says so. `--nanogpt` is a
clone of github.com/karpathy/nanoGPT, for the rows that compare with it. `--tiny` tries the script on a CPU with models
that say nothing about speed. A part that fails is a row that says why, and the others go on.
"""

import contextlib
import gc
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path

import torch
from accelerate.utils import compile_regions
from transformers import Qwen3Config, Qwen3ForCausalLM

from foliogpt.data.packing import PackedCollator
from foliogpt.modeling import FolioForCausalLM, preset_config
from foliogpt.serving.batching import Batch, Row
from foliogpt.serving.choice import Choice
from foliogpt.serving.cuda_graphs import StaticSteps
from foliogpt.serving.generator import generation_config
from foliogpt.training.flops import flops_per_token, peak_flops

from .tables import parser, show, write

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
WARM_UP, STEPS = 3, 12
UNTIL = [float("inf")]  # when the visit ends, of time.monotonic
# An H100 runs 12 blocks of width 768 in bf16; the gradients of two kernels differ by what bf16 rounds off.
TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 6e-2, torch.float16: 2e-2}


class Shape:
    """What the models are: of a size, on rows of tokens; 114M parameters on 32 x 1,024, or next to nothing."""

    def __init__(self, tiny: bool, size: str = "small", batch: int = 32, length: int = 1024, vocabulary: int = 50_304):
        self.tiny, self.size = tiny, "nano" if tiny else size
        self.batch, self.length, self.vocabulary = (2, 64, 512) if tiny else (batch, length, vocabulary)
        self.steps = 2 if tiny else STEPS
        self.peak = peak_flops(torch.device(DEVICE), torch.bfloat16)

    @cached_property
    def flops(self) -> float:
        return flops_per_token(self.ours(), self.length)

    def config(self, preset: str = "folio", **changes):
        given = {"vocab_size": self.vocabulary, "max_position_embeddings": self.length, **changes}
        if preset == "window":  # of two layers
            preset, layers = "folio", ["sliding_attention", "full_attention"]
            given |= {"sliding_window": 16, "layer_types": layers}
        return preset_config(preset, self.size, **given)

    def ours(self, preset: str = "folio", chunk: int | None = None, attention: str = "sdpa", **changes):
        model = FolioForCausalLM(self.config(preset, **changes))
        model.loss_chunk_size = chunk
        model.set_attn_implementation(attention)
        return model

    def qwen3(self) -> Qwen3ForCausalLM:
        config, names = self.config(), "hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim"
        shape = {name: getattr(config, name) for name in [*names.split(), "intermediate_size", "vocab_size"]}
        special = {"max_position_embeddings": self.length, "bos_token_id": None, "eos_token_id": None}
        return Qwen3ForCausalLM(Qwen3Config(**shape, **special, tie_word_embeddings=True))

    def nanogpt(self, folder: Path):
        sys.path.insert(0, str(folder))
        from model import GPT, GPTConfig  # pyright: ignore[reportMissingImports]  # nanoGPT's

        config = self.config()
        shape = {"n_layer": config.num_hidden_layers, "n_head": config.num_attention_heads}
        sizes = {"block_size": self.length, "vocab_size": self.vocabulary, "n_embd": config.hidden_size}
        return GPT(GPTConfig(**shape, **sizes, dropout=0.0, bias=False))

    def batches(self, packed: bool, rows: int | None = None) -> dict[str, torch.Tensor]:
        """Random tokens; packed, three documents of different lengths a row."""
        ids = torch.randint(1, self.vocabulary, (rows or self.batch, self.length))
        if packed:
            ids[:, [self.length // 2, 3 * self.length // 4]] = 0
        collator = PackedCollator(eos_token_id=0)
        collator.gives_lengths = True
        batch = collator([{"input_ids": row} for row in ids])
        return {name: batch[name].to(DEVICE) for name in batch if packed or name in ("input_ids", "labels")}


def synchronize() -> None:
    if CUDA:
        torch.cuda.synchronize()


def forget() -> None:
    gc.collect()
    torch._dynamo.reset()
    if CUDA:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def left() -> float:
    """Seconds until the visit ends."""
    return UNTIL[0] - time.monotonic()


def row_of(name: str, measure: Callable[[], dict]) -> dict:
    """What was measured, or why it could not be, as soon as it is known."""
    start = time.perf_counter()
    try:
        if left() <= 0:
            raise TimeoutError("no time was left")
        forget()
        row = {"what": name, **measure()}
    except Exception as error:
        row = {"what": name, "result": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    row["seconds"] = round(time.perf_counter() - start, 1)
    print(json.dumps(row), flush=True)
    return row


def compiled(model, how: str):
    """Not at all, as `folio pretrain` does (by its parts), as a whole, or as a whole in one of torch's modes."""
    if how == "parts":
        return compile_regions(model)
    return torch.compile(model, mode=None if how == "whole" else how) if how else model


# step


def train_steps(shape: Shape, make: Callable, packed: bool = False, compile: str = "", nano: bool = False) -> dict:
    """Median of the steps of bf16 autocast and fused AdamW; MFU counts the operations of our model for all rows."""
    model = make().to(DEVICE).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=CUDA)
    inputs = shape.batches(packed)
    run = compiled(model, compile)
    times = []
    for _ in range(WARM_UP + shape.steps):
        synchronize()
        start = time.perf_counter()
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            loss = run(inputs["input_ids"], inputs["labels"])[1] if nano else run(**inputs, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        synchronize()
        times.append(time.perf_counter() - start)
    seconds = statistics.median(times[WARM_UP:])
    speed = shape.batch * shape.length / seconds
    return {
        "ms": round(1e3 * seconds, 1),
        "tokens/s": round(speed),
        "MFU": round(speed * shape.flops / shape.peak, 3) if shape.peak else None,
        "first step s": round(times[0], 1),
        "peak GB": round(torch.cuda.max_memory_allocated() / 2**30, 1) if CUDA else None,
        "loss": round(loss.item(), 3),
    }


def step(shape: Shape, nanogpt: Path | None) -> list[dict]:
    """Ours as `folio pretrain` runs it and otherwise, beside Qwen3 of the same shape and nanoGPT."""
    chunk = 32 if shape.tiny else 8192
    default = partial(shape.ours, chunk=chunk, attention="varlen")
    kinds = ("",) if shape.tiny else ("parts", "", "whole")
    runs: dict[str, Callable[[], dict]] = {}
    for how in kinds:
        runs[f"ours, packed, varlen, chunks, {how or 'eager'}"] = partial(train_steps, shape, default, True, how)
    for how in kinds[1:] or kinds:
        if nanogpt:
            make = partial(shape.nanogpt, nanogpt)
            runs[f"nanoGPT, plain, {how or 'eager'}"] = partial(train_steps, shape, make, False, how, True)
        runs[f"Qwen3, plain, {how or 'eager'}"] = partial(train_steps, shape, shape.qwen3, False, how)
    for name, make, packed in (
        ("packed, sdpa with a mask, chunks", partial(shape.ours, chunk=chunk), True),
        ("packed, varlen, chunks of 512", partial(shape.ours, chunk=512, attention="varlen"), True),
        ("packed, varlen, all logits", partial(shape.ours, attention="varlen"), True),
        ("plain, sdpa, chunks", partial(shape.ours, chunk=chunk), False),
    ):
        runs[f"ours, {name}, eager"] = partial(train_steps, shape, make, packed)
    if not shape.tiny:
        runs["ours, packed, varlen, chunks, max-autotune"] = partial(
            train_steps, shape, default, True, "max-autotune-no-cudagraphs"
        )
        for size, batch, length, words in (
            ("nano", 256, 256, 4096),
            ("micro", 256, 256, 4096),
            ("mini", 32, 2048, 8192),
        ):
            other = Shape(False, size, batch, length, words)
            make = partial(other.ours, chunk=chunk, attention="varlen")
            for how in ("", "parts", "reduce-overhead"):
                name = f"ours, {size}, {batch} x {length}, packed, varlen, chunks, {how or 'eager'}"
                runs[name] = partial(train_steps, other, make, True, how)
    return [row_of(name, measure) for name, measure in runs.items()]


# decode


@torch.no_grad()
def decoded(shape: Shape, make: Callable, batch: int, **options) -> dict:
    new = 16 if shape.tiny else 128
    model = make().to(DEVICE, torch.bfloat16).eval()
    ids = torch.randint(0, shape.vocabulary, (batch, 16), device=DEVICE)
    settings = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    settings |= {"max_new_tokens": new, "min_new_tokens": new}
    for _ in range(3 if options else 2):
        synchronize()
        start = time.perf_counter()
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings, **options)
        synchronize()
        seconds = time.perf_counter() - start
    return {"ms a token": round(1e3 * seconds / new, 2), "tokens/s": round(batch * new / seconds)}


class Greedy(Choice):
    """A text of `folio serve`, and its listener: it ends after `new` tokens."""

    def __init__(self, model, ids: list[int], new: int):
        super().__init__(ids, generation_config(model, new, ignore_eos=True, do_sample=False))
        self.ids: list[int] = []

    def add_token(self, token: int, logits: torch.Tensor) -> None:
        self.ids.append(token)
        if len(self.ids) == self.config.max_new_tokens:
            self.end()


def served(model, captures: bool, rows: int, new: int) -> tuple[list[list[int]], float]:
    """The texts of a batch of `folio serve`, and seconds a token once all are read, by CUDA graphs or not."""
    batch = Batch(model)
    # Without a GPU, the model is called again instead.
    graphs = batch.graphs or StaticSteps(batch._logits, batch._eager, batch.max_bytes // 2, lambda run: run)
    batch.graphs = graphs if captures else None
    prompts = torch.randint(1, model.config.vocab_size, (rows, 16), generator=torch.Generator().manual_seed(0))
    texts = [Greedy(model, ids, new) for ids in prompts.tolist()]
    batch.reading = [Row(text, text, model) for text in texts]
    while batch.reading or len(batch.rows[0].ids) < 16 + new // 4:
        batch.step(lambda: None)
        for text in texts:
            if text.done.done():  # none ends so early but by an error
                text.done.result()
    before = len(texts[0].ids)
    synchronize()
    start = time.perf_counter()
    while batch.rows:
        batch.step(lambda: None)
    synchronize()
    if graphs.fault:
        raise RuntimeError(graphs.fault)
    return [text.ids for text in texts], (time.perf_counter() - start) / (new - before)


def serving_step(shape: Shape, make: Callable, captures: bool, rows: int) -> dict:
    model = make().to(DEVICE, torch.bfloat16).eval()
    _, seconds = served(model, captures, rows, 16 if shape.tiny else 128)
    return {"ms a token": round(1e3 * seconds, 2), "tokens/s": round(rows / seconds)}


def decode(shape: Shape) -> list[dict]:
    rows = []
    for batch in (1, 32):
        for name, make in (("ours", shape.ours), ("Qwen3", shape.qwen3)):
            for how, captures in (("eager", False), ("CUDA graph", True)):
                measure = partial(serving_step, shape, make, captures, batch)
                rows.append(row_of(f"folio serve, {name}, batch {batch}, {how}", measure))
    for batch in (1, 64):
        for name, make in (("ours", shape.ours), ("Qwen3", shape.qwen3)):
            rows.append(row_of(f"{name}, batch {batch}", partial(decoded, shape, make, batch)))
            static = partial(decoded, shape, make, batch, cache_implementation="static")
            rows.append(row_of(f"{name}, batch {batch}, static cache, compiled", static))
    return rows


# pretrain and race


def timeout() -> float | None:
    """Seconds that a command may take."""
    return None if left() == float("inf") else max(1.0, left())


def folio(*words: str, folder: Path, fails: bool = False) -> str:
    """What a command says. Raises RuntimeError if it fails, or if it does not although it should."""
    command = [sys.executable, "-m", "foliogpt.scripts.cli", *words]
    quiet = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout(), env=quiet)
    said = f"{done.stdout}\n{done.stderr}"
    if bool(done.returncode) != fails:
        raise RuntimeError(f"exit code {done.returncode}: {said.strip()[-300:]}")
    return said


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def report(run: Path) -> dict:
    return json.loads((run / "report.json").read_text())


def pretrained(folder: Path, name: str, *options: str) -> dict:
    run = folder / name
    folio("pretrain", "--corpus", "python-manual", "--output_dir", str(run), *options, folder=folder)
    found, lines = report(run), metrics(run)
    losses = [line["loss"] for line in lines if "loss" in line]
    norms = [line["grad_norm"] for line in lines if "grad_norm" in line]
    if not losses[-1] < losses[0] or not all(norms):
        raise RuntimeError(f"it learns nothing: loss {losses[0]} to {losses[-1]}, gradient norms {norms[:3]}")
    return {
        "tokens/s": round(found["tokens_per_second"]),
        "parameters": found["parameters"],
        "peak GB": round(found["peak_memory_bytes"] / 2**30, 1),
        "loss": round(losses[-1], 3),
    }


def pretrain(shape: Shape, folder: Path) -> list[dict]:
    """`folio pretrain` as it decides by itself, and told."""
    short = ["--max_steps", "6" if shape.tiny else "60", "--eval_strategy", "no", "--logging_steps", "2"]
    sizes = ["nano"] if shape.tiny else ["nano", "micro", "mini", "small"]
    length = [] if shape.tiny else ["--block_size", "1024", "--per_device_train_batch_size", "16"]
    rows = []
    for size in sizes:
        for options in ([], ["--torch_compile"]):
            name = f"folio pretrain --size {size} {' '.join(options)}".strip()
            where = f"{size}{len(options)}"
            words = ["--size", size, *short, *(length if size == "small" else []), *options]
            rows.append(row_of(name, partial(pretrained, folder, where, *words)))
    return rows


def race(shape: Shape, folder: Path, nanogpt: Path | None) -> list[dict]:
    """nanoGPT's recipe for Shakespeare on a GPU, by its own `train.py` and by `folio pretrain`."""
    text = folder / "shakespeare.txt"
    rows = []
    if nanogpt and not shape.tiny:

        def theirs() -> dict:
            data = nanogpt / "data" / "shakespeare_char"
            if not (data / "train.bin").exists():
                subprocess.run([sys.executable, "prepare.py"], cwd=data, check=True, capture_output=True)
            command = [sys.executable, "train.py", "config/train_shakespeare_char.py", f"--out_dir={folder / 'nano'}"]
            start, how = time.perf_counter(), {"capture_output": True, "text": True, "check": True}
            done = subprocess.run([*command, "--max_iters=2000"], cwd=nanogpt, timeout=timeout(), **how)
            found = [float(loss) for loss in re.findall(r"val loss ([\d.]+)", done.stdout)]
            return {"loss": min(found), "of": len(found), "wall s": round(time.perf_counter() - start, 1)}

        rows.append(row_of("nanoGPT, train_shakespeare_char, 2,000 iterations", theirs))

    def ours(name: str, *options: str) -> dict:
        if nanogpt and (source := nanogpt / "data" / "shakespeare_char" / "input.txt").exists():
            text.write_bytes(source.read_bytes())
        elif not text.exists():
            folio("data", "shakespeare", "--output", str(text), folder=folder)
        start = time.perf_counter()
        folio(
            "pretrain", "--corpus", str(text), "--tokenizer", "char", "--block_size", "256", "--eval_steps", "0.1",
            "--per_device_train_batch_size", "4" if shape.tiny else "64", *wide, *options,
            "--output_dir", str(folder / name), folder=folder,
        )  # fmt: skip
        losses = [line["eval_loss"] for line in metrics(folder / name) if "eval_loss" in line]
        training = report(folder / name)["seconds"]["training"]
        return {
            "loss": round(min(losses), 4),
            "of": len(losses),
            "wall s": round(time.perf_counter() - start, 1),
            "training s": training,
        }

    heads = ["--num_attention_heads", "6", "--num_key_value_heads", "6"]
    wide = [] if shape.tiny else ["--num_hidden_layers", "6", "--hidden_size", "384", *heads]
    steps = ["--max_steps", "20" if shape.tiny else "1000"]
    rows.append(row_of("folio pretrain, the same shape", partial(ours, "race", *steps, "--dropout", "0.2")))
    if not shape.tiny:
        # Dropout of attention weights needs a kernel with a mask.
        without = ["--hidden_dropout", "0.2"]
        rows.append(row_of("no dropout in attention", partial(ours, "race-hidden", *steps, *without)))
        if seconds := rows[0].get("wall s"):
            minutes = ["--minutes", f"{seconds / 60:.2f}"]
            rows.append(row_of("the same, in nanoGPT's time", partial(ours, "race-time", *minutes, *without)))
    return rows


# checks


def difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """The largest difference of two sets of tensors, each against the size of what is expected."""
    if ours.keys() != theirs.keys():
        raise RuntimeError(f"other gradients: {sorted(ours.keys() ^ theirs.keys())[:3]}")
    return max(((ours[name] - theirs[name]).norm() / theirs[name].norm().clamp_min(1e-6)).item() for name in theirs)


def gradients(model, inputs: dict, dtype: torch.dtype, compile: str = "") -> dict[str, torch.Tensor]:
    """The loss and every gradient, in float32."""
    model.zero_grad()
    with torch.autocast(DEVICE, dtype=dtype, enabled=dtype != torch.float32):
        loss = compiled(model, compile)(**inputs, use_cache=False).loss
    loss.backward()
    found = {name: p.grad.float().clone() for name, p in model.named_parameters() if p.grad is not None}
    if not all(gradient.abs().sum() for gradient in found.values()):
        raise RuntimeError("a gradient is zero")
    return {**found, "loss": loss.detach().float()}


def same_gradients(
    shape: Shape, preset: str, dtype: torch.dtype, chunk: int | None, packed: bool, compile: str
) -> dict:
    """Against `eager` attention, the whole loss and no compiler, in float32 of the highest precision."""
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("highest")
    model = shape.ours(preset, attention="eager", num_hidden_layers=2).to(DEVICE).train()
    inputs = shape.batches(packed, rows=min(shape.batch, 4))  # eager attention holds a (B, H, T, T) matrix
    expected = gradients(model, inputs, torch.float32)
    model.set_attn_implementation("varlen" if packed else "sdpa")
    model.loss_chunk_size = chunk
    found = difference(gradients(model, inputs, dtype, compile), expected)
    return {"result": f"{found:.1e}", "ok": found <= TOLERANCE[dtype]}


def same_curve(folder: Path, *options: str) -> dict:
    """A run that is stopped and resumed against one that is not."""
    short = [
        "--corpus",
        "python-manual",
        "--eval_strategy",
        "no",
        "--logging_steps",
        "1",
        "--save_steps",
        "5",
        *options,
    ]
    folio("pretrain", *short, "--max_steps", "10", "--output_dir", "whole", "--overwrite", folder=folder)
    folio("pretrain", *short, "--max_steps", "10", "--output_dir", "parts", "--overwrite", folder=folder)
    for path in (folder / "parts").glob("checkpoint-10"):
        path.rename(folder / "dropped")
    folio("pretrain", *short, "--max_steps", "10", "--output_dir", "parts", "--resume", folder=folder)
    losses = [
        {line["step"]: line["loss"] for line in metrics(folder / run) if "loss" in line} for run in ("whole", "parts")
    ]
    found = max(abs(losses[0][step] - losses[1][step]) for step in losses[0])
    limit = 0 if "--full_determinism" in options else 1e-2
    return {"result": f"losses differ by {found:.1e}", "ok": found <= limit}


def same_texts(shape: Shape, preset: str) -> dict:
    """Texts of several rows of `folio serve` by CUDA graphs against those without, in float32."""
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("highest")
    model = shape.ours(preset, initializer_range=0.3, num_hidden_layers=2).to(DEVICE).eval()
    given = {"rows": 5, "new": 40}
    is_same = served(model, True, **given)[0] == served(model, False, **given)[0]
    return {"result": "the same tokens" if is_same else "other tokens", "ok": is_same}


def commands(shape: Shape, folder: Path) -> Iterator[tuple[str, Callable[[], dict]]]:
    """Each command of a user's, on the model that the one before has made."""
    chats = [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "Yes."}]}
        for n in range(64)
    ]
    pairs = [{"prompt": f"{n}?", "chosen": "Yes.", "rejected": "No."} for n in range(64)]
    for name, rows in (("chats", chats), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "held.txt").write_text("The held-out text of a small check. " * 50)

    def says(*words: str, fails: bool = False) -> Callable[[], dict]:
        def run() -> dict:
            said = folio(*words, folder=folder, fails=fails).strip().splitlines()
            if any("Traceback" in line for line in said) or (fails and " GB" not in said[-1]):
                raise RuntimeError(said[-1])
            return {"result": said[-1][:120] if said else "", "ok": True}

        return run

    steps, manual = ["--max_steps", "8", "--overwrite"], ["--corpus", "python-manual", "--output_dir"]
    yield "pretrain, bf16", says("pretrain", *manual, "base", *steps, "--bf16", "true")
    if CUDA:
        yield "pretrain, fp16", says("pretrain", *manual, "half", *steps, "--fp16")
        yield "pretrain, compiled", says("pretrain", *manual, "compiled", *steps, "--torch_compile")
    yield "generate", says("generate", "--model", "base", "--prompt", "The", "--max_new_tokens", "8")
    yield "evaluate", says("evaluate", "--model", "base", "--data", "held.txt")
    if importlib.util.find_spec("trl"):
        tuned = ["--model", "base", *steps, "--output_dir"]
        yield "finetune sft, LoRA", says("finetune", "sft", *tuned, "lora", "--method", "lora", "--data", "chats.jsonl")
        yield "finetune dpo", says("finetune", "dpo", *tuned, "dpo", "--data", "pairs.jsonl")
    if importlib.util.find_spec("chromadb"):
        yield "rag sync", says("rag", "sync", "python-manual" if CUDA else "held.txt", "--index", "index")
    if CUDA:
        size = ["--size", "medium", "--block_size", "65536", "--activation_checkpointing", "true"]
        size += ["--preset", "gpt2", "--attn_implementation", "eager"]
        yield "out of memory", says("pretrain", *manual, "large", *size, *steps, fails=True)


def predicted_memory(folder: Path) -> dict:
    """What `folio estimate` says a step takes against what it took."""
    given = ["--size", "micro", "--per_device_train_batch_size", "64"]
    said = folio("estimate", *given, folder=folder)
    folio("pretrain", "--corpus", "python-manual", *given, "--max_steps", "8", "--output_dir", "memory", folder=folder)
    taken = report(folder / "memory")["peak_memory_bytes"] / 2**30
    return {"result": f"took {taken:.2f} GB; {' '.join(line for line in said.splitlines() if 'GB' in line)[:200]}"}


def checks(shape: Shape, folder: Path) -> list[dict]:
    rows, chunk = [], 32 if shape.tiny else 512
    presets = ["folio", "window"] if shape.tiny else ["folio", "llama", "gpt2", "vaswani", "speedrun", "window"]
    dtypes = [torch.float32, torch.bfloat16, torch.float16] if CUDA else [torch.float32]
    cases = [
        (p, d, size, packed, "") for p in presets for d in dtypes for size, packed in ((None, False), (chunk, True))
    ]
    if not shape.tiny:
        cases += [
            (p, torch.bfloat16, chunk, True, how) for p in ("folio", "speedrun", "window") for how in ("parts", "whole")
        ]
    for preset, dtype, size, packed, how in cases:
        kind = [preset, str(dtype)[6:], "chunked" if size else "all logits", "packed" if packed else "plain"]
        measure = partial(same_gradients, shape, preset, dtype, size, packed, how)
        rows.append(row_of(", ".join([*kind, how or "eager"]), measure))
    rows += [row_of(f"CUDA graphs, {preset}", partial(same_texts, shape, preset)) for preset in presets]
    rows += [row_of(name, run) for name, run in commands(shape, folder)]
    rows.append(row_of("resume", partial(same_curve, folder)))
    if CUDA:
        rows.append(row_of("resume, --full_determinism", partial(same_curve, folder, "--full_determinism")))
        rows.append(row_of("memory", partial(predicted_memory, folder)))
    return rows


PARTS = ("step", "race", "decode", "pretrain", "checks")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    options.add_argument("--nanogpt", type=Path, help="a clone of nanoGPT, to compare with")
    options.add_argument("--minutes", type=float, default=8, help="when the visit ends")
    options.add_argument("--tiny", action="store_true", help="try the script, with next to nothing")
    chosen = options.parse_args()
    UNTIL[0] = time.monotonic() + 60 * chosen.minutes
    shape = Shape(chosen.tiny)
    nanogpt = chosen.nanogpt and chosen.nanogpt.expanduser().resolve()
    figures = {}
    with tempfile.TemporaryDirectory() as name, contextlib.suppress(KeyboardInterrupt):
        run = {
            "checks": partial(checks, shape, Path(name)),
            "step": partial(step, shape, nanogpt),
            "pretrain": partial(pretrain, shape, Path(name)),
            "race": partial(race, shape, Path(name), nanogpt),
            "decode": partial(decode, shape),
        }
        for part in chosen.only:
            try:
                figures[part] = run[part]()
            except Exception as error:
                figures[part] = [{"what": part, "result": f"{type(error).__name__}: {error}"}]
            write(chosen.json, figures)  # after each part: a visit may end at any time
    where = torch.cuda.get_device_name() if CUDA else "no GPU: these figures say nothing about speed"
    for part, rows in figures.items():
        columns = list(dict.fromkeys(key for row in rows for key in row))
        show(part, [{key: row.get(key, "") for key in columns} for row in rows], f"{where}.")


if __name__ == "__main__":
    main()
