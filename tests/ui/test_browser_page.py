"""What a visitor does besides running: votes, keys, copies, links, earlier runs; and whether everyone can."""

import json
import re
import time
import urllib.request

import pytest
from axe_playwright_python.sync_playwright import Axe
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
    open_page,
    open_tab,
    press,
    visit,
)
from gradio_client import Client
from PIL import Image
from playwright.sync_api import Page, expect
from serving import Scripted, Served, serving, workbench

from cmrm import Row, Step
from cmrm.data.records import LABELS

pytestmark = IN_BROWSER

PROMPT = "Bake a cake"  # of words that the pocket model knows

# Note at each frame that is painted while both answers run where what follows them begins.
WATCH_SHARE = """() => {
  window.tops = []
  const look = () => {
    const top = document.getElementById("share").getBoundingClientRect().top + scrollY
    if (document.querySelectorAll(".pane.running").length == 2) tops.push(top)
    requestAnimationFrame(look)
  }
  look()
}"""


# Add up how far what is seen moves by itself.
WATCH_SHIFTS = """
window.shifted = 0
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) shifted += entry.value
}).observe({type: "layout-shift", buffered: true})
"""

# Paste a picture of one colour where the focus is.
PASTE = """colour => new Promise((done) => {
  const canvas = document.createElement("canvas")
  canvas.width = canvas.height = 32
  const brush = canvas.getContext("2d")
  brush.fillStyle = colour
  brush.fillRect(0, 0, 32, 32)
  canvas.toBlob((blob) => {
    const clipboardData = new DataTransfer()
    clipboardData.items.add(new File([blob], "pasted.png", {type: "image/png"}))
    document.activeElement.dispatchEvent(new ClipboardEvent("paste", {clipboardData, bubbles: true}))
    done()
  })
})"""


@pytest.fixture(scope="module")
def plain():
    """A model whose answers are known, under the name that needs no veil."""
    with serving(workbench("pocket", (HELPFUL, REFUSAL)), pace=0.01) as served:
        yield served


class RefusedAlone(Scripted):
    """Refuses a prompt that is asked without an image."""

    def sweep(self, image, *_):
        assert image is None
        yield Step((Row(0.0, text=REFUSAL, ended=True, verdict="refused"),), done=True)


@pytest.fixture
def known(browser, plain, look):
    page = visit(browser, plain, **look, permissions=["clipboard-read", "clipboard-write"])
    page.get_by_label("Prompt").fill(PROMPT)
    yield page
    page.close()
    assert plain.idle(quiet=0.3)


def run(page: Page, served: Served, count: int = 2) -> None:
    with served.vlm.network.lock:  # or the chips may be those of the run before
        press(page, "Run")
        page.locator(".pane.running").first.wait_for()
    expect(chips(page)).to_have_text([VERDICT] * count)


def test_the_first_differing_word_is_marked_on_both_sides(known, plain):
    run(known, plain)
    expect(known.locator(".parting")).to_have_text(["Sure,", "I'm"])


@pytest.mark.usefixtures("slowly")
def test_keys_run_and_stop(page, pocket):
    ask(page, "What colour is the circle?")
    limit_tokens(page, 400)
    page.get_by_label("Prompt").press("Control+Enter")
    expect(page.locator(".pane.running .answer").last).not_to_be_empty()
    expect(page.get_by_role("button", name="Run")).to_be_hidden()
    page.keyboard.press("Escape")
    expect(page.locator(".pane.running")).to_have_count(0)
    expect(page.get_by_text("stopped", exact=True).first).to_be_visible()
    assert pocket.idle(quiet=0.3)
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()


def test_stop_frees_the_model_within_two_tokens(browser):
    with serving(workbench("pocket"), pace=0.3) as served:
        page = visit(browser, served)
        page.get_by_label("Prompt").fill(PROMPT)
        press(page, "Run")
        expect(page.locator(".pane.running .answer").last).not_to_be_empty()
        served.pace, before = 4, served.passes  # longer than a busy machine takes to click
        press(page, "Stop")
        assert served.idle(quiet=5)
        assert served.passes - before <= 2
        page.close()


