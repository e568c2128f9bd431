"""WeChat's events: from their XML or JSON to the record that the platform reads. Pure."""

import json
import re
from collections.abc import Mapping
from datetime import tzinfo
from hashlib import blake2b
from typing import Any, NoReturn
from xml.parsers import expat

import msgspec

from streams.records import WechatEvent
from streams.times import SECOND, format_instant

_MOST_FIELDS = 100
_DEEPEST = 8
_SCENE_PREFIX = "qrscene_"
# All other fields go into the record's `fields`.
_OWN_FIELDS = frozenset({"FromUserName", "CreateTime", "Event"})
_SECONDS = re.compile(r"[0-9]{1,12}")
# Characters that XML 1.0 forbids. People paste them, and phones cut emoji in half.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# A character written as its number. (In a CDATA section this is plain text.)
_CDATA_OR_NUMBER = re.compile(r"<!\[CDATA\[.*?\]\]>|&#(?:x([0-9a-fA-F]+)|([0-9]+));", re.DOTALL)
_LATEST_SECONDS = 253_402_300_799  # the year 9999

# Events that only followers cause: they follow, scan a code, use the menu, or share their location.
_FOLLOWERS_EVENTS = frozenset(
    {
        *("subscribe", "scan", "click", "view", "view_miniprogram", "location", "location_select"),
        *("scancode_push", "scancode_waitmsg", "pic_sysphoto", "pic_photo_or_album", "pic_weixin"),
    }
)


class EventError(ValueError):
    """A body isn't an event. The text says why."""


def read_fields(body: bytes) -> dict[str, str]:
    """Return the top level of an XML or JSON body as strings: texts as they are, and what is
    nested as JSON (an XML element of a name that repeats as a list). Raises EventError.

    Characters that are invalid in text (control characters, half an emoji, cut UTF-8) are left out,
    because WeChat passes on what followers write. Document types and entities are refused, because
    with them XML can read other files.
    """
    return _read_json(body) if body.lstrip()[:1] == b"{" else _read_xml(body)


def field_of(fields: Mapping[str, str], name: str) -> str:
    """Return a field that is read here, without blanks around it; empty: it is missing."""
    return fields.get(name, "").strip()


def to_event(fields: Mapping[str, str], app_id: str, zone: tzinfo) -> WechatEvent | None:
    """Return an event's record; None: it is a person's message, not an event.

    Raises EventError.
    """
    if "MsgType" in fields and field_of(fields, "MsgType").lower() != "event":
        return None
    said = {name: field_of(fields, name) for name in ("FromUserName", "CreateTime", "Event")}
    for name, text in said.items():
        if not text:
            raise EventError(f"{name} is missing")
    openid, created, event = said.values()
    event_key = field_of(fields, "EventKey")
    if not is_time(created):
        raise EventError("CreateTime is no time")
    # Two results of one second may differ in their MsgID only.
    cause = (
        app_id, event.lower(), openid, created, msgid_of(fields) or "", event_key
    )  # fmt: skip
    return WechatEvent(
        event_id=blake2b("\x1f".join(cause).encode(), digest_size=16).hexdigest(),
        event=event,
        openid=openid,
        scene=_scene(event, event_key),
        at=format_instant(int(created) * SECOND, zone),
        fields={name: value for name, value in fields.items() if name not in _OWN_FIELDS},
    )


def is_time(created: str) -> bool:
    """Is a CreateTime valid, that is seconds since 1970?"""
    return _SECONDS.fullmatch(created) is not None and int(created) <= _LATEST_SECONDS


def says_follows(event: str, fields: Mapping[str, str]) -> bool | None:
    """Return True if an event shows that the person follows the account, False if not any more;
    None: it shows neither. New kinds of events may come, some from people who don't follow."""
    name = event.lower()
    if name == "unsubscribe":
        return False
    if name == "templatesendjobfinish":
        return True if job_error(fields.get("Status", "")) is None else None
    return True if name in _FOLLOWERS_EVENTS else None


