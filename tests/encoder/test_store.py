"""The vectors of a caption set on disk: what a cut, damage or another version does to them."""

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from clipgeom import encode
from clipgeom.encoder import Wanted, parse_positions
from clipgeom.encoder.store import VectorStore

TEXTS = [f"the cat and {'a dog ' * (i % 7)}on mat {i}" for i in range(300)]
WANTED = [Wanted(place, ("hidden", "projected")) for place in parse_positions("eos,5")]
IDENTITY = {"of": "a test"}
EOS, FIVE = parse_positions("eos,5")


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema": "clipgeom.vectors/0", "identity": {"of": "a test"}, "arrays": {}}', "another version"),
        ('{"schema": "clipgeom.vectors/1", "identity": {"of": "something else"}, "arrays": {}}', "another version"),
        ('{"schema": "clipgeom.vec', "damaged"),
        ("[]", "damaged"),
    ],
)
def test_a_store_of_another_version_or_a_cut_one_is_encoded_anew(tower, tmp_path, told, content, message):
    filled(tmp_path, tower, told)
    whole = contents(tmp_path)
    (tmp_path / "store.json").write_text(content)
    filled(tmp_path, tower, told)
    assert contents(tmp_path) == whole
    assert len(told) == 1
    assert message in told[0]


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


def test_an_interrupted_run_goes_on(tower, tmp_path, told, monkeypatch, runs):
    expected = contents(filled(tmp_path / "a", tower, told).folder)
    whole = len(runs)
    assert whole > 2
    run = type(tower.tower).run

    def interrupted(self, *arguments):
        if len(runs) == whole + 2:
            raise KeyboardInterrupt
        return run(self, *arguments)

    monkeypatch.setattr(type(tower.tower), "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        filled(tmp_path / "b", tower, told)
    assert (tmp_path / "b" / "partial" / "journal.json").exists()
    monkeypatch.setattr(type(tower.tower), "run", run)
    runs.clear()
    assert contents(filled(tmp_path / "b", tower, told).folder) == expected
    assert 0 < len(runs) < whole  # what the first run had was not run again


_KILLED = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
from clipgeom import load_text_encoder
from clipgeom.encoder import Wanted, parse_positions, store
from clipgeom.encoder.tower import Tower

torch.set_num_threads(1)  # a process with a pool of threads cannot be forked
run = Tower.run
Tower.run = lambda *arguments: (time.sleep(0.01), run(*arguments))[1]
store._JOURNAL_EVERY = 0.05
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
    pieces.append(json.loads(journal.read_text())["piece"] if journal.exists() else 0)
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
