"""A mail is read with all its texts, in whatever encoding."""

from email.message import EmailMessage

from reading import read


def message(**headers) -> EmailMessage:
    made = EmailMessage()
    for key, value in {"From": "Zoë <z@example.org>", "Subject": "Grüße", **headers}.items():
        made[key] = value
    return made


def test_headers_and_text_are_read():
    made = message(To="Ann <a@example.org>")
    made.set_content("Hallo Käse\n", charset="iso-8859-1")
    document = read("a.eml", made.as_bytes())
    assert document.title == "Grüße"
    assert document.text.strip() == ("From: Zoë <z@example.org>\nTo: Ann <a@example.org>\nSubject: Grüße\n\nHallo Käse")


def test_mail_has_one_format_of_an_alternative_and_every_other_part():
    forwarded = message(Subject="inner")
    forwarded.set_content("forwarded text")
    made = message()
    made.set_content("plain form")
    made.add_alternative("<p>html <b>form</b></p>", subtype="html")
    made.add_attachment("second <text>", filename="note.txt")
    made.add_attachment("<h1>Page</h1><p hidden>no</p>", subtype="html")
    made.add_attachment(b"\0\1", maintype="application", subtype="pdf", filename="report.pdf")
    made.add_attachment(forwarded)
    text = read("a.eml", made.as_bytes()).text
    for shown in ("plain form", "second <text>", "Page", "forwarded text", "report.pdf"):
        assert shown in text
    for hidden in ("html form", "no\n", "<h1>"):
        assert hidden not in text


def test_mail_of_html_alone_is_its_text():
    made = message()
    made.set_content("<p>one<p>two", subtype="html")
    assert read("a.eml", made.as_bytes()).text.endswith("one\n\ntwo\n\n")


def test_broken_headers_and_encodings_do_not_hide_the_text():
    data = b"Subject: =?nonsense?q?a?= \xff\nContent-Type: text/plain; charset=punycode\n\nbody \xc3\xa9"
    assert "body é" in read("a.eml", data).text
