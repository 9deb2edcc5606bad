import array_api_compat
import array_api_strict
import numpy as np
import pytest
import torch


@pytest.fixture(params=[np, array_api_strict, torch], ids=["numpy", "strict", "torch"])
def xp(request):
    """An array namespace; ``xp.asarray`` takes NumPy arrays and lists, ``np.asarray`` takes the results back."""
    return array_api_compat.array_namespace(request.param.asarray([0.0]))
