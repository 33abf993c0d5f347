"""Mails: headers, and every text; of a text in several formats, the plain one."""

import email
import email.errors
from contextlib import suppress
from email.header import decode_header, make_header

from .html import read_markup
from .text import decode, joined

HEADERS = ("From", "To", "Cc", "Date", "Subject")


def mail(name: str, data: bytes) -> dict:
    message = email.message_from_bytes(data)
    headers = {}
    for key in HEADERS:
        value = str(message.get(key, ""))[:2000]
        with suppress(LookupError, ValueError, email.errors.MessageError):
            value = str(make_header(decode_header(value)))
        headers |= {key: " ".join(value.split())} if value.split() else {}
    parts, todo = [{"text": "\n".join(f"{key}: {value}" for key, value in headers.items())}], [message]
    while todo:
        part = todo.pop()
        kind = part.get_content_type()
        if part.is_multipart():
            inner = part.get_payload()
            if kind == "multipart/alternative":
                inner = [each for each in inner if each.get_content_type() == "text/plain"][:1] or inner[-1:]
            todo.extend(reversed(inner))
        elif kind.startswith("text/"):
            text = decode(part.get_payload(decode=True) or b"", part.get_content_charset() or "")
            parts.append(read_markup(text) if kind == "text/html" else {"text": text})
        else:
            parts.append({"text": f"Attachment, not read: {part.get_filename() or kind}"})
    return joined(parts, headers.get("Subject", ""))
