"""The page at /, in a real browser against a real server: what people do there, by mouse, by keyboard, on a phone."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect

from raypipe.atlas import Atlas
from raypipe.cli import run
from tests.browser import Visit, browsing
from tests.headed import INLINE
from tests.served import served

EVIL = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
TRNA = "GCGGAUUUAGCUCAGUUGGGAGAGCGCCAGACUGAAGAUCUGGAGGUCCUGUGUUCGAUCCACAGAAUUCGCACCA"
FASTA = f"""\
>t1 transfer RNA
{TRNA}
>t2 another one
{TRNA[:-6]}CC
>s1 {EVIL}
GGGCCCAAAUUUGGGCCCAAAUUU
>s2
ACGUACGUACGUACGUAAAA
>copy of s2
acgtacgtacgtacgtaaaa
>u1 short
UUUUUUUUUUUUUUUUCC
>u1 longer, of the same id
UUUUUUUUUUUUUUUUCCGG
"""
TABLE = f"id\trna_type\ttaxid\tnote\nt1\ttRNA\t4932\tyeast\nt2\ttRNA\t9606\tman\ns1\tother\t1\t{EVIL}\n"
TOKEN = "correct horse battery staple".replace(" ", "-")
Open = Callable[..., Visit]


def make(folder: Path, model: Path, *, index: bool = True, annotated: bool = True) -> Path:
    """An atlas of six sequences."""
    (folder / "in.fa").write_text(FASTA)
    (folder / "notes.tsv").write_text(TABLE)
    atlas = folder / "atlas"
    commands = [["embed", str(folder / "in.fa"), "-o", str(atlas), "--model", str(model), *INLINE]]
    commands += [["index", str(atlas)]] if index else []
    commands += [["annotate", str(atlas), f"notes={folder / 'notes.tsv'}"]] if annotated else []
    for arguments in commands:
        assert run(arguments) == 0, arguments
    return atlas


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as found:
        yield found


@pytest.fixture(scope="module")
def known(browser: Browser, headed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The atlas; the browser is asked for first, so that nothing is made where there is none."""
    return make(tmp_path_factory.mktemp("page"), headed)


@pytest.fixture(scope="module")
def address(known: Path) -> Iterator[str]:
    with served(known) as url:
        yield url


@pytest.fixture
def visit(browser: Browser) -> Iterator[Open]:
    """Opens a tab; in the end nothing has gone wrong in it, and no other machine was asked for anything."""
    made: list[Visit] = []

    def enter(url: str, **options: Any) -> Visit:
        made.append(Visit(browser, **options))
        made[-1].page.goto(url)
        expect(made[-1].page.locator("#about:not(:empty), #error:not([hidden])").first).to_be_visible()
        return made[-1]

    yield enter
    for one in made:
        one.context.close()
        assert one.failures == []
        assert one.strangers == set()


def search(page: Page, text: str) -> None:
    page.get_by_label("Sequence, FASTA or record id").fill(text)
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator("#found")).to_be_focused()


def ids(page: Page) -> list[str]:
    return page.locator("button.id").all_inner_texts()


def wide(page: Page) -> bool:
    """Whether the page can be scrolled sideways."""
    return page.evaluate("() => document.documentElement.scrollWidth > innerWidth")


def test_paste_and_look(address: str, visit: Open) -> None:
    page = visit(address).page
    expect(page.locator("#about")).to_contain_text("6 sequences \u00b7 7 records")
    search(page, TRNA.replace("U", "t"))
    expect(page.get_by_role("heading", name="6 hits of 1 query")).to_be_visible()
    expect(page.locator("#how")).to_contain_text("index 000001 (Flat)")
    assert ids(page)[:2] == ["t1", "t2"]
    rows = page.get_by_role("row")
    expect(rows.nth(1)).to_contain_text("transfer RNA")
    expect(rows.nth(1)).to_contain_text("1.0000")
    expect(rows.nth(1)).to_contain_text("76 nt")
    expect(rows.nth(1)).to_contain_text("4932")
    page.get_by_role("button", name="Drawing").click()
    expect(page.locator("figure .bases circle")).to_have_count(len(TRNA))

    page.get_by_role("button", name="t2").click()
    panel = page.locator(".panel")
    expect(panel.locator("figure")).to_have_count(2)
    panel.get_by_role("button", name="Drawing").nth(1).click()
    expect(panel.locator("figure").nth(1).locator(".bases circle")).to_have_count(len(TRNA) - 4)
    expect(panel.locator("pre.sequence")).to_have_text(TRNA[:-6] + "CC")
    expect(panel).to_contain_text("1 record of this sequence")
    page.get_by_role("button", name="s2").click()
    expect(page.locator(".panel").nth(1)).to_contain_text("2 records of this sequence")
    drawn = panel.first.locator("figure").nth(1)
    drawn.get_by_role("button", name="Arcs").click()
    expect(drawn.locator("svg.arcs")).to_have_count(1)

    panel.first.get_by_role("button", name="Search with this one").click()
    expect(page.get_by_label("Sequence, FASTA or record id")).to_have_value("t2")
    expect(page.locator("button.id").first).to_have_text("t2")
    expect(page.locator("td.score").first).to_contain_text("1.0000")


