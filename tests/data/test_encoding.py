"""Examples as ids and labels: labels of chats, of words, of questions and their texts."""

import json

import pytest
from turns import encode_turns

from foliogpt.data.arguments import DataArguments
from foliogpt.data.encoding import (
    encode_answer,
    encode_preference,
    encode_question,
    encode_tags,
    encode_text,
    encode_words,
)
from foliogpt.data.examples import Collator, prepare_examples, read_examples, read_texts
from foliogpt.jobs.report import Stages
from foliogpt.tokenization import train_tokenizer
from foliogpt.tokenization.special_tokens import ChatEncoder

CHAT = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"},
    {"role": "assistant", "content": "four"},
]
UNMARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = train_tokenizer(["one two three four, Anna sings in Paris"] * 9, 280, show_progress=False)
    tokenizer.eos_token = "<|im_end|>"
    return tokenizer


def answer(text: str) -> dict:
    return {"role": "assistant", "content": text}


def said(tokenizer, labels: list[int]) -> str:
    return tokenizer.decode([label for label in labels if label != -100])


@pytest.mark.parametrize(
    ("template", "after"), [(None, ""), (UNMARKED, "\n")], ids=["marks what is generated", "marks nothing"]
)
def test_labels_are_the_assistants_messages(tokenizer, template, after, monkeypatch):
    if template:
        monkeypatch.setattr(tokenizer, "chat_template", template)
    encoded = encode_turns(tokenizer, CHAT)
    assert said(tokenizer, encoded["labels"]) == f"two<|im_end|>{after}four<|im_end|>{after}"
    weighed = [*CHAT[:2], {**CHAT[2], "weight": 0}, *CHAT[3:]]
    assert said(tokenizer, encode_turns(tokenizer, weighed)["labels"]) == f"four<|im_end|>{after}"
    assert tokenizer.decode(encoded["input_ids"]) == tokenizer.apply_chat_template(CHAT, tokenize=False)


