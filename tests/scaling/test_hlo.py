"""What is counted in a compiled program's text, on texts small enough to count by hand."""

# ruff: noqa: E501 (an instruction of the text is one line)

from __future__ import annotations

import textwrap

import jax
import jax.numpy as jnp
import pytest

from groot_jax.scaling.chips import CHIPS, Slice
from groot_jax.scaling.cost import Cost, Part, cost_of
from groot_jax.scaling.hlo import Program
from groot_jax.scaling.roofline import estimate, profile
from tests.scaling.support import collectives_in_loops


def program(text: str) -> Program:
    return Program(textwrap.dedent(text))


def cost_in(text: str) -> Cost:
    return cost_of(program(text))


def test_collectives_are_counted_once_with_the_larger_of_operand_and_result() -> None:
    cost = cost_in("""
        HloModule m, num_partitions=8

        ENTRY %main (p: f32[16,128]) -> f32[128,128] {
          %p = f32[16,128]{1,0} parameter(0)
          %ag = (f32[16,128]{1,0}, f32[128,128]{1,0}) all-gather-start(%p), channel_id=1, replica_groups=[1,8]<=[8], dimensions={0}
          %agd = f32[128,128]{1,0} all-gather-done(%ag)
          %ar = f32[128,128]{1,0} all-reduce(%agd), channel_id=2, replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
          %rs = f32[16,128]{1,0} reduce-scatter(%ar), channel_id=3, replica_groups=mesh['a'=2,'b'=4] {'b'}, dimensions={0}
          %one = f32[16,128]{1,0} all-reduce(%rs), channel_id=4, replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}, to_apply=%add
          ROOT %cp = f32[16,128]{1,0} collective-permute(%one), channel_id=5, source_target_pairs={{0,1},{1,0}}
        }
    """)
    whole, part = 4 * 128 * 128, 4 * 16 * 128
    assert cost.collectives == {
        "all-gather": (1, whole),
        "all-reduce": (1, whole),
        "reduce-scatter": (1, whole),
        "collective-permute": (1, part),
    }
    groups = [(kind, group, hidden) for kind, _, group, _, hidden in cost.transfers]
    assert groups == [
        ("all-gather", 8, True),
        ("all-reduce", 2, False),
        ("reduce-scatter", 4, False),
        ("collective-permute", 2, False),
    ]


LOOP = """
    HloModule m, num_partitions=4

    %body (t: (s32[], f32[8,8])) -> (s32[], f32[8,8]) {
      %t = (s32[], f32[8,8]) parameter(0)
      %i = s32[] get-tuple-element(%t), index=0
      %x = f32[8,8]{1,0} get-tuple-element(%t), index=1
      %dot = f32[8,8]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
      %r = f32[8,8]{1,0} all-reduce(%dot), channel_id=1, replica_groups=[1,4]<=[4], to_apply=%add
      ROOT %out = (s32[], f32[8,8]) tuple(%i, %r)
    }

    %cond (t.1: (s32[], f32[8,8])) -> pred[] {
      %t.1 = (s32[], f32[8,8]) parameter(0)
      %i.1 = s32[] get-tuple-element(%t.1), index=0
      ROOT %less = pred[] compare(%i.1, %i.1), direction=LT
    }

    %scan (t.2: (s32[], f32[8,8])) -> pred[] {
      %three = s32[] constant(3)
      %t.2 = (s32[], f32[8,8]) parameter(0)
      %i.2 = s32[] get-tuple-element(%t.2), index=0
      ROOT %less.1 = pred[] compare(%i.2, %three), direction=LT
    }

    ENTRY %main (p: (s32[], f32[8,8])) -> (s32[], f32[8,8]) {
      %p = (s32[], f32[8,8]) parameter(0)
      %first = (s32[], f32[8,8]) while(%p), condition=%cond, body=%body
      %scanned = (s32[], f32[8,8]) while(%first), condition=%scan, body=%body
      ROOT %second = (s32[], f32[8,8]) while(%scanned), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"5"}}
    }
"""


def test_a_loop_counts_as_often_as_it_turns() -> None:
    loops = program(LOOP)
    assert [loop.name for loop in loops.loops()] == ["first"]
    assert cost_of(loops).flops == (1 + 3 + 5) * 2 * 8 * 8 * 8
    assert cost_of(loops, (7,)).flops == (7 + 3 + 5) * 2 * 8 * 8 * 8
    assert cost_of(loops, (7,)).collectives == {"all-reduce": (15, 15 * 4 * 8 * 8)}
    assert [(role, i.opcode) for role, i in collectives_in_loops(loops)] == 3 * [
        ("body", "all-reduce")
    ]


