"""What saves memory in training, and what it costs: peak memory and tokens a second with each setting on and off.

    python -m benchmarks.memory
    python -m benchmarks.memory --sizes small --only "all off" "chunked loss" bf16

Each setting is a process of its own, which trains a few steps with `FolioTrainer` and Muon on random tokens. Every step
has the same number of tokens. The peak is of the whole process; "above start" is without what Python and the libraries
take. Tokens a second are those of the last step. Linux only. Run it with nothing else going on.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from transformers import TrainerCallback, set_seed

from foliogpt.data.packing import PackedCollator
from foliogpt.modeling import FolioForCausalLM, preset_config
from foliogpt.training.arguments import PretrainingArguments
from foliogpt.training.new_model import LOSS_CHUNK
from foliogpt.training.trainer import FolioTrainer

from .tables import parser, show, write

BLOCK = 512
SHAPES = {"mini": {"batch": 8, "steps": 3, "vocab": 4096}, "small": {"batch": 4, "steps": 2, "vocab": 50_257}}
CHUNKED = {"chunk": LOSS_CHUNK}
SETTINGS = {
    "all off": {},
    "chunked loss": CHUNKED,
    "gradient accumulation": {"accumulation": 4},
    "gradient checkpointing": {"checkpointing": True},
    "bf16": {"bf16": True},
    "all on": {**CHUNKED, "accumulation": 4, "checkpointing": True, "bf16": True},
    "vocabulary 32,768, all off": {"vocab": 32_768},
    "vocabulary 32,768, chunked loss": {"vocab": 32_768, **CHUNKED},
}


class Seconds(TrainerCallback):
    """Of the last step."""

    def on_step_begin(self, args, state, control, **kwargs):
        self.start = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.last = time.perf_counter() - self.start


def resident(kind: str) -> int:
    """Bytes that this process holds (VmRSS), or has held at the most (VmHWM)."""
    return 1024 * int(re.search(rf"{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def train(size: str, vocab=None, chunk=None, accumulation=1, checkpointing=False, bf16=False) -> dict:
    """A few steps, in this process."""
    set_seed(0)
    at_start = resident("VmRSS")
    batch, steps, vocab = SHAPES[size]["batch"], SHAPES[size]["steps"], vocab or SHAPES[size]["vocab"]
    blocks = Dataset.from_dict({"input_ids": torch.randint(1, vocab, (batch * steps, BLOCK)).tolist()})
    model = FolioForCausalLM(preset_config("folio", size, vocab_size=vocab, max_position_embeddings=BLOCK))
    model.loss_chunk_size = chunk
    clock = Seconds()
    with tempfile.TemporaryDirectory() as folder:
        args = PretrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=batch // accumulation,
            gradient_accumulation_steps=accumulation,
            activation_checkpointing=checkpointing,
            bf16=bf16,
            eval_strategy="no",
            save_strategy="no",
            logging_strategy="no",
        )
        trainer = FolioTrainer(
            model=model, args=args, train_dataset=blocks, data_collator=PackedCollator(0), callbacks=[clock]
        )
        trainer.train()
    peak = resident("VmHWM")
    return {
        "parameters": model.num_parameters(),
        "peak": peak,
        "above": peak - at_start,
        "speed": batch * BLOCK / clock.last,
    }


def rows_of(size: str, names: list[str]) -> list[dict]:
    """The table of a size; what is on is compared with what is off at the same vocabulary."""
    rows, off = [], {}
    for name in names:
        child = [sys.executable, "-m", "benchmarks.memory", "--child", json.dumps({"size": size, **SETTINGS[name]})]
        found = json.loads(subprocess.run(child, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        off = found if name.endswith("all off") else off
        rows.append(
            {
                "parameters": f"{found['parameters'] / 1e6:.0f}M",
                "setting": name,
                "peak GB": found["peak"] / 1e9,
                "above start GB": found["above"] / 1e9,
                "of all off": found["above"] / off["above"] if off else "",
                "tokens/s": round(found["speed"]),
                "of all off's": found["speed"] / off["speed"] if off else "",
            }
        )
    return rows


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--sizes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    options.add_argument("--only", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    options.add_argument("--child", type=json.loads, help="one setting, in this process")
    chosen = options.parse_args()
    if chosen.child:
        print(json.dumps(train(**chosen.child)))
        return
    figures = {}
    for size in chosen.sizes:
        figures[size] = rows_of(size, chosen.only)
        shape = SHAPES[size]
        note = f"{shape['batch']} x {BLOCK} tokens a step; vocabulary {shape['vocab']:,} where no other is said."
        show(f"Memory of training, size {size}", figures[size], note)
    write(chosen.json, figures)


if __name__ == "__main__":
    main()
