"""Text that runs in tests are trained on."""

import pytest

from foliogpt.data.arguments import CorpusArguments


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    file = tmp_path_factory.mktemp("corpus") / "rhyme.txt"
    line = "One two three, the {} is free; four five six, the {} has tricks.\n"
    file.write_text("".join(line.format(a, b) for a in ("cat", "dog", "hen") * 9 for b in ("fox", "owl", "bee", "ant")))
    return CorpusArguments(corpus=str(file))
