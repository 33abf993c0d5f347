"""`kill -9` at any moment, also while a checkpoint is being written, and `--resume`: nothing tells it afterwards."""

import json
import os
from pathlib import Path

import forks
import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forks of a process that has imported all")


def killed(folder: Path, *options: str) -> list[str]:
    """Where runs were killed, after which they came, bit for bit, to what one came to that was not."""
    code = f"import sys; sys.path.append({str(Path(__file__).parent)!r}); import killed_runs; killed_runs.main()"
    done = forks.run([code, str(folder), *options])
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(done.stdout)["kills"]


def test_a_run_that_is_killed_ends_as_if_it_had_not_been(tmp_path):
    kills = killed(tmp_path, "--kills", "1", "--points", "2")
    assert len(kills) == 3


@pytest.mark.slow
@pytest.mark.parametrize("corpus", [(), ("--streaming",)], ids=["text", "stream"])
def test_many_kills_leave_no_trace(tmp_path, corpus):
    kills = killed(tmp_path, "--kills", "10", "--points", "8", "--seed", "1", *corpus)
    assert sum(kill.startswith("random") for kill in kills) >= 10
    assert sum(kill.startswith("saving") for kill in kills) == 8
