"""The manual of the equations: it says what the catalogue says, its examples run, its numbers are the formulas' own."""

from __future__ import annotations

import doctest
import importlib
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from ergometry import equations as eq
from ergometry.cli.equations import _markdown
from ergometry.equations.catalogue import CATALOGUE

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {path.name[0]: path for path in (DOCS / "equations").glob("[1-9]-*.md")}
WRITTEN = [DOCS / "equations.md", DOCS / "physics.md", *sorted((DOCS / "equations").glob("*.md"))]


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def anchor(heading: str) -> str:
    return "".join(c for c in heading.lower() if c.isalnum() or c in " -_").replace(" ", "-")


def part(section_id: str) -> str:
    """Return what a page says of one section, from its heading to the next."""
    entry = CATALOGUE[section_id]
    begun = text(PAGES[section_id[0]]).split(f"\n## {entry.id} {entry.title}\n")
    assert len(begun) == 2, f"the page of {section_id} has no heading '## {entry.id} {entry.title}'"
    return begun[1].split("\n## ")[0]


# What the catalogue says


@pytest.mark.parametrize("section_id", CATALOGUE)
def test_a_section_has_its_formula_verdict_repair_advice_and_the_catalogues_own_names(section_id):
    """If rows are missing here: they are those of `erg equations ID --format markdown`."""
    entry, page = CATALOGUE[section_id], part(section_id)
    assert f"\n    {entry.as_written}\n" in page
    for words in (f"**Verdict: {entry.verdict_text}", "**Repair", "**From a run", "**What to do with it.**"):
        assert words in page
    rows = [line for line in _markdown(entry).splitlines() if line.startswith("|")]
    assert [row for row in rows if row not in page] == []
    assert all(reference in page for reference in entry.references)
    for symbol in entry.symbols:
        cell = symbol.symbol.replace("*", r"\*").replace("|", r"\|")
        assert f"| {cell} | `{symbol.unit or '1'}` |" in page


@pytest.mark.parametrize("section_id", CATALOGUE)
def test_no_page_has_a_name_that_the_catalogue_does_not_have(section_id):
    named = re.findall(r"^\| `(\w+)` \| `[^`]*` \| (?:as written|repair) \|", part(section_id), re.MULTILINE)
    assert named == list(CATALOGUE[section_id].names)


def test_the_entrance_has_every_section_with_its_verdict_and_a_link_to_its_heading():
    rows = {row.split("]")[0][3:]: row for row in text(DOCS / "equations.md").splitlines() if row.startswith("| [")}
    assert list(rows) == list(CATALOGUE)
    for section_id, entry in CATALOGUE.items():
        link = f"(equations/{PAGES[section_id[0]].name}#{anchor(f'{entry.id} {entry.title}')})"
        assert link in rows[section_id]
        assert f"| {entry.verdict_text} |" in rows[section_id]