def test_keys_lead_from_the_prompt_to_what_is_done_with_it(known):
    known.get_by_label("Prompt").focus()
    for name in ("Run", "Regenerate", "Clear"):
        known.keyboard.press("Tab")
        expect(known.get_by_role("button", name=name)).to_be_focused()
    for name in ("number input for Alpha", "Reset", "range slider for Alpha", "not said", *LABELS, "Blind"):
        known.keyboard.press("Tab")
        expect(known.locator(":focus")).to_have_accessible_name(re.compile(name))


def test_a_blind_vote_comes_before_the_sides_are_known(known):
    votes = known.locator("#votes button")
    expect(votes.first).to_be_hidden()
    known.get_by_label("Blind").check()
    steered, unsteered = 0, 0
    for _ in range(2):
        press(known, "Run")
        known.locator(".pane.undecided").first.wait_for()
        expect(known.get_by_role("region", name="Answer A")).to_contain_text("The verdict is shown after your vote.")
        expect(known.get_by_text("CMRM-steered")).to_have_count(0)
        expect(known.get_by_role("button", name="Download JSON")).to_be_hidden()
        press(known, "A is better")
        expect(chips(known)).to_have_text([VERDICT] * 2)
        first = known.locator("#pane-0").get_by_role("region").get_attribute("aria-label")
        steered, unsteered = steered + (first == "CMRM-steered"), unsteered + (first == "Unsteered")
        expect(known.locator("#tally")).to_contain_text(f"steered better {steered}, unsteered better {unsteered}")
        expect(votes.first).to_be_hidden()
    assert steered + unsteered == 2


@pytest.mark.parametrize(("choice", "title"), [("text only", "Text only"), ("random direction", "Random direction")])
def test_a_third_answer_on_demand(page, pocket, choice, title):
    ask(page, PROMPT)
    limit_tokens(page, 12)
    page.get_by_label(choice).check()
    run(page, pocket, count=3)
    expect(page.get_by_role("region", name=title).locator(".answer")).not_to_be_empty()


def test_answers_are_copied_and_a_run_is_downloaded_with_what_repeats_it(known, plain):
    press(known, "Copy answers")
    expect(known.get_by_text("There is no answer to copy yet.")).to_be_visible()
    run(known, plain)
    press(known, "Copy answers")
    expect(known.get_by_text("The answers are copied.")).to_be_visible()
    copied = known.evaluate("navigator.clipboard.readText()")
    assert HELPFUL in copied
    assert REFUSAL in copied
    with known.expect_download() as download:
        press(known, "Download JSON")
    found = json.loads(download.value.path().read_text())
    assert found["prompt"] == PROMPT
    assert [found[name]["text"] for name in ("unsteered", "steered")] == [HELPFUL, REFUSAL]
    assert found["settings"]["method"] == "dataset"
    assert {"model", "offsets", "versions"} <= set(found)


def test_a_veiled_answer_is_not_copied(browser):
    with serving(workbench("other", (HELPFUL, REFUSAL))) as served:
        page = visit(browser, served, permissions=["clipboard-read", "clipboard-write"])
        page.get_by_label("Prompt").fill("anything")
        run(page, served)
        press(page, "Copy answers")
        expect(page.get_by_text("The answers are copied.")).to_be_visible()
        copied = page.evaluate("navigator.clipboard.readText()")
        assert HELPFUL not in copied
        assert REFUSAL in copied
        page.close()


def test_earlier_runs_come_back_with_their_settings(known, plain):
    run(known, plain)
    known.get_by_label("Prompt").fill("Bake bread")
    run(known, plain)
    known.get_by_label("Earlier runs").click()
    expect(known.get_by_role("option", name=re.compile(r"^2\. dataset-level"))).to_be_visible()
    known.get_by_role("option", name=re.compile(r"^1\. dataset-level")).click()
    expect(known.get_by_label("Prompt")).to_have_value(PROMPT)
    expect(chips(known)).to_have_text(["answered", "refused"])


