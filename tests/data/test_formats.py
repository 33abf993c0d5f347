"""Examples of every common form are recognized, and a row that is not as it should be is named."""

import csv
import json

import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from foliogpt.data.arguments import DataArguments
from foliogpt.data.examples import read_examples
from foliogpt.data.formats import as_messages, load_examples

ASKED, SAID = {"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}
SQUAD = {"text": ["Paris"], "answer_start": [9]}
ROWS = {
    "chat": {"messages": [ASKED, SAID]},
    "sharegpt": {"conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hello."}]},
    "prompt-completion": {"prompt": "Hi?", "completion": "Hello."},
    "instruction": {"instruction": "Add.", "input": "1 2", "output": "3"},
    "dolly": {"instruction": "Add.", "context": "1 2", "response": "3", "category": "sums"},
    "preference": {"prompt": "Hi?", "chosen": "Hello.", "rejected": "No."},
    "preference of chats": {"chosen": [ASKED, SAID], "rejected": [ASKED, {"role": "assistant", "content": "No."}]},
    "preference, alpaca": {"instruction": "Hi?", "input": "", "output": "x", "chosen": "Hello.", "rejected": "No."},
    "qa": {"question": "Where?", "context": "He is in Paris.", "answers": SQUAD},
    "summary": {"dialogue": "A: Hi. B: Hello.", "summary": "They greet."},
    "tags": {"tokens": ["Ann", "sings"], "ner_tags": ["PER", "O"]},
    "classification": {"text": "good", "label": "yes"},
    "text": {"text": "some words"},
}
KINDS = {
    "sharegpt": "chat",
    "dolly": "instruction",
    "preference of chats": "preference",
    "preference, alpaca": "preference",
}


def lines(folder, rows, name="rows.jsonl") -> str:
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def other(row: dict) -> dict:
    return {**row, "label": "no"} if "label" in row else row


@pytest.mark.parametrize("name", ROWS)
def test_every_form_is_recognized(tmp_path, name):
    examples, kind = load_examples(lines(tmp_path, [ROWS[name], other(ROWS[name])]))
    assert kind == KINDS.get(name, name)
    assert len(examples) == 2
    no = {"role": "assistant", "content": "No."}
    expected = {
        "chat": {**ROWS["chat"], "tools": []},
        "instruction": {"before": [], "instruction": "Add.", "input": "1 2", "output": "3", "tools": []},
        "prompt-completion": {"prompt": [ASKED], "completion": [SAID], "tools": []},
        "preference": {"prompt": [ASKED], "chosen": [SAID], "rejected": [no], "tools": []},
        "tags": {"tokens": ["Ann", "sings"], "tags": ["PER", "O"]},
        "qa": {**ROWS["qa"], "id": ""},
    }
    assert examples[0] == {**expected.get(kind, ROWS[name]), "place": "rows.jsonl, line 1"}


@pytest.mark.parametrize("name", ["chat", "prompt-completion", "instruction", "summary", "qa"])
def test_as_messages_ends_with_the_assistants_reply(tmp_path, name):
    (example,), kind = load_examples(lines(tmp_path, [ROWS[name]]), "sft")
    messages = as_messages(example, kind)
    assert [message["role"] for message in messages] == ["user", "assistant"]
    assert messages[-1]["content"] in ("Hello.", "3", "They greet.", "Paris")


