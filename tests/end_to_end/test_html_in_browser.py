"""The page in a real browser: what it draws, what it asks of the network (nothing), and how it fits a phone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ergometry.core.budget import Budget
from ergometry.planning.belief import Belief
from ergometry.planning.operating_points import OperatingPoint
from ergometry.planning.plan import Goal, Plan, plan
from ergometry.report import calibration, plan_page, render, summary
from support.calibrations import FOUND, machine
from support.odd_runs import attributed, little_work, memory_and_core, modelled, wave
from support.synthetic import synthetic_run

pytestmark = pytest.mark.browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
SWITCHES = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
RUNS = {
    "measured": lambda: synthetic_run(power_w=wave),
    "modelled": modelled,
    "several domains": memory_and_core,
    "no steps": lambda: synthetic_run(0),
    "attributed": attributed,
    "little work": little_work,
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Start a browser whose profile is new and whose log is kept."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("Chromium and chromedriver are not installed: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for switch in (*SWITCHES, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write the pages."""
    folder = tmp_path_factory.mktemp("pages")
    found = {}
    for kind, make in RUNS.items():
        found[kind] = folder / f"{kind}.html"
        found[kind].write_text(render(make(), "html"), encoding="utf-8")
    conditions = {"seconds": 90.0, "kernels": [kernel.to_json() for kernel in machine()]}
    found["calibration"] = folder / "calibration.html"
    found["calibration"].write_text(calibration.html(replace(FOUND, conditions=conditions)), encoding="utf-8")
    found["plan"] = folder / "plan.html"
    found["plan"].write_text(plan_page.html(planned()), encoding="utf-8")
    return found


def planned() -> Plan:
    """Return a plan that shares time between two power limits."""
    points = [OperatingPoint(b, 0.05 + 0.001 * b, 8.0 + 0.25 * b, 1e-4, 0.0, 300.0) for b in (16, 64, 256)]
    slower = [replace(p, step_s=1.3 * p.step_s, step_j=0.7 * p.step_j, power_limit_w=200.0) for p in points]
    goal = Goal(64, np.full(100, 10_000.0), "a loss of 2")
    return plan([*points, *slower], Belief.of(200.0, factor=1.5, source="runs"), goal, budget=Budget(slowdown="15%"))


def show(browser: Any, page: Path, *, width: int = 1280, scheme: str = "light") -> None:
    """Open a page in a window of this width and wait until its figures are drawn."""
    from selenium.webdriver.support.ui import WebDriverWait

    choose(browser, scheme)
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    for log in ("browser", "performance"):
        browser.get_log(log)  # what came before is not this page's
    browser.get(page.as_uri())
    WebDriverWait(browser, 30).until(lambda b: b.execute_script("return document.documentElement.dataset.drawn"))


