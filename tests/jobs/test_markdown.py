from foliogpt.jobs.markdown import markdown_table


def test_columns_are_aligned_and_cells_stay_in_their_column():
    assert markdown_table(["", "loss"], [["a|b", 1.5], ["two\nlines", None]]).splitlines() == [
        "|           | loss |",
        "| --------- | ---- |",
        r"| a\|b      | 1.5  |",
        "| two lines | None |",
    ]


def test_a_table_without_rows_has_a_header():
    assert markdown_table(["a"], []).splitlines() == ["| a   |", "| --- |"]
