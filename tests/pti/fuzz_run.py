"""Random changes to the tensors of an interrupted run: none may give another result, or a traceback.

    python -m tests.pti.fuzz_run --changes 200 --seed 0

The run goes on with what was changed. Its last checkpoint must be, byte for byte, that of a run that was left alone.
"""

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from accelerate.state import AcceleratorState, GradientState, PartialState

from clipgeom._progress import Quiet
from clipgeom.errors import ClipGeomError
from pti.workflow import run_stages
from tests.clipgeom.encoder.storage.fuzz_store import damage
from tests.tiny.runs import configuration, save_sd

_SETTINGS = (
    "data.latent_refinement_steps=2",
    "loss.unmasked_weight=0.5",
    "experimental.locality_inputs=generated",
    "experimental.locality_num_generated=2",
)
_SETTINGS += (
    "prior_preservation.weight=0.3",
    "prior_preservation.num_class_images=2",
    "inversion.steps=2",
    "lora.steps=2",
    "validation.prompts=[]",
)
_SETTINGS += ("output.checkpointing_steps=1", "output.checkpoints_total_limit=3")
_LAST = Path("checkpoints", "tune-0000002.safetensors")


class _Notes(Quiet):
    def __init__(self):
        super().__init__()
        self.texts = []

    def note(self, text):
        self.texts.append(text)


def fuzz(folder, pipeline, changes, seed):
    """Make so many changes; count outcomes, and list the bad ones."""
    config = configuration(pipeline, folder / "run", *_SETTINGS)
    run_stages(config, ("invert", "tune"))
    expected = (folder / "run" / _LAST).read_bytes()
    (folder / "run" / _LAST).unlink()
    (folder / "run").rename(folder / "interrupted")
    rng, counts, bad = random.Random(seed), Counter(), []
    for number in range(changes):
        shutil.rmtree(folder / "run", ignore_errors=True)
        shutil.copytree(folder / "interrupted", folder / "run")
        change, name = damage(sorted((folder / "run").rglob("*.safetensors")), rng)
        notes = _Notes()
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()
        try:
            run_stages(config, ("invert", "tune"), progress=notes)
            same = (folder / "run" / _LAST).read_bytes() == expected
            anew = any("computing it again" in text for text in notes.texts)
            outcome = ("made anew with a note" if anew else "the same") if same else "ANOTHER RESULT"
        except ClipGeomError as error:
            outcome = "refused" if name in str(error) or change == "swapped" else f"REFUSED WITHOUT ITS NAME: {error}"
        except Exception as error:  # a traceback, for users
            outcome = f"TRACEBACK: {type(error).__name__}: {error}"
        counts[outcome.partition(":")[0]] += 1
        if outcome[:5].isupper():
            bad.append((number, change, name, outcome))
    return counts, bad


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        found, wrong = fuzz(Path(temporary), save_sd(Path(temporary) / "sd"), options.changes, options.seed)
    for outcome, count in sorted(found.items()):
        print(f"{outcome:<24} {count}")
    for line in wrong:
        print("WRONG", *line)
    sys.exit(bool(wrong))
