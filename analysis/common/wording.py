"""Words that say which way a fact goes, chosen by its interval and never by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from clipgeom.geometry.estimate import Estimate

__all__ = ["chosen", "listed", "sorted_by_direction"]


def chosen(fact: Estimate, above: str, below: str, neither: str, *, limit: float = 0.0) -> str:
    """The words for a fact whose whole interval is above a limit, below it, or neither."""
    return above if fact.above(limit) else below if fact.below(limit) else neither


def listed(names: Iterable[str]) -> str:
    """Names as a sentence holds them; "none" where there are none."""
    some = list(names)
    return " and ".join(([", ".join(some[:-1])] if some[:-1] else []) + some[-1:]) or "none"


def sorted_by_direction(
    facts: Mapping[str, Estimate], keys: Iterable[str], name: Callable[[str], str], *, limit: float = 0.0
) -> dict[str, list[str]]:
    """Keys whose fact is surely above a limit, surely below it, and neither."""
    found: dict[str, list[str]] = {"above": [], "below": [], "neither": []}
    for key in keys:
        found[chosen(facts[name(key)], "above", "below", "neither", limit=limit)].append(key)
    return found
