"""What each kind of llama.cpp memory can share, cut and count: the policy's view, one table.

The native side guards every fork by itself (`Memory.fork` refuses what would compute wrong logits); this table only
says what is worth asking for.

    kind          share cells   fork at k needs                        counts cells  cut tail  seq ids in a batch
    dense         any k         nothing                                yes           yes       any
    iswa          any k         window resident at k, or checkpoint    yes           no        any
    hybrid(_iswa) any k         end of a sequence, or checkpoint       yes           no        any
    recurrent     state only    end of a sequence, or checkpoint       no            no        consecutive
    opaque        never (blobs) -                                      yes           no        any
    none          never         -                                      no            no        any
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MemoryKind:
    """Abilities of one memory kind; see the module's table.

    Attributes:
        shares: Sequences can share cells or state through fork().
        any_point: A fork works at every position; otherwise only where a window, an end or a checkpoint allows it.
        window: Sliding window in tokens (iswa), else 0.
        counts_cells: Every token takes a cell of the pool. If not, only sequence ids are scarce.
        can_cut: The tail of a sequence can be removed, so rejected drafts can be rolled back and holders trimmed.
        needs_consecutive: Batches are split where running sequence ids are not consecutive.
    """

    name: str
    shares: bool = True
    any_point: bool = False
    window: int = 0
    counts_cells: bool = True
    can_cut: bool = False
    can_draft: bool = False
    needs_consecutive: bool = False

    @property
    def keeps_blobs(self) -> bool:
        """A finished sequence is worth keeping only as a state blob, for a prompt that goes on where it ended."""
        return self.counts_cells and not self.shares

    @property
    def wants_checkpoints(self) -> bool:
        return self.shares and not self.any_point


def memory_kind(name: str, n_swa: int = 0) -> MemoryKind:
    """The table's row for `Model.memory_kind` / `Memory.kind`; unknown names get the careful row of `opaque`."""
    if name == "dense":
        return MemoryKind(name, any_point=True, can_cut=True, can_draft=True)
    if name == "iswa":
        return MemoryKind(name, window=n_swa, can_draft=True)
    if name in ("hybrid", "hybrid_iswa"):
        return MemoryKind(name)
    if name == "recurrent":
        return MemoryKind(name, counts_cells=False, needs_consecutive=True)
    if name == "none":
        return MemoryKind(name, shares=False, counts_cells=False)
    return MemoryKind(name, shares=False)