def test_the_shares_of_the_step_time_are_those_of_the_taps():
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([\d.]+) % / ([\d.]+) % \| `", text(DOCS / "physics.md"), re.MULTILINE)
    found = {tap: (float(light), float(full)) for tap, light, full in rows}
    taps = importlib.import_module("ergometry.integrations.physics.taps").TAPS
    modules = {name: importlib.import_module(f"ergometry.integrations.physics.{name}") for name, *_ in taps}
    shares = {name: module for name, module in modules.items() if hasattr(module, "_FULL_SHARE")}
    assert found == {name: pytest.approx((100 * m._SHARE, 100 * m._FULL_SHARE)) for name, m in shares.items()}
    assert all(f"| `{name}` |" in text(DOCS / "physics.md") for name in modules)
    told = [found for path in PAGES.values() for found in re.findall(r"tap `(\w+)`, ([\d.]+) %", text(path))]
    assert {tap for tap, _ in told} >= {"first_law", "noise", "path", "length", "curvature"}
    assert [(tap, float(share)) for tap, share in told if tap in found and float(share) != found[tap][0]] == []
    allowed = importlib.import_module("ergometry.integrations.physics.purse").ALLOWED
    assert f"one purse. It holds {100 * allowed:g} % of the time" in text(DOCS / "physics.md")


# What runs

BLOCKS = [
    pytest.param(path.name, code, id=f"{path.stem}-{number}")
    for path in WRITTEN
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", text(path), re.DOTALL))
]


@pytest.mark.parametrize(("name", "code"), BLOCKS)
def test_an_example_prints_what_the_page_says(name, code):
    example = doctest.DocTestParser().get_doctest(code, {}, name, name, 0)
    assert example.examples
    said: list[str] = []
    failed = doctest.DocTestRunner(verbose=False).run(example, out=said.append).failed
    assert not failed, "".join(said)


# What is quoted

X, TAU = 2.0, 10.0
"""The dragged trap."""

TIMES = np.linspace(0.0, TAU, 10_001)
RATES = eq.drag_information_rate(X, TAU, TIMES)
DRAG = eq.trap_drag_work(X, TAU)
KNOWN = eq.drag_information(X, TAU)
HEAT = eq.trap_drag_heat(X, TAU)
GPT3_J, GPT3_BIT = 1287e6 * 3600.0, 3e11 * 2.2
WORST = 1.0 / math.log(1.5) - 2.0


def corners(static_w: float) -> list[str]:
    """Return the three batch sizes of 6.1's example, throughput-bound, corner and latency-bound."""
    sizes = (500 * 2 / (0.05 + static_w * 1e-4)) ** 0.5, 0.02 / 1e-4, (500 * (2 + static_w * 0.02) / 0.05) ** 0.5
    return [f"{size:.0f}" for size in sizes]


def excess(factor: float, static_w: float) -> float:
    """Return the energy at so many times 6.1's optimum, over the least."""
    model = {"critical_batch": 500.0, "e0d": 2.0, "e1d": 0.05, "static_w": static_w, "tau0": 0.02, "tau1": 1e-4}
    best = eq.roofline_batch(**model)
    return float(eq.roofline_energy(factor * best, **model) / eq.roofline_energy(best, **model))


QUOTED = {
    "1.1": [
        f"{GPT3_J:.2e}".replace("e+", "e") + " J",
        f"worth {eq.useful_work(GPT3_BIT * math.log(2)):.1e} J".replace("e-0", "e-"),
        f"a fraction of {eq.useful_work(GPT3_BIT * math.log(2)) / GPT3_J:.1e}",
        f"the drag costs W = {DRAG:.4f} and the best protocol {eq.trap_optimal_work(X, TAU):.4f}",
    ],
    "1.2": [f"At 300 K that is {eq.landauer_energy(300.0):.2e} J"],
    "2.1": [f"{100 * 256_646 / (433_196 + 256_646):.1f} % of the two"],
    "2.2": [
        f"a factor of {6 * 32 * 1024}",
        f"{eq.flop_energy(700.0, 989e12) * 1e12:.2f} pJ/FLOP",
        f"{30.84e6 * 3600 * 700 / 3.8e25 * 1e12:.2f} pJ/FLOP for Llama",
        f"an MFU of {100 * 3.8e25 / (30.84e6 * 3600 * 989e12):.1f} %",
    ],
    "3.1": [
        f"I = {eq.quench_information(1.0, math.inf):.4f} nat, Q/T = {eq.quench_heat(1.0, math.inf):.1f}",
        f"η = {eq.quench_efficiency(1.0):.4f}",
        f"p_C = {eq.hebbian_accuracy(1.0, 1.0):.4f} and η = {eq.hebbian_efficiency(1.0, 1.0):.4f}",
        f"1/π = {1 / math.pi:.4f}",
    ],
    "4.1": [
        f"the bound is −{-eq.excess_loss_as_written(1.0, eq.trap_optimal_work(X, TAU), DRAG):.4f}",
        f"that is {eq.stationary_variance(1.5, 1.0, 1.0):.3f}",
        f"the first order gives {2 * eq.stationary_loss_floor(1.5, 1.0, 1.0):.2f}",  # L − L* = ½·a·variance
    ],
    "4.2": [
        f"{HEAT:.3f} ≥ {eq.least_entropy_production(X * 0.9**2, TAU):.3f}",
        f"gives {eq.friction_work(X, TAU):.4f}, above the optimum {eq.trap_optimal_work(X, TAU):.4f}",
    ],
    "5.1": [
        f"gives {eq.max_step_rate_as_written(300.0, 1e9, 1e-12):,.0f} steps/s".replace(",", " "),
        f"100 W static that is {eq.energy_optimal_power(100.0, 3.0):.0f} W",
    ],
    "5.2": [
        f"would need {eq.least_time_as_written(GPT3_BIT, 1e6):.1e} s",
        f"t ≥ {KNOWN:.4f}/{eq.drag_power(X, TAU, TAU):.4f} = {KNOWN / eq.drag_power(X, TAU, TAU):.1f}. It took 10",
        f"on the drag {eq.least_time(X * 0.9**2, HEAT):.2f} ≤ {TAU:.0f}",
    ],
    "6.1": [
        "With 60 W idle the three are {}, {} and {}".format(*corners(60.0)),
        f"B* = {float(eq.roofline_batch(500.0, 2.0, 0.05, 60.0, 0.02, 1e-4)):.0f}",
        f"With 240 W they are {', '.join(corners(240.0))}",
        f"a factor of ten {excess(0.1, 0.0):.1f} to {excess(0.1, 240.0):.1f} times",
    ],
    "6.3": [
        f"needs {eq.least_power_as_written(1e12, 3600.0):.1e} W",
        f"it needs {KNOWN / TAU:.4f} of power",
        f"Its largest is {eq.drag_power(X, TAU, TAU):.4f}",
    ],
    "7.2": [f"½ln 4 = {0.5 * math.log(4.0):.4f}", f"Q = {eq.heat(0.5 * math.log(4.0), 0.0):.4f}"],
    "8.1": [
        f"least, {eq.schedule_speed_factor(WORST):.4f}, at α = {WORST:.3f}",
        f"up to {100 * (1 - eq.schedule_speed_factor(WORST)):.2f} %",
    ],
    "8.2": [
        f"B_H = {eq.curvature_batch(16.0, 8.0):.0f} and η = {eq.optimal_learning_rate(4.0, 8.0, 16.0, 2.0)}",
        f"at a very large batch {eq.optimal_learning_rate(4.0, 8.0, 16.0, math.inf)}",
        f"the edge is at {eq.stability_limit(4.0, 0.9)}",
    ],
    "9.1": [
        f"could pay for {eq.information_as_written(1.0):.2e} bit",
        f"= {KNOWN:.4f} nat,     W = {DRAG:.4f}",
        f"{KNOWN:.4f} + {HEAT:.4f} = {eq.largest_information(KNOWN, HEAT):.4f} nat",
    ],
    "9.2": ["2.5 and 7.5", "that is 1 and 9 J"],
    "9.3": [
        f"is {RATES.max():.4f} at its largest (t = {TIMES[RATES.argmax()]:.1f})",
        f"= {eq.drag_power(X, TAU, TIMES).max():.4f} at the end",
        f"{eq.quench_information_rate(1.0, np.log(2.0)):.2f} ≤ 0.20 + {eq.quench_heat_rate(1.0, np.log(2.0)):.2f}",
    ],
}


@pytest.mark.parametrize("section_id", QUOTED)
def test_a_number_that_a_page_quotes_is_what_the_formula_gives(section_id):
    said = " ".join(part(section_id).split())
    assert [words for words in QUOTED[section_id] if " ".join(words.split()) not in said] == []


def test_every_verdict_that_is_not_exact_or_a_model_has_its_counterexample_in_numbers():
    judged = {i for i, entry in CATALOGUE.items() if re.search("false|vacuous", entry.verdict_text)}
    assert judged <= set(QUOTED)


def test_half_and_double_the_best_batch_cost_a_tenth_to_a_fifth():
    assert all(0.05 < excess(factor, idle) - 1.0 < 0.25 for factor in (0.5, 2.0) for idle in (0.0, 60.0, 240.0))


def test_the_trap_passes_the_bound_at_about_three():
    work = X / TAU**2 * (TIMES - 1.0 + np.exp(-TIMES))
    above = TIMES[eq.drag_information(X, TAU, TIMES) > work]
    assert above.min() == pytest.approx(3.0, abs=0.2)
    assert above.max() == TAU


# What is linked

LINKS = [
    pytest.param(path, link, id=f"{path.stem}:{link}")
    for path in WRITTEN
    for link in sorted(set(re.findall(r"\]\(([^)\s]+)\)", text(path))))
    if "://" not in link
]


@pytest.mark.parametrize(("path", "link"), LINKS)
def test_a_link_leads_to_a_file_and_to_a_heading_in_it(path, link):
    name, _, heading = link.partition("#")
    target = (path.parent / name).resolve() if name else path
    assert target.is_file()
    if heading:
        assert heading in {anchor(line.lstrip("# ")) for line in text(target).splitlines() if line.startswith("#")}


def test_every_figure_is_shown_small_and_made_by_the_script():
    script = importlib.import_module("benchmarks.figures")
    shown = {Path(link).stem for path in WRITTEN for link in re.findall(r"!\[[^\]]+\]\(([^)]+\.svg)\)", text(path))}
    stored = {path.stem: path for path in (DOCS / "figures").glob("*.svg")}
    assert shown == set(stored) == set(script.FIGURES)
    for path in stored.values():
        assert path.stat().st_size <= script.MOST_BYTES
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
