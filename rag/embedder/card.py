"""The model card of an embedder."""

import json

from ...jobs.report import REPORT_FILE


def embedder_card(report: dict) -> str:
    """The README.md: what it was made of, how well it finds, how to use it, and the command that made it."""
    here = json.dumps(report["output_dir"])
    trust = ", trust_remote_code=True" if report["custom_code"] else ""
    code = "\n- custom_code" if report["custom_code"] else ""
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
base_model: {json.dumps(report["base_model"])}
tags:
- foliogpt
- sentence-transformers
- feature-extraction{code}
---

# {report["name"]}

`{report["base_model"]}` as an embedder: texts of up to {report["max_length"]:,} tokens become vectors of
{report["dimension"]} numbers, the nearer the more alike. Trained with FolioGPT on {report["train_pairs"]:,} pairs from
`{report["data"]}`, in {report["steps"]:,} steps, against the other texts of a batch.

## How well it finds

{table(report)}

Recall@k is the share of questions that have their text among the first k; in brackets its 95 % interval. The pairs were
held out, and come from the same place as those it learnt from: on other texts it will be worse.

## Use

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer({here}{trust})
print(model.similarity(model.encode_query("a question"), model.encode_document(["a text", "another"])))
```

## Made by

```
{report["command"]}
```

transformers {report["versions"]["transformers"]}, torch {report["versions"]["torch"]}, seed {report["seed"]}.
Every figure is in `{REPORT_FILE}`.
"""


def table(report: dict) -> str:
    """The figures before and after, and beside them those of others on the same pairs, in Markdown."""
    others = [name for name in report["metrics"] if name not in ("before", "after")]
    lines = ["| asked by | | recall@1 | recall@10 |", "|---|---|---|---|"]
    for kind, sizes in report["held_out"].items():
        for name in ("before", "after", *others):
            cells = [f"{f['value']:.3f}{_interval(f)}" for f in report["metrics"][name][kind].values()]
            asked = f"{sizes['anchors']:,} {kind}s of {sizes['texts']:,} texts"
            lines.append(f"| {asked} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _interval(figure: dict) -> str:
    if figure["interval"] is None:  # of a single question
        return ""
    low, high = figure["interval"]
    return f" [{low:.3f}, {high:.3f}]"
