"""Numbers as the worker's page shows them."""

from streams.records import SCENARIOS


def matrix(
    counts: list[tuple[tuple[str, ...], float]],
) -> list[tuple[str, list[int]]]:
    """Return, for each scenario, the number of commands for each of the three channels."""
    found = {(scenario, channel): int(count) for (scenario, channel), count in counts}
    scenarios = [*SCENARIOS, *sorted({name for name, _ in found} - set(SCENARIOS))]
    rows = [
        (name, [found.get((name, channel), 0) for channel in ("inbox", "wechat", "sms")])
        for name in scenarios
    ]
    return [(name, row) for name, row in rows if any(row)]


def ranges(numbers: list[int]) -> str:
    """Return sorted numbers as ranges, such as 0–3, 5."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}–{part[-1]}" for part in parts)


def duration(seconds: float) -> str:
    """Return a time span as text, in its two largest units."""
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days} d {h} h"
    if hours:
        return f"{h} h {m} min"
    return f"{m} min {s} s" if m else f"{s} s"
