"""LoRA against full fine-tuning at 124M parameters, and our LoRA run against TRL's plain use on a stock Llama.

    python -m benchmarks.finetuning
    python -m benchmarks.finetuning --only trl --json finetuning.json

Each side is a process of its own, so that its memory at the peak is its own. All train on the same chats, all of the
same length, in float32. Run it with nothing else going on.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from .tables import parser, show, write

WORDS = [
    "the",
    "play",
    "is",
    "about",
    "a",
    "king",
    "who",
    "gave",
    "his",
    "land",
    "away",
    "to",
    "those",
    "who",
    "loved",
    "him",
]
STEPS, LENGTH = 6, 256
SIDES = {  # side: (base, size, vocabulary)
    "full": ("gpt2", "small", 50257),  # 124M parameters
    "lora": ("gpt2", "small", 50257),
    "ours": ("llama", "mini", 4096),
    "trl": ("stock", "mini", 4096),
}


def prepare(folder: Path, base: str, size: str, vocab_size: int) -> None:
    """A base with random weights and its tokenizer, and chats of more than `LENGTH` tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from foliogpt.modeling import FolioForCausalLM, preset_config
    from foliogpt.tokenization import chat_tokenizer, train_tokenizer

    tokenizer, _ = chat_tokenizer(train_tokenizer([" ".join(WORDS)] * 9, 300, show_progress=False))
    torch.manual_seed(0)
    sizes = {"vocab_size": vocab_size, "max_position_embeddings": 512}
    preset = "llama" if base == "stock" else base
    config = preset_config(preset, size, **sizes, pad_token_id=tokenizer.pad_token_id)
    model = FolioForCausalLM(config)
    if base == "stock":
        fields = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
                  "head_dim", "intermediate_size", "tie_word_embeddings", "max_position_embeddings",
                  "pad_token_id")  # fmt: skip
        model = LlamaForCausalLM(LlamaConfig(**{name: getattr(config, name) for name in fields}))
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    rows = []
    for i in range(40):
        text = " ".join(WORDS[(i + j) % len(WORDS)] for j in range(LENGTH))
        rows.append({"messages": [{"role": "user", "content": f"{i}"}, {"role": "assistant", "content": text}]})
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def measure(side: str, folder: Path, batch_size: int) -> dict:
    """Train in this process, and say how long a step took and how much memory was held at the peak."""
    from transformers import TrainerCallback
    from transformers.trainer import DEFAULT_CALLBACKS

    from foliogpt.jobs.report import peak_memory_bytes
    from foliogpt.training.finetuning import finetuning  # noqa: F401  what both sides import

    times, libraries = [], psutil.Process().memory_info().rss

    class Clock(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            self.start = time.perf_counter()

        def on_step_end(self, args, state, control, **kwargs):
            times.append(time.perf_counter() - self.start)

    DEFAULT_CALLBACKS.append(Clock)
    train_ours(side, folder, batch_size) if side != "trl" else train_trl(folder, batch_size)
    peak = peak_memory_bytes()
    return {"steps": times[1:], "memory": peak, "training": peak - libraries}


def train_ours(side: str, folder: Path, batch_size: int) -> None:
    from foliogpt.scripts.cli import main

    options = ["--max_length", str(LENGTH), "--packing", "false", "--max_steps", str(STEPS), "--eval_strategy", "no"]
    options += ["--per_device_train_batch_size", str(batch_size), "--bf16", "false", "--save_strategy", "no"]
    options += ["--method", "full" if side == "full" else "lora", "--overwrite", "--output_dir", str(folder / "out")]
    files = ["--model", str(folder / "base"), "--data", str(folder / "chats.jsonl")]
    if main(["finetune", "sft", *files, *options]):
        sys.exit(1)


def train_trl(folder: Path, batch_size: int) -> None:
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    args = SFTConfig(
        str(folder / "out"), max_length=LENGTH, max_steps=STEPS, per_device_train_batch_size=batch_size, bf16=False,
        assistant_only_loss=True, activation_checkpointing=False, save_strategy="no", report_to=[], use_cpu=True,
    )  # fmt: skip
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(folder / "base"),
        args=args,
        train_dataset=load_dataset("json", data_files=str(folder / "chats.jsonl"), split="train"),
        processing_class=AutoTokenizer.from_pretrained(folder / "base"),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()


def run(side: str, batch_size: int) -> dict:
    """Measure a side in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), *SIDES[side])
        command = [sys.executable, "-m", "benchmarks.finetuning", "--side", side, "--folder", folder]
        command += ["--batch_size", str(batch_size)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr[-2000:])
        return json.loads(done.stdout.splitlines()[-1])


def compare(title: str, ours: str, against: str, batch_size: int, rounds: int) -> list[dict]:
    """Both sides in turns, so that a machine whose speed drifts is fair to both."""
    runs: dict[str, list[dict]] = {against: [], ours: []}
    for _ in range(rounds):
        for side, found in runs.items():
            found.append(run(side, batch_size))
    steps = {side: statistics.median(t for each in found for t in each["steps"]) for side, found in runs.items()}
    peaks = {side: [max(each[key] for each in found) for key in ("memory", "training")] for side, found in runs.items()}
    rows = [
        {
            "": side,
            "seconds a step": steps[side],
            "of that": steps[side] / steps[against],
            "GB at the peak": peaks[side][0] / 1e9,
            "of those": peaks[side][0] / peaks[against][0],
            "without the libraries": peaks[side][1] / 1e9,
            "of them": peaks[side][1] / peaks[against][1],
        }
        for side in runs
    ]
    show(title, rows, f"Batches of {batch_size} x {LENGTH} tokens, medians of {rounds * (STEPS - 1)} steps.")
    return rows


def main() -> None:
    options = parser(__doc__)
    options.add_argument(
        "--batch_size", type=int, default=1, help="examples of a step: their activations take memory, too"
    )
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--only", choices=["memory", "trl"])
    options.add_argument("--side", choices=list(SIDES))
    options.add_argument("--folder", type=Path)
    args = options.parse_args()
    if args.side:
        print(json.dumps(measure(args.side, args.folder, args.batch_size)))
        return
    figures = {}
    if args.only != "trl":
        figures["memory"] = compare(
            "LoRA against full fine-tuning, 124M parameters", "lora", "full", args.batch_size, args.rounds
        )
    if args.only != "memory":
        figures["trl"] = compare(
            "LoRA, ours against TRL's on a stock Llama, size mini", "ours", "trl", args.batch_size, args.rounds
        )
    write(args.json, figures)


if __name__ == "__main__":
    main()
