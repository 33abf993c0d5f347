"""HTML is what a browser shows: Chromium's own text is the reference."""

import sys
from pathlib import Path

import pytest
from reading import headings, headings_stand_where_they_say, read, words

pytest.importorskip("selectolax")

PAGES = {
    "implied end tags": "<title>T</title><p>one<p>two<ul><li>a<li>b<ul><li>c</ul></ul><dl><dt>t<dd>d</dl>",
    "no head's end": "<head><title>T</title><meta name=a><h1>Top</h1><p>text",
    "hidden": "<p hidden>h</p><div style='display: none'>d</div><div style='color:red;DISPLAY:none'>d</div>"
    "<div style='visibility:hidden'>v</div><dialog>shut</dialog><dialog open>open</dialog><p>shown",
    "of other programs": "<p>a</p><noscript>no js</noscript><video>v</video><audio>a</audio><canvas>c</canvas>"
    "<iframe>i</iframe><template>t</template><datalist><option>dl</datalist><script>s()</script><style>p{}</style>"
    "<noframes>nf</noframes><meter>m</meter><progress>p</progress><!-- no --><p>b",
    "tables": "<table><caption>cap</caption><tr><th>a<th>b<tbody><tr><td>1<td><p>2</p><p>3</p><tr><td colspan=2>m"
    "</table>after",
    "inline and blocks": "a<b>b</b>c <i> d </i>e<br>f<wbr>g<div>h</div>i<span>j</span>k<blockquote>l</blockquote>m",
    "forms": "<select><optgroup label=G><option>one<option>two</select> z <button>press</button> <label>lab</label>"
    "<fieldset><legend>leg</legend>body</fieldset><output>out</output>",
    "figures and ruby": "<figure><figcaption>fc</figcaption></figure><ruby>漢<rp>(</rp><rt>kan</rt><rp>)</rp></ruby>"
    "<svg><title>no</title><text y=9>drawn</text></svg><object>instead</object>",
    "white space": "<p>  a\n b  </p><pre>\n  kept\n  so</pre>&nbsp;c&amp;d &lt;e&gt; f&#x200b;g",
    "broken": "<p>a<table>fostered<tr><td>x</table></b></p><b>bold<p>still</b>not</i><p>hi</p><![hello[x",
}


@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("selenium")
    sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
    try:
        from chromium import BROWSER, DRIVER, chromium
    finally:
        sys.path.pop(0)
    if not (BROWSER and DRIVER):
        pytest.skip("no Chromium with its driver")
    with chromium() as driver:
        yield driver


@pytest.mark.slow
def test_html_has_the_words_that_a_browser_shows(browser, tmp_path):
    for name, markup in PAGES.items():
        page = tmp_path / "page.html"
        page.write_text(f"<!doctype html><meta charset=utf-8>{markup}", encoding="utf-8")
        browser.get(page.as_uri())
        shown = browser.execute_script("return document.body.innerText")
        assert words(read("a.html", page.read_bytes()).text) == words(shown), name


def test_html_separates_paragraphs_and_cells():
    page = (
        "<h1>Top</h1>a<p>b <b>c</b>\n d</p><ul><li>e<li>f</ul><table><tr><td>g<td><p>h</p><tr><td><td>i</table>j<br>k"
    )
    assert read("a.html", page).text == "Top\n\na\n\nb c d\n\ne\nf\n\ng\th\ni\n\nj\nk"
    assert "\n\nk" in read("a.html", "j<br><br>k").text
    assert read("a.html", "<pre>\n  kept\n  so</pre>").text == "  kept\n  so"
    assert read("a.html", "dis\xadtributed").text == "distributed"


def test_html_has_headings_and_a_title():
    document = read("a.html", "<title>The  page</title><h1>Top <i>one</i></h1>x<h3></h3><h2><a>S</a>ub</h2><p>y")
    assert document.title == "The page"
    assert headings(document) == [(1, "Top one"), (2, "Sub")]
    assert headings_stand_where_they_say(document)
    assert read("a.html", "<h2>First</h2>x<h3>y</h3>").title == "First"
    assert headings(read("a.html", "<h1>a<div><h2>b</h2></div></h1>c")) == [(1, "a b")]


@pytest.mark.parametrize(
    ("name", "declared", "encoding"),
    [
        ("a.html", '<meta charset="cp1252">', "cp1252"), ("a.html", "<meta charset=iso-8859-1>", "cp1252"),
        ("a.html", "<meta http-equiv=x content='text/html; charset=windows-1251'>", "windows-1251"),
        ("a.html", "", "utf-8"), ("a.html", "<meta charset=cp1252>", "utf-8-sig"), ("a.html", "", "utf-16"),
        ("a.html", "<meta charset=punycode>", "utf-8"),
        ("a.xhtml", '<?xml version="1.0" encoding="koi8-r"?>', "koi8-r"),
    ],
)  # fmt: skip
def test_the_declared_encoding_is_used_if_it_fits(name, declared, encoding):
    word = "Привет" if encoding in ("windows-1251", "koi8-r") else "Grüße „Käse“"
    assert read(name, f"{declared}<p>{word}".encode(encoding)).text == word


def test_empty_elements_of_xhtml_hold_nothing():
    page = '<?xml version="1.0"?><html><head><title/><script src="x"/></head><body><a id="b"/>one<br/>two</body></html>'
    for name in ("a.xhtml", "a.html"):
        assert read(name, page).text == "one\ntwo"


def test_html_is_rejected_when_its_nesting_would_take_quadratic_time():
    assert read("a.html", "<div>" * 10_000 + "deep").text == "deep"
    assert read("a.html", "<p>x" * 50_000).text.count("x") == 50_000
    for page in ("<div>" * 100_000, "<ul><li>" * 50_000, "<h1><div>" * 50_000):
        with pytest.raises(ValueError, match=r"^is nested too deeply$"):
            read("a.html", page)
    with pytest.raises(ValueError, match=r"^holds no text$"):
        read("a.html", "<!--" * 100_000)
