"""The page in a real browser: silent, offline, complete; by keyboard, on a phone, in the dark, on paper."""

import csv
import io
import re
from pathlib import Path

import pytest
from hostile_names import HOSTILE

from largebatch import report

api = pytest.importorskip("playwright.sync_api", reason="no playwright here: pip install playwright")
CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM.exists():
        pytest.skip("no Chromium here: apt-get install chromium")
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page_file(hostile_folder, tmp_path_factory):
    return report.write(hostile_folder, tmp_path_factory.mktemp("page") / "page.html")


@pytest.fixture(scope="module")
def opened(browser, page_file):
    """The page, once all is drawn, and what was heard of it: console, errors, requests."""
    heard, tab = [], browser.new_page()
    tab.set_default_timeout(20_000)
    tab.on("console", lambda message: heard.append(message.text))
    tab.on("pageerror", lambda error: heard.append(str(error)))
    tab.on("request", lambda request: heard.append(request.url))
    tab.goto(page_file.as_uri())
    tab.wait_for_selector("figure:not([data-drawn])", state="detached", timeout=60_000)
    assert heard.pop(0) == page_file.as_uri()
    return tab, heard


@pytest.fixture
def tab(opened):
    """The page as on a desktop by day; whatever a test does with it, it stays silent and fetches nothing."""
    tab, heard = opened
    tab.set_viewport_size({"width": 1280, "height": 900})
    tab.emulate_media(media="screen", color_scheme="light")
    yield tab
    assert heard == []


CUT_TITLES = """plots => plots.flatMap((plot) => {
  const room = plot.getBoundingClientRect();
  const isCut = (box) => box.left < room.left || box.right > room.right || box.top < room.top || box.bottom > room.bottom;
  return [...plot.querySelectorAll(".xtitle, .ytitle")].filter((title) => isCut(title.getBoundingClientRect()));
}).map((title) => title.textContent)"""


def ranges(tab, figure):
    return tab.eval_on_selector(
        f"#figure-{figure} .plot", "plot => ['xaxis', 'yaxis'].map(axis => plot._fullLayout[axis].range)"
    )


def eventually(tab, read, holds):
    """What is read, once it holds: the page draws when it gets to it."""
    for _ in range(250):
        found = read()
        if holds(found):
            return found
        tab.wait_for_timeout(20)
    raise AssertionError(f"after 5 s still {found}")


def unfold(tab, details):
    tab.eval_on_selector(details, "node => { node.open = true; }")


