"""The report in a real browser: no console messages, no network requests, and working controls.

It needs Chromium: apt-get install chromium.
"""

import shutil

import pytest
from playwright.sync_api import expect, sync_playwright

from jaxrl.reporting.page import write_page
from jaxrl.reporting.run_folder import read_run

pytestmark = pytest.mark.slow

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync")  # fmt: skip
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.fail(f"found no browser ({', '.join(NAMES)}); install one: apt-get install chromium", pytrace=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """`visit(path, **context)` opens a page. Console messages, dialogs, requests and errors fail the test."""
    contexts, events = [], []

    def go(path, **settings):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: events.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: events.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (events.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: request.url != path.as_uri() and events.append(f"request: {request.url}"))
        page.goto(path.as_uri())
        expect(page.locator("html[data-ready]")).to_have_count(1)
        return page

    yield go
    for context in contexts:
        context.close()
    assert events == []


@pytest.fixture(scope="module")
def report(workdir, tmp_path_factory):
    return write_page(tmp_path_factory.mktemp("page") / "report.html", [read_run(workdir)])


def see_all(page):
    """Opens all <details> elements and scrolls every plot into view until it is rendered."""
    for details in page.locator("details").all():
        details.evaluate("node => { node.open = true }")
    for plot in page.locator(".plot").all():
        plot.scroll_into_view_if_needed()
        expect(plot).to_have_attribute("data-painted", page.locator("html").get_attribute("data-theme"))


def test_all_sections_are_shown(visit, report):
    page = visit(report)
    expect(page.locator("h1")).to_have_text("a <b>run")
    see_all(page)
    expect(page.locator(".plot .main-svg").first).to_be_visible()
    assert page.locator("#curves .plot").count() == 3
    assert page.locator("nav a:visible").count() == 6
    shares = page.locator("#curves .panel", has_text="Responses by verdict").locator(".plot")
    plotted = shares.evaluate("node => node.data.map((trace) => [trace.stackgroup, trace.x[0], trace.y[0]])")
    assert plotted == [["one", 1, 0.1], ["one", 1, 0.9]]  # step 0 has no responses
    for name in ("cards", "warnings", "curves", "behaviours", "evaluation", "pairs", "groups", "setup"):
        expect(page.locator(f"#{name}")).to_be_visible()
    expect(page.locator("#warnings li")).to_have_count(2)
    expect(page.locator("#cards .card").first).to_contain_text("20.0%→70.0%")


def test_hostile_text_stays_text(visit, report, hostile):
    page = visit(report)
    see_all(page)
    assert page.locator("#group-list .answer pre").first.text_content() == hostile
    assert page.locator("#pair-list .answer pre").first.text_content() == hostile
    assert hostile in page.locator("#warnings li").first.text_content()
    assert page.locator("img, a[href^=http]").count() == 0
    assert page.locator("script").count() == 4  # data, compressed plotly, the page's script, plotly
    # Plotly does not interpret labels as HTML either.
    assert "img" not in page.locator(".legendtext").all_text_contents()


def test_marks_are_at_the_phrases(visit, report):
    page = visit(report)
    see_all(page)
    answer = page.locator("#group-list .answer", has_text="Let me check.").first
    assert answer.locator("mark").all_text_contents() == ["Let me check"]
    assert answer.locator("mark").get_attribute("title") == "verification"
    bold = page.locator("#group-list .answer").first.locator("mark[title*=markdown]")
    assert bold.text_content() == "**bold**"  # after a character of two UTF-16 units
    page.locator("#legend button", has_text="verification").click()
    expect(answer.locator("mark")).to_have_class("off")
    page.locator("#legend button", has_text="verification").click()
    expect(answer.locator("mark")).to_have_class("b-verification")


def test_filters(visit, report):
    page = visit(report)
    found = page.locator("#found")
    expect(found).to_have_text("24 groups, 72 responses")
    page.select_option("[name=verdict]", "wrong_answer")
    expect(found).to_have_text("24 groups, 24 responses")
    page.locator("#group-list summary").first.click()
    assert page.locator("#group-list .answer").all_text_contents()[0].startswith("wrong answer")
    expect(page.locator("#group-list .answer")).to_have_count(1)
    page.select_option("[name=kind]", "5 people")
    expect(found).to_have_text("8 groups, 8 responses")
    page.select_option("[name=stage]", "two")
    expect(found).to_have_text("4 groups, 4 responses")
    page.select_option("[name=step]", "7")
    expect(found).to_have_text("1 groups, 1 responses")
    page.select_option("[name=behaviour]", "markdown")
    expect(found).to_have_text("0 groups, 0 responses")
    page.locator("button[type=reset]").click()
    expect(found).to_have_text("24 groups, 72 responses")
    page.fill("[name=problem]", "ONERROR=ALERT")
    expect(found).to_have_text("24 groups, 72 responses")
    page.fill("[name=problem]", "no such words")
    expect(found).to_have_text("0 groups, 0 responses")


def test_the_first_wrong_step_is_marked_and_labelled(visit, verified_run, hostile, tmp_path):
    page = visit(write_page(tmp_path / "report.html", [read_run(verified_run)]))
    see_all(page)
    step = page.locator("#group-list .wrong-step", has_text="Cal=knave").first
    assert step.text_content() == "Cal=knave knight yes."
    assert step.get_attribute("aria-label") == "first wrong step: check: wrong role"
    shown = step.evaluate("node => getComputedStyle(node, '::before').content")
    assert "check: wrong role" in shown  # in words, not only by colour
    answers = page.locator("#group-list .group").first.locator(".answer")
    assert answers.nth(0).locator(".wrong-step").count() == 0
    expect(answers.nth(0)).to_contain_text("reasoning verified")
    expect(answers.nth(2)).to_contain_text("first wrong step: check: wrong role")
    # The text and the label of a hostile response stay text.
    assert answers.nth(1).locator("pre").text_content() == hostile
    assert answers.nth(1).locator(".wrong-step").text_content() == "<img"
    assert answers.nth(1).locator(".wrong-step").get_attribute("data-error") == hostile
    assert page.locator("img, a[href^=http]").count() == 0


def test_filter_for_correct_but_not_sound(visit, verified_run, report, tmp_path):
    page = visit(write_page(tmp_path / "report.html", [read_run(verified_run)]))
    found = page.locator("#found")
    expect(found).to_have_text("4 groups, 16 responses")
    page.select_option("[name=reasoning]", "correct but not sound")
    expect(found).to_have_text("4 groups, 4 responses")
    page.locator("#group-list summary").first.click()
    expect(page.locator("#group-list .answer .wrong-step")).to_have_count(1)
    page.select_option("[name=reasoning]", "check: wrong role")
    expect(found).to_have_text("4 groups, 4 responses")
    page.select_option("[name=reasoning]", "sound")
    expect(found).to_have_text("4 groups, 4 responses")
    squares = page.locator("#group-list .strip").first.locator("i")
    assert squares.evaluate_all("found => found.map((node) => node.className)") == [
        "correct", "correct unsound", "wrong_answer", "bad_format",
    ]  # fmt: skip
    expect(visit(report).locator("[name=reasoning]")).to_be_hidden()  # nothing is verified


def test_sound_curves_have_the_colour_of_their_accuracy(visit, verified_run, tmp_path):
    page = visit(write_page(tmp_path / "report.html", [read_run(verified_run)]))
    see_all(page)
    for title, count in (("Correct, and correct by", 2), ("Held-out accuracy", 2)):
        plot = page.locator(".panel", has_text=title).first.locator(".plot")
        lines = plot.evaluate("node => node.data.map((trace) => [trace.line.color, trace.line.dash])")
        assert len(lines) == count
        assert lines[0][0] == lines[1][0]
        assert [dash for _, dash in lines] == ["solid", "dash"]


def test_show_more_groups(visit, report):
    page = visit(report)
    expect(page.locator("#group-list .group")).to_have_count(20)
    page.locator("#more").click()
    expect(page.locator("#group-list .group")).to_have_count(24)
    expect(page.locator("#more")).to_be_hidden()


def test_follow_a_problem_across_steps(visit, report):
    page = visit(report)
    page.select_option("[name=step]", "3")
    page.locator("#group-list summary").first.click()
    page.locator("#group-list .follow").first.click()
    groups = page.locator("#group-list .group")
    expect(groups).to_have_count(6)
    assert {group.get_attribute("data-problem") for group in groups.all()} == {"kk-3"}
    steps = [group.locator(".kind").text_content().split(" · ")[0] for group in groups.all()]
    assert steps == [f"step {step}" for step in (1, 2, 3, 5, 6, 7)]


def test_behaviour_in_the_table_links_to_its_responses(visit, report):
    page = visit(report)
    rows = page.locator("#behaviour-accuracy tbody tr")
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text("33.3%100.0%")
    page.locator("#behaviour-accuracy button.link").click()
    expect(page.locator("#found")).to_have_text("24 groups, 24 responses")
    assert page.input_value("[name=behaviour]") == "verification"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_theme_follows_the_system_and_can_be_switched(visit, report, scheme):
    page = visit(report, color_scheme=scheme)
    other = {"light": "dark", "dark": "light"}[scheme]
    background = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(background)
    see_all(page)
    page.locator("#theme").click()
    expect(page.locator("html")).to_have_attribute("data-theme", other)
    for plot in page.locator(".plot").all():
        expect(plot).to_have_attribute("data-painted", other)
    assert page.evaluate(background) != before


@pytest.mark.parametrize("name", ["workdir", "verified_run"])
def test_no_horizontal_scrolling_on_a_phone(visit, tmp_path, request, name):
    page = write_page(tmp_path / "report.html", [read_run(request.getfixturevalue(name))])
    page = visit(page, viewport=PHONE, has_touch=True)
    see_all(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    for node in page.locator(".panel, .card, .answer").all():
        assert node.bounding_box()["width"] <= PHONE["width"]


def test_curves_of_several_runs_are_overlaid(visit, workdirs, tmp_path):
    page = visit(write_page(tmp_path / "sweep.html", [read_run(workdir) for workdir in workdirs]))
    see_all(page)
    assert page.locator("#runs tbody tr").count() == 3
    colours = page.locator("#runs .swatch").evaluate_all("found => found.map((node) => node.style.borderTopColor)")
    plot = page.locator("#curves .panel", has_text="Responses by verdict")
    plotted = "node => node.data.map((trace) => [trace.name, trace.line.color, trace.y.at(-1)])"
    names = ["a &lt;b>run", "second", "third"]  # escaped, because plotly interprets some tags
    lines = plot.locator(".plot").evaluate(plotted)
    assert [(name, value) for name, _, value in lines] == [(name, 0.8) for name in names]
    rgb = [f"rgb({', '.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))})" for _, colour, _ in lines]
    assert rgb == colours
    assert len(set(colours)) == 3
    plot.locator("select").select_option(label="wrong answer")
    assert [value for _, _, value in plot.locator(".plot").evaluate(plotted)] == [pytest.approx(0.2)] * 3


def test_two_evaluations_without_a_run(visit, evaluated, tmp_path):
    both = [evaluated("before", 1, 0), evaluated("after", 9, 0)]
    page = visit(write_page(tmp_path / "two.html", [], evaluations=both))
    see_all(page)
    assert page.locator("section:visible").evaluate_all("found => found.map((node) => node.id)") == [
        "top", "evaluation", "pairs",
    ]  # fmt: skip
    assert page.locator("nav a:visible").all_text_contents() == ["evaluation", "before and after"]
    expect(page.locator("#pair-list .answer").first).to_contain_text("before: bad format")
