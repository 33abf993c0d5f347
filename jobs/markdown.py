"""Markdown tables."""

from collections.abc import Iterable


def markdown_table(header: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table whose columns are aligned as plain text. A `|` in a cell is escaped."""
    lines = [[" ".join(str(cell).replace("|", r"\|").split("\n")) for cell in line] for line in (header, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )
