"""CMM, the memory the NPU shares among all models. Everything in KiB, like cmminfo."""

from __future__ import annotations

IDLE_USED = 448  # seen on a real module with nothing loaded


class Lease:
    """Memory of one loaded model."""

    def __init__(self, memory: Memory, unit: str, kib: int) -> None:
        self._memory, self.unit, self.kib = memory, unit, kib

    def free(self) -> None:
        """Give the memory back; a second call does nothing."""
        self._memory.leases.discard(self)


class Memory:
    """The whole of CMM. `held` is taken by nobody we know; `lie` only distorts what cmminfo says."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.leases: set[Lease] = set()
        self.held = 0
        self.lie = 0

    @property
    def remain(self) -> int:
        """What is really free, lies aside."""
        return self.total - IDLE_USED - self.held - sum(lease.kib for lease in self.leases)

    def take(self, unit: str, kib: int) -> Lease | None:
        """Return a lease on `kib`, or None if there is not enough."""
        if kib > self.remain:
            return None
        lease = Lease(self, unit, kib)
        self.leases.add(lease)
        return lease

    def free_unit(self, unit: str) -> None:
        """Give back all that a dead unit held."""
        self.leases = {lease for lease in self.leases if lease.unit != unit}

    def info(self) -> dict[str, int]:
        """Return what cmminfo tells."""
        used = self.total - self.remain + self.lie
        return {"total": self.total, "used": used, "remain": self.total - used}
