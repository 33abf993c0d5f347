"""Office files and books: zip archives of XML, which is streamed. Text is read from all parts of a document."""

import io
import posixpath
import re
import zipfile
from collections.abc import Mapping
from urllib.parse import unquote
from xml.etree import ElementTree
from xml.parsers import expat

from ..documents import Heading
from .html import Page, html
from .text import MAX_UNPACKED_BYTES, Unreadable, joined

MAX_CELLS = 5_000_000  # a cell in the last column makes a row of 16,384
OLD_FORMAT = b"\xd0\xcf\x11\xe0"  # of encrypted files, too

# Local names of elements, which Word, PowerPoint and OpenDocument share, to tags of HTML.
TAGS = {
    **dict.fromkeys(("p", "h", "comment", "threadedComment", "cm"), "p"),
    **dict.fromkeys(("br", "cr", "line-break"), "br"),
    **{"tbl": "table", "table": "table", "tr": "tr", "table-row": "tr", "tc": "td", "table-cell": "td"},
}
CHARACTERS = {"tab": " ", "s": " ", "ptab": " ", "noBreakHyphen": "-", "den": "/"}
APART = {"txbxContent", "text-box", "note-body", "annotation"}  # inside a paragraph, and read after it
# Deleted, moved and repeated text, tab stops, the numbers of slides and notes.
SKIPPED = {"del", "moveFrom", "tracked-changes", "Fallback", "tabs", "fld", "note-citation"}
WORD_PARTS = re.compile(r"word/(document|header|footer|footnotes|endnotes|comments|diagrams/data|charts/chart)\d*\.xml")
SHEET_PARTS = re.compile(r"xl/(comments|threadedComments|drawings|charts)[^.]*\.xml")
SLIDE_PARTS = re.compile(r"ppt/(notesSlides|comments|diagrams/data|charts/chart).*\.xml")


def word(name: str, data: bytes) -> dict:
    package = _Package(data, "docx")
    levels = {}
    for style in package.xml("word/styles.xml").iterfind("{*}style"):
        level = re.fullmatch(r"heading (\d)|title", _value(style.find("{*}name"), "val").lower())  # in every language
        levels |= {_value(style, "styleId"): int(level[1] or 1)} if level else {}
    names = sorted(filter(WORD_PARTS.fullmatch, package.names), key=lambda name: not name.startswith("word/document"))
    parts = [package.read(name, {"t"}, levels) for name in names]
    unique = {part["text"]: part for part in parts}  # sections may repeat a header
    return joined(list(unique.values()), package.title("docProps/core.xml"))


def powerpoint(name: str, data: bytes) -> dict:
    package = _Package(data, "pptx")
    links, slides = package.links("ppt/presentation.xml"), []
    found = package.xml("ppt/presentation.xml").iterfind(".//{*}sldId")
    for main in dict.fromkeys(links[id] for slide in found for id in slide.attrib.values() if id in links):
        parts = [main, *filter(SLIDE_PARTS.fullmatch, package.links(main).values())]
        slides.append(joined([package.read(part, {"t", "text"}) for part in parts]))
    return joined(slides, package.title("docProps/core.xml"), are_pages=True)


def open_document(name: str, data: bytes) -> dict:
    package = _Package(data, "odt")
    names = {"content.xml", "styles.xml"} if name.endswith(".odt") else {"content.xml"}  # headers are among the styles
    parts = [package.read(name, {"p", "h"}) for name in sorted(names.intersection(package.names))]
    return joined(parts, package.title("meta.xml"))


def spreadsheet(name: str, data: bytes) -> dict:
    import openpyxl

    package = _Package(data, "xlsx")
    book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
    sheets, cells = [], 0
    for sheet in book.worksheets:
        sheet.reset_dimensions()  # the declared ones may be wrong
        text = ""
        for row in sheet.iter_rows(values_only=True):
            cells += max(len(row), 1)
            if cells > MAX_CELLS:
                raise Unreadable(f"has more than {MAX_CELLS:,} cells: split it")
            values = [str(value).removesuffix(" 00:00:00") for value in row if value not in (None, "")]
            text += "\t".join(values) + "\n" if values else ""
        if text:
            sheets.append({"text": f"{sheet.title}\n{text}", "headings": [Heading(0, 1, sheet.title)]})
    sheets += [package.read(part, {"t", "text"}) for part in filter(SHEET_PARTS.fullmatch, package.names)]
    return joined(sheets, package.title("docProps/core.xml"))


