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

from analysis.common.template import fill_in
from analysis.miniworld.recipe.measure import PROMPTS
from clipgeom.centering import LABELS

__all__ = ["write"]

READ = 2000  # scenes that the readers are measured on
CAPTIONS = 5000  # that the geometry speaks of
ENLARGED = 2
_MODES = ("slerp", "vslerp", "vslerp_norm", "aslerp")  # columns of the table of geometry


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
    return fill_in(
        "miniworld",
        r=r,
        accuracy=accuracy,
        unsaid=unsaid,
        readers=readers,
        modality=r["geometry"]["modality"],
        table=[
            [
                name.replace("_", " "),
                _share(readers["renders"][name], READ),
                _share(readers["reconstructions"][name], READ),
                _share(accuracy[name], PROMPTS),
                _entropy(unsaid.get(name)),
                _differ(unsaid.get(name)),
            ]
            for name in accuracy
        ],
        geometry=[_geometry_row(check) for check in r["geometry"]["centering"]],
        modes=_MODES,
        labels=LABELS,
        interval=_interval,
        CAPTIONS=CAPTIONS,
        PROMPTS=PROMPTS,
    )


def _geometry_row(check: dict[str, Any]) -> list[str]:
    return [
        f"`{check['representation']}` at {check['position']}",
        _interval(check["offset_ratio"], check["offset_ratio_ci95"]),
        *(
            _interval(check["on_shell"][mode]["rate"], check["on_shell"][mode]["ci95"])
            + (" ✓" if check["validated"].get(mode) else "")
            for mode in ("real", *_MODES)
        ),
        LABELS[check["recommended"]],
    ]


def _entropy(found: dict[str, Any] | None) -> str:
    return "" if found is None else _interval(found["entropy"]["estimate"], found["entropy"]["ci95"])


def _differ(found: dict[str, Any] | None) -> str:
    return "" if found is None else f"{_share(found['differ'], found['pairs'])}; {found['independent']:.2f}"


def _interval(value: float, ci95: list[float]) -> str:
    return f"{value:.3f} [{ci95[0]:.3f}, {ci95[1]:.3f}]"


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
