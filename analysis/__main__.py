"""Run a study: ``python -m analysis NAME [--report-only] [options of the study]``."""

from __future__ import annotations

import sys
from importlib import import_module

STUDIES = (
    "centering",
    "finetuning-distance",
    "interpolation",
    "inversion-distance",
    "locality",
    "miniworld",
    "pivotal-tuning",
)


def main() -> int:
    """Hand the remaining arguments to the study's own command line."""
    if len(sys.argv) < 2 or sys.argv[1] not in STUDIES:
        print(f"usage: python -m analysis NAME [--report-only], with NAME one of {', '.join(STUDIES)}", file=sys.stderr)
        return 2
    name = sys.argv.pop(1)
    sys.argv[0] = f"python -m analysis {name}"
    import_module(f"analysis.{name.replace('-', '_')}.run").main()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
