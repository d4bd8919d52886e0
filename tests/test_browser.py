"""A real browser drives JupyterLab through notebooks 00, 07 and 11, and looks at the page."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made_sweep
import nbformat
import pytest

from tools import notebooks

pytestmark = [pytest.mark.browser, pytest.mark.slow]

#: A smoke run takes seconds; this is for a machine that is busy with other things.
PATIENCE = 300_000  # milliseconds

SETTINGS = {
    # Cells out of sight stay on the page, where the test can see them.
    "@jupyterlab/notebook-extension/tracker.jupyterlab-settings": '{"windowingMode": "none"}',
    "@jupyterlab/apputils-extension/notification.jupyterlab-settings": (
        '{"fetchNews": "false", "checkForUpdates": false}'
    ),
}

ARGUMENTS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a JupyterLab over a copy of the notebooks, with a made ledger beside them."""
    home = tmp_path_factory.mktemp("lab")
    folder = home / "project" / "notebooks"
    (folder.parent / "segnb").mkdir(parents=True)
    folder.mkdir()
    # The package itself is the installed one; these mark the copy as a checkout of it.
    shutil.copy(notebooks.REPOSITORY / "pyproject.toml", folder.parent)
    shutil.copy(notebooks.REPOSITORY / "segnb" / "recipe.py", folder.parent / "segnb")
    networks = Path("results") / "networks" / "shapes"
    shutil.copytree(notebooks.REPOSITORY / networks, folder.parent / networks)
    made_sweep.write_sweep(folder.parent / "results")
    made_sweep.write_step_map(folder.parent / "results")
    for source in notebooks.sources(["00", "07", "11"]):
        nbformat.write(notebooks.make(source), folder / f"{source.stem}.ipynb")
    for name, text in SETTINGS.items():
        path = home / "settings" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "SEGNB_TIER": "smoke",
        "SEGNB_DATA": str(home / "data"),
        "OMP_NUM_THREADS": "1",
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
    }
    environment.pop("SEGNB_CACHE", None)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"]
    command += ["--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}"]
    command += ["--IdentityProvider.token=", "--ServerApp.password="]
    command += ["--ServerApp.disable_check_xsrf=True"]  # for start_kernel
    command += ["--LabApp.extension_manager=readonly"]
    with (home / "lab.log").open("w") as log:
        server = subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=folder
        )
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(f"{address}/api", server, home / "lab.log")
            yield address
        finally:
            server.terminate()  # its kernels with it
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 240
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()[-3000:]
        with contextlib.suppress(OSError):
            urllib.request.urlopen(address, timeout=30).close()
            return
        time.sleep(0.5)
    pytest.fail(f"JupyterLab did not come up: {log.read_text()[-3000:]}")


def start_kernel(lab: str, name: str) -> None:
    """Start a notebook's kernel before its page is opened, so that JupyterLab need not ask.

    On a machine that is busy with other kernels a start may fail; JupyterLab then asks which kernel
    to take, and again after the next failure. Here a failed start is tried again.
    """
    wish = {"path": f"{name}.ipynb", "name": "", "type": "notebook", "kernel": {"name": "python3"}}
    end = time.monotonic() + PATIENCE / 1000
    while True:
        request = urllib.request.Request(f"{lab}/api/sessions", json.dumps(wish).encode())
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                assert json.load(answer)["kernel"]["id"]
            return
        except OSError as error:
            print("the kernel did not start:", error)
            if time.monotonic() > end:
                raise
            time.sleep(2)


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=chromium, args=ARGUMENTS, headless=True)
        yield found
        found.close()


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1300, "height": 1000})
    context.set_default_timeout(PATIENCE)
    found = context.new_page()
    # On a busy machine JupyterLab asks whether to wait any longer.
    waiting = found.locator("dialog.jp-Dialog button", has_text="Keep Waiting")
    found.add_locator_handler(waiting, _wait_longer, no_wait_after=True)
    yield found
    found.screenshot(path=tmp_path / "last.png")
    context.close()


def _wait_longer(button: Any) -> None:
    from playwright.sync_api import Error

    with contextlib.suppress(Error):  # it came up meanwhile
        button.click(timeout=10_000)


