"""What golden runs and reports start from: the only place here that names the builders of other tests.

Imported where they are needed, since a report on vectors needs no diffusers.
"""

from importlib import import_module

_BUILDERS = {
    "save_tower": ("tests.tiny.text_towers", "save_projection"),
    "save_sd": ("tests.tiny.runs", "save_sd"),
    "save_sdxl": ("tests.tiny.runs", "save_sdxl"),
    "write_pictures": ("tests.tiny.runs", "write_pictures"),
    "save_clip": ("tests.tiny.judges", "save_clip"),
    "save_dino": ("tests.tiny.judges", "save_dino"),
}


def __getattr__(name):
    if name not in _BUILDERS:
        raise AttributeError(f"tests.golden.models has no builder {name!r}")
    module, function = _BUILDERS[name]
    return getattr(import_module(module), function)
