"""Whether the dense index has what the catalog says, looked at in a process of its own.

Damaged files can crash Chroma, and whoever uses it, with a segmentation fault.
"""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np

from .catalog import PAGE, Catalog
from .index import CHROMA_FOLDER, DenseIndex, collection_name

SAME_VECTOR = 1e-3  # largest difference of a number in the catalog from the same one in the dense index
SAMPLE = 20  # chunks that are looked for by their own vectors


def inspect_folder(path: Path) -> list[str]:
    """What is wrong with the dense index in a folder. The caller holds the lock, and has closed Chroma."""
    # -P: nothing in the current folder is imported.
    command = [sys.executable, "-P", "-c", f"from {__name__} import main; main()", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it crashed"])[-1]
        return [f"the dense index cannot be read ({last[:300]})"]
    return json.loads(done.stdout)


def dense_problems(catalog: Catalog, dense: DenseIndex) -> list[str]:
    """Compare all vectors, but those that are about to be written anyway; RuntimeError if Chroma cannot be used."""
    dense.expect(catalog.generation)
    waiting = catalog.outbox_ids()
    missing = wrong = total = lacking = last = 0
    while ids := catalog.chunk_ids(last):
        last = ids[-1]
        wanted = [id for id in ids if id not in waiting]
        found, vectors = catalog.vectors(wanted, *catalog.model)
        there = dense.get(found)
        total += len(found)
        lacking += len(wanted) - len(found)
        missing += len(found) - len(there)
        pairs = ((there[id], vector) for id, vector in zip(found, vectors, strict=True) if id in there)
        wrong += sum(not np.abs(ours - theirs).max() <= SAME_VECTOR for ours, theirs in pairs)  # NaN is wrong too
    unwritten = sorted(waiting)
    begun = sum(len(dense.get(unwritten[start : start + PAGE])) for start in range(0, len(unwritten), PAGE))
    # The graph may be torn.
    sample = [id for id in catalog.chunk_ids(limit=-1) if id not in waiting]
    _, vectors = catalog.vectors(random.sample(sample, min(SAMPLE, len(sample))), *catalog.model)
    nearest = [dense.query(vector, 1) for vector in vectors]
    lost = sum(not found or found[0][1] < 1 - SAME_VECTOR for found in nearest)
    surplus = dense.count() - begun - (total - missing)
    counts = {
        "chunks have no vector in the catalog": lacking,
        "chunks are not in the dense index": missing,
        "vectors of the dense index are not those of the catalog": wrong,
        "vectors of the dense index belong to nothing": surplus,
        "of a sample of chunks are not found by their own vectors": lost,
    }
    return [f"{count} {what}" for what, count in counts.items() if count]


def main() -> None:
    path = Path(sys.argv[1])
    catalog = Catalog(path)
    dense = DenseIndex(collection_name(catalog), path / CHROMA_FOLDER)
    try:
        problems = dense_problems(catalog, dense)
    except RuntimeError as error:
        problems = [str(error)]
    print(json.dumps(problems))