@pytest.mark.parametrize(
    ("row", "columns", "expected"),
    [
        ({"query": "Hi?", "response": "Hello."}, {}, [ASKED, SAID]),
        ({"question": "Hi?", "answer": "Hello."}, {}, [ASKED, SAID]),
        ({"ask": "Hi?", "reply": "Hello."}, {"prompt": "ask", "completion": "reply"}, [ASKED, SAID]),
        ({"turns": [ASKED, SAID]}, {"messages": "turns"}, [ASKED, SAID]),
        ({"messages": [SAID, ASKED], "other": [ASKED, SAID]}, {"messages": "other"}, [ASKED, SAID]),
        ({"messages": [{**ASKED, "role": "User"}, {**SAID, "role": "ASSISTANT"}]}, {}, [ASKED, SAID]),
        (
            {"messages": [ASKED, {"role": "function", "content": "1"}, {"role": "ipython", "content": "2"}, SAID]},
            {},
            [ASKED, {"role": "tool", "content": "1"}, {"role": "tool", "content": "2"}, SAID],
        ),
        (
            {"messages": [ASKED, {**SAID, "train": False}, ASKED, SAID]},
            {},
            [ASKED, {**SAID, "train": False, "weight": 0}, ASKED, SAID],
        ),
        ({"prompt": json.dumps([ASKED]), "completion": json.dumps([SAID])}, {}, [ASKED, SAID]),
        (
            {"prompt": "[INST] {", "completion": '[{"name": "now"}]'},
            {},
            [{**ASKED, "content": "[INST] {"}, {**SAID, "content": '[{"name": "now"}]'}],
        ),
    ],
)
def test_chats_by_other_names(tmp_path, row, columns, expected):
    (example,), kind = load_examples(lines(tmp_path, [row]), "sft", columns=columns)
    found = as_messages(example, kind)
    if kind == "prompt-completion":
        expected = [{**expected[0], "weight": 0}, expected[1]]
    assert found == expected


def test_unused_columns_give_one_warning(tmp_path, caplog):
    file = lines(tmp_path, [{"id": 7, **ROWS["chat"]}, {**ROWS["chat"], "system": "be kind", "source": "web"}])
    examples, _ = load_examples(file, "sft")
    load_examples(file, "sft")
    assert examples[1]["messages"][0] == {"role": "system", "content": "be kind"}
    assert [record.getMessage() for record in caplog.records] == [f"{file} has unused columns id, source"]


def test_a_column_that_the_user_named_must_be_there(tmp_path):
    with pytest.raises(ValueError, match=r"no column 'sistem', only messages"):
        load_examples(lines(tmp_path, [ROWS["chat"]]), "sft", columns={"system": "sistem"})
    with pytest.raises(ValueError, match=r"has the columns messages.*sft needs"):
        load_examples(lines(tmp_path, [ROWS["chat"]]), "sft", columns={"messages": "chats"})
    with pytest.raises(ValueError, match="No kind of data has a column 'propmt'"):
        load_examples(lines(tmp_path, [ROWS["chat"]]), "sft", columns={"propmt": "messages"})
    with pytest.raises(ValueError, match="columns has 'prompt'"):
        DataArguments("sft", "rows.jsonl", columns=["prompt"])


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "tsv", "parquet"])
def test_every_kind_of_file_gives_the_same(tmp_path, suffix):
    rows = [{"text": 'one, "two"\nthree\tfour', "label": "a"}, {"text": "None", "label": "b"}]
    file = tmp_path / f"rows.{suffix}"
    if suffix == "json":
        file.write_text(json.dumps(rows, indent=1))
    elif suffix == "jsonl":
        lines(tmp_path, rows)
    elif suffix == "parquet":
        pyarrow.parquet.write_table(Dataset.from_list(rows).data.table, file)
    else:
        with file.open("w", newline="") as opened:
            writer = csv.DictWriter(opened, ["text", "label"], delimiter="\t" if suffix == "tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    examples, kind = load_examples(str(file))
    assert (list(examples.remove_columns("place")), kind) == (rows, "classification")


def test_names_of_classes_come_from_a_typed_table(tmp_path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features).to_parquet(tmp_path / "rows.parquet")
    assert load_examples(str(tmp_path / "rows.parquet"))[0]["label"] == ["good", "bad"]


def test_a_folder_is_read_split_by_split(tmp_path):
    for name in ("part-1.jsonl", "part-2.jsonl", "dialogsum.dev.jsonl", "test.jsonl"):
        lines(tmp_path, [{"text": name}], name)
    (tmp_path / "README.md").write_text("about")
    for split, names in {"train": ["part-1", "part-2"], "validation": ["dialogsum.dev"], "test": ["test"]}.items():
        assert load_examples(str(tmp_path), split=split)[0]["text"] == [f"{name}.jsonl" for name in names]


def test_squad_in_its_nested_file(tmp_path):
    answers = [{"text": "Paris", "answer_start": 9}]
    questions = [{"id": "1", "question": "Where?", "answers": answers}, {"id": "2", "question": "When?", "answers": [],
                  "is_impossible": True}]  # fmt: skip
    article = {"title": "He", "paragraphs": [{"context": "He is in Paris.", "qas": questions}]}
    (tmp_path / "squad.json").write_text(json.dumps({"version": "2.0", "data": [article]}))
    examples, kind = load_examples(str(tmp_path / "squad.json"))
    assert kind == "qa"
    assert [example["answers"]["text"] for example in examples] == [["Paris"], []]


SEPARATOR = " +++$+++ "


def movie(folder, conversations):
    said = {
        "L1": ("u0", "Hi."),
        "L2": ("u1", "Hello\x85 you."),
        "L3": ("u1", "Sit."),
        "L4": ("u0", ""),
        "L5": ("u0", "Não."),
    }
    text = "\n".join(SEPARATOR.join([id, user, "m0", "ANN", line]) for id, (user, line) in said.items())
    (folder / "movie_lines.txt").write_text(text + "\n", encoding="iso-8859-1")
    rows = [SEPARATOR.join(["u0", "u1", "m0", str(names)]) for names in conversations]
    (folder / "movie_conversations.txt").write_text("\n".join(rows) + "\n", encoding="iso-8859-1")
    return str(folder)


def test_movie_dialogs_become_chats_of_several_turns(tmp_path):
    (chat,), kind = load_examples(movie(tmp_path, [["L1", "L2", "L3", "L4", "L5"], ["L2", "L3"], ["L1", "L4"]]))
    assert kind == "chat"
    assert [(m["role"], m["content"]) for m in chat["messages"]] == [
        ("user", "Hi."), ("assistant", "Hello\x85 you.\nSit."), ("user", "Não.")]  # fmt: skip


@pytest.mark.parametrize("others", [["corpus.zip"], ["train.csv", "validation.csv"]])
def test_movie_dialogs_are_split_whatever_other_files_are_beside_them(tmp_path, others):
    source = movie(tmp_path, [["L1", "L2"], ["L3", "L5"], ["L1", "L3"], ["L2", "L5"]])
    for name in others:
        (tmp_path / name).write_text("text\n")
    train, validation, kind = read_examples(DataArguments(data=source, task="sft", validation_split=0.25))
    assert kind == "chat"
    assert len(train) + len(validation) == 4
    assert not set(train["place"]) & set(validation["place"])


def test_a_movie_line_that_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"movie_conversations.txt, line 2 names the line 'L9'"):
        load_examples(movie(tmp_path, [["L1", "L2"], ["L1", "L9"]]))


