"""reports/miniworld from its raw results: text, tables, pictures. Every number in it comes from a raw file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from PIL import Image
from scipy.stats import binomtest

from analysis.miniworld.recipe.measure import PROMPTS
from clipgeom.centering import LABELS

__all__ = ["write"]

READ = 2000  # scenes that the readers are measured on
CAPTIONS = 5000  # that the geometry speaks of
ENLARGED = 2


def write(raw: Path, out: Path) -> None:
    """Write report.md and figures/ from the files in `raw`."""
    r = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(raw.glob("*.json"))}
    figures = out / "figures"
    figures.mkdir(exist_ok=True)
    for name, columns in (("scenes", 8), ("characters", 12), ("samples", 8), ("variety", 8), ("reconstructions", 16)):
        _sheet(np.load(raw / f"{name}.npz")["pictures"], columns, figures / f"{name}.png")
    if "curves" in r:
        with sns.axes_style("whitegrid"):
            _curves(r["curves"], figures / "curves.png")
    (out / "report.md").write_text(_text(r), encoding="utf-8")


def _text(r: dict[str, Any]) -> str:
    accuracy = {name: value for name, value in r["said"].items() if name != "seconds"}
    unsaid = {name.removeprefix("unsaid-"): found for name, found in r.items() if name.startswith("unsaid-")}
    readers = r["readers"]
    modality = r["geometry"]["modality"]
    factors = list(accuracy)
    table = "\n".join(
        f"| {name.replace('_', ' ')} | {_share(readers['renders'][name], READ)} | {_share(readers['reconstructions'][name], READ)} "
        f"| {_share(accuracy[name], PROMPTS)} | {_entropy(unsaid.get(name))} "
        f"| {_differ(unsaid.get(name))} |"
        for name in factors
    )
    captions = "\n".join(f"{i + 1}. {text}" for i, text in enumerate(r["samples"]["captions"][:8]))
    return f"""# Does the embedded world keep its promises?

*Rebuild with `python -m analysis miniworld` (raw results in `raw/`), or from them alone with `--report-only`.*

Everything here is measured on the weights of the package, on scenes of seeds that no stage trained on. The readers that
judge pictures took no part in training the generator.

## The world

![scenes](figures/scenes.png)

The new characters, which no caption can name:

![new characters](figures/characters.png)

## Figures

| what | measured | wanted |
|---|---|---|
| CLIP: picture to caption, R@1 among 1,000 fully specified captions | {r["clip"]["recall_at_1"]:.3f} | ≥ 0.90 |
| autoencoder: PSNR | {r["autoencoder"]["psnr"]:.2f} dB | ≥ 26 dB |
| the same on new characters | {r["autoencoder"]["psnr_new_characters"]:.2f} dB | |
| readers: worst factor on renders | {min(readers["renders"].values()):.3f} | ≥ 0.99 |
| readers: worst factor on reconstructions | {min(readers["reconstructions"].values()):.3f} | ≥ 0.98 |
| generator: worst factor, {PROMPTS} prompts, 30 steps | {min(accuracy.values()):.3f} | ≥ 0.90 |
| generator: class; body colour; headgear colour | {accuracy["class"]:.3f}; {accuracy["body"]:.3f}; {accuracy["headgear_color"]:.3f} | ≥ 0.95 |
| entropy of what is not said, of the largest possible: {", ".join(unsaid)} | {"; ".join(_interval(v["entropy"]["estimate"], v["entropy"]["ci95"]) for v in unsaid.values())} | ≥ 0.95 |
| 64 pictures at 30 steps through the pipeline | {r["speed"]["pictures_per_second"]:.2f} pictures a second | |
| share of that time in the U-Net | {r["speed"]["unet_share"]:.0%} | |
| images against texts, a linear classifier on held-out halves | {_interval(modality["separability"]["accuracy"], modality["separability"]["accuracy_ci95"])} | separable |

By factor, shares read right with 95 % intervals (Clopper–Pearson); then the entropy of the factor where the
caption leaves it out, divided by that of the training scenes (plug-in estimate, bootstrap interval), and the share of
captions of which two seeds give different values, with what independent draws would give.

| factor | readers, renders | readers, reconstructions | generator | entropy, unsaid | two seeds differ |
|---|---|---|---|---|---|
{table}

## Its geometry

What `clipgeom report --limit {CAPTIONS} --positions eos,5` says of its CLIP: {r["geometry"]["statistics"][0]["n"]:,} captions, and the
pictures of the first {modality["pairing"]["n"]:,} through the image tower. The modality gap is
{_interval(modality["gap"], modality["gap_ci95"])} (distance of the mean unit vectors).

