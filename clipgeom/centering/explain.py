"""Explanation of a centering check in words: why raw norms are tighter or looser, and what to do."""

from __future__ import annotations

from clipgeom.centering.check import CenteringCheck, Estimate
from clipgeom.centering.judging import CENTERED_MODES
from clipgeom.geometry.norms import Shells

__all__ = ["LABELS", "breaks", "explain", "verdict"]

LABELS = {
    "lerp": "LERP",
    "slerp": "SLERP",
    "vslerp": "vSLERP",
    "vslerp_norm": "vSLERP with the norm restored",
    "aslerp": "axial SLERP",
}

SPHERE = -0.9  # correlation of ‖x−m‖² and m·(x−m) below which the vectors count as bound to a shell about the origin
SMALL_OFFSET = 0.1  # offset ratio below which the mean explains less than 1 % of the mean square norm

_SEEN = 0.05  # a shortfall of a rate or an AUC that is worth mentioning


def verdict(check: CenteringCheck) -> str:
    """Verdict in one sentence: which modes may be used."""
    if not check.decided:
        return f"No verdict: {check.reason}. Use SLERP."
    good = [LABELS[mode] for mode in CENTERED_MODES if check.validated[mode]]
    if not good:
        return "No centred mode is validated here: use SLERP."
    rest = [name for name in good if name != LABELS[check.recommended]]
    also = f" Also validated: {', '.join(rest)}." if rest else ""
    return f"Use {LABELS[check.recommended]}: both judges prefer it to SLERP.{also}"


def explain(check: CenteringCheck, representation: str | None = None) -> str:
    """Explain which norms are tighter and why, which statistic misleads, and which properties each mode breaks.

    Parameters
    ----------
    check : CenteringCheck
    representation : str, optional
        The encoder's representation. Only ``hidden`` is known to be the output of a LayerNorm; otherwise the text
        describes only measurements.
    """
    sentences = [*_tightness(check.shells, representation)]
    if check.decided:
        sentences.append(_slerp(check))
        for mode in CENTERED_MODES:
            if not check.validated[mode]:
                sentences.append(_not_validated(check, mode))
    sentences.append(verdict(check))
    if check.decided and check.recommended != "slerp":
        sentences += _caution(check)
    return " ".join(sentences)


def breaks(check: CenteringCheck, mode: str) -> list[str]:
    """Properties of real points that a mode's points lose: a shell, the mean, the variance along the axis."""
    lost = []
    names = {"raw": "norm ‖x‖", "centered": "distance to the centre", "whitened": "Mahalanobis distance"}
    for shell, name in names.items():
        outside, ratio = 1 - check.by_shell[mode][shell], check.radius[mode][shell]
        if outside > 0.1:
            off = f"at t = ½ typically {100 * (ratio - 1):+.1f} %" if abs(ratio - 1) > 0.005 else "in either direction"
            lost.append(f"the {name} ({100 * outside:.0f} % of its points are off that shell, {off})")
    if abs(check.displaced[mode]) > 0.1:
        lost.append(f"the mean (moved by {check.displaced[mode]:+.2f} standard deviations along the centre's axis)")
    if not 0.8 < check.variance_along[mode] < 1.25:
        lost.append(
            f"the variance along the centre's axis ({100 * check.variance_along[mode]:.0f} % of the real one is left)"
        )
    return lost


