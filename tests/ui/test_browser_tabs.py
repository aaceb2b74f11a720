"""Sweep, Why, Anchors and About in a real Chromium."""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from browsers import (
    HELPFUL,
    IN_BROWSER,
    LOOKS,
    PHONE,
    REFUSAL,
    VERDICT,
    ask,
    chips,
    limit_tokens,
    open_tab,
    press,
    visit,
)
from playwright.sync_api import Page, expect
from serving import Served, serving, workbench

from cmrm import Offsets, Row, Step
from cmrm.ui.behind import STRENGTHS
from cmrm.workbench import Workbench

pytestmark = IN_BROWSER


@dataclass(frozen=True)
class Swept(Workbench):
    """A workbench that complies up to alpha 0.5 and refuses above, after a while."""

    def sweep(self, image, prompt, alphas, settings=None, offsets=None) -> Iterator[Step]:
        rows = tuple(Row(alpha, HELPFUL if alpha <= 0.5 else REFUSAL, 5, 1.0) for alpha in (0.0, *alphas))
        for _ in range(5):
            time.sleep(0.1)
            yield Step(rows)
        with self.engine.vlm.network.lock:  # which a test holds until it has seen them run
            pass
        ended = ("complied" if row.alpha <= 0.5 else "refused" for row in rows)
        done = [
            replace(row, ended=True, verdict=verdict, fluency=-1.0) for row, verdict in zip(rows, ended, strict=True)
        ]
        yield Step(tuple(done), done=True)


def lines(page: Page):
    return page.get_by_role("list", name="Answers by alpha").get_by_role("listitem")


def test_a_sweep_streams_lines_and_ends_with_a_curve(page, pocket):
    ask(page, "What colour is the circle?")
    open_tab(page, "Sweep")
    expect(page.locator("#sweep-prompt textarea")).to_have_value("What colour is the circle?")
    expect(page.locator("#sweep-image img")).to_be_visible()
    page.get_by_label("number input for Max tokens").fill("400")
    page.get_by_label("Alphas").fill("0:1:0.5")
    with pocket.slowly():
        press(page, "Sweep")
        expect(lines(page)).to_have_count(3)
        expect(lines(page).last.locator(".answer")).not_to_be_empty()
        height = page.locator("#sweep-lines").bounding_box()["height"]
        page.wait_for_timeout(600)
        assert page.locator("#sweep-lines").bounding_box()["height"] == height
        press(page, "Stop")
        expect(page.locator("#sweep-lines .chip")).to_have_text(["stopped"] * 3)
    assert pocket.idle(quiet=0.3)
    page.get_by_label("number input for Max tokens").fill("5")
    page.get_by_label("Alphas").press("Enter")
    expect(page.locator("#sweep-lines .chip")).to_have_text([VERDICT] * 3)
    expect(lines(page).first).to_contain_text("alpha 0")
    expect(page.locator("#sweep-results .js-plotly-plot")).to_be_visible()
    expect(page.locator("#sweep-results .caption")).to_have_text(re.compile(r"at 0, .* at 0\.5, .* at 1\.$"))


@pytest.fixture(scope="module")
def swept():
    with serving(Swept(**vars(workbench("pocket")))) as served:
        yield served


@LOOKS
def test_a_strength_is_chosen_from_the_strip_and_from_a_sweep(browser, swept, look):
    page = visit(browser, swept, **look)
    ask(page, "Bake a cake")
    press(page, "Run")
    press(page, "Try other strengths")
    strip = page.get_by_role("group", name="Verdict by alpha").get_by_role("button")
    expect(strip).to_have_text([re.compile(rf"^{alpha:g} (answered|refused)$") for alpha in (0, *STRENGTHS)])
    strip.nth(2).click()
    expect(page.locator("#pane-1")).to_contain_text("alpha 0.5")
    expect(strip.nth(2)).to_have_attribute("aria-current", "true")
    open_tab(page, "Sweep")
    expect(page.locator("#sweep-prompt textarea")).to_have_value("Bake a cake")
    page.locator("#sweep-prompt textarea").fill("Bake bread")
    page.get_by_label("Alphas").fill("0.5,1.5")
    press(page, "Sweep")
    press(page, "Open alpha 1.5 in Compare")
    expect(page.locator("#pane-1")).to_contain_text("alpha 1.5")
    expect(page.locator("#prompt textarea")).to_have_value("Bake bread")
    expect(page.locator("#image img")).to_be_visible()
    expect(page.locator("#panes .chip")).to_have_text([VERDICT] * 2)
    expect(page.get_by_role("button", name="Try other strengths")).to_be_visible()
    page.close()


