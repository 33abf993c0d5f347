"""PDF: the text of pages, filled-in fields and notes."""

import ctypes
import re
import unicodedata
from collections.abc import Callable
from itertools import accumulate

from .text import NoText, Unreadable

MAX_CHARACTERS = 50_000_000
# A word that continues on the next line: PDFium marks its hyphen by U+0002 or U+FFFE.
BROKEN_WORD = re.compile(r"(?<!\w)(\w{1,60})([\x02\ufffe\xad]|-\r?\n)(?:\r?\n)?(?=([^\W\d_A-Z]\w*))")
LIGATURES = re.compile("[\ufb00-\ufb06]")
WIDGET, POPUP = 20, 16  # kinds of annotations
FILLED_IN = (4, 5, 6)  # kinds of fields with text: combo box, list box, text


def pdf(name: str, data: bytes) -> dict:
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(data)
        document.init_forms()
        texts, size, has_images = [], 0, False
        for page in document:
            texts.append("\n".join([page.get_textpage().get_text_bounded(), *_annotations(document, page)]))
            size += len(texts[-1])
            if size > MAX_CHARACTERS:
                raise Unreadable(f"has more than {MAX_CHARACTERS / 1e6:,.0f} million characters: split it")
            has_images = has_images or any(page.get_objects(filter=[pypdfium2.raw.FPDF_PAGEOBJ_IMAGE], max_depth=2))
            page.close()
        title = document.get_metadata_value("Title")
    except pypdfium2.PdfiumError as error:
        is_encrypted = re.search("password|security", str(error), re.IGNORECASE)
        reason = "is encrypted: save it without its password" if is_encrypted else "is a broken PDF"
        raise Unreadable(f"{reason} ({error})") from None
    if not any(map(str.strip, texts)):
        raise NoText("holds only images: run text recognition (OCR) on it first" if has_images else "holds no text")
    return {**_join_pages(texts), "title": title}


def _annotations(document, page) -> list[str]:
    """List the texts of filled-in fields and of notes."""
    from pypdfium2 import raw

    found = []
    for number in range(raw.FPDFPage_GetAnnotCount(page)):
        annotation = raw.FPDFPage_GetAnnot(page, number)
        kind = raw.FPDFAnnot_GetSubtype(annotation)
        if kind == WIDGET and document.formenv:
            if raw.FPDFAnnot_GetFormFieldType(document.formenv, annotation) in FILLED_IN:
                found.append(_string(raw.FPDFAnnot_GetFormFieldValue, document.formenv, annotation))
        elif kind != POPUP:
            found.append(_string(raw.FPDFAnnot_GetStringValue, annotation, b"Contents"))
        raw.FPDFPage_CloseAnnot(annotation)
    return [text for text in found if text.strip()]


def _string(get: Callable[..., int], *arguments) -> str:
    """Call a function of PDFium that writes UTF-16 with a NUL at its end."""
    size = get(*arguments, None, 0)
    buffer = (ctypes.c_ushort * (size // 2 + 1))()
    get(*arguments, buffer, size)
    return bytes(buffer)[: max(size - 2, 0)].decode("utf-16-le", "replace")


def _join_pages(pages: list[str]) -> dict:
    """Join pages, and words that a line break divides if their parts are no words of the document."""
    pages = [LIGATURES.sub(lambda found: unicodedata.normalize("NFKC", found[0]), page) for page in pages]
    known = {word.lower() for page in pages for word in re.findall(r"\w+(?:-\w+)*", page)}

    def join_word(found: re.Match) -> str:
        left, right = found[1].lower(), found[3].lower()
        if found[2] == "\xad" or (left + right in known and f"{left}-{right}" not in known):
            return found[1]
        return f"{found[1]}-" + ("" if f"{left}-{right}" in known else "\n")

    texts = [BROKEN_WORD.sub(join_word, page).replace("\xad", "").replace("\r\n", "\n") + "\n\n" for page in pages]
    return {"text": "".join(texts), "pages": tuple(accumulate(map(len, texts[:-1]), initial=0))}
