"""What one run of a compiled program does: exchanges, products, memory traffic, kernels.

XLA's own `cost_analysis` counts the body of a loop once; here each instruction counts as often as
the loops around it turn. Of a conditional the branch that moves most counts.
"""

import dataclasses
import math
import re

from saejax.plan.hlo import (
    Computation,
    Instruction,
    Module,
    Shape,
    branches,
    called,
    parse,
    trip_count,
)

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
# What starts no kernel of its own, or is the other half of what did.
_FREE = frozenset(
    "parameter constant tuple get-tuple-element bitcast while conditional call after-all "
    "partition-id replica-id opt-barrier domain iota copy-start async-start async-update "
    "async-done add-dependency".split()
)
_CUSTOM_TARGET = re.compile(r'custom_call_target="([^"]*)"')
# TPU: custom calls that only tell the compiler something.
_NO_KERNEL = ("AllocateBuffer", "AssumeGatherIndicesInBound", "Sharding", "GetTupleElement")


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
        kind = each.opcode.removesuffix("-start")
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
        elif kind in _SENT:
            _add_collective(total, computation, each, kind)
        elif each.opcode in ("call", "async-start"):
            for inner in called(each):
                total.add(_cost(module, inner, fused=False), 1)
        elif each.opcode == "fusion":
            for inner in called(each):
                total.add(_cost(module, inner, fused=True), 1)
            if not fused:
                total.kernels += 1
                total.traffic += _fusion_traffic(module, computation, each)
        elif each.opcode == "copy-start":
            # A transfer beside the kernels, to or from the memory on the chip.
            total.traffic += _in_memory(each.shapes[:2])
        else:
            _add_product(total, computation, each)
            if not fused and _is_kernel(each):
                total.kernels += 1
                total.traffic += _traffic(computation, each)
    return total


def _is_kernel(each: Instruction) -> bool:
    if each.opcode in _FREE or each.opcode.endswith("-done"):
        return False
    target = _CUSTOM_TARGET.search(each.text)
    if target and target[1] in _NO_KERNEL:
        return False
    # Scalars are computed by what runs the loops.
    return any(shape.size > 1 for shape in each.shapes)


def _add_collective(total: Cost, own: Computation, each: Instruction, kind: str) -> None:
    group, span = _groups(each, kind)
    if group < 2:
        return
    given = sum(own[name].num_bytes for name in each.operands if name in own)
    total.collectives.append(Collective(kind, group, span, given * _SENT[kind](group), 1))
    total.kernels += 1


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


def _add_product(total: Cost, own: Computation, each: Instruction) -> None:
    """FLOPs of a matrix product: 2 x elements of the result x length of the sums."""
    if each.opcode == "dot":
        left = own[each.operands[0]].shapes[0]
        summed = [int(d) for d in each.attribute("lhs_contracting_dims").strip("{}").split(",")]
        length = math.prod(left.dims[axis] for axis in summed)
    elif each.opcode == "convolution":
        left, kernel = (own[name].shapes[0] for name in each.operands[:2])
        length = _products(each, left, kernel) / max(each.shapes[0].size, 1)
    else:
        return
    kind = "float32" if left.kind in ("f32", "f64") else "bfloat16"
    if "operand_precision={highest" in each.text:
        kind = "exact" if kind == "float32" else kind
    total.flops[kind] = total.flops.get(kind, 0.0) + 2.0 * each.shapes[0].size * length


def _products(each: Instruction, left: Shape, kernel: Shape) -> float:
    """Multiplications of a convolution, which is what TPUs have for matrix products.

    "b0f_0oi->b0f" names the axes: b and f of the left side, o and i of the kernel, numbers for
    those that the kernel is moved along. Of these a product of stacks has one place each where
    the two overlap, so that the places that do are counted.
    """
    names, _, out_names = each.attribute("dim_labels").partition("->")
    left_names, _, kernel_names = names.partition("_")
    out = each.shapes[0]
    count = float(out.dims[out_names.index("b")] * out.dims[out_names.index("f")])
    count *= kernel.dims[kernel_names.index("i")]
    window = _window(each.attribute("window"))
    for axis in range(len(out_names) - 2):
        sizes = (
            shape.dims[own_names.index(str(axis))]
            for shape, own_names in ((out, out_names), (kernel, kernel_names), (left, left_names))
        )
        count *= _overlaps(*sizes, *(steps[axis] for steps in window))
    return count


