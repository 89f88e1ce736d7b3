"""Renderers: each format of each kind of run, and what a page may and may not hold."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from ergometry.core import series
from ergometry.core.errors import UsageError
from ergometry.core.run import Table
from ergometry.report import FORMATS, render, summary
from support.odd_runs import ODD_RUNS, hostile, memory_and_core, modelled, wave
from support.synthetic import synthetic_run

VOID = {"meta", "link", "br", "img", "input", "hr", "path"}


class Page(HTMLParser):
    """Reads a page: its elements, their balance, and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.scripts: dict[str, str] = {}
        self.words = ""
        self._script: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self._script = dict(attrs).get("id") or f"script{len(self.scripts)}"
            self.scripts[self._script] = ""

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self._script = None

    def handle_data(self, data):
        if self._script is not None:
            self.scripts[self._script] += data
        elif "style" not in self.open:
            self.words += data


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """Return the page of every kind of run."""
    return {kind: render(make(), "html") for kind, make in ODD_RUNS.items()}


@pytest.mark.parametrize("kind", ODD_RUNS)
@pytest.mark.parametrize("form", ["text", "markdown"])
def test_every_run_can_be_told(kind, form):
    run = ODD_RUNS[kind]()
    told = render(run, form)
    assert run.status in told
    assert kind == "hostile" or (run.meta.get("name") or run.id) in told
    assert not re.search(r"\bnan\b", told)
    assert "None" not in told


@pytest.mark.parametrize("kind", ODD_RUNS)
def test_every_page_is_whole(kind, pages):
    page = Page(pages[kind])
    assert page.open == []
    assert ODD_RUNS[kind]().status in page.words
    assert "None" not in page.words
    assert not re.search(r"\bnan\b", page.words)


def test_there_is_no_other_format():
    with pytest.raises(UsageError, match=r"expected a format of text, json, html, markdown, got pdf"):
        render(synthetic_run(1), "pdf")
    assert set(FORMATS) == {"text", "json", "html", "markdown"}


@pytest.mark.parametrize("kind", ODD_RUNS)
@pytest.mark.parametrize("width", [60, 80, 132])
def test_text_keeps_within_its_columns_and_has_no_codes(kind, width):
    told = render(ODD_RUNS[kind](), "text", width=width)
    assert "\x1b" not in told
    assert max(len(line) for line in told.splitlines()) <= width


def test_text_has_colour_when_asked():
    assert "\x1b[" in render(synthetic_run(3), "text", colour=True)


def test_modelled_joules_never_look_measured_in_text():
    assert "█" not in render(modelled(), "text")
    assert "░" in render(modelled(), "text")
    assert "░" not in render(synthetic_run(), "text")
    assert "they are modelled" in " ".join(render(modelled(), "text").split())


def test_markdown_tables_keep_their_columns_whatever_the_labels():
    for line in render(hostile(), "markdown").splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (4, 5, 6)


def test_markdown_holds_no_html_of_the_run_s():
    told = render(hostile(), "markdown")
    outside_code = re.sub(r"(`{3,})sh\n.*?\n\1", "", told, flags=re.DOTALL)
    assert "<script" not in outside_code


