"""The batch loss over two processes equals the one over a single process."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from tiny import side_by_side, tiny_recipe

from segnb.losses import distributed, paper
from segnb.losses.tiled import operators
from segnb.training import contrastive_step

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


class _Embedding(torch.nn.Module):
    """A network without BatchNorm: an image's embedding does not depend on the others'."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = torch.nn.Conv2d(3, 8, 4, stride=4, dtype=torch.float64)

    def forward(self, images: torch.Tensor, size: tuple[int, int] | None) -> torch.Tensor:
        maps = F.adaptive_avg_pool2d(self.convolution(images.double()), size or (4, 4))
        return F.normalize(maps, dim=1)


def _step_gradient(network: torch.nn.Module, part: slice, form: str, scope: str) -> torch.Tensor:
    """Gradient of a step of stage 1 on a part of a batch of four, without distortion."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(4, 3, 32, 32, generator=generator)
    masks = torch.randint(0, 3, (4, 32, 32), generator=generator)
    masks[:, :3] = 255
    recipe = tiny_recipe(form=form, scope=scope, distortion=0.0, loss_size=(4, 4), temperature=0.5)
    loss = contrastive_step(network, images[part], masks[part], recipe, generator=generator)
    loss.backward()
    gradients = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    return torch.cat(gradients)


def _training_process(rank: int, file: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    found = {}
    for form, scope in STEPS:
        network = torch.nn.parallel.DistributedDataParallel(_Embedding())
        with pytest.MonkeyPatch.context() as patch:
            if scope != "batch":
                patch.setattr(distributed, "_gather_own_first", None)
            mine = slice(2 * rank, 2 * rank + 2)
            found[form, scope] = _step_gradient(network, mine, form, scope)
    torch.save(found, f"{file}.{rank}")
    dist.destroy_process_group()


#: Losses of a step that pair no images at random, so that one process draws no other pairs.
STEPS = [("paper", "batch"), ("paper", "within"), ("official", "within")]


def test_a_step_on_two_processes_has_the_gradient_of_the_whole_batch(tmp_path):
    file = str(tmp_path / "meeting")
    side_by_side(_training_process, *((rank, file) for rank in (0, 1)))
    parts = [torch.load(f"{file}.{rank}") for rank in (0, 1)]
    for form, scope in STEPS:
        expected = _step_gradient(_Embedding(), slice(0, 4), form, scope)
        for part in parts:
            error = (part[form, scope] - expected).norm()
            assert error < 1e-5 * expected.norm(), (form, scope)