def test_a_gather_drawn_out_over_fusions_is_one_and_hidden_behind_them() -> None:
    cost = cost_in("""
        HloModule m, num_partitions=4

        %start (a: bf16[8,8]) -> bf16[32,8] {
          %a = bf16[8,8]{1,0} parameter(0)
          ROOT %g = bf16[32,8]{1,0} all-gather(%a), channel_id=3, replica_groups=[1,4]<=[4], backend_config={"async_collective_fusion_config":{}}
        }

        %middle (b: bf16[8,8]) -> bf16[32,8] {
          %b = bf16[8,8]{1,0} parameter(0)
          ROOT %h = bf16[32,8]{1,0} all-gather(%b), channel_id=3, replica_groups=[1,4]<=[4], backend_config={"async_collective_fusion_config":{}}
        }

        %all-reduce-scatter.1 (c: bf16[32,8]) -> bf16[8,8] {
          %c = bf16[32,8]{1,0} parameter(0)
          %s = bf16[32,8]{1,0} all-reduce(%c), channel_id=4, replica_groups=[1,4]<=[4], to_apply=%add
          ROOT %d = bf16[8,8]{1,0} dynamic-slice(%s), dynamic_slice_sizes={8,8}
        }

        ENTRY %main (p: bf16[8,8]) -> bf16[8,8] {
          %p = bf16[8,8]{1,0} parameter(0)
          %f = bf16[32,8]{1,0} fusion(%p), kind=kOutput, calls=%start
          %f.1 = bf16[32,8]{1,0} fusion(%p), kind=kOutput, calls=%middle
          ROOT %f.2 = bf16[8,8]{1,0} fusion(%f.1), kind=kCustom, calls=%all-reduce-scatter.1
        }
    """)
    assert cost.collectives == {"all-gather": (1, 512), "reduce-scatter": (1, 512)}
    assert [hidden for *_, hidden in cost.transfers] == [True, False]


@pytest.mark.parametrize(
    ("left", "right", "out", "window"),
    [
        # Each pair of matrices meets once: no padding, or one input that the window slides over.
        (
            "[4,8,16]",
            "[4,16,32]",
            "[4,8,32]",
            "{size=4 stride=3 lhs_dilate=4}, dim_labels=0bf_0io->0bf",
        ),
        (
            "[8,16,1]",
            "[4,32,16]",
            "[8,4,32]",
            "{size=4 pad=3_3 rhs_reversal=1}, dim_labels=bf0_0oi->b0f",
        ),
    ],
)
def test_products_as_a_tpu_writes_them(left: str, right: str, out: str, window: str) -> None:
    """A batched product is a convolution whose window meets each batch once."""
    cost = cost_in(f"""
        HloModule m

        ENTRY %main (a: bf16{left}, b: bf16{right}) -> bf16{out} {{
          %a = bf16{left}{{2,1,0}} parameter(0)
          %b = bf16{right}{{2,1,0}} parameter(1)
          ROOT %c = bf16{out}{{2,1,0}} convolution(%a, %b), window={window}
        }}
    """)
    assert cost.flops == 2 * 4 * 8 * 16 * 32


def test_traffic_leaves_out_what_stays_on_the_chip_and_counts_the_padding_of_tiles() -> None:
    cost = cost_in("""
        HloModule m

        %slice (t: f32[1000,128], i: s32[]) -> f32[1,128] {
          %t = f32[1000,128]{1,0} parameter(0)
          %i = s32[] parameter(1)
          ROOT %row = f32[1,128]{1,0} dynamic-slice(%t, %i, %i), dynamic_slice_sizes={1,128}
        }

        ENTRY %main (p: f32[8,64], t: f32[1000,128], i: s32[]) -> f32[8,64] {
          %p = f32[8,64]{1,0:T(8,128)} parameter(0)
          %t = f32[1000,128]{1,0:T(8,128)} parameter(1)
          %i = s32[]{:T(128)S(6)} parameter(2)
          %near = f32[8,64]{1,0:T(8,128)S(1)} copy(%p)
          %row = f32[1,128]{1,0:T(8,128)S(1)} fusion(%t, %i), kind=kLoop, calls=%slice
          ROOT %far = f32[8,64]{1,0:T(8,128)} add(%near, %near)
        }
    """)
    padded = 4 * 8 * 128
    assert cost.hbm_bytes == padded + 4 * 128 + padded  # read once, a row, written once


def test_the_count_of_a_real_program_is_the_compilers() -> None:
    def f(x, w):
        for _ in range(3):
            x = jnp.tanh(x @ w)
        return x

    compiled = jax.jit(f).lower(jnp.ones((32, 64)), jnp.ones((64, 64))).compile()
    assert cost_of(Program(compiled.as_text() or "")).flops == 3 * 2 * 32 * 64 * 64


