"""The network: pixel features, with a head that differs between the two stages.

Stage 1 trains the features with a projection head. Stage 2 replaces that head with a pixel
classifier. The layers below come from segmentation-models-pytorch; the heads are ours.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections import OrderedDict
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnb import weights
from segnb.errors import ConfigError
from segnb.recipe import Recipe
from segnb.views import IMAGENET_MEAN, IMAGENET_STD

#: Width and depth of the paper's projection head.
PROJECTION_CHANNELS = 256
PROJECTION_LAYERS = 3

#: Architectures that combine no feature levels, so they take images of any size (such as 513).
_LAST_LEVEL_ONLY = ("DeepLabV3", "PSPNet")


class ProjectionHead(nn.Module):
    """Three 1x1 convolutions of 256 channels with ReLU between, then unit vectors (the paper).

    Features are resized bilinearly with aligned corners *before* the convolutions, as in the
    official code.
    """

    def __init__(self, in_channels: int, channels: int = PROJECTION_CHANNELS) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(PROJECTION_LAYERS):
            layers.append(nn.Conv2d(in_channels if index == 0 else channels, channels, 1))
            if index < PROJECTION_LAYERS - 1:
                layers.append(nn.ReLU(inplace=True))
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor, size: tuple[int, int] | None) -> Tensor:
        """Map features ``[B, C, h, w]`` to unit vectors ``[B, 256, *size]`` (``None``: h, w)."""
        # In float32: the norm of a half-precision vector is too inaccurate for the loss.
        return F.normalize(self.layers(_resized(features, size)).float(), dim=1)


class PixelClassifier(nn.Module):
    """One 1x1 convolution from pixel features to class scores."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.scores = nn.Conv2d(in_channels, num_classes, 1)

    def forward(self, features: Tensor, size: tuple[int, int] | None) -> Tensor:
        """Map features ``[B, C, h, w]`` to scores ``[B, K, *size]``, upsampled bilinearly.

        Corners are aligned as in the projection head, so that a feature belongs to the same
        position in the image in both stages.
        """
        return _resized(self.scores(features), size)


def _resized(maps: Tensor, size: tuple[int, int] | None) -> Tensor:
    if size is None or size == tuple(maps.shape[-2:]):
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=True)


