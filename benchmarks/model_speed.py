"""Folio presets against transformers' own classes of the same shape: training step, prefill, decode, memory.

    python -m benchmarks.model_speed
    python -m benchmarks.model_speed --sizes nano --json model_speed.json

The two take turns within one run, so that a machine whose speed drifts is fair to both. Ratios above 1 mean that
ours is faster. Run it with nothing else going on.
"""

import gc
import re
import statistics
import time
from multiprocessing import get_context
from pathlib import Path

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from foliogpt.modeling import FolioForCausalLM, preset_config

from .tables import parser, show, write

VOCAB, CONTEXT = 4096, 512


def pair(preset: str, size: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Our model and the stock one, of the same shape."""
    config = preset_config(preset, size, vocab_size=VOCAB, max_position_embeddings=CONTEXT)
    shape = {
        "vocab_size": VOCAB,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
    }
    modern = {
        **shape,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
        "tie_word_embeddings": True,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if preset == "gpt2":
        drop = {"embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0}
        special = {"n_positions": CONTEXT, "bos_token_id": None, "eos_token_id": None}
        theirs = GPT2LMHeadModel(GPT2Config(**shape, **special, **drop))
    elif preset == "llama":
        theirs = LlamaForCausalLM(LlamaConfig(**modern))
    else:
        theirs = Qwen3ForCausalLM(Qwen3Config(**modern))
    ours = FolioForCausalLM(config)
    if ours.num_parameters() != theirs.num_parameters():
        raise ValueError(f"{preset} {size}: {ours.num_parameters():,} parameters against {theirs.num_parameters():,}.")
    return ours, theirs


def train_step(model: torch.nn.Module, chunked: bool):
    """A function that takes one AdamW step on 4 x 256 tokens."""
    model.train()
    if chunked:
        model.loss_chunk_size = 512
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids = torch.randint(0, VOCAB, (4, 256))

    def step():
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def prefill(model: torch.nn.Module):
    """A function that reads 4 x 256 tokens into a cache."""
    model.eval()
    ids = torch.randint(0, VOCAB, (4, 256))

    @torch.inference_mode()
    def step():
        model(input_ids=ids, use_cache=True, logits_to_keep=1)

    return step


def decode(model: torch.nn.Module):
    """A function that generates 32 tokens, one at a time."""
    model.eval()
    ids = torch.randint(0, VOCAB, (1, 16))

    @torch.inference_mode()
    def step():
        model.generate(ids, max_new_tokens=32, do_sample=False, pad_token_id=0)

    return step


def ratio(ours, theirs, rounds: int) -> dict:
    """Median milliseconds of each, and the quartiles of their ratios pair by pair."""
    for step in (ours, theirs):
        step()
    pairs = []
    for round_ in range(rounds):
        times = {}
        for name, step in (("ours", ours), ("theirs", theirs)) if round_ % 2 else (("theirs", theirs), ("ours", ours)):
            start = time.perf_counter()
            step()
            times[name] = 1e3 * (time.perf_counter() - start)
        pairs.append((times["ours"], times["theirs"]))
    low, middle, high = statistics.quantiles([theirs / ours for ours, theirs in pairs], n=4)
    return {
        "ours ms": statistics.median(ours for ours, _ in pairs),
        "stock ms": statistics.median(theirs for _, theirs in pairs),
        "ratio": f"{middle:.2f}",
        "half of the rounds": f"{low:.2f} to {high:.2f}",
    }


def speed(sizes: list[str], rounds: int) -> list[dict]:
    """Every job, preset and size."""
    jobs = {
        "training step": (lambda m: train_step(m, False), lambda m: train_step(m, False)),
        "training step, chunked loss": (lambda m: train_step(m, True), lambda m: train_step(m, False)),
        "prefill": (prefill, prefill),
        "decode": (decode, decode),
    }
    rows = []
    for size in sizes:
        for preset in ("gpt2", "llama", "folio"):
            for job, (make_ours, make_theirs) in jobs.items():
                ours, theirs = pair(preset, size)
                figures = ratio(make_ours(ours), make_theirs(theirs), rounds)
                rows.append({"preset": preset, "size": size, "job": job, **figures})
                gc.collect()
    return rows


def peak_of(kind: str, queue) -> None:
    """Peak memory of one training step at a vocabulary of 32k, above what the model and its gradient hold."""
    torch.manual_seed(0)
    config = preset_config("folio", "nano", vocab_size=32_768)
    model = FolioForCausalLM(config).train()
    model.loss_chunk_size = 512 if kind == "chunked" else None
    ids = torch.randint(0, 32_768, (4, 1024))
    model.model.embed_tokens.weight.grad = torch.zeros_like(model.model.embed_tokens.weight)
    model(input_ids=ids[:, :8], labels=ids[:, :8], use_cache=False).loss.backward()  # what is loaded at first use
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = resident_peak()
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    queue.put((resident_peak() - before, loss.item()))


def resident_peak() -> int:
    """The most kilobytes that this process held since the peak was last forgotten. Linux only."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def memory() -> list[dict]:
    """The stock loss against the chunked one, each in a process of its own."""
    rows = []
    for kind in ("stock", "chunked"):
        context = get_context("spawn")
        queue = context.SimpleQueue()
        process = context.Process(target=peak_of, args=(kind, queue))
        process.start()
        kilobytes, loss = queue.get()
        process.join()
        rows.append({"loss": kind, "peak MB": kilobytes / 1e3, "value": f"{loss:.6f}"})
    for row in rows:
        row["against stock"] = row["peak MB"] / rows[0]["peak MB"]
    return rows


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--sizes", nargs="+", default=["nano", "mini"])
    options.add_argument("--rounds", type=int, default=15)
    chosen = options.parse_args()
    rows = speed(chosen.sizes, chosen.rounds)
    show("Speed against transformers' classes", rows, f"float32, vocabulary {VOCAB}, {chosen.rounds} rounds.")
    peaks = memory()
    show("Memory of a training step", peaks, "folio nano, vocabulary 32,768, 4 x 1,024 tokens.")
    write(chosen.json, {"speed": rows, "memory": peaks})


if __name__ == "__main__":
    main()
