"""A week of an installation as an export: small, the same each time, with things to find in it.

Sixteen accounts call over ten lines in office hours. Some accounts reach hardly anybody; line-017
fails for half an hour on Tuesday, but every fifth call or so comes through; SMS tell of low
balances. Written as files, with the timestamps a dialer would have given.
"""

import json
import random
from collections import defaultdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from app.analysis.files import DayFile, Line, Manifest, TopicExport, day_path
from app.analysis.files import LogExport as Part
from streams.records import encode
from streams.topics import partition_of

ZONE = ZoneInfo("Asia/Shanghai")
PARTITIONS = 4
MONDAY = datetime(2026, 11, 16, tzinfo=ZONE)
TUESDAY = "2026-11-17"
BROKEN = "line-017"


class Event(NamedTuple):
    """One record, and when it came."""

    at: datetime
    topic: str
    key: str | None
    value: Any
    partition: int | None = None


def week(seed: int = 1, days: int = 7) -> list[Event]:
    """Return the week's records in the order of time."""
    rng = random.Random(seed)
    events: list[Event] = []
    names = [f"acct-{number:02d}" for number in range(16)]
    lines = [f"line-{number:03d}" for number in range(10, 20)]
    for name in names:
        customer = {
            "account_id": name,
            "name": f"{name}公司",
            "openid": f"openid-{name}",
            "phone": "13900000001",
            "balance_threshold": "200.00",
            "intent_classes": ["A"] if name < "acct-06" else [],
        }
        events.append(Event(MONDAY, "accounts", name, customer))
    balance = dict.fromkeys(names, 330.0)
    for day in range(days):
        morning = MONDAY + timedelta(days=day, hours=9)
        for minute in range(-60, 15 * 60, 10):
            at = morning + timedelta(minutes=minute)
            for partition in range(PARTITIONS):
                events.append(Event(at, "ticks", None, {"at": at.isoformat()}, partition))
        for number, name in enumerate(names):
            count = rng.randrange(300, 700) if day < 5 else rng.randrange(20, 80)
            submitted = (morning + timedelta(minutes=number)).isoformat()
            unlucky = 0.985 if number < 4 else 0.6
            at = morning + timedelta(minutes=number)
            for index in range(count):
                at += timedelta(seconds=rng.expovariate(1 / 32))
                line = rng.choice(lines)
                hours = (at - MONDAY).total_seconds() / 3600 - 24
                is_broken = line == BROKEN and 10 <= hours <= 10.75
                result = "F" if rng.random() < unlucky else rng.choice("ABCDEEEW")
                if is_broken:
                    result = "W"
                balance[name] -= rng.choice([0.1, 0.2, 0.3])
                call = {
                    "call_id": f"c-{day}-{name}-{index}",
                    "account_id": name,
                    "line_id": line,
                    "result": result,
                    "phone": f"137{rng.randrange(10**8):08d}",
                    "submitted_at": submitted,
                    "batch_size": count,
                    "batch_index": index,
                    "ended_at": at.isoformat(),
                    "balance": f"{balance[name]:.2f}",
                    "duration_s": rng.randrange(90),
                }
                events.append(Event(at, "call-records", name, call))
                if balance[name] < 150:
                    balance[name] += 400
                    paid = {
                        "recharge_id": f"r-{day}-{name}-{index}",
                        "account_id": name,
                        "amount": "400.00",
                        "balance": f"{balance[name]:.2f}",
                        "completed_at": at.isoformat(),
                    }
                    events.append(Event(at, "recharges", name, paid))
    said = {
        "announcement_id": "n-1",
        "kind": "upgrade",
        "title": "系统升级",
        "content": "周四晚升级",
        "published_at": (MONDAY + timedelta(days=2, hours=15)).isoformat(),
    }
    events.append(Event(MONDAY + timedelta(days=2, hours=15), "announcements", "n-1", said))
    return sorted(events, key=lambda one: one.at)


def write_export(directory: Path, events: list[Event]) -> None:
    """Write records as `dialwatch export --format jsonl` does."""
    manifest = Manifest("jsonl", str(ZONE))
    lines: defaultdict[tuple[str, int, str], list[bytes]] = defaultdict(list)
    days: dict[tuple[str, int], dict[str, DayFile]] = {}
    offsets: defaultdict[tuple[str, int], int] = defaultdict(int)
    for at, topic, key, value, given in events:
        partition = partition_of((key or "").encode(), PARTITIONS) if given is None else given
        offset = offsets[topic, partition]
        offsets[topic, partition] += 1
        raw = json.dumps(value, ensure_ascii=False)
        line = Line(topic, partition, offset, int(at.timestamp() * 1000), key, raw)
        day = at.date().isoformat()
        lines[topic, partition, day].append(encode(line))
        file = days.setdefault((topic, partition), {}).setdefault(day, DayFile(0, offset, 0))
        file.records, file.last = file.records + 1, offset
    for (topic, partition, day), some in lines.items():
        path = day_path(directory, topic, partition, day, "jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\n".join(some) + b"\n")
    for (topic, partition), end in offsets.items():
        parts = manifest.topics.setdefault(topic, TopicExport()).partitions
        parts[str(partition)] = Part(0, end, end, days=days[topic, partition])
    (directory / "export.json").write_bytes(encode(manifest))
