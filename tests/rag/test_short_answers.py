"""A reader marks a short answer in the passages, which comes before the quotations with a valid citation."""

import json
import random
from dataclasses import replace

import pytest
import torch

pytest.importorskip("sentence_transformers", reason="needs foliogpt[rag]")
pytest.importorskip("trl", reason="needs foliogpt[finetune]")

from foliogpt.modeling import FolioForMaskedLM, preset_config
from foliogpt.rag import Citation, Document, Rag
from foliogpt.rag.answering import Passage, Sentence
from foliogpt.rag.short_answers import Reader, ShortAnswer, load_reader
from foliogpt.scripts.cli import main
from foliogpt.tokenization import train_tokenizer

COLORS = ["red", "green", "blue", "white", "black", "gold"]
THINGS = ["moon", "ship", "king", "tree"]


def rows(count: int, seed: int) -> list[dict]:
    """The answer is the color in a text, which every fourth text lacks."""
    chance, found = random.Random(seed), []
    for _ in range(count):
        color, thing = chance.choice(COLORS), chance.choice(THINGS)
        context = f"the {thing} is {color} at night" if chance.random() < 0.75 else f"the {thing} is at sea at night"
        answers = {"text": [color], "answer_start": [context.index(color)]} if color in context else None
        none = {"text": [], "answer_start": []}
        found.append({"question": f"which color has the {thing}", "context": context, "answers": answers or none})
    return found


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """An encoder of ours, trained on the toy task by `folio finetune qa`."""
    folder = tmp_path_factory.mktemp("reader")
    texts = [f"{row['question']} {row['context']}" for row in rows(300, 1)]
    tokenizer = train_tokenizer(texts, 300, False)
    fields = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "max_position_embeddings": 64}
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    config = preset_config("folio", "nano", vocab_size=len(tokenizer), is_causal=False, **fields, **ids)
    FolioForMaskedLM(config).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows(400, 2)))
    argv = ["--model", folder / "base", "--data", data, "--output_dir", folder / "reader", "--method", "full"]
    argv += ["--max_steps", 80, "--learning_rate", "0.003", "--eval_strategy", "no", "--save_strategy", "no"]
    assert main(["finetune", "qa", *map(str, argv)]) == 0
    return folder / "reader"


@pytest.fixture(scope="module")
def loaded(reader) -> Reader:
    return load_reader(str(reader))


def passage(name: str, text: str, start: int = 0) -> Passage:
    return Passage(name, start, start + len(text), text)


def test_a_trained_reader_finds_the_span_in_the_right_passage(loaded):
    right = 0
    for row in rows(24, 3):
        passages = [passage("empty.txt", "the ship is at sea at night"), passage("a.txt", row["context"], 100)]
        short, expected = loaded.read(row["question"], passages), row["answers"]
        if not expected["text"]:
            right += short is None
        elif short is not None:
            (cited,) = short.citations
            assert cited.document == "a.txt"
            right += (cited.start, cited.quote) == (100 + expected["answer_start"][0], expected["text"][0])
    assert right >= 20


def test_the_span_with_the_most_over_no_answer_wins_wherever_it_stands(loaded):
    passages = [passage(name, f"the ship is {color} at night") for name, color in (("a", "red"), ("b", "gold"))]
    best = loaded.read("which color has the ship", passages)
    alone = [loaded.read("which color has the ship", [each]) for each in passages]
    assert best == max(filter(None, alone), key=lambda short: short.lead)
    assert best == loaded.read("which color has the ship", passages[::-1])
    assert loaded.read("which color has the ship", []) is None


def test_the_short_answer_comes_before_the_other_generators_text(loaded):
    class Quoting:
        def write(self, question, passages, emit):
            emit(Sentence(('"all of it" ', passages[0].citation(0, 8))))

    for text, parts in (("the moon is blue at night", 2), ("the moon is at sea at night", 1)):
        emitted = []
        replace(loaded, generator=Quoting()).write("which color has the moon", [passage("a", text)], emitted.append)
        assert [isinstance(each, ShortAnswer) for each in emitted] == [True, False][-parts:]


def test_load_reader_rejects_other_checkpoints_in_one_line(reader, tmp_path):
    for name in (reader.parent / "base", tmp_path / "nowhere"):
        with pytest.raises((ValueError, OSError)) as raised:
            load_reader(str(name))
        assert name.name in str(raised.value)
        assert "\n" not in str(raised.value)


def test_ask_prints_the_short_answer_first_with_a_citation_that_holds(reader, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Rag.open("index", embedder=words) as rag:
        rag.sync([Document("a.txt", "the moon is blue at night"), Document("b.txt", "the ship is at sea at night")])
        answer = rag.answer("which color has the moon", refuse="never", reader=load_reader(str(reader)))
        plain = rag.answer("which color has the moon", refuse="never")
        monkeypatch.setattr("foliogpt.scripts.rag.ask.open_index", lambda *args, **options: rag)
        argv = ["rag", "ask", "which color has the moon", "--index", "index", "--refuse", "never"]
        assert main([*argv, "--reader", str(reader)]) == 0
        out = capsys.readouterr().out
        assert main([*argv, "--reader", str(reader.parent / "base")]) == 2
    assert isinstance(answer.sentences[0], ShortAnswer)
    assert answer.citations[0] == Citation("a.txt", 12, 16, None, "blue")
    assert answer.sentences[1:] == plain.sentences
    assert out.startswith("blue [1]")
    assert "[1] a.txt [12:16]\n    blue" in out
    assert "folio finetune qa" in capsys.readouterr().err
