"""Check that the numbers in the reports of the studies are those of their raw results.

    python analysis/check_numbers.py

Computes the facts of every study anew from reports/NAME/raw and compares the text with them; exits with 1 if something differs.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from analysis.telling import untold  # noqa: E402

__all__ = ["STUDIES", "wrong"]

STUDIES = {  # where the numbers of each report come from
    "inversion-distance": "analysis.inversion_distance_facts",
    "interpolation": "analysis.interpolation_facts",
    "finetuning-distance": "analysis.finetuning_distance_facts",
    "locality": "analysis.locality_facts",
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