def test_an_id_of_two_sequences(address: str, visit: Open) -> None:
    """The hit is the one that it says, and is searched for by its letters."""
    page = visit(address).page
    search(page, "UUUUUUUUUUUUUUUUCCGG")
    both = page.get_by_role("button", name="u1")
    expect(both).to_have_count(2)
    for place in (0, 1):
        both.nth(place).click()
    expect(page.locator(".panel pre.sequence")).to_have_text(["UUUUUUUUUUUUUUUUCCGG", "UUUUUUUUUUUUUUUUCC"])
    page.get_by_role("button", name="Search with this one").nth(1).click()
    expect(page.get_by_label("Sequence, FASTA or record id")).to_have_value(">u1\nUUUUUUUUUUUUUUUUCC\n")
    expect(page.locator("td.name", has_text="short")).to_be_visible()
    expect(page.locator("tbody tr").first).to_contain_text("18 nt")


def test_by_keyboard_alone(address: str, visit: Open) -> None:
    page = visit(address).page
    press = page.keyboard.press
    for _ in range(9):
        press("Tab")
        if page.evaluate("() => document.activeElement.id") == "query":
            break
    page.keyboard.type("t1")
    press("Control+Enter")
    expect(page.locator("#found")).to_be_focused()
    expect(page.locator("#status")).to_contain_text("6 hits of 1 query in")
    for _ in range(20):
        press("Tab")
        if page.evaluate("() => document.activeElement.dataset.sort") == "score":
            break
    press("Enter")
    expect(page.locator("th[aria-sort=descending]")).to_have_text(re.compile("Score"))
    assert page.evaluate("() => document.activeElement.dataset.sort") == "score"
    press("Enter")
    expect(page.locator("th[aria-sort=ascending]")).to_have_text(re.compile("Score"))
    assert ids(page)[-1] == "t1"
    for _ in range(20):
        press("Tab")
        if page.evaluate("() => document.activeElement.matches('button.id')"):
            break
    press("Enter")
    expect(page.locator("button.id[aria-expanded=true]")).to_be_focused()
    expect(page.locator(".panel pre.sequence")).to_be_visible()
    press("Tab")
    expect(page.get_by_role("button", name="Search with this one")).to_be_focused()


def test_what_is_read_as_what(address: str, visit: Open) -> None:
    page = visit(address).page
    for text, said in {
        "t1": "1 record id",
        "t1 u1\nURS00000A": "3 record ids",
        "acgu\nTTT AAA": "1 sequence, 10 nt",
        "1 acgua 5\n6 cgu": "1 sequence, 8 nt",
        ">a\nACGU\n\nAC\n>b 2\n1 GG": "2 sequences, 8 nt",
        "": "",
    }.items():
        page.get_by_label("Sequence, FASTA or record id").fill(text)
        expect(page.locator("#read")).to_have_text(said)
    page.get_by_label("Read as").select_option("ids")
    page.get_by_label("Sequence, FASTA or record id").fill("UUU")
    expect(page.locator("#read")).to_have_text("1 record id")


