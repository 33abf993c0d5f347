"""Two processes compute what one does: DDP, FSDP2 and tensor parallel, over gloo on CPU."""

import json

import process_groups
import pytest
import torch
from safetensors.torch import load_file

from foliogpt.modeling import FolioForCausalLM

IDS = torch.randint(3, 99, (4, 12), generator=torch.Generator().manual_seed(1))

WAYS = ["ddp", "fsdp", "tensor"]
PRESETS = ["folio", "gpt2"]

# All of them in one launch. Each job: (way, checkpoint, file for the weights).
WORKER = """
import json, os, sys
import torch, torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from foliogpt.modeling import FolioForCausalLM

def train(way, checkpoint, out):
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
            mesh = dist.init_device_mesh("cpu", (2,))
            for layer in model.model.layers:
                fully_shard(layer, mesh=mesh)
            run = fully_shard(model, mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(2):
        run(input_ids=mine, labels=mine).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    whole = {n: p.full_tensor() if isinstance(p, DTensor) else p for n, p in model.named_parameters()}
    if rank == 0:
        save_file({n: w.detach().clone().contiguous() for n, w in whole.items()}, out)

dist.init_process_group("gloo")
rank = dist.get_rank()
for job in json.loads(sys.argv[1]):
    train(*job)
dist.barrier()
dist.destroy_process_group()
os._exit(0)  # gloo's threads may outlive the group, and end an interpreter that shuts down by SIGABRT
"""


@pytest.fixture(scope="module")
def trained(tiny_config, tmp_path_factory):
    """The folder with each preset's model, and with the weights that two processes have come to in each way."""
    folder = tmp_path_factory.mktemp("distributed")
    torch.manual_seed(0)
    for preset in PRESETS:
        FolioForCausalLM(tiny_config(preset)).save_pretrained(folder / preset)
    jobs = [(way, preset, f"{way}-{preset}.safetensors") for way in WAYS for preset in PRESETS]
    process_groups.run([WORKER, json.dumps(jobs)], 2, cwd=folder)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("way", WAYS)
def test_two_processes_take_the_steps_of_one(trained, way, preset):
    model = FolioForCausalLM.from_pretrained(trained / preset).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(2):
        model(IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    weights = load_file(trained / f"{way}-{preset}.safetensors")
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(weights[name], parameter.detach(), atol=1e-5, rtol=1e-4, msg=name)
