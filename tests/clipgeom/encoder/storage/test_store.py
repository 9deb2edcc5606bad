"""The vectors of a caption set on disk: what a cut, damage or another version does to them."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from clipgeom import encode
from clipgeom.encoder import Wanted, parse_positions
from clipgeom.encoder.storage.partial import Partial
from clipgeom.encoder.storage.sealed import read_sealed, write_sealed
from clipgeom.encoder.storage.store import VectorStore
from tests.clipgeom.encoder.storage.fuzz_store import fuzz

TEXTS = [f"the cat and {'a dog ' * (i % 7)}on mat {i}" for i in range(300)]
WANTED = [Wanted(place, ("hidden", "projected")) for place in parse_positions("eos,5")]
IDENTITY = {"of": "a test"}
EOS, FIVE = parse_positions("eos,5")
CHUNKING = sys.modules["clipgeom.encoder.encode"]  # a function of the package has the module's name


def contents(folder):
    """Bytes of the arrays by name: store.json holds their sizes and checksums, and nothing else that can differ."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".f32", ".npz")}


@pytest.fixture
def told():
    return []


@pytest.fixture
def runs(tower, monkeypatch):
    """How many packs the tower was run on."""
    packs = []
    run = type(tower.tower).run
    monkeypatch.setattr(
        type(tower.tower), "run", lambda self, pack, *rest: (packs.append(1), run(self, pack, *rest))[1]
    )
    return packs


def filled(folder, tower, told, wanted=WANTED, identity=IDENTITY):
    store = VectorStore(folder, identity, notify=told.append)
    store.fill(tower, TEXTS, wanted, pack_size=96)
    return store


def test_holds_what_encode_gives(tower, tmp_path, told):
    store = filled(tmp_path, tower, told)
    expected = encode(tower, TEXTS, representations="hidden,projected", positions="eos,5", pack_size=96)
    for place in (EOS, FIVE):
        for name in ("hidden", "projected"):
            np.testing.assert_array_equal(store.vectors(name, place).load(), expected[name, str(place)][0])
    np.testing.assert_array_equal(store.lengths.tokens, tower.tokens(TEXTS).lengths)
    assert not (tmp_path / "partial").exists()
    assert told == []


def test_nothing_is_encoded_twice_and_only_what_is_missing_is_added(tower, tmp_path, told, runs):
    filled(tmp_path, tower, told, WANTED[:1])
    runs.clear()
    store = filled(tmp_path, tower, told, WANTED[:1])
    assert runs == []
    before = store.vectors("hidden", EOS).load()
    store = filled(tmp_path, tower, told)
    assert runs
    np.testing.assert_array_equal(store.vectors("hidden", EOS).load(), before)
    assert store.has(WANTED)


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_array_is_encoded_anew_and_told(tower, tmp_path, told, damage):
    filled(tmp_path, tower, told)
    whole = contents(tmp_path)
    victim = tmp_path / "hidden.5.f32"
    data = bytearray(victim.read_bytes())
    if damage == "cut":
        victim.write_bytes(data[:-4])
    elif damage == "flipped":
        data[100] ^= 1
        victim.write_bytes(data)
    else:
        victim.unlink()
    filled(tmp_path, tower, told)
    assert contents(tmp_path) == whole
    assert len(told) == 1
    assert "hidden.5.f32" in told[0]
    assert "is damaged" in told[0]


