"""FLOPs of the matrix products in a compiled program, two for a multiplication and an addition."""

import math

from saejax.plan.hlo import Computation, Instruction, Shape


def product(own: Computation, each: Instruction) -> tuple[str, float] | None:
    """The type and FLOPs of a product, None of other instructions.

    The type is "float32", "bfloat16", or "exact" for float32 with all bits; that of the factors.
    """
    if each.opcode == "dot":
        left = own[each.operands[0]].shapes[0]
        summed = [int(d) for d in each.attribute("lhs_contracting_dims").strip("{}").split(",")]
        count = each.shapes[0].size * math.prod(left.dims[axis] for axis in summed)
    elif each.opcode == "convolution":
        left, kernel = (own[name].shapes[0] for name in each.operands[:2])
        count = _products(each, left, kernel)
    else:
        return None
    kind = "float32" if left.kind in ("f32", "f64") else "bfloat16"
    if kind == "float32" and "operand_precision={highest" in each.text:
        kind = "exact"
    return kind, 2.0 * count


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

    return (
        numbers("stride", 1),
        numbers("pad", 0),
        numbers("lhs_dilate", 1),
        numbers("rhs_dilate", 1),
    )


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