def test_filter_and_errors(address: str, visit: Open) -> None:
    opened = visit(address)
    page = opened.page
    page.locator("#filter > summary").click()
    picker = page.get_by_label("RNA type")
    picker.focus()
    expect(page.locator("datalist option[value=tRNA]")).to_have_count(1)
    picker.fill("tRNA")
    expect(page.locator("#condition")).to_contain_text("notes.rna_type = 'tRNA'")
    search(page, "s1")
    assert set(ids(page)) == {"t1", "t2"}
    expect(page.locator("#how")).to_contain_text("2 of 6 sequences may be found")
    page.get_by_label("Condition in SQL").fill("taxid = 9606")
    search(page, "s1")
    assert ids(page) == ["t2"]

    page.locator("#filter").get_by_text("Columns", exact=True).click()
    page.get_by_label("Condition in SQL").fill("")
    page.locator("#columns").get_by_role("button", name="note").click()
    expect(page.get_by_label("Condition in SQL")).to_have_value("notes.note")
    for wrong, said in (("nonsense = 1", "no column 'nonsense'"), ("taxid =", "syntax error")):
        page.get_by_label("Condition in SQL").fill(wrong)
        page.get_by_role("button", name="Search", exact=True).click()
        expect(page.get_by_role("alert")).to_contain_text(said)
    for wrong, said in ((">protein\nMKVLAA", "protein"), ("no-such-id", "no-such-id")):
        page.get_by_label("Condition in SQL").fill("")
        page.get_by_label("Sequence, FASTA or record id").fill(wrong)
        page.get_by_role("button", name="Search", exact=True).click()
        expect(page.get_by_role("alert")).to_contain_text(said)
    page.get_by_label("Sequence, FASTA or record id").fill("")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("Nothing to search with. Paste a sequence")
    search(page, "t1")
    expect(page.get_by_role("alert")).to_be_hidden()
    # A refusal is an error to the console too; nothing else was.
    assert all("Failed to load resource" in failure for failure in opened.failures)
    opened.failures.clear()


def test_long_and_crowded_structures(address: str, visit: Open) -> None:
    """Long ones are folded when asked for; what would lie over itself is drawn as arcs."""
    page = visit(address).page
    search(page, "GGGGAAAACCCC" * 55)
    page.get_by_role("button", name="Predict the structure of query query_1").click()
    expect(page.locator("figure svg.arcs")).to_be_visible()
    expect(page.get_by_role("button", name="Drawing")).to_have_count(0)
    narrow = page.locator("figure svg.arcs").get_attribute("width")
    page.get_by_role("button", name="Larger").click()
    assert int(page.locator("figure svg.arcs").get_attribute("width") or 0) > 7 * int(narrow or 0)
    assert not wide(page)
    draw = """async (text) => { const m = await import('/page/drawing.js');
      return m.drawStructure('A'.repeat(text.length), text, 'x').querySelector('svg').getAttribute('class'); }"""
    hairpin, knot = "((((....))))", "((((..[[[[.))))....]]]]."
    assert [page.evaluate(draw, text) for text in (hairpin, knot)] == ["loops", "loops"]
    # Hairpins on a loop with no room between them.
    crowded = f"(({'((....))' * 2}((({'((...))' * 12})))))"
    assert page.evaluate(draw, crowded.replace("...", "." * 20)) == "arcs"


def test_download(address: str, visit: Open, known: Path, tmp_path: Path) -> None:
    page = visit(address).page
    page.get_by_label("Hits", exact=True).fill("3")
    search(page, f">first\n{TRNA}\n>second one\nACGUACGUACGUACGUAAAA\n")
    expect(page.locator("#found")).to_have_text("6 hits of 2 queries")
    expect(page.locator("details.answer")).to_have_count(2)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download TSV").click()
    assert download.value.suggested_filename == "hits.tsv"
    file = tmp_path / "hits.tsv"
    download.value.save_as(file)
    with file.open(newline="") as text:
        rows = list(csv.DictReader(text, delimiter="\t", quoting=csv.QUOTE_NONE))
    with Atlas(known) as atlas:
        wanted = atlas.search({"first": TRNA, "second": "ACGUACGUACGUACGUAAAA"}, k=3).to_pylist()
    assert list(rows[0]) == list(wanted[0])
    for row, expected in zip(rows, wanted, strict=True):
        assert float(row.pop("score")) == pytest.approx(expected.pop("score"), abs=2e-6)
        assert row == {name: "" if value is None else str(value) for name, value in expected.items()}


def test_queries_of_one_name_have_a_section_each(address: str, visit: Open) -> None:
    page = visit(address).page
    search(page, f">a\n{TRNA}\n>a\nACGUACGUACGUACGUAAAA\n>a more\n{TRNA}\n>b\n{TRNA}\n>a\n{TRNA}\n")
    expect(page.locator("#found")).to_have_text("30 hits of 5 queries")
    assert page.locator("details.answer summary strong").all_inner_texts() == ["a", "a (2)", "a (3)", "b", "a (4)"]
    for section in page.locator("details.answer").all():
        expect(section.locator("summary")).to_contain_text("6 hits")


