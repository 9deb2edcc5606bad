"""Enforce the array shapes that annotations give, while the tests run.

The library imports jaxtyping for type checkers alone. Here its names are put into the modules, for beartype to find.
"""

import sys

import jaxtyping
import numpy as np
from beartype import beartype
from numpy.typing import NDArray


class _Shaped:
    """Stand-in for a jaxtyping dtype: from numpy 2.5 on, jaxtyping takes no `NDArray[...]`, only `ndarray`."""

    def __init__(self, dtype):
        self.dtype = dtype

    def __getitem__(self, arguments):
        _array, shape = arguments
        return self.dtype[np.ndarray, shape]


NAMES = {name: _Shaped(getattr(jaxtyping, name)) for name in ("Bool", "Float", "Int", "UInt8")}
NAMES["Matrix"] = NAMES["Float"][NDArray, "_ d"]


def enforced(function):
    """Decorate a function so that a wrong shape raises."""
    module = vars(sys.modules[function.__module__])
    for name, value in NAMES.items():
        module.setdefault(name, value)
    return beartype(function)
