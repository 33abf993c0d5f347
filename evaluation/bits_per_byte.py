"""Loss of a language model on a text in bits per byte, a unit that does not depend on its tokenizer."""

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

MAX_COMPRESSED_BYTES = 64_000_000  # of training text; xz would take minutes for more


def evaluate(model, data: PackedCorpora, batch_size: int) -> dict:
    """Evaluate a model and compressors on the held-out text, in the precision in which the model is saved."""
    losses = [total_loss(model, blocks, data.collator, batch_size) for blocks in data.validation_blocks]
    nats, predicted = zip(*losses, strict=True)
    sizes = [corpus_bytes(corpus.validation) for corpus in data.corpora]
    compress = data.train_bytes is not None and data.train_bytes <= MAX_COMPRESSED_BYTES
    baselines = compression_baselines(data.train_texts(), data.validation_texts()) if compress else {}
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
    """Count the texts that the tokenizer does not give back as they were: what it leaves out costs no bits."""
    texts = list(texts)
    decoded = (tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in encode_texts(tokenizer, texts))
    return sum(text != again for text, again in zip(texts, decoded, strict=True))


def total_loss(model, blocks, collator, batch_size: int = 16) -> tuple[float, int]:
    """Return the summed loss of packed `blocks` in nats and the number of predicted tokens, of all processes."""
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
    """Convert a summed loss in nats to bits per byte of the text, as an arithmetic coder would need to store it."""
    return nats / math.log(2) / num_bytes


def compression_baselines(train_texts: Iterable[str], validation_texts: Iterable[str]) -> dict[str, float]:
    """Compute the bits per byte that zlib, bz2 and xz need for both texts together beyond the training texts alone.

    Documents are joined by a zero byte, since the model has to predict their ends too; it is no byte of text.
    """
    train, validation = "\0".join(train_texts).encode(), [text.encode() for text in validation_texts]
    both = b"\0".join([train, *validation])
    bits = {name: 8 * (len(compress(both)) - len(compress(train))) for name, compress in COMPRESSORS.items()}
    return {name: more / sum(map(len, validation)) for name, more in bits.items()}


def _xz(data: bytes) -> bytes:
    """Compress by xz's best preset with a dictionary of the data's size; the usual one would take 0.7 GB of memory."""
    size = 1 << max(12, (len(data) - 1).bit_length())
    options = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": min(size, 64 << 20)}
    return lzma.compress(data, format=lzma.FORMAT_XZ, filters=[options])


COMPRESSORS = {"zlib": lambda data: zlib.compress(data, 9), "bz2": lambda data: bz2.compress(data, 9), "xz": _xz}