def test_the_roofline_takes_the_longer_of_products_and_memory_and_adds_what_is_not_hidden() -> None:
    chip = CHIPS["v5e"]
    tpu_slice = Slice(chip, (4, 4))
    products, memory = chip.flops, chip.hbm_rate
    cost = Cost(
        parts=[
            Part(products, memory / 2, 2.0, "fusion", "step/block.0/wi/dot"),
            Part(0.0, 1.5 * memory, 1.0, "fusion", "step/block.0/add"),
            Part(0.0, 1.5 * memory, 1.0, "fusion", "step/block.12/add"),
        ]
    )
    whole = estimate(cost, tpu_slice)
    assert whole.seconds == pytest.approx(5.0)
    assert whole.bound_by == "hbm"
    # The same place in two layers is one line of the profile.
    listed = profile(cost, chip, 9)
    assert [(item.source, item.times) for item in listed] == [
        ("step/block.*/add (fusion)", 2.0),
        ("step/block.*/wi/dot (fusion)", 2.0),
    ]
    assert [item.seconds for item in listed] == pytest.approx([3.0, 2.0])
    assert listed[0].hbm_bytes == 3 * memory and listed[1].flops == 2 * products
    assert len(profile(cost, chip, 1)) == 1
    rate = tpu_slice.collective_rate(16)
    assert rate == 2 * chip.link_rate  # Four a side: no ring.
    cost.transfers = [("all-gather", rate * 16 / 15, 16, 4.0, True)]
    assert estimate(cost, tpu_slice).seconds == pytest.approx(5.0)
    cost.transfers.append(("all-reduce", rate * 16 / 15, 16, 3.0, False))
    assert estimate(cost, tpu_slice).seconds == pytest.approx(11.0)
    assert estimate(cost, tpu_slice).bound_by == "ici"


def test_a_copy_hides_behind_what_runs_until_it_is_waited_for() -> None:
    chip = CHIPS["v5e"]
    tpu_slice = Slice(chip, (4, 4))
    products, memory = chip.flops, chip.hbm_rate

    def seconds(*parts: tuple[float, float, float, int]) -> tuple[float, float, float]:
        """(seconds, of products, of memory); each part: seconds of either, times, until."""
        found = [
            Part(flops * products, moved * memory, times, "fusion", "x", until)
            for flops, moved, times, until in parts
        ]
        whole = estimate(Cost(parts=found), tpu_slice)
        return whole.seconds, whole.flops_seconds, whole.hbm_seconds

    # Products of 3 s that read for 1 s leave 2 s of a copy of 5 s: 3 are waited for.
    assert seconds((0, 5, 1, 2), (3, 1, 1, 0), (1, 0, 1, 0)) == pytest.approx((7, 4, 3))
    # Where it is needed later it has the whole of what comes before; memory itself leaves nothing.
    assert seconds((0, 5, 1, 3), (3, 1, 1, 0), (1, 0, 1, 0), (1, 0, 1, 0)) == pytest.approx(
        (7, 5, 2)
    )
    assert seconds((0, 2, 1, 2), (0, 3, 1, 0), (4, 0, 1, 0)) == pytest.approx((9, 4, 5))
    # Of two under way the one needed first goes first, in the order of their start or not.
    for first, second in ((3, 4), (4, 3)):
        parts = (0, 2, 1, first), (0, 2, 1, second), (2, 0, 1, 0), (2, 0, 1, 0)
        assert seconds(*parts) == pytest.approx((4, 4, 0))
    # What nobody waits for has to be done in the end; loops leave as much as they turn.
    assert seconds((0, 2, 1, 9), (1, 0, 1, 0)) == pytest.approx((2, 1, 1))
    assert seconds((0, 6, 1, 2), (1, 0, 5, 0)) == pytest.approx((6, 5, 1))


def test_what_a_copy_runs_beside_is_read_off_the_program() -> None:
    cost = cost_in("""
        HloModule m

        ENTRY %main (w: bf16[8,128], x: bf16[8,8]) -> bf16[8,128] {
          %w = bf16[8,128]{1,0} parameter(0)
          %x = bf16[8,8]{1,0} parameter(1)
          %start = (bf16[8,128]{1,0:S(1)}, bf16[8,128]{1,0}, u32[]{:S(2)}) copy-start(%w)
          %y = bf16[8,8]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
          %done = bf16[8,128]{1,0:S(1)} copy-done(%start)
          %alone = bf16[8,8]{1,0} copy(%y)
          ROOT %z = bf16[8,128]{1,0} dot(%alone, %done), lhs_contracting_dims={1}, rhs_contracting_dims={0}
        }
    """)
    assert [(part.opcode, part.until) for part in cost.parts] == [
        ("copy-start", 2),
        ("dot", 0),
        ("copy", 0),
        ("dot", 0),
    ]


def test_rings_have_two_links() -> None:
    assert Slice(CHIPS["v5e"], (16, 16)).collective_rate(16) == 2 * 50e9
    assert Slice(CHIPS["v5e"], (16, 16)).collective_rate(256) == 4 * 50e9
    assert Slice(CHIPS["v5p"], (8, 8, 8)).collective_rate(512) == 6 * 100e9
    assert Slice(CHIPS["v5e"], (2, 2)).collective_rate(4) == 2 * 50e9
