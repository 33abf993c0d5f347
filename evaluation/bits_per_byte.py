"""How good a language model is on a text, in units that do not depend on its tokenizer: bits per byte."""

import bz2
import lzma
import math
import zlib
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from ..data.corpora import corpus_bytes
from ..data.packed_corpus import PackedCorpora
from ..jobs.processes import connected
from ..tokenization import encode_texts

COMPRESSIBLE = 64_000_000  # bytes of training text above which xz would take minutes


def evaluate(model, data: PackedCorpora, batch_size: int) -> dict:
    """Judge a model on the held-out text beside compressors, in the precision in which it is saved."""
    losses = [total_loss(model, blocks, data.collator, batch_size) for blocks in data.validation_blocks]
    nats, predicted = zip(*losses, strict=True)
    sizes = [corpus_bytes(corpus.validation) for corpus in data.corpora]
    baselines = {}
    if data.train_bytes is not None and data.train_bytes <= COMPRESSIBLE:
        baselines = compression_baselines(data.train_texts(), data.validation_texts())
    mean, names = sum(nats) / sum(predicted), [corpus.name for corpus in data.corpora]
    return {
        "val_documents": sum(len(corpus.validation) for corpus in data.corpora),
        "val_bytes": sum(sizes),
        "val_loss": mean,
        "val_perplexity": math.exp(min(mean, 700)),
        "val_bits_per_byte": bits_per_byte(sum(nats), sum(sizes)),
        "val_bits_per_byte_by_corpus": dict(zip(names, map(bits_per_byte, nats, sizes), strict=True)),
        "val_documents_changed": documents_changed(data.validation_texts(), data.tokenizer),
        "baseline_bits_per_byte": baselines,
    }


def documents_changed(texts: Iterable[str], tokenizer) -> int:
    """How many texts the tokenizer does not give back as they were: what it leaves out costs the model no bits."""
    texts = list(texts)
    decoded = (tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in encode_texts(tokenizer, texts))
    return sum(text != again for text, again in zip(texts, decoded, strict=True))


def total_loss(model, blocks, collator, batch_size: int = 16) -> tuple[float, int]:
    """Summed loss of packed `blocks` in nats, and tokens predicted; processes share the blocks, and have all sums."""
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    nats, count = 0.0, 0
    if connected():
        blocks = blocks.select(range(dist.get_rank(), len(blocks), dist.get_world_size()))
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        for batch in DataLoader(blocks, batch_size=batch_size, collate_fn=collator):
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            targets = (batch["labels"][:, 1:] != -100).sum().item()
            nats += model(**batch, use_cache=False).loss.item() * targets
            count += targets
    model.train(was_training)
    if connected():
        sums = torch.tensor([nats, count], dtype=torch.float64, device=device)
        dist.all_reduce(sums)
        nats, count = sums[0].item(), int(sums[1])
    return nats, count


def bits_per_byte(nats: float, num_bytes: int) -> float:
    """A summed loss in nats as bits per byte of the text: what an arithmetic coder would need to store it."""
    return nats / math.log(2) / num_bytes


def compression_baselines(train_texts: Iterable[str], validation_texts: Iterable[str]) -> dict[str, float]:
    """Bits per byte by which zlib, bz2 and xz need more for both texts together than for the training texts alone.

    Documents are joined by a zero byte, since the model has to predict their ends too; it is no byte of text.
    """
    train = "\0".join(train_texts).encode()
    validation = list(validation_texts)
    both = train + b"\0" + "\0".join(validation).encode()
    num_bytes = sum(len(text.encode()) for text in validation)
    return {
        name: 8 * (len(compress(both)) - len(compress(train))) / num_bytes for name, compress in COMPRESSORS.items()
    }


def _xz(data: bytes) -> bytes:
    """xz at its best, looking back at all of the data. With the usual dictionary it would take 0.7 GB of memory."""
    size = 1 << max(12, (len(data) - 1).bit_length())
    options = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": min(size, 64 << 20)}
    return lzma.compress(data, format=lzma.FORMAT_XZ, filters=[options])


COMPRESSORS = {"zlib": lambda data: zlib.compress(data, 9), "bz2": lambda data: bz2.compress(data, 9), "xz": _xz}