def luminance(colour):
    def linear(share):
        return share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(int(part) / 255) for part in re.findall(r"\d+", colour)[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    """WCAG 2.1, 1.4.3."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_every_view_of_every_plot_is_drawn(tab):
    figures = tab.locator("figure")
    assert figures.count() == 13
    for i in range(figures.count()):
        figure = figures.nth(i)
        select = figure.locator("select").first
        names = select.locator("option").all_inner_texts() if select.count() else [figure.get_attribute("data-drawn")]
        for name in names:
            if select.count():
                select.select_option(name)
            figure.and_(tab.locator(f'[data-drawn="{name}"]')).wait_for()
            assert figure.locator(".scatterlayer .trace, .contourlayer .contour").count() > 0, name
            assert figure.locator(".xtick, .ytick").count() > 2, name


def test_hostile_names_are_shown_and_do_nothing(tab):
    assert tab.evaluate("window.hacked") is None
    assert tab.locator("img, main b").count() == 0
    legend = tab.locator("#figure-train .legend").inner_text()
    for name in HOSTILE[:3]:
        assert name in legend
    unfold(tab, "#chooser")
    assert HOSTILE[0] in tab.locator("#chooser").inner_text()
    assert HOSTILE[1] in tab.locator("h1").inner_text()


def test_hovering_tells_the_name_and_the_interval(tab):
    point = tab.locator("#figure-accuracy-batch .points path").nth(0)
    point.scroll_into_view_if_needed()
    point.hover(force=True)
    told = tab.locator("#figure-accuracy-batch .hoverlayer .hovertext")
    told.wait_for()
    assert HOSTILE[0] in told.text_content()
    assert re.search(r"test accuracy, %: 9\d\.\d+ \[9\d\.\d+, 9\d\.\d+\]", told.text_content())


def test_cells_and_runs_are_chosen_for_all_plots(tab):
    traces = tab.locator("#figure-train .scatterlayer .trace")
    before = traces.count()
    unfold(tab, "#chooser")
    tab.locator("#chooser input").first.uncheck()
    api.expect(traces).to_have_count(before - 2)  # a line and its band
    assert HOSTILE[0] not in tab.locator("#figure-train .legend").inner_text()
    assert "3 of 4 cells" in tab.locator("#chooser summary").inner_text()
    tab.locator("#figure-train .runs").check()
    api.expect(traces).to_have_count(before - 2 + 8)  # three cells of three seeds; one of them was shown already
    tab.locator("#chooser").get_by_role("button", name="as at first").click()
    tab.locator("#figure-train .runs").uncheck()
    api.expect(traces).to_have_count(before)


def test_all_is_reached_by_keyboard(tab):
    reached = []
    tab.locator(".skip").focus()
    for _ in range(100):
        tab.keyboard.press("Tab")
        reached.append(tab.evaluate("[document.activeElement.tagName, document.activeElement.className]"))
        if "plot" in reached[-1][1].split():
            break
    assert "plot" in reached[-1][1].split()
    assert {"A", "BUTTON", "SUMMARY", "SELECT", "INPUT"} <= {tag for tag, _ in reached}
    assert tab.locator("[tabindex='-1']").count() == 0
    whole = ranges(tab, "train")[0]
    tab.keyboard.press("+")
    near = eventually(tab, lambda: ranges(tab, "train")[0], lambda found: found != whole)
    assert near[1] - near[0] == pytest.approx(0.7 * (whole[1] - whole[0]))
    tab.keyboard.press("ArrowRight")
    assert eventually(tab, lambda: ranges(tab, "train")[0], lambda found: found != near)[0] > near[0]
    tab.keyboard.press("0")
    eventually(tab, lambda: ranges(tab, "train")[0], lambda found: found == whole)
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    api.expect(tab.locator("#figure-train details table")).to_be_visible()  # it is filled once its fold has opened


def test_the_table_and_the_csv_hold_what_is_drawn(tab):
    figure = tab.locator("#figure-accuracy-batch")
    unfold(tab, "#figure-accuracy-batch details")
    figure.locator("table").wait_for()
    rows = [row.locator("th, td").all_inner_texts() for row in figure.locator("tr").all()]
    assert rows[0] == ["series", "global batch size, samples", "test accuracy, %", "low", "high"]
    assert len(rows) == 5
    with tab.expect_download() as waiting:
        figure.get_by_role("button", name="Download data as CSV").click()
    assert waiting.value.suggested_filename == "made-up-accuracy-batch-test-accuracy.csv"
    read = list(csv.reader(io.StringIO(Path(waiting.value.path()).read_text())))
    assert [row[0] for row in read[1:]] == list(HOSTILE)
    assert [[v and float(f"{float(v):.5g}") for v in row[1:]] for row in read[1:]] == [
        ["" if v == "–" else float(v) for v in row[1:]] for row in rows[1:]
    ]
    assert read[2][3:] == ["", ""]  # of two seeds that have finished there is no interval
    with tab.expect_download() as waiting:
        tab.locator("[data-sheet=contrasts]").click()
    assert Path(waiting.value.path()).read_text().startswith("contrast,estimate [95 % interval],")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_and_lines_stand_out(tab, scheme):
    tab.emulate_media(color_scheme=scheme)
    paper = tab.eval_on_selector("body", "node => getComputedStyle(node).backgroundColor")
    assert (luminance(paper) < 0.05) == (scheme == "dark")
    colour_of = "node => getComputedStyle(node).color"
    for selector in ("h1", ".facts", ".first", "figcaption", ".more", "td", "a", "summary", ".caption"):
        ink = tab.eval_on_selector(f"main {selector}, header {selector}", colour_of)
        assert contrast(ink, paper) >= 4.5, selector
    colours = tab.eval_on_selector_all("[data-mark] path", "nodes => nodes.map(node => getComputedStyle(node).stroke)")
    assert len(set(colours)) == 4
    assert all(contrast(colour, paper) >= 3 for colour in colours)
    fill = "node => getComputedStyle(node).fill"
    eventually(
        tab, lambda: contrast(tab.eval_on_selector("#figure-train .xtick text", fill), paper), lambda c: c >= 4.5
    )


def test_a_phone_scrolls_one_way_only(tab):
    tab.set_viewport_size({"width": 360, "height": 740})
    unfold(tab, "#chooser")
    right = "plots => Math.max(...plots.map(plot => plot.getBoundingClientRect().right))"
    eventually(tab, lambda: tab.eval_on_selector_all(".plot .main-svg", right), lambda end: end <= 360)
    assert tab.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]") == [360, 360]
    select = tab.locator("#figure-sharpness-batch select")
    select.select_option(select.locator("option").all_inner_texts()[-1])  # the longest title of an axis
    eventually(tab, lambda: tab.eval_on_selector_all(".plot", CUT_TITLES), lambda cut: cut == [])


def test_paper_is_white_and_holds_every_plot(tab):
    tab.emulate_media(media="print", color_scheme="dark")
    tab.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert luminance(tab.eval_on_selector("body", "node => getComputedStyle(node).backgroundColor")) == 1.0
    assert luminance(tab.eval_on_selector("#figure-train .xtick text", "node => getComputedStyle(node).fill")) < 0.05
    assert not tab.locator("#chooser").is_visible()
    assert not tab.locator("#figure-train .tools").is_visible()
    widths = tab.eval_on_selector_all(
        ".plot .main-svg", "plots => plots.map(plot => plot.getBoundingClientRect().width)"
    )
    assert max(widths) <= 182 / 25.4 * 96  # A4 without its margins, in CSS pixels
    ends = tab.eval_on_selector_all(
        ".plot .main-svg", "plots => plots.map(plot => plot.getBoundingClientRect().bottom)"
    )
    captions = tab.eval_on_selector_all("figcaption", "nodes => nodes.map(node => node.getBoundingClientRect().top)")
    assert all(any(0 <= top - end < 120 for top in captions) for end in ends)
    tab.evaluate("window.dispatchEvent(new Event('afterprint'))")


def test_two_hundred_runs_are_read_within_two_seconds(browser, study_folder, tmp_path):
    folder = study_folder(tmp_path, [f"cell {i}" for i in range(40)], seeds=5, epochs=10, updates=30)
    page = report.write(folder)
    assert page.stat().st_size <= 6e6
    tab = browser.new_page()
    tab.goto(page.as_uri())
    tab.wait_for_selector("#figure-train[data-drawn]")
    painted = tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert painted < 2000
    assert tab.locator("#figure-train .legend li").count() <= 10
    tab.close()
