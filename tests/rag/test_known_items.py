"""Questions made of the documents themselves."""

import pytest

from foliogpt.rag import Document, Heading
from foliogpt.rag.evaluation.known_items import known_items, section_starts

REST = "It says much more than that, in a sentence that goes on and on. " * 5
DUMPS = f"json.dumps(obj, *, indent=None)\n\nSerialize obj by dumps to a JSON string. {REST}\n"


def only(document: Document, count: int = 10):
    dataset = known_items([document, Document("other", "of no length")], count)
    assert dataset.documents is not None
    return dataset, dataset.documents[0]


def test_known_items_ask_for_a_docstring_by_its_first_sentence_without_its_name():
    dataset, left = only(Document("manual/json.dumps", DUMPS, "json.dumps"))
    (question,) = dataset.questions
    assert question.text == "Serialize obj by it to a JSON string."
    assert question.relevant == {("manual/json.dumps", 0): 1}
    assert left.text == f"json.dumps(obj, *, indent=None)\n\n{REST}\n"


def test_known_items_ask_for_each_section_without_the_words_of_its_heading():
    parts = ["# A guide", "It begins here.", "## Deep Nets", f"The deep nets learn by descent. {REST}"]
    text = "\n\n".join([*parts, f"## Rest\nA king sleeps at night. {REST}"])
    lines = [line for line in text.split("\n") if line.startswith("#")]
    headings = tuple(Heading(text.index(line), line.count("#"), line.strip("# ")) for line in lines)
    dataset, left = only(Document("guide.md", text, "A guide", headings=headings, pages=(0, text.index("## Rest"))))
    assert [question.text for question in dataset.questions] == ["The it learn by descent.", "A king sleeps at night."]
    assert [list(question.relevant) for question in dataset.questions] == [[("guide.md", 1)], [("guide.md", 2)]]
    assert "descent" not in left.text
    assert "A king" not in left.text
    for heading in left.headings:
        assert left.text[heading.start :].startswith("#" * heading.level + " " + heading.text)
    assert left.text[left.pages[1] :].startswith("## Rest")
    assert dataset.sections["guide.md"] == [heading.start for heading in left.headings]


def test_a_long_text_without_headings_has_sections():
    text = "\n\n".join(f"The number {number} is a number here. {REST}" for number in range(40))
    starts = section_starts(Document("book", text))
    assert 4 <= len(starts) <= 8
    assert all(text[start:].startswith("The number") for start in starts)
    dataset, _ = only(Document("book", text), count=100)
    assert len(dataset.questions) == len(starts)


def test_known_items_remove_only_the_sentences_of_chosen_questions():
    documents = [Document(f"d{n}", f"The river {n} flows into the sea. {REST}") for n in range(30)]
    dataset = known_items(documents, count=7)
    assert dataset.documents is not None
    changed = {a.name for a, b in zip(documents, dataset.documents, strict=True) if a != b}
    assert changed == {document for question in dataset.questions for document, _ in question.relevant}
    assert len(changed) == 7


@pytest.mark.parametrize(
    "text",
    [f"- a list of more than words. {REST}", f">>> print(1 and 2 and 3). {REST}", "A sentence and no more of it.",
     f"No sign that ends it\n\n{REST.replace('. ', ' , ')}", f"Three words only. {REST.replace('. ', ' , ')}"],
)  # fmt: skip
def test_known_items_skip_text_without_prose_sentences(text):
    with pytest.raises(ValueError, match="No document has a sentence"):
        known_items([Document("d", text)])


def test_known_items_skip_sentences_that_two_documents_share():
    same = [Document(name, f"Return a copy of the object. {REST}") for name in "ab"]
    dataset = known_items([*same, Document("c", f"Return nothing that is known. {REST}")])
    assert [question.text for question in dataset.questions] == ["Return nothing that is known."]


def test_known_items_ask_in_languages_without_spaces():
    dataset, _ = only(Document("zh", "向量数据库保存文本的向量。" + "它还说了很多别的事情。" * 40))
    assert dataset.questions[0].text == "向量数据库保存文本的向量。"
