"""The radix tree over the KV pool: which cells exist, which tokens they hold, which sequences share them.

Every sequence in the pool, running or idle, is a `Branch`: a path from a root to its own leaf. A `Node` is a run of
physical cells for positions [p0, p1), shared by exactly the branches whose path goes through it. So the number of cells
in use is the sum of all node lengths, by construction, also when two branches computed the same tokens independently
(two sibling nodes with equal tokens). Lookup compares token ids, never hashes. One root for each (adapters, salt) key.

Knows no native calls, no clock and no policy: callers pass the time and decide what to close.

    positions   0 ........ p ........ q ........ n
    node A      [0, p)     shared by branches 1, 2, 3
    node B                 [p, q)     shared by 1, 2
    node C, D                         [q, n) exclusive to 1; [q, ...) exclusive to 2: a leaf, it grows in place
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from donabe.engine.tokens import Int32Array, TokenBuffer, common_prefix

Key = tuple[str, str]  # (adapter set, salt)
C = TypeVar("C")  # what hangs at a position: a checkpoint


class Node(Generic[C]):
    """Cells of positions [p0, p1). `buffer` holds the tokens of at least [0, p1)."""

    __slots__ = ("branches", "buffer", "checkpoints", "children", "p0", "p1", "parent")

    def __init__(self, parent: Node[C] | None, buffer: TokenBuffer, p0: int, p1: int) -> None:
        self.parent = parent
        self.buffer = buffer
        self.p0 = p0
        self.p1 = p1
        self.children: list[Node[C]] = []
        self.branches: set[Branch[C]] = set()
        self.checkpoints: dict[int, C] = {}  # position k in (p0, p1] -> state after k tokens


class Branch(Generic[C]):
    """One sequence in the pool. `n` tokens are computed; its leaf ends at n and is its alone."""

    __slots__ = ("buffer", "is_idle", "key", "last_used", "leaf", "seq_id")

    def __init__(self, key: Key, seq_id: int, buffer: TokenBuffer, leaf: Node[C]) -> None:
        self.key = key
        self.seq_id = seq_id
        self.buffer = buffer
        self.leaf = leaf
        self.is_idle = False  # only the prefix cache holds it
        self.last_used = 0.0

    @property
    def n(self) -> int:
        return self.leaf.p1

    def path(self) -> list[Node[C]]:
        """Nodes from the root's child to the leaf; covers [0, n)."""
        nodes: list[Node[C]] = []
        node: Node[C] | None = self.leaf
        while node is not None and node.parent is not None:
            nodes.append(node)
            node = node.parent
        nodes.reverse()
        return nodes

    @property
    def n_exclusive(self) -> int:
        """Cells that closing this branch would free."""
        n = 0
        node: Node[C] | None = self.leaf
        while node is not None and node.parent is not None and len(node.branches) == 1:
            n += node.p1 - node.p0
            node = node.parent
        return n


@dataclass(frozen=True, slots=True)
class Overlap(Generic[C]):
    """A node whose first `n_equal - p0` tokens equal the looked-up tokens, as do all tokens before it."""

    node: Node[C]
    n_equal: int