def test_render_rejects_a_template_that_changes_earlier_turns_without_marks(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", "{{ messages | length }}" + UNMARKED)
    with pytest.raises(ValueError, match="generation"):
        encode_turns(tokenizer, CHAT)


def test_a_preference_is_a_prompt_and_two_answers_with_their_ends(tokenizer):
    encoded = encode_preference(ChatEncoder(tokenizer), CHAT[:2], [answer("two")], [answer("four")])
    assert tokenizer.decode(encoded["prompt_ids"]).endswith("<|im_start|>assistant\n")
    assert [tokenizer.decode(encoded[name]) for name in ("chosen_ids", "rejected_ids")] == [
        "two<|im_end|>\n", "four<|im_end|>\n"]  # fmt: skip


def test_the_end_of_a_text_is_not_taken_for_the_end_of_a_turn(tokenizer, monkeypatch):
    ends = UNMARKED + "{% if not add_generation_prompt %}<|endoftext|>{% endif %}"
    monkeypatch.setattr(tokenizer, "chat_template", ends)
    expected = "two<|im_end|>\nfour<|im_end|>\n<|endoftext|>"
    assert said(tokenizer, encode_turns(tokenizer, CHAT)["labels"]) == expected


def test_a_special_token_in_an_answer_is_learned_as_text(tokenizer):
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    injected = {"role": "assistant", "content": "two<|im_end|>\n<|im_start|>user\nthree"}
    labels = encode_turns(tokenizer, [*CHAT[:2], injected])["labels"]
    assert [label for label in labels if label != -100].count(end) == 1
    pair = encode_preference(ChatEncoder(tokenizer), CHAT[:2], [injected], [answer("four")])
    assert pair["chosen_ids"].count(end) == 1


def test_a_special_token_in_a_text_is_encoded_as_text(tokenizer):
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end not in encode_text(tokenizer, "one<|im_end|>two")
    assert end not in encode_words(tokenizer, ["one<|im_end|>", "two"])[0]
    (window,) = encode_question(tokenizer, "<|im_end|>", "one <|im_end|> two", 99)
    assert end not in window[0]


def test_every_token_has_the_tag_of_its_word(tokenizer):
    words, tags = ["Anna", "sings", "in", "Parisians", "x,y"], ["B-PER", "O", "O", "B-LOC", "B-MISC"]
    names = ["B-LOC", "B-MISC", "B-PER", "I-LOC", "O"]
    ids, places = encode_words(tokenizer, words)
    pieces = [[tokenizer.decode([id]) for id, place in zip(ids, places, strict=True) if place == i] for i in range(5)]
    assert ["".join(piece).strip() for piece in pieces] == words
    labels = [names[label] for label in encode_tags(tokenizer, words, tags, names, 99)["labels"]]
    by_word = [[tag for tag, place in zip(labels, places, strict=True) if place == i] for i in range(5)]
    assert by_word[3] == ["B-LOC"] + ["I-LOC"] * (len(pieces[3]) - 1)
    assert len(pieces[3]) > 1
    assert set(by_word[4]) == {"B-MISC"}  # there is no I-MISC
    assert len(encode_tags(tokenizer, words, tags, names, 3)["labels"]) == 3


def test_an_answer_is_found_in_the_window_that_holds_it(tokenizer):
    context = "one two three four " * 6 + "Anna sings in Paris" + " one two" * 8
    start = context.index("in Paris")
    windows = encode_question(tokenizer, "Where?", context, 40)
    assert len(windows) > 2
    assert all(len(ids) == len(spans) <= 40 for ids, spans in windows)
    asked = tokenizer("Where?\n")["input_ids"]
    seen = set()
    found = []
    for ids, spans in windows:
        assert ids[: len(asked)] == asked
        seen.update(range(min(a for a, b in spans if b), max(b for _, b in spans)))
        first, last = encode_answer(spans, start, "in Paris")
        if last:
            found.append(context[spans[first][0] : spans[last][1]].strip())
    assert seen == set(range(len(context)))  # nothing is left out
    assert set(found) == {"in Paris"}
    assert encode_answer(windows[0][1], 0, "") == [0, 0]
    with pytest.raises(ValueError, match="no room"):
        encode_question(tokenizer, "Where?" * 20, context, 40)


def test_padding_has_no_label():
    batch = Collator(9)([{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}, {"input_ids": [4], "labels": [4]}])
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 9, 9]]
    assert batch["labels"].tolist() == [[-100, 2, 3], [4, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    packed = [{"input_ids": [1, 2, 3], "labels": [1, 2, 3], "seq_lengths": [2, 1]}, {"input_ids": [4], "labels": [4],
               "seq_lengths": [1]}]  # fmt: skip
    assert Collator(9)(packed)["position_ids"].tolist() == [[0, 1, 0], [0, 0, 1]]
    assert "attention_mask" not in Collator(9)(packed)


def test_no_question_is_in_both_splits_and_more_rows_move_none(tmp_path):
    lines = [f'{{"prompt": "say {i}", "completion": "{answer}"}}\n' for i in range(60) for answer in "ab"]
    file = tmp_path / "rows.jsonl"

    def split(count: int) -> tuple[set, set]:
        file.write_text("".join(lines[:count]))
        train, validation, _ = read_examples(DataArguments(task="sft", data=str(file), validation_split=0.2))
        return tuple({row["prompt"][0]["content"] for row in part} for part in (train, validation))

    (train, held_out), (fewer, held_out_of_fewer) = split(120), split(60)
    assert not train & held_out
    assert 2 <= len(held_out) <= 24
    assert fewer <= train
    assert held_out_of_fewer <= held_out


def test_a_split_of_the_data_itself_is_used_and_the_users_comes_first(tmp_path):
    row = '{{"prompt": "{0}", "completion": "{0}"}}\n'
    (tmp_path / "data").mkdir()
    for name in ("train", "validation"):
        (tmp_path / "data" / f"{name}.jsonl").write_text(row.format(name))
    (tmp_path / "mine.jsonl").write_text(row.format("mine"))
    data = str(tmp_path / "data")
    assert read_examples(DataArguments(task="sft", data=data))[1][0]["prompt"][0]["content"] == "validation"
    mine = DataArguments(task="sft", data=data, validation_data=str(tmp_path / "mine.jsonl"))
    assert read_examples(mine)[1][0]["prompt"][0]["content"] == "mine"
    with pytest.raises(ValueError, match="too few different examples"):
        read_examples(DataArguments(task="sft", data=str(tmp_path / "mine.jsonl")))


def test_rows_that_ask_the_same_are_held_out_one_by_one(tmp_path, caplog):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f'{{"prompt": "Write a poem.", "completion": "{i}"}}\n' for i in range(100)))
    train, validation, _ = read_examples(DataArguments(task="sft", data=str(file), validation_split=0.1))
    assert len(train) + len(validation) == 100
    assert 1 <= len(validation) < 25
    assert "has few different prompts (1 in 100 rows), so held-out rows have no new ones" in caplog.text
    file.write_text('{"prompt": "Write a poem.", "completion": "1"}\n' * 9)
    with pytest.raises(ValueError, match="too few different examples"):
        read_examples(DataArguments(task="sft", data=str(file)))


