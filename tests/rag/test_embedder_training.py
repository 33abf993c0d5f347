"""A checkpoint becomes an embedder that finds, whole or not at all."""

import json
import os
import re
import shutil

import forks
import numpy as np
import pytest
import torch
from scipy.stats import zscore
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5Model,
)

pytest.importorskip("sentence_transformers", reason="needs foliogpt[rag]")

from foliogpt.checkpoints.publishing import prepare
from foliogpt.jobs.cards import recall_table
from foliogpt.modeling import FolioForCausalLM, FolioForSequenceClassification, FolioModel, preset_config
from foliogpt.rag import Rag
from foliogpt.rag.documents import Document
from foliogpt.rag.embedder import training as embedder_training
from foliogpt.rag.embedder.encoder import load_encoder
from foliogpt.rag.embedder.pair_ranking import by_words, group_by_kind, hard_negatives, recall
from foliogpt.rag.embedder.pairs import SENTENCE, TITLE, Pair
from foliogpt.rag.embedding import load_embedder
from foliogpt.rag.retrieval import RERANKER_WEIGHT, load_reranker
from foliogpt.scripts.cli import main
from foliogpt.tokenization import chat_tokenizer, train_tokenizer

THINGS = ["cat", "dog", "moon", "ship", "king", "bird", "tree", "song", "rain", "gold", "wine", "bread"]
PLACES = ["at sea", "by day", "at night", "in the wind", "on the hill"]


def make_checkpoint(folder, preset: str = "folio"):
    """Save a tiny random GPT."""
    tokenizer = train_tokenizer([f"the {thing} {place}" for thing in THINGS for place in PLACES], 300, False)
    torch.manual_seed(0)
    fields = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "max_position_embeddings": 256}
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    model = FolioForCausalLM(preset_config(preset, "nano", vocab_size=len(tokenizer), **fields, **ids))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "gpt")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Write pairs: the names of things, and sentences about them."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [{"query": f"{thing} {place}", "text": f"about the {thing} {place}"} for thing in THINGS for place in PLACES]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(autouse=True)
def no_minilm(monkeypatch):
    monkeypatch.setattr(embedder_training, "packaged_minilm", lambda: None)


def train(checkpoint, output_dir, *more, source=("--pairs", "PAIRS")) -> int:
    small = ["--max_steps", "30", "--per_device_train_batch_size", "16", "--learning_rate", "0.01"]
    argv = ["--model", str(checkpoint), "--output_dir", str(output_dir), *source, *small, *map(str, more)]
    return main(["embedder", "train", *argv])


@pytest.fixture(scope="module")
def trained(checkpoint, pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "embedder"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedder_training, "packaged_minilm", lambda: None)
        assert train(checkpoint, folder, source=("--pairs", str(pairs))) == 0
    return folder


def test_training_improves_recall_and_reports_it(trained):
    report = json.loads((trained / "report.json").read_text())
    recall = {who: figures["question"]["recall@1"]["value"] for who, figures in report["metrics"].items()}
    assert recall.keys() == {"before", "after", "BM25"}
    assert recall["after"] >= max(recall["before"], 0.6)
    assert report["steps"] == 30
    assert report["held_out"] == {"question": {"anchors": 3, "texts": 3}}
    card = (trained / "README.md").read_text()
    assert "| 3 questions of 3 texts | after " in card
    assert f"{recall['after']:.3f}" in card
    assert "folio embedder train" in card
    assert not list(trained.glob("checkpoint-*"))


def test_trained_embedder_indexes_and_searches(trained, folder, tmp_path, capsys):
    index = str(tmp_path / "index")
    assert main(["rag", "sync", str(folder), "--index", index, "--embedder", str(trained)]) == 0
    assert main(["rag", "search", "the moon is silver", "--index", index, "--mode", "dense", "--k", "1"]) == 0
    assert "2.txt" in capsys.readouterr().out


