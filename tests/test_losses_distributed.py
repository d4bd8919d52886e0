"""The batch loss over two processes equals the one over a single process."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from tiny import side_by_side

from segnb.losses import distributed, paper
from segnb.losses.tiled import operators

pytest_plugins = ["tiny"]
pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")


def _batch(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    features = F.normalize(torch.randn(4, 190, 12, generator=generator), dim=2).to(dtype)
    labels = torch.randint(0, 4, (4, 190), generator=generator)
    labels = labels.masked_fill(torch.rand(4, 190, generator=generator) < 0.2, 255)
    labels[0, :3] = torch.tensor([100, 101, 102])  # without a positive anywhere
    return features, labels


def _process(rank: int, file: str, dtype: torch.dtype, like_gpu: bool) -> None:
    torch.set_num_threads(1)
    if like_gpu:
        operators.knows_labels = lambda labels: False
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    features, labels = _batch(dtype)
    mine = slice(2 * rank, 2 * rank + 2)
    own = features[mine].clone().requires_grad_()
    loss = distributed.batch_loss(own, labels[mine], temperature=0.1)
    loss.backward()
    torch.save((loss.detach(), own.grad / 2), f"{file}.{rank}")
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("dtype", "like_gpu", "bound"),
    [
        (torch.float32, False, 1e-6),
        (torch.float64, True, 1e-12),
        (torch.bfloat16, False, 2e-3),
    ],
)
def test_two_processes_equal_one(tmp_path, dtype, like_gpu, bound):
    file = str(tmp_path / "meeting")
    side_by_side(_process, *((rank, file, dtype, like_gpu) for rank in (0, 1)))

    features, labels = _batch(dtype)
    alone = features.double().requires_grad_()
    expected = paper.batch_loss(alone, labels, temperature=0.1, backend="plain")
    expected.backward()
    parts = [torch.load(f"{file}.{rank}") for rank in range(2)]
    for loss, _ in parts:
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    gradient = torch.cat([part for _, part in parts]).double()
    assert (gradient - alone.grad).norm() < bound * alone.grad.norm()
