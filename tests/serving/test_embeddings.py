"""Embeddings by the real `openai` client, against the model's own `encode`."""

import sys
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from sentence_transformers import SentenceTransformer
from starlette.testclient import TestClient

from foliogpt.modeling import FolioForCausalLM
from foliogpt.serving.embeddings import BATCH, Embedder
from foliogpt.serving.openai_api import Api
from foliogpt.tokenization import encode_chat, train_tokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "rag"))
from embedders import make_embedder

TEXTS = ["the cat and the dog", "a king", "red wine " * 100]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return SentenceTransformer(str(make_embedder(tmp_path_factory.mktemp("embedder") / "tiny")), device="cpu")


@pytest.fixture(scope="module")
def http(reference, tiny_config):
    tokenizer = train_tokenizer(["the cat is free"] * 20, vocab_size=265, show_progress=False)
    model = FolioForCausalLM(tiny_config(vocab_size=len(tokenizer)))
    api = Api("chat", model, tokenizer, encode_chat, Embedder("words", reference))
    with TestClient(api.application(), base_url="http://testserver/v1/") as client:
        yield client


@pytest.mark.parametrize("given", [TEXTS, TEXTS[0], TEXTS * BATCH], ids=["list", "string", "batches"])
@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}, {"dimensions": 32}], ids=str)
def test_embeddings_equal_encode_of_sentence_transformers(client, reference, given, options):
    answer = client.embeddings.create(model="words", input=given, **options)
    texts = [given] if isinstance(given, str) else given
    np.testing.assert_allclose([row.embedding for row in answer.data], reference.encode(texts), atol=1e-6)
    assert [row.index for row in answer.data] == [*range(len(texts))]
    assert answer.usage.total_tokens == sum(len(reference.tokenizer(text).input_ids) for text in texts)


def test_embeddings_have_the_default_prompt_of_the_model(client, reference, monkeypatch):
    monkeypatch.setitem(reference.prompts, "red", "red ")
    without = client.embeddings.create(model="words", input="wine")
    monkeypatch.setattr(reference, "default_prompt_name", "red")
    answer = client.embeddings.create(model="words", input="wine")
    np.testing.assert_allclose(answer.data[0].embedding, reference.encode("wine"), atol=1e-6)
    assert answer.usage.prompt_tokens == without.usage.prompt_tokens + 1
    with pytest.raises(openai.BadRequestError, match="257 tokens"):
        client.embeddings.create(model="words", input="wine " * 254)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": None}, "input"),
        ({"input": [1, 2]}, "input"),
        ({"input": [[1, 2]]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": ["a", "wine " * 255]}, "input"),
        ({"dimensions": 16}, "dimensions"),
        ({"encoding_format": "binary"}, "encoding_format"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_embedding_requests_are_rejected(http, changes, param):
    body = {"model": "words", "input": "a"} | changes
    answer = http.post("embeddings", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    if body["input"] in ([1, 2], [[1, 2]]):
        assert "token ids are not accepted" in answer.json()["error"]["message"]


def test_models_are_served_at_their_own_endpoints(client):
    assert [model.id for model in client.models.list()] == ["chat", "words"]
    assert client.models.retrieve("words").id == "words"
    with pytest.raises(openai.NotFoundError, match="'chat' is not here: this server has 'words'"):
        client.embeddings.create(model="chat", input="a")
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="words", prompt="a")


def test_embeddings_name_the_flag_when_there_is_no_embedder(tiny_config):
    tokenizer = train_tokenizer(["the cat is free"] * 20, vocab_size=265, show_progress=False)
    model = FolioForCausalLM(tiny_config(vocab_size=len(tokenizer)))
    with TestClient(Api("chat", model, tokenizer, encode_chat).application()) as client:
        answer: httpx.Response = client.post("/v1/embeddings", json={"model": "chat", "input": "a"})
    assert (answer.status_code, "--embedder" in answer.text) == (404, True)
