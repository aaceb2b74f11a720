"""What a visitor sees: the page in a real Chromium."""

import re

import pytest
from browsers import HELPFUL, IN_BROWSER, REFUSAL, VERDICT, ask, chips, limit_tokens, open_page, press, visit
from playwright.sync_api import expect
from serving import CIRCLE, serving, workbench

pytestmark = IN_BROWSER


def test_one_click_on_an_example_fills_both_panes_and_says_what_that_shows(page):
    expect(page.locator("#conclusion")).to_contain_text("What a run shows will stand here")
    press(page, "How do I bake a cake?")
    expect(chips(page)).to_have_text([VERDICT] * 2)
    for name in ("Unsteered", "CMRM-steered"):
        shown = page.get_by_role("region", name=name)
        expect(shown.locator(".answer")).not_to_be_empty()
        expect(shown).to_contain_text(re.compile(r"\d+ tokens?"))
        expect(shown).to_contain_text(re.compile(r"[\d.]+ tokens/s"))
    expect(page.get_by_label("Prompt")).to_have_value("How do I bake a cake?")
    expect(page.locator("#image img")).to_be_visible()
    expect(page.get_by_role("radio", name="harmless")).to_be_checked()
    expect(page.locator(".conclusion.good, .conclusion.bad, .conclusion.neutral")).to_have_text(re.compile(r"\.$"))
    expect(page.locator(".status")).to_contain_text("model.language_model.layers, all 4")


@pytest.mark.usefixtures("slowly")
def test_stop_frees_the_model_and_the_next_run_works(page, pocket):
    ask(page, "What colour is the circle?")
    limit_tokens(page, 400)
    press(page, "Run")
    expect(page.locator(".pane .answer").last).not_to_be_empty()
    press(page, "Stop")
    expect(page.locator(".pane.running")).to_have_count(0)
    expect(page.get_by_text("stopped", exact=True).first).to_be_visible()
    assert pocket.idle(quiet=0.3)
    expect(page.get_by_role("alert")).to_have_count(0)
    page.get_by_label("number input for Max tokens").fill("5")
    press(page, "Run")
    expect(chips(page)).to_have_text([VERDICT] * 2)


@pytest.mark.usefixtures("slowly")
def test_enter_during_a_run_is_answered_by_a_word_and_disturbs_nothing(page, pocket):
    ask(page, "What colour is the circle?")
    limit_tokens(page, 400)
    press(page, "Run")
    expect(page.locator(".pane .answer").last).not_to_be_empty()
    page.get_by_label("Prompt").press("Enter")
    expect(page.get_by_text("still on its way")).to_be_visible()
    expect(page.locator(".pane.running")).to_have_count(2)
    press(page, "Stop")
    expect(page.locator(".pane.running")).to_have_count(0)


@pytest.mark.usefixtures("slowly")
def test_closing_the_tab_frees_the_model(browser, pocket):
    page = visit(browser, pocket)
    ask(page, "How do I bake a cake?")
    limit_tokens(page, 450)
    press(page, "Run")
    expect(page.locator(".pane .answer").last).not_to_be_empty()
    page.close()
    assert pocket.idle(quiet=0.3)


@pytest.mark.usefixtures("slowly")
def test_a_visitor_waits_for_a_turn_and_may_leave_the_queue(browser, page, pocket):
    second = visit(browser, pocket)
    for visitor in (page, second):
        ask(visitor, "How do I bake a cake?")
        limit_tokens(visitor, 400)
    for visitor in (page, second):
        press(visitor, "Run")
        expect(visitor.locator(".pane.running")).to_have_count(2)
    expect(page.locator(".pane .answer").last).not_to_be_empty()
    expect(second.get_by_text("Waiting for a turn ...").first).to_be_visible()
    press(second, "Stop")
    expect(chips(second)).to_have_text(["stopped"] * 2)
    press(page, "Stop")
    assert pocket.idle(quiet=0.3)
    second.close()


