"""Tables for people: columns as wide as they need, printed as soon as they are known."""

from __future__ import annotations

from collections.abc import Sequence


def table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()
) -> None:
    """Print one table; the first column is flush left, the others right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(["  " + first, *rest]).rstrip()

    print(f"\n{title}")
    print(line(header))
    print("  " + "-" * (sum(widths) + 2 * (len(widths) - 1)))
    for row in rows:
        print(line(row))
    for note in notes:
        print(f"  {note}")
    print(end="", flush=True)


def verdict(*reached: bool) -> str:
    """Return what the last column says."""
    return "reached" if all(reached) else "MISSED"


def ms(seconds: float) -> str:
    """Return milliseconds."""
    return f"{seconds * 1000:.2f}"


def added(seconds: float) -> str:
    """Return milliseconds with their sign."""
    return f"{seconds * 1000:+.2f}"


def us(seconds: float) -> str:
    """Return microseconds."""
    return f"{seconds * 1e6:.0f}"
