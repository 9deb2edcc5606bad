"""What the last bits of a number depend on."""

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

_PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "transformers", "diffusers", "peft", "accelerate", "pillow")

# One thread, nothing from outside, and no options of the user.
ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    **dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "NO_COLOR"), "1"),
    "COLUMNS": "100",
    "TERM": "dumb",
    "_TYPER_FORCE_DISABLE_TERMINAL": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONIOENCODING": "utf-8",
    "TZ": "UTC",
}


def circumstances():
    """Versions, processor, and kernels in use; all of them equal means that every bit has to be."""
    import numpy as np  # noqa: F401  # its BLAS is asked below
    import torch
    from threadpoolctl import threadpool_info

    return {
        "python": ".".join(map(str, sys.version_info[:2])),
        **{name: version(name) for name in _PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "blas": sorted({str(found.get("architecture")) for found in threadpool_info() if found["user_api"] == "blas"}),
        "threads": torch.get_num_threads(),
    }


def environment():
    """The environment of a process that computes golden values."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("CLIPGEOM_", "TYPER_", "FORCE_"))}
    dropped = ("GITHUB_ACTIONS", "PY_COLORS", "TERMINAL_WIDTH", "PYTHONWARNINGS")
    return {key: value for key, value in kept.items() if key not in dropped} | ENVIRONMENT


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "cpu family", "model\t", "stepping")
    return ", ".join(dict.fromkeys(line.split(":", 1)[1].strip() for line in lines if line.startswith(wanted)))
