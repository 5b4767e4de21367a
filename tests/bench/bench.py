"""Measure the server beside a bare relay and a bare client, and print a table: `scripts/bench --help`."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> int:
    """Let the modules beside this file import each other however it was started, then run them."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from tests.bench.run import run

    return run()


if __name__ == "__main__":
    sys.exit(main())
