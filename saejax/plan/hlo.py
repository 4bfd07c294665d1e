"""Compiled programs as XLA prints them: computations of instructions, with shapes and constants.

The text is that of `jax.stages.Compiled.as_text`, which has no stable grammar; what is read here
is the same in XLA's compilers for CPUs, GPUs and TPUs of jax 0.10: a computation starts with a line
that ends in "{", an instruction is `name = shape opcode(operands), attributes`.
"""

import re
from typing import NamedTuple

# Bytes of an element, by the names of types; those of less than a byte are held in one.
_BYTES = {
    "pred": 1, "s4": 1, "u4": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "s32": 4, "u32": 4,
    "s64": 8, "u64": 8, "f16": 2, "bf16": 2, "f32": 4, "f64": 8, "c64": 8, "c128": 16,
}  # fmt: skip
_ARRAY = re.compile(r"\b([a-z]+[0-9]*[a-z0-9]*)\[([0-9,]*)\](\{[^}]*\})?")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = ")
_OPCODE = re.compile(r"\s*([a-z][\w-]*)\(")
_NAME = re.compile(r"%([\w.-]+)")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
# TPUs: memory space 1 is the memory on the chip.
_ON_CHIP = "S(1)"


class Shape(NamedTuple):
    """One array."""

    kind: str
    dims: tuple[int, ...]
    on_chip: bool = False

    @property
    def size(self) -> int:
        """Number of elements."""
        size = 1
        for dim in self.dims:
            size *= dim
        return size

    @property
    def num_bytes(self) -> int:
        """Bytes without padding; 0 of tokens and other types without values."""
        return self.size * _BYTES.get(self.kind, 0)


class Instruction(NamedTuple):
    """One line of a computation.

    Attributes:
      name: Unique in the computation.
      shapes: Of the result, those of a tuple one after another.
      opcode: As "all-reduce".
      operands: Names.
      text: What comes after the operands' opening bracket.
      is_root: Whether the computation gives its result.
    """

    name: str
    shapes: tuple[Shape, ...]
    opcode: str
    operands: tuple[str, ...]
    text: str
    is_root: bool

    @property
    def num_bytes(self) -> int:
        """Of the result."""
        return sum(shape.num_bytes for shape in self.shapes)

    def attribute(self, name: str) -> str:
        """What follows `name=`, up to a comma outside brackets; "" without."""
        start = self.text.find(f", {name}=")
        if start < 0:
            return ""
        start += len(name) + 3
        depth = 0
        for end in range(start, len(self.text)):
            depth += (self.text[end] in "{[(") - (self.text[end] in "}])")
            if not depth and self.text[end] == ",":
                return self.text[start:end]
        return self.text[start:]


Computation = dict[str, Instruction]


class Module(NamedTuple):
    """A program: its computations, and the name of the first."""

    computations: dict[str, Computation]
    entry: str


def parse(text: str) -> Module:
    """Reads a compiled program.

    Raises:
      ValueError: If there is no computation to start with.
    """
    computations: dict[str, Computation] = {}
    current: Computation | None = None
    entry = ""
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            current = computations[head[2]] = {}
            entry = head[2] if head[1] else entry
        elif current is not None and (found := _INSTRUCTION.match(line)):
            instruction = _instruction(line, found)
            current[instruction.name] = instruction
    if not entry:
        raise ValueError("not a compiled program: it has no ENTRY computation")
    return Module(computations, entry)


def _instruction(line: str, found: re.Match[str]) -> Instruction:
    rest = line[found.end() :]
    # A tuple's shape is in brackets, and may have brackets of layouts within.
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    opcode = _OPCODE.match(rest, end)
    assert opcode is not None, line
    close = _closing(rest, opcode.end() - 1)
    inside = rest[opcode.end() : close]
    return Instruction(
        name=found[2],
        shapes=tuple(
            Shape(m[1], tuple(map(int, filter(None, m[2].split(",")))), _ON_CHIP in (m[3] or ""))
            for m in _ARRAY.finditer(rest[:end])
        ),
        opcode=opcode[1],
        operands=tuple(_NAME.findall(inside)) if opcode[1] != "constant" else (),
        text=f"{inside}){rest[close + 1 :]}",
        is_root=bool(found[1]),
    )


def _closing(text: str, start: int) -> int:
    depth = 0
    for at in range(start, len(text)):
        depth += (text[at] == "(") - (text[at] == ")")
        if not depth:
            return at
    raise ValueError(f"no closing bracket: {text[:80]}")


def called(instruction: Instruction) -> list[str]:
    """Computations that an instruction runs once: fused ones, calls, asynchronous ones."""
    names = (instruction.attribute(name) for name in ("calls", "to_apply"))
    return [name.strip("%") for name in names if name]


def branches(instruction: Instruction) -> list[str]:
    """Computations of which a conditional runs one."""
    listed = instruction.attribute("branch_computations")
    names = [instruction.attribute(f"{way}_computation") for way in ("true", "false")]
    return _NAME.findall(listed) or [name.strip("%") for name in names if name]


def trip_count(module: Module, caller: Computation, loop: Instruction) -> int | None:
    """Turns of a while loop that counts up from a constant by one; None if they are not known.

    XLA writes the number where it knows it; else the condition must be `counter < constant`, with
    the constant in the condition or among what the loop starts with.
    """
    if known := _TRIPS.search(loop.text):
        return int(known[1])
    condition = module.computations[loop.attribute("condition").strip("%")]
    (root,) = (each for each in condition.values() if each.is_root)
    if root.opcode != "compare" or "direction=LT" not in root.text:
        return None
    start = caller.get(loop.operands[0])
    counter, limit = (_value(condition, start, caller, name) for name in root.operands)
    return None if counter is None or limit is None else max(limit - counter, 0)


def _value(
    condition: Computation, start: Instruction | None, caller: Computation, name: str
) -> int | None:
    """An integer constant, in the condition or in what the loop starts with."""
    instruction = condition[name]
    if instruction.opcode == "get-tuple-element" and start is not None and start.opcode == "tuple":
        place = int(instruction.attribute("index"))
        found = caller.get(start.operands[place])
        while found is not None and found.opcode in ("copy", "bitcast"):
            found = caller.get(found.operands[0])
        if found is None:
            return None
        instruction = found
    if instruction.opcode != "constant":
        return None
    value = instruction.text.partition(")")[0]
    return int(value) if re.fullmatch(r"-?\d+", value) else None
