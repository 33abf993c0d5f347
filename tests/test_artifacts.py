"""What was made before still opens, resumes and answers. `artifacts/make.py` made it."""

import contextlib
import json
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from foliogpt.checkpoints.loading import load_model
from foliogpt.data.arguments import CorpusArguments
from foliogpt.jobs.saving import write_checksums
from foliogpt.modeling.presets import SIZES
from foliogpt.rag import Rag
from foliogpt.rag.database import CATALOG_FILE
from foliogpt.rag.lexical import indexed_words
from foliogpt.training.arguments import ModelArguments, PretrainingArguments
from foliogpt.training.pretraining import pretrain

SOURCE = Path(__file__).parent / "artifacts"
SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
sys.path.insert(0, str(Path(__file__).parent / "rag"))


@pytest.fixture
def artifacts(tmp_path):
    return shutil.copytree(SOURCE, tmp_path / "artifacts")


def expected() -> float:
    return json.loads((SOURCE / "expected.json").read_text())["val_loss"]


def test_checkpoint_opens_and_generates_the_same_with_and_without_cache(artifacts):
    model = AutoModelForCausalLM.from_pretrained(artifacts / "run")
    tokenizer = AutoTokenizer.from_pretrained(artifacts / "run")
    assert type(model).__module__ == "foliogpt.modeling.modeling_folio"
    ids = tokenizer("One two", return_tensors="pt")["input_ids"]
    with_cache, without = (
        model.generate(ids, max_new_tokens=12, do_sample=False, use_cache=use_cache) for use_cache in (True, False)
    )
    assert torch.equal(with_cache, without)


def resumed(artifacts: Path, monkeypatch) -> dict:
    monkeypatch.setitem(SIZES, "nano", SIZE)
    args = PretrainingArguments(
        output_dir=str(artifacts / "stopped"), max_steps=8, per_device_train_batch_size=4, bf16=False, save_steps=4,
        save_total_limit=None, eval_steps=4, decay_steps=4, resume=True,
    )  # fmt: skip
    corpus = CorpusArguments(corpus=str(artifacts / "rhyme.txt"))
    return pretrain(corpus, ModelArguments(tokenizer="char", block_size=32), args)


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"])
def test_a_resumed_run_runs_no_code_from_the_states_of_another(name, artifacts, monkeypatch, tmp_path):
    checkpoint = artifacts / "stopped" / "checkpoint-4"
    torch.save({"state": Hostile(tmp_path / "ran")}, checkpoint / name)
    write_checksums(checkpoint)
    refusal = pytest.raises(ValueError, match="could run code, so it was not read")
    with contextlib.nullcontext() if name == "training_args.bin" else refusal:  # nobody reads that one
        resumed(artifacts, monkeypatch)
    assert not (tmp_path / "ran").exists()


def test_stopped_run_resumes_to_the_loss_of_the_run_that_was_not_stopped(artifacts, monkeypatch):
    report = resumed(artifacts, monkeypatch)
    assert report["steps"] == 8
    assert report["val_loss"] == pytest.approx(expected(), rel=1e-3)


def test_adapter_opens_on_its_base(artifacts):
    file = artifacts / "adapter" / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "base_model_name_or_path": str(artifacts / "run")}))
    adapted, tokenizer = load_model(str(artifacts / "adapter"))
    base, _ = load_model(str(artifacts / "run"))
    ids = tokenizer("One two", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert not torch.equal(adapted(ids).logits, base(ids).logits)


def test_words_of_an_index_are_those_that_are_searched_for(artifacts):
    """With other rules an old index would find less, and say nothing: then SCHEMA_VERSION has to be another."""
    with contextlib.closing(sqlite3.connect(artifacts / "index" / CATALOG_FILE)) as db:
        rows = db.execute("SELECT c.context, c.text, w.context, w.text FROM chunks c JOIN words w ON w.rowid = c.id")
        found = [(indexed_words(context), indexed_words(text), *words) for context, text, *words in rows]
    assert found
    assert all(made[:2] == made[2:] for made in found)


def test_index_opens_answers_and_is_whole(artifacts):
    from embedders import WordEmbedder

    with Rag.open(artifacts / "index", embedder=WordEmbedder()) as rag:
        (hit,) = rag.search("silver moon", k=1)
        assert hit.document.endswith("2.txt")
        assert hit.text == "the moon is silver"
        assert not rag.verify().problems
