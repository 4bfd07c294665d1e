"""Exchanges between devices in a compiled program: their groups, and the bytes that are sent."""

import dataclasses
import math
import re

from saejax.plan.hlo import Computation, Instruction

# Collectives, and what a device sends of the bytes I that it gives, with n devices in a group: on a
# ring, the least there is (Chan et al. 2007, Concurrency Computat. 19, 1749-1783, section 2).
_SENT = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: n - 1,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "ragged-all-to-all": lambda n: (n - 1) / n,
    "collective-broadcast": lambda n: 1,
    "collective-permute": lambda n: 1,
}


@dataclasses.dataclass(frozen=True)
class Collective:
    """Exchanges of one kind and size.

    Attributes:
      kind: As "all-reduce".
      group: Devices that exchange with each other.
      span: Largest difference of two device numbers in a group.
      sent: Bytes that a device sends, each time.
      count: Times in a run of the program.
    """

    kind: str
    group: int
    span: int
    sent: float
    count: int

    @property
    def total(self) -> float:
        """Bytes that a device sends in a run of the program."""
        return self.sent * self.count


def collective(own: Computation, each: Instruction) -> Collective | None:
    """The exchange that an instruction is, or starts; None if it is none, or with nobody."""
    kind = each.opcode.removesuffix("-start")
    if kind not in _SENT:
        return None
    group, span = _groups(each, kind)
    if group < 2:
        return None
    given = sum(own[name].num_bytes for name in each.operands if name in own)
    return Collective(kind, group, span, given * _SENT[kind](group), 1)


def _groups(each: Instruction, kind: str) -> tuple[int, int]:
    """Devices in a group, and the largest difference of two numbers in one."""
    if kind == "collective-permute":
        pairs = re.findall(r"\{(\d+),(\d+)\}", each.attribute("source_target_pairs"))
        moves = [abs(int(a) - int(b)) for a, b in pairs if a != b]
        return (2, max(moves)) if moves else (1, 0)
    listed = each.attribute("replica_groups")
    if iota := re.match(r"\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", listed):
        number, size = int(iota[1]), int(iota[2])
        dims = [int(dim) for dim in iota[3].split(",")]
        order = [int(axis) for axis in iota[4].split(",")] if iota[4] else [*range(len(dims))]
        groups = _iota(dims, order, number, size)
    else:
        groups = [
            [int(device) for device in inner.split(",") if device]
            for inner in re.findall(r"\{([\d,]*)\}", listed[1:-1])
        ]
    size = max((len(group) for group in groups), default=1)
    return size, max((max(group) - min(group) for group in groups if group), default=0)


def _iota(dims: list[int], order: list[int], number: int, size: int) -> list[list[int]]:
    """Groups written as [number, size]<=[dims]T(order): counted up, transposed, cut in rows."""
    strides = [math.prod(dims[axis + 1 :]) for axis in range(len(dims))]
    shape, steps = [dims[axis] for axis in order], [strides[axis] for axis in order]
    flat = [0]
    for count, step in zip(shape, steps, strict=True):
        flat = [base + step * i for base in flat for i in range(count)]
    return [flat[row * size : (row + 1) * size] for row in range(number)]
