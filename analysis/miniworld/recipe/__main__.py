"""``python -m analysis.miniworld.recipe``: the recipe from a shell."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from clipgeom.errors import ClipGeomError


def main(arguments: list[str] | None = None) -> int:
    """Run stages in their order; each goes on from its checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m analysis.miniworld.recipe", description=__doc__)
    parser.add_argument(
        "stages", nargs="*", help="patches, clip, autoencoder, details, decoder, readers, diffusion; default: all"
    )
    parser.add_argument("--folder", type=Path, default=Path("miniworld-training"), help="checkpoints and pools")
    parser.add_argument("--pack", type=Path, help="only write the weights that the folder holds, here")
    parser.add_argument("--threads", type=int, default=None, help="of torch; default: torch's own choice")
    options = parser.parse_args(arguments)
    try:
        import torch

        from analysis.miniworld.recipe.recipe import STAGES, run_stage

        if options.pack is not None:
            from analysis.miniworld.recipe.pack import pack

            print(f"{options.pack}: {pack(options.folder, options.pack):,} bytes")
            return 0
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        for name in options.stages or STAGES:
            for record in run_stage(name, options.folder):
                if record.step % 20 == 0:
                    terms = "  ".join(f"{key} {value:.4f}" for key, value in record.losses.items())
                    print(f"{name} {record.step}  {terms}  {record.seconds:.0f} s", flush=True)
    except ClipGeomError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