MALFORMED = [
    ("chat", {"messages": "Hi"}, "has str 'Hi' as messages"),
    ("chat", {"messages": [{"role": "me", "content": "x"}, SAID]}, "who is none of"),
    ("chat", {"messages": [ASKED]}, "no message of the assistant to learn from"),
    ("chat", {"messages": ["Hi"]}, "not a message"),
    ("chat", {"messages": [{"role": "user", "content": [{"type": "image"}]}, SAID]}, "a part of type image"),
    ("chat", {"messages": [ASKED, {"role": "assistant", "tool_calls": [{"function": {"name": "now"}}]}]},
     "a call of now without arguments"),
    ("chat", {"messages": [ASKED, {"role": "assistant", "content": "half \ud83d"}]}, "half a character"),
    ("chat", {"messages": [ASKED, {**SAID, "weight": 0}]}, "no message of the assistant to learn from"),
    ("chat", {"messages": [ASKED, {**SAID, "weight": 0.5}]}, "a message of weight 0.5"),
    ("chat", {"messages": [{"role": "system", "content": "a"}, ASKED, SAID], "system": "b"}, "another message of the"),
    ("chat", {"messages": [ASKED, SAID], "tools": "[{"}, "has str '[{' as tools, not a list"),
    ("prompt-completion", {"prompt": "x", "completion": "y", "history": [["a"]]}, "not a pair"),
    ("preference", {"chosen": "Yes", "rejected": "No"}, "has no prompt"),
    ("preference", {"prompt": "x", "chosen": "Yes", "rejected": [SAID]}, "a chat and a text"),
    ("preference", {"prompt": "x", "chosen": [SAID], "rejected": [ASKED]}, "no message of the assistant to learn from"),
    ("instruction", {"instruction": "", "output": "3"}, "has nothing as instruction"),
    ("instruction", {"instruction": "Add.", "output": 3}, "has int '3' as output"),
    ("preference", {"prompt": "Hi?", "chosen": "Hello."}, "has no value as rejected"),
    ("preference", {"chosen": [ASKED, SAID], "rejected": [SAID, SAID]}, "answer different chats"),
    ("qa", {**ROWS["qa"], "answers": {"text": ["Rome"], "answer_start": [9]}}, "'Rome', which is not at 9"),
    ("qa", {**ROWS["qa"], "answers": "Paris"}, "has str 'Paris' as answers, not text and"),
    ("summary", {"dialogue": None, "summary": "x"}, "has no value as dialogue"),
    ("tags", {"tokens": ["a", "b"], "ner_tags": ["O"]}, "has 2 tokens and 1 ner_tags"),
    ("classification", {"text": "x", "label": None}, "has no value as label"),
    ("classification", {"text": "x", "label": ["a", "b"]}, "as label: a row needs one label"),
    ("classification", {"text": "x", "label": 0.37}, "has float '0.37' as label: a row needs one label"),
    ("text", ["x"], "is list, not an object"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "row", "says"), MALFORMED, ids=[says for *_, says in MALFORMED])
