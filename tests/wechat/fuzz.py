"""Fuzzing the callback: for any body it must return an event or refuse, and never fail otherwise.

Mutates real bodies from one seed, in every mode. Most have a valid signature, because a wrong one
is refused before the body matters. What is accepted goes on to the record and its bytes, as in the
web server.

    python -m tests.wechat.fuzz --bodies 1000000
"""

import argparse
import json
import random
import sys
import time
from collections import Counter
from zoneinfo import ZoneInfo

from app.channels.wechat import crypto
from app.channels.wechat.callback import Console, Heard, RefusedRequest, hear
from app.channels.wechat.events import EventError, job_error, msgid_of, to_event
from streams.records import encode

ZONE = ZoneInfo("Asia/Shanghai")
TOKEN, APP_ID, KEY, PREVIOUS = "callbacktoken", "wxtest", "k" * 43, "p" * 43
NOW = 1_548_834_730
PLAIN = Console(TOKEN, APP_ID)
SAFE = Console(TOKEN, APP_ID, (KEY, PREVIOUS))

_EVENT = {
    "ToUserName": "gh_1",
    "FromUserName": "openid1",
    "CreateTime": "1548834730",
    "MsgType": "event",
    "Event": "TEMPLATESENDJOBFINISH",
    "MsgID": "3487542469355618313",
    "Status": "failed:user block",
    "EventKey": "qrscene_7",
}
_XML = (
    "<xml>" + "".join(f"<{k}><![CDATA[{v}]]></{k}>" for k, v in _EVENT.items()) + "</xml>"
).encode()
SEEDS = [
    _XML,
    b"<?xml version='1.0' encoding='utf-16'?>" + _XML,
    b"<!DOCTYPE xml [<!ENTITY e 'e'>]>" + _XML,
    json.dumps(_EVENT).encode(),
    json.dumps(_EVENT | {"CreateTime": 1548834730, "List": {"a": [1, None, 1e99]}}).encode(),
]
PIECES = [
    b"<!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]>",
    b"&e;",
    b"&#0;",
    b"&#xD800;",
    b"&lt;",
    b"<![CDATA[",
    b"]]>",
    b"<a>" * 20,
    b"</a>",
    b"<?x y?>",
    b"<!--",
    b"-->",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"\\u0000",
    b"\x00",
    b"[" * 2000,
    b'{"a":' * 500,
    b"1e999",
    b"-1",
    b"9" * 40,
    b"NaN",
    b"true",
    b"null",
    b"{}",
    b"\xe4\xbd",
    b"subscribe",
    b"SCAN",
    b"<Encrypt>",
    b'"Encrypt":',
    b"xmlns:a='b'",
    b"a:b",
    b"\n",
    b"0" * 30,
    "１".encode(),
    "٣".encode(),
]


def mutate(dice: random.Random, body: bytes) -> bytes:
    """Return a body with some of it cut, doubled, swapped, flipped or replaced."""
    made = bytearray(body)
    for _ in range(dice.choice((0, 1, 1, 1, 2, 3, 6))):
        at = dice.randrange(len(made) + 1)
        end = min(len(made), at + dice.choice((0, 1, 2, 8, 40)))
        match dice.randrange(6):
            case 0:
                del made[at:end]
            case 1:
                made[at:at] = dice.choice(PIECES)
            case 2:
                made[at:end] = dice.choice(PIECES)
            case 3:
                made[at:at] = made[at:end] * dice.choice((1, 2, 50))
            case 4 if made:
                made[at % len(made)] = dice.randrange(256)
            case _:
                made[at:end] = dice.randbytes(end - at)
    return bytes(made)


def request(dice: random.Random, body: bytes) -> tuple[Console, dict[str, str], bytes]:
    """Return a request in one of the modes around a body, with something wrong now and then."""
    timestamp, nonce = str(NOW + dice.choice((0, 0, 0, 299, -299, 301))), str(dice.random())
    query = {"timestamp": timestamp, "nonce": nonce, "openid": "openid1"}
    query["signature"] = crypto.signature(TOKEN, timestamp, nonce)
    mode = dice.randrange(4)
    if mode == 0:
        return PLAIN, query, body
    if mode == 1:  # anything at all where a ciphertext is wanted
        cut = crypto.encrypt(KEY, APP_ID, body)[: dice.randrange(200)]
        sealed = dice.choice((body.decode("latin-1"), cut))
        query["msg_signature"] = crypto.signature(TOKEN, timestamp, nonce, sealed)
        return SAFE, query, json.dumps({"Encrypt": sealed}).encode()
    key, app_id = dice.choice((KEY, KEY, PREVIOUS, "f" * 43)), dice.choice((APP_ID, APP_ID, "wx2"))
    sealed = crypto.encrypt(key, app_id, body)
    query["msg_signature"] = crypto.signature(TOKEN, timestamp, nonce, sealed)
    outer = f"<xml><ToUserName>gh_1</ToUserName><Encrypt>{sealed}</Encrypt></xml>".encode()
    return SAFE, query, mutate(dice, outer) if mode == 3 else outer


def try_one(dice: random.Random) -> str:
    """Return what became of one body. Anything that isn't a refusal or an event raises."""
    console, query, body = request(dice, mutate(dice, dice.choice(SEEDS)))
    heard = hear(console, query, body, NOW)
    if isinstance(heard, RefusedRequest):
        return heard.reason
    assert isinstance(heard, Heard)
    try:
        event = to_event(heard.fields, APP_ID, ZONE)
    except EventError as error:
        return str(error)
    if event is None:
        return "heard: a person's message"
    assert abs(NOW - int(query["timestamp"])) <= 300
    job_error(event.fields.get("Status", ""))
    msgid = msgid_of(event.fields)
    assert encode(event)
    assert event.openid.encode()
    assert (msgid or "").encode() is not None
    return "heard: an event"


def fuzz(bodies: int, seed: int) -> Counter[str]:
    """Return how often each end was met. Raises with the seed and number of what failed."""
    seen: Counter[str] = Counter()
    for number in range(bodies):
        try:
            seen[try_one(random.Random(f"{seed}/{number}"))] += 1
        except Exception as error:
            raise AssertionError(f"body {number} of seed {seed}") from error
    return seen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bodies", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    wanted = parser.parse_args()
    began = time.monotonic()
    seen = fuzz(wanted.bodies, wanted.seed)
    for reason, times in seen.most_common():
        print(f"{times:9}  {reason}")
    print(f"{wanted.bodies} bodies in {time.monotonic() - began:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