def open_and_run(page: Any, lab: str, name: str) -> None:
    """Open a notebook and run all its cells by the menu; wait for the last of them."""
    start_kernel(lab, name)
    page.goto(f"{lab}/lab/workspaces/{name[:2]}/tree/{name}.ipynb")
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
    # The page calls the kernel idle before it has one. Cells that are run by then ask for a kernel,
    # each with a dialog of its own, and leave no output.
    toolbar = page.locator(".jp-NotebookPanel-toolbar")
    toolbar.locator(".jp-KernelName", has_text="Python 3").wait_for()
    toolbar.locator('[data-status="idle"]').wait_for()
    # The menu's words do nothing until the kernel has answered: ask until a cell is under way.
    # Any cell counts: a folded one has no prompt, and each "run all" too many is run as well.
    prompts = page.locator(".jp-CodeCell .jp-InputPrompt")
    for _ in range(20):
        page.locator(".lm-MenuBar-item", has_text=re.compile("^Run$")).click()
        page.locator('.lm-Menu-item[data-command="runmenu:run-all"]').click()
        page.wait_for_timeout(3000)
        if any(re.search(r"[*\d]", text) for text in prompts.all_text_contents()):
            break
        page.keyboard.press("Escape")
    else:
        pytest.fail("JupyterLab runs no cell")
    page.wait_for_function(
        """() => {
            const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]
                .map(one => one.textContent.trim());
            const failed = document.querySelector(
                '[data-mime-type="application/vnd.jupyter.error"]');
            return failed || (prompts.every(one => one !== '[*]:')
                && /^\\[\\d+\\]:$/.test(prompts[prompts.length - 1]));
        }""",
        timeout=PATIENCE,
    )
    errors = page.locator('[data-mime-type="application/vnd.jupyter.error"]')
    assert errors.count() == 0, errors.first.inner_text()[-2000:]


def test_the_first_notebook_runs_and_shows_its_pictures(
    page: Any, lab: str, tmp_path: Path
) -> None:
    (source,) = notebooks.sources(["00"])
    open_and_run(page, lab, source.stem)
    pictures = page.locator(".jp-OutputArea-output img")
    assert pictures.count() >= 3
    assert pictures.evaluate_all("all => all.every(one => one.naturalWidth > 100)")
    assert "mIoU" in page.locator(".jp-Notebook").inner_text()

    # The playground: steps move the pixels, and so does the slider that moves the chosen one.
    step = page.locator("button.widget-button", has_text=re.compile("^step$"))
    play = page.locator(".widget-vbox", has=step).first
    picture = play.locator(".jp-OutputArea-output img")
    page.screenshot(path=tmp_path / "00-playground.png")
    for press in (
        step.click,
        page.locator("button.widget-button", has_text="25 steps").click,
        lambda: (
            play.locator(".noUi-handle").nth(2).focus(),
            page.keyboard.press("ArrowRight"),
        ),
    ):
        before = picture.get_attribute("src")
        press()
        page.wait_for_function(
            "old => { const one = [...document.querySelectorAll('.widget-vbox img')]"
            ".map(img => img.src); return one.length && !one.includes(old); }",
            arg=before,
        )
    play.scroll_into_view_if_needed()
    page.screenshot(path=tmp_path / "00-gathered.png")
    pictures.last.scroll_into_view_if_needed()
    page.screenshot(path=tmp_path / "00.png")


