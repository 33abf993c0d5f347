"""A command that runs as if on a GPU computes what a CPU does, and fails where a GPU would."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
RUN = ROOT / "tests" / "gpu_stand_in" / "run.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.version.cuda is None or sys.platform != "linux", reason="this torch has no CUDA"),
]

COMPUTES = """
import torch
from foliogpt.modeling import FolioForCausalLM, preset_config

torch.manual_seed(0)
config = preset_config("folio", "nano", vocab_size=64, num_hidden_layers=2)
ids = torch.randint(1, 64, (2, 16))
positions = torch.cat([torch.arange(10), torch.arange(6)]).expand(2, -1)
expected = None
for device, attention in (("cpu", "eager"), ("cuda", "eager"), ("cuda", "sdpa"), ("cuda", "varlen")):
    torch.manual_seed(0)
    model = FolioForCausalLM(config).to(device).train()
    model.set_attn_implementation(attention)
    inputs = {"input_ids": ids.to(device), "labels": ids.to(device), "position_ids": positions.to(device)}
    with torch.autocast(device, dtype=torch.bfloat16, enabled=attention == "varlen"):
        loss = model(**inputs, use_cache=False).loss
    loss.backward()
    found = torch.cat([loss.detach().flatten(), *(p.grad.flatten() for p in model.parameters())]).cpu()
    expected = found if expected is None else expected
    difference = ((found - expected).norm() / expected.norm()).item()
    assert difference < (3e-2 if attention == "varlen" else 1e-5), (device, attention, difference)

graph, x = torch.cuda.CUDAGraph(), torch.ones(3, device="cuda")
with torch.cuda.graph(graph):
    y = x * 2 + 1
x.fill_(5)
graph.replay()
assert y.tolist() == [11, 11, 11]
"""
WAITS = """
import torch
x = torch.ones(3, device="cuda")
with torch.cuda.graph(torch.cuda.CUDAGraph()):
    x.sum().item()
"""
TOO_LARGE = "import torch; torch.empty(10**10, device='cuda')"
ELSEWHERE = "import torch; torch.ones(3, device='cuda') + torch.ones(3)"


def run(program: str) -> subprocess.CompletedProcess:
    command = [sys.executable, RUN, sys.executable, "-c", program]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_results_are_those_of_a_cpu():
    done = run(COMPUTES)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("program", "error"),
    [(WAITS, "when stream is capturing"), (TOO_LARGE, "CUDA out of memory"), (ELSEWHERE, "on the same device")],
    ids=["wait", "memory", "device"],
)
def test_what_a_gpu_rejects_is_rejected(program, error):
    done = run(program)
    assert done.returncode == 1
    assert error in done.stderr