def epub(name: str, data: bytes) -> dict:
    package = _Package(data, "epub")
    main = _value(package.xml("META-INF/container.xml").find(".//{*}rootfile"), "full-path")
    book = package.xml(main)
    items = {_value(item, "id"): unquote(_value(item, "href")) for item in book.iterfind("{*}manifest/{*}item")}
    chapters = [items[_value(item, "idref")] for item in book.iterfind("{*}spine/{*}itemref")]
    parts = [posixpath.normpath(posixpath.join(posixpath.dirname(main), chapter)) for chapter in chapters]
    return joined([html(".xhtml", package.archive.read(part)) for part in dict.fromkeys(parts)], package.title(main))


class _Package:
    """The zip archive of a file; its parts have the names of the entries."""

    def __init__(self, data: bytes, kind: str) -> None:
        if data.startswith(OLD_FORMAT):
            raise Unreadable(f"is encrypted or in an old format: save it as .{kind} without a password")
        self.archive = zipfile.ZipFile(io.BytesIO(data))
        self.names = self.archive.namelist()
        unpacked = sum(entry.file_size for entry in self.archive.infolist())  # zipfile unpacks no more than this
        if unpacked > MAX_UNPACKED_BYTES:
            raise Unreadable(f"unpacks to {unpacked / 1e6:,.0f} MB, more than {MAX_UNPACKED_BYTES / 1e6:,.0f}")

    def xml(self, part: str) -> ElementTree.Element:
        """Parse a small part, or return an empty element if there is none."""
        return ElementTree.fromstring(self.archive.read(part)) if part in self.names else ElementTree.Element("none")

    def title(self, part: str) -> str:
        return (self.xml(part).findtext(".//{http://purl.org/dc/elements/1.1/}title") or "").strip()

    def links(self, part: str) -> dict[str, str]:
        """Return the parts that a part links to, by their ids in it."""
        folder, name = posixpath.split(part)
        links = self.xml(f"{folder}/_rels/{name}.rels").iterfind("{*}Relationship")
        paths = {_value(link, "Id"): posixpath.join("/", folder, _value(link, "Target")) for link in links}
        return {id: name for id, path in paths.items() if (name := posixpath.normpath(path)[1:]) in self.names}

    def read(self, part: str, text_in: set[str], levels: Mapping[str, int] | None = None) -> dict:
        """Read the text of a part from the elements `text_in`; `levels` has the levels of heading styles."""
        reader = _Part(text_in, levels or {})
        parser = expat.ParserCreate(namespace_separator=" ")  # reads no external entities, and limits the others
        parser.buffer_text = True
        parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
        parser.CharacterDataHandler = reader.add
        parser.Parse(self.archive.read(part), True)
        return joined([reader.page.read(), *reader.apart])


class _Part:
    def __init__(self, text_in: set[str], levels: Mapping[str, int]) -> None:
        self.text_in, self.levels, self.page = text_in, levels, Page()
        self.skipped = self.inside = self.title = 0
        self.outer: list[tuple[Page, int]] = []  # the pages around an element of APART
        self.apart: list[dict] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        name = name.rpartition(" ")[2]
        if self.skipped or name in SKIPPED:
            self.skipped += 1
            return
        values = {key.rpartition(" ")[2]: value for key, value in attributes.items()}
        if name in APART:
            self.outer.append((self.page, self.inside))
            self.page, self.inside = Page(), 0
        self.inside += name in self.text_in
        self.page.start(TAGS.get(name, ""))
        if name in CHARACTERS:
            self.page.add(CHARACTERS[name])
        if name == "pStyle":
            self.page.begin_heading(self.levels.get(values.get("val", ""), 0))
        elif name == "h":
            self.page.begin_heading(int(values.get("outline-level", 1)))
        elif name == "ph":  # the purpose of a slide's shape
            self.title = int(values.get("type") in ("title", "ctrTitle"))
        elif name == "p":
            self.page.begin_heading(self.title)

    def end(self, name: str) -> None:
        if self.skipped:
            self.skipped -= 1
            return
        name = name.rpartition(" ")[2]
        self.inside -= name in self.text_in
        self.page.end(TAGS.get(name, ""))
        if name in ("p", "h"):
            self.page.end_heading()
        elif name == "sp":
            self.title = 0
        if name in APART:
            self.apart.append(self.page.read())
            self.page, self.inside = self.outer.pop()

    def add(self, text: str) -> None:
        if self.inside and not self.skipped:
            self.page.add(text)


def _value(element: ElementTree.Element | None, attribute: str) -> str:
    """Get an attribute by its local name, or an empty string."""
    attributes = element.attrib if element is not None else {}
    return next((value for key, value in attributes.items() if key.rpartition("}")[2] == attribute), "")
