"""Proof that a checkpoint needs nothing of ours: load it where this package cannot be imported."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from .self_check import FILE as SELF_CHECK

# Runs in a fresh interpreter. None in sys.modules makes every import of the package fail.
STRANGER = """
import sys
sys.modules["foliogpt"] = None
checkpoint, ids_file, logits_file, threads, self_check = sys.argv[1:]
import runpy
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
torch.set_num_threads(int(threads))
AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)  # the tokenizer has no code; asks nobody
model = AutoModelForCausalLM.from_pretrained(checkpoint, trust_remote_code=True).eval()
assert not model.__class__.__module__.startswith("foliogpt")
runpy.run_path(self_check)["check_cache"](model)
with torch.no_grad():
    save_file({"logits": model(load_file(ids_file)["ids"]).logits}, logits_file)
"""


def logits_of_stranger(checkpoint: str | Path, input_ids: torch.Tensor) -> torch.Tensor:
    """Logits (B, T, V) of a local checkpoint for `input_ids` (B, T), computed by a process that has no foliogpt.

    Raises:
        RuntimeError: if the checkpoint does not load there, or generates wrongly; with the last line of what that
            process said.
    """
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / name) for name in ("ids.safetensors", "logits.safetensors")]
        save_file({"ids": input_ids}, files[0])
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(Path(folder) / "modules")}
        command = [
            sys.executable,
            "-c",
            STRANGER,
            str(Path(checkpoint).resolve()),
            *files,
            str(torch.get_num_threads()),
            str(SELF_CHECK),
        ]
        done = subprocess.run(
            command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if done.returncode:
            last_line = (done.stderr.strip() or "no message").splitlines()[-1]
            raise RuntimeError(f"{checkpoint} does not work in a process without foliogpt: {last_line}")
        return load_file(files[1])["logits"]
