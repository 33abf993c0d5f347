"""Office files and books are read with all of their text."""

import io
import re
import zipfile
from datetime import datetime

import pytest
from reading import archive, headings, headings_stand_where_they_say, read

from foliogpt.rag.readers import office

W = 'xmlns:w="w" xmlns:m="m" xmlns:v="v" xmlns:wps="wps" xmlns:mc="mc"'


def run(text: str) -> str:
    return f"<w:r><w:t>{text}</w:t></w:r>"


def paragraph(inside: str, style: str = "") -> str:
    properties = f'<w:pPr><w:tabs><w:tab/></w:tabs><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{properties}{inside}</w:p>"


def word_file(body: str, **parts: str) -> bytes:
    styles = "".join(
        f'<w:style w:styleId="{id}"><w:name w:val="{name}"/></w:style>'
        for id, name in (("berschrift1", "heading 1"), ("H2", "heading 2"), ("Titel", "Title"), ("Text", "Body"))
    )
    files = {"word/document.xml": f"<w:document {W}><w:body>{body}</w:body></w:document>"}
    files["word/styles.xml"] = f"<w:styles {W}>{styles}</w:styles>"
    files |= {f"word/{name}.xml": f"<w:part {W}>{inside}</w:part>" for name, inside in parts.items()}
    return archive(files)


BOX = f"<w:txbxContent>{paragraph(run('boxed'))}</w:txbxContent>"
CONSTRUCTS = {
    "a tracked insertion": (f"<w:ins>{run('5')}</w:ins>", "The fee is 5 euros."),
    "a tracked deletion": ("<w:del><w:r><w:delText>6</w:delText></w:r></w:del>", "The fee is  euros."),
    "a tracked move": (f"<w:moveTo>{run('5')}</w:moveTo><w:moveFrom>{run('6')}</w:moveFrom>", "The fee is 5 euros."),
    "a content control": (f"<w:sdt><w:sdtContent>{run('5')}</w:sdtContent></w:sdt>", "The fee is 5 euros."),
    "a simple field": (f'<w:fldSimple w:instr="X">{run("5")}</w:fldSimple>', "The fee is 5 euros."),
    "a field": (f"<w:r><w:instrText>PAGE</w:instrText></w:r>{run('5')}", "The fee is 5 euros."),
    "a smart tag": (f"<w:smartTag>{run('5')}</w:smartTag>", "The fee is 5 euros."),
    "a link": (f"<w:hyperlink>{run('5')}</w:hyperlink>", "The fee is 5 euros."),
    "an equation": (
        "<m:oMath><m:f><m:num><m:r><m:t>1</m:t></m:r></m:num><m:den><m:r><m:t>2</m:t></m:r></m:den></m:f></m:oMath>",
        "The fee is 1/2 euros.",
    ),
    "tabs, hyphens and breaks": ("<w:r><w:t>a</w:t><w:tab/><w:t>b</w:t><w:noBreakHyphen/><w:t>c</w:t><w:br/></w:r>",
                                 "The fee is a b-c\neuros."),
    "a text box in two forms": (
        f"<mc:AlternateContent><mc:Choice><wps:txbx>{BOX}</wps:txbx></mc:Choice>"
        f"<mc:Fallback><v:textbox>{BOX}</v:textbox></mc:Fallback></mc:AlternateContent>",
        "The fee is  euros.\n\nboxed",
    ),
    "an old text box": (f"<w:pict><v:textbox>{BOX}</v:textbox></w:pict>", "The fee is  euros.\n\nboxed"),
}  # fmt: skip


@pytest.mark.parametrize("construct", CONSTRUCTS)
def test_docx_has_all_text_within_paragraphs(construct):
    inside, text = CONSTRUCTS[construct]
    document = read("a.docx", word_file(paragraph(run("The fee is ") + inside + run(" euros."))))
    assert document.text.strip() == " ".join(text.split(" ")).replace("  ", " ")