def test_the_explorer_answers_its_sliders_and_trains(page: Any, lab: str, tmp_path: Path) -> None:
    (source,) = notebooks.sources(["07"])
    open_and_run(page, lab, source.stem)
    handles = page.locator(".jupyter-widgets .noUi-handle")
    handles.first.wait_for()
    handles.first.scroll_into_view_if_needed()
    readouts = page.locator(".jupyter-widgets .widget-readout")
    explorer = page.locator(".widget-vbox", has=handles.first).first
    before = readouts.all_inner_texts()
    assert before[1] == "0.07"
    page.screenshot(path=tmp_path / "07-before.png")

    # Both sliders, by the keyboard. What the ledger says of the new place follows.
    handles.nth(0).focus()
    page.keyboard.press("Home")
    first = explorer.get_by_text("1/32 of the labels, τ 0.07")
    first.wait_for()
    page.keyboard.press("ArrowRight")
    handles.nth(1).focus()
    page.keyboard.press("ArrowRight")
    explorer.get_by_text("1/16 of the labels, τ 0.2").wait_for()
    assert first.count() == 0, "the old answer is gone"
    assert readouts.all_inner_texts()[:2] == ["1/16", "0.2"]
    pictures = explorer.locator(".jp-OutputArea-output img")
    page.locator(".widget-html-content", has_text="fraction 0.0625, τ 0.2").wait_for()

    # Run, and at once Stop: the step at hand is finished and kept.
    run, stop = (explorer.locator("button.widget-button").nth(i) for i in range(2))
    assert (run.inner_text().strip(), stop.inner_text().strip()) == ("Run", "Stop")
    assert stop.is_disabled()
    run.click()
    page.wait_for_function(
        "() => [...document.querySelectorAll('button')]"
        ".some(one => one.textContent.trim() === 'Stop' && !one.disabled)"
    )
    assert run.is_disabled()
    stop.click()
    status = explorer.get_by_text(re.compile(r"stopped at step \d+ of \d+"))
    status.wait_for()
    explorer.locator("button.widget-button", has_text="Go on").wait_for()
    status.scroll_into_view_if_needed()
    page.screenshot(path=tmp_path / "07-stopped.png")

    # Go on to the end; the live run's pictures stand under its loss.
    run.click()
    explorer.get_by_text(re.compile(r"finished: mIoU \d")).wait_for()
    live = explorer.locator(".widget-html-content img")
    page.wait_for_function(
        "() => document.querySelectorAll('.widget-html-content img').length >= 3"
    )
    assert live.count() == 3, "losses, predictions, embeddings"
    assert live.evaluate_all("all => all.every(one => one.naturalWidth > 100 && one.alt)")
    assert pictures.count() == 4, "both curves, predictions, embeddings of the ledger"
    assert pictures.evaluate_all("all => all.every(one => one.naturalWidth > 100)")
    live.first.scroll_into_view_if_needed()
    page.screenshot(path=tmp_path / "07-finished.png")
    handles.first.scroll_into_view_if_needed()
    page.screenshot(path=tmp_path / "07-after.png")

    # The map of steps: another cell, and then the other rival.
    cells = page.locator(".widget-vbox button.widget-button", has_text=re.compile(r"^[+−-]\d"))
    assert cells.all_inner_texts() == ["+20.0", "+5.0", "+0.5"]
    the_map = page.locator(".widget-vbox", has=cells.first).first
    sentence = the_map.locator(".jp-RenderedMarkdown").first
    assert "and 25 of stage 2" in sentence.inner_text()
    cells.nth(1).scroll_into_view_if_needed()
    cells.nth(1).click()
    the_map.locator(".jp-RenderedMarkdown", has_text="and 100 of stage 2").first.wait_for()
    page.screenshot(path=tmp_path / "07-map.png")
    the_map.get_by_text("the same compute", exact=True).first.click()
    the_map.locator("button.widget-button", has_text="+17.0").wait_for()
    assert cells.all_inner_texts() == ["+17.0", "+2.0", "-2.5"]
    page.screenshot(path=tmp_path / "07-map-compute.png")


def test_an_own_folder_is_chosen_named_and_planned(page: Any, lab: str, tmp_path: Path) -> None:
    (source,) = notebooks.sources(["11"])
    open_and_run(page, lab, source.stem)
    assert "Use cross-entropy" in page.locator(".jp-Notebook").inner_text()
    box = page.locator(".widget-vbox", has=page.locator(".widget-text")).first
    picture = box.locator(".jp-OutputArea-output img")
    box.locator(".jp-RenderedMarkdown", has_text="60 minutes give 1 x").wait_for()

    def enter(field: str, text: str) -> None:
        place = box.locator(".widget-text", has_text=field).locator("input")
        place.fill(text)
        place.press("Enter")

    # Another folder, whose classes have other colours.
    before = picture.get_attribute("src")
    enter("folder", "../runs/own/numbers")
    page.wait_for_function(
        "old => [...document.querySelectorAll('.widget-vbox img')].some(one => one.src !== old)",
        arg=before,
    )
    box.scroll_into_view_if_needed()
    page.screenshot(path=tmp_path / "11-folder.png")
    # Too few names for its classes, and then enough.
    enter("classes", "up, down")
    box.get_by_text("has 8 classes, so it takes as many different names").wait_for()
    enter("classes", "air, water, ground, ball, ring, towel, star, kite")
    picture.wait_for()
    # More time.
    box.locator(".noUi-handle").focus()
    page.keyboard.press("ArrowRight")
    box.locator(".jp-RenderedMarkdown", has_text="61 minutes give 1 x").wait_for()
    page.screenshot(path=tmp_path / "11-minutes.png")