def test_the_address_holds_the_question(address: str, visit: Open) -> None:
    page = visit(address).page
    page.locator("#filter > summary").click()
    page.get_by_label("RNA type").fill("tRNA")
    page.get_by_label("Hits", exact=True).fill("2")
    page.get_by_label("Exact").check()
    search(page, "t1")
    link = page.url
    search(page, "t2")
    assert page.url != link
    page.go_back()
    expect(page.locator("button.id").first).to_have_text("t1")

    other = visit(link)
    expect(other.page.locator("button.id")).to_have_count(2)
    assert ids(other.page) == ids(page)
    assert other.page.get_by_label("RNA type").input_value() == "tRNA"
    assert other.page.get_by_label("Exact").is_checked()
    # The part behind # is the browser's alone.
    assert not [url for url in other.asked if "t1" in url.partition("#")[0]]


def test_on_a_phone(address: str, visit: Open) -> None:
    page = visit(address, width=390, height=844, has_touch=True, is_mobile=True).page
    assert not wide(page)
    page.locator("#filter > summary").tap()
    assert not wide(page)
    search(page, TRNA)
    page.get_by_role("button", name="t1", exact=True).tap()
    expect(page.locator(".panel figure")).to_have_count(2)
    assert not wide(page)
    # Cards to the eyes, a table to a screen reader still.
    assert page.evaluate("() => getComputedStyle(document.querySelector('tbody tr')).display") == "flex"
    expect(page.get_by_role("table").get_by_role("cell", name="t1 transfer RNA", exact=True)).to_have_count(1)
    page.get_by_label("Sort by").select_option("length")
    assert ids(page)[0] == "u1"
    page.get_by_role("button", name="Ascending").tap()
    assert ids(page)[0] == "t1"


def test_data_stays_text(address: str, visit: Open) -> None:
    page = visit(address).page
    page.locator("#shown").evaluate("list => list.open = true")
    search(page, "s1")
    expect(page.locator("td.name", has_text=EVIL)).to_have_count(1)
    page.locator("#shown").get_by_label("note").check()
    expect(page.locator("td[data-label=note]", has_text=EVIL)).to_have_count(1)
    page.get_by_role("button", name="s1").click()
    expect(page.locator(".panel dd", has_text=EVIL)).to_have_count(2)
    expect(page.locator(".panel li", has_text=EVIL)).to_have_count(1)
    search(page, f">{EVIL.replace(' ', '_')}\nACGU\n>other\nACGU\n")
    expect(page.locator("summary strong").nth(0)).to_have_text(EVIL.replace(" ", "_"))
    assert page.evaluate("() => window.hacked") is None
    assert page.locator("#main img, #main script").count() == 0
    sent = httpx2.get(address)
    policy = sent.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    assert "unsafe" not in policy
    assert httpx2.get(f"{address}/page/app.js", headers={"If-None-Match": "x"}).status_code == 200
    tag = httpx2.get(f"{address}/page/app.js").headers["etag"]
    assert httpx2.get(f"{address}/page/app.js", headers={"If-None-Match": tag}).status_code == 304
    assert httpx2.get(f"{address}/page/%2e%2e%2fapp.py").status_code == 404


def test_token(known: Path, visit: Open, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(f"{TOKEN}\n")
    with served(known, token_file=str(tmp_path / "tokens")) as url:
        opened = visit(url)
        page = opened.page
        field = page.get_by_label("Token")
        for given in ("", "wrong"):
            expect(page.get_by_role("alert")).to_contain_text("token")
            expect(field).to_be_focused()
            field.fill(given or "also-wrong")
            page.keyboard.press("Enter")
        field.fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("#about")).to_contain_text("6 sequences")
        search(page, "t1")
        assert TOKEN not in page.url
        assert page.evaluate("() => [localStorage.length, document.cookie]") == [0, ""]
        page.reload()
        expect(page.locator("button.id").first).to_have_text("t1")
        opened.failures.clear()
        stranger = visit(url)
        expect(stranger.page.get_by_role("alert")).to_be_visible()
        stranger.failures.clear()