def test_a_malformed_row_is_named_and_skipped_only_when_asked(tmp_path, caplog, name, row, says):
    file = lines(tmp_path, [ROWS[name], row, other(ROWS[name])])
    with pytest.raises(ValueError, match=r"^rows.jsonl, line 2 .*--skip_malformed\.$") as error:
        load_examples(file)
    assert says in str(error.value)
    examples, _ = load_examples(file, skip_malformed=True)
    assert len(examples) == 2
    assert "1 malformed rows skipped" in caplog.text


def test_a_line_that_is_not_json_and_one_with_too_many_fields_are_named(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n\n{"text": \n')
    with pytest.raises(ValueError, match=r"rows.jsonl, line 3 is not JSON"):
        load_examples(str(tmp_path / "rows.jsonl"))
    (tmp_path / "rows.csv").write_text('text,label\n"a\nb",x\nb,y,z\n')
    with pytest.raises(ValueError, match=r"rows.csv, line 4 has 3 fields, and the header 2"):
        load_examples(str(tmp_path / "rows.csv"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "no usable row"),
        ("[1, 2]\n", "row 1 is int, not an object with columns"),
        ('{"a": 1, "b": 2}\n', "has the columns a, b; no kind of data"),
        ('{"messages": []}\n', "line 1 has list"),
        ('{"text": "a", "label": 1}\n' * 2, "one label only, '1'"),
    ],
)
def test_load_examples_rejects_data_without_examples(tmp_path, content, says):
    (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(ValueError, match=says):
        load_examples(str(tmp_path / "rows.jsonl"))


def test_load_examples_raises_if_all_rows_are_skipped(tmp_path):
    with pytest.raises(ValueError, match=r"no usable row \(rows.jsonl, line 1 "):
        load_examples(lines(tmp_path, [{"text": ""}]), skip_malformed=True)


def test_load_examples_rejects_missing_sources_and_other_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder 'nowhere'"):
        load_examples("nowhere")
    with pytest.raises(FileNotFoundError, match="has no rows for train"):
        load_examples(str(tmp_path))
    (tmp_path / "rows.txt").write_text("text")
    with pytest.raises(ValueError, match="no file of rows"):
        load_examples(str(tmp_path / "rows.txt"))
    with pytest.raises((ValueError, ConnectionError), match="hub:nobody/nothing cannot be loaded"):
        load_examples("hub:nobody/nothing")


def test_the_task_chooses_among_the_kinds_that_the_columns_allow(tmp_path):
    file = lines(tmp_path, [ROWS["preference, alpaca"]])
    assert load_examples(file)[1] == "preference"
    assert load_examples(file, "sft")[1] == "instruction"
    with pytest.raises(ValueError, match="which is preference data; classify needs classification data"):
        load_examples(file, "classify")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["b", "a"], ["b", "a"]),
        ([1, 0], ["1", "0"]),
        ([True, False], ["true", "false"]),
        (["-1", "3"], ["-1", "3"]),
        (["3.11", "dev"], ["3.11", "dev"]),
    ],
)
def test_labels_are_names_of_classes(tmp_path, labels, expected):
    examples, _ = load_examples(lines(tmp_path, [{"text": "t", "label": label} for label in labels]))
    assert examples["label"] == expected


