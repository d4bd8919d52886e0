"""The network: what goes in, what comes out, which part a stage may change."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
import torch._dynamo  # torch 2.6 imports it at the first use, which fails on meta
from tiny import tiny_recipe
from torch import nn

from segnb import datasets, models
from segnb.errors import ConfigError
from segnb.methods import KINDS
from segnb.models import (
    PROJECTION_CHANNELS,
    PixelClassifier,
    ProjectionHead,
    SegmentationNetwork,
    build_network,
    count_parameters,
    freeze_backbone,
    freeze_statistics,
)
from segnb.recipe import Recipe, Tier, preset

pytest_plugins = ["tiny"]
pytestmark = pytest.mark.usefixtures("one_thread")


def on_meta(recipe: Recipe) -> SegmentationNetwork:
    """Shapes alone: no weights are drawn, nothing is computed."""
    with torch.device("meta"):
        return build_network(recipe)


@pytest.mark.parametrize("tier", get_args(Tier))
def test_every_preset_can_be_built_and_fits_its_images(tier: Tier) -> None:
    seen = set()
    for dataset in datasets.names():
        recipe = preset(dataset, tier)
        network = on_meta(recipe)
        network.attach_projection()
        for height, width in {recipe.crop, recipe.size} - seen:
            seen.add((height, width))
            features = network.features(torch.empty(2, 3, height, width, device="meta"))
            # DeepLabV3+ joins the encoder's stride 4 to what it sees at the output stride.
            stride = 4 if recipe.architecture == "DeepLabV3Plus" else recipe.output_stride
            expected = (-(-height // stride), -(-width // stride))
            assert features.shape == (2, recipe.decoder_channels, *expected)
            embeddings = network.head(features, recipe.loss_size)
            assert embeddings.shape == (2, PROJECTION_CHANNELS, *(recipe.loss_size or expected))


@pytest.mark.parametrize(
    "architecture",
    [
        "Unet",
        "UnetPlusPlus",
        "MAnet",
        "Linknet",
        "FPN",
        "PSPNet",
        "DeepLabV3Plus",
        "PAN",
        "UPerNet",
    ],
)
@pytest.mark.parametrize("depth", [4, 5])
def test_other_architectures_give_features_for_both_heads(architecture: str, depth: int) -> None:
    recipe = tiny_recipe(
        architecture=architecture,
        encoder="resnet18",
        encoder_depth=depth,
        output_stride=16,
        size=(128, 128),
        crop=(128, 128),
    )
    network = on_meta(recipe)
    images = torch.empty(2, 3, 128, 128, device="meta")
    assert network.features(images).shape[:2] == (2, network.feature_channels)
    network.attach_projection()
    assert network(images).shape[1] == PROJECTION_CHANNELS
    network.attach_classifier(7)
    assert network(images, (128, 128)).shape == (2, 7, 128, 128)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "Alexnet"}, ["'Alexnet'", "DeepLabV3"]),
        ({"encoder": "resnet19"}, ["DeepLabV3", "'resnet19'"]),
        (
            {"architecture": "FPN", "encoder": "resnet18", "crop": (40, 64)},
            ["crop is (40, 64)", "try (64, 64)"],
        ),
    ],
)
def test_what_cannot_be_built_is_named(changes: dict[str, Any], words: list[str]) -> None:
    recipe = Recipe(encoder_depth=5, size=(64, 64), crop=(64, 64)).replace(**changes)
    with pytest.raises(ConfigError) as caught:
        on_meta(recipe)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("encoder", ["tu-resnet18", "resnet18"])
def test_weights_that_cannot_be_fetched(
    encoder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="can't be fetched") as caught:
        build_network(tiny_recipe(encoder=encoder, encoder_depth=5, encoder_weights="imagenet"))
    assert encoder in str(caught.value)
    assert "encoder_weights None" in str(caught.value)


@pytest.fixture(scope="module")
def network() -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network(tiny_recipe())


IMAGES = torch.randn(3, 3, 32, 40, generator=torch.Generator().manual_seed(1))


def test_projections_have_unit_length(network: SegmentationNetwork) -> None:
    network.attach_projection()
    for size in (None, (5, 7)):
        embeddings = network.eval()(IMAGES, size)
        assert embeddings.shape == (3, PROJECTION_CHANNELS, *(size or (4, 5)))
        norms = embeddings.norm(dim=1)
        torch.testing.assert_close(norms, torch.ones_like(norms))
        assert embeddings.dtype == torch.float32


def test_the_projection_head_is_the_papers() -> None:
    layers = ProjectionHead(16).layers
    convolutions = [one for one in layers if isinstance(one, nn.Conv2d)]
    assert [one.in_channels for one in convolutions] == [16, 256, 256]
    assert all(one.out_channels == 256 and one.kernel_size == (1, 1) for one in convolutions)
    assert [type(one) for one in layers].count(nn.ReLU) == 2
    assert isinstance(layers[-1], nn.Conv2d)  # no ReLU on the embedding


def test_heads_are_exchanged_and_the_features_stay(network: SegmentationNetwork) -> None:
    network.eval()
    network.attach_projection()
    before = network.features(IMAGES)
    network.attach_classifier(5)
    assert isinstance(network.head, PixelClassifier)
    assert not any("layers" in name for name in network.head.state_dict())
    torch.testing.assert_close(network.features(IMAGES), before, rtol=0, atol=0)
    assert network(IMAGES, (32, 40)).shape == (3, 5, 32, 40)
    assert network(IMAGES).shape == (3, 5, 4, 5)


def test_the_classifier_keeps_corners_where_they_are() -> None:
    head = PixelClassifier(1, 1)
    nn.init.ones_(head.scores.weight)
    nn.init.zeros_(head.scores.bias)
    features = torch.arange(6.0).reshape(1, 1, 2, 3)
    scores = head(features, (7, 11))
    corners = scores[0, 0, [0, 0, -1, -1], [0, -1, 0, -1]]
    torch.testing.assert_close(corners, torch.tensor([0.0, 2.0, 3.0, 5.0]))


def test_the_same_seed_gives_the_same_backbone_whatever_the_method() -> None:
    from segnb.experiments.runs import initial_network

    networks = [initial_network(tiny_recipe(method)) for method in KINDS]
    first = networks[0].state_dict()
    for other in networks[1:]:
        state = other.state_dict()
        assert state.keys() == first.keys()
        assert all(torch.equal(first[name], state[name]) for name in first)
    another = initial_network(tiny_recipe(seed=1)).state_dict()
    assert any(not torch.equal(first[name], another[name]) for name in first)


def test_a_frozen_backbone_leaves_the_head_alone_to_train() -> None:
    network = build_network(tiny_recipe())
    network.attach_classifier(4)
    network.train()
    freeze_backbone(network)
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert trained == {"head.scores.weight", "head.scores.bias"}
    assert count_parameters(network) == 4 * 16 + 4
    assert not any(module.training for module in network.backbone.modules())
    assert network.head.training


def test_frozen_statistics_leave_every_weight_to_train() -> None:
    network = build_network(tiny_recipe())
    network.attach_classifier(4)
    network.train()
    trained = count_parameters(network)
    freeze_statistics(network)
    assert count_parameters(network) == trained
    layers = [m for m in network.backbone.modules() if hasattr(m, "running_mean")]
    assert len(layers) > 10
    assert not any(layer.training for layer in layers)
    assert all(m.training for m in network.modules() if isinstance(m, torch.nn.Dropout))


def test_a_network_without_statistics_has_none_to_freeze() -> None:
    changes = {
        **{"architecture": "FPN", "encoder": "mit_b0", "encoder_depth": 5},
        **{"size": (64, 64), "crop": (64, 64)},
    }
    build_network(tiny_recipe(**changes))
    with pytest.raises(ConfigError, match="'mit_b0' has no BatchNorm layers"):
        build_network(tiny_recipe(freeze_statistics=True, **changes))


def test_every_smp_architecture_is_offered() -> None:
    with pytest.raises(ConfigError) as caught:
        build_network(tiny_recipe(architecture="?"))
    for name in ("Unet", "FPN", "PSPNet", "Segformer", "DeepLabV3"):
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("architecture", "encoder", "depth", "words"),
    [
        ("DPT", "tu-vit_tiny_patch16_224", 4, "DPT"),
        ("FPN", "tu-convnext_atto", 4, "FPN with encoder 'tu-convnext_atto'"),
        ("PAN", "resnet18", 5, r"can't take images of crop \(64, 64\).*larger crop"),
    ],
)
def test_parts_that_do_not_fit_are_told_before_training(
    architecture: str, encoder: str, depth: int, words: str
) -> None:
    changes = {"architecture": architecture, "encoder": encoder, "encoder_depth": depth}
    recipe = tiny_recipe(**changes, output_stride=16, size=(64, 64), crop=(64, 64))
    with pytest.raises(ConfigError, match=words) as error:
        build_network(recipe)
    assert "\n" not in str(error.value)


def test_trying_a_network_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def built() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        torch.manual_seed(0)
        network = build_network(tiny_recipe(architecture="Unet"))
        return network.state_dict(), torch.rand(3)

    models._PASSED.clear()
    tried, after = built()
    monkeypatch.setattr(models, "_check_passes", lambda *_: None)
    untried, after_none = built()
    assert torch.equal(after, after_none)
    assert all(torch.equal(tried[name], value) for name, value in untried.items())
