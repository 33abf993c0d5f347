"""A PDF is read whole: pages, forms, notes, and words that its lines break."""

import base64
import io
import zlib

import pytest
from reading import read, words

pytest.importorskip("pypdfium2")
pypdf = pytest.importorskip("pypdf")
from pypdf.generic import (  # noqa: E402
    ArrayObject,
    DecodedStreamObject,
    DictionaryObject,
    FloatObject,
    NameObject,
    NumberObject,
    TextStringObject,
)


def named(**values) -> DictionaryObject:
    return DictionaryObject({NameObject(f"/{key}"): value for key, value in values.items()})


def pdf(*pages: str, password: str | None = None, algorithm: str = "RC4-128", rotate: int = 0, notes=()) -> bytes:
    """A PDF with a page for each text, a line each of its lines, and with annotations on the first."""
    writer = pypdf.PdfWriter()
    font = named(Type=NameObject("/Font"), Subtype=NameObject("/Type1"), BaseFont=NameObject("/Helvetica"))
    font[NameObject("/Encoding")] = NameObject("/WinAnsiEncoding")
    for text in pages:
        page = writer.add_blank_page(300, 300)
        page[NameObject("/Resources")] = named(Font=named(F1=writer._add_object(font)))
        page[NameObject("/Rotate")] = NumberObject(rotate)
        content = DecodedStreamObject()
        lines = "".join(f"({line}) Tj 0 -20 Td " for line in text.split("\n"))
        content.set_data(f"BT /F1 12 Tf 20 250 Td {lines} ET".encode("cp1252") if text else b"")
        page[NameObject("/Contents")] = writer._add_object(content)
    notes = [writer._add_object(note) for note in notes]
    if notes:
        writer.pages[0][NameObject("/Annots")] = ArrayObject(notes)
        writer.root_object[NameObject("/AcroForm")] = named(Fields=ArrayObject(notes))
    writer.add_metadata({"/Title": "The title"})
    if password is not None:
        writer.encrypt(password, "owner", algorithm=algorithm)
    writer.write(file := io.BytesIO())
    return file.getvalue()


def annotation(subtype: str, **values) -> DictionaryObject:
    place = ArrayObject([FloatObject(x) for x in (10, 10, 90, 30)])
    return named(Type=NameObject("/Annot"), Subtype=NameObject(f"/{subtype}"), Rect=place, **values)


def test_a_pdf_has_pages_and_a_title():
    document = read("a.pdf", pdf("first page\nsecond line", "", "third page"))
    assert document.text[: document.pages[1]].strip() == "first page\nsecond line"
    assert document.text[document.pages[2] :].strip() == "third page"
    assert (document.title, len(document.pages)) == ("The title", 3)


# Encrypted with an empty password for the user by qpdf, which is not here: zlib, base 85.
AES = {
    "AES-128": (
        "c-n<izfTlF6t*<m8Vb8nb0zG|&g||?a$drZI{_ge2UsA*{DjqGm+TD))OJ?>0~Qt#ZH$GTkyuz*61A}-F)<oSqlJk&yLZQ(xx!5*^Y)wfzW2"
        "R1^D2u|jZrifd6nazPkws{K#+;MUbPDRMZTfi06Sy}_{;m-8u*jk@>aG1YBf)%s&EVj0+tio(x9qh6UPP#9YJcKLc(Yhihy8BnWO}AN)?BKM"
        "1hK-q6!;?4dznBm>3z8+5kNspr6ckQVS69Zzie@)&MD$t@pHb<n}|!KcT7BscnO>Q_Z|q37^RJ919$S<-)MD)(fWGIrl1G((P;~myWw&YB;8"
        "jfk0F`)C#@MEwkKehYZLWP!kTQnbYZp-2~M6Hj<Xrx!YSVcuLDml|gNrYrf^(8o6}k?W6C{8b|TSS^f0*#{K%sS4$5MHlJT-XV(tzJf4eA{<"
        "K!Ud|1Am9#&u9yZi3P=clt1N3&y<Z&%k&AH4rKJ#z6y{p8ckg|BaBf1MO!y3}1+(SWQ8-qvM#{<LoGYMV$7{Ces%CFut6Zzt(^+D`gFb4S>+"
        ")S_V2tGi_A*BuYuLZj?l)2gmDzGFA*yG5`4sZ1_x>$Gs1cL(+6YH;2t6!n_iYgg0qRPkK(T>=XH1yGG+L5+Zn!XQwX3rqqWYaT`fOGsk`os9"
        "x)WN0WAhB3?|DkTpM3Iu`1<yfeLs@oR9D1rs+l6z<_;Z~!k+--UPX9ZMgY^Y=?luU)vD1oJrlp-xTqlyLw!T=ExF$M+G1R(-r#ED`E5=MzcF"
        "55~c>8i`s@7-RmjRyhs;Q0rlFvKA+;2cBlWtAssAB)HkhC()k1&9t|ID$i1h|mz`X1kBsoF^@JFU6hCq$UGFcXYC>7}(NoCI=e0cFs(JwJHx"
        "o#*vJvQbuwT20~G)nS#O?Es(1H-($UeoB95>1#x!{-PrKlmR(~3@hX-2Lc{wDbfIIT"
    ),
    "AES-256": (
        "c-n<jOKT)m6b6}v_QJL3<|1a9sr!CF8%QSI7$zY@l8ML=;XckydgxSz>PpDWLPiu_$m|AZ;YLRM0lE-n6q&^cZUw=$TQ}|$#K);hchW-^HeJ"
        "-MbI<we`%Zo5F5FlhF0!kpxA6TRkN)W~LP-^F_xgQO3{D#;C!?yIkoIwTb!E^kR{R8Zp>B6bfu(bq>u>^NV#(4{`!8<zeV7n|m|LXSxpM@hx"
        "aJ!_uJ&=e2W4ts#phnRGit^_`XU?QgBIE`0V#RKSP(8SYMnJs#;hfcpg|j*sN^PT5t)>hI~$BMd1($_%)wu)j?0EHQd}RU3AsgN$82xL?Tqe"
        "4seGoiM2*das53PikVbx`Iz<$Em3Eh)XV+efRAcf?`4&v7<2u4wABTu^wqQhe3Da(ERgG@|BXe}-*r+)+>rn1D2gG9Ta5Qe9#`_qHS0PrZE1"
        "EPl_`{way!G_)2Rru`4&UDV=*ufF{`$kC*S`9jKKStdFN+7CJ}sZT_t(3Rzh1llO8?2}C+|PE{*pZX?7N3w{P_FFzdgA7?@w3$eE99j?bknl"
        "^_va({L4ST^Fm8z3O%Kz=V-Og=;Re|!1x53QS@kz5;={^eNwzRDwokF7lG~L&~#E;!EC0xL%7gw=D)(Q>)dvermN-S=3sEr_PSWD;^q;QZPE"
        "sA47PX0d7}iMHF?&q?Z%hM*XcZkD@}?`(htliEffnGyj3<wZ<&!YNDh)yw4X6lM;%<|xEZ5RpcPLUj0ER|vLF>z&gINKHHkARc(y!IX1z^DA"
        "%{(zBgUlSlr!h0l!9rKopvc?#~I|1DX`?cw*nA7bK{K{oYE+>WfTiiJ6&XvQEqVo^&xr-Sk%ff8X^xYTNSJbSSWQnH<G#5V(2)OemI=<5O4L"
        "x!%ZALd<l!nTST)w^8m?MY7`eahNz+wG^-?;5h6sVC>KIo1JObV)bp&VW&px_2OzC?nxpo}ag<%wHbx|I6XnN5X;6@2WPpe^Q_7=DmIF2=g7"
        "Z#rt2Ji<3{G}}03lizEY~(!Z4qV{NAbcXr#0jrCALS;e?%)K6v^Z~#&CwZo$@@!1icjF{Bj<*@={E4eJQ4lxfIi8uC}TDXp9bQ-Md!iity<n"
        "QC02H)UCHicL7h)Vr`Y&>U*V}XVKV{(2VGskgNrlXvi4?OH2QsvDZyuednklW_se_0paVW>l))+_7)Zfo5S9Jsp_@L"
    ),
}  # fmt: skip