def test_embedder_reads_in_both_directions_and_independently_of_the_batch(trained):
    embedder = load_embedder(trained)
    alone, together = embedder.encode(["the cat"])[0], embedder.encode(["the cat", "the dog at sea by day " * 5])[0]
    np.testing.assert_allclose(alone, together, atol=1e-5)
    stack = embedder.model[0].auto_model
    assert isinstance(stack, FolioModel)
    assert stack.config.is_causal is False
    ids = torch.arange(5, 11)[None]
    other = torch.cat([ids[:, :-1], ids[:, -1:] + 1], dim=1)
    first, second = (stack(x).last_hidden_state[:, 0] for x in (ids, other))
    assert not torch.allclose(first, second)


def test_the_same_seed_makes_the_same_embedder(checkpoint, pairs, trained, tmp_path):
    assert train(checkpoint, tmp_path / "again", source=("--pairs", str(pairs))) == 0
    assert load_embedder(tmp_path / "again").hash == load_embedder(trained).hash


def test_training_continues_an_embedder_and_replaces_it_only_with_overwrite(trained, pairs, tmp_path, capsys):
    source, out = ("--pairs", str(pairs)), tmp_path / "further"
    for more in (["--mini_batch_size", "4", "--max_steps", 2], ["--overwrite", "--max_length", "32", "--max_steps", 2]):
        assert train(trained, out, *more, source=source) == 0
    assert load_embedder(out).model.max_seq_length == 32
    before = sorted((path.name, path.stat().st_mtime_ns) for path in out.iterdir())
    assert train(trained, out, source=source) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert sorted((path.name, path.stat().st_mtime_ns) for path in out.iterdir()) == before


def test_training_makes_pairs_of_plain_documents(checkpoint, tmp_path):
    texts = [
        f"The {a} sings to the {b} at night. The {b} hears the {a} by day, and says so." for a in THINGS for b in THINGS
    ]
    (tmp_path / "songs.txt").write_text("\n\n".join(texts))
    corpus = ("--corpus", str(tmp_path / "songs.txt"))
    assert train(checkpoint, tmp_path / "out", "--max_steps", 2, source=corpus) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(report["held_out"]) == {"sentence"}  # a text file has no titles


def test_an_interrupted_training_leaves_nothing(checkpoint, pairs, trained, tmp_path, monkeypatch, capsys):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(embedder_training, "_train", interrupted)
    assert train(checkpoint, tmp_path / "out", source=("--pairs", str(pairs))) == 130
    assert "nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_save_that_fails_leaves_what_was_there(trained, pairs, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert train(trained, out, "--max_steps", 1, source=("--pairs", str(pairs))) == 0
    before = load_embedder(out).hash

    def no_space(report, folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(embedder_training, "write_report", no_space)
    assert train(trained, out, "--max_steps", 2, "--overwrite", source=("--pairs", str(pairs))) == 2
    assert "Could not save" in capsys.readouterr().err
    assert load_embedder(out).hash == before
    assert train(trained, tmp_path / "new", "--max_steps", 1, source=("--pairs", str(pairs))) == 2
    assert not (tmp_path / "new").exists()


def test_a_single_question_that_is_held_out_has_no_interval(checkpoint, tmp_path):
    text = " ".join(f"The {a} sings to the {b} at night." for a in THINGS for b in THINGS)
    (tmp_path / "songs.md").write_text(f"# Songs\n\n{text}\n")
    assert train(checkpoint, tmp_path / "out", "--max_steps", 1, source=("--corpus", str(tmp_path / "songs.md"))) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["held_out"]["title"]["anchors"] == 1
    recall = report["metrics"]["after"]["title"]["recall@1"]
    assert recall["interval"] is None
    assert re.search(rf"\| after +\| {recall['value']:.3f} +\|", (tmp_path / "out" / "README.md").read_text())


@pytest.mark.parametrize("end", [("--max_steps", "3"), ("--max_steps", "-1")])
def test_training_rejects_pairs_that_all_share_a_question(checkpoint, tmp_path, capsys, end):
    rows = [json.dumps({"query": "which", "text": thing}) + "\n" for thing in THINGS]
    (tmp_path / "same.jsonl").write_text("".join(rows))
    assert train(checkpoint, tmp_path / "out", *end, source=("--pairs", str(tmp_path / "same.jsonl"))) == 2
    assert "give pairs with different ones" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_training_rejects_invalid_input_in_one_line(checkpoint, pairs, tmp_path, capsys):
    size = {"vocab_size": 9, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    T5Model(T5Config(**size)).save_pretrained(tmp_path / "t5")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    (tmp_path / "words.txt").write_text("cat dog moon")
    (tmp_path / "one.csv").write_text("query,text\na,b\n")
    good = ["--model", checkpoint, "--pairs", pairs]
    cases = [
        (["--model", tmp_path / "t5", "--pairs", pairs], "type t5, an encoder-decoder"),
        (["--model", tmp_path / "nowhere", "--pairs", pairs], "No model at "),
        (["--model", tmp_path / "adapter", "--pairs", pairs], "folio merge"),
        (["--model", checkpoint], "--corpus"),
        ([*good, "--corpus", "python-manual"], "not both"),
        ([*good, "--max_length", 257], "reads 256 tokens"),
        ([*good, "--learning_rate", "0"], "above 0"),
        ([*good, "--per_device_train_batch_size", 1], "at least 2"),
        (["--model", checkpoint, "--corpus", tmp_path / "words.txt"], "no pairs"),
        (["--model", checkpoint, "--pairs", tmp_path / "one.csv"], "one pair"),
        (["--model", checkpoint, "--corpus", tmp_path / "nowhere"], "no file or folder"),
        ([*good, "--nonsense"], "--nonsense"),
    ]
    for argv, says in cases:
        capsys.readouterr()
        assert main(["embedder", "train", "--output_dir", str(tmp_path / "out"), *map(str, argv)]) == 2, argv
        lines = [line for line in capsys.readouterr().err.strip().splitlines() if line and "%|" not in line]
        assert len(lines) == 1, lines
        assert says in lines[0]
        assert not (tmp_path / "out").exists()
    assert main(["embedder", "dance"]) == 2


def test_training_does_not_overwrite_its_own_base_model(checkpoint, pairs, tmp_path, capsys):
    own = tmp_path / "gpt"
    shutil.copytree(checkpoint, own)
    (own / "run.yaml").write_text("{corpus: a, preset: folio, size: nano}")
    before = (own / "model.safetensors").read_bytes()
    assert train(own, own, "--overwrite", source=("--pairs", str(pairs))) == 2
    assert "another --output_dir" in capsys.readouterr().err
    assert (own / "model.safetensors").read_bytes() == before


def test_weights_that_are_not_finite_are_not_written(checkpoint, pairs, tmp_path, capsys):
    assert train(checkpoint, tmp_path / "out", "--learning_rate", "1e30", source=("--pairs", str(pairs))) == 2
    assert "--learning_rate" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_by_words_ranks_as_an_index_does():
    texts = ["the JSONDecodeError of json", "a king in a castle", "the moon is silver"]
    assert by_words(["silver moons", "decode error", "zebra"], texts) == [[2], [0], []]


def test_recall_asks_one_sentence_per_passage_and_accepts_any_text_of_a_title():
    pairs = [Pair("s1", "rest 1", kind=SENTENCE, source="a"), Pair("s2", "rest 2", kind=SENTENCE, source="a")]
    pairs += [Pair("t", "part 1", kind=TITLE, source="a"), Pair("t", "part 2", kind=TITLE, source="a")]
    held = group_by_kind(pairs)
    assert len(held[SENTENCE]) == 1
    asked = []
    metrics = recall(held, lambda anchors, texts: asked.append((anchors, texts)) or [[len(texts) - 1, 0]])
    assert asked[0] == (["t"], ["part 1", "part 2"])
    assert metrics[TITLE]["recall@1"]["value"] == 1
    (wrong,) = recall({TITLE: held[TITLE][:1]}, lambda anchors, texts: [[]]).values()
    assert wrong["recall@10"]["value"] == 0


def test_recall_of_one_question_has_no_interval():
    held = group_by_kind([Pair("a", "the moon", source="x")])
    report = {
        "metrics": dict.fromkeys(("before", "after"), recall(held, by_words)),
        "held_out": {"question": {"anchors": 1, "texts": 1}},
    }
    assert "| 1 questions of 1 texts | before | 0.000    |" in recall_table(report)


def make_stock(folder, cls, config_class):
    """Write a stock model with a head, whose tokenizer has a chat template and, as Llama's, no token to pad with."""
    tokenizer = train_tokenizer([f"the {thing} {place}" for thing in THINGS for place in PLACES], 300, False)
    tokenizer.pad_token = None
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    ids = {"pad_token_id": None, "bos_token_id": 0, "eos_token_id": 0}
    config = config_class(vocab_size=len(tokenizer), max_position_embeddings=128, **size, **ids)
    cls(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


STOCK = [(LlamaForCausalLM, LlamaConfig), (GPT2LMHeadModel, GPT2Config), (BertForMaskedLM, BertConfig)]


@pytest.mark.parametrize(("cls", "config_class"), STOCK, ids=lambda value: value.__name__)
def test_a_stock_model_becomes_an_embedder_that_stock_code_opens(cls, config_class, pairs, tmp_path):
    import sentence_transformers

    folder = make_stock(tmp_path / "stock", cls, config_class)
    before = load_encoder(str(folder))
    assert before.encode(["the cat"]).dtype == np.float32
    together = before.encode(["the cat", "the dog at sea by day " * 5])
    np.testing.assert_allclose(before.encode(["the cat"])[0], together[0], atol=1e-5)
    ids = before.tokenizer("the cat", return_tensors="pt")["input_ids"]
    with torch.no_grad():  # transformers alone: the mean of the last states, at length one
        states = AutoModel.from_pretrained(folder, dtype=torch.float32)(ids).last_hidden_state[0].mean(0)
    np.testing.assert_allclose(together[0], states / states.norm(), atol=1e-5)

    assert train(folder, tmp_path / "out", "--learning_rate", "1e-3", source=("--pairs", str(pairs))) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert not report["custom_code"]
    assert "trust_remote_code" not in (tmp_path / "out" / "README.md").read_text()
    assert not list((tmp_path / "out").glob("*.py"))
    after = sentence_transformers.SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert not np.allclose(after.encode(["the cat"]), together[:1], atol=1e-3)
    assert type(after[0].auto_model).__name__ == config_class.__name__.replace("Config", "Model")


def test_training_keeps_the_pooling_of_a_sentence_transformers_model(embedder_folder, pairs, tmp_path):
    """At the rate of pretrained encoders, by default: at that of our small GPTs it would forget all it knows."""
    before, source = load_embedder(embedder_folder), ("--pairs", str(pairs))
    argv = ["--model", str(embedder_folder), "--output_dir", str(tmp_path / "out"), *source, "--max_steps", "5"]
    assert main(["embedder", "train", *argv]) == 0
    after = load_embedder(tmp_path / "out")
    assert [type(module) for module in after.model] == [type(module) for module in before.model]
    moved = [(a - b).abs().max() for a, b in zip(after.model.parameters(), before.model.parameters(), strict=True)]
    assert 0 < max(moved) <= 5 * 2e-5 * 1.01  # AdamW goes no further than its rate in a step


@pytest.mark.slow
@pytest.mark.usefixtures("forked_strangers")
def test_publishing_includes_all_files_of_an_embedder(trained):
    publication = prepare(trained, "me/embedder", license="apache-2.0")
    assert publication.problems == []
    assert {"modules.json", "1_Pooling/config.json", "sentence_bert_config.json"} <= publication.files.keys()
    assert publication.left_out == ["run.yaml"]


@pytest.mark.slow
def test_a_process_without_the_package_encodes_the_same(trained, tmp_path):
    script = f"""
import sys
sys.modules["foliogpt"] = None
import numpy as np
from sentence_transformers import SentenceTransformer
np.save("out.npy", SentenceTransformer({str(trained)!r}, trust_remote_code=True).encode(["the cat", "by day"]))
"""
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = forks.run([script], stranger=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    expected = load_embedder(trained).encode(["the cat", "by day"])
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-5)


def test_encoder_ignores_the_chat_template(checkpoint):
    encoder = load_encoder(str(checkpoint))
    ids = encoder.preprocess(["the cat"])["input_ids"][0].tolist()
    assert encoder.tokenizer.decode(ids) == "the cat"


@pytest.mark.parametrize("preset", ["gpt2", "vaswani", "speedrun"])
def test_padding_does_not_change_vectors_for_any_preset(preset, tmp_path):
    folder = make_checkpoint(tmp_path / preset, preset)
    chat, _ = chat_tokenizer(AutoTokenizer.from_pretrained(folder))
    chat.save_pretrained(folder)  # pads on the left
    encoder = load_encoder(str(folder))
    together = encoder.encode(["the cat", "the dog at sea by day " * 5])
    np.testing.assert_allclose(encoder.encode(["the cat"])[0], together[0], atol=1e-5)


def test_load_encoder_reads_a_backbone_without_a_head(checkpoint, tmp_path):
    gpt = FolioForCausalLM.from_pretrained(checkpoint)
    gpt.model.save_pretrained(tmp_path / "stack")
    (tmp_path / "stack" / "tokenizer.json").write_bytes((checkpoint / "tokenizer.json").read_bytes())
    (tmp_path / "stack" / "tokenizer_config.json").write_bytes((checkpoint / "tokenizer_config.json").read_bytes())
    first, second = load_encoder(str(checkpoint)), load_encoder(str(tmp_path / "stack"))
    np.testing.assert_allclose(first.encode(["the cat"]), second.encode(["the cat"]), atol=1e-6)


@pytest.fixture(scope="module")
def reranker(checkpoint, pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "reranker"
    options = ("--reranker", "--max_steps", 80)
    assert train(checkpoint, folder, *options, source=("--pairs", str(pairs))) == 0
    return folder


def test_reranker_training_learns_and_reports_recall(reranker):
    report = json.loads((reranker / "report.json").read_text())
    assert report["metrics"].keys() == {"before", "after"}
    assert report["metrics"]["before"]["question"]["recall@10"] == report["metrics"]["after"]["question"]["recall@10"]
    model = load_reranker(reranker)
    right = 0
    for thing in THINGS:
        texts = [f"about the {other} {PLACES[1]}" for other in THINGS]
        right += texts[model.predict([(f"{thing} {PLACES[1]}", text) for text in texts]).argmax()].split()[2] == thing
    assert right >= 5  # by chance 1
    assert "CrossEncoder(" in (reranker / "README.md").read_text()
    stack = model[0].auto_model
    assert isinstance(stack, FolioForSequenceClassification)
    assert stack.config.is_causal is False


def test_the_scores_of_a_reranker_are_added_to_those_of_the_search(reranker, words, tmp_path, capsys):
    documents = [Document(f"{thing}.txt", f"about the {thing} at sea") for thing in THINGS]
    with Rag.open(tmp_path / "index", embedder=words) as rag:
        rag.sync(documents)
        plain = rag.search("bread at sea", k=12)
    with Rag.open(tmp_path / "index", embedder=words, reranker=reranker) as rag:
        hits = rag.search("bread at sea", k=12)
    scores = load_reranker(reranker).predict([("bread at sea", hit.text) for hit in plain])
    both = zscore([hit.score for hit in plain]) + RERANKER_WEIGHT * zscore(scores)
    expected = [plain[n].document for n in np.argsort(-both, kind="stable")]
    assert [hit.document for hit in hits] == expected != [hit.document for hit in plain]


def test_a_reranker_keeps_the_two_texts_of_a_pair_apart(reranker):
    tokenizer = load_reranker(reranker).tokenizer
    pair = [tokenizer(*texts)["input_ids"] for texts in (("the cat", "at sea"), ("the cat at", "sea"))]
    assert pair[0].count(tokenizer.eos_token_id) == pair[1].count(tokenizer.eos_token_id) == 1
    assert pair[0] != pair[1]


def test_hard_negatives_never_answer_the_question():
    pairs = [Pair(f"{a} {p}", f"about {a} {p}", source=a) for a in THINGS for p in PLACES]
    pairs.append(Pair("cat at sea", "a second text at sea", source="second"))
    found = hard_negatives(pairs, pairs, 3, seed=0)
    assert [pair for pair, _ in found] == pairs
    for pair, wrong in found:
        assert len(set(wrong)) == 3
        assert not any(pair.source in text for text in wrong)
        assert pair.anchor != "cat at sea" or not {"a second text at sea", "about cat by day"} & set(wrong)
    given = [Pair("a", "b", negative="c", source="b"), Pair("d", "e", negative="f", source="e")]
    assert [wrong for _, wrong in hard_negatives(given, given, 2, seed=0)] == [["c", "e"], ["f", "b"]]


def test_hard_negatives_have_the_kind_of_the_positive_or_the_pair_is_left_out():
    titles = [Pair("songs", f"verse {n}", kind=TITLE, source=f"a:{n}") for n in range(3)]
    clozes = [Pair(f"line {n}", f"songs\nrest {n}", kind=SENTENCE, source=f"a:{n}") for n in range(3)]
    found = hard_negatives(titles + clozes, titles + clozes, 2, seed=0)
    assert [pair for pair, _ in found] == clozes
    assert all(text.startswith("songs") for _, wrong in found for text in wrong)
    with pytest.raises(ValueError, match="give pairs with different ones"):
        hard_negatives(titles, titles, 2, seed=0)


def test_load_reranker_rejects_other_models_in_one_line(reranker, trained, checkpoint, embedder_folder, tmp_path):
    config = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    source = embedder_folder.with_name(f"{embedder_folder.name}-transformer")
    for name, labels in (("classes", 3), ("pickled", 1)):
        stock = BertForSequenceClassification(BertConfig.from_pretrained(source, num_labels=labels, **config))
        stock.save_pretrained(tmp_path / name)
        AutoTokenizer.from_pretrained(source).save_pretrained(tmp_path / name)
    (tmp_path / "pickled" / "model.safetensors").unlink()
    torch.save(stock.state_dict(), tmp_path / "pickled" / "pytorch_model.bin")
    for folder in (tmp_path / "classes", tmp_path / "pickled", trained, checkpoint, embedder_folder, source):
        with pytest.raises((ValueError, OSError)) as raised:
            load_reranker(folder)
        assert "\n" not in str(raised.value)
        assert str(folder) in str(raised.value)


@pytest.mark.parametrize(("cls", "config_class"), STOCK, ids=lambda value: value.__name__)
def test_a_stock_model_becomes_a_reranker_that_stock_code_opens(cls, config_class, pairs, tmp_path):
    import sentence_transformers

    folder, out = make_stock(tmp_path / "stock", cls, config_class), tmp_path / "out"
    options = ("--reranker", "--max_steps", 2, "--mini_batch_size", 4)
    assert train(folder, out, *options, source=("--pairs", str(pairs))) == 0
    assert not list(out.glob("*.py"))
    assert list(out.glob("*.safetensors"))
    asked = [("cat", "about the cat"), ("cat", "about the dog " * 9)]
    scores = sentence_transformers.CrossEncoder(str(out), device="cpu").predict(asked)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(load_reranker(out).predict(asked[:1]), scores[:1], atol=1e-5)  # padding changes nothing
