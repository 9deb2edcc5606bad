"""reports/locality from its raw results. What a sentence says is chosen by the facts that it tells."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from analysis.common.citations import Facts, tell
from analysis.common.factors import FREE
from analysis.common.template import fill_in
from analysis.common.wording import chosen, listed, sorted_by_direction
from analysis.locality import figure as locality_figure
from analysis.locality.facts import (
    BOUNDS,
    CLASS,
    LAST,
    MAIN_BOUND,
    USUAL,
    chosen_of,
    facts,
    families_of,
    front,
    settings_of,
    table_of,
)
from clipgeom.geometry.estimate import Estimate

__all__ = ["text", "write"]

FAMILIES = {
    "none": "no regulariser",
    "recommended": "the regulariser, by the certificate's choice",
    "regularised": "the regulariser, any setting",
    "fewer": "no regulariser, fewer steps",
    "prior": "prior preservation",
    "rank": "lower rank",
}
BASELINES = ("fewer", "prior", "rank")


def write(out: Path) -> None:
    """Write report.md and figures/ from the files in ``raw``."""
    found, settings = facts(out / "raw"), settings_of(table_of(out / "raw"))
    figures = out / "figures"
    figures.mkdir(exist_ok=True)
    locality_figure.draw(found, settings, figures / "front.png")
    (out / "report.md").write_text(text(found, settings), encoding="utf-8")


def text(found: Facts, settings: list[str]) -> str:
    """The report."""
    families = [family for family in FAMILIES if found[f"{family}.settings"].value]
    return fill_in(
        "locality",
        t=lambda name, form=".0f": tell(found, name, form),
        FREE=FREE,
        LAST=LAST,
        answer=_answer(found, families),
        findings=_findings(found, settings, families),
        table=_table(found, settings),
        leaks=_leaks(found, settings),
        bests=_bests(found, families),
    )


def _answer(found: Facts, families: list[str]) -> str:
    def t(name: str, form: str = "+.2f") -> str:
        return tell(found, name, form)

    best = f"best.recommended.{MAIN_BOUND:g}"
    looks, leaks = found[f"{best}.appearance.minus.none"], found[f"{best}.leakage.minus.none"]
    verdict = _verdict(looks, leaks)
    high = "auto-0.003.minus.none-0.003"
    baselines = [family for family in BASELINES if family in families]
    over = sorted_by_direction(found, baselines, lambda f: f"best.{f}.{MAIN_BOUND:g}.appearance.minus.recommended")
    mode = f"auto-{USUAL:g}.minus.slerp-{USUAL:g}"
    return (
        f"Best against best, each with a leakage of at most {tell(found, 'main_bound', '.1f')} on the pairs that it was chosen on, or the least where none has so little, the claim {verdict}: with the "
        f"regulariser by the certificate's choice the appearance is {_differs(found, f'{best}.appearance.minus.none')} than without "
        f"(by {t(f'{best}.appearance.minus.none')}, to {t(f'{best}.appearance', '.2f')}), at a leakage that is {_differs(found, f'{best}.leakage.minus.none')} "
        f"(by {t(f'{best}.leakage.minus.none')}, to {t(f'{best}.leakage', '.2f')}). "
        f"At one and the same rate, ten times the lowest, the leakage with it is {_differs(found, f'{high}.leakage')} (by {t(f'{high}.leakage')}) and the "
        f"appearance {_differs(found, f'{high}.appearance')} (by {t(f'{high}.appearance')}), and pictures of the class word itself move "
        f"{chosen(found[f'{high}.{CLASS}'], 'farther', 'less', 'not surely farther or less')} (by {t(f'{high}.{CLASS}')}, where "
        f"without it they move by {t(f'none-0.003.{CLASS}', '.2f')}). "
        f"The mode that the certificate recommends is, against slerp, {_side(found, mode)} (appearance {t(f'{mode}.appearance')}, leakage {t(f'{mode}.leakage')}); of what "
        f"users would pick instead, a surely better appearance than the regulariser's best comes from {_named(over['above'])}, a surely worse one from "
        f"{_named(over['below'])}."
    )


def _verdict(looks: Estimate, leaks: Estimate) -> str:
    """What becomes of the claim, by the differences of appearance and leakage of the best with the regulariser."""
    if looks.above(0):
        return "holds for the appearance, which is paid for with leakage" if leaks.above(0) else "is borne out"
    if leaks.below(0):
        return (
            "fails: less leakage is paid for with appearance"
            if looks.below(0)
            else "is half borne out, for less leaks and nothing more is learnt"
        )
    return "is refuted" if looks.below(0) or leaks.above(0) else "is not borne out"


def _named(families: list[str]) -> str:
    return listed(FAMILIES[family] for family in families)


def _differs(found: Facts, name: str) -> str:
    return chosen(found[name], "higher", "lower", "neither surely higher nor lower")


def _side(found: Facts, name: str) -> str:
    """How one setting stands to another by appearance and leakage."""
    looks, leaks = found[f"{name}.appearance"], found[f"{name}.leakage"]
    better = [looks.above(0), leaks.below(0)]
    worse = [looks.below(0), leaks.above(0)]
    if any(better) and any(worse):
        return "better in one and worse in the other"
    if any(better):
        return "better in both" if all(better) else "better in one, and not surely worse in the other"
    if any(worse):
        return "worse in both" if all(worse) else "worse in one, and not surely better in the other"
    return "not surely better or worse"


def _findings(found: Facts, settings: list[str], families: list[str]) -> str:
    def t(name: str, form: str = "+.2f") -> str:
        return tell(found, name, form)

    def against(name: str, other: str) -> str:
        by = f"{name}.minus.{other}"
        return f"`{name}` is {_side(found, by)} (appearance {t(f'{by}.appearance')}, leakage {t(f'{by}.leakage')}, class word {t(f'{by}.{CLASS}')}, obeyed {t(f'{by}.placed')})"

    plain = [name for name in settings if name.startswith("none") and "@" not in name]
    rates = [name.split("-")[1] for name in plain]
    ladder = [name for name in settings if name.startswith("auto") and name.count("-") == 1]
    usual, slerp = f"auto-{USUAL:g}", f"slerp-{USUAL:g}"
    modes = [name for name in settings if f"{name}.minus.{slerp}.appearance" in found]
    others = [name for name in settings if name.startswith(f"{usual}-")]
    best = [f"`{name}` (appearance {t(f'{name}.appearance', '.2f')})" for name in front(found, settings)]
    paragraphs = [
        "**Without a regulariser.** "
        + " ".join(
            f"At a rate of `{rate}` the appearance is {t(f'none-{rate}.appearance', '.2f')}, the leakage {t(f'none-{rate}.leakage', '.2f')}, and the place keeps a share of "
            f"{t(f'none-{rate}.kept', '.2f')} of its entropy."
            for rate in rates
        ),
        "**With it, at the same rate,** by appearance and leakage: "
        + "; ".join(
            f"at `{rate}` {against(f'auto-{rate}', f'none-{rate}')}, and the place keeps {t(f'auto-{rate}.kept', '.2f')}"
            for rate in rates
            if f"auto-{rate}.minus.none-{rate}.appearance" in found
        )
        + ".",
        "**The class word,** which nobody asked to change: its own pictures move from the frozen model's, "
        + "; ".join(
            f"at `{rate}` by {t(f'none-{rate}.{CLASS}', '.2f')} without a regulariser and {t(f'auto-{rate}.{CLASS}', '.2f')} with it, a difference of "
            f"{t(f'auto-{rate}.minus.none-{rate}.{CLASS}')}"
            for rate in rates
            if f"auto-{rate}.minus.none-{rate}.{CLASS}" in found
        )
        + f". At `{USUAL:g}`, against no regulariser: "
        + "; ".join(
            f"`{name}` {t(f'{name}.minus.none-{USUAL:g}.{CLASS}')}"
            for name in settings
            if f"{name}.minus.none-{USUAL:g}.{CLASS}" in found
        )
        + ".",
        f"**Prompts obeyed,** at `{USUAL:g}` against no regulariser: "
        + "; ".join(
            f"`{name}` {t(f'{name}.minus.none-{USUAL:g}.placed')}"
            for name in settings
            if f"{name}.minus.none-{USUAL:g}.placed" in found
        )
        + ".",
        "**A higher rate with the regulariser.** "
        + " ".join(
            f"`{name}`: appearance {t(f'{name}.appearance', '.2f')}, leakage {t(f'{name}.leakage', '.2f')}."
            for name in ladder
        ),
        "**Best against best.** "
        + " ".join(
            f"With {FAMILIES[family]} (of all pairs the rule takes `{_taken(found, settings, family)}`) the appearance on the left-out pair is {t(f'best.{family}.{MAIN_BOUND:g}.appearance', '.2f')} and the leakage "
            f"{t(f'best.{family}.{MAIN_BOUND:g}.leakage', '.2f')}, for {t(f'best.{family}.{MAIN_BOUND:g}.seconds', '.0f')} seconds."
            for family in families
        ),
        "**Against what users would pick instead,** as differences from the regulariser's best by the certificate's choice: "
        + "; ".join(
            f"{FAMILIES[family]}, appearance {t(f'best.{family}.{MAIN_BOUND:g}.appearance.minus.recommended')}, leakage "
            f"{t(f'best.{family}.{MAIN_BOUND:g}.leakage.minus.recommended')}, seconds {t(f'best.{family}.{MAIN_BOUND:g}.seconds.minus.recommended', '+.0f')}"
            for family in families
            if family not in ("recommended", "regularised")
        )
        + ".",
        f"**Modes,** by appearance and leakage against slerp at `{USUAL:g}`: "
        + "; ".join(against(name, slerp) for name in modes)
        + ".",
        f"**Other ways to regularise,** by appearance and leakage against `{usual}`: "
        + "; ".join(against(name, usual) for name in others)
        + ".",
        f"**The front.** No other setting beats, in both means, {listed(best)}.",
    ]
    return "\n\n".join(paragraphs)


def _taken(found: Facts, settings: list[str], family: str) -> str:
    """The family's best on all pairs."""
    names = [
        name
        for name in settings
        if family in families_of(name) or (family == "fewer" and families_of(name) == {"none"})
    ]
    means = np.array([[found[f"{name}.{what}"].value for what in ("appearance", "leakage")] for name in names])
    return names[chosen_of(means, MAIN_BOUND)]


def _table(found: Facts, settings: list[str]) -> str:
    best = front(found, settings)
    rows = []
    for name in settings:
        cells = [tell(found, f"{name}.{column}", ".2f") for column in ("appearance", "leakage", "kept", "placed")]
        cells.append(tell(found, f"{name}.{CLASS}") if f"{name}.{CLASS}" in found else "")
        cells += [tell(found, f"{name}.seconds", ".0f"), "yes" if name in best else ""]
        rows.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(rows)


def _leaks(found: Facts, settings: list[str]) -> str:
    return "\n".join(
        f"| `{name}` | {' | '.join(tell(found, f'{name}.leakage.{factor}') for factor in FREE)} |" for name in settings
    )


def _bests(found: Facts, families: list[str]) -> str:
    rows = []
    for family in families:
        for bound in BOUNDS:
            best = f"best.{family}.{bound:g}"
            cells = [tell(found, f"{best}.{column}") for column in ("appearance", "leakage", "kept")]
            cells.append(tell(found, f"{best}.seconds", ".0f"))
            rows.append(
                f"| {FAMILIES[family]} | {tell(found, f'{family}.settings', '.0f')} | {bound:g} | {' | '.join(cells)} |"
            )
    return "\n".join(rows)
