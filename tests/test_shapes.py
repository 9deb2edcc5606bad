"""Shapes in annotations are enforced in tests, and cost users nothing."""

import subprocess
import sys

import jaxtyping
import numpy as np
import pytest

from clipgeom.geometry import modality
from clipgeom.geometry.bootstrap import quantile_interval
from clipgeom.geometry.moments import Moments
from pti.evaluation.metrics import image_similarity


@pytest.mark.parametrize(
    "call",
    [
        lambda: quantile_interval(np.zeros((2, 2)), 0.5),
        lambda: modality._unit(np.ones(3), "texts"),
        lambda: Moments(n=4, pivot=np.zeros(3), shift=np.zeros(3), scatter=np.zeros((3, 2))),
        lambda: image_similarity(np.ones((2, 3)), np.ones((2, 4)), seed=0),
    ],
)
def test_a_wrong_shape_raises(call):
    with pytest.raises(jaxtyping.TypeCheckError):
        call()


def test_the_library_imports_without_jaxtyping():
    code = (
        "import sys, pkgutil, importlib; sys.modules['jaxtyping'] = None\n"
        "import clipgeom, pti\n"
        "names = [m.name for p in (clipgeom, pti) for m in pkgutil.walk_packages(p.__path__, p.__name__ + '.')]\n"
        "names = [name for name in names if not name.endswith('__main__')]\n"
        "for name in names: importlib.import_module(name)\n"
        "print(len(names))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) > 80
