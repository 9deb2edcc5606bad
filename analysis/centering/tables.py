"""Tables of the report on centering, as Markdown."""

from __future__ import annotations

from typing import Any

from clipgeom.centering import CENTERED_MODES, LABELS, MODES

__all__ = [
    "calibration_table",
    "checks_table",
    "ci",
    "coverage_table",
    "index_table",
    "ladder_table",
    "pm",
    "statistics_table",
    "tolerance_table",
    "varies",
]


def ci(value: float, ci95: list[float], digits: int = 2) -> str:
    return f"{value:.{digits}f} [{ci95[0]:.{digits}f}, {ci95[1]:.{digits}f}]"


def g(value: float) -> str:
    return f"{value:.3g}"


def pm(side: dict[str, Any], key: str) -> str:
    low, high = side["ci95"][key]
    return f"{g(side[key])} [{g(low)}, {g(high)}]"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def varies(row: dict[str, Any]) -> bool:
    return row["centered"]["mean_norm"] > 1e-5 * row["raw"]["mean_norm"]


def ladder_table(ladder: dict[str, Any]) -> str:
    rows = []
    for name, row in ladder.items():
        if varies(row):
            rows.append(
                [
                    name,
                    f"{row['n']:,}",
                    pm(row["raw"], "var_norm"),
                    pm(row["centered"], "var_norm"),
                    f"{g(row['raw']['cv_norm'])} → {g(row['centered']['cv_norm'])}",
                    ci(row["offset_ratio"], row["offset_ratio_ci95"]),
                    f"{row['correlation']:.3f}",
                ]
            )
    return table(["state", "n", "Var ‖x‖", "Var ‖x−m‖", "CV raw → centred", "offset ratio", "correlation"], rows)


def statistics_table(found: dict[str, Any]) -> str:
    rows = []
    for name, row in found.items():
        sides = (row["raw"], row["centered"])
        rows.append(
            [
                name,
                *(" → ".join(g(side[key]) for side in sides) for key in ("var_norm", "cv_norm", "var_over_mean")),
                ci(row["offset_ratio"], row["offset_ratio_ci95"]),
            ]
        )
    return table(["set", "variance", "CV", "variance / mean", "offset ratio"], rows)


def index_table(found: dict[str, Any]) -> str:
    rows = [
        [
            name,
            f"{row['n']:,}",
            pm(row["raw"], "var_norm"),
            pm(row["centered"], "var_norm"),
            ci(row["offset_ratio"], row["offset_ratio_ci95"]),
        ]
        for name, row in found.items()
    ]
    return table(["index", "n", "Var ‖x‖", "Var ‖x−m‖", "offset ratio"], rows)


def checks_table(checks: dict[str, Any]) -> str:
    rows = []
    for name, check in checks.items():
        if not check["decided"]:
            rows.append(
                [name, f"{check['n_judged'] or check['n_distinct']:,}", check["verdict"], *[""] * (len(MODES) - 1)]
            )
            continue
        cells = []
        for mode in MODES:
            on, auc = check["on_shell"][mode], check["auc"][mode]
            mark = " ✓" if check["validated"].get(mode) else ""
            text = (
                f"{on['rate']:.3f} [{on['ci95'][0]:.3f}, {on['ci95'][1]:.3f}]<br>"
                f"{auc['auc']:.2f} [{auc['ci95'][0]:.2f}, {auc['ci95'][1]:.2f}]{mark}"
            )
            cells.append(f"**{text}**" if mode == check["recommended"] else text)
        rows.append([f"{name}<br>ceiling {check['on_shell']['real']['rate']:.3f}", f"{check['n_judged']:,}", *cells])
    return table(["set", "n", *MODES], rows)


def tolerance_table(found: dict[str, Any]) -> str:
    shares = list(next(iter(found.values())))
    rows = [
        [
            name,
            mode,
            *(f"{by[share]['rates'][mode]:.3f}{' ✓' if by[share]['validated'].get(mode) else ''}" for share in shares),
        ]
        for name, by in found.items()
        for mode in ("slerp", "vslerp", "vslerp_norm")
    ]
    return table(["set", "mode", *(f"±{100 * float(share):g} %" for share in shares)], rows)


def calibration_table(r: dict[str, Any]) -> str:
    from scipy.stats import binomtest

    rows = []
    for name, found in r.items():
        if not name.startswith("calibration-"):
            continue
        trials = found["trials"]
        cells = []
        for mode in CENTERED_MODES:
            count = found["validated"][mode]
            ci = binomtest(count, trials).proportion_ci()
            cells.append(f"{100 * count / trials:.1f} % [{100 * ci.low:.1f}, {100 * ci.high:.1f}]")
        rows.append([name.removeprefix("calibration-").replace("-", " "), f"{trials}", *cells])
    return table(["population (n = 1,000)", "trials", *(f"{LABELS[mode]} validated" for mode in CENTERED_MODES)], rows)


def coverage_table(found: dict[str, Any]) -> str:
    names = list(next(iter(found.values()))["covered"])
    rows = [[name, *(f"{100 * of['covered'][k] / of['trials']:.1f} %" for k in names)] for name, of in found.items()]
    return table(["population", *names], rows)