def resealed(path, change):
    """Change a JSON file as somebody would who also mends its digest."""
    content = read_sealed(path)
    change(content)
    write_sealed(path, content)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"dim": 32', '"dim": 16'),
        lambda text: text.replace('"rows": 300', '"rows": 301'),
        lambda text: text.replace("hidden.eos.f32", "hidden.5.f32"),
        lambda text: text.replace('"dim": 32,', ""),
        lambda text: text.replace("a test", "a text"),
        lambda text: text.replace("clipgeom.vectors/2", "clipgeom.vectors/1"),
        lambda text: text[:40],
        lambda text: text + "}",
        lambda _text: "[]",
        lambda _text: "[" * 100_000,
        lambda _text: '{"schema": "clipgeom.vectors/2"}',
    ],
)
def test_a_changed_description_is_not_believed(tower, tmp_path, told, change):
    filled(tmp_path, tower, told)
    whole = contents(tmp_path)
    path = tmp_path / "store.json"
    before = path.read_text()
    path.write_text(change(before))
    assert path.read_text() != before
    filled(tmp_path, tower, told)
    assert contents(tmp_path) == whole
    assert path.read_text() == before
    [line] = told
    assert "store.json is damaged, or another version of clipgeom wrote it" in line


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["arrays"]["hidden.eos.f32"].update(dim=16),
        lambda content: content["arrays"]["hidden.eos.f32"].update(dim=32.0),
        lambda content: content["arrays"]["hidden.eos.f32"].update(rows=-300, dim=-32),
        lambda content: content["arrays"]["hidden.eos.f32"].pop("rows"),
        lambda content: content["arrays"]["tokens.npz"].update(rows=1),
        lambda content: content["arrays"].update({"../hidden.eos.f32": content["arrays"]["hidden.eos.f32"]}),
        lambda content: content["arrays"].update({"hidden.eos.f32": 5}),
        lambda content: content.update(arrays=7),
        lambda content: content.pop("identity"),
    ],
)
def test_a_description_that_no_store_writes_is_not_believed(tower, tmp_path, told, change):
    filled(tmp_path, tower, told)
    whole = contents(tmp_path)
    resealed(tmp_path / "store.json", change)
    filled(tmp_path, tower, told)
    assert contents(tmp_path) == whole
    assert "encoding anew" in told[0]