class RadixTree(Generic[C]):
    """All branches of one pool."""

    def __init__(self) -> None:
        self._roots: dict[Key, Node[C]] = {}
        self._branches: set[Branch[C]] = set()
        self._n_cells = 0
        self.n_cells_peak = 0  # since whoever watches it set it last

    @property
    def n_cells(self) -> int:
        """Cells in use, each counted once."""
        return self._n_cells

    @property
    def branches(self) -> set[Branch[C]]:
        return self._branches

    def open(self, key: Key, seq_id: int, buffer: TokenBuffer) -> Branch[C]:
        """A new branch without cells."""
        root = self._roots.get(key)
        if root is None:
            root = self._roots[key] = Node(None, buffer, 0, 0)
        return self._add_branch(key, seq_id, buffer, root)

    def fork(self, source: Branch[C], k: int, seq_id: int, buffer: TokenBuffer) -> Branch[C]:
        """A new branch that shares the cells [0, k) of source. buffer's first k tokens equal source's; 0 < k <= n."""
        assert 0 < k <= source.n, f"fork at {k} of {source.n}"
        node = source.leaf
        while node.p0 >= k:
            assert node.parent is not None
            node = node.parent
        if k < node.p1:
            node = self._split(node, k)
        if source.leaf is node:  # the source goes on in a leaf of its own
            source.leaf = self._new_leaf(node, source)
        return self._add_branch(source.key, seq_id, buffer, node)

    def extend(self, branch: Branch[C], n: int) -> None:
        """The branch has computed tokens up to n now."""
        leaf = branch.leaf
        self._n_cells += n - leaf.p1
        leaf.p1 = n
        self.n_cells_peak = max(self.n_cells_peak, self._n_cells)

    def cut(self, branch: Branch[C], k: int) -> None:
        """Drop the cells of positions >= k from the branch; cells shared with others stay theirs."""
        assert 0 <= k <= branch.n
        root = self._roots[branch.key]
        node = branch.leaf
        while node is not root and node.p0 >= k:
            node = self._leave(node, branch)
        if k < node.p1:
            if len(node.branches) > 1:
                node = self._split(node, k)
                for child in [c for c in node.children if branch in c.branches]:
                    self._leave(child, branch)
            else:
                self._n_cells -= node.p1 - k
                node.p1 = k
                node.checkpoints = {p: c for p, c in node.checkpoints.items() if p <= k}
        if node is root or len(node.branches) > 1:
            branch.leaf = self._new_leaf(node, branch)
        else:
            branch.leaf = node

    def close(self, branch: Branch[C]) -> None:
        """Remove the branch and the cells only it had."""
        root = self._roots[branch.key]
        node = branch.leaf
        while node is not root:
            node = self._leave(node, branch)
        self._branches.remove(branch)
        if not root.children:
            del self._roots[branch.key]

    def lookup(self, key: Key, tokens: Int32Array) -> list[Overlap[C]]:
        """Every node that shares a prefix of at least one token with `tokens`, parents before children."""
        root = self._roots.get(key)
        if root is None:
            return []
        found: list[Overlap[C]] = []
        stack = [child for child in root.children]
        n_tokens = len(tokens)
        while stack:
            node = stack.pop()
            p0, p1 = node.p0, node.p1
            if p0 == p1:
                found.append(Overlap(node, p0))
                continue
            if p0 >= n_tokens or node.buffer[p0] != tokens[p0]:
                continue
            n_equal = p0 + common_prefix(node.buffer.view(p0, p1), tokens[p0:])
            found.append(Overlap(node, n_equal))
            if n_equal == p1:
                stack.extend(node.children)
        return found

    def tops(self) -> Iterator[Node[C]]:
        """The first node of every path: branches through different ones share nothing."""
        return (child for root in self._roots.values() for child in root.children)

    def nodes(self) -> Iterator[Node[C]]:
        """All nodes except the roots, parents before children."""
        stack = list(self.tops())
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children)

    def check(self) -> None:
        """Assert every invariant; for tests and debugging."""
        seen = 0
        for node in self.nodes():
            seen += node.p1 - node.p0
            assert node.parent is not None
            assert node.p0 == node.parent.p1, "a child begins where its parent ends"
            assert node.p0 <= node.p1 <= node.buffer.n, "cells without tokens"
            assert node.branches, "a node without branches was not freed"
            assert all(node.p0 < k <= node.p1 for k in node.checkpoints), "a checkpoint outside its node"
            through = {b for c in node.children for b in c.branches}
            own = {b for b in node.branches if b.leaf is node}
            assert through | own == node.branches, "branches and children disagree"
            assert not through & own, "a branch ends in a node and goes on below it"
            assert not own or len(node.branches) == 1, "a leaf is shared"
        assert seen == self._n_cells, f"{self._n_cells} cells counted, {seen} in the tree"
        for branch in self._branches:
            path = branch.path()
            assert path and path[0].p0 == 0, "a path does not start at 0"
            assert path[-1] is branch.leaf
            for node in path:
                assert branch in node.branches
                equal = common_prefix(node.buffer.view(node.p0, node.p1), branch.buffer.view(node.p0, node.p1))
                assert equal == node.p1 - node.p0, "a branch shares cells of other tokens"

    # --- structure ---

    def _add_branch(self, key: Key, seq_id: int, buffer: TokenBuffer, parent: Node[C]) -> Branch[C]:
        branch: Branch[C] = Branch(key, seq_id, buffer, parent)
        branch.leaf = self._new_leaf(parent, branch)
        node: Node[C] | None = parent
        while node is not None and node.parent is not None:
            node.branches.add(branch)
            node = node.parent
        self._branches.add(branch)
        return branch

    def _new_leaf(self, parent: Node[C], branch: Branch[C]) -> Node[C]:
        leaf: Node[C] = Node(parent, branch.buffer, parent.p1, parent.p1)
        leaf.branches.add(branch)
        parent.children.append(leaf)
        return leaf

    def _split(self, node: Node[C], k: int) -> Node[C]:
        """Cut node at k in two; returns the upper part, a new node. The lower one stays the leaf of its branch."""
        assert node.p0 < k < node.p1 and node.parent is not None
        upper: Node[C] = Node(node.parent, node.buffer, node.p0, k)
        upper.branches = set(node.branches)
        upper.children = [node]
        upper.checkpoints = {p: c for p, c in node.checkpoints.items() if p <= k}
        node.checkpoints = {p: c for p, c in node.checkpoints.items() if p > k}
        siblings = node.parent.children
        siblings[siblings.index(node)] = upper
        node.parent = upper
        node.p0 = k
        return upper

    def _leave(self, node: Node[C], branch: Branch[C]) -> Node[C]:
        """Take the branch off the node; free the node with its last branch. Returns the parent."""
        parent = node.parent
        assert parent is not None
        node.branches.remove(branch)
        if not node.branches:
            self._n_cells -= node.p1 - node.p0
            parent.children.remove(node)
        elif len(node.children) == 1 and len(node.children[0].branches) == len(node.branches):
            self._join(node)
        return parent

    def _join(self, node: Node[C]) -> None:
        """Merge a node with its only child, which all its branches go through."""
        child = node.children[0]
        parent = node.parent
        assert parent is not None
        child.p0 = node.p0  # its buffer belongs to a branch through both, so it has these tokens too
        child.checkpoints.update(node.checkpoints)
        child.parent = parent
        parent.children[parent.children.index(node)] = child
