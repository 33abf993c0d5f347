"""Embeddings of texts by a sentence-transformers model."""

import asyncio
import base64
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .answers import ApiError
from .openai_requests import EmbeddingRequest

BATCH = 32  # texts, after which a client that has gone is noticed


class Embedder:
    """A `SentenceTransformer`, which clients call `name`; each text is embedded as by its `encode`."""

    def __init__(self, name: str, model):
        self.name, self.model = name, model
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="embed")

    async def embed(self, wanted: EmbeddingRequest) -> dict:
        """Return OpenAI's JSON; ApiError for a text that is too long, or another dimension than the model's."""
        loop, texts = asyncio.get_running_loop(), wanted.input
        tokens = await loop.run_in_executor(self.thread, self._count_tokens, texts)
        vectors: list[np.ndarray] = []
        for start in range(0, len(texts), BATCH):
            vectors += [*await loop.run_in_executor(self.thread, self.model.encode, texts[start : start + BATCH])]
        if wanted.dimensions not in (None, len(vectors[0])):
            raise ApiError(f"This model's vectors have {len(vectors[0])} dimensions: leave it out.", param="dimensions")
        found: list = [vector.tolist() for vector in vectors]
        if wanted.encoding_format == "base64":
            found = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
        data = [{"object": "embedding", "index": i, "embedding": each} for i, each in enumerate(found)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": data, "model": self.name, "usage": usage}

    def _count_tokens(self, texts: list[str]) -> int:
        prompt = self.model.prompts.get(self.model.default_prompt_name) or ""
        encoded = self.model.tokenizer([prompt + text for text in texts], padding=False, truncation=False)["input_ids"]
        counts, most = [len(ids) for ids in encoded], self.model.max_seq_length
        if most is not None and (longest := max(counts)) > most:
            message = f"Text {counts.index(longest)} has {longest} tokens, and the model reads {most}: shorten it."
            raise ApiError(message, param="input", code="context_length_exceeded")
        return sum(counts)
