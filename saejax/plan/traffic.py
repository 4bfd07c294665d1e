"""Bytes that the kernels of a compiled program read from and write to memory.

Each kernel reads its inputs and writes its results once; of arrays that it only slices, gathers
from or scatters to, what it touches. Memory on the chip (of TPUs) does not count.
"""

from saejax.plan.hlo import Computation, Instruction, Module, Shape, called


def in_memory(shapes: tuple[Shape, ...]) -> float:
    """Bytes of arrays but for those on the chip."""
    return float(sum(shape.num_bytes for shape in shapes if not shape.on_chip))


def traffic(own: Computation, each: Instruction) -> float:
    """Bytes that an instruction reads and writes; of slices, what they touch."""
    if each.opcode in ("dynamic-slice", "gather", "slice"):
        return 2 * in_memory(each.shapes)
    if each.opcode in ("dynamic-update-slice", "scatter"):
        return 2 * in_memory(_update_of(own, each).shapes)
    read = sum(in_memory(own[name].shapes) for name in set(each.operands) if name in own)
    return read + in_memory(each.shapes)


def fusion_traffic(module: Module, own: Computation, each: Instruction) -> float:
    """Bytes that a fused loop reads and writes: of an array that it slices, the slices."""
    (name,) = called(each)
    inputs = _parameters(module.computations[name])
    total = 0.0
    for place, operand in enumerate(each.operands):
        if place not in inputs or operand not in own:
            continue
        whole, touched = in_memory(own[operand].shapes), _touched(module, name, inputs[place])
        total += whole if touched is None else min(whole, touched)
    # Written in place: the updates, and what other results there are.
    updates = _updates(module, name)
    written = {dims for dims, _ in updates}
    rest = tuple(shape for shape in each.shapes if shape.dims not in written)
    on_chip = {shape.dims for shape in each.shapes if shape.on_chip}
    total += sum(num_bytes for dims, num_bytes in updates if dims not in on_chip)
    return total + in_memory(rest)


def _parameters(inner: Computation) -> dict[int, str]:
    return {
        int(i.text.partition(")")[0]): i.name for i in inner.values() if i.opcode == "parameter"
    }


def _update_of(inner: Computation, each: Instruction) -> Instruction:
    """What a scatter or an update of a slice puts in."""
    return inner[each.operands[1 if each.opcode == "dynamic-update-slice" else -1]]


def _updates(module: Module, name: str) -> list[tuple[tuple[int, ...], float]]:
    """Dimensions of arrays that a fused loop writes in place, and the bytes that it writes."""
    inner, found = module.computations[name], []
    for each in inner.values():
        if each.opcode in ("dynamic-update-slice", "scatter"):
            update = _update_of(inner, each)
            found.append((each.shapes[0].dims, in_memory(update.shapes)))
        elif each.opcode == "fusion":
            for nested in called(each):
                found += _updates(module, nested)
    return found


def _touched(module: Module, name: str, input_name: str) -> float | None:
    """Bytes of a fused loop's input that it reads, where it only reads slices; None for all."""
    inner = module.computations[name]
    total = 0.0
    for user in (each for each in inner.values() if input_name in each.operands):
        further: float | None = None
        if user.opcode == "bitcast":
            further = _touched(module, name, user.name)
        elif user.opcode == "fusion":
            (nested,) = called(user)
            place = user.operands.index(input_name)
            further = _touched(module, nested, _parameters(module.computations[nested])[place])
        elif user.operands[0] == input_name:
            if user.opcode in ("dynamic-slice", "gather", "slice"):
                further = float(user.num_bytes)
            elif user.opcode == "scatter":
                further = float(_update_of(inner, user).num_bytes)
            elif user.opcode == "dynamic-update-slice":
                further = 0.0
        if further is None:
            return None
        total += further
    return total
