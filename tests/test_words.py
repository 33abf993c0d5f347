"""Pages and code use plain sentences and the field's terms, as CONTRIBUTING.md has the rules.

`python tests/test_words.py` lists the sentences of more than 30 words.
"""

import ast
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
ROOT_PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "notebooks/README.md")]
PAGES = [*ROOT_PAGES, *sorted((ROOT / "docs").rglob("*.md"))]
SOURCES = [path for typed in ROOT.glob("*/py.typed") for path in typed.parent.rglob("*.py")]
TERMS = {
    "control tokens?": "special token", "forged?|forge a": "inject", "likelier|likeliest": "more likely, most likely",
    "anew": "again", "data sets?": "dataset", "at the peak": "peak memory", "(?:is|are|was) told": "is reported",
    "(?:bits|nats) an? byte|tokens a second": "per", "go(?:es)? on|went on": "continue", "pass(?:es)? over": "skip",
    "whoever|somebody|anybody|nobody": "the user, a client, another process", "no numbers?": "NaN or infinite",
    r"\w*(?:okenis|ormalis|nitialis)\w*|colour\w*|licences?|learnt|behaviours?": "American spelling",
}  # fmt: skip


def prose(page: Path, with_tables: bool = False) -> str:
    text = re.sub(r"^```.*?^```$|<!--.*?-->|`[^`\n]*`", "X", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return text if with_tables else re.sub(r"^(?:#|\|).*$|^\s*(?:-|\d+\.) ", "\n\n", text, flags=re.M)


def sentences(page: Path) -> list[str]:
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", prose(page))]
    return [s for part in paragraphs for s in re.split(r"(?<=[.!?:])[\"')*]* (?=[A-Z(*\"])", part) if len(s) > 1]


def test_sentences_begin_with_the_actor_and_address_the_reader():
    said = [s for page in PAGES for s in sentences(page)]
    inverted = [s for s in said if re.match(r"[(*\"]*(?:What|Of|That|Whoever)\b", s)]
    assert len(inverted) <= 0.01 * len(said), inverted
    words = " ".join(said).split()
    assert sum(bool(re.match(r"\W*your?(?:s|self)?\b", word, re.I)) for word in words) >= 0.01 * len(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_use_the_terms_of_the_field(page):
    text = prose(page, with_tables=True)
    found = {term: better for term, better in TERMS.items() if re.search(rf"\b(?:{term})\b", text, re.I)}
    assert not found, {better: re.search(rf".*\b(?:{term})\b.*", text, re.I)[0] for term, better in found.items()}


def test_the_package_uses_the_terms_of_the_field():
    lines = [f"{path.name}: {line.strip()}" for path in SOURCES for line in path.read_text("utf-8").splitlines()]
    assert not [line for line in lines for term in TERMS if re.search(rf"\b(?:{term})\b", line, re.I)]


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.parent.name == "docs" and page.name != "index.md"],
    ids=lambda page: page.name,
)
def test_each_page_ends_with_the_next_step(page):
    assert re.match(r"Next: .*\]\(", page.read_text(encoding="utf-8").rstrip().split("\n\n")[-1], re.S)


def test_docstrings_and_help_texts_are_no_fragments():
    """No noun clauses ("What ...") in docstrings, and no fragments ("of matrices") in help texts."""
    nodes = [node for path in SOURCES for node in ast.walk(ast.parse(path.read_text("utf-8")))]
    texts = [ast.get_docstring(n) for n in nodes if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
    clauses = [text for text in texts if re.match(r"(What|Whether|Where|How|Of|Which|Why|Whoever|That)\b", text or "")]
    assert not clauses
    calls = [n for n in nodes if isinstance(n, ast.Call) and getattr(n.func, "id", "") in ("option", "switch")]
    helps = [a.value for n in calls for a in n.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    entries = [pair for n in nodes if isinstance(n, ast.Dict) for pair in zip(n.keys, n.values, strict=True)]
    helps += [value.value for key, value in entries if getattr(key, "value", "") == "help" and hasattr(value, "value")]
    fragments = [t for t in helps if re.match(r"(of|for|as|and|which|that|what|whose|if|when|where) ", str(t))]
    assert not fragments


@pytest.mark.parametrize(
    ("subject", "allowed"),
    [("Fix zero gradients", True), ("Embed texts", True), ("Pass the seed", True), ("Fixed a bug", False),
     ("Adds a page", False), ("The page says more", False), ("What is lost", False), ("Adding a page", False)],
)  # fmt: skip
def test_commit_subjects_are_imperative(subject, allowed):
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    (entry,) = [hook["entry"] for hook in local["hooks"] if hook["id"] == "imperative"]
    assert (re.search(entry, subject) is None) == allowed


if __name__ == "__main__":
    for page in PAGES:
        for sentence in (s for s in sentences(page) if len(s.split()) > 30):
            print(f"{page.relative_to(ROOT)}: {sentence}")
