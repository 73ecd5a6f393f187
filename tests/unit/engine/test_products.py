"""Inner products are those of whole vectors in float64, however the parameters are cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from _ranks import run_ranks
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor, init_device_mesh
from torch.testing import assert_close

from lightning_unlearn.engine import inner_products
from lightning_unlearn.functional import step as step_file

SHAPES = [(3, 4), (), (7,), (1, 2, 5), (0, 3)]


def rows_of(shapes: list[tuple[int, ...]], m: int = 3, dtype: torch.dtype = torch.float32) -> list[list[Tensor | None]]:
    generator = torch.Generator().manual_seed(0)
    return [[torch.randn(shape, generator=generator).to(dtype) for shape in shapes] for _ in range(m)]


def by_numpy(rows: list[list[Tensor | None]], shapes: list[tuple[int, ...]]) -> np.ndarray:
    """One long float64 vector each."""
    filled = [
        [np.zeros(s) if t is None else t.double().numpy() for t, s in zip(row, shapes, strict=True)] for row in rows
    ]
    long = np.stack([np.concatenate([part.ravel() for part in row]) for row in filled])
    return np.einsum("ik,jk->ij", long, long)


@pytest.mark.parametrize("block", [1, 5, 6, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_long_vectors_at_every_block_boundary(
    block: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(step_file._BLOCK, "cpu", block)
    rows = rows_of(SHAPES, dtype=dtype)
    got = inner_products(rows, [torch.zeros(s) for s in SHAPES])
    assert got.dtype == torch.float64
    assert_close(got.numpy(), by_numpy(rows, SHAPES), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("absent", [[(0, 0)], [(0, 1), (1, 1), (2, 1)], [(i, j) for i in range(3) for j in range(5)]])
def test_missing_gradients_count_as_zero(absent: list[tuple[int, int]]) -> None:
    rows = rows_of(SHAPES)
    for i, j in absent:
        rows[i][j] = None
    got = inner_products(rows, [torch.zeros(s) for s in SHAPES])
    assert_close(got.numpy(), by_numpy(rows, SHAPES), rtol=1e-12, atol=1e-12)


def test_memory_layout_does_not_matter() -> None:
    a, b = torch.randn(4, 3), torch.randn(4, 3)
    got = inner_products([[a], [b.T.contiguous().T]], [a])
    assert_close(got[0, 1], (a.double() * b.double()).sum())


def test_small_differences_of_long_vectors_survive() -> None:
    """In float32 the two would be parallel."""
    a = torch.full((100_000,), 1.0)
    b = a.clone()
    b[::2] += 2**-12
    gramian = inner_products([[a], [b]], [a])
    sine = 1 - gramian[0, 1] ** 2 / (gramian[0, 0] * gramian[1, 1])
    assert sine.item() == pytest.approx(2.0**-26, rel=1e-3)


def test_sharded_replicated_and_plain_parameters_together_equal_whole_vectors() -> None:
    """Three rows on two ranks are uneven; one row leaves rank 1 with nothing."""
    shapes = [(3, 4), (1, 4), (5, 3), (2, 2), (4,)]
    placements = [[Shard(0)], [Shard(0)], [Shard(1)], [Replicate()], None]

    def on_rank(rank: int, world_size: int) -> Any:
        dist.init_process_group("gloo")
        mesh = init_device_mesh("cpu", (world_size,))

        def cut(tensors: list[Any]) -> list[Any]:
            return [
                t if t is None or where is None else distribute_tensor(t, mesh, where)
                for t, where in zip(tensors, placements, strict=True)
            ]

        rows = rows_of(shapes)
        rows[1][0] = rows[2][4] = None
        return inner_products([cut(row) for row in rows], cut([torch.zeros(s) for s in shapes]))

    rows = rows_of(shapes)
    rows[1][0] = rows[2][4] = None
    for got in run_ranks(on_rank):
        assert_close(got.numpy(), by_numpy(rows, shapes), rtol=1e-12, atol=1e-12)


def test_hybrid_shards_are_summed_over_the_sharded_dimension_only() -> None:
    def on_rank(rank: int, world_size: int) -> Any:
        dist.init_process_group("gloo")
        mesh = init_device_mesh("cpu", (1, world_size), mesh_dim_names=("replicas", "shards"))
        a, b = (distribute_tensor(t, mesh, [Replicate(), Shard(0)]) for (t,) in rows_of([(5, 2)], m=2))
        return inner_products([[a], [b]], [a])

    for got in run_ranks(on_rank):
        assert_close(got.numpy(), by_numpy(rows_of([(5, 2)], m=2), [(5, 2)]), rtol=1e-12, atol=1e-12)


def test_flat_shards_are_summed_over_their_group() -> None:
    """FSDP1: a rank's piece may be empty, or have no gradient."""

    def on_rank(rank: int, world_size: int) -> Any:
        dist.init_process_group("gloo")
        whole = [row[0] for row in rows_of([(7,)], m=2)]
        pieces = [t[:7] if rank == 0 else t[7:] for t in whole]
        extra = [torch.ones(2), torch.ones(2)] if rank == 1 else [None, None]
        return inner_products(
            [list(row) for row in zip(pieces, extra, strict=True)], [pieces[0], torch.ones(2)], dist.group.WORLD
        )

    rows = [[*row, torch.ones(2)] for row in rows_of([(7,)], m=2)]
    for got in run_ranks(on_rank):
        assert_close(got.numpy(), by_numpy(rows, [(7,), (2,)]), rtol=1e-12, atol=1e-12)


def test_partial_parameters_are_refused() -> None:
    def on_rank(rank: int, world_size: int) -> Any:
        dist.init_process_group("gloo")
        mesh = init_device_mesh("cpu", (world_size,))
        partial = DTensor.from_local(torch.ones(2), mesh, [Partial()])
        with pytest.raises(NotImplementedError, match=r"sharded or replicated\. Found `placements = \(Partial\(sum\)"):
            inner_products([[partial]], [partial])

    run_ranks(on_rank)
