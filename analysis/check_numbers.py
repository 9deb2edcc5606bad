"""Check that the numbers in the reports of the studies are those of their raw results.

    python -m analysis.check_numbers

Computes the facts of every study anew from reports/NAME/raw and compares the text with them; exits with 1 if something differs.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from analysis import ROOT
from analysis.common.citations import untold

__all__ = ["STUDIES", "wrong"]

STUDIES = {  # where the numbers of each report come from
    "inversion-distance": "analysis.inversion_distance.facts",
    "interpolation": "analysis.interpolation.facts",
    "finetuning-distance": "analysis.finetuning_distance.facts",
    "locality": "analysis.locality.facts",
}


def wrong(name: str, reports: Path = ROOT / "reports") -> list[str]:
    """What differs in the report of one study."""
    folder = reports / name
    found = importlib.import_module(STUDIES[name]).facts(folder / "raw")
    return untold((folder / "report.md").read_text(encoding="utf-8"), found)


def main() -> int:
    """All studies."""
    failed = 0
    for name in STUDIES:
        differing = wrong(name)
        failed += bool(differing)
        print(f"{name}: {'; '.join(differing) or 'every number is that of the raw results'}")
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