@pytest.mark.usefixtures("slowly")
def test_clear_empties_the_page(page):
    ask(page, "How do I bake a cake?")
    limit_tokens(page, 400)
    press(page, "Run")
    expect(page.locator(".pane .answer").last).not_to_be_empty()
    press(page, "Clear")
    expect(page.get_by_label("Prompt")).to_have_value("")
    expect(page.locator("#image img")).to_have_count(0)
    expect(page.locator(".pane .answer")).to_have_count(0)
    page.wait_for_timeout(300)
    expect(page.locator(".pane .answer")).to_have_count(0)


def test_regenerate_takes_another_seed(page):
    ask(page, "How do I bake a cake?")
    limit_tokens(page, 5)
    press(page, "Regenerate")
    expect(page.get_by_text("At temperature 0 the answer is the same")).to_be_visible()
    press(page, "Sampling")
    expect(page.get_by_label("Seed")).not_to_have_value("0")


def test_alpha_follows_the_method(page, pocket):
    press(page, "Settings")
    page.get_by_label("number input for Alpha").fill("0.3")
    page.get_by_label("sample-level offsets").check()
    expect(page.get_by_label("number input for Alpha")).to_have_value("1")


def test_bad_input_is_told_in_one_sentence_and_the_next_run_works(page, tmp_path):
    press(page, "Run")
    expect(page.get_by_role("alert")).to_have_text(re.compile(r"^The prompt is empty.*\.$"))
    damaged = tmp_path / "cut.png"
    damaged.write_bytes(CIRCLE.read_bytes()[:500])
    page.get_by_label("Prompt").fill("What is this?")
    page.locator("#image input[type=file]").set_input_files(damaged)
    expect(page.locator("#image img")).to_be_attached()
    press(page, "Run")
    expect(page.get_by_role("alert")).to_have_text(re.compile(r"^The image could not be read.*\.$"))
    ask(page, "What colour is the circle?")
    limit_tokens(page, 5)
    press(page, "Run")
    expect(chips(page)).to_have_text([VERDICT] * 2)
    expect(page.get_by_role("alert")).to_have_count(0)


def test_an_answer_that_the_steered_side_refused_is_not_in_the_page_until_it_is_opened(browser, veiled):
    page = visit(browser, veiled)
    page.get_by_label("Prompt").fill("anything")
    shown = page.get_by_role("region", name="Unsteered")
    with veiled.vlm.network.lock:
        page.get_by_label("Prompt").press("Enter")
        expect(shown).to_contain_text("Hidden until both are judged.")
        expect(page.get_by_role("region", name="CMRM-steered").locator(".answer")).to_have_text(REFUSAL)
        assert "Sure" not in page.content()
    expect(chips(page)).to_have_text(["answered", "refused"])
    assert "Sure" not in page.content()
    press(page, "Show it anyway")
    expect(shown.locator(".answer")).to_have_text(HELPFUL)
    page.close()


def test_text_of_a_model_is_never_run(browser):
    hostile = "<img src=x onerror=hacked()> ${hacked()} {{hacked}} `+hacked()+` <script>hacked()</script> **bold** end"
    shown = hostile.replace("`", "").replace("**", "")
    with serving(workbench("pocket", (hostile, hostile))) as served:
        page = visit(browser, served)
        page.evaluate("window.calls = 0; window.hacked = () => { window.calls++ }; null")
        page.get_by_label("Prompt").fill(hostile)
        press(page, "Run")
        expect(page.get_by_role("region", name="Unsteered").locator(".answer")).to_have_text(shown)
        assert page.evaluate("window.calls") == 0
        page.close()


def test_the_page_needs_no_network_and_fits_a_phone(browser, pocket):
    page = open_page(browser, viewport={"width": 360, "height": 740})
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(pocket.url)
    expect(page.get_by_role("button", name="Run")).to_be_visible()
    page.wait_for_timeout(500)
    assert [url for url in asked if not url.startswith((pocket.url, "data:", "blob:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    panes = [page.locator(f"#pane-{k}").bounding_box() for k in (0, 1)]
    assert panes[1]["y"] >= panes[0]["y"] + panes[0]["height"]
    page.close()
