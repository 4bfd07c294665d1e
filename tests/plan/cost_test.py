"""Costs of compiled programs against hand counts on eight fake devices, and of texts by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from saejax.plan.collectives import collective
from saejax.plan.cost import cost
from saejax.plan.hlo import parse

MB = 1 << 20


def mesh_of(*sizes):
    names = ("a", "b")[: len(sizes)]
    return jax.make_mesh(sizes, names, axis_types=(AxisType.Auto,) * len(sizes))


def cost_of(function, mesh, in_specs, out_specs, *shapes):
    sharded = jax.jit(jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs))
    specs = in_specs if isinstance(in_specs, tuple) else (in_specs,) * len(shapes)
    given = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
        for shape, spec in zip(shapes, specs, strict=True)
    ]
    return cost(sharded.lower(*given).compile().as_text())


def test_a_psum_sends_twice_what_a_device_has_less_its_own_eighth():
    found = cost_of(lambda x: lax.psum(x, "a"), mesh_of(8), P("a"), P(), (8 * MB,))
    (each,) = found.collectives
    assert (each.kind, each.group, each.span, each.count) == ("all-reduce", 8, 7, 1)
    assert each.sent == 2 * 7 / 8 * 4 * MB


def test_a_psum_in_a_scan_counts_as_often_as_it_turns():
    def function(x):
        def body(total, part):
            return total + lax.psum(jnp.sin(part + total[0]), "a"), None

        return lax.scan(body, jnp.zeros(1000), x)[0]

    found = cost_of(function, mesh_of(8), P(None, "a"), P(), (5, 8000))
    (each,) = found.collectives
    assert (each.count, each.sent) == (5, 2 * 7 / 8 * 4000)
    assert found.turns == 5
    assert found.sent == 5 * each.sent


def test_loops_in_loops_multiply():
    def function(x):
        def inner(i, y):
            return lax.psum(jnp.cos(y), "b") * 0.5

        def outer(i, y):
            return lax.fori_loop(0, 7, inner, y) + 1

        return lax.fori_loop(0, 3, outer, x)

    mesh = mesh_of(4, 2)
    sharded = jax.shard_map(function, mesh=mesh, in_specs=P("a"), out_specs=P("a"), check_vma=False)
    x = jax.ShapeDtypeStruct((400,), jnp.float32, sharding=NamedSharding(mesh, P("a")))
    found = cost(jax.jit(sharded).lower(x).compile().as_text())
    assert sum(each.count for each in found.collectives) == 21
    # Over "b", two neighbours: a device sends 2 (2 - 1) / 2 = all of its 100 floats.
    assert {(each.group, each.span, each.sent) for each in found.collectives} == {(2, 1, 400.0)}
    assert found.turns == 3 + 3 * 7


@pytest.mark.parametrize(
    ("function", "kind", "sent"),
    [
        # A device gives 100 floats of 800, seven others get them.
        (lambda x: lax.all_gather(x, "a", tiled=True), "all-gather", 7 * 400),
        (
            lambda x: lax.psum_scatter(jnp.tile(x, 8), "a", tiled=True),
            "reduce-scatter",
            7 / 8 * 3200,
        ),
        (
            lambda x: lax.ppermute(x, "a", [(i, (i + 1) % 8) for i in range(8)]),
            "collective-permute",
            400,
        ),
        (
            lambda x: lax.all_to_all(jnp.tile(x, 8).reshape(8, 100), "a", 0, 0, tiled=True),
            "all-to-all",
            7 / 8 * 3200,
        ),
    ],
)
def test_other_exchanges(function, kind, sent):
    mesh = mesh_of(8)
    sharded = jax.shard_map(function, mesh=mesh, in_specs=P("a"), out_specs=P("a"), check_vma=False)
    x = jax.ShapeDtypeStruct((800,), jnp.float32, sharding=NamedSharding(mesh, P("a")))
    (each,) = cost(jax.jit(sharded).lower(x).compile().as_text()).collectives
    assert (each.kind, each.sent) == (kind, sent)


def test_products_count_two_for_each_sum_in_loops_too():
    def function(x, y):
        return lax.scan(lambda c, _: (c @ y, None), x, None, length=6)[0]

    x, y = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((30, 40), (40, 40)))
    found = cost(jax.jit(function).lower(x, y).compile().as_text())
    assert found.all_flops == 6 * 2 * 30 * 40 * 40
    # XLA counts the loop's body once.
    xla = jax.jit(function).lower(x, y).compile().cost_analysis()["flops"]
    assert xla < found.all_flops / 3


def test_of_rows_that_a_loop_changes_only_those_are_traffic():
    rows = jax.ShapeDtypeStruct((4096, 256), jnp.float32)

    def function(rows):
        def add(i, rows):
            return lax.dynamic_update_slice(
                rows, 2 * lax.dynamic_slice(rows, (i, 0), (1, 256)), (i, 0)
            )

        return lax.fori_loop(0, 1000, add, rows)

    traffic = cost(jax.jit(function, donate_argnums=0).lower(rows).compile().as_text()).traffic
    # A row read and written in each turn, 2 MB; and at most two copies of the whole, 8 MB each.
    assert 1000 * 2 * 1024 <= traffic <= 1000 * 4 * 1024 + 4 * 4 * MB


def test_an_elementwise_program_reads_and_writes_once():
    x = jax.ShapeDtypeStruct((MB,), jnp.float32)
    found = cost(jax.jit(lambda x: jnp.sin(x) * 2 + 1).lower(x).compile().as_text())
    assert found.traffic == 2 * 4 * MB
    assert found.kernels == 1


# As libtpu prints it, layouts and all.
# ruff: noqa: E501
TPU = """HloModule m