def _window(text: str) -> tuple[list[int], list[int], list[int], list[int]]:
    """Stride, low padding and the two dilations of each axis, from {size=1x2 pad=0_0x1_1 ...}."""
    fields = dict(part.split("=") for part in text.strip("{}").split())
    axes = len(fields.get("size", "").split("x")) if "size" in fields else 0

    def numbers(name: str, default: int) -> list[int]:
        given = fields.get(name)
        return [int(x.split("_")[0]) for x in given.split("x")] if given else [default] * axes

    return numbers("stride", 1), numbers("pad", 0), numbers("lhs_dilate", 1), numbers("rhs_dilate", 1)


def _overlaps(
    out: int, kernel: int, left: int, stride: int, pad: int, left_step: int, kernel_step: int
) -> int:
    """Places of kernel and result for which there is an entry of the left side."""
    count = 0
    for place in range(kernel):
        for start in range(out):
            at = start * stride - pad + place * kernel_step
            count += 0 <= at < (left - 1) * left_step + 1 and at % left_step == 0
    return count


def _in_memory(shapes: tuple[Shape, ...]) -> float:
    return float(sum(shape.num_bytes for shape in shapes if not shape.on_chip))


def _traffic(own: Computation, each: Instruction) -> float:
    """Bytes that an instruction reads and writes; of slices, what they touch."""
    if each.opcode in ("dynamic-slice", "gather", "slice"):
        return 2 * _in_memory(each.shapes)
    if each.opcode in ("dynamic-update-slice", "scatter"):
        place = 1 if each.opcode == "dynamic-update-slice" else -1
        return 2 * _in_memory(own[each.operands[place]].shapes)
    read = sum(_in_memory(own[name].shapes) for name in set(each.operands) if name in own)
    return read + _in_memory(each.shapes)


def _fusion_traffic(module: Module, own: Computation, each: Instruction) -> float:
    """Bytes that a fused loop reads and writes: of an array that it slices, the slices."""
    (name,) = called(each)
    inner = module.computations[name]
    parameters = {
        int(i.text.partition(")")[0]): i.name for i in inner.values() if i.opcode == "parameter"
    }
    total = 0.0
    for place, operand in enumerate(each.operands):
        if place not in parameters or operand not in own:
            continue
        whole, touched = _in_memory(own[operand].shapes), _touched(inner, parameters[place])
        total += whole if touched is None else min(whole, touched)
    updates = [i for i in inner.values() if i.opcode in ("dynamic-update-slice", "scatter")]
    if not updates:
        return total + _in_memory(each.shapes)
    # Written in place: the updates, and what other results there are.
    for update in updates:
        place = 1 if update.opcode == "dynamic-update-slice" else -1
        total += _in_memory(inner[update.operands[place]].shapes)
    written = {update.shapes[0].dims for update in updates}
    return total + _in_memory(tuple(s for s in each.shapes if s.dims not in written))


def _touched(inner: Computation, name: str) -> float | None:
    """Bytes of a fused loop's input that it reads, where it only reads slices; None for all."""
    users = [i for i in inner.values() if name in i.operands]
    total = 0.0
    for user in users:
        if user.opcode == "bitcast":
            further = _touched(inner, user.name)
            if further is None:
                return None
            total += further
        elif user.operands[0] != name:
            return None
        elif user.opcode in ("dynamic-slice", "gather", "slice"):
            total += float(user.num_bytes)
        elif user.opcode == "scatter":
            total += float(inner[user.operands[-1]].num_bytes)
        elif user.opcode != "dynamic-update-slice":
            return None
    return total
