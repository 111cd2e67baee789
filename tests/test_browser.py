"""The notebooks for exploring in JupyterLab, in a real browser: cells run, widgets work.

Left out where there is no Chromium, unless SILK_NB_BROWSER=1 says that the test must run.
"""
import io
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MUST_RUN = os.environ.get("SILK_NB_BROWSER") == "1"
pytestmark = pytest.mark.skipif(not CHROMIUM and not MUST_RUN, reason=(
    "left out: there is no chromium on this machine (apt-get install chromium)"))
PAGES = ("24_explore", "26_widgets")


def free_port():
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Address of a JupyterLab with copies of the notebooks, on loopback, with a token."""
    home, token, port = tmp_path_factory.mktemp("lab"), secrets.token_hex(16), free_port()
    (home / "nbs").mkdir()
    for name in PAGES:
        shutil.copy(ROOT / "nbs" / f"{name}.ipynb", home / "nbs")
    own = {f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in ("CONFIG", "RUNTIME")}
    with open(home / "log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", "--allow-root",
             f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}",
             f"--ServerApp.root_dir={home / 'nbs'}", "--LabApp.expose_app_in_browser=True",
             f"--LabApp.user_settings_dir={home / 'settings'}",
             f"--LabApp.workspaces_dir={home / 'workspaces'}"],
            stdout=log, stderr=log, env={**os.environ, **own, "MPLBACKEND": ""})
    try:
        deadline = time.monotonic() + 240
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={token}", timeout=5)
                break
            except (urllib.error.URLError, TimeoutError):
                waited = time.monotonic() > deadline
                assert server.poll() is None and not waited, (
                    "JupyterLab did not start: " + (home / "log").read_text()[-2000:])
                time.sleep(0.25)
        yield f"http://127.0.0.1:{port}/lab/workspaces/{{name}}/tree/{{name}}.ipynb?token={token}"
    finally:
        server.terminate()  # it ends its kernels
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    assert CHROMIUM, "SILK_NB_BROWSER=1 says that this test must run, but there is no chromium"
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=[
            "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
            "--ignore-gpu-blocklist"])
        yield opened
        opened.close()


def run_all(browser, lab, name):
    """Open a notebook and begin to run all of its cells."""
    page = browser.new_page(viewport={"width": 1500, "height": 1600})
    page.set_default_timeout(90_000)
    page.goto(lab.format(name=name), timeout=60_000)
    page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=60_000)
    ask = page.locator(".jp-Dialog button.jp-mod-accept")
    idle = page.locator(".jp-Notebook-ExecutionIndicator[data-status='idle']")
    for _ in range(120):  # it may ask which kernel to take, and begins without one
        if ask.count():
            ask.first.click()
        elif idle.count() and "Python 3" in page.locator(".jp-KernelName").inner_text():
            break
        page.wait_for_timeout(250)
    page.wait_for_timeout(1000)
    if ask.count():
        ask.first.click()
    page.evaluate("""() => { window.silkDone = null;
        window.jupyterapp.commands.execute('notebook:run-all-cells').then(
            () => { window.silkDone = true; }) }""")
    return page


def wait_until_run(page, seconds=600):
    """Wait until the cells have run; none of them may show an error."""
    for _ in range(seconds * 2):
        if page.evaluate("window.silkDone") or page.locator(ERROR).count():
            break
        page.wait_for_timeout(500)
    check_no_error(page)
    assert page.evaluate("window.silkDone"), "the cells did not come to an end"


ERROR = ".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']"


def check_no_error(page):
    assert not page.locator(ERROR).count(), page.locator(ERROR).first.inner_text()[-1500:]


def cell(page, code):
    """The cell that begins so, below its mark."""
    found = page.locator(".jp-CodeCell").filter(has_text="#| output: false").filter(has_text=code)
    found.first.scroll_into_view_if_needed()
    return found.first


def changes(page, read, act, what):
    """Do something and wait until what is shown is another."""
    before = read()
    act()
    for _ in range(480):
        page.wait_for_timeout(250)
        if (now := read()) != before:
            return now
    pytest.fail(f"{what} changed nothing: {before!r:.300}")


def wait_for(page, read, what):
    """Wait until something is so."""
    if not read():
        changes(page, lambda: bool(read()), lambda: None, what)


def said(places):
    """The text of what is there; None while it is being replaced."""
    texts = places.all_inner_texts()
    return texts[0] if texts and texts[0] else None


def pictures(place):
    return place.locator(".jp-OutputArea img").evaluate_all(
        "all => all.map(one => one.naturalWidth + 'x' + one.naturalHeight + ' ' + one.src)")


def work_distributions(page):
    place = cell(page, "distribution_widget(runs)")
    assert len(pictures(place)) == 3
    changes(page, lambda: len(pictures(place)) == 2,
            lambda: place.locator("select").first.select_option("material"), "another variable")


def work_experiments(page):
    place = cell(page, "experiment_widget(runs)")
    changes(page, lambda: pictures(place)[:1],
            lambda: place.locator("select[multiple]").select_option("C*"), "another experiment")
    changes(page, lambda: pictures(place)[1:2],
            lambda: place.get_by_role("button", name="embroidery").click(), "another class")
    buttons = place.locator(".widget-toggle-buttons")
    changes(page, lambda: "metal_thread" in (said(buttons) or ""), lambda: place.locator(
        "select").first.select_option("material"), "another variable")


def work_clusters(page):
    place = cell(page, "cluster_widget(seen)")
    board = place.locator("canvas").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect().width)").index(480)
    canvas = place.locator("canvas").nth(board)
    canvas.scroll_into_view_if_needed()

    def at(x, y):
        box = canvas.bounding_box()  # it moves when the page scrolls
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def coloured():
        """Share of the plot that is coloured: points may be there and yet be invisible."""
        file = io.BytesIO(page.screenshot(clip=canvas.bounding_box()))
        pixels = np.asarray(Image.open(file).convert("RGB")).astype(int)
        return (np.ptp(pixels, axis=2) > 60).mean()

    wait_for(page, lambda: coloured() > 0.005, "waiting for the points")

    def sweep():
        for step in range(1, 60):  # until a point is under the pointer
            page.mouse.move(*at(0.05 + 0.015 * step, 0.3 + 0.4 * (step % 7) / 7), steps=3)
            page.wait_for_timeout(100)
            if place.locator(".silk-photograph").count():
                return

    def clicked():
        return "Clicked: " in place.inner_text()

    def click():
        page.mouse.down()
        page.mouse.up()

    changes(page, place.locator(".silk-photograph").count, sweep, "pointing at a point")
    changes(page, clicked, click, "a click on a point")
    shown = place.locator(".silk-photograph").inner_text()
    assert "prediction" in shown and "%" in shown
    place.get_by_title("Activate lasso selection").click()
    page.wait_for_timeout(500)
    page.mouse.move(*at(0.02, 0.02))
    page.mouse.down()
    for corner in ((0.98, 0.02), (0.98, 0.98), (0.02, 0.98), (0.02, 0.06)):
        page.mouse.move(*at(*corner), steps=12)
    page.mouse.up()
    wait_for(page, lambda: " images: " in place.inner_text(), "a lasso")
    legend = place.locator(".silk-legend")
    changes(page, lambda: "wrong" in (said(legend) or ""), lambda: place.locator("select").nth(
        2).select_option("right or wrong"), "another colour")


def work_images(page):
    place = cell(page, "image_widget(seen)")
    changes(page, lambda: pictures(place)[:1], lambda: place.locator("select").first.select_option(
        "velvet"), "another class")


def test_the_notebooks_run_and_their_widgets_work(lab, browser):
    began = [run_all(browser, lab, name) for name in PAGES]  # side by side
    explore, widgets = began
    wait_until_run(widgets)
    wait_until_run(explore)
    assert explore.locator(".jp-OutputArea img").count() >= 3
    work_distributions(widgets)
    work_experiments(widgets)
    work_clusters(widgets)
    work_images(widgets)
    tabs = cell(widgets, "explore(folder").get_by_role("tab")
    assert tabs.all_inner_texts() == ["Classes", "F1 per class", "Clusters", "Images"]
    check_no_error(widgets)
