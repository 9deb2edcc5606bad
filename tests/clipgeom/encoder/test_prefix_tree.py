"""The prefix tree and its packs against their definitions, spelled out with sets and loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipgeom import ConfigError
from clipgeom.encoder.prefix_tree import PrefixTree

sequences = st.lists(st.lists(st.integers(0, 3), max_size=9), min_size=1, max_size=30)


def arrays(rows):
    return [np.array(row, dtype=np.int64) for row in rows]


def path(tree, node):
    """The prefix that a node stands for."""
    return tuple(tree.tokens[[*tree.ancestors(node), node]].tolist())


@given(sequences)
def test_nodes_are_the_distinct_prefixes_each_once(rows):
    tree = PrefixTree(arrays(rows))
    expected = {tuple(row[: k + 1]) for row in rows for k in range(len(row))}
    found = [path(tree, node) for node in range(len(tree))]
    assert len(found) == len(expected)
    assert set(found) == expected
    assert tree.depths.tolist() == [len(prefix) - 1 for prefix in found]


@given(sequences)
def test_a_caption_finds_each_of_its_prefixes(rows):
    tree = PrefixTree(arrays(rows))
    for number, row in enumerate(rows):
        nodes = tree.nodes(np.full(len(row), number), np.arange(len(row)))
        assert [path(tree, node) for node in nodes.tolist()] == [tuple(row[: k + 1]) for k in range(len(row))]


@given(sequences)
def test_descendants_are_a_run_of_nodes(rows):
    tree = PrefixTree(arrays(rows))
    prefixes = [path(tree, node) for node in range(len(tree))]
    for node, prefix in enumerate(prefixes):
        below = [other for other, longer in enumerate(prefixes) if longer[: len(prefix)] == prefix]
        assert below == list(range(node, int(tree.ends[node])))


@settings(max_examples=60)
@given(sequences, st.sampled_from([(12, 4), (16, 4), (12, 2), (24, 8)]))
def test_packs_compute_each_node_once_and_show_it_its_ancestors_only(rows, sizes):
    budget, block = sizes
    tree = PrefixTree(arrays(rows))
    computed = []
    for pack in tree.packs(budget, block=block):
        assert len(pack.tokens) <= budget
        assert len(pack.tokens) % block == 0
        # what each row of the pack is: ancestors of the first node, the nodes of the window, fill
        node_of = {row: int(node) for row, node in enumerate(tree.ancestors(pack.first))}
        node_of |= {pack.offset + k: pack.first + k for k in range(pack.n)}
        assert len(node_of) == pack.offset + pack.n
        for row, node in node_of.items():
            assert (pack.tokens[row], pack.depths[row]) == (tree.tokens[node], tree.depths[node])
            inside = pack.mask[row // block, row % block]
            seen = pack.keys[row // block][inside].tolist()
            assert len(set(seen)) == len(seen)
            assert {node_of[key] for key in seen} == {*tree.ancestors(node).tolist(), node}
        for row in range(len(node_of), len(pack.tokens)):  # fill sees something, or softmax would give NaN
            assert pack.mask[row // block, row % block].any()
        computed += range(pack.first, pack.first + pack.n)
    assert computed == list(range(len(tree)))


def test_equal_captions_are_one_path():
    tree = PrefixTree(arrays([[1, 2, 3]] * 1000))
    assert len(tree) == 3
    assert tree.nodes(np.arange(1000), np.full(1000, 2)).tolist() == [2] * 1000


def test_nothing_is_asked():
    for rows in ([], [[]], [[], []]):
        tree = PrefixTree(arrays(rows))
        assert len(tree) == 0
        assert list(tree.packs(64)) == []


@pytest.mark.parametrize("budget", [0, 31, 33, 64, 77])
def test_a_budget_that_cannot_work_is_refused(budget):
    tree = PrefixTree([np.arange(77)])
    with pytest.raises(ConfigError, match=f"a pack of {budget} nodes must be a multiple of 32 and hold more than"):
        next(tree.packs(budget))


def test_a_hundred_thousand_captions_take_memory_by_their_tokens():
    import tracemalloc

    rng = np.random.default_rng(0)
    rows = [np.append(49406, rng.integers(0, 49406, 12)) for _ in range(32_768)]  # as many as one chunk holds
    tracemalloc.start()
    try:
        PrefixTree(rows)
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 120e6
