"""Networks that come with the repository."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import Finished

from segnb import cli
from segnb.errors import ConfigError
from segnb.experiments import kept, runs
from segnb.training.checkpoint import read_weights

pytest_plugins = ["tiny"]
pytestmark = pytest.mark.usefixtures("one_thread", "places")


@pytest.mark.parametrize("method", ["ce", "contrastive"])
def test_a_kept_network_is_the_run_in_half_the_bytes(
    method: str, tmp_path: Path, finished: Callable[..., Finished], capsys: pytest.CaptureFixture
) -> None:
    run = finished(method)
    assert cli.main(["keep", str(run.folder), "--into", str(tmp_path)]) == 0
    folder = tmp_path / run.row["dataset"]
    assert capsys.readouterr().out.strip() == str(folder)
    assert kept.row_of(folder) == run.row
    stages = ["weights", *(["pretrained"] if method == "contrastive" else [])]
    assert {path.stem for path in folder.glob("*.safetensors")} == set(stages)
    for stage in stages:
        own, copy = (run.folder / f"{stage}.safetensors", folder / f"{stage}.safetensors")
        assert copy.stat().st_size < 0.6 * own.stat().st_size
        state = read_weights(copy, remedy="")[0]
        for name, value in read_weights(own, remedy="")[0].items():
            statistic = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
            assert state[name].dtype == (value.dtype if statistic else torch.float16)
            torch.testing.assert_close(state[name].to(value), value, rtol=1e-3, atol=1e-6)
        images = torch.rand(1, 3, 64, 64)
        with torch.inference_mode():
            whole, half = (
                runs.load_network(where, weights=stage)(images) for where in (run.folder, folder)
            )
        torch.testing.assert_close(half, whole, rtol=0.02, atol=0.02)
    # Whatever takes a run's folder takes it.
    assert cli.main(["evaluate", str(folder), "--cpu", "--quiet"]) == 0
    assert "mIoU" in capsys.readouterr().out


def test_an_unfinished_run_is_not_kept(tmp_path: Path, finished: Callable[..., Finished]) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("recipe.json", "weights.safetensors"):
        (folder / name).write_bytes((finished("ce").folder / name).read_bytes())
    with pytest.raises(ConfigError, match=r"is not finished; `segnb finetune .*run` finishes it"):
        kept.keep(folder, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