def test_docx_has_its_blocks_in_order():
    cell = "<w:tc><w:tcPr><w:gridSpan w:val='2147483647'/><w:vMerge/></w:tcPr>{}</w:tc>".format
    inner = f"<w:tbl><w:tr>{cell(paragraph(run('nested')))}{cell(paragraph(run('table')))}</w:tr></w:tbl>"
    rows = [cell(paragraph(run("left"))) + cell(paragraph(run("right"))), cell(inner), cell(paragraph(run("wide")))]
    body = [
        paragraph(run("Bericht"), "Titel"), paragraph(run("Eins"), "berschrift1"), paragraph(run("text"), "Text"),
        f"<w:sdt><w:sdtContent>{paragraph(run('controlled'))}</w:sdtContent></w:sdt>",
        f"<w:tbl>{''.join(f'<w:tr>{row}</w:tr>' for row in rows)}</w:tbl>", paragraph(run("Zwei"), "H2"),
    ]  # fmt: skip
    parts = {"header1": "head", "header2": "head", "footer1": "foot", "footnotes": "note", "endnotes": "end"}
    document = read("a.docx", word_file("".join(body), **{k: paragraph(run(v)) for k, v in parts.items()}))
    assert headings(document) == [(1, "Bericht"), (1, "Eins"), (2, "Zwei")]
    assert headings_stand_where_they_say(document)
    text = "Bericht Eins text controlled left right nested table wide Zwei"
    assert document.text.split()[: len(text.split())] == text.split()
    assert "left\tright\n" in document.text
    assert sorted(document.text.split()[len(text.split()) :]) == ["end", "foot", "head", "note"]


def test_a_docx_of_a_library_has_headings_tables_and_its_title():
    docx = pytest.importorskip("docx")
    opened = docx.Document()
    opened.core_properties.title = "The title"
    opened.add_heading("Report", 1)
    opened.add_paragraph("First paragraph.")
    opened.add_heading("Details", 2)
    table = opened.add_table(1, 2)
    table.cell(0, 0).text, table.cell(0, 1).text = "left", "right"
    opened.save(file := io.BytesIO())
    document = read("a.docx", file.getvalue())
    assert document.title == "The title"
    assert document.text.split("\n\n")[:4] == ["Report", "First paragraph.", "Details", "left\tright"]


def test_slides_are_pages_with_titles_tables_groups_and_notes():
    pptx = pytest.importorskip("pptx")
    show = pptx.Presentation()
    for number in (1, 2):
        slide = show.slides.add_slide(show.slide_layouts[5])
        slide.shapes.title.text = f"Slide {number}"
        slide.notes_slide.notes_text_frame.text = f"spoken {number}"
    group = slide.shapes.add_group_shape()
    group.shapes.add_textbox(0, 0, 9, 9).text_frame.text = "grouped"
    table = slide.shapes.add_table(1, 2, 0, 0, 9, 9).table
    table.cell(0, 0).text, table.cell(0, 1).text = "left", "right"
    ids = show.slides._sldIdLst
    ids.insert(0, ids[1])  # the second one comes first
    show.save(file := io.BytesIO())
    document = read("a.pptx", file.getvalue())
    assert headings(document) == [(1, "Slide 2"), (1, "Slide 1")]
    first, second = document.text[: document.pages[1]], document.text[document.pages[1] :]
    assert all(words in first for words in ("grouped", "left\tright", "spoken 2"))
    assert " ".join(second.split()) == "Slide 1 spoken 1"


def test_slides_are_found_when_links_are_absolute():
    show = pytest.importorskip("pptx").Presentation()
    slide = show.slides.add_slide(show.slide_layouts[5])
    slide.shapes.title.text, slide.notes_slide.notes_text_frame.text = "A title", "spoken"
    show.save(file := io.BytesIO())
    with zipfile.ZipFile(file) as opened:
        parts = {name: opened.read(name) for name in opened.namelist()}
    for name in ("ppt/_rels/presentation.xml.rels", "ppt/slides/_rels/slide1.xml.rels"):
        parts[name] = re.sub(rb'Target="(?:\.\./)?(slides|notesSlides)/', rb'Target="/ppt/\1/', parts[name])
        assert b'"/ppt/' in parts[name]
    assert read("a.pptx", archive(parts)).text.split() == ["A", "title", "spoken"]


def test_sheets_are_read_row_by_row_with_comments():
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Prices"
    for row in (["item", None, "price"], ["bread", datetime(2024, 1, 2), 2.5], [True]):
        sheet.append(row)
    sheet["A2"].comment = openpyxl.comments.Comment("fresh", "Ann")
    sheet["XFD9"] = "far"
    book.create_sheet("Empty")
    book.save(file := io.BytesIO())
    document = read("a.xlsx", file.getvalue())
    assert headings(document) == [(1, "Prices")]
    assert document.text.split("\n")[:5] == ["Prices", "item\tprice", "bread\t2024-01-02\t2.5", "True", "far"]
    assert "fresh" in document.text


