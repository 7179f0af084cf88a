"""Connected components against a plain walk over the graph, and families in the graph of an atlas."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from index.build import build_index
from index.families import components, family_table, find_families
from index.graph_build import make_graph, plan_graph
from index.removals import remove_records
from index.search import Searcher


def walked(edges, num_nodes):
    """The lowest node that each one can reach, by breadth-first search."""
    beside = [[] for _ in range(num_nodes)]
    for one, other in edges:
        beside[one].append(other)
        beside[other].append(one)
    lowest = [-1] * num_nodes
    for start in range(num_nodes):
        open_ = [start] if lowest[start] < 0 else []
        while open_:
            node = open_.pop(0)
            if lowest[node] < 0:
                lowest[node] = start
                open_ += beside[node]
    return lowest


def labelled(edges, num_nodes, num_blocks=1):
    """`components` of pairs of nodes, which come in so many blocks."""
    pairs = np.array(edges, dtype=np.int64).reshape(-1, 2)
    blocks = ((block[:, 0], block[:, 1]) for block in np.array_split(pairs, num_blocks))
    return components(blocks, num_nodes).tolist()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_components_equal_a_walk(data):
    num_nodes = data.draw(st.integers(1, 60))
    node = st.integers(0, num_nodes - 1)
    edges = data.draw(st.lists(st.tuples(node, node), max_size=120))
    assert labelled(edges, num_nodes, data.draw(st.integers(1, 9))) == walked(edges, num_nodes)


def test_long_chains_in_every_order():
    size = 3000
    chain = [(node, node + 1) for node in range(size - 1)]
    shuffled = [chain[place] for place in np.random.default_rng(1).permutation(size - 1)]
    for edges in (chain, chain[::-1], [edge[::-1] for edge in chain], shuffled):
        for num_blocks in (1, 7, size - 1):
            assert set(labelled(edges, size, num_blocks)) == {0}
    assert labelled([], 4) == [0, 1, 2, 3]
    assert labelled([], 0) == []


def test_families_of_an_atlas(builder):
    """Three tight families of 40, 25 and 10, and five sequences far from everything."""
    generator = np.random.default_rng(6)
    # Directions at right angles to each other.
    family = generator.permutation(np.repeat(np.arange(8), [40, 25, 10, 1, 1, 1, 1, 1]))
    vectors = (np.eye(16)[family] + 0.02 * generator.standard_normal((80, 16))).astype(np.float32)
    store = builder.embedded(vectors)
    with store.lock():
        build_index(store, transform="none")
        opened = Searcher.open(store)
        list(make_graph(store, opened, plan_graph(store, opened, k=12, batch=16)))
    found = find_families(store, 0.8)
    assert (found.count, found.singletons, found.largest) == (3, 5, 40)
    assert found.full == 40 + 25  # of the family of 10 all are among 12 neighbours
    first = np.array([np.flatnonzero(family == kind)[0] for kind in range(8)])
    np.testing.assert_array_equal(found.clusters, first[family])
    table = family_table(store, found)
    order = sorted(range(80), key=lambda node: (-int(found.sizes[node]), int(found.clusters[node]), node))
    assert table["seq_id"].to_pylist() == order
    assert table["id"].to_pylist() == [f"R{node:05d}" for node in order]
    assert table["size"].to_pylist() == [int((family == family[node]).sum()) for node in order]
    assert find_families(store, -1.0).count == 1


def test_the_first_living_record_names_a_sequence(builder):
    store = builder.store([("a1", "", "ACGU"), ("a2", "", "ACGU"), ("b", "", "GGGG"), ("c", "", "CCCC")])
    store.put_embedding(builder.embedding())
    builder.write_part(store, store.embedding(), 0, [0, 1, 2], np.eye(16)[:3])
    with store.lock():
        build_index(store, transform="none")
        remove_records(store, ["a1", "c"])
        opened = Searcher.open(store)
        list(make_graph(store, opened, plan_graph(store, opened, k=2)))
    rows = family_table(store, find_families(store, -0.5)).to_pylist()
    assert rows == [
        {"id": "a2", "seq_id": 0, "cluster": 0, "size": 2},
        {"id": "b", "seq_id": 1, "cluster": 0, "size": 2},
    ]
