"""Quotations of a passage, and their display."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foliogpt.rag import Document, Passage
from foliogpt.rag.documents import Heading
from foliogpt.rag.quotations import quotations, shown

MANUAL = """OPTIONS

-m

--move

Move or rename a branch. Its log moves along.

--[no-]color

Color branches.

The negated form turns colors off.

To try it, issue the command:

$ tool branch -m old new

The strategies are:

- ours keeps our side
- theirs keeps their side

EXAMPLES

The end of it all.
"""


def quoted(text: str, headings: tuple[int, ...] = ()) -> list[str]:
    passage = Passage("d", 0, len(text), text, headings=headings)
    return [" ... ".join(text[start:end] for start, end in spans) for _, spans in quotations(passage)]


def test_an_option_has_its_name_an_item_its_lead_and_an_example_what_introduces_it():
    found = [" ".join(each.split()) for each in quoted(MANUAL, (0, MANUAL.index("EXAMPLES")))]
    assert found == [
        "-m --move Move or rename a branch. Its log moves along.",
        "--[no-]color Color branches.",
        "--[no-]color ... The negated form turns colors off.",
        "--[no-]color ... To try it, issue the command: $ tool branch -m old new",
        "--[no-]color ... The strategies are: - ours keeps our side",
        "--[no-]color ... The strategies are: ... - theirs keeps their side",
        "The end of it all.",
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("# Ships\n\nA ship sails.\n\n## Birds\n\nA bird flies.", ["A ship sails.", "A bird flies."]),
        ("Ships\n=====\nA ship sails.\n\n----\n\nA bird flies.", ["A ship sails.", "A bird flies."]),
        ("Use it:\n\n```sh\nrun --all\n\nrun --none\n```\n\nDone it is.",
         ["Use it:\n\n```sh\nrun --all\n\nrun --none\n```", "Done it is."]),
        ("```\nno words\n```\n\nA ship sails.", ["A ship sails."]),
        ("| file | as |\n|---|---|\n| .md | text |\n| .png | nothing |",
         ["| file | as | ... | .md | text |", "| file | as | ... | .png | nothing |"]),
        ("We read:\n| .md |\n|---|\n| .txt |\nAnd no more.", ["| .md | ... | .txt |", "And no more."]),
        ("detached HEAD\n\nIt names no branch.\n\nIt is rare.",
         ["detached HEAD\n\nIt names no branch.", "It is rare."]),
        ("We ship to:\n\nPeru\n\nChile\n", ["We ship to:\n\nPeru\n\nChile"]),
        ("# Red wine", ["# Red wine"]),
        ("the moon is silver\n", ["the moon is silver"]),
        ("", []),
    ],
)  # fmt: skip
def test_headings_fences_and_bars_are_never_quoted_alone(text, found):
    assert quoted(text) == found


@given(st.lists(st.sampled_from(["# A", "-x", "- item", "one two three.", "lead:", "```", "|a|b|", "|--|", "\n", "é"])))
def test_every_quotation_is_a_part_of_the_text_in_order(parts):
    text = "\n".join(parts)
    for _, spans in quotations(Passage("d", 0, len(text), text)):
        assert all(text[start:end] == text[start:end].strip() != "" for start, end in spans)
        assert all(before[1] <= after[0] for before, after in pairwise(spans))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("## The **red** `wine`\nis [dear](http://x.y/z), *very*", "The red wine is dear, very"),
        ("- one\n* two\n> three", "one two three"),
        ("| .md | `text` |", ".md – text"),
        ("```sh\nrun --all\n```", "run --all"),
        ("f(*args, **kwargs) and __init__ and 2*3*4 and a_b_c", "f(*args, **kwargs) and __init__ and 2*3*4 and a_b_c"),
        ("a | b and -1", "a | b and -1"),
    ],
)
def test_marks_of_markdown_are_not_shown(text, found):
    assert shown(text) == found


def test_the_heading_above_tells_what_a_quotation_is_about(rag):
    text = "# Cats\n\nThey sleep all day long here.\n\n# Kings\n\nThey reign all day long here.\n"
    rag.sync([Document("d", text, headings=(Heading(0, 1, "Cats"), Heading(text.index("# Kings"), 1, "Kings")))])
    assert rag.answer("kings", refuse="never").text.startswith('"They reign')


def test_duplicates_are_quoted_once_and_the_best_quotation_comes_first(rag):
    rag.sync(
        [
            Document("force", "--force\n\nPush and destroy what others pushed."),
            Document("lease", "--force-with-lease\n\nPush by force without destroying what others pushed meanwhile."),
            Document("again", "--force-with-lease\n\nPush by force, without destroying what others pushed meanwhile!"),
        ]
    )
    answer = rag.answer("push by force without destroying what others pushed meanwhile")
    assert answer.text.startswith('"--force-with-lease Push by force')
    assert sum("meanwhile" in citation.quote for citation in answer.citations) == 1
