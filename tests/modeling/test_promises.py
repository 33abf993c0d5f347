"""Folio models, imported and as remote code, do what stock models with the same weights do.

The list is in `promises.py`. Remote code runs in processes that cannot import the package.
"""

import numbers
import os
import subprocess
import sys

import promises
import pytest
import torch
from tiny_models import TINY

from foliogpt.checkpoints import convert
from foliogpt.modeling import FolioForCausalLM, preset_config

# What stock models refuse as well: a library or a GPU is missing, or there is no such thing.
REFUSED = {
    "loading/unknown field",
    "loading/unknown attention",
    "decoding/offloaded cache",
    "decoding/quantized cache",
    "decoding/unknown cache",
    "decoding/groups of beams",
    "decoding/contrastive",
    "decoding/dola",
    "decoding/stop strings alone",
    "decoding/no new token",
    "decoding/unknown argument",
    "pipelines/masked",
    "pipelines/answers",
    "tuners/lora, a module that is not there",
    "tuners/lora, a module that is not there, used",
    "trainer/liger",
    "trainer/galore",
    "trainer/layerwise",
    "trainer/optim adamw_8bit",
    "trainer/optim lion_32bit",
    "trainer/optim schedule_free_adamw",
    *(name for name in promises.QUICK if name.startswith("quantizers/") and name.endswith("Config")),
}
TWINS = {"llama": "llama", "folio": "qwen3"}  # presets, and the stock models that compute the same
# Where the stock models do something else.
VIRTUAL_TOKENS = ("prompt_tuning", "prefix_tuning", "p_tuning", "cartridge", "cpt", "multitask_prompt_tuning")
IN_ORDER = "draws random weights in the order of gate and up, and ours is up and gate"
LLAMA_DIFFERS = {
    # PEFT 0.21 gives transformers 5.24 the cache under its old name, and Llama generates wrong text from it.
    "tuners/lora, all linear": IN_ORDER,
    "tuners/lora, all linear, used": IN_ORDER,
    "tuners/shadow, used": IN_ORDER,
    **{f"tuners/{name}, used": "its tokens are not those that its logits say" for name in VIRTUAL_TOKENS},
}
QWEN3_DIFFERS = {
    **LLAMA_DIFFERS,
    "loading/fewer layers": "its layer_types cannot be saved",
    "loading/more layers": "its layer_types have no entry",
    "trainer/bf16": "rounding",
    "tuners/ia3": "PEFT chooses other modules of it",
    "tuners/ia3, used": "PEFT chooses other modules of it",
    "tuners/ln_tuning": "PEFT chooses other modules of it",
    "tuners/ln_tuning, used": "PEFT chooses other modules of it",
    "tuners/adaption_prompt": "PEFT does not know it",
    "tuners/adaption_prompt, used": "PEFT does not know it",
    "tuners/lora, replication": "its layer_types have no entry",
    "tuners/lora, replication, used": "its layer_types have no entry",
}
LISTS = [
    pytest.param((preset, which), id=f"{TWINS[preset]}-{which}", marks=[pytest.mark.slow] * (which == "slow"))
    for which in promises.LISTS
    for preset in TWINS
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """A folder with Folio checkpoints, named after their presets, and the stock twin of each."""
    folder = tmp_path_factory.mktemp("promises")
    for preset, twin in TWINS.items():
        torch.manual_seed(0)
        fields = {**TINY, "vocab_size": promises.V, "initializer_range": 0.2, "residual_init": "normal"}
        FolioForCausalLM(preset_config(preset, "nano", **fields)).save_pretrained(folder / preset)
        tokenizer.save_pretrained(folder / preset)
        convert(folder / preset, folder / f"stock-{preset}", to=twin)
    return folder


@pytest.fixture(scope="module")
def remote(request, folder):
    """What comes of the lists that are tested for both checkpoints, by remote code in one process."""
    tested = [item.callspec.params["ours"][1] for item in request.session.items if item.path == request.path]
    lists = [which for which in promises.LISTS if which in tested]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(folder / "modules")}
    command = [sys.executable, promises.__file__, "outcomes.pt", ",".join(lists), *TWINS]
    streams = {"stdin": subprocess.DEVNULL, "capture_output": True}
    done = subprocess.run(command, cwd=folder, env=environment, text=True, **streams)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "outcomes.pt", weights_only=False)


@pytest.fixture(scope="module", params=LISTS)
def ours(request, folder):
    """A preset, the name of a list, and what comes of the list for the imported model."""
    preset, which = request.param
    return preset, which, promises.outcomes(folder / preset, which=promises.LISTS[which])


def difference(ours, theirs, path="", tolerance=1e-4) -> str | None:
    """Where two outcomes differ, or None. Errors are compared by their kinds, for their messages name classes."""
    if isinstance(ours, promises.Refusal) or isinstance(theirs, promises.Refusal):
        same = type(ours) is type(theirs) and ours.kind == theirs.kind
        return None if same else f"{path}: {ours} <> {theirs}"
    if torch.is_tensor(ours) and torch.is_tensor(theirs) and ours.shape == theirs.shape:
        tolerance = 0.1 if ours.dtype == torch.bfloat16 else tolerance
        if torch.allclose(ours.float(), theirs.float(), atol=tolerance, rtol=10 * tolerance, equal_nan=True):
            return None
        return f"{path}: up to {(ours.float() - theirs.float()).abs().max():.2g} apart"
    if isinstance(ours, (list, tuple)) and isinstance(theirs, (list, tuple)) and len(ours) == len(theirs):
        pairs = zip(range(len(ours)), ours, theirs, strict=True)
    elif isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        pairs = ((key, ours[key], theirs[key]) for key in ours)
    elif isinstance(ours, numbers.Real) and not isinstance(ours, bool):
        return None if ours == pytest.approx(theirs, rel=1e-3, abs=1e-4) else f"{path}: {ours} <> {theirs}"
    else:
        is_same = not torch.is_tensor(ours) and ours == theirs
        return None if is_same else f"{path}: {str(ours)[:300]} <> {str(theirs)[:300]}"
    return next(filter(None, (difference(a, b, f"{path}[{key}]") for key, a, b in pairs)), None)


def differences(ours: dict, theirs: dict) -> list[str]:
    assert ours.keys() == theirs.keys()
    return list(filter(None, (difference(ours[name], theirs[name], name) for name in ours)))


def test_the_imported_model_does_what_its_stock_twin_does(ours, folder):
    preset, which, found = ours
    stock = promises.outcomes(folder / f"stock-{preset}", which=promises.LISTS[which])
    known = QWEN3_DIFFERS if TWINS[preset] == "qwen3" else LLAMA_DIFFERS
    assert not [line for line in differences(found, stock) if line.split(":")[0].split("[")[0] not in known]


def test_an_adapter_generates_what_its_logits_say(ours):
    key = "generates what the logits say"
    wrong = [name for name, what in ours[2].items() if isinstance(what, dict) and what.get(key, True) is not True]
    assert not wrong


def test_the_remote_code_does_what_the_imported_model_does(ours, remote):
    preset, which, found = ours
    assert not differences(found, remote[which, preset])


def test_nothing_is_refused_but_what_stock_models_refuse(ours):
    _, which, found = ours
    refused = {name: outcome for name, outcome in found.items() if isinstance(outcome, promises.Refusal)}
    assert set(refused) == REFUSED & set(promises.LISTS[which]), refused