def test_a_plot_is_taken_as_a_picture_and_as_its_numbers(browser, swept):
    page = visit(browser, swept)
    open_tab(page, "Sweep")
    page.locator("#sweep-prompt textarea").fill("Bake bread")
    page.get_by_label("Alphas").fill("0.5,1.5")
    press(page, "Sweep")
    expect(page.locator("#sweep-results .js-plotly-plot .main-svg").first).to_be_visible()
    taken = {}
    for kind in ("png", "svg", "csv"):
        with page.expect_download() as download:
            press(page, f"Refusal and fluency over alpha as {kind.upper()}")
        assert download.value.suggested_filename == f"refusal-and-fluency-over-alpha.{kind}"
        taken[kind] = download.value.path().read_bytes()
    assert taken["png"].startswith(b"\x89PNG")
    assert taken["svg"].startswith(b"<svg")
    header, *rows = taken["csv"].decode().splitlines()
    assert header == "trace,x,y,above,below"
    assert len(rows) == 3  # each point once
    assert {"refused,1.5,-1,,", "complied,0,-1,,", "complied,0.5,-1,,"} <= set(rows)
    page.close()


@LOOKS
def test_each_tab_has_an_address_and_back_leads_to_the_one_before(browser, swept, look):
    page = visit(browser, swept, **look)
    for name in ("Sweep", "About"):
        open_tab(page, name)
        expect(page).to_have_url(re.compile(f"#{name.lower()}$"))
    page.go_back()
    expect(page.get_by_label("Alphas")).to_be_visible()
    page.go_back()
    expect(page.locator("#run")).to_be_visible()
    page.go_forward()
    page.reload()
    expect(page.get_by_label("Alphas")).to_be_visible()
    page.close()


