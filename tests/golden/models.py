"""What golden runs and reports start from: the only place here that names the builders of other tests.

Imported where they are needed, since a report on vectors needs no diffusers.
"""

from importlib import import_module

_BUILDERS = {
    "save_tower": ("tests.encoder.towers", "save_projection"),
    "save_sd": ("tests.pti.small", "save_sd"),
    "save_sdxl": ("tests.pti.small", "save_sdxl"),
    "write_pictures": ("tests.pti.small", "write_pictures"),
    "save_clip": ("tests.pti.towers", "save_clip"),
    "save_dino": ("tests.pti.towers", "save_dino"),
}


def __getattr__(name):
    if name not in _BUILDERS:
        raise AttributeError(f"tests.golden.models has no builder {name!r}")
    module, function = _BUILDERS[name]
    return getattr(import_module(module), function)