def test_sheets_are_rejected_when_they_have_too_many_cells(monkeypatch):
    openpyxl = pytest.importorskip("openpyxl")
    monkeypatch.setattr(office, "MAX_CELLS", 40_000)
    for last, is_read in (("A", True), ("XFD", False)):
        book = openpyxl.Workbook()
        for number in range(1, 501):
            book.active[f"{last}{number}"] = "x"
        book.save(file := io.BytesIO())
        if is_read:
            assert read("a.xlsx", file.getvalue()).text.count("x") == 500
        else:
            with pytest.raises(ValueError, match=r"^has more than 40,000 cells"):
                read("a.xlsx", file.getvalue())


def test_open_documents_are_read_with_notes_and_without_what_was_deleted():
    content = (
        '<o:content xmlns:o="o" xmlns:text="t" xmlns:table="table" xmlns:draw="draw"><o:body>'
        "<text:tracked-changes><text:p>deleted</text:p></text:tracked-changes>"
        '<text:h text:outline-level="2">Part <text:span>two</text:span></text:h>'
        "<text:p>a<text:s/>b<text:tab/>c<text:note><text:note-citation>1</text:note-citation>"
        "<text:note-body><text:p>noted</text:p></text:note-body></text:note> d<text:line-break/>e</text:p>"
        "<table:table><table:table-row><table:table-cell table:number-columns-repeated='99999999'><text:p>l</text:p>"
        "</table:table-cell><table:table-cell><text:p>r</text:p></table:table-cell></table:table-row></table:table>"
        "<draw:text-box><text:p>boxed</text:p></draw:text-box></o:body></o:content>"
    )
    styles = '<s xmlns:text="t"><text:p>head</text:p></s>'
    meta = '<m xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>Named</dc:title></m>'
    document = read("a.odt", archive({"content.xml": content, "styles.xml": styles, "meta.xml": meta}))
    assert document.text.split("\n\n") == ["Part two", "a b c d\ne", "l\tr", "noted", "boxed", "head", ""]
    assert (document.title, headings(document)) == ("Named", [(2, "Part two")])


def test_a_book_is_read_in_the_order_of_its_spine():
    package = (
        '<package xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata><dc:title>Book</dc:title></metadata><manifest>'
        '<item id="a" href="one%20.xhtml"/><item id="b" href="text/two.xhtml"/></manifest>'
        '<spine><itemref idref="b"/><itemref idref="a"/><itemref idref="b"/></spine></package>'
    )
    book = archive({
        "META-INF/container.xml": '<c><rootfiles><rootfile full-path="OPS/book.opf"/></rootfiles></c>',
        "OPS/book.opf": package,
        "OPS/one .xhtml": "<html><head><title/></head><body><h1>End</h1><p>z</p></body></html>",
        "OPS/text/two.xhtml": "<h1>Begin</h1><p>a", "OPS/cover.xhtml": "never shown",
    })  # fmt: skip
    document = read("a.epub", book)
    assert document.text.split() == ["Begin", "a", "End", "z"]
    assert (document.title, headings(document)) == ("Book", [(1, "Begin"), (1, "End")])


def test_bombs_are_rejected_or_read_within_limits(monkeypatch):
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    lol = f'<!DOCTYPE lol [<!ENTITY e0 "lol">{entities}<!ENTITY file SYSTEM "file:///etc/passwd">]>'
    for entity in ("&e11;", "&file;"):
        body = f"{lol}<w:document {W}>{paragraph(run(entity + 'x'))}</w:document>"
        try:
            text = read("a.docx", archive({"word/document.xml": body})).text
        except ValueError as error:
            text = str(error)
        assert "root:" not in text
        assert len(text) < 1000
    monkeypatch.setattr(office, "MAX_UNPACKED_BYTES", 2_000_000)
    monkeypatch.setattr(office, "MAX_CELLS", 10_000)
    bomb = archive({"word/document.xml": b"\0" * 3_000_000})
    for name in ("a.docx", "a.pptx", "a.xlsx", "a.odt", "a.epub"):
        with pytest.raises(ValueError, match="unpacks to"):
            read(name, bomb)
        with pytest.raises(ValueError, match=rf"^is a broken {name[2:]} file \(BadZipFile: "):
            read(name, b"PK nonsense")
        with pytest.raises(ValueError, match="without a password"):
            read(name, office.OLD_FORMAT + b"...")


def test_deep_nesting_is_read_and_empty_files_are_named():
    depth = 50_000
    deep = "<w:p>" * depth + run("deep") + "</w:p>" * depth
    assert read("a.docx", word_file(deep)).text.strip() == "deep"
    with pytest.raises(ValueError, match=r"^holds no text$"):
        read("a.docx", word_file(paragraph("")))
    with pytest.raises(ValueError, match=r"^is a broken docx file"):
        read("a.docx", archive({"word/document.xml": "<w:document>"}))