def test_a_link_opens_the_page_as_it_is(browser, known, plain):
    run(known, plain)
    press(known, "Copy link")
    # The button says so for a second only, which a busy machine may miss.
    deadline = time.monotonic() + 120
    while not (link := known.evaluate("navigator.clipboard.readText()")).startswith(plain.url):
        assert time.monotonic() < deadline, f"the clipboard holds {link[:100]!r}"
        time.sleep(0.05)
    other = open_page(browser)
    other.goto(link)
    expect(other.get_by_label("Earlier runs")).to_be_hidden()
    expect(other.get_by_label("Prompt")).to_have_value(PROMPT)
    expect(other.get_by_role("region", name="CMRM-steered")).to_contain_text(REFUSAL)
    other.close()


@LOOKS
def test_a_mistake_is_shown_and_takes_no_answer_away(known, plain):
    run(known, plain)
    known.get_by_label("Prompt").fill(" ")
    press(known, "Run")
    expect(known.locator("#problem")).to_contain_text("The prompt is empty")
    expect(known.locator("#prompt ~ .at-field")).to_have_text(re.compile(r"^The prompt is empty.*\.$"))
    expect(known.locator(".at-field")).to_be_in_viewport()
    expect(chips(known)).to_have_text(["answered", "refused"])
    known.get_by_label("Prompt").fill(PROMPT)
    run(known, plain)
    expect(known.locator("#problem")).not_to_contain_text("empty")
    expect(known.locator(".at-field")).to_have_count(0)
    expect(known.get_by_role("region", name="CMRM-steered")).to_contain_text(REFUSAL)


@LOOKS
def test_a_mistake_in_a_closed_setting_is_shown_at_its_field_in_words(page):
    page.get_by_label("Prompt").fill(PROMPT)
    press(page, "Settings")
    press(page, "Where and how")
    page.get_by_label("Layers").fill("0-1,99")
    for name in ("Where and how", "Settings"):
        press(page, name)
    expect(page.get_by_label("Layers")).to_be_hidden()
    press(page, "Run")
    expect(page.locator("#layers ~ .at-field")).to_have_text("Layers go from 0 to 3; 99 is not one of them.")
    expect(page.locator(".at-field")).to_be_in_viewport()
    expect(page.get_by_label("Layers")).to_be_visible()


def test_what_the_pocket_model_cannot_know_is_said_before_the_run(known, plain, tmp_path):
    known.get_by_label("Prompt").fill("zyzzyva please")
    known.get_by_label("Prompt").blur()
    expect(known.locator("#warning")).to_contain_text("zyzzyva")
    expect(known.locator("#warning")).to_contain_text("python app.py --model")
    known.get_by_label("Prompt").fill(PROMPT)
    known.get_by_label("Prompt").blur()
    expect(known.locator("#warning")).to_be_hidden()
    own = tmp_path / "own.png"
    Image.new("RGB", (40, 40), "teal").save(own)
    known.locator("#image input[type=file]").set_input_files(own)
    expect(known.locator("#warning")).to_contain_text("drawn shapes alone")
    known.get_by_label("Prompt").fill("zyzzyva please")
    run(known, plain)
    expect(known.locator("#conclusion")).to_contain_text("Can't tell")
    expect(chips(known)).to_have_text(["unclear", "refused"])


def test_a_picture_is_pasted_anywhere_and_takes_the_place_of_the_one_before(known):
    shown = known.locator("#image img")
    known.get_by_label("Prompt").focus()
    known.evaluate(PASTE, "red")
    expect(shown).to_be_visible()
    before = shown.get_attribute("src")
    known.evaluate(PASTE, "blue")
    expect(shown).not_to_have_attribute("src", before)
    expect(known.get_by_label("Prompt")).to_have_value(PROMPT)


def test_what_a_run_showed_follows_what_the_request_is_said_to_be(known, plain):
    run(known, plain)
    shown = known.locator("#conclusion")
    expect(shown).to_contain_text("Steering refused what the model answers by itself.")
    expect(chips(known).first).to_have_class("chip neutral")
    known.get_by_role("radio", name="harmless").check()
    expect(shown).to_contain_text("steering cost an answer")
    expect(chips(known).last).to_have_class("chip bad")
    known.get_by_role("radio", name="harmful").check()
    expect(chips(known).last).to_have_class("chip good")


def test_the_text_alone_is_judged_behind_a_run(browser):
    scripted = workbench("pocket", (HELPFUL, REFUSAL))
    with serving(RefusedAlone(**vars(scripted))) as served:
        page = visit(browser, served)
        ask(page, PROMPT)
        run(page, served)
        expect(page.locator("#conclusion")).to_contain_text("As text alone it is refused too")
        page.close()


