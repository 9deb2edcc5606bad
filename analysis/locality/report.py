"""reports/locality from its raw results. What a sentence says is chosen by the facts that it tells."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from analysis.common.citations import Facts, tell
from analysis.common.factors import FREE
from analysis.common.resampling import Fact
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
_COMMANDS = """```sh
python -m analysis locality --report-only     # this report from its raw results
python -m analysis locality --jobs 2   # from nothing, about two and a half hours of two cores; goes on where it stopped
```

For Stable Diffusion 1.5 on a GPU, with a folder of captioned-alike pictures of one dog:

```sh
clipgeom check --model stable-diffusion-v1-5/stable-diffusion-v1-5 --subfolder text_encoder --captions coco2014:val \\
    --representation hidden --positions POSITIONS --out sd15.safetensors
pti sweep --set model.pretrained_model=stable-diffusion-v1-5/stable-diffusion-v1-5 --set data.source=pictures \\
    --set 'data.instance_prompt=a picture of {token}' --set concept.class_word=dog --set loss.max_timestep=1000 \\
    --set loss.unmasked_weight=1 --set lora.averaging=0 \\
    --set 'locality.certificates=["sd15.safetensors"]' --vary locality.interpolation=none,slerp,auto \\
    --vary lora.learning_rate=1e-4,2e-4,5e-4,1e-3 --seeds 5 --until evaluate --out sd15-locality
```""".replace("POSITIONS", ",".join(["4", "eos", *(f"padded:{i}" for i in range(6, 77))]))


def write(out: Path) -> None:
    """Write report.md and figures/ from the files in ``raw``."""
    found, settings = facts(out / "raw"), settings_of(table_of(out / "raw"))
    figures = out / "figures"
    figures.mkdir(exist_ok=True)
    locality_figure.draw(found, settings, figures / "front.png")
    (out / "report.md").write_text(text(found, settings), encoding="utf-8")


def text(found: Facts, settings: list[str]) -> str:
    """The report."""

    def t(name: str, form: str = ".0f") -> str:
        return tell(found, name, form)

    untuned = tell(found, "none-0.0003@0.leakage")
    families = [family for family in FAMILIES if found[f"{family}.settings"].value]
    return f"""# Does the locality regulariser let a higher rate learn the looks without the places?

*Rebuild with `python -m analysis locality --report-only` (raw results in `raw/`, figures in `figures/`).*

## Question

The notes' claim: midway between the new word and its class word, hold the tuned model to the frozen one, and a higher learning
rate reaches a better appearance without learning positions. Captions here say nothing but the new word, so that place,
background, facing and style of six training pictures may leak. What does the regulariser buy at its best against no regulariser at
its best, does it keep the class word as it was, does the mode matter that the certificate recommends, and what would prior preservation, fewer steps or a lower rank buy?

## Answer

{_answer(found, families)}

![Left: every setting, appearance against leakage; lines join rates, thin lines the steps of a run without regulariser. Middle: the same against how far the class word's own pictures move. Right: each family at its best on the left-out pair](figures/front.png)

## Findings

{_findings(found, settings, families)}

## Table

*Appearance*: share of pictures with the right body, headgear and headgear colour, as a mean of the three. *Leakage*: total variation
distance of place, background, facing and style from the frozen model's pictures of the class word, as a mean of the four, less what
chance alone would show. *Place kept*: entropy of the place, of the frozen model's. *Class word*: the distance of leakage, of the class word's own pictures after
tuning, as a mean over all seven factors; measured at the last step. *Obeyed*: place, background and style
right where a prompt says them. *Seconds* of the second stage, on one core. Rates stand in the names; `@` is the step, {LAST} where there is none, 0 where nothing was tuned;
"front" marks what no other setting beats in both means.

| setting | appearance | leakage | place kept | obeyed | class word | seconds | front |
|---|---|---|---|---|---|---|---|
{_table(found, settings)}

Leakage by factor:

| setting | {" | ".join(FREE)} |
|---|{"---|" * len(FREE)}
{_leaks(found, settings)}

Each family at its best, on the pair that took no part in the choice, for several bounds of the leakage on the others:

| family | settings | bound | appearance | leakage | place kept | seconds |
|---|---|---|---|---|---|---|
{_bests(found, families)}

## Limits

One world; {t("runs")} runs, {t("pairs")} pairs of a seed and a character, {t("characters")} characters: intervals by bootstrap over characters and over pairs within them are rough, and
rather wide than narrow, and not corrected for how many differences are told. The best of a family has the highest appearance of the settings whose leakage on the other pairs is not above the
bound (the least leakage where none is below); it is read on the pair left out, and the bootstrap repeats the choice. The main bound was 0.1 at first; it was set to what the inverted word leaks before any
tuning ({untuned}) when eleven runs without a regulariser had been seen, and none with it. Noise seeds of
the pictures are those of no training. All ways start from words inverted at the rate that [inversion-distance](../inversion-distance/report.md) chose. Families are not of one size: prior preservation and the lower rank were tried at one setting, so that
theirs is no best; twice the lowest rate was tried with the regulariser only, for what lies between the other rates without it is shown by the earlier steps. Seconds of fewer steps
are their share of the whole run's; two runs shared a machine with other work now and then, so that seconds of single settings are rough, and what a step
costs is for `benchmarks/tuning.py` to say. What chance would show is taken away whole from the leakage, so that a large one is told too small, by up to that ({t("chance", ".2f")} on average). What becomes of the class word was
measured last, on the same weights, when the leakage had been seen to tell no two ways apart. The default hold of the empty prompt (`locality.empty_prompt_fraction`) is part of every regularised way and of no other.
Errors weigh alike all over a picture (`loss.unmasked_weight = 1`) and the last step's weights are kept (`lora.averaging = 0`), as by default when the runs were made.
Captions say nothing but the word here, to the regulariser and in training alike. Where they say the place in training, and leave it out for the regulariser alone, it
may well keep places open: the defaults do so now ([pivotal-tuning](../pivotal-tuning/report.md#limits)), but five runs of them without it have not been made.

The certificate ([certificate-short.safetensors](certificate-short.safetensors), made by `python -m analysis.locality.certificate`) recommends vslerp with the norm restored at {t("auto.vslerp_norm")}
of the interpolated positions and slerp at {t("auto.slerp")}; its choice stands for that mode here. vslerp and aslerp are used at all positions,
validated or not, with `locality.allow_uncertified`: the outputs of {t("marked")} runs are marked for it. At the placeholder alone the certificate's choice is what it
recommends at that one position. Training took {t("hours", ".1f")} hours.

## Commands

{_COMMANDS}
"""


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


def _verdict(looks: Fact, leaks: Fact) -> str:
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
