"""The documentation site: the pages in docs/, the book, and the API, to be read without a network (`make site`)."""

import contextlib
import inspect
import io
import re
import tomllib
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FILES = f"{PROJECT['urls']['Repository']}/blob/main"

project, author = "FolioGPT", PROJECT["authors"][0]["name"]
release = PROJECT["version"]
extensions = ["myst_nb", "sphinx.ext.autodoc"]
root_doc = "docs/index"
include_patterns = ["docs/**", "notebooks/*.ipynb", "notebooks/*.md"]
exclude_patterns = [".*", "build", "runs", "tests", "notebooks/source", "notebooks/solutions"]

html_theme = "furo"
html_title = "FolioGPT"
html_math_renderer = "mathml"  # browsers draw it themselves; MathJax would be 2 MB of JavaScript
html_copy_source = False
nb_execution_mode = "off"  # `make book` has executed the chapters
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
autodoc_inherit_docstrings = False  # torch's have references that only its own site resolves
autodoc_member_order = "bysource"


def link_files(app, docname: str, source: list[str]) -> None:
    """Let links to files that are no pages of this site lead to the repository."""
    folder = (ROOT / docname).parent

    def link(match: re.Match) -> str:
        target = (folder / match[1]).resolve()
        if not target.exists() or not target.is_relative_to(ROOT):
            return match[0]
        path = target.relative_to(ROOT)
        is_page = path.with_suffix("").as_posix() in app.env.found_docs
        is_picture = path.suffix in (".png", ".svg")
        return match[0] if is_page or is_picture else f"]({FILES}/{path.as_posix()}{match[2]})"

    source[0] = re.sub(r"\]\(([^)#:\s]+)((?:#[^)]*)?)\)", link, source[0])


def add_commands(app, docname: str, source: list[str]) -> None:
    """Append the help of every command, and of every job of one, to the page of commands."""
    if docname != "docs/reference/cli":
        return
    from foliogpt.scripts.cli import COMMANDS

    for name in COMMANDS:
        text = printed(name)
        jobs = {word: printed(name, word) for word in re.findall(rf"^ +folio {name} ([a-z]+) ", text, re.MULTILINE)}
        source[0] += f"\n## folio {name}\n\n```text\n{text}\n```\n"
        for word, own in jobs.items():
            if f"usage: folio {name} {word}" in own:
                source[0] += f"\n### folio {name} {word}\n\n```text\n{own}\n```\n"


def printed(*words: str) -> str:
    from foliogpt.scripts.cli import main

    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.suppress(SystemExit):
        main([*words, "--help"])
    return output.getvalue().strip()


def plain_docstring(app, what, name, obj, options, lines: list[str]) -> None:
    """Turn our docstrings, which are plain text with `code`, into reStructuredText."""
    result = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc("\n".join(lines))):
        first, *rest = block.splitlines() or [""]
        if rest and re.fullmatch(r"\w+:", first) and all(line.startswith(" ") for line in rest):
            items = re.split(r"\n(?! )", inspect.cleandoc("\n".join(rest)))
            result += [f"**{first[:-1]}**", "", *(f"- {escape(' '.join(item.split()))}" for item in items), ""]
        elif first.startswith("- "):
            items = re.split(r"\n(?=- )", block)
            result += [*(f"- {escape(' '.join(item[2:].split()))}" for item in items), ""]
        else:
            prose = [line for line in (first, *rest) if not line.startswith(" ")]
            code = [line for line in (first, *rest) if line.startswith(" ")]
            result += [escape(line) for line in prose] + [""]
            if code:
                result += ["::", "", *(f"    {line}" for line in code), ""]
    lines[:] = result


def escape(text: str) -> str:
    """Escape what reStructuredText would read as markup, except `code`, which gets its two backticks."""
    parts = re.split(r"`([^`]+)`", text)
    parts[::2] = [re.sub(r"([\\*|_`])", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [f"``{code}``" for code in parts[1::2]]
    return "".join(parts)


def inline_math(translator, node: nodes.math) -> None:
    translator.body.append(str(tex2mathml(node.astext())))
    raise nodes.SkipNode


def block_math(translator, node: nodes.math_block) -> None:
    translator.body.append(str(tex2mathml(node.astext(), as_block=True)))
    raise nodes.SkipNode


def write_entry(app, exception) -> None:
    """Let the site's folder open at its first page."""
    if exception is None and app.builder.format == "html":
        page = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url=docs/index.html">'
        (Path(app.outdir) / "index.html").write_text(f"{page}<title>FolioGPT</title>\n", encoding="utf-8")


def setup(app) -> None:
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
    app.connect("source-read", link_files)
    app.connect("source-read", add_commands)
    app.connect("autodoc-process-docstring", plain_docstring)
    app.connect("build-finished", write_entry)
