"""Random changes to the files of an interrupted and of a finished cache: none may give other vectors, or a traceback.

    python -m tests.clipgeom.encoder.storage.fuzz_store --changes 2000 --seed 0

A changed cache is opened, filled and listed. Each change has one of three outcomes: what was changed does not matter (the
content is the same), it is encoded anew with a note, or an error of ours refuses it.
"""

import argparse
import json
import random
import re
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from clipgeom import load_text_encoder
from clipgeom.encoder import Wanted, parse_positions
from clipgeom.encoder.storage.cache import EmbeddingCache
from clipgeom.errors import ClipGeomError
from tests.tiny.text_towers import save_projection

TEXTS = [f"{i} the cat and {'a dog ' * (i % 3)}on mat {i}" for i in range(120)]
WANTED = [Wanted(place, ("hidden", "projected")) for place in parse_positions("eos,5")]
_CHUNK = 50  # captions: two and a half chunks
_PACKS = 18  # that the interrupted run encodes: of the first chunk all, of the second some


class Bench:
    """Caches of both kinds to damage, and what a whole one contains.

    Parameters
    ----------
    folder : Path
    encoder : TextEncoder
    """

    def __init__(self, folder, encoder):
        self.folder, self.encoder, self.notes = folder, encoder, []
        self.expected = self.vectors(folder / "finished")
        run, packs = type(encoder.tower).run, iter(range(_PACKS))

        def stopping(tower, *arguments):
            if next(packs, None) is None:
                raise KeyboardInterrupt
            return run(tower, *arguments)

        type(encoder.tower).run = stopping
        try:
            self.vectors(folder / "interrupted")
        except KeyboardInterrupt:
            [journal] = (folder / "interrupted").rglob("journal.json")
            kept = json.loads(journal.read_text())
            assert kept["chunks"], "no chunk is finished"
            assert kept["pieces"], "no chunk is under way"
        else:
            raise AssertionError("encoding was not interrupted")
        finally:
            type(encoder.tower).run = run

    def vectors(self, root):
        """Fill a cache and read everything in it."""
        cache = EmbeddingCache(root)
        about = {"captions": "c.txt", "captions_sha256": "0" * 64, "n": len(TEXTS), "fallback": root / "fallback"}
        with cache.open(self.encoder, WANTED, **about, notify=self.notes.append) as store:
            store.fill(self.encoder, TEXTS, WANTED, pack_size=96)
            found = {(n, w.position): store.vectors(n, w.position) for w in WANTED for n in w.representations}
            arrays = {str(key): vectors.load() for key, vectors in found.items()}
            arrays |= {name: getattr(store.lengths, name) for name in ("eos", "tokens", "truncated")}
        return arrays

    def outcome(self, kind, rng):
        """Change a copy of a cache, use it, and judge: what was done, and what came of it."""
        root = self.folder / "changed"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(self.folder / kind, root)
        self.notes.clear()
        files = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock")
        change, name = damage(files, rng)
        try:
            for entry in EmbeddingCache(root).sets():
                if entry.n not in (len(TEXTS), None):
                    return change, name, "OTHER NUMBERS"
            found = self.vectors(root)
        except ClipGeomError:
            return change, name, "refused"
        except Exception as error:  # a traceback, for users
            return change, name, f"TRACEBACK {type(error).__name__}: {error}"
        if any(found[key].shape != array.shape for key, array in self.expected.items()):
            return change, name, "OTHER NUMBERS"
        differences = [np.abs(found[key] - self.expected[key].astype(float)).max() for key in found]
        if not any(differences):
            return change, name, "recomputed with a note" if self.notes else "the same"
        # an array that is encoded alone is packed otherwise: it may differ by rounding, where a note tells of it
        rounding = self.notes and kind == "finished" and max(differences) < 1e-5
        return change, name, "recomputed with a note" if rounding else "OTHER NUMBERS"


def damage(files, rng):
    """Change one of some files, or two; the name of the change and of the file."""
    while True:
        path = rng.choice(files)
        before = path.read_bytes()
        kind = rng.choice(list(_CHANGES))
        if kind == "swapped":
            other = rng.choice(files)
            content = other.read_bytes()
            other.write_bytes(before)
        else:
            content = _CHANGES[kind](before, rng)
        if content is None:
            path.unlink()
            return kind, path.name
        path.write_bytes(content)
        if content != before:
            return kind, path.name


def _flip(content, rng):
    changed = bytearray(content)
    if changed:
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _bytes(content, rng):
    changed = bytearray(content)
    for _ in range(rng.randint(1, 8) if changed else 0):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _block(content, rng):
    start = rng.randrange(len(content) + 1)
    size = rng.choice((4, 64, 512))
    return content[:start] + bytes(len(content[start : start + size])) + content[start + size :]


def _digit(content, rng):
    places = [found.start() for found in re.finditer(rb"\d", content)]
    if not places:
        return content
    place = rng.choice(places)
    return content[:place] + str(rng.randrange(10)).encode() + content[place + 1 :]


def _entry(content, rng):
    """Delete or replace an entry of a JSON object, at any depth."""
    try:
        whole = json.loads(content)
    except ValueError:
        return content
    objects = [whole]
    for found in objects:
        objects += [value for value in found.values() if isinstance(value, dict)]
    chosen = rng.choice([found for found in objects if found])
    key = rng.choice(sorted(chosen))
    if rng.random() < 0.5:
        del chosen[key]
    else:
        chosen[key] = rng.choice((None, -1, 0, 1.5, 1e400, 2**70, "x", "../x", True, [], {}, [{}], chosen[key]))
    return json.dumps(whole, indent=1, sort_keys=True).encode()


_CHANGES = {
    "bit": _flip,
    "bytes": _bytes,
    "zeros": _block,
    "digit": _digit,
    "entry": _entry,
    "cut": lambda content, rng: content[: rng.randrange(len(content) + 1)],
    "longer": lambda content, rng: content + rng.randbytes(rng.choice((1, 4, 128, 1000))),
    "deleted": lambda content, rng: None,
    "swapped": None,
}


def fuzz(folder, encoder, changes, seed):
    """Make so many changes, half of them to an interrupted cache; count outcomes, and list the bad ones."""
    chunking = sys.modules["clipgeom.encoder.encode"]
    before, chunking.CHUNK = chunking.CHUNK, _CHUNK
    try:
        bench, rng = Bench(folder, encoder), random.Random(seed)
        counts, bad = Counter(), []
        for number in range(changes):
            kind = ("interrupted", "finished")[number % 2]
            change, name, outcome = bench.outcome(kind, rng)
            counts[kind, outcome.partition(":")[0]] += 1
            if outcome.startswith(("OTHER", "TRACEBACK")):
                bad.append((number, kind, change, name, outcome))
    finally:
        chunking.CHUNK = before
    return counts, bad


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--changes", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        save_projection(Path(temporary) / "clip")
        found, wrong = fuzz(Path(temporary), load_text_encoder(Path(temporary) / "clip"), options.changes, options.seed)
    for (kind, outcome), count in sorted(found.items()):
        print(f"{kind:<12} {outcome:<24} {count}")
    for line in wrong:
        print("WRONG", *line)
    sys.exit(bool(wrong))