%cond (p: (s32[], f32[8,128], s32[])) -> pred[] {
  %p = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)S(1)}, s32[]{:T(128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %n = s32[]{:T(128)} get-tuple-element(%p), index=2
  ROOT %lt = pred[]{:T(512)} compare(%i, %n), direction=LT, metadata={op_name="while/cond/lt"}
}

%body (q: (s32[], f32[8,128], s32[])) -> (s32[], f32[8,128], s32[]) {
  %q = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)S(1)}, s32[]{:T(128)}) parameter(0)
  %j = s32[]{:T(128)} get-tuple-element(%q), index=0
  %x = f32[8,128]{1,0:T(8,128)S(1)} get-tuple-element(%q), index=1
  %m = s32[]{:T(128)} get-tuple-element(%q), index=2
  %sum = f32[8,128]{1,0:T(8,128)S(1)} all-reduce(%x), channel_id=1, replica_groups=[2,4]<=[4,2]T(1,0), use_global_device_ids=true, to_apply=%add, backend_config={"a":{"n":[1,2]}}
  %one = s32[]{:T(128)} constant(1)
  %k = s32[]{:T(128)} add(%j, %one)
  ROOT %t = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)S(1)}, s32[]{:T(128)}) tuple(%k, %sum, %m)
}

ENTRY %main (a: f32[8,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %zero = s32[]{:T(128)} constant(0)
  %copy = s32[]{:T(128)} copy(%zero)
  %limit = s32[]{:T(128)} constant(11)
  %start = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)S(1)}, s32[]{:T(128)}) tuple(%copy, %a, %limit)
  %loop = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)S(1)}, s32[]{:T(128)}) while(%start), condition=%cond, body=%body
  ROOT %out = f32[8,128]{1,0:T(8,128)S(1)} get-tuple-element(%loop), index=1
}
"""


def test_a_tpu_loop_whose_limit_is_among_what_it_starts_with():
    found = cost(TPU)
    assert (found.turns, found.unknown_loops) == (11, 0)
    (each,) = found.collectives
    # [2,4]<=[4,2]T(1,0): {0,2,4,6}, {1,3,5,7}.
    assert (each.group, each.span, each.count, each.sent) == (4, 6, 11, 2 * 3 / 4 * 4096)


def test_a_loop_that_does_not_tell_counts_once():
    found = cost(TPU.replace("constant(11)", "parameter(1)"))
    assert (found.turns, found.unknown_loops) == (1, 1)
    assert cost(TPU.replace("direction=LT", "direction=NE")).unknown_loops == 1


@pytest.mark.parametrize(
    ("labels", "left", "kernel", "out", "window", "flops"),
    [
        # A product of two matrices, [4, 16] x [32, 16].
        ("bf_oi->bf", "4,16", "32,16", "4,32", "", 2 * 4 * 16 * 32),
        # A stack of 6 products [4, 16] x [32, 16]: the axis 0 meets itself in 6 places of 36.
        (
            *("0bf_0oi->0bf", "6,4,16", "6,32,16", "6,4,32"),
            *("size=6 stride=5 lhs_dilate=6", 6 * 2 * 4 * 16 * 32),
        ),
        # An axis that the kernel sums over.
        ("b0f_0io->b0f", "4,7,16", "7,16,32", "4,1,32", "size=7", 2 * 4 * 7 * 16 * 32),
        # The sides of an image of 5 pixels, one of padding around, a kernel of 3.
        ("b0f_0io->b0f", "1,5,1", "3,1,1", "1,5,1", "size=3 pad=1_1", 2 * (3 * 5 - 2)),
    ],
)
def test_convolutions_count_where_the_kernel_meets_the_input(
    labels, left, kernel, out, window, flops
):
    text = f"""ENTRY %main (a: f32[{left}], b: f32[{kernel}]) -> f32[{out}] {{
  %a = bf16[{left}]{{0}} parameter(0)
  %b = bf16[{kernel}]{{0}} parameter(1)
  ROOT %c = f32[{out}]{{0}} convolution(%a, %b), window={{{window}}}, dim_labels={labels}
}}"""
    assert cost(text).flops == {"bfloat16": flops}


def test_numbers_of_groups_are_read_in_both_ways():
    text = (
        "ENTRY %e (a: f32[4]) -> f32[4] {\n  %a = f32[4]{0} parameter(0)\n"
        "  ROOT %s = f32[4]{0} all-reduce(%a), replica_groups=GROUPS, to_apply=%add\n}"
    )

    def read(groups):
        module = parse(text.replace("GROUPS", groups))
        own = module.computations[module.entry]
        found = collective(own, own["s"])
        return found and (found.group, found.span)

    assert read("{{0,1,2,3},{4,5,6,7}}") == read("[2,4]<=[8]") == (4, 3)
    assert read("{{0,4},{1,5},{2,6},{3,7}}") == read("[4,2]<=[2,4]T(1,0)") == (2, 4)
    assert read("{{0},{1}}") is None
    devices = np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1).reshape(4, 6)
    span = (devices.max(axis=1) - devices.min(axis=1)).max()
    assert read("[4,6]<=[2,3,4]T(2,0,1)") == (6, span)


def test_no_program():
    with pytest.raises(ValueError, match="no ENTRY"):
        parse("nothing")
