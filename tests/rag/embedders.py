"""Two embedding models: words hashed to a vector, with nothing to load, and a tiny random Transformer."""

import re
import zlib

import numpy as np

DIMENSION = 32


class WordEmbedder:
    """An `Embedder` without weights: texts with the same words are near each other."""

    def __init__(self, seed: int = 0) -> None:
        self.name, self.hash, self.dtype, self.max_tokens = f"words-{seed}", f"hash-{seed}", "float32", 254
        self.seed, self.seen = seed, 0

    def encode(self, texts: list[str]) -> np.ndarray:
        self.seen += len(texts)
        vectors = np.stack([self._vector(text) for text in texts])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def encode_query(self, query: str) -> np.ndarray:
        vector = self._vector(query)
        return vector / np.linalg.norm(vector)

    def reads(self, text: str) -> bool:
        return True

    def token_starts(self, text: str) -> list[int]:
        return [found.start() for found in re.finditer(r"\S+", text)]

    def _vector(self, text: str) -> np.ndarray:
        vector = np.full(DIMENSION, 1e-3, "f4")
        for word in re.findall(r"\w+", text.lower()):
            generator = np.random.default_rng(zlib.crc32(word.encode()) + self.seed)
            vector += generator.normal(size=DIMENSION).astype("f4")
        return vector


WORDS = """
    the a of and to in is cat dog moon sun river stone tree bird fish night day king queen castle sword ship sea wind
    rain snow fire gold silver apple bread wine song dance love war peace light dark old new red blue green white
"""


def make_embedder(folder, seed: int = 0):
    """A sentence-transformers model of random weights that knows WORDS and single letters."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    letters = [chr(c) for c in range(33, 127)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split(), *letters, *(f"##{c}" for c in letters)]
    vocabulary = list(dict.fromkeys(vocabulary))
    source = folder.with_name(f"{folder.name}-transformer")
    source.mkdir(parents=True)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=256,
    )  # fmt: skip
    BertModel(config).save_pretrained(source)
    ids = {word: number for number, word in enumerate(vocabulary)}
    BertTokenizerFast(vocab=ids, model_max_length=256).save_pretrained(source)
    transformer = Transformer(str(source))
    SentenceTransformer(modules=[transformer, Pooling(32, "mean")], device="cpu").save(str(folder))
    return folder