def _tightness(shells: Shells, representation: str | None) -> list[str]:
    raw, centered, radial = shells.raw, shells.centered, shells.radial
    if shells.constant:
        return ["The vectors are all but constant."]
    if shells.discrete:
        return [
            f"There are only {shells.n_distinct} distinct vectors, as many as {shells.effective_distinct:.2g} equally common "
            "ones: too few for a shell."
        ]
    offset = (
        f"offset ratio {shells.offset_ratio:.2f} [{shells.offset_ratio_ci95[0]:.2f}, {shells.offset_ratio_ci95[1]:.2f}]"
    )
    variances = f"Var ‖x‖ = {raw.var_norm:.3g}, Var ‖x−m‖ = {centered.var_norm:.3g}"
    terms = f"A = {radial.A:.3g}, B = {radial.B:.3g}, C = {radial.C:.3g}, correlation {radial.correlation:.3f}"
    if shells.offset_ratio_corrected < SMALL_OFFSET:
        return [
            f"There is hardly an offset ({offset}): raw and centred norms are nearly the same thing ({variances}), and "
            "centring can neither tighten nor loosen them much."
        ]
    sentences = []
    if shells.unit:
        sentences.append(
            f"All vectors have unit length, so that raw norms cannot vary ({variances}). This does not show where the "
            f"population's centre is: it is off the origin all the same ({offset}). Var ‖x‖ is the misleading statistic here."
        )
    elif radial.ci95["correlation"][1] < SPHERE:
        cause = "the final LayerNorm puts the vectors" if representation == "hidden" else "the vectors lie"
        sentences.append(
            f"Raw norms are tighter than centred ones ({variances}) because {cause} on a shell about the origin "
            f"({terms}: C ≈ −(A+B)): what the distance to the centre gains, the projection on it loses. Tight raw norms say "
            "nothing about where the population's centre is: it is "
            f"off the origin all the same ({offset}). Var ‖x‖ is the misleading statistic here."
        )
    elif centered.var_norm < raw.var_norm:
        sentences.append(f"Centred norms are tighter ({variances}): a shell off the origin ({offset}; {terms}).")
        if raw.cv_norm <= 1.05 * centered.cv_norm:
            sentences.append(
                f"The coefficient of variation does not show it (raw {raw.cv_norm:.4f}, centred {centered.cv_norm:.4f}): it "
                "divides by a mean norm that the offset itself inflates: CV is the misleading statistic here."
            )
    else:
        sentences.append(
            f"Raw norms are tighter than centred ones ({variances}) though the vectors are not bound to a sphere about the "
            f"origin ({terms}): the covariance C between the two parts is negative and outweighs B. The offset is real all "
            f"the same ({offset}), which neither variance can show."
        )
    return sentences


def _slerp(check: CenteringCheck) -> str:
    on, auc = check.on_shell["slerp"], check.auc["slerp"]
    lost = breaks(check, "slerp")
    what = f"; it breaks {_listed(lost)}" if lost else ""
    return (
        f"SLERP's points lie on all three shells in {_percent(on)} of cases (real ones: {_percent(check.on_shell['real'])}) "
        f"and a classifier tells them from real ones with AUC {_number(auc)}{what}."
    )


def _not_validated(check: CenteringCheck, mode: str) -> str:
    over = check.minus_slerp[mode]
    shells, classifier = over.on_shell, over.auc
    judged = []
    for judge, estimate in (("the shells", shells), ("the classifier", classifier)):
        low, high = estimate.ci95
        if low > 0:
            judged.append(f"{judge} prefer it" if judge == "the shells" else f"{judge} prefers it")
        elif high < 0:
            judged.append(f"{judge} prefer SLERP" if judge == "the shells" else f"{judge} prefers SLERP")
        else:
            judged.append(f"{judge} cannot decide")
    reason = " and ".join(judged)
    if check.auc["slerp"].ci95[0] <= 0.5:
        reason += " (it does not even find SLERP's points, so that there is nothing to mend)"
    lost = breaks(check, mode)
    what = f"; it breaks {_listed(lost)}" if lost else ""
    name = LABELS[mode] if LABELS[mode].startswith("v") else LABELS[mode].capitalize().replace("slerp", "SLERP")
    numbers = f"on-shell {_signed(shells)}, AUC {_signed(classifier)} against SLERP"
    return f"{name} is not validated: {reason} ({numbers}){what}{_needed(check, mode)}."


def _caution(check: CenteringCheck) -> list[str]:
    """Caution if the recommended mode, though better than SLERP, still differs from real points."""
    on, real = check.on_shell[check.recommended], check.on_shell["real"]
    auc = check.auc[check.recommended]
    short = []
    if on.value < real.value - _SEEN:
        short.append(f"on the shells in {_percent(on)} of cases only, against {_percent(real)} of real points")
    if auc.ci95[0] > 0.5 + _SEEN:
        short.append(f"told from real points with AUC {_number(auc)}")
    if not short:
        return []
    return [f"That is better than SLERP, not yet good: its points are {' and '.join(short)}."]


def _needed(check: CenteringCheck, mode: str) -> str:
    """Number of captions that would decide a difference of this size; only for undecided positive ones."""
    factors = [1.0]
    for estimate in (check.minus_slerp[mode].on_shell, check.minus_slerp[mode].auc):
        low, high = estimate.ci95
        if low > 0:
            continue
        if estimate.value <= 0.005 or high < 0:
            return ""
        factors.append(((high - low) / 2 / estimate.value) ** 2)
    needed = max(factors) * check.n_judged
    return f"; about {needed:,.0f} captions would settle a difference of this size" if needed > check.n_judged else ""


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _percent(estimate: Estimate) -> str:
    low, high = estimate.ci95
    return f"{100 * estimate.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _number(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.ci95[0]:.3f}, {estimate.ci95[1]:.3f}]"


def _signed(estimate: Estimate) -> str:
    return f"{estimate.value:+.3f} [{estimate.ci95[0]:+.3f}, {estimate.ci95[1]:+.3f}]"
