"""`folio serve` beside `transformers serve`: the same texts of both, and a server's own error if it cannot serve."""

import forks
import pytest

from benchmarks import serving_peer
from foliogpt.modeling import FolioForCausalLM
from foliogpt.tokenization import train_tokenizer


def test_a_server_that_does_not_start_is_a_row_with_its_error(tmp_path, monkeypatch):
    dies = {"folio serve": ["-c", "raise SystemExit('no such kernel')"]}
    monkeypatch.setattr(serving_peer, "servers", lambda folder, clients: dies)
    (row,) = serving_peer.against_transformers(tmp_path, ["the"], 2)
    assert row["server"] == "folio serve"
    assert "did not start. no such kernel" in row["error"]


@pytest.mark.slow
def test_all_servers_generate_the_same_tokens(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(
        serving_peer.subprocess, "Popen", lambda command, **options: forks.Popen(command[2:], **options)
    )
    tokenizer = train_tokenizer(["the cat is free"] * 20, vocab_size=265, show_progress=False)
    model = FolioForCausalLM(tiny(vocab_size=len(tokenizer)))
    model.generation_config.eos_token_id = None
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    rows = serving_peer.against_transformers(tmp_path, ["the cat", "is free"], 5)
    assert [row["error"] for row in rows] == ["", "", ""]
    assert [(row["tokens"], row["texts like ours"]) for row in rows] == [(10, 2)] * 3