{_geometry_table(r["geometry"]["centering"])}

✓: validated, both judges prefer it to SLERP with 95 % confidence. [certificate.safetensors](certificate.safetensors) holds the
same check for `hidden` at position 5 and at every later one, content, EOS and padding, for `pti` to interpolate by
({_certificate_sentence(r["suffix"])}).

## What it draws

![samples](figures/samples.png)

The captions of the first row:

{captions}

Eight seeds each of {", ".join(f"*{text}*" for text in r["samples"]["open_ended"])}:

![variety](figures/variety.png)

## The autoencoder

Above pictures and new characters, below what 8 × 8 × 4 numbers keep of them.

![reconstructions](figures/reconstructions.png)
{_curves_text(r)}
## Limits

The readers see what they were taught to see: a picture that shows a factor well and is ugly otherwise counts as right.
These weights are not those of one run of the recipe from end to end: while they were trained, the autoencoder's first round was
shortened from 4,200 to 2,600 steps and the generator's from 5,000 to 4,000, the decoder's round was lengthened from 1,500 to 2,400,
each at a checkpoint, and Muon's iteration was rewritten (equal to rounding). The readers were trained anew when all else was done, for
5,000 steps on 60,000 pictures: of 24,000 they had learnt the reconstructions of new characters by heart. A new run gives other weights
of the same kind.
The world is small: eight factors, one figure, no occlusion. What holds in it need not hold in a photograph.
"""


def _geometry_table(checks: list[dict[str, Any]]) -> str:
    modes = ("slerp", "vslerp", "vslerp_norm", "aslerp")
    lines = [
        "| what | offset ratio | real | " + " | ".join(LABELS[mode] for mode in modes) + " | recommended |",
        "|---|---|---|" + "---|" * len(modes) + "---|",
    ]
    for check in checks:
        rates = [
            _interval(check["on_shell"][mode]["rate"], check["on_shell"][mode]["ci95"])
            + (" ✓" if check["validated"].get(mode) else "")
            for mode in ("real", *modes)
        ]
        cells = [
            f"`{check['representation']}` at {check['position']}",
            _interval(check["offset_ratio"], check["offset_ratio_ci95"]),
            *rates,
            LABELS[check["recommended"]],
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _certificate_sentence(suffix: dict[str, Any]) -> str:
    counts = ", ".join(f"{LABELS[mode]} at {n}" for mode, n in suffix["recommended"].items())
    return f"{suffix['positions']} positions; recommended: {counts}"


def _entropy(found: dict[str, Any] | None) -> str:
    return "" if found is None else _interval(found["entropy"]["estimate"], found["entropy"]["ci95"])


def _differ(found: dict[str, Any] | None) -> str:
    return "" if found is None else f"{_share(found['differ'], found['pairs'])}; {found['independent']:.2f}"


def _interval(value: float, ci95: list[float]) -> str:
    return f"{value:.3f} [{ci95[0]:.3f}, {ci95[1]:.3f}]"


def _curves_text(r: dict[str, Any]) -> str:
    if "curves" not in r:
        return ""
    rows = "; ".join(f"{name} {curve[-1]['step']:,} steps" for name, curve in r["curves"].items())
    return f"""
## How it was trained

`python -m analysis.miniworld.recipe`, seeded and resumable: {rows}.

![curves](figures/curves.png)
"""


def _share(value: float, n: int) -> str:
    low, high = binomtest(round(value * n), n).proportion_ci(method="exact")
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _sheet(pictures: np.ndarray, columns: int, path: Path) -> None:
    rows = [np.concatenate(list(pictures[i : i + columns]), axis=1) for i in range(0, len(pictures), columns)]
    sheet = Image.fromarray(np.concatenate(rows))
    size = (sheet.width * ENLARGED, sheet.height * ENLARGED)
    sheet.resize(size, Image.Resampling.NEAREST).save(path, optimize=True)


def _curves(curves: dict[str, Any], path: Path) -> None:
    figure, axes = plt.subplots(1, len(curves), figsize=(3.2 * len(curves), 2.6), layout="constrained")
    for axis, (name, rows) in zip(np.atleast_1d(axes), curves.items(), strict=True):
        key = "excess" if "excess" in rows[0]["losses"] else "loss"
        axis.plot([row["step"] for row in rows], [row["losses"][key] for row in rows], linewidth=0.8)
        axis.set(title=name, xlabel="step", ylabel=key)
        if key == "loss":
            axis.set_yscale("log")
    figure.savefig(path, dpi=110)
    plt.close(figure)
