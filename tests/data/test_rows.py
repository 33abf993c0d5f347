"""Rows of every format are read whole, whatever their encoding, and one that cannot be read is named by its line."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, Features, Json, List, Value

from foliogpt.data.files import File
from foliogpt.data.preprocessing import GUESS_LINES
from foliogpt.data.rows import read_rows, rows_in_file, splits_in


def read(path: Path, data: bytes | str, encoding: str = "utf-8") -> list:
    path.write_bytes(data.encode(encoding) if isinstance(data, str) else data)
    return list(read_rows(str(path)))


def values(path: Path, data: bytes | str, encoding: str = "utf-8") -> list:
    return [value for _, value in read(path, data, encoding)]


RUSSIAN = "Съешь же ещё этих мягких французских булок, да выпей чаю."
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。"
FRENCH = "Le garçon préfère les œufs à la crème brûlée, l’été."


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv"])
@pytest.mark.parametrize(
    ("encoding", "text"),
    [("utf-8", RUSSIAN), ("utf-8-sig", RUSSIAN), ("utf-16", RUSSIAN), ("utf-32", FRENCH), ("cp1252", FRENCH),
     ("cp1251", RUSSIAN), ("shift_jis", JAPANESE)],
)  # fmt: skip
def test_rows_in_every_encoding_are_the_same(tmp_path, suffix, encoding, text):
    rows = [{"text": "plain"}] * 3 + [{"text": f"{text} {number}"} for number in range(30)]
    if suffix in (".jsonl", ".json"):
        data = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    else:
        data = "text\n" + "\n".join(f'"{row["text"]}"' for row in rows)
    assert values(tmp_path / f"rows{suffix}", data, encoding) == rows


def test_one_old_line_in_a_large_file_is_read_as_itself(tmp_path):
    lines = [b'{"text": "plain"}'] * (GUESS_LINES + 5)
    lines[2] = lines[-1] = b'{"text": "a \x96 dash"}'
    found = values(tmp_path / "rows.jsonl", b"\n".join(lines))
    assert found[2] == found[-1] == {"text": "a \u2013 dash"}
    assert len(found) == len(lines)


def test_a_broken_line_of_utf_8_is_named_and_changes_no_other(tmp_path):
    lines = [json.dumps({"text": RUSSIAN}, ensure_ascii=False).encode()] * 5
    lines[1] = lines[1][:20] + b'\xd1"}'
    first, broken, *rest = read(tmp_path / "rows.jsonl", b"\n".join(lines))
    assert broken[0] == "rows.jsonl, line 2"
    assert isinstance(broken[1], ValueError)
    assert "not UTF-8" in str(broken[1])
    assert [value for _, value in (first, *rest)] == [{"text": RUSSIAN}] * 4


ROWS = [{"text": "one", "n": 1}, {"text": "two", "n": 2}]
FORMS = {
    "lines": "\n".join(map(json.dumps, ROWS)),
    "blank lines between": "\n\n".join(map(json.dumps, ROWS)) + "\n\n",
    "an array": json.dumps(ROWS),
    "an array, a row a line": "[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n",
    "pretty-printed": json.dumps(ROWS, indent=2),
    "pretty-printed rows": "\n".join(json.dumps(row, indent=2) for row in ROWS),
    "in an object": json.dumps({"version": "1", "tags": ["x"], "data": ROWS}, indent=1),
}


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
@pytest.mark.parametrize("form", FORMS)
def test_json_is_read_in_every_form(tmp_path, form, suffix):
    assert values(tmp_path / f"rows{suffix}", FORMS[form]) == ROWS
    assert values(tmp_path / f"rows{suffix}", FORMS[form].replace("\n", "\r\n")) == ROWS


def test_a_pretty_printed_chat_is_a_row_and_not_its_messages(tmp_path):
    chat = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    for suffix in (".json", ".jsonl"):
        for indent in (None, 1):
            assert values(tmp_path / f"rows{suffix}", json.dumps(chat, indent=indent)) == [chat]


def test_lines_are_named_by_their_number_in_the_file(tmp_path):
    good = json.dumps({"text": "a\u2028b"}, ensure_ascii=False)
    lines = ["", good] * 20_000 + ['{"text": ', good]
    (place, value), last = read(tmp_path / "rows.jsonl", "\n".join(lines))[-2:]
    assert place == "rows.jsonl, line 40001"
    assert str(value) == "is not JSON (Expecting value at column 11)"
    assert last == ("rows.jsonl, line 40002", {"text": "a\u2028b"})


@pytest.mark.parametrize(
    ("line", "says"),
    [('{"text": "\\ud83d"}', "half a character"), ("[" * 100_000, "is not JSON"), ("1" * 5000, "is not JSON"),
     ('{"a": "b\tc"}', "is not JSON"), ("NONE", "is not JSON")],
)  # fmt: skip
def test_a_line_that_cannot_be_read_is_an_error_among_the_rows(tmp_path, line, says):
    for lines in ([line, '{"text": "\\ud83d\\ude00"}'], ['{"text": "\\ud83d\\ude00"}', line]):
        found = values(tmp_path / "rows.jsonl", "\n".join(lines))
        error = found.pop(lines.index(line))
        assert isinstance(error, ValueError)
        assert says in str(error)
        assert found == [{"text": "😀"}]


def test_a_first_line_that_breaks_off_is_named_too(tmp_path):
    found = read(tmp_path / "rows.jsonl", '{"text":\n{"text": "b"}\n')
    assert [place for place, _ in found] == ["rows.jsonl, line 1", "rows.jsonl, line 2"]
    assert isinstance(found[0][1], ValueError)
    assert found[1][1] == {"text": "b"}


def test_csv_rows_that_do_not_fit_are_errors_among_the_rows(tmp_path):
    data = 'a,b\n1,"x\ny"\n2\n3,4,5\n"6"7,8\n9,z\n'
    found = read(tmp_path / "rows.csv", data)
    assert [place.rpartition(" ")[2] for place, _ in found] == ["2", "4", "5", "6", "7"]
    assert [str(value) for _, value in found[1:4]] == [
        "has 1 fields, and the header 2",
        "has 3 fields, and the header 2; put quotes around text that holds the separator",
        "is not CSV (',' expected after '\"')",
    ]  # fmt: skip
    assert [found[0][1], found[-1][1]] == [{"a": "1", "b": "x\ny"}, {"a": "9", "b": "z"}]


@pytest.mark.parametrize("data", ['a\n"b\nc\n', 'a\n"b\nc\n"d"\n'])
def test_an_unclosed_quote_is_an_error_as_it_hides_rows(tmp_path, data):
    with pytest.raises(ValueError, match=r"rows.csv, line 2 is not CSV"):
        read(tmp_path / "rows.csv", data)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_with_another_separator_is_read(tmp_path, separator):
    data = separator.join(["text", "label"]) + "\n" + separator.join(['"a, b; c\td"', "1"])
    assert values(tmp_path / "rows.csv", data) == [{"text": "a, b; c\td", "label": "1"}]


def test_a_header_with_a_comma_is_separated_by_commas(tmp_path):
    assert values(tmp_path / "rows.csv", "a;b;c,d\n1;2;3,4") == [{"a;b;c": "1;2;3", "d": "4"}]


def test_csv_with_carriage_returns_alone_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"rows.csv, line 1 is not CSV \(new-line character"):
        values(tmp_path / "rows.csv", "a,b\r1,x\r2,y")


def test_parquet_has_names_of_classes_json_and_maps(tmp_path):
    columns = {"messages": List(Json()), "label": ClassLabel(names=["no", "yes"]), "tags": List(Value("string"))}
    rows = [{"messages": [{"role": "user", "content": "Hi"}, {"n": 1}], "label": 1, "tags": ["a"]}]
    Dataset.from_list(rows, features=Features(columns)).to_parquet(tmp_path / "rows.parquet")
    expected = [("rows.parquet, row 1", {**rows[0], "label": "yes"})]
    assert list(read_rows(str(tmp_path / "rows.parquet"))) == expected
    pairs = pyarrow.array([[("key", 1)]], pyarrow.map_(pyarrow.string(), pyarrow.int64()))
    pyarrow.parquet.write_table(pyarrow.table({"meta": pairs, "text": ["a"]}), tmp_path / "map.parquet")
    ((_, row),) = read_rows(str(tmp_path / "map.parquet"))
    assert row == {"meta": [("key", 1)], "text": "a"}


def test_a_folder_is_read_with_what_is_below_it_and_its_names_tell_the_split(tmp_path):
    for name in ("a.jsonl", "deep/b.jsonl", "test/c.jsonl", "d-dev.jsonl", ".hidden/e.jsonl", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"text": "x"}')
    assert splits_in(str(tmp_path)) == {"train", "validation", "test"}
    assert [place for place, _ in read_rows(str(tmp_path))] == ["a.jsonl, line 1", "deep/b.jsonl, line 1"]
    assert [place for place, _ in read_rows(str(tmp_path), "test")] == ["test/c.jsonl, line 1"]
    assert [place for place, _ in read_rows(f"{tmp_path}/**/*.jsonl", "validation")] == ["d-dev.jsonl, line 1"]
    assert len(list(read_rows(str(tmp_path / "test" / "c.jsonl")))) == 1  # a file that is named serves for any split


def test_archives_say_what_to_do(tmp_path):
    (tmp_path / "rows.zip").write_bytes(b"PK")
    for source in (tmp_path, tmp_path / "rows.zip"):
        with pytest.raises(ValueError, match=r"rows.zip is an archive: unpack it, and give the folder that comes out"):
            list(read_rows(str(source)))


def test_a_duplicate_csv_column_is_an_error_if_it_is_read(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("text,label,text\na,b,c\n")
    with pytest.raises(ValueError, match=r"rows\.csv has two columns 'text'"):
        list(read_rows(str(file)))
    (row,) = rows_in_file(File(file, file.name), ["label"])
    assert row.value["label"] == "b"


def test_an_empty_list_in_an_object_is_not_taken_for_its_rows(tmp_path):
    assert [row for _, row in read(tmp_path / "rows.json", '{"errors": [], "data": [{"a": 1}]}')] == [{"a": 1}]
    one = {"text": "a", "tags": []}
    assert [row for _, row in read(tmp_path / "rows.json", json.dumps(one))] == [one]


def test_a_file_of_one_chat_with_tools_is_one_row(tmp_path):
    tools = [{"type": "function", "function": {"name": "f"}}]
    for chat in (
        {"messages": [{"role": "user"}], "tools": tools},
        {"tools": tools, "conversations": [{"from": "gpt"}]},
    ):
        assert [row for _, row in read(tmp_path / "rows.json", json.dumps(chat))] == [chat]


def test_a_json_object_with_several_lists_of_rows_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"several lists of rows \(train, test\)"):
        read(tmp_path / "rows.json", '{"train": [{"a": 1}], "test": [{"a": 2}]}')