class SegmentationNetwork(nn.Module):
    """Pixel features and the head on top.

    Attributes:
        backbone: Images ``[B, 3, H, W]`` to pixel features ``[B, feature_channels, h, w]``.
        head: A :class:`ProjectionHead` in stage 1, a :class:`PixelClassifier` in stage 2.
        feature_channels: Channels of the pixel features.
    """

    def __init__(self, backbone: nn.Module, feature_channels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.feature_channels = feature_channels
        self.head: nn.Module = nn.Identity()

    def features(self, images: Tensor) -> Tensor:
        """Pixel features ``[B, feature_channels, h, w]``, before any head."""
        return cast(Tensor, self.backbone(images))

    def forward(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """The head's output at ``size``; one entry for both stages, so that DDP can wrap it."""
        return cast(Tensor, self.head(self.features(images), size))

    def attach_projection(self) -> None:
        """Put a fresh projection head on top (stage 1)."""
        self._attach(ProjectionHead(self.feature_channels))

    def attach_classifier(self, num_classes: int) -> None:
        """Replace the head with a fresh pixel classifier (stage 2)."""
        self._attach(PixelClassifier(self.feature_channels, num_classes))

    def _attach(self, head: nn.Module) -> None:
        parameter = next(self.backbone.parameters())
        self.head = head.to(device=parameter.device, dtype=parameter.dtype)


class InputScale(nn.Module):
    """Converts images from the scale of ``views.normalise`` to the one an encoder was trained on.

    Folding this into the first convolution would change the border, where that convolution pads
    with zeros.
    """

    gain: Tensor
    shift: Tensor

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        ours_mean, ours_std = torch.tensor([IMAGENET_MEAN, IMAGENET_STD])[..., None, None]
        # Constants: not saved with the weights.
        self.register_buffer("gain", ours_std / std, persistent=False)
        self.register_buffer("shift", (ours_mean - mean) / std, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[B, 3, H, W]`` on the encoder's scale."""
        return images * self.gain + self.shift


def build_network(recipe: Recipe) -> SegmentationNetwork:
    """The network of a recipe, still without a head.

    Weights are drawn from torch's global generator: seed it first. ImageNet weights come from
    :mod:`segnb.weights` for the encoders listed there, and from a hub for others.

    Raises:
        ConfigError: The architecture or encoder is unknown, the crop or size does not fit it,
            ImageNet weights are not installed or can't be fetched, or there are no statistics to
            freeze.
        DataError: Installed ImageNet weights are damaged.
    """
    packaged = recipe.encoder in weights.PACKAGED
    model = _smp_model(recipe, packaged=packaged)
    _check_divisible(recipe, model)
    scale: nn.Module = nn.Identity()
    if packaged:
        # Also from scratch, so that the two starts differ only in the weights.
        scale = InputScale(weights.INPUT_MEAN, weights.INPUT_STD)
        if recipe.encoder_weights is not None:
            weights.load_imagenet(model.encoder.model, recipe.encoder)
    layers = {"scale": scale, "encoder": model.encoder, "decoder": model.decoder}
    backbone = nn.Sequential(OrderedDict(layers))
    network = SegmentationNetwork(backbone, _feature_channels(recipe, model))
    _check_passes(recipe, network)
    # Checked here, before stage 1 is trained, although only stage 2 freezes them.
    if recipe.freeze_statistics and not _batch_norms(network):
        raise ConfigError(
            f"freeze_statistics: {recipe.architecture} with encoder {recipe.encoder!r} has no "
            "BatchNorm layers whose statistics could be frozen; leave it out"
        )
    return network


def _smp_model(recipe: Recipe, *, packaged: bool) -> Any:
    """The library's model, without the weights that come from a package."""
    import segmentation_models_pytorch as smp

    known = {name: cls for name, cls in vars(smp).items() if _is_architecture(cls)}
    if recipe.architecture not in known:
        raise ConfigError(
            f"architecture {recipe.architecture!r} is not known; choose one of {sorted(known)}"
        )
    cls = known[recipe.architecture]
    accepted = inspect.signature(cls.__init__).parameters
    options: dict[str, Any] = {"encoder_depth": recipe.encoder_depth}
    if "encoder_output_stride" in accepted:
        options["encoder_output_stride"] = recipe.output_stride
    if "decoder_atrous_rates" in accepted:
        options["decoder_atrous_rates"] = recipe.atrous_rates
    default = getattr(accepted.get("decoder_channels"), "default", None)
    if isinstance(default, int):
        options["decoder_channels"] = recipe.decoder_channels
    elif isinstance(default, tuple):
        # U-Net and similar networks need one number per level: use the library's own.
        options["decoder_channels"] = default[: recipe.encoder_depth]
    hub: str | bool | None = None if packaged else recipe.encoder_weights
    if hub is not None and recipe.encoder.startswith("tu-"):
        hub = True  # timm encoders know their own weights
    try:
        return cls(recipe.encoder, encoder_weights=hub, classes=1, **options)
    except (ValueError, KeyError, RuntimeError, TypeError) as error:
        if recipe.encoder_weights is not None and _is_download(error):
            raise _no_weights(recipe, error) from error
        raise ConfigError(
            f"{recipe.architecture} with encoder {recipe.encoder!r} and {options} can't be "
            f"built: {error}"
        ) from error
    except OSError as error:
        raise _no_weights(recipe, error) from error


def _check_divisible(recipe: Recipe, model: Any) -> None:
    divisible = getattr(model, "requires_divisible_input_shape", True)
    if recipe.architecture in _LAST_LEVEL_ONLY or not divisible:
        return
    divisor = int(getattr(model.encoder, "output_stride", 1))
    for name in ("crop", "size"):
        shape = getattr(recipe, name)
        if any(side % divisor for side in shape):
            wanted = tuple(math.ceil(side / divisor) * divisor for side in shape)
            raise ConfigError(
                f"{recipe.architecture} with output stride {divisor} needs sides divisible by "
                f"{divisor}: {name} is {shape}, try {wanted}"
            )


def _feature_channels(recipe: Recipe, model: Any) -> int:
    try:
        return int(model.segmentation_head[0].in_channels)
    except (AttributeError, TypeError, IndexError) as error:
        raise ConfigError(
            f"{recipe.architecture} has a head of another kind than the networks here; choose "
            "another architecture, such as DeepLabV3Plus or Unet"
        ) from error


#: Shapes of networks and images that have passed :func:`_check_passes` in this process.
_PASSED: set[tuple[Any, ...]] = set()


def _check_passes(recipe: Recipe, network: SegmentationNetwork) -> None:
    """Pass images of the recipe's sizes through the network, without computing anything.

    Raises:
        ConfigError: The encoder and the decoder do not fit each other, or an image is too small.
    """
    for name in ("crop", "size"):
        shape = getattr(recipe, name)
        fields = ("architecture", "encoder", "encoder_depth", "output_stride", "atrous_rates")
        key = (*(getattr(recipe, field) for field in fields), recipe.decoder_channels, shape)
        if key in _PASSED:
            continue
        try:
            try:
                maps = _passed(network.backbone, shape, "meta")
            except Exception:  # perhaps only because an operator knows no tensors without values
                maps = _passed(copy.deepcopy(network.backbone), shape, "cpu")
        except Exception as error:  # any, from the depths of a library
            raise ConfigError(
                f"{recipe.architecture} with encoder {recipe.encoder!r} (depth "
                f"{recipe.encoder_depth}) can't take images of {name} {shape}: "
                f"{str(error).strip().splitlines()[0] if str(error).strip() else error!r}; choose "
                f"another architecture or encoder, or a larger {name}"
            ) from error
        if maps.dim() != 4 or maps.shape[1] != network.feature_channels:
            raise ConfigError(
                f"{recipe.architecture} with encoder {recipe.encoder!r} gives features of shape "
                f"{tuple(maps.shape)}, not maps of {network.feature_channels} channels; choose "
                "another architecture"
            )
        _PASSED.add(key)


def _passed(backbone: nn.Module, shape: tuple[int, int], device: str) -> Tensor:
    tensors = {**dict(backbone.named_parameters()), **dict(backbone.named_buffers())}
    # Two images, since BatchNorm cannot train on one. Neither weights nor random state change.
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        values = {name: value.to(device) for name, value in tensors.items()}
        images = torch.zeros(2, 3, *shape, device=device)
        return cast(Tensor, torch.func.functional_call(backbone, values, (images,)))


def _is_architecture(value: object) -> bool:
    return (
        inspect.isclass(value)
        and issubclass(value, nn.Module)
        and "encoder_name" in inspect.signature(value.__init__).parameters
    )


def _is_download(error: Exception) -> bool:
    text = f"{type(error).__name__} {error}".lower()
    return any(word in text for word in ("connect", "hub", "url", "http", "offline", "resolve"))


def _no_weights(recipe: Recipe, error: Exception) -> ConfigError:
    return ConfigError(
        f"ImageNet weights of {recipe.encoder!r} can't be fetched ({type(error).__name__}: "
        f"{error}). Check the network connection, or train from scratch as in the paper: "
        "encoder_weights None"
    )


def count_parameters(network: nn.Module) -> int:
    """Number of trainable values."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def freeze_backbone(network: SegmentationNetwork) -> None:
    """Train only the head; the backbone's BatchNorm statistics stay fixed as well."""
    network.backbone.requires_grad_(False)
    network.backbone.eval()


def freeze_statistics(network: SegmentationNetwork) -> None:
    """Train the whole network, but with fixed BatchNorm statistics."""
    for layer in _batch_norms(network):
        layer.eval()


def _batch_norms(network: SegmentationNetwork) -> list[nn.Module]:
    # The base class of all of them, including timm's and the one synchronised over processes.
    kind = nn.modules.batchnorm._BatchNorm
    return [module for module in network.backbone.modules() if isinstance(module, kind)]