@pytest.mark.parametrize("algorithm", ["RC4-40", "RC4-128", *AES])
def test_pdf_with_an_empty_password_is_read(algorithm):
    if algorithm in AES:
        data = zlib.decompress(base64.b85decode(AES[algorithm]))
    else:
        data = pdf("open to all", password="", algorithm=algorithm)
    assert read("a.pdf", data).text.split() == ["open", "to", "all"]


def test_encrypted_pdf_is_rejected_with_the_reason():
    with pytest.raises(ValueError, match=r"^is encrypted: save it without its password"):
        read("a.pdf", pdf("secret", password="key"))


def test_pdf_has_filled_in_fields_and_notes():
    field = {"FT": NameObject("/Tx"), "T": TextStringObject("name"), "V": TextStringObject("Zoë Müller")}
    notes = [annotation("Widget", **field), annotation("Text", Contents=TextStringObject("a remark"))]
    text = read("a.pdf", pdf("Name:", notes=notes)).text
    assert text.split() == ["Name:", "Zoë", "Müller", "a", "remark"]


def test_words_that_lines_break_are_joined_when_that_is_certain():
    text = "the docu-\nment is well-\nknown and in twenty-\nfour copies, pp. 10-\n20"
    document = read("a.pdf", pdf(text, "a document of a well-known house"))
    read_words = document.text.split()
    assert {"document", "well-known"} <= set(read_words)
    assert {"docu-", "well-", "wellknown", "twentyfour"}.isdisjoint(read_words)
    assert "1020" not in document.text


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
def test_words_of_rotated_pages_are_neither_glued_nor_lost(rotate):
    text = "one two three\nfour five six"
    assert words(read("a.pdf", pdf(text, rotate=rotate)).text) == words(text)


def test_ligatures_are_their_letters_and_soft_hyphens_join():
    from foliogpt.rag.readers.pdf import _join_pages

    assert _join_pages(["mis\ufb01ts o\ufb03ce x\u00b2"])["text"].strip() == "misfits office x\u00b2"
    assert _join_pages(["dis\xad\r\ntributed"])["text"].strip() == "distributed"


def scan() -> bytes:
    PIL = pytest.importorskip("PIL.Image")
    PIL.new("RGB", (40, 40), "red").save(file := io.BytesIO(), "PDF")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (scan, r"holds only images: run text recognition \(OCR\)"), (lambda: pdf("", ""), "holds no text"),
        (lambda: pdf("x")[:200], "broken PDF"), (lambda: b"no pdf", "broken PDF"), (lambda: b" ", "is empty"),
    ],
)  # fmt: skip
def test_a_pdf_without_readable_text_says_why(data, says):
    with pytest.raises(ValueError, match=f"^(is a )?{says}"):
        read("a.pdf", data())