def msgid_of(fields: Mapping[str, str]) -> str | None:
    """Return the msgid that an event is about. Template events name the field differently."""
    return field_of(fields, "MsgID") or field_of(fields, "MsgId") or None


def job_error(status: str) -> str | None:
    """Return WeChat's status of a finished job, unchanged; None: it is success."""
    said = status.strip()
    return None if said.lower() == "success" else said or "no status"


def _scene(event: str, key: str) -> str | None:
    """Return the scene of the scanned QR code; None: none was scanned. A new follower's key has a
    prefix before the scene, or there was no code; a follower's key is the scene."""
    match event.lower():
        case "subscribe" if key.startswith(_SCENE_PREFIX):
            return key.removeprefix(_SCENE_PREFIX) or None
        case "scan":
            return key or None
        case _:
            return None


def _without_forbidden(text: str) -> str:
    return _FORBIDDEN.sub("", text)


def _read_json(body: bytes) -> dict[str, str]:
    try:
        said = _decode_json(body)
    except (ValueError, RecursionError):
        raise EventError("the body is no JSON in UTF-8") from None
    if not isinstance(said, dict) or len(said) > _MOST_FIELDS:
        raise EventError("the body is no object of fields")
    return {_without_forbidden(name): _text(value) for name, value in said.items()}


def _decode_json(body: bytes) -> Any:
    """Raises ValueError."""
    try:
        body.decode()
        return msgspec.json.decode(body)
    except ValueError:
        lenient = json.loads(body.decode("utf-8", "ignore"), strict=False)
    # Parse it strictly again, without the characters that made it fail.
    text = _without_forbidden(json.dumps(lenient, ensure_ascii=False))
    return msgspec.json.decode(text.encode())


def _text(value: Any) -> str:
    if isinstance(value, str):
        return _without_forbidden(value)
    return "" if value is None else msgspec.json.encode(value).decode()


def _xml_without_forbidden(body: bytes) -> bytes:
    def without(found: re.Match[str]) -> str:
        digits = found[1] or found[2]
        if digits is None:
            return found[0]
        number = int(digits[:9], 16 if found[1] else 10)
        is_known = number < 0x110000 and not _FORBIDDEN.match(chr(number))
        return found[0] if is_known else ""

    text = _without_forbidden(body.decode("utf-8", "ignore"))
    return _CDATA_OR_NUMBER.sub(without, text).encode()


class _Element:
    """An XML element that is being read."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._children: dict[str, Any] = {}

    def add(self, name: str, content: Any) -> None:
        """Add a child that was read."""
        known = self._children.get(name)
        if known is None:
            self._children[name] = content
        elif isinstance(known, list):
            known.append(content)
        else:
            self._children[name] = [known, content]

    def content(self) -> Any:
        """Return its text; where it has children, these, and the text as `#text` unless blank."""
        text = "".join(self.texts)
        if not self._children:
            return text
        return {"#text": text, **self._children} if text.strip() else self._children


def _read_xml(body: bytes) -> dict[str, str]:
    parser = expat.ParserCreate("UTF-8")
    fields: dict[str, str] = {}
    path: list[_Element] = []

    def refuse(*_: Any) -> NoReturn:
        raise EventError("the XML has a document type or an entity")

    def begin(name: str, _: Any) -> None:
        path.append(_Element())
        if len(path) > _DEEPEST:
            raise EventError("the XML is nested too deeply")

    def text(data: str) -> None:
        path[-1].texts.append(data)

    def end(name: str) -> None:
        content = path.pop().content()
        if len(path) == 1:
            fields[name] = _text(content)
            if len(fields) > _MOST_FIELDS:
                raise EventError("the XML has too many fields")
        elif path:
            path[-1].add(name, content)

    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.UnparsedEntityDeclHandler = refuse
    parser.ExternalEntityRefHandler = refuse
    parser.SkippedEntityHandler = refuse
    parser.StartElementHandler = begin
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    try:
        parser.Parse(_xml_without_forbidden(body), True)
    except (expat.ExpatError, UnicodeError, ValueError) as error:
        if isinstance(error, EventError):
            raise
        raise EventError("the body is no XML") from None
    return fields
