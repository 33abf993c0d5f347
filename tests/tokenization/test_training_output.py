"""Training a tokenizer writes nothing to stdout, so a reader that has gone is no error."""

import os
import subprocess

import forks


def test_training_survives_a_closed_stdout(tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("the cat is free. " * 300)
    command = forks.folio(
        "tokenizer", "train", "--corpus", str(corpus), "--vocab_size", "266", "--output_dir", str(tmp_path / "out")
    )
    reader, writer = os.pipe()
    os.close(reader)
    process = forks.Popen(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert (tmp_path / "out" / "tokenizer.json").is_file()
