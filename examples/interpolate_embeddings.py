"""Interpolate between two embeddings, with NumPy and with torch.

The example makes 200 synthetic embeddings on a shell whose centre is away from the origin, as CLIP's are. It compares
the midpoints of `lerp`, `slerp` and `vslerp` by two distances: to the origin, and to the centre. `lerp` shortens both.
`slerp` keeps the norm, and `vslerp` keeps the distance to the centre. The second half repeats `slerp` on torch tensors
and differentiates it. Nothing is downloaded, and no model is loaded. Run it with `python examples/interpolate_embeddings.py`.
"""

import numpy as np
import torch

from clipgeom import aslerp, lerp, slerp, vslerp


def make_embeddings(n: int = 200, dim: int = 64, seed: int = 0) -> np.ndarray:
    """Return points of a unit sphere, moved two units along the first axis."""
    points = np.random.default_rng(seed).standard_normal((n, dim))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    points[:, 0] += 2.0
    return points


def main() -> None:
    """Print the table of midpoints, then check torch against NumPy."""
    x = make_embeddings()
    center = x.mean(axis=0)
    a, b = x[:100], x[100:]

    # 1. NumPy: whole batches at once; t = 0 is a, t = 1 is b
    modes = {
        "ends": a,
        "lerp": lerp(a, b, 0.5),
        "slerp": slerp(a, b, 0.5),
        "vslerp": vslerp(a, b, 0.5, center=center),
        "vslerp, keep_norm": vslerp(a, b, 0.5, center=center, keep_norm=True),
        "aslerp": aslerp(a, b, 0.5, center=center),
    }
    print(f"{'midpoint':<18} {'mean norm':>10} {'mean distance to the centre':>28}")
    for name, points in modes.items():
        norm = np.linalg.norm(points, axis=1).mean()
        distance = np.linalg.norm(points - center, axis=1).mean()
        print(f"{name:<18} {norm:>10.3f} {distance:>28.3f}")

    # 2. A path: t may be an array that broadcasts against the leading axes
    path = slerp(a[0], b[0], np.linspace(0, 1, 5))
    print("path of five points:", path.shape)

    # 3. torch: same names; library, dtype and device of the inputs are kept, and gradients flow
    start = torch.tensor(a[0], dtype=torch.float32, requires_grad=True)
    end = torch.tensor(b[0], dtype=torch.float32)
    middle = slerp(start, end, 0.5)
    middle.sum().backward()
    difference = np.abs(middle.detach().numpy() - slerp(a[0], b[0], 0.5)).max()
    print(f"torch minus NumPy: {difference:.1e}; gradient norm: {float(start.grad.norm()):.3f}")


if __name__ == "__main__":
    main()
