"""The doctor finds what is wrong, says what to do, and survives whatever is missing."""

from __future__ import annotations

import dataclasses
import importlib
import subprocess
import sys
import warnings
from collections import namedtuple
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

import segnb.doctor as doctor_module
from segnb import datasets, installed
from segnb.doctor import Check, checks, doctor, render

NMS = "operator torchvision::nms does not exist"


def of(name: str, root: Path) -> Check:
    return next(check for check in checks(root) if check.name == name)


def test_this_environment_is_healthy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(tmp_path) == 0
    report = capsys.readouterr().out
    assert torch.__version__ in report
    assert "fits torch" in report
    assert "Ready to train" in report


def test_everything_missing_is_survived(tmp_path: Path) -> None:
    code = """
import importlib.metadata as metadata, sys
for name in ("torch", "torchvision", "segmentation_models_pytorch", "psutil", "packaging",
             "packaging.requirements", "ipywidgets", "triton", "numpy", "PIL"):
    sys.modules[name] = None
def none(name):
    raise metadata.PackageNotFoundError(name)
metadata.version = metadata.requires = none
from segnb.doctor import doctor
raise SystemExit(doctor())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert "fail  torch        torch is not installed" in done.stdout
    assert "pip install torch torchvision" in done.stdout
    assert "shapes" in done.stdout


def test_torch_and_torchvision_from_different_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module

    def broken(name: str, package: str | None = None) -> Any:
        if name == "torchvision":
            raise RuntimeError(NMS)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", broken)
    check = of("torchvision", tmp_path)
    assert check.status == "fail"
    assert NMS in check.found
    assert "same source" in check.advice


def test_torchvision_that_wants_another_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = metadata.requires
    monkeypatch.setattr(
        metadata,
        "requires",
        lambda name: ["torch==2.6.0"] if name == "torchvision" else real(name),
    )
    check = of("torchvision", tmp_path)
    assert check.status == "fail"
    assert "torch==2.6.0" in check.found
    assert torch.__version__.split("+")[0] in check.found


def test_a_local_build_of_the_right_torch_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = torch.__version__.split("+")[0]
    real = metadata.requires
    monkeypatch.setattr(
        metadata,
        "requires",
        lambda name: [f"torch=={version}"] if name == "torchvision" else real(name),
    )
    monkeypatch.setattr(
        installed,
        "version",
        lambda name: f"{version}+cpu" if name == "torch" else metadata.version(name),
    )
    assert of("torchvision", tmp_path).status == "ok"


def test_a_torch_below_the_floor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        installed,
        "version",
        lambda name: "2.1.0" if name == "torch" else metadata.version(name),
    )
    assert of("torch", tmp_path).status == "fail"
    assert "2.1.0" in of("packages", tmp_path).found


@pytest.mark.parametrize(
    ("said", "driver", "cuda", "status", "word"),
    [
        ("The NVIDIA driver on your system is too old (found 11040).", "470.1", "13.0", "warn",
         "too old"),
        ("", "580.1", None, "warn", "without CUDA"),
        ("CUDA unknown error", "580.1", "13.0", "warn", "CUDA unknown error"),
        ("", None, "13.0", "ok", "none"),
    ],
)  # fmt: skip
def test_no_card_usable(
    said: str,
    driver: str | None,
    cuda: str | None,
    status: str,
    word: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def available() -> bool:
        if said:
            warnings.warn(said, stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", available)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(doctor_module, "_driver_version", lambda: driver)
    check = of("GPU", tmp_path)
    assert check.status == status
    assert word in check.found
    assert bool(check.advice) == (status == "warn")


def test_a_card_this_torch_was_not_built_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = namedtuple("card", "name total_memory")("Old card", 2 * 2**30)

    def no_kernel(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr(torch, "ones", no_kernel)
    check = of("GPU", tmp_path)
    assert check.status == "fail"
    assert "Old card (2 GiB)" in check.found
    assert "not built for this card" in check.advice


def test_a_missing_data_set_says_what_to_do(tmp_path: Path) -> None:
    camvid, cityscapes = of("camvid", tmp_path), of("cityscapes", tmp_path)
    assert camvid.status == cityscapes.status == "warn"
    assert str(tmp_path / "CamVid") in camvid.found
    assert "segnb fetch camvid" in camvid.advice
    assert "by hand" in cityscapes.advice


def test_data_root_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGNB_DATA", str(tmp_path / "mine"))
    check = next(check for check in checks() if check.name == "camvid")
    assert str(tmp_path / "mine" / "CamVid") in check.found
    # Read as the data sets read it: "~" is a home, and an empty word is none.
    for word, place in (("~/mine", Path("~/mine").expanduser()), ("", Path("data"))):
        monkeypatch.setenv("SEGNB_DATA", word)
        check = next(check for check in checks() if check.name == "camvid")
        assert str(place / "CamVid") in check.found


def test_data_sets_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "CamVid").mkdir()
    sizes = {"train": 367, "val": 101, "test": 233}
    entry = dataclasses.replace(
        datasets.get("camvid"), open=lambda _, split, __: range(sizes[split])
    )
    monkeypatch.setitem(datasets._ENTRIES, "camvid", entry)
    check = of("camvid", tmp_path)
    assert check.status == "ok"
    assert check.found.endswith("367 train, 101 val, 233 test")


def test_every_data_set_with_files_of_its_own_is_looked_at(tmp_path: Path) -> None:
    names = [check.name for check in checks(tmp_path)]
    assert [name for name in datasets.names() if name in names] == [
        "shapes",
        "camvid",
        "voc",  # and with it voc-animals
        "cityscapes",
    ]


def test_a_damaged_data_set_fails_with_its_own_words(tmp_path: Path) -> None:
    (tmp_path / "VOCdevkit/VOC2012").mkdir(parents=True)
    check = of("voc", tmp_path)
    assert check.status == "fail"
    assert "train.txt" in check.found
    assert "data/README.md" in check.advice


def test_a_full_disk_and_old_widgets_are_warnings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")(2**30)
    monkeypatch.setattr(doctor_module.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(
        installed,
        "version",
        lambda name: "7.6.5" if name == "ipywidgets" else metadata.version(name),
    )
    disk, widgets = of("disk", tmp_path / "not" / "yet"), of("widgets", tmp_path)
    assert (disk.status, widgets.status) == ("warn", "warn")
    assert "1.0 GiB" in disk.found
    assert "7.6.5, older than 7.7" in widgets.found
    assert "segnb[notebooks]" in widgets.advice


def test_report_puts_advice_under_its_check() -> None:
    found = [
        Check("a", "ok", "fine"),
        Check("longer", "fail", "broken", "do this " * 30),
    ]
    lines = render(found).splitlines()
    assert lines[0] == "ok    a       fine"
    assert lines[1] == "fail  longer  broken"
    assert lines[2].strip().startswith("-> do this")
    assert max(map(len, lines)) <= 100
    assert "1 of 2 checks failed" in lines[-1]