def test_many_queries_can_be_cancelled(address: str, visit: Open, tmp_path: Path) -> None:
    page = visit(address).page
    page.get_by_label("Hits", exact=True).fill("1")
    file = tmp_path / "many.fasta"
    file.write_text(f">q\n{TRNA}\n" * 1500)
    page.get_by_label("Open file").set_input_files(file)
    expect(page.locator("#read")).to_have_text("1,500 sequences, 114,000 nt")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator("#status")).to_contain_text(re.compile(r"[1-9]\d* of 1,500 queries answered"))
    expect(page.get_by_role("progressbar")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#found")).to_contain_text("(stopped; 1,500 were asked)")
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()


@pytest.mark.parametrize("index", [True, False])
def test_a_bare_atlas(index: bool, tiny: Path, visit: Open, tmp_path: Path) -> None:
    """No annotations, no head for structures, and perhaps no index."""
    with served(make(tmp_path, tiny, index=index, annotated=False)) as url:
        opened = visit(url)
        page = opened.page
        if not index:
            expect(page.get_by_role("alert")).to_contain_text("no index yet")
            return
        expect(page.locator("#pickers")).to_be_hidden()
        search(page, TRNA)
        page.get_by_role("button", name="t1").click()
        expect(page.locator(".panel pre.sequence")).to_be_visible()
        expect(page.locator("figure")).to_have_count(0)
        assert page.get_by_role("columnheader").all_inner_texts()[1:] == ["Id", "Score", "Length"]
        opened.failures.clear()  # that there is no such head


CONTRAST = """() => {
  const light = (c) => { const v = c.map(x => (x /= 255) <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
                         return .2126 * v[0] + .7152 * v[1] + .0722 * v[2]; };
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const paint = (color, under) => { canvas.fillStyle = `rgb(${under})`; canvas.fillRect(0, 0, 1, 1);
      canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
      return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3); };
  const ground = (e) => e ? paint(getComputedStyle(e).backgroundColor, ground(e.parentElement)) : [255, 255, 255];
  const low = [];
  for (const e of document.querySelectorAll('body *:not(svg *)')) {
    if (!e.checkVisibility() || e.disabled || ![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
    const under = ground(e), [a, b] = [light(under), light(paint(getComputedStyle(e).color, under))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) low.push(`${e.tagName} ${e.textContent.slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return low; }"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_can_be_read(address: str, visit: Open, scheme: str) -> None:
    """Contrast, names of all that can be operated, and which language it is."""
    page = visit(address, color_scheme=scheme).page
    page.evaluate("() => document.querySelectorAll('#filter, #filter details').forEach(box => box.open = true)")
    search(page, TRNA)
    page.get_by_role("button", name="t2").click()
    expect(page.locator(".panel figure")).to_have_count(2)
    assert page.evaluate(CONTRAST) == []
    grounds = page.evaluate("() => getComputedStyle(document.documentElement).backgroundColor")
    assert (int(re.findall(r"\d+", grounds)[0]) < 60) == (scheme == "dark")
    nameless = """() => [...document.querySelectorAll('input, select, textarea, button, summary, [tabindex="0"]')]
      .filter(e => e.checkVisibility() && !(e.labels?.length || e.ariaLabel || e.innerText.trim()))
      .map(e => e.outerHTML)"""
    assert page.evaluate(nameless) == []
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.locator("h1").count() == 1


def test_structures_are_laid_out(address: str, visit: Open) -> None:
    """Neighbours one step apart, partners at the width of a stem, nothing on top of each other."""
    page = visit(address).page
    shapes = {
        "(((((((..((((........)))).(((((.......))))).....(((((.......))))))))))))....": (21, 0),
        "..((((...((....)).))))..": (6, 0),
        "((((..[[[[.))))....]]]].": (8, 4),
        "........": (0, 0),
        ".": (0, 0),
        "(...)": (1, 0),
    }
    lay_out = """async (text) => { const m = await import('/page/structure.js');
      const { partner, knots } = m.parseStructure(text);
      const { x, y, kind } = m.layOut(partner); return [partner, knots.length, x, y, kind]; }"""
    for text, (pairs, knots) in shapes.items():
        partner, crossing, x, y, kind = page.evaluate(lay_out, text)
        points = [complex(*place) for place in zip(x, y, strict=True)]
        joined = [(at, other) for at, other in enumerate(partner) if other > at]
        assert (len(joined) + crossing, crossing, len(points)) == (pairs, knots, len(text))
        for at, other in joined:
            assert abs(points[at] - points[other]) == pytest.approx(1.6)
        for first, second in pairwise(points):
            assert abs(first - second) == pytest.approx(1)
        between = [abs(a - b) for number, a in enumerate(points) for b in points[:number]]
        assert min(between, default=1) > 0.99
        assert {kind[at] for pair in joined for at in pair} <= {"stem"}
    refuse = """async (text) => { const m = await import('/page/structure.js');
      try { m.parseStructure(text); return ''; } catch (error) { return error.message; } }"""
    for wrong, said in {"((.)": "is open", ".)": "closes nothing", "(.?.)": "is no bracket"}.items():
        assert said in page.evaluate(refuse, wrong)
