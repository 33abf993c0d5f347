"""`folio evaluate` from its arguments to its output."""

import dataclasses
import json
import math
import re
import shutil

import pytest
import torch
from transformers import AutoTokenizer

from foliogpt.data.packing import PackedCollator, pack
from foliogpt.evaluation.arguments import EvaluationArguments
from foliogpt.evaluation.bits_per_byte import total_loss
from foliogpt.evaluation.generated import passages
from foliogpt.evaluation.inference import Subject
from foliogpt.evaluation.language import evaluate_texts
from foliogpt.evaluation.run import evaluate
from foliogpt.evaluation.tasks import load_rows
from foliogpt.modeling import (
    FolioForCausalLM,
    FolioForQuestionAnswering,
    FolioForSequenceClassification,
    FolioForTokenClassification,
    preset_config,
)
from foliogpt.scripts.cli import main
from foliogpt.tokenization import train_tokenizer

pytest.importorskip("seqeval")
pytest.importorskip("rouge_score")
TEXT = "The cat is free, the dog has tricks; one two three, four five six.\n" * 60
CHAT = {"instruction": "Say it.", "input": "", "output": "The cat is free."}
HEADS = {
    "lm": (FolioForCausalLM, {}),
    "classify": (FolioForSequenceClassification, {"id2label": {0: "cat", 1: "dog"}, "label2id": {"cat": 0, "dog": 1}}),
    "tag": (FolioForTokenClassification, {"id2label": {0: "O", 1: "B-X"}, "label2id": {"O": 0, "B-X": 1}}),
    "qa": (FolioForQuestionAnswering, {}),
}
TINY = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "residual_init": "normal",
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
ROWS = {
    "text.txt": TEXT,
    "long.txt": TEXT * 2,
    "chats.json": [{**CHAT, "input": "x" * n} for n in range(4)],
    "pairs.json": [{**CHAT, "chosen": "The cat is free.", "rejected": "No."}] * 3,
    "summaries.json": [{"dialogue": "A: one " * 100, "summary": "The cat."}, {"dialogue": "B: two", "summary": "!"}],
    "labels.json": [{"text": "the cat", "label": "cat"}, {"text": "the dog " * 50, "label": "dog"}] * 4,
    "others.json": [{"text": "the cat", "label": "horse"}, {"text": "the dog", "label": "dog"}] * 4,
    "strangers.json": [{"text": "the cat", "label": "good"}, {"text": "the dog", "label": "bad"}] * 4,
    "tags.json": [{"tokens": ["the", "cat"] * 40, "tags": ["O", "B-X"] * 40}, {"tokens": ["dog"], "tags": ["O"]}],
    "qa.json": [
        {
            "question": "Who?",
            "context": "a cat " * 60 + "free",
            "answers": {"text": ["free"], "answer_start": [360]},
        },
        {"question": "What?", "context": "a dog", "answers": {"text": [], "answer_start": []}},
    ],
    "empty.json": [],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tiny models for each task, and data for each."""
    place = tmp_path_factory.mktemp("evaluate")
    tokenizer = train_tokenizer([TEXT], vocab_size=300, show_progress=False)
    for name, (cls, fields) in HEADS.items():
        torch.manual_seed(0)
        config = preset_config("folio", "nano", **TINY, **fields)
        cls(config).save_pretrained(place / name)
        tokenizer.save_pretrained(place / name)
    torch.manual_seed(1)
    FolioForCausalLM(config).save_pretrained(place / "other")
    tokenizer.save_pretrained(place / "other")
    for name, rows in ROWS.items():
        (place / name).write_text(rows if isinstance(rows, str) else json.dumps(rows))
    return place


def results(folder, model: str, data: str, options: dict | None = None, **more) -> dict:
    return evaluate(EvaluationArguments(str(folder / model), str(folder / data), **more), options)


CASES = [
    ("lm", "text.txt", "lm", "bits_per_byte"),
    ("lm", "chats.json", "sft", "perplexity"),
    ("lm", "pairs.json", "dpo", "preference_accuracy"),
    ("lm", "summaries.json", "summarize", "rougeL"),
    ("lm", "qa.json", "qa", "f1"),
    ("classify", "labels.json", "classify", "f1_macro"),
    ("tag", "tags.json", "tag", "entity_f1"),
    ("qa", "qa.json", "qa", "exact_match"),
]


@pytest.mark.parametrize(("model", "data", "task", "figure"), CASES)
def test_the_task_is_that_of_the_model_and_the_data_and_batches_change_no_metric(folder, model, data, task, figure):
    options = {"max_new_tokens": 6} if task in ("summarize", "qa") else {}
    one, eight = (results(folder, model, data, options, batch_size=size) for size in (1, 8))
    assert one["task"] == task
    for name, entry in one["figures"].items():
        assert entry["value"] == pytest.approx(eight["figures"][name]["value"], rel=1e-4)
    assert math.isfinite(one["figures"][figure]["value"])


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_side_on_which_a_tokenizer_pads_changes_nothing(folder, tmp_path, side):
    for model, data in (("classify", "labels.json"), ("lm", "chats.json")):
        (tmp_path / model).mkdir()
        for file in (folder / model).iterdir():
            (tmp_path / model / file.name).write_bytes(file.read_bytes())
        tokenizer = AutoTokenizer.from_pretrained(folder / model)
        tokenizer.padding_side = side
        tokenizer.save_pretrained(tmp_path / model)
        args = EvaluationArguments(str(tmp_path / model), str(folder / data))
        found, expected = evaluate(args)["figures"], results(folder, model, data)["figures"]
        assert {name: entry["value"] for name, entry in found.items()} == pytest.approx(
            {name: entry["value"] for name, entry in expected.items()}
        )


def test_short_texts_have_the_loss_of_pretraining_without_the_end_tokens(folder):
    from datasets import Dataset

    model = FolioForCausalLM.from_pretrained(folder / "lm").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "lm")
    texts = ["The cat is free.", "one two three", "dog"]
    loss, _, bits = evaluate_texts(Subject(model, tokenizer), texts).metrics
    blocks = pack(Dataset.from_dict({"name": texts, "text": texts}), tokenizer, 64)
    nats, count = total_loss(model, blocks, PackedCollator(tokenizer.eos_token_id))
    ends = 0.0
    for ids in tokenizer(texts)["input_ids"]:
        ids = torch.tensor([[0, *ids, 0]])
        with torch.no_grad():
            ends -= model(ids).logits[0, -2].log_softmax(-1)[0].item()
    assert loss.rows[:, 1].sum() == count - len(texts)
    assert loss.rows[:, 0].sum() == pytest.approx(nats - ends, rel=1e-4)
    assert bits.value == pytest.approx((nats - ends) / math.log(2) / sum(map(len, texts)), rel=1e-4)


def test_passages_of_a_long_text_add_up_to_the_text(folder):
    model = FolioForCausalLM.from_pretrained(folder / "lm").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "lm")
    text = "é漢 cat 😀 " * 300
    (long,), (short,) = ([evaluate_texts(Subject(model, tokenizer), [part]).metrics[2]] for part in (text, text[:900]))
    assert len(long.rows) == 3
    assert len(short.rows) == 1
    assert long.rows[:, 2].sum() == len(text.encode())
    assert long.rows[:, 1].sum() == len(tokenizer(text)["input_ids"])


def test_before_and_after_are_compared_on_the_same_rows(folder, capsys, tmp_path):
    output = tmp_path / "new" / "figures.json"
    argv = ["evaluate", "--model", str(folder / "other"), "--baseline", str(folder / "lm"), "--output", str(output)]
    assert main([*argv, "--data", str(folder / "long.txt")]) == 0
    shown = capsys.readouterr().out
    assert "| before" in shown
    assert "| difference" in shown
    figures = json.loads(output.read_text())["figures"]
    loss = figures["loss"]
    assert loss["difference"]["value"] == pytest.approx(loss["value"] - loss["before"]["value"])
    low, high = loss["difference"]["interval"]
    assert low <= loss["difference"]["value"] <= high
    assert loss["before"]["value"] == results(folder, "lm", "long.txt")["figures"]["loss"]["value"]
    same = results(folder, "lm", "long.txt", baseline=str(folder / "lm"))
    assert same["figures"]["loss"]["difference"] == {"value": 0, "interval": (0, 0)}
    assert "difference in loss between this model and before is not significant" in same["verdicts"][0]


def test_verdicts_say_that_too_few_rows_show_nothing(folder):
    found = results(folder, "other", "pairs.json", baseline=str(folder / "lm"))
    assert found["figures"]["preference_accuracy"]["difference"]["interval"] is None
    assert found["verdicts"] == ["3 rows show nothing about this model and before: evaluate on at least 6."]
    one = results(folder, "other", "pairs.json", baseline=str(folder / "lm"), limit=1)
    assert "One row shows nothing" in one["verdicts"][0]


def test_the_tfidf_baseline_is_in_the_same_table(folder, capsys):
    pytest.importorskip("sklearn")
    labels = str(folder / "labels.json")
    assert main(["evaluate", "--model", str(folder / "classify"), "--data", labels, "--train_data", labels]) == 0
    shown = capsys.readouterr().out
    assert "TF-IDF + logistic regression" in shown
    assert "worse than TF-IDF" in shown or "is not significant" in shown  # a random model: it does not win
    assert "| cat |" in shown
    assert "4 of 8 texts were cut at the end" in shown


def test_labels_that_the_model_does_not_have_count_as_wrong_and_are_named(folder):
    found = results(folder, "classify", "others.json")
    assert found["figures"]["accuracy"]["value"] <= 0.5
    assert "the model does not have the labels horse" in found["notes"][0]


def test_samples_are_compared_with_the_training_text(folder):
    found = results(folder, "lm", "text.txt", {"max_new_tokens": 12}, task="samples", limit=3,
                    train_data=str(folder / "text.txt"))  # fmt: skip
    assert found["split"] == "validation"
    assert found["examples"] <= 3
    figures = found["figures"]
    # How the text itself goes on is in the training text: 12 tokens.
    assert figures["copied_characters_most"]["the texts themselves"]["value"] >= 12
    assert found["details"]["longest_copy"] in TEXT


def test_load_rows_takes_the_held_out_rows_of_the_data_of_fine_tuning(folder, tmp_path):
    rows = [{"text": f"the {word} {n}", "label": word} for word in ("cat", "dog") for n in range(40)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    for file in (folder / "classify").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "run.yaml").write_text(f"task: classify\nmodel: x\ndata: {tmp_path}/rows.json\nvalidation_split: 0.2\n")
    args = EvaluationArguments(str(tmp_path), str(tmp_path / "rows.json"))
    held_out = evaluate(args)
    assert held_out["split"] == "validation"
    with_baseline = evaluate(dataclasses.replace(args, train_data=args.data))
    assert with_baseline["examples"] == held_out["examples"]
    assert with_baseline["figures"]["accuracy"]["TF-IDF + logistic regression"]["value"] == 1
    assert 4 < held_out["examples"] < 30
    args.split = "train"
    assert evaluate(args)["examples"] == 80 - held_out["examples"]
    args.split = "all"
    assert evaluate(args)["examples"] == 80


def test_load_rows_takes_the_held_out_texts_of_a_run_and_of_its_base(folder, tmp_path):
    text, movies, base, model = (tmp_path / name for name in ("text.txt", "movies", "base", "model"))
    text.write_text(TEXT)
    movies.mkdir()
    lines, chats = "", ""
    for n in range(30):
        lines += f"L{2 * n} +++$+++ u0 +++$+++ m0 +++$+++ A +++$+++ the cat {n}\n"
        lines += f"L{2 * n + 1} +++$+++ u1 +++$+++ m0 +++$+++ B +++$+++ the dog\n"
        chats += f"u0 +++$+++ u1 +++$+++ m0 +++$+++ ['L{2 * n}', 'L{2 * n + 1}']\n"
    (movies / "movie_lines.txt").write_text(lines)
    (movies / "movie_conversations.txt").write_text(chats)
    for place, run in ((base, f"corpus: [{text}]\npreset: folio\nsize: nano\n"),
                       (model, f"task: lm\nmodel: {base}\ndata: {movies}\nvalidation_split: 0.2\n")):  # fmt: skip
        shutil.copytree(folder / "lm", place)
        (place / "run.yaml").write_text(run)

    def rows(data, **changes):
        found = load_rows(EvaluationArguments(str(model), str(data), **changes), "lm")
        return found.task, found.split, found.rows

    task, split, held_out = rows(movies)
    assert (task, split) == ("lm", "validation")
    assert 0 < len(held_out) < 15
    assert all(re.fullmatch(r"the cat \d+\nthe dog", text) for text in held_out)  # no names, no separators
    train, everything = (rows(movies, split=split)[2] for split in ("train", "all"))
    assert sorted([*train, *held_out]) == sorted(everything)
    assert len(everything) == 30
    assert rows(text)[:2] == ("lm", "validation")  # as the base learnt from it
    assert len(rows(text)[2][0]) < len(TEXT) / 5
    (model / "run.yaml").unlink()
    (movies / "movie_conversations.txt").write_text(f"{chats}u0 +++$+++ u1 +++$+++ m0 +++$+++ ['L0', 'L99']\n")
    with pytest.raises(ValueError, match="--skip_malformed"):
        rows(movies, task="lm")
    assert len(rows(movies, task="lm", skip_malformed=True)[2]) == 30


def test_passages_are_from_all_over_the_texts():
    text = "".join(f"{i:05d}" for i in range(4000))
    found = passages([text, "short"], 5)
    assert [text.index(piece) for piece in found] == [0, 4000, 8000, 12000, 16000]
    assert passages(["short"], 5) == []


def test_broken_weights_end_in_one_line(folder, tmp_path):
    model = FolioForCausalLM.from_pretrained(folder / "lm")
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder / "lm").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="are NaN or infinite"):
        evaluate(EvaluationArguments(str(tmp_path), str(folder / "text.txt")))


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "--data"),
        (["--data", "nowhere.txt"], "nowhere.txt"),
        (["--data", "{empty.json}"], "no usable row"),
        (["--data", "{strangers.json}", "--model", "{classify}"], "are none of the model's (cat, dog)"),
        (["--data", "{labels.json}"], "cannot be evaluated on classification data"),
        (["--data", "{labels.json}", "--task", "classify"], "no classifier"),
        (["--data", "{text.txt}", "--limit", "0"], "--limit is 0"),
        (["--data", "{text.txt}", "--max_length", "65"], "give 2 to 64"),
        (["--data", "{text.txt}", "--task", "poetry"], "poetry"),
        (["--data", "{text.txt}", "--split", "tset"], "tset"),
        (["--data", "{chats.json}", "--split", "test"], "no splits"),
        (["--data", "{chats.json}", "--train_data", "{text.txt}"], "--train_data is for"),
        (["--data", "{text.txt}", "--output", "{lm}"], "is a folder"),
        (["--data", "{text.txt}", "--output", "{text.txt}/x.json"], "Cannot write"),
        (["--data", "{summaries.json}", "--max_new_tokens", "64"], "leaves no room"),
        (["--data", "{summaries.json}", "--max_new_tokens", "6", "--max_length", "6"], "leaves no room"),
    ],
)
def test_a_mistake_ends_in_one_line(folder, capsys, argv, says):
    capsys.readouterr()
    filled = [str(folder / word[1:].replace("}", "")) if word.startswith("{") else word for word in argv]
    assert main(["evaluate", "--model", str(folder / "lm"), *filled]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip() and "%|" not in line]
    assert len(lines) == 1
    assert says in lines[0]