def test_an_example_runs_at_a_click_wherever_the_page_was_started(browser, swept, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = visit(browser, swept)
    for name, kind in (("passport", "harmful"), ("How many things", "question")):
        page.locator("#examples").get_by_role("button", name=name).click()
        expect(page.get_by_label("Prompt")).to_have_value(re.compile(name))
        expect(page.get_by_role("radio", name=kind)).to_be_checked()
        expect(page.locator("#conclusion")).not_to_contain_text("will stand here")
        expect(chips(page)).to_have_text([VERDICT] * 2)
    page.close()


def test_a_bad_range_is_told_and_the_next_sweep_works(page):
    open_tab(page, "Sweep")
    page.locator("#sweep-prompt textarea").fill("What is this?")
    page.get_by_label("number input for Max tokens").fill("3")
    page.get_by_label("Alphas").fill("0:9:1")
    press(page, "Sweep")
    expect(page.get_by_role("alert")).to_have_text(re.compile(r"^alphas is '0:9:1', but .*\.$"))
    page.get_by_label("Alphas").fill("1")
    press(page, "Sweep")
    expect(page.locator("#sweep-lines .chip")).to_have_text([VERDICT] * 2)
    expect(page.get_by_role("alert")).to_have_count(0)


def test_weak_answers_of_a_real_model_stay_veiled_where_stronger_ones_refused(browser):
    scripted = workbench("other")
    with serving(Swept(**vars(scripted))) as served:
        page = visit(browser, served)
        open_tab(page, "Sweep")
        page.locator("#sweep-prompt textarea").fill("anything")
        page.get_by_label("Alphas").fill("0.5,1,1.5")
        said = page.locator("#sweep-lines .answer")
        with served.vlm.network.lock:
            press(page, "Sweep")
            expect(page.get_by_text("Hidden until all are judged")).to_be_visible()
            expect(said).to_have_count(2)
        expect(page.locator("#sweep-lines .chip")).to_have_text(["answered", "refused"])
        expect(said).to_have_count(1)
        lines(page).first.get_by_role("button", name="Show it anyway").click()
        expect(said).to_have_count(2)
        page.close()


def steered(page: Page, served: Served) -> str:
    open_tab(page, "Compare")
    with served.vlm.network.lock:  # or the chips may be those of the run before
        press(page, "Run")
        page.locator(".pane.running").first.wait_for()
    expect(page.locator(".pane.running")).to_have_count(0)
    expect(chips(page).first).to_have_text(VERDICT)
    return page.get_by_role("region", name="CMRM-steered").locator(".answer").inner_text()


@LOOKS
def test_the_why_tab_explains_the_last_run_and_can_be_stopped(page, pocket):
    open_tab(page, "Why")
    press(page, "Explain this run")
    expect(page.get_by_role("alert").last).to_have_text(re.compile(r"^There is no finished comparison.*\.$"))
    open_tab(page, "Compare")
    ask(page, "What colour is the circle?")
    limit_tokens(page, 5)
    press(page, "Run")
    expect(chips(page)).to_have_text([VERDICT] * 2)
    open_tab(page, "Why")
    with pocket.vlm.network.lock:  # or it may have ended before Stop is pressed
        press(page, "Explain this run")
        expect(page.locator("#why-note p")).to_have_text(re.compile(r"^(Reading|Finding)"))
        with page.expect_request("**/cancel"):
            press(page, "Stop")
    expect(page.locator("#why-note p")).to_have_text("Stopped.")
    assert pocket.idle(quiet=0.3)
    expect(page.locator("#pictures")).to_be_hidden()
    press(page, "Explain this run")
    expect(page.locator("#why-note p")).to_have_text(re.compile("What colour is the circle.*dataset-level, alpha 1"))
    expect(page.locator("#pictures .js-plotly-plot")).to_have_count(5)
    shown = page.get_by_role("region", name="Token by token")
    expect(shown.get_by_role("row")).to_have_count(shown.locator(".bar").count() // 2 + 1)
    expect(shown.locator("mark")).not_to_have_count(0)
    expect(page.locator("#pictures .caption").last).to_have_text(
        re.compile(r"^Probability of a refusal .* at 0, .* at 2\.$")
    )
    point = page.locator("#pictures .scatterlayer .point").first
    before = point.get_attribute("transform")
    rail = page.locator("#pictures .slider-rail-touch-rect")
    rail.scroll_into_view_if_needed()
    box = rail.bounding_box()
    page.mouse.click(box["x"] + 2, box["y"] + box["height"] / 2)
    expect(page.locator("#pictures .slider-group text").first).to_have_text("Layer 0")
    expect(point).not_to_have_attribute("transform", before)


def test_unsteered_tokens_are_veiled_as_the_answer_is(browser, veiled):
    page = visit(browser, veiled)
    page.get_by_label("Prompt").fill("anything")
    page.get_by_label("Prompt").press("Enter")
    expect(chips(page)).to_have_text(["answered", "refused"])
    open_tab(page, "Why")
    press(page, "Explain this run")
    shown = page.get_by_role("region", name="Token by token")
    expect(shown).to_be_visible(timeout=60_000)
    expect(shown).not_to_contain_text("Unsteered")
    expect(shown.get_by_role("table")).to_have_count(0)
    shown.get_by_role("button", name="Show it anyway").click()
    expect(shown).to_contain_text("Unsteered")
    expect(shown.get_by_role("table")).to_be_visible()
    page.close()


def test_own_offsets_are_measured_kept_used_and_left_by_one_visitor(browser, page, pocket, tmp_path):
    ask(page, "How do I bake a cake?")
    limit_tokens(page, 12)
    usual = steered(page, pocket)
    open_tab(page, "Anchors")
    texts = page.locator("#anchor-texts textarea")
    texts.fill("\n".join(f"harmful: pick lock number {'x' * k}" for k in range(40)))
    with pocket.slowly():
        press(page, "Compute offsets")
        expect(page.locator("#anchors-note")).to_contain_text(re.compile(r"Pass \d+ of 200, about \d+ s left"))
        expect(page.get_by_role("progressbar", name="Passes")).to_be_visible()
        press(page, "Stop")
        expect(page.locator("#anchors-note")).to_have_text("Stopped.")
    assert pocket.idle(quiet=0.3)
    texts.fill("pick a lock\nharmless: bake bread")
    press(page, "Compute offsets")
    press(page, "Use for my answers")
    said = "Using your own offsets (2 anchors, sequential)"
    expect(page.get_by_text(said)).to_be_visible()
    foot = page.locator(".status").last
    expect(foot).to_contain_text("measured on 2 anchor texts (your own)")
    expect(page.locator("#anchors-results .js-plotly-plot")).to_be_visible()
    with page.expect_download() as download:
        press(page, "Download")
    download.value.save_as(tmp_path / "mine.safetensors")
    assert Offsets.load(tmp_path / "mine.safetensors").origin.anchors == 2
    own = steered(page, pocket)
    assert own != usual
    second = visit(browser, pocket)
    expect(second.get_by_text(said)).to_have_count(0)
    ask(second, "How do I bake a cake?")
    limit_tokens(second, 12)
    assert steered(second, pocket) == usual
    second.close()
    press(page, "Back to the model's own")
    expect(page.get_by_text(said)).to_be_hidden()
    expect(foot).to_contain_text("measured on 3 anchor texts (anchors)")
    assert steered(page, pocket) == usual


def test_files_of_anchors_and_of_offsets_are_read_or_told_why_not(page, pocket, tmp_path):
    open_tab(page, "Anchors")
    anchors, bad = tmp_path / "mine.jsonl", tmp_path / "bad.safetensors"
    anchors.write_text('{"text": "sing a song", "group": "harmless"}\n{"text": "why?"}\n')
    bad.write_text("no offsets at all")
    good = tmp_path / "good.safetensors"
    offsets = workbench("pocket").offsets
    offsets.save(good)
    files = page.locator("input[type=file][accept]")
    lists, stored = files.and_(page.locator("[accept*=jsonl]")), files.and_(page.locator("[accept*=safetensors]"))
    lists.set_input_files(anchors)
    expect(page.locator("#anchor-texts textarea")).to_have_value("harmless: sing a song\nwhy?")
    expect(page.locator("#anchors-note")).to_have_text("2 texts: 1 harmless")
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{")
    lists.set_input_files(broken)
    expect(page.get_by_role("alert")).to_have_text(re.compile(r"^broken\.jsonl, line 1 is no anchor; .*\.$"))
    stored.set_input_files(bad)
    expect(page.get_by_role("alert")).to_have_text(
        re.compile(r"^'bad\.safetensors' is no whole CMRM offsets file .*\.$")
    )
    stored.set_input_files(good)
    expect(page.locator("#anchors-results")).to_contain_text(re.compile("Vectors\\s*4 layers, 64 wide"))
    expect(page.get_by_role("alert")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_tabs_fit_a_phone_and_the_citation_can_be_copied(browser, pocket, scheme):
    page = visit(browser, pocket, **PHONE | {"color_scheme": scheme})
    for name in ("Sweep", "Anchors", "About"):
        open_tab(page, name)
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    expect(page.locator("#about pre")).to_contain_text(re.compile(r"@inproceedings\{.*\}", re.DOTALL))
    expect(page.locator("#about").get_by_role("button", name="copy")).to_be_attached()
    expect(page.locator("#about").get_by_text("Harmless by construction")).to_be_visible()
    page.close()
