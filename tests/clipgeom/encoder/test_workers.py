"""Packs side by side: the same bytes whatever their number, in order, few in flight, and torch's settings kept."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from clipgeom import encode
from clipgeom.encoder import Wanted, parse_positions
from clipgeom.encoder.storage.store import VectorStore
from clipgeom.encoder.tower import Tower
from clipgeom.encoder.workers import in_order

TEXTS = [f"{k} the cat and {'a dog ' * (k % 7)}on mat {k}" for k in range(150)]


@pytest.fixture
def use(monkeypatch):
    """Let the user set a number of threads."""
    before = torch.get_num_threads()

    def set_to(count):
        monkeypatch.setenv("OMP_NUM_THREADS", str(count))
        torch.set_num_threads(count)

    yield set_to
    torch.set_num_threads(before)


def test_vectors_are_the_same_bytes_for_one_two_and_three_workers(tower, use):
    found = []
    for count in (1, 2, 3):
        use(count)
        found.append(encode(tower, TEXTS, representations="hidden,projected", positions="eos,5,padded:30"))
    for key, (vectors, rows) in found[0].items():
        for other in found[1:]:
            assert other[key][0].tobytes() == vectors.tobytes()
            assert np.array_equal(other[key][1], rows)


def test_an_encoding_cut_off_with_one_thread_goes_on_with_two(tower, use, tmp_path, monkeypatch):
    wanted = [Wanted(place, ("hidden",)) for place in parse_positions("eos")]
    run, runs = Tower.run, []

    def counted(*arguments):
        runs.append(1)
        if len(runs) == cut:
            raise KeyboardInterrupt
        return run(*arguments)

    monkeypatch.setattr(Tower, "run", counted)
    cut = None
    use(2)
    VectorStore(tmp_path / "whole", {}).fill(tower, TEXTS, wanted, pack_size=96)
    total, cut = len(runs), 6
    assert total > 9
    runs.clear()
    use(1)
    with pytest.raises(KeyboardInterrupt):
        VectorStore(tmp_path / "cut", {}).fill(tower, TEXTS, wanted, pack_size=96)
    cut = None
    runs.clear()
    use(2)
    VectorStore(tmp_path / "cut", {}).fill(tower, TEXTS, wanted, pack_size=96)
    assert len(runs) == total - 5
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "cut" / path.name).read_bytes()


def test_each_worker_has_one_thread_and_others_keep_theirs(use):
    use(3)
    together = threading.Barrier(3, timeout=20)

    def job():
        together.wait()  # passes only when three run at once
        return torch.get_num_threads(), threading.get_ident()

    found = list(in_order(iter([job] * 3), "cpu"))
    assert [count for count, _ in found] == [1, 1, 1]
    assert len({thread for _, thread in found}) == 3
    assert torch.get_num_threads() == 3
    with ThreadPoolExecutor(1) as fresh:
        assert fresh.submit(torch.get_num_threads).result() == 3


def test_results_come_in_order_and_few_jobs_are_taken_ahead(use):
    use(2)
    first, taken = threading.Event(), []

    def jobs():
        for k in range(12):
            taken.append(k)
            yield lambda k=k: (first.wait(20) if k == 0 else first.set(), k)[1]

    results = in_order(jobs(), "cpu")
    assert next(results) == 0
    assert len(taken) == 4
    assert list(results) == list(range(1, 12))


def test_an_error_ends_the_work(use):
    use(2)
    made = []

    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(in_order(iter([fail, *[lambda: made.append(1)] * 50]), "cpu"))
    assert len(made) <= 4
    assert not [t for t in threading.enumerate() if t.name.startswith("clipgeom-encode")]


def test_on_another_device_jobs_run_one_by_one_in_the_calling_thread(use):
    use(2)
    assert list(in_order(iter([threading.get_ident] * 3), "cuda")) == [threading.get_ident()] * 3