def test_scores_in_a_csv_file_are_rejected_as_labels(tmp_path):
    (tmp_path / "rows.csv").write_text("text,label\na,3\nb,0.37\n")
    with pytest.raises(ValueError, match=r"^rows\.csv, line 3 has '0\.37' as label: a row needs one label"):
        load_examples(str(tmp_path / "rows.csv"))


@pytest.mark.parametrize(
    ("task", "column", "names"),
    [("classify", "label", {"comment": "a", "rude": "yes"}), ("tag", "tags", {"words": ["a"], "rude": ["B-X"]})],
)
def test_columns_of_other_names_are_read(tmp_path, task, column, names):
    file = lines(tmp_path, [names, {**names, "rude": type(names["rude"])("n")}])
    options = {"text_column": "comment"} if task == "classify" else {}
    examples, _ = load_examples(file, task, label_column="rude", **options)
    assert list(examples[column]) == [names["rude"], type(names["rude"])("n")]


def test_calls_of_tools_keep_their_arguments(tmp_path):
    calls = [
        {"function": {"name": "add", "arguments": {"a": 1}}},
        {"function": {"name": "say", "arguments": {"b": "x"}}},
    ]
    rows = [{"messages": [ASKED, {"role": "assistant", "content": None, "tool_calls": [call]}]} for call in calls]
    examples, _ = load_examples(lines(tmp_path, rows))
    assert [example["messages"][1]["tool_calls"][0] for example in examples] == calls


def test_numbers_in_calls_and_tools_are_not_rounded(tmp_path):
    call = {"name": "wait", "arguments": {"seconds": 1e-12, "at": 2**62 + 1, "share": 0.12345678901}}
    chat = [{"role": "user", "content": "wait"}, {"role": "assistant", "tool_calls": [{"function": call}]}]
    (row,) = load_examples(lines(tmp_path, [{"messages": chat, "tools": [{"minimum": 1e-12}]}]))[0]
    assert row["messages"][1]["tool_calls"][0]["function"] == call
    assert row["tools"] == [{"minimum": 1e-12}]


def test_a_number_that_cannot_be_stored_is_named(tmp_path):
    chat = [{"role": "user", "content": "hi", "id": 10**30}, {"role": "assistant", "content": "hello"}]
    with pytest.raises(ValueError, match="line 1 has a number of more than 64 bits"):
        load_examples(lines(tmp_path, [{"messages": chat}]))


@pytest.mark.parametrize(("text", "start"), [("bc", -3), ("", 0)])
def test_an_answer_before_the_context_or_without_text_is_named(tmp_path, text, start):
    row = {"question": "what?", "context": "abcd", "answers": {"text": [text], "answer_start": [start]}}
    with pytest.raises(ValueError, match=f"line 1 has the answer '{text}', which is not at {start}"):
        load_examples(lines(tmp_path, [row]))


def test_all_of_many_rows_are_read_in_order(tmp_path):
    rows = [{"prompt": f"say {i}", "completion": str(i)} for i in range(2001)]
    rows.insert(1000, {"prompt": "say", "completion": ""})
    examples, _ = load_examples(lines(tmp_path, rows), skip_malformed=True)
    assert [row["completion"][0]["content"] for row in examples] == [str(i) for i in range(2001)]
    assert examples[1000]["place"] == "rows.jsonl, line 1002"


def test_real_files(shared_data):
    for name, kind, count in (
        ("instruct/instruction-data.json", "instruction", 1100),
        ("instruct/preference-data.json", "preference", 1100),
        ("summarization/dialogsum.dev.jsonl", "summary", 500),
        ("movie_dialogs", "chat", 8065),
    ):
        examples, found = load_examples(str(shared_data / name))
        assert (found, len(examples)) == (kind, count)
