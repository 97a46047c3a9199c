"""The tree alone: structure, cell counts, lookup."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from donabe.engine.radix import RadixTree
from donabe.engine.tokens import TokenBuffer, common_prefix

KEY = ("", "")


def buffer(*tokens: int) -> TokenBuffer:
    return TokenBuffer(np.array(tokens, np.int32))


def grown(tree: RadixTree, seq_id: int, *tokens: int, key=KEY):
    branch = tree.open(key, seq_id, buffer(*tokens))
    tree.extend(branch, len(tokens))
    return branch


def overlap(tree: RadixTree, *tokens: int, key=KEY) -> int:
    return max((o.n_equal for o in tree.lookup(key, np.array(tokens, np.int32))), default=0)


def test_lookup_finds_the_longest_common_prefix():
    tree = RadixTree()
    grown(tree, 0, 1, 2, 3, 4)
    grown(tree, 1, 1, 2, 9)
    assert overlap(tree, 1, 2, 3, 7) == 3
    assert overlap(tree, 1, 2, 9, 9) == 3
    assert overlap(tree, 5) == 0
    tree.check()


def test_keys_do_not_see_each_other():
    tree = RadixTree()
    grown(tree, 0, 1, 2, 3, key=("", "alice"))
    assert overlap(tree, 1, 2, 3, key=("", "bob")) == 0
    assert overlap(tree, 1, 2, 3, key=("lora", "alice")) == 0


def test_fork_shares_cells_and_both_grow_apart():
    tree = RadixTree()
    source = grown(tree, 0, 1, 2, 3, 4)
    child = tree.fork(source, 2, 1, buffer(1, 2, 8, 9))
    tree.extend(child, 4)
    assert tree.n_cells == 6
    assert (source.n_exclusive, child.n_exclusive) == (2, 2)
    tree.check()


def test_fork_at_the_end_lets_a_running_source_go_on():
    tree = RadixTree()
    source = grown(tree, 0, 1, 2, 3)
    tree.fork(source, 3, 1, buffer(1, 2, 3, 4))
    source.buffer.append(7)
    tree.extend(source, 4)
    assert (tree.n_cells, source.n_exclusive) == (4, 1)
    tree.check()


def test_close_frees_only_exclusive_cells_and_joins_nodes():
    tree = RadixTree()
    source = grown(tree, 0, 1, 2, 3, 4)
    child = tree.fork(source, 2, 1, buffer(1, 2, 8))
    tree.extend(child, 3)
    tree.close(source)
    assert tree.n_cells == 3
    assert len(list(tree.nodes())) == 1
    tree.check()
    tree.close(child)
    assert tree.n_cells == 0 and not list(tree.nodes())


def test_cut_drops_the_tail_and_leaves_shared_cells_to_others():
    tree = RadixTree()
    source = grown(tree, 0, 1, 2, 3, 4, 5)
    child = tree.fork(source, 4, 1, buffer(1, 2, 3, 4, 9))
    tree.extend(child, 5)
    tree.cut(child, 2)
    assert (child.n, source.n, tree.n_cells) == (2, 5, 5)
    tree.check()
    tree.cut(source, 2)
    assert tree.n_cells == 2
    tree.check()


def test_independently_computed_equal_tokens_count_twice():
    tree = RadixTree()
    grown(tree, 0, 1, 2, 3)
    grown(tree, 1, 1, 2, 3)
    assert tree.n_cells == 6
    tree.check()


def test_checkpoints_stay_at_their_position_when_nodes_split_and_join():
    tree = RadixTree()
    source = grown(tree, 0, 1, 2, 3, 4)
    source.leaf.checkpoints[2] = "two"
    source.leaf.checkpoints[4] = "four"
    child = tree.fork(source, 3, 1, buffer(1, 2, 3, 9))
    assert {k: c for n in tree.nodes() for k, c in n.checkpoints.items()} == {2: "two", 4: "four"}
    tree.close(child)
    assert source.leaf.checkpoints == {2: "two", 4: "four"}
    tree.cut(source, 3)
    assert source.leaf.checkpoints == {2: "two"}
    tree.check()


def test_token_buffer_view_survives_growth():
    b = buffer(1, 2, 3)
    view = b.view(0, 3)
    b.extend(list(range(5000)))
    assert view.tolist() == [1, 2, 3]
    assert (len(b), b[3], b[5002]) == (5003, 0, 4999)


def test_common_prefix_lengths():
    a = np.array([1, 2, 3], np.int32)
    assert [common_prefix(a, np.array(x, np.int32)) for x in ([], [2], [1, 2], [1, 2, 4], [1, 2, 3, 4])] == [
        0,
        0,
        2,
        2,
        3,
    ]


OPS = st.lists(
    st.tuples(st.sampled_from(["open", "fork", "extend", "cut", "close"]), st.integers(0, 99), st.integers(0, 99)),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(OPS, st.randoms(use_true_random=False))
def test_any_order_of_operations_keeps_the_invariants(ops, random):
    """Also against a naive model: cells with owners, counted by walking."""
    tree, branches, next_id = RadixTree(), [], 0
    cells: dict[object, list[int]] = {}  # branch -> its cells' ids
    next_cell = 0
    for op, x, y in ops:
        branch = branches[x % len(branches)] if branches else None
        if op == "open" or branch is None:
            branches.append(tree.open(KEY, next_id, buffer(*[random.randrange(2) for _ in range(20)])))
            cells[branches[-1]] = []
            next_id += 1
        elif op == "extend":
            n = min(branch.n + y % 6, branch.buffer.n)
            cells[branch] += range(next_cell, next_cell + n - branch.n)
            next_cell += n - branch.n
            tree.extend(branch, n)
        elif op == "fork" and branch.n:
            k = 1 + y % branch.n
            tokens = [*branch.buffer.view(0, k).tolist(), *[random.randrange(2) for _ in range(20)]]
            branches.append(tree.fork(branch, k, next_id, buffer(*tokens)))
            cells[branches[-1]] = cells[branch][:k]
            next_id += 1
        elif op == "cut":
            k = y % (branch.n + 1)
            tree.cut(branch, k)
            cells[branch] = cells[branch][:k]
        elif op == "close":
            tree.close(branch)
            branches.remove(branch)
            del cells[branch]
        tree.check()
        assert tree.n_cells == len({c for own in cells.values() for c in own})
        for b in branches:
            others = {c for o, own in cells.items() if o is not b for c in own}
            assert b.n_exclusive == len(set(cells[b]) - others)