def choose(browser: Any, scheme: str) -> None:
    """Set the colour scheme that the window prefers."""
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def requested(browser: Any) -> list[str]:
    """Return the addresses that the page asked for."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


@pytest.mark.parametrize("kind", [*RUNS, "calibration", "plan"])
def test_a_page_is_drawn_without_a_complaint_and_without_the_network(browser, pages, kind):
    show(browser, pages[kind])
    plots = browser.execute_script("return document.querySelectorAll('.plot .main-svg').length")
    figures = browser.execute_script("return document.querySelectorAll('figure').length")
    assert plots >= figures > 0
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    asked = [url for url in requested(browser) if not url.startswith("data:")]
    assert asked == [pages[kind].as_uri()]


@pytest.mark.parametrize("kind", [*RUNS, "calibration", "plan"])
@pytest.mark.parametrize("width", [360, 1280])
def test_a_page_never_scrolls_sideways(browser, pages, kind, width):
    show(browser, pages[kind], width=width, scheme="dark" if width == 360 else "light")
    browser.execute_script("document.querySelectorAll('details').forEach(entry => { entry.open = true; })")
    for scheme in ("light", "dark"):
        choose(browser, scheme)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width, scheme
        assert browser.execute_script("return innerWidth") == width


def test_the_numbers_shown_are_the_summary_s(browser, pages):
    show(browser, pages["measured"])
    document = summary(RUNS["measured"]())
    shown = browser.execute_script(
        "const q = document.querySelector('[data-key=\"energy.total\"]');"
        "return {value: Number(q.value), stderr: Number(q.dataset.stderr), text: q.innerText}"
    )
    total = document["energy"]["total"]
    assert shown["value"] == total["value"]
    assert shown["stderr"] == total["stderr"]
    number, _, rest = shown["text"].partition(" ± ")
    assert rest.endswith("kJ")
    assert abs(1e3 * float(number) - total["value"]) < 0.1 * total["stderr"]
    inside = browser.execute_script("return document.getElementById('summary').textContent")
    assert json.loads(inside)["energy"] == document["energy"]


def test_the_figure_of_power_has_its_layers_and_can_be_switched(browser, pages):
    from selenium.webdriver.common.by import By

    show(browser, pages["several domains"])
    names = "return document.querySelector('[data-figure=power] .plot').data.map(trace => trace.name)"
    assert browser.execute_script(names) == ["forward", "backward", "optimizer", "data", "other"]
    browser.find_element(By.CSS_SELECTOR, "[data-figure=power] [data-view='2']").click()
    assert browser.execute_script(names) == ["node0/package0", "node0/dram0", "node0/gpu0"]
    legends = "return [...document.querySelectorAll('[data-figure=power] ul')].map(list => list.hidden)"
    assert browser.execute_script(legends) == [True, True, False]


def test_the_figures_follow_the_colour_scheme(browser, pages):
    from selenium.webdriver.support.ui import WebDriverWait

    show(browser, pages["measured"], scheme="light")
    colour = "return document.querySelector('[data-figure=power] .plot').data[0].fillcolor"
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = browser.execute_script(colour), browser.execute_script(ground)
    choose(browser, "dark")
    # The page hears of it at the next frame; waiting for longer than that is a failure.
    WebDriverWait(browser, 10).until(lambda b: b.execute_script(colour) != light[0])
    assert browser.execute_script(ground) != light[1]


def test_each_series_of_the_ledger_has_its_sentence_below_it(browser, pages):
    script = """return [...document.querySelectorAll('figure')].filter(f => f.querySelector('.reading')).map(f =>
      [f.dataset.figure, f.querySelector('.reading').getBoundingClientRect().top
                         >= f.querySelector('.plot').getBoundingClientRect().bottom])"""
    show(browser, pages["measured"])
    found = dict(browser.execute_script(script))
    assert {"work_and_heat", "loss_change", "alignment"} <= set(found)
    assert all(found.values())


def test_modelled_energy_is_hatched_in_the_drawing(browser, pages):
    patterns = "return document.querySelectorAll('[data-figure=power] .plot pattern').length"
    show(browser, pages["modelled"])
    assert browser.execute_script(patterns) >= 5
    show(browser, pages["measured"])
    assert browser.execute_script(patterns) == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_name_in_the_icicle_can_be_read_on_its_ground(browser, pages, scheme):
    script = """
      const shade = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number).map(v => v / 255)
        .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126*r + 0.7152*g + 0.0722*b; };
      return [...document.querySelectorAll('[data-figure=modules] g.slice')].filter(g => g.querySelector('text'))
        .map(g => { const [a, b] = ['path', 'text'].map(tag => getComputedStyle(g.querySelector(tag)).fill)
                      .map(shade).sort((x, y) => y - x);
                    return [(a + 0.05) / (b + 0.05) * getComputedStyle(g.querySelector('path')).fillOpacity,
                            g.textContent]; });
    """
    show(browser, pages["attributed"], scheme=scheme)
    found = browser.execute_script(script)
    assert {"Language", "blocks", "head", "not divided"} <= {name for _, name in found}
    assert [name for contrast, name in found if contrast < 4.5] == []


def test_the_icicle_opens_where_it_is_chosen(browser, pages):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    show(browser, pages["attributed"], width=360)
    shown = "return [...document.querySelectorAll('[data-figure=modules] g.slice text')].map(t => t.textContent)"
    assert "feed" not in browser.execute_script(shown)
    slices = browser.find_elements(By.CSS_SELECTOR, "[data-figure=modules] g.slice")
    (blocks,) = [one for one in slices if one.text == "blocks"]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", blocks)
    blocks.click()
    WebDriverWait(browser, 10).until(lambda b: "feed" in b.execute_script(shown))


def test_the_roofline_names_its_phases_and_its_ceilings(browser, pages):
    words = "return [...document.querySelectorAll('[data-figure=roofline] .textpoint')].map(t => t.textContent)"
    show(browser, pages["attributed"])
    assert {"bf16", "forward", "backward", "optimizer"} <= set(browser.execute_script(words))
    show(browser, pages["calibration"])
    assert "bf16" in browser.execute_script(words)


def test_every_word_can_be_read_on_its_ground(browser, pages):
    """Contrast of 4.5 at least (WCAG AA) for what is coloured on a colour: badges, verdicts, warnings."""
    script = """
      const shade = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number).map(v => v / 255)
        .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126*r + 0.7152*g + 0.0722*b; };
      const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
        if (!/, 0\\)$|transparent/.test(c)) return c; } return 'rgb(255, 255, 255)'; };
      return [...document.querySelectorAll('.verdict, .status, .tag, .badge, .note, .why, .reading, .remark, ' +
          '.absent dd, .warnings p, .facts li, th')]
        .filter(e => e.innerText.trim())
        .map(e => { const [a, b] = [shade(getComputedStyle(e).color), shade(ground(e))].sort((x, y) => y - x);
                    return [(a + 0.05) / (b + 0.05), e.className + ' ' + e.innerText]; });
    """
    for scheme in ("light", "dark"):
        show(browser, pages["modelled"], scheme=scheme)
        found = browser.execute_script(script)
        assert len(found) > 50
        assert [words for contrast, words in found if contrast < 4.5] == [], scheme
