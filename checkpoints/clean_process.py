"""Loading of a checkpoint in a process that cannot import foliogpt, to prove that it does not need it."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

SELF_CHECK = Path(__file__).with_name("self_check.py")
# The code of the process. None in sys.modules makes every import of the package fail.
SCRIPT = """
import sys
sys.modules["foliogpt"] = None
folder, trusted, self_check, threads, *inputs = sys.argv[1:]
import json
import runpy
import torch
import transformers
from safetensors.torch import save_file
torch.set_num_threads(int(threads))
trusted = bool(trusted)
config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trusted)
name = (config.architectures or [None])[0]
auto_map = getattr(config, "auto_map", None) or {}
auto = next((auto for auto, target in auto_map.items() if target.split(".")[-1] == name), None)
cls = getattr(transformers, auto or name or "AutoModel")
options = {"trust_remote_code": trusted} if auto else {}
model, info = cls.from_pretrained(folder, output_loading_info=True, **options)
if info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"]:
    wrong = {kind: sorted(map(str, names))[:3] for kind, names in info.items() if names}
    sys.exit(f"the weights are not those of the config: {wrong}")
runpy.run_path(self_check)["check_cache"](model.eval())
tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)  # it has no code
if inputs:
    with torch.no_grad():
        save_file({"logits": model(torch.tensor(json.loads(inputs[0]))).logits}, "logits.safetensors")
print(f"{type(model).__name__} of {model.num_parameters():,} parameters loads without foliogpt, ", end="")
print(f"and so does its tokenizer of {len(tokenizer):,} tokens")
"""


def load_in_clean_process(
    checkpoint: str | Path, trust_remote_code: bool = False, input_ids: torch.Tensor | None = None
) -> tuple[str, dict[str, torch.Tensor]]:
    """Load a local model, with any head, and its tokenizer without foliogpt, and check that it generates well.

    Returns a clause about it, and its `logits` (B, T, V) for given `input_ids` (B, T). Raises RuntimeError if it fails.
    """
    trust = "code" if trust_remote_code else ""
    arguments = [str(Path(checkpoint).resolve()), trust, str(SELF_CHECK), str(torch.get_num_threads())]
    if input_ids is not None:
        arguments.append(str(input_ids.tolist()))
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", SCRIPT, *arguments]
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(Path(folder) / "modules")}
        done = subprocess.run(command, env=env, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            last_line = (done.stderr.strip() or "no message").splitlines()[-1]
            raise RuntimeError(f"does not work in a process without foliogpt: {last_line}")
        outputs = {} if input_ids is None else load_file(Path(folder) / "logits.safetensors")
        return done.stdout.splitlines()[-1], outputs


def logits_in_clean_process(checkpoint: str | Path, input_ids: torch.Tensor) -> torch.Tensor:
    """Compute logits (B, T, V) for ids (B, T) without foliogpt; raises RuntimeError if that fails."""
    try:
        return load_in_clean_process(checkpoint, trust_remote_code=True, input_ids=input_ids)[1]["logits"]
    except RuntimeError as error:
        raise RuntimeError(f"{checkpoint} {error}") from None
