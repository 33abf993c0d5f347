"""Two processes compute what one does: DDP, FSDP2 and tensor parallel, over gloo on CPU."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from foliogpt.modeling import FolioForCausalLM

IDS = torch.randint(3, 99, (4, 12), generator=torch.Generator().manual_seed(1))

WORKER = """
import os, sys
import torch, torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from foliogpt.modeling import FolioForCausalLM

way, checkpoint, out = sys.argv[1:]
dist.init_process_group("gloo")
rank = dist.get_rank()
ids = torch.randint(3, 99, (4, 12), generator=torch.Generator().manual_seed(1))
if way == "tensor":
    model = FolioForCausalLM.from_pretrained(checkpoint, tp_plan="auto").train()
    assert any(isinstance(p, DTensor) for p in model.parameters()) or dist.get_world_size() == 1
    mine, run = ids, model
else:
    model = FolioForCausalLM.from_pretrained(checkpoint).train()
    mine = ids.chunk(2)[rank]
    if way == "ddp":
        run = torch.nn.parallel.DistributedDataParallel(model)
    else:
        from torch.distributed.fsdp import fully_shard
        mesh = dist.init_device_mesh("cpu", (2,))
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        run = fully_shard(model, mesh=mesh)
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
for _ in range(2):
    run(input_ids=mine, labels=mine).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
weights = {n: (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone() for n, p in model.named_parameters()}
if rank == 0:
    save_file({n: w.contiguous() for n, w in weights.items()}, out)
dist.barrier()
dist.destroy_process_group()
os._exit(0)  # gloo's threads may outlive the group, and end an interpreter that shuts down by SIGABRT
"""


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
@pytest.mark.parametrize("preset", ["folio", "gpt2"])
@pytest.mark.parametrize("way", ["ddp", "fsdp", "tensor"])
def test_two_processes_take_the_steps_of_one(tiny, way, preset, tmp_path):
    model = FolioForCausalLM(tiny(preset)).train()
    model.save_pretrained(tmp_path / "model")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(2):
        model(IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    (tmp_path / "worker.py").write_text(WORKER)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, str(tmp_path / "worker.py"), way, str(tmp_path / "model"), str(tmp_path / "out.safetensors")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    weights = load_file(tmp_path / "out.safetensors")
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(weights[name], parameter.detach(), atol=1e-5, rtol=1e-4, msg=name)
