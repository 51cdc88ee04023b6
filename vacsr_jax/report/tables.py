"""Formats numbers as text, in the same way for the terminal, Markdown files and the HTML report."""

import math
from collections.abc import Sequence

import numpy as np

Cell = str | int | float | None | tuple[float, float]


def format_cell(value: Cell, digits: int = 3) -> str:
    """Formats a cell: numbers with `digits` decimals, (mean, standard error) as "mean ± error", None as "–".

    >>> format_cell(0.37449), format_cell((0.374, 0.0061)), format_cell(500), format_cell(None)
    ('0.374', '0.374 ± 0.006', '500', '–')
    """
    if value is None:
        return "–"
    if isinstance(value, tuple):
        mean, error = value
        return f"{format_cell(float(mean), digits)} ± {format_cell(float(error), digits)}"
    if isinstance(value, str | int | np.integer):
        return str(value)
    return f"{value:.{digits}f}" if math.isfinite(value) else str(float(value))


def format_table(
    rows: Sequence[Sequence[Cell]], columns: Sequence[str], markdown: bool = False, digits: int = 3
) -> str:
    """Formats rows and column names as aligned text, or as a Markdown table, also aligned.

    `rows` [r][c], `columns` [c]. The first column is aligned left, the others right. See `format_cell` for standard
    errors. Raises ValueError for a row whose length differs from that of `columns`.

    >>> print(format_table([["random", 0.01], ["VACSR", (0.374, 0.006)]], ["model", "mAP@R"]))
    model           mAP@R
    ------  -------------
    random          0.010
    VACSR   0.374 ± 0.006
    """
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"row {list(row)} has {len(row)} cells, expected {len(columns)}: {list(columns)}")
    text = [[str(c) for c in columns], *([format_cell(v, digits) for v in row] for row in rows)]
    if markdown:
        text = [[cell.replace("|", "\\|") for cell in line] for line in text]
    widths = [max(3, *(len(line[i]) for line in text)) for i in range(len(columns))]
    aligned = [[f"{c:{'<' if i == 0 else '>'}{w}}" for i, (c, w) in enumerate(zip(line, widths, strict=True))]
               for line in text]  # fmt: skip
    if markdown:
        rule = ["-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
        return "\n".join(f"| {' | '.join(line)} |" for line in [aligned[0], rule, *aligned[1:]])
    rule = ["-" * w for w in widths]
    return "\n".join("  ".join(line).rstrip() for line in [aligned[0], rule, *aligned[1:]])
