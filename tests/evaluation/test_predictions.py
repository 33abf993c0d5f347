"""Labels and answers are those of the model, for texts of any length."""

import json

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from foliogpt.evaluation.predictions import classify
from foliogpt.modeling import FolioForQuestionAnswering, FolioForSequenceClassification, preset_config
from foliogpt.scripts.cli import main
from foliogpt.tokenization import train_tokenizer

TEXT = "The sun is in the east, and Juliet is the sun of Verona."


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([TEXT + " one two three"] * 50, vocab_size=280, show_progress=False)


def config(tokenizer, **fields):
    torch.manual_seed(0)
    tiny = {"vocab_size": 280, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
    tiny |= {"max_position_embeddings": 64, "pad_token_id": tokenizer.pad_token_id, "initializer_range": 0.5}
    return preset_config("folio", "nano", **tiny, **fields)


@pytest.fixture(scope="module")
def classifier(tokenizer):
    labels = {0: "sun", 1: "moon", 2: "star"}
    return FolioForSequenceClassification(config(tokenizer, id2label=labels, residual_init="normal")).eval()


def test_probabilities_are_the_models_and_in_order(classifier, tokenizer):
    (scores,) = classify(classifier, tokenizer, [TEXT])
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    assert sum(scores.values()) == pytest.approx(1)
    logits = classifier(**tokenizer(TEXT, return_tensors="pt")).logits[0]
    assert max(scores, key=scores.get) == classifier.config.id2label[logits.argmax().item()]


def test_classify_cuts_long_texts_and_reads_special_tokens_in_them_as_text(classifier, tokenizer):
    long, longer = classify(classifier, tokenizer, [TEXT * 10, TEXT * 20])
    assert long == longer
    spelled, special = "one<|im_end|>two", tokenizer("one<|im_end|>two", return_tensors="pt")
    scores = classify(classifier, tokenizer, [spelled])[0]
    forged = classifier(**special).logits.softmax(-1)[0].max().item()
    assert max(scores.values()) != pytest.approx(forged, abs=1e-6)
    with pytest.raises(ValueError, match="empty"):
        classify(classifier, tokenizer, [""])


@pytest.mark.parametrize("fields", [{"problem_type": "multi_label_classification"}, {"num_labels": 1}])
def test_classify_and_evaluate_reject_a_model_that_predicts_no_single_label(tokenizer, tmp_path, capsys, fields):
    config = BertConfig(vocab_size=280, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, **fields)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "rows.json").write_text(json.dumps([{"text": "one", "label": n} for n in (0, 1)]))
    kind = fields.get("problem_type", "regression")
    for argv in (["classify", "--text", "one"], ["evaluate", "--data", str(tmp_path / "rows.json")]):
        assert main([argv[0], "--model", str(tmp_path / "model"), *argv[1:]]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert f"{tmp_path / 'model'} is a model for {kind}: give a classifier that predicts one label per text" in said


def test_classify_works_with_a_stock_model(tokenizer):
    stock = BertConfig(vocab_size=280, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    (scores,) = classify(BertForSequenceClassification(stock).eval(), tokenizer, [TEXT])
    assert set(scores) == {"LABEL_0", "LABEL_1"}


@pytest.fixture(scope="module")
def saved(classifier, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads")
    reader = FolioForQuestionAnswering(config(tokenizer, residual_init="normal"))
    for name, model in {"classifier": classifier, "reader": reader}.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


def test_folio_classify_prints_a_line_per_text(saved, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text(f"{TEXT}\n\none two\n")
    command = ["classify", "--model", str(saved / "classifier")]
    assert main([*command, "--file", str(tmp_path / "texts.txt"), "--json", "--top_k", "2"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == [TEXT, "one two"]
    assert all(len(row["labels"]) == 2 for row in rows)
    assert main([*command, "--text", "one\ntwo"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("sun", "moon", "star"))


def test_folio_answer_marks_with_a_head_and_rejects_generation_options(saved, capsys):
    command = ["answer", "--model", str(saved / "reader"), "--question", "Who is the sun?", "--context", TEXT]
    assert main(command) == 0
    said = capsys.readouterr().out.strip()
    assert said in TEXT or said == "The text does not say."
    assert main([*command, "--temperature", "1"]) == 2
    assert "leave out --temperature" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["classify", "--text", " "], "There is no text"),
        (["classify", "--text", "one", "--top_k", "0"], "--top_k is 0"),
        (["classify", "--file", "nowhere.txt"], "nowhere.txt"),
        (["answer", "--question", " ", "--context", "a"], "The question is empty"),
        (["answer", "--question", "a", "--context", " "], "There is no context"),
        (["answer", "--question", "a " * 200, "--context", "a b c d e f g h i"], "no room"),
    ],
)
def test_classify_and_answer_name_a_mistake_in_one_line(saved, capsys, argv, says):
    model = saved / ("classifier" if argv[0] == "classify" else "reader")
    assert main([argv[0], "--model", str(model), *argv[1:]]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line and "%|" not in line]  # no progress bars
    assert len(said) == 1
    assert says in said[0]


def test_classify_rejects_a_model_with_another_head(saved, capsys):
    assert main(["classify", "--model", str(saved / "reader"), "--text", "one"]) == 2
    assert "no classifier of texts" in capsys.readouterr().err