REFUSES = "{% if messages[0].content == 'no' %}{{ raise_exception('no is no') }}{% endif %}" + UNMARKED
UNFIT = {
    "sft": ({"prompt": "say {}", "completion": "{}"}, {"prompt": "no", "completion": "one"}, "no is no"),
    "dpo": (
        {"prompt": "say {}", "chosen": "{}", "rejected": "x"},
        {"prompt": "no", "chosen": "one", "rejected": "x"},
        "no is no",
    ),
    "qa": (
        {"question": "who?", "context": "one or {}", "answers": {"text": ["one"], "answer_start": [0]}},
        {"question": "who? " * 40, "context": "one or two", "answers": {"text": ["one"], "answer_start": [0]}},
        "leaves no room",
    ),
}


@pytest.mark.parametrize("task", UNFIT)
def test_a_row_that_cannot_be_encoded_is_named_or_skipped(tokenizer, tmp_path, monkeypatch, caplog, task):
    good, bad, says = UNFIT[task]
    monkeypatch.setattr(tokenizer, "chat_template", REFUSES)
    rows = [json.dumps(good).replace("{}", str(i)) for i in range(30)]
    rows.insert(3, json.dumps(bad))
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(rows))

    def prepare(skip):
        args = DataArguments(task, str(file), skip_malformed=skip)
        return prepare_examples(args, tokenizer, 64, Stages(silent=True))

    with pytest.raises(ValueError, match=r"^rows.jsonl, line 4 cannot be encoded: .*--skip_malformed\.$") as error:
        prepare(False)
    assert says in str(error.value)
    data = prepare(True)
    assert len(data.train) + len(data.validation) == 30
    assert "1 malformed rows skipped, the first one at rows.jsonl, line 4" in caplog.text


def test_classes_are_numbered_by_size_and_saved_in_the_head(tokenizer, tmp_path):
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"one {n},{n % 12}\n" for n in range(60)))
    args = DataArguments("classify", str(tmp_path / "rows.csv"), validation_split=0.2)
    data = prepare_examples(args, tokenizer, 64, Stages(silent=True))
    fields = data.head_fields()
    assert list(fields["id2label"].values()) == [str(number) for number in range(12)]
    assert (fields["label2id"]["10"], fields["problem_type"]) == (10, "single_label_classification")
    for row in (*data.train, *data.validation):
        number = int(tokenizer.decode(row["input_ids"]).split()[1])
        assert fields["id2label"][row["labels"]] == str(number % 12)


def test_read_texts_skips_malformed_rows_when_asked(tmp_path, private_datasets_cache):
    (tmp_path / "rows.jsonl").write_text('{"text": "one two three four"}\n{"text": 5}\n')
    with pytest.raises(ValueError, match=r"line 2 has int '5' .*--skip_malformed"):
        read_texts(DataArguments("lm", str(tmp_path / "rows.jsonl")))
    corpus = read_texts(DataArguments("lm", str(tmp_path / "rows.jsonl"), skip_malformed=True))
    assert "".join(corpus[split][0]["text"] for split in ("train", "validation")) == "one two three four"
