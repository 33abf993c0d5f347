"""Weights in fewer bits: size, time of a token, and bits per byte, by torchao and by llama.cpp.

    python -m benchmarks.quantization --model runs/mine --text held-out.txt
    python -m benchmarks.quantization --model runs/mine --text held-out.txt --json quantization.json

The rows of llama.cpp need `pip install 'foliogpt[gguf]' llama-cpp-python`; it is compiled for 10 to 20 minutes. Times
are those of the processor on one core, for 64 greedy tokens after a prompt of 16, the fastest of three runs. Bits per
byte of a GGUF file are those of the weights that transformers reads out of it.
"""

import argparse
import importlib.util
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from foliogpt.checkpoints.conversion import convert
from foliogpt.checkpoints.loading import context_length, load_model
from foliogpt.checkpoints.quantization import quantize

from .tables import parser, show, write

PROMPT, NEW = 16, 64  # tokens
TORCH = {"float32": (torch.float32, None), "bfloat16": (torch.bfloat16, None)}
TORCH |= {"int8": (torch.float32, "int8"), "int8, bfloat16": (torch.bfloat16, "int8"), "int4": (torch.float32, "int4")}
# By llama.cpp, from the file in float32; the other rows are files of ours, `convert`'s `quantize` by their names.
GGUF = {"Q8_0 by llama.cpp": "LLAMA_FTYPE_MOSTLY_Q8_0", "Q4_K_M": "LLAMA_FTYPE_MOSTLY_Q4_K_M"}
OURS = {"float32": None, "Q8_0": "q8_0"}


def main() -> None:
    options = arguments().parse_args()
    torch.set_num_threads(1)
    rows = [measured(name, *kind) for name, *kind in (*by_torch(options), *by_llama_cpp(options))]
    exact = rows[0]["bits per byte"]
    for row in rows:
        row |= {"lost": f"{row['bits per byte'] / exact - 1:.2%}", "bits per byte": f"{row['bits per byte']:.4f}"}
    show(f"{options.model}: weights in fewer bits", rows)
    write(options.json, {"rows": rows})


def arguments() -> argparse.ArgumentParser:
    options = parser(__doc__)
    options.add_argument("--model", required=True, help="checkpoint's directory")
    options.add_argument("--text", required=True, type=Path, help="text that the model was not trained on")
    return options


def measured(name: str, megabytes: float, generate: Callable[[], object], bits_per_byte: float) -> dict:
    times = []
    for _ in range(3):
        before = time.process_time()
        generate()
        times.append((time.process_time() - before) / NEW * 1000)
    return {"": name, "MB": megabytes, "ms a token": min(times), "bits per byte": bits_per_byte}


def by_torch(options: argparse.Namespace) -> Iterator[tuple]:
    """Yield the name, megabytes, generation and bits per byte of each dtype that PyTorch computes with."""
    for name, (dtype, bits) in TORCH.items():
        model, tokenizer = load_model(options.model)
        model = model.to("cpu", dtype)
        if bits is not None:
            quantize(model, bits)
        ids = tokenizer(options.text.read_text(encoding="utf-8"), return_tensors="pt").input_ids[:, :PROMPT]
        generate = partial(model.generate, ids, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
        yield name, size(model), generate, score(model, tokenizer, options.text)


def by_llama_cpp(options: argparse.Namespace) -> Iterator[tuple]:
    """Yield the same of each kind of GGUF file, if llama.cpp is installed."""
    if importlib.util.find_spec("llama_cpp") is None:
        return
    import llama_cpp

    _, tokenizer = load_model(options.model)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, "float32.gguf")
        for name in (*OURS, *GGUF):
            path = Path(folder, f"{name}.gguf")
            if name in OURS:
                convert(options.model, path, "gguf", OURS[name])
            else:
                settings = llama_cpp.llama_model_quantize_default_params()
                settings.ftype, settings.nthread = getattr(llama_cpp, GGUF[name]), 1
                if llama_cpp.llama_model_quantize(bytes(whole), bytes(path), settings) != 0:
                    raise RuntimeError(f"llama.cpp could not quantize {whole}.")
            theirs = llama_cpp.Llama(str(path), n_ctx=PROMPT + NEW, n_threads=1, verbose=False)
            ids = theirs.tokenize(options.text.read_bytes()[:400], add_bos=False)[:PROMPT]

            def generate(theirs=theirs, ids=ids) -> None:
                theirs.reset()
                for done, _ in enumerate(theirs.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0), 1):
                    if done == NEW:
                        return

            read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=path.name, dtype=torch.float32).eval()
            yield f"GGUF, {name}", path.stat().st_size / 1e6, generate, score(read, tokenizer, options.text)


def size(model: PreTrainedModel) -> float:
    """Return the megabytes of the weights, those that are shared counted once."""
    weights = [getattr(weight, part) for weight in model.parameters() for part in parts_of(weight)]
    return sum(part.nbytes for part in weights) / 1e6


def parts_of(weight: torch.Tensor) -> list[str]:
    """Return the names of the tensors that a weight consists of: integers, scales and zero points, if it has any."""
    return getattr(weight.data, "tensor_data_names", ["data"])


@torch.no_grad()
def score(model: PreTrainedModel, tokenizer, path: Path) -> float:
    """Return the bits per byte of a text, cut into contexts of the model of 512 tokens at most."""
    ids = tokenizer(path.read_text(encoding="utf-8"), return_tensors="pt", verbose=False).input_ids[0]
    length = min(context_length(model) or 512, 512)
    rows = ids[: len(ids) // length * length].view(-1, length)
    nats = sum(model(row[None], labels=row[None]).loss.item() * (length - 1) for row in rows)
    return nats / math.log(2) / len(tokenizer.decode(rows.flatten()).encode())


if __name__ == "__main__":
    main()
