"""How good a language model is on a text, in units that do not depend on its tokenizer: bits per byte."""

import bz2
import lzma
import math
import zlib
from collections.abc import Iterable

import torch
from torch.utils.data import DataLoader


def total_loss(model, blocks, collator, batch_size: int = 16, bf16: bool = False) -> tuple[float, int]:
    """Summed next-token loss of packed `blocks` in nats, and the number of tokens predicted."""
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    nats, count = 0.0, 0
    with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        for batch in DataLoader(blocks, batch_size=batch_size, collate_fn=collator):
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            targets = (batch["labels"][:, 1:] != -100).sum().item()
            nats += model(**batch, use_cache=False).loss.item() * targets
            count += targets
    model.train(was_training)
    return nats, count


def bits_per_byte(nats: float, num_bytes: int) -> float:
    """A summed loss in nats as bits per byte of the text: what an arithmetic coder would need to store it."""
    return nats / math.log(2) / num_bytes


def compression_baselines(train_texts: Iterable[str], validation_texts: Iterable[str]) -> dict[str, float]:
    """Bits per byte that zlib, bz2 and xz need for the validation texts, given the training texts.

    That is the compressed size of both together less that of the training texts alone. Documents are joined
    by a zero byte, since the model has to predict their ends too; it is not counted as a byte of text.
    """
    train = "\0".join(train_texts).encode()
    validation = list(validation_texts)
    both = train + b"\0" + "\0".join(validation).encode()
    num_bytes = sum(len(text.encode()) for text in validation)
    compressors = {
        "zlib": lambda data: zlib.compress(data, 9),
        "bz2": lambda data: bz2.compress(data, 9),
        "xz": lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME),
    }
    return {
        name: 8 * (len(compress(both)) - len(compress(train))) / num_bytes for name, compress in compressors.items()
    }
