"""Answers to questions in users' words about a real manual: how many are useful, refused, and wrongly given.

    python -m benchmarks.manual_questions --manual /usr/share/doc/git/html

The manual is that of git 2.39.5, as the Debian package git-doc has it (apt-get download git-doc; dpkg -x). The
questions are in benchmarks/data/git_questions.json with the words that answer each: an answer is useful if it quotes
such words in their order. The generator was tuned on the first half; the second was looked at between changes. The
table also says how often the beginning of the nearest passage, which is longer than an answer, has these words.
"""

import json
import re
from pathlib import Path

from foliogpt.evaluation.bootstrap import interval, mean
from foliogpt.rag import Rag
from foliogpt.rag.answering import Answer

from .tables import parser, show, write

QUESTIONS = Path(__file__).parent / "data" / "git_questions.json"
HALVES = {"first half (every other question)": slice(0, None, 2), "second half": slice(1, None, 2)}
PEER_CHARACTERS = 800
WORD = re.compile(r"\w+")


def words(text: str) -> str:
    return f" {' '.join(WORD.findall(text.lower().replace('’', chr(39))))} "


def is_useful(text: str, answers: list[str]) -> bool:
    """Whether a text has the words of one of the answers."""
    return any(words(answer) in words(text) for answer in answers)


def said(answer: Answer) -> str:
    return " ".join(part for sentence in answer.sentences for part in sentence.parts if isinstance(part, str))


def figures(rag: Rag, asked: list[dict], unanswerable: list[str], refuse: str) -> dict[str, str]:
    """What becomes of some questions, each figure with its 95 % interval."""
    answers = [rag.answer(each["question"], refuse=refuse) for each in asked]
    nearest = [rag.search(each["question"], k=1)[0].text[:PEER_CHARACTERS] for each in asked]
    passages = ["\n".join(passage.text for passage in answer.passages) for answer in answers]
    texts = {"useful": map(said, answers), "useful, nearest passage": nearest, "in the passages": passages}
    wanted = [each["answers"] for each in asked]
    found = [
        *(mean(name, list(map(is_useful, given, wanted))) for name, given in texts.items()),
        mean("refused", [answer.refused for answer in answers]),
        mean("wrongly answered", [not rag.answer(question, refuse=refuse).refused for question in unanswerable]),
    ]
    cells = {}
    for metric in found:
        low, high = interval(metric) or (metric.value,) * 2
        cells[metric.name] = f"{metric.value:.2f} [{low:.2f}, {high:.2f}]"
    return cells | {"characters": f"{sum(len(said(answer)) for answer in answers) / len(answers):.0f}"}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--manual", type=Path, required=True, help="the folder with git's manual in HTML")
    options.add_argument("--index", type=Path, default=Path("runs/benchmarks/git-manual"))
    options.add_argument("--refuse", default="default", help="never, default or strict")
    chosen = options.parse_args()
    questions = json.loads(QUESTIONS.read_text(encoding="utf-8"))
    rows = []
    with Rag.open(chosen.index) as rag:
        rag.sync(chosen.manual)
        for name, half in HALVES.items():
            asked, unanswerable = questions["answerable"][half], questions["unanswerable"][half]
            rows.append({"questions": name, **figures(rag, asked, unanswerable, chosen.refuse)})
    show("answers about git's manual", rows, questions["manual"])
    write(chosen.json, {"manual questions": rows})


if __name__ == "__main__":
    main()
