"""What it takes to convert a GPT-2-sized model: seconds, memory and the difference of the logits.

    python -m benchmarks.conversion
    python -m benchmarks.conversion --json conversion.json

Random weights, each conversion in a process of its own. Memory is the peak beyond that of the imports, in sizes of the
checkpoint that is read. Writes about 5 GB to the temporary directory; on Linux only.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from foliogpt.checkpoints.conversion import TEXT
from foliogpt.modeling import FolioForCausalLM, preset_config
from foliogpt.tokenization import train_tokenizer

from .tables import parser, show, write

# (from, to), in an order in which each finds what an earlier one made; `gpt2` and `folio` are made here.
STEPS = [
    ("gpt2", "gpt2-folio"),
    ("gpt2-folio", "gpt2-gpt2"),
    ("folio", "folio-qwen3"),
    ("folio-qwen3", "folio-folio"),
    ("folio", "folio.gguf"),
    ("gpt2-bf16", "bf16-folio"),
    ("bf16-folio", "bf16-gpt2"),
    ("folio-bf16", "bf16-qwen3"),
]
WORKER = """
import json, re, sys
import transformers
from foliogpt.checkpoints.conversion import convert

def peak_memory_bytes():  # getrusage would count what the parent held when it started this process
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

for name in ("GPT2LMHeadModel", "Qwen3ForCausalLM"):
    getattr(transformers, name)  # imported when they are named
before = peak_memory_bytes()
done = convert(*sys.argv[1:])
print(json.dumps({"kind": done.kind, "parameters": done.parameters, "dtype": done.dtype, "seconds": done.seconds,
                  "memory": peak_memory_bytes() - before,
                  "difference": max(done.random_difference, done.text_difference)}))
"""


def make_sources(folder: Path) -> None:
    """A GPT-2 of 124 million parameters, and a Folio model of as many dimensions."""
    tokenizer = train_tokenizer([TEXT * 3], 300, show_progress=False)
    native = GPT2LMHeadModel(GPT2Config())
    ours = FolioForCausalLM(preset_config("folio", "small", vocab_size=50257))
    for dtype, ending in ((torch.float32, ""), (torch.bfloat16, "-bf16")):
        for name, model in (("gpt2", native), ("folio", ours)):
            model.to(dtype).save_pretrained(folder / (name + ending))
            tokenizer.save_pretrained(folder / (name + ending))


def main() -> None:
    options = parser(__doc__).parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_sources(folder)
        for source, target in STEPS:
            to = target.rpartition(".")[2].rpartition("-")[2]
            command = [sys.executable, "-c", WORKER, str(folder / source), str(folder / target), to]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{source} to {to}: {done.stderr[-2000:]}")
            figures = json.loads(done.stdout.splitlines()[-1])
            bytes_read = sum(file.stat().st_size for file in (folder / source).glob("*.safetensors"))
            rows.append({
                "from": figures["kind"], "to": to, "dtype": figures["dtype"],
                "parameters": f"{figures['parameters']:,}", "checkpoint MB": round(bytes_read / 1e6),
                "seconds": figures["seconds"], "memory, in checkpoints": figures["memory"] / bytes_read,
                "largest difference": f"{figures['difference']:.1e}",
            })  # fmt: skip
    show("Conversions", rows, "Random weights; differences are of logits, in float32.")
    write(options.json, {"conversion": rows})


if __name__ == "__main__":
    main()