@pytest.mark.parametrize("kind", ODD_RUNS)
def test_a_page_asks_nothing_of_the_network(kind, pages):
    page = Page(pages[kind])
    for _, attributes in page.elements:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert (attributes.get(name) or "data:,").startswith(("data:", "#"))
    (policy,) = [a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy
    style = pages[kind].partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


@pytest.mark.parametrize("kind", ODD_RUNS)
def test_a_page_holds_its_summary(kind, pages):
    embedded = Page(pages[kind]).scripts["summary"]
    assert json.loads(embedded) == json.loads(render(ODD_RUNS[kind](), "json"))
    assert "<" not in embedded


def test_labels_cannot_become_markup(pages):
    page = Page(pages["hostile"])
    assert len(page.scripts) == 4  # summary, plots, the plotting library and the page's own
    assert "alert(1)" not in page.scripts.get("script3", "")
    assert "</script><script>alert(1)</script>" in page.words


def test_the_plotting_library_closes_no_script():
    from plotly.offline import get_plotlyjs

    assert "</script" not in get_plotlyjs().lower()


def quantities(page: Page) -> dict[str, dict[str, str | None]]:
    return {a["data-key"]: a for tag, a in page.elements if tag == "data" and a.get("data-key")}


def test_the_numbers_of_a_page_are_the_summary_s(pages):
    document, shown = summary(ODD_RUNS["measured"]()), quantities(Page(pages["measured"]))
    total = document["energy"]["total"]
    assert float(shown["energy.total"]["value"]) == total["value"]
    assert float(shown["energy.total"]["data-stderr"]) == total["stderr"]
    assert shown["energy.total"]["data-provenance"] == "measured"
    for phase, q in document["energy"]["by_phase"].items():
        assert float(shown[f"energy.by_phase.{phase}"]["value"]) == q["value"]
    written = document["equations"]["2.1"]["as_written"]
    known = {name: q["value"] for name, q in written.items() if q["value"] is not None}
    assert known
    for name, value in known.items():
        assert float(shown[f"equations.2.1.as_written.{name}"]["value"]) == value


def test_a_page_has_every_equation_with_its_verdict(pages):
    page = Page(pages["measured"])
    assert [a["data-equation"] for tag, a in page.elements if tag == "details"] == list(
        summary(synthetic_run(2))["equations"]
    )
    assert any("verdict false" in (a.get("class") or "") for _, a in page.elements)


def drawn(page: Page) -> list[dict[str, str | None]]:
    """Return what is drawn in a colour of its own: swatches and bars."""
    return [a for _, a in page.elements if "--c:" in (a.get("style") or "") and "--communication" not in a["style"]]


def test_modelled_joules_never_look_measured_on_a_page(pages):
    shown = Page(pages["modelled"])
    energies = [a for key, a in quantities(shown).items() if key.startswith("energy.by_phase")]
    assert {a["data-provenance"] for a in energies} == {"modelled"}
    bars = [a for a in drawn(shown) if "width" in a["style"]]
    assert bars
    assert all("hatched" in (a.get("class") or "") for a in bars)
    assert not any("hatched" in (a.get("class") or "") for a in drawn(Page(pages["measured"])))


def test_a_run_in_progress_says_so(pages):
    assert "in progress" in pages["in progress"]
    assert "This run has run for" in pages["in progress"]


def test_where_the_energy_is_not_known_the_time_still_is(pages):
    table = pages["no samples"].partition('id="by-phase"')[2].partition("</table>")[0]
    assert "no power source was read" in table
    assert ">200 ms</td>" in table  # backward, of five steps


def test_every_domain_is_listed_and_none_of_them_summed():
    told = render(memory_and_core(), "text")
    table = told.partition("Energy by domain")[2].partition("Equations")[0]
    assert all(path in table for path in ("node0/package0", "node0/package0/core", "node0/dram0", "node0/gpu0"))
    assert "%" not in table


def test_findings_and_warnings_are_told_in_every_format():
    for form in FORMATS:
        told = " ".join(render(modelled(), form).split())
        assert "no power sensor could be read: no /sys/class/powercap/intel-rapl" in told, form
        assert "waited for data 25" in told.replace("\xa0", " "), form


def test_a_story_says_what_was_spent_and_what_it_bought():
    told = " ".join(render(synthetic_run(power_w=wave), "text").split()).replace("\xa0", " ")
    assert "for 200 steps on 6 400 examples (409 600 tokens)" in told
    assert "the loss fell from 5.500 to 2.127" in told


def test_a_loss_that_ended_as_no_number_or_was_never_seen_is_told_so():
    run = synthetic_run(50)
    rows = run.table(series.LOSSES).rows.copy()
    rows[-5:, 2] = math.nan
    for losses, said in (
        (rows, "ended as no finite number"),
        (rows[:0], "no loss was seen"),
    ):
        changed = replace(run, tables={**run.tables, "losses": Table(series.LOSSES.columns, losses)})
        assert said in " ".join(render(changed, "text").split()), said