@pytest.mark.parametrize("name", ["hidden.5.f32", "store.json", "tokens.npz"])
def test_a_folder_in_place_of_a_file_is_replaced(tower, tmp_path, told, name):
    filled(tmp_path, tower, told)
    whole = contents(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    filled(tmp_path, tower, told)
    assert contents(tmp_path) == whole


@pytest.mark.parametrize("journal", ["", "{}", '{"chunk": 99}', "\x00\x01"])
def test_a_damaged_journal_starts_over(tower, tmp_path, told, journal):
    expected = contents(filled(tmp_path / "a", tower, told).folder)
    (tmp_path / "b" / "partial").mkdir(parents=True)
    (tmp_path / "b" / "partial" / "journal.json").write_text(journal)
    (tmp_path / "b" / "partial" / "hidden.eos.f32").write_bytes(b"x" * 999)
    assert contents(filled(tmp_path / "b", tower, told).folder) == expected


def test_a_full_disk_leaves_nothing(tower, tmp_path, told, monkeypatch):
    def full(*_arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        filled(tmp_path, tower, told)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def interrupted(tower, monkeypatch, runs):
    """A function that encodes into a folder until so many packs were run, then is interrupted."""

    def fill(folder, told, packs):
        run = type(tower.tower).run
        runs.clear()

        def stopping(self, *arguments):
            if len(runs) == packs:
                raise KeyboardInterrupt
            return run(self, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(type(tower.tower), "run", stopping)
            with pytest.raises(KeyboardInterrupt):
                filled(folder, tower, told)
        runs.clear()

    return fill


def test_an_interrupted_run_goes_on(tower, tmp_path, told, runs, interrupted):
    expected = contents(filled(tmp_path / "a", tower, told).folder)
    whole = len(runs)
    interrupted(tmp_path / "b", told, 2)
    assert (tmp_path / "b" / "partial" / "journal.json").exists()
    assert contents(filled(tmp_path / "b", tower, told).folder) == expected
    assert len(runs) == whole - 2  # what the first run had was not run again
    assert told == []


def damages(folder):
    """Each damage of one file of an interrupted run, by what it does."""
    vectors = folder / "hidden.eos.f32"
    data = bytearray(vectors.read_bytes())
    [row] = np.flatnonzero(np.frombuffer(data, "<f4").reshape(-1, 32).any(1))[:1]
    flipped = bytearray(data)
    flipped[int(row) * 128 + 5] ^= 1
    journal = (folder / "journal.json").read_text()
    yield "a bit", lambda: vectors.write_bytes(flipped), "damaged vectors"
    yield "cut", lambda: vectors.write_bytes(data[: int(row) * 128 + 64]), "damaged vectors"
    yield "gone", lambda: vectors.unlink(), "damaged vectors"
    yield "swapped", lambda: shutil.copy(folder / "hidden.5.f32", vectors), "damaged vectors"
    yield "longer", lambda: vectors.write_bytes(data + bytes(900)), None
    claims = journal.replace('"pieces": {', '"pieces": {"1": {"0": 0},')
    yield "claims", lambda: (folder / "journal.json").write_text(claims), "journal.json is damaged"
    other = re.sub(r'"pieces": {\s*"\d+"', '"pieces": { "7"', journal)
    yield "another chunk", lambda: (folder / "journal.json").write_text(other), "journal.json is damaged"
    yield "no journal", lambda: (folder / "journal.json").unlink(), None


@pytest.mark.parametrize("chunk", [64, 32_768])
def test_damage_to_an_interrupted_run_is_encoded_anew(
    tower, tmp_path, told, runs, interrupted, monkeypatch, subtests, chunk
):
    monkeypatch.setattr(CHUNKING, "CHUNK", chunk)
    expected = contents(filled(tmp_path / "whole", tower, told).folder)
    total = len(runs)
    interrupted(tmp_path / "cut", told, total - 2)
    for name, _, _ in damages(tmp_path / "cut" / "partial"):
        with subtests.test(name):
            copy = tmp_path / f"{name}, damaged"
            shutil.copytree(tmp_path / "cut", copy)
            [(damage, message)] = [(d, m) for n, d, m in damages(copy / "partial") if n == name]
            damage()
            told.clear()
            runs.clear()
            assert contents(filled(copy, tower, told).folder) == expected
            assert len(told) == (message is not None)
            assert message is None or message in told[0]
            if name == "a bit":
                assert len(runs) < total  # only what was damaged


def test_an_interruption_while_a_run_is_resumed_costs_nothing(tower, tmp_path, told, runs, interrupted, monkeypatch):
    monkeypatch.setattr(CHUNKING, "CHUNK", 64)
    expected = contents(filled(tmp_path / "whole", tower, told).folder)
    total = len(runs)
    interrupted(tmp_path / "cut", told, total - 2)
    chunks = read_sealed(tmp_path / "cut" / "partial" / "journal.json")["chunks"]
    assert len(chunks) > 2
    monkeypatch.setattr(Partial, "_is_there", lambda *_arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        filled(tmp_path / "cut", tower, told)
    monkeypatch.undo()
    monkeypatch.setattr(CHUNKING, "CHUNK", 64)
    assert read_sealed(tmp_path / "cut" / "partial" / "journal.json")["chunks"] == chunks
    assert contents(filled(tmp_path / "cut", tower, told).folder) == expected
    assert told == []


_KILLED = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
from clipgeom import load_text_encoder
from clipgeom.encoder import Wanted, parse_positions
from clipgeom.encoder.storage import partial, store
from clipgeom.encoder.tower import Tower

torch.set_num_threads(1)  # a process with a pool of threads cannot be forked
run = Tower.run
Tower.run = lambda *arguments: (time.sleep(0.01), run(*arguments))[1]
partial._JOURNAL_EVERY = 0.05
encoder = load_text_encoder(sys.argv[1])
texts = [f"{k} the cat and {'a dog ' * (k % 7)}on mat {k}" for k in range(600)]
wanted = [Wanted(place, ("hidden", "projected")) for place in parse_positions("eos,5,padded:60")]
whole, killed = Path(sys.argv[2]), Path(sys.argv[3])

def start(folder):
    child = os.fork()
    if not child:
        store.VectorStore(folder, {}).fill(encoder, texts, wanted, pack_size=96)
        os._exit(0)
    return child

began = time.monotonic()
assert os.waitpid(start(whole), 0)[1] == 0
lasted = time.monotonic() - began
rng = random.Random(0)
pieces = []
for _ in range(10):
    child = start(killed)
    time.sleep(rng.uniform(0, lasted / 8))
    os.kill(child, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    journal = killed / "partial" / "journal.json"
    kept = json.loads(journal.read_text())["pieces"] if journal.exists() else {}
    pieces.append(len(kept.get("0", {})))
assert os.waitpid(start(killed), 0)[1] == 0
print(json.dumps(pieces))
"""


def test_ten_kills_leave_the_same_bytes(tower_folder, tmp_path):
    arguments = [str(tower_folder), str(tmp_path / "whole"), str(tmp_path / "killed")]
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, *arguments], capture_output=True, text=True, check=True, env=environment
    )
    pieces = json.loads(done.stdout)
    assert pieces == sorted(pieces)  # no kill costs what was kept before it
    assert len(set(pieces)) > 3
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    described = [json.loads((tmp_path / name / "store.json").read_text()) for name in ("whole", "killed")]
    assert described[0] == described[1]


def test_no_random_change_gives_other_vectors_or_a_traceback(tower, tmp_path):
    counts, wrong = fuzz(tmp_path, tower, changes=40, seed=1)
    assert wrong == []
    for kind in ("interrupted", "finished"):
        assert counts[kind, "recomputed with a note"] > 10
