"""Two short training runs: what they leave in their folders."""

import json
import re
from pathlib import Path

from pti import read_config, run_stages

from . import models
from .digests import header_of, picture_of, tensors_of

SETTINGS = Path(__file__).parent / "settings"
CAPTIONS = (
    "a picture of {token}, at night, facing left",
    "{token}, in the snow",
    "an ink illustration of {token}, by the sea, facing right",
)


def run_values():
    """All values, by run and file; written into the current folder."""
    models.save_sd(Path("sd"))
    models.save_sdxl(Path("sdxl"))
    models.save_clip(Path("clip"))
    models.save_dino(Path("dino"))
    models.write_pictures(Path("pictures"), CAPTIONS)
    stages = {"sd": ("invert", "tune", "evaluate", "export"), "sdxl": ("invert", "tune", "export")}
    return {
        name: folder_values(run_stages(read_config(SETTINGS / f"{name}.toml"), wanted))
        for name, wanted in stages.items()
    }


def folder_values(folder):
    """What a run folder contains, without versions, places and names of settings."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    values = {"files": [path.relative_to(folder).as_posix() for path in files]}
    values["metrics"] = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    values["record"] = _record(json.loads((folder / "record.json").read_text()))
    if (folder / "evaluation.json").exists():
        values["evaluation"] = json.loads((folder / "evaluation.json").read_text())
    values["card"] = _card((folder / "export" / "README.md").read_text())
    values["headers"] = {path.name: _header(path) for path in files if path.suffix == ".safetensors"}
    values["pictures"] = {
        path.relative_to(folder).as_posix(): picture_of(path) for path in files if path.suffix == ".png"
    }
    values["tensors"] = {
        path.relative_to(folder).as_posix(): tensors_of(path) for path in files if path.suffix == ".safetensors"
    }
    return values


def _record(record):
    del record["versions"]
    del record["data"]["sha256"]  # of files whose compression is Pillow's own
    record["stages"] = {name: {k: v for k, v in stage.items() if k != "of"} for name, stage in record["stages"].items()}
    return record


_OF_SETTINGS = {"belongs", "of", "sha256"}  # what a file belongs to, by names of settings, and digests over it


def _header(path):
    """The metadata of a file, such as the schema, stage and state of a checkpoint, without `_OF_SETTINGS`."""
    header = header_of(path)
    if "pti" in header:
        header = json.loads(header["pti"])
    return {key: value for key, value in header.items() if key not in _OF_SETTINGS}


def _card(text):
    """The lines of a model card, without the table of settings and versions."""
    text = re.sub(r"(?ms)^## Settings$.*?(?=^## |\Z)", "", text)
    return re.sub(r"\b\d+\.\d+\.\d+\b", "<version>", text).splitlines()
