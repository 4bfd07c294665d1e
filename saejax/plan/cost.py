"""What one run of a compiled program does: exchanges, products, memory traffic, kernels.

XLA's own `cost_analysis` counts the body of a loop once; here each instruction counts as often as
the loops around it turn. Of a conditional the branch that moves most counts.
"""

import dataclasses
import re

from saejax.plan.collectives import Collective, collective
from saejax.plan.hlo import Instruction, Module, branches, called, parse, trip_count
from saejax.plan.products import product
from saejax.plan.traffic import fusion_traffic, in_memory, traffic

# What starts no kernel of its own, or is the other half of what did.
_FREE = {
    *("parameter", "constant", "iota", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("while", "conditional", "call", "partition-id", "replica-id", "opt-barrier", "domain"),
    *("copy-start", "async-start", "async-update", "async-done", "add-dependency"),
}
_CUSTOM_TARGET = re.compile(r'custom_call_target="([^"]*)"')
# TPU: custom calls that only tell the compiler something.
_NO_KERNEL = ("AllocateBuffer", "AssumeGatherIndicesInBound", "Sharding", "GetTupleElement")


@dataclasses.dataclass
class Cost:
    """What a device does in one run of a program.

    Attributes:
      collectives: All exchanges with another device.
      flops: Of matrix products, two for a multiplication and an addition; by type of the factors.
      traffic: Bytes read from and written to memory by kernels.
      kernels: Kernels started one after another: fused loops, products, copies, exchanges.
      turns: Turns of loops.
      unknown_loops: Loops whose turns the program does not tell, counted once.
    """

    collectives: list[Collective] = dataclasses.field(default_factory=list)
    flops: dict[str, float] = dataclasses.field(default_factory=dict)
    traffic: float = 0.0
    kernels: float = 0.0
    turns: float = 0.0
    unknown_loops: int = 0

    def add(self, other: "Cost", times: int) -> None:
        """Adds what another part of the program does, so many times."""
        self.collectives += [
            dataclasses.replace(each, count=each.count * times) for each in other.collectives
        ]
        for kind, flops in other.flops.items():
            self.flops[kind] = self.flops.get(kind, 0.0) + times * flops
        self.traffic += times * other.traffic
        self.kernels += times * other.kernels
        self.turns += times * other.turns
        self.unknown_loops += other.unknown_loops

    @property
    def all_flops(self) -> float:
        """Of all products."""
        return sum(self.flops.values())

    @property
    def sent(self) -> float:
        """Bytes that a device sends."""
        return sum(each.total for each in self.collectives)


def cost(text: str) -> Cost:
    """The cost of a program.

    Args:
      text: Of `jax.stages.Compiled.as_text`.
    """
    module = parse(text)
    return _cost(module, module.entry, fused=False)


def _cost(module: Module, name: str, *, fused: bool) -> Cost:
    """Of one run of a computation; in a fused one, only products count."""
    computation = module.computations[name]
    total = Cost()
    for each in computation.values():
        if each.opcode == "while":
            turns = trip_count(module, computation, each)
            total.unknown_loops += turns is None
            turns = 1 if turns is None else turns
            total.turns += turns
            body = each.attribute("body").strip("%")
            total.add(_cost(module, body, fused=False), turns)
        elif each.opcode == "conditional":
            ways = [_cost(module, branch, fused=False) for branch in branches(each)]
            total.add(max(ways, key=lambda way: way.sent + way.traffic + way.all_flops), 1)
        elif exchange := collective(computation, each):
            total.collectives.append(exchange)
            total.kernels += 1
        elif each.opcode in ("call", "async-start"):
            for inner in called(each):
                total.add(_cost(module, inner, fused=False), 1)
        elif each.opcode == "fusion":
            for inner in called(each):
                total.add(_cost(module, inner, fused=True), 1)
            if not fused:
                total.kernels += 1
                total.traffic += fusion_traffic(module, computation, each)
        elif each.opcode == "copy-start":
            # A transfer beside the kernels, to or from the memory on the chip.
            total.traffic += in_memory(each.shapes[:2])
        else:
            if found := product(computation, each):
                kind, flops = found
                total.flops[kind] = total.flops.get(kind, 0.0) + flops
            if not fused and _is_kernel(each):
                total.kernels += 1
                total.traffic += traffic(computation, each)
    return total


def _is_kernel(each: Instruction) -> bool:
    if each.opcode in _FREE or each.opcode.endswith("-done"):
        return False
    target = _CUSTOM_TARGET.search(each.text)
    if target and target[1] in _NO_KERNEL:
        return False
    # Scalars are computed by what runs the loops.
    return any(shape.size > 1 for shape in each.shapes)
