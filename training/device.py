"""Settings of a run on a GPU: precision, attention kernel, size of the loss's chunks; none changes the batch."""

import logging
import os
import shutil
import sys
from pathlib import Path

import torch
from accelerate.utils import TorchDynamoPlugin, compile_regions
from transformers import PreTrainedModel
from transformers.utils.import_utils import enable_tf32

from ..data.packed_corpus import PackedCorpora
from ..jobs.report import Stages
from ..modeling import FolioForCausalLM
from ..modeling.packed_attention import VARLEN, kernel_can_run
from .arguments import ModelArguments, PretrainingArguments
from .memory import available_bytes

logger = logging.getLogger(__name__)

KEEP_DOCUMENTS_APART = ("eager", "sdpa", "flex_attention", VARLEN)  # FlashAttention 2 does not, in several rows
LOSS_CHUNK = 8192  # tokens; on an H200 the same speed as all at once, and 512 take 10 % more time
LOGITS_SHARE = 1 / 8  # of the free memory, for the logits of a chunk
LOADERS = 2  # processes that read batches
BUSY_TOKENS = 2**16  # in a step, below which a small model leaves a GPU idle
GPU_FILE = Path("/dev/nvidia0")


def choose_for_device(
    network: PreTrainedModel, data: PackedCorpora, model: ModelArguments, args: PretrainingArguments, stages: Stages
) -> None:
    """Set what is not given by the device of the run; raises ValueError for an unusable kernel or compiler."""
    asked = model.attn_implementation
    if asked not in (None, *KEEP_DOCUMENTS_APART):
        raise ValueError(
            f"attn_implementation is {asked!r}, which does not keep packed documents apart: choose one of "
            f"{', '.join(KEEP_DOCUMENTS_APART)}, or leave it out."
        )
    if asked is not None:
        network.set_attn_implementation(asked)
    check_compiler(args)
    if args.device.type != "cuda":
        if (reason := missing_gpu()) is not None:
            logger.warning("%s This run is on the CPU.", reason)
        return
    with stages("device") as say:
        say(f"{torch.cuda.get_device_name(args.device)}: {choose_precision(args)}")
        say(choose_attention(network, data, args, asked))
        if getattr(network, "loss_chunk_size", None) is not None:
            fits = int(LOGITS_SHARE * available_bytes(args.device) / (12 * network.config.vocab_size))
            network.loss_chunk_size = max(network.loss_chunk_size, min(LOSS_CHUNK, fits))
        if not args.dataloader_num_workers and data.train_documents is not None:  # each would read other streams
            args.dataloader_num_workers = LOADERS
        if args.n_gpu > 1:
            args._n_gpu = 1  # Trainer would copy the model at each step, and multiply the batch
            say(f"1 of {torch.cuda.device_count()} GPUs (torchrun uses all, CUDA_VISIBLE_DEVICES chooses one)")
        tokens = args.global_batch_size * model.block_size
        if tokens < BUSY_TOKENS:
            rows = BUSY_TOKENS // model.block_size
            say(f"a step of {tokens:,} tokens is little: --per_device_train_batch_size {rows} may be faster per token")


def choose_precision(args: PretrainingArguments) -> str:
    """Choose bfloat16 if the GPU has it, otherwise float16; TF32 for what stays in float32."""
    if args.bf16 is None:
        args.set_bf16(not args.fp16 and torch.cuda.is_bf16_supported(including_emulation=False))
        if not args.bf16:
            args.fp16, args.mixed_precision = True, "fp16"
    if args.tf32 is None and torch.cuda.get_device_capability(args.device) >= (8, 0):
        enable_tf32(True)
    return "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"


def choose_attention(network, data: PackedCorpora, args: PretrainingArguments, asked: str | None) -> str:
    """Choose the kernel that needs no mask for packed documents, if it runs here; `data` then gives their lengths."""
    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
    if not isinstance(network, FolioForCausalLM) or asked not in (None, VARLEN):
        return f"attention {network.config._attn_implementation}"
    if not kernel_can_run(network.config, args.device, dtype):
        return "attention with a mask, as the flash kernel takes bf16 or fp16, no dropout, and GPUs since Ampere"
    network.set_attn_implementation(VARLEN)
    data.collator.gives_lengths = True
    return "attention without a mask"


def missing_gpu() -> str | None:
    """Return why a GPU that seems to be there is not used, None if none is there."""
    visible, cuda = os.environ.get("CUDA_VISIBLE_DEVICES", ""), torch.version.cuda
    if torch.cuda.is_available() or visible == "-1":
        return None
    if cuda is not None and visible:
        return f"CUDA_VISIBLE_DEVICES is {visible!r}, and there is no such GPU: unset it, or name one of nvidia-smi's."
    if not GPU_FILE.exists():
        return None
    remedy = "install one for CUDA" if cuda is None else f"its driver may be too old for CUDA {cuda}"
    return f"There is a GPU, but this torch ({torch.__version__}) cannot use it: {remedy}."


def check_compiler(args: PretrainingArguments) -> None:
    """Raise ValueError if `torch_compile` lacks what it compiles with."""
    variable, names = ("CC", ["gcc", "clang"]) if args.device.type == "cuda" else ("CXX", ["g++"])
    names = [os.environ[variable]] if variable in os.environ else names
    is_inductor = args.torch_compile and args.torch_compile_backend == "inductor"
    if is_inductor and sys.platform == "linux" and not any(map(shutil.which, names)):
        raise ValueError(
            f"torch_compile needs a compiler, and {' or '.join(names)} is not on the PATH: install it, name one in "
            f"the environment variable {variable}, or leave torch_compile out."
        )


def compiled(model: PreTrainedModel, args: PretrainingArguments):
    """Return the model as the trainer will compile it, with the same weights."""
    mode, is_regional = args.torch_compile_mode, args.torch_compile_mode is None
    plugin = TorchDynamoPlugin(backend=args.torch_compile_backend, mode=mode, use_regional_compilation=is_regional)
    return (compile_regions if is_regional else torch.compile)(model, **plugin.to_kwargs())