def test_another_strength_is_tried_when_the_slider_is_let_go(known, plain):
    slider = known.get_by_role("slider", name="Alpha")
    slider.press("ArrowRight")
    expect(chips(known)).to_have_count(0)
    run(known, plain)
    box = slider.bounding_box()
    known.mouse.click(box["x"] + box["width"] * 0.99, box["y"] + box["height"] / 2)
    expect(known.locator("#pane-1")).to_contain_text("alpha 2")
    expect(chips(known)).to_have_text([VERDICT] * 2)


def test_colours_are_chosen_and_kept(browser, plain):
    page = visit(browser, plain, color_scheme="light")
    dark = page.locator("body.dark")
    expect(dark).to_have_count(0)
    page.get_by_label("Colours").select_option("dark")
    expect(dark).to_have_count(1)
    page.reload()
    expect(page.get_by_label("Colours")).to_have_value("dark")
    expect(dark).to_have_count(1)
    page.get_by_label("Colours").select_option("system")
    expect(dark).to_have_count(0)
    page.close()


@LOOKS
def test_nothing_below_the_answers_moves_while_they_stream(page, pocket):
    ask(page, "What colour is the circle?")
    limit_tokens(page, 40)
    page.evaluate(WATCH_SHARE)
    run(page, pocket)
    tops = page.evaluate("tops")
    assert len(tops) > 5
    assert len(set(tops)) == 1


@LOOKS
def test_hardly_anything_moves_from_opening_the_page_to_the_end_of_a_run(browser, plain, look):
    page = open_page(browser, **look)
    page.add_init_script(WATCH_SHIFTS)
    page.goto(plain.url)
    # A click excuses what moves right after it, so an event of no hand presses the example.
    page.locator("#examples").get_by_text("forge a passport").dispatch_event("click")
    expect(chips(page)).to_have_text([VERDICT] * 2)
    expect(page.locator("#conclusion")).to_contain_text("Can't tell")
    assert page.evaluate("shifted") < 0.05
    page.close()


def queued(url: str) -> tuple[int, int]:
    """How many wait and run."""
    with urllib.request.urlopen(f"{url.rstrip('/')}/health") as answer:
        queue = json.load(answer)["queue"]
    return queue["waiting"], queue["running"]


@pytest.mark.usefixtures("slowly")
@LOOKS
def test_the_place_in_the_queue_is_kept_up_to_date(page, pocket):
    client = Client(pocket.url, verbose=False)
    page.get_by_label("Prompt").fill(PROMPT)
    with pocket.vlm.network.lock:  # nobody is answered before the page was seen behind both
        for before, tokens in enumerate((20, 80)):
            client.submit(prompt=PROMPT, max_new_tokens=tokens, api_name="/compare")
            deadline = time.monotonic() + 120
            while sum(queued(pocket.url)) <= before and time.monotonic() < deadline:
                time.sleep(0.05)
        press(page, "Run")
        expect(page.locator("#pane-0")).to_contain_text("queue: 2/2")
    expect(page.locator("#pane-0")).to_contain_text("queue: 1/1")
    expect(page.locator(".pane .answer").last).not_to_be_empty()
    expect(page.locator("#panes")).not_to_contain_text("queue")
    press(page, "Stop")
    expect(page.locator(".pane.running")).to_have_count(0)
    client.close()


@pytest.mark.parametrize("look", [{}, {"color_scheme": "dark"}, PHONE], ids=["light", "dark", "phone, dark"])
def test_no_serious_violation_of_accessibility(browser, plain, look):
    page = visit(browser, plain, **look)
    found = {}
    for name in ("Compare", "Sweep", "Why", "Anchors", "About"):
        open_tab(page, name)
        if name == "Compare":
            page.get_by_label("Prompt").fill(PROMPT)
            run(page, plain)
            press(page, "Settings")
        page.wait_for_timeout(400)
        for one in Axe().run(page).response["violations"]:
            if one["impact"] in ("serious", "critical"):
                found[name, one["id"]] = [node["html"][:300] for node in one["nodes"]]
    page.close()
    assert not found
