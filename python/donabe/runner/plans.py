"""Plans as values: what a load would take of each device and of the machine's memory. Pure; made by `memory_plan`."""

from __future__ import annotations

import msgspec

CPU = "CPU"


class DevicePlan(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes on one device, or in the machine's memory (`CPU`); for that one `free_bytes` is what is available.

    Attributes:
        id: The same for this device in every process; names of other machines' devices are not.
        reserve_bytes: Must stay free.
    """

    name: str
    id: str = ""
    weights_bytes: int = 0
    cache_bytes: int = 0
    compute_bytes: int = 0
    draft_bytes: int = 0
    free_bytes: int = 0
    reserve_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.cache_bytes + self.compute_bytes + self.draft_bytes


class ProjectorPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The vision part of a model. Its bytes count only where it is loaded."""

    file_bytes: int
    is_loaded: bool


class MemoryPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One way to load a model. Cache bytes by kind of layer are over all devices.

    Attributes:
        process_bytes: A runner without a model's weights: interpreter, libraries, vocabulary.
        resident_bytes: All that a runner holds of the machine's memory.
        prefix_cache_bytes: May be added later by kept prefixes.
        n_layers: Of the model, the output counted as one.
        n_gpu_layers: None when the model stays on the CPU.
        projector: None when the model has none.
        exceeds_memory: What must be in the machine's memory, unlike weights that are read from their file, is more than
            there is, swap included.
    """

    n_ctx: int
    n_ctx_per_request: int
    n_parallel: int
    n_layers: int
    n_gpu_layers: int | None
    n_cpu_moe: int
    attention_bytes: int
    window_bytes: int
    state_bytes: int
    output_bytes: int
    process_bytes: int
    resident_bytes: int
    prefix_cache_bytes: int
    devices: tuple[DevicePlan, ...]
    fits: bool = True
    projector: ProjectorPlan | None = None
    exceeds_memory: bool = False

    def taken_bytes(self, device: DevicePlan) -> int:
        """What the load takes there; of the machine's memory all that the runner holds."""
        return self.resident_bytes if device.name == CPU else device.total_bytes

    def missing_bytes(self) -> dict[str, int]:
        """Bytes that are not free, by id of the device; empty when all of it fits."""
        wanted = {device.id: self.taken_bytes(device) for device in self.devices}
        lacks = {
            device.id: wanted[device.id] + device.reserve_bytes - device.free_bytes
            for device in self.devices
            if wanted[device.id]
        }
        return {id: n_bytes for id, n_bytes in lacks.items() if n_bytes > 0}
