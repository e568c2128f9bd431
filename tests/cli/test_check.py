"""`dialwatch check`: what a dialer team sees of a file before they publish it."""

import json
from pathlib import Path

import pytest

from streams.records import Call, encode
from tests.cli.test_commands import dialwatch

CALL = {
    "call_id": "c1",
    "account_id": "u1",
    "line_id": "line-1",
    "result": "F",
    "phone": "13800000000",
    "submitted_at": "2026-11-01T09:00:00+08:00",
    "batch_size": 2,
    "batch_index": 0,
    "ended_at": "2026-11-01T09:01:00+08:00",
}


def check(tmp_path: Path, lines: list[bytes], *arguments: str) -> tuple[int, list[str], str]:
    file = tmp_path / "records"
    file.write_bytes(b"\n".join(lines) + b"\n")
    ended = dialwatch("check", str(file), *arguments, directory=tmp_path)
    return ended.returncode, ended.stdout.splitlines(), ended.stderr


def test_a_file_without_a_fault_is_exit_code_0_and_silent(tmp_path: Path) -> None:
    code, out, err = check(tmp_path, [json.dumps(CALL).encode(), b""])
    assert (code, out, err) == (0, [], "1 records, 0 invalid\n")


@pytest.mark.parametrize(
    ("line", "topic", "reason"),
    [
        (json.dumps(CALL | {"result": "Z"}).encode(), "call-records", "result: invalid enum value"),
        (b"u2\t" + json.dumps(CALL).encode(), "call-records", "key: is not the record's account"),
        (b"ticks\t\t{}", "ticks", "at: is missing"),
        (b"recharges\tu1\t", "recharges", "value: is missing"),
        (b'{"topic":"ticks","offset":1,"value":"[]"}', "ticks", "value: expected `object`"),
        (b'{"topic":"x","offset":1,"value":"[]"}', "call-records", "topic: 'x' is none that"),
        (b'{"topic":"ticks","offset":1,"value":{}}', "call-records", "value: is neither text nor"),
        (b"a\tb\tc\td", "call-records", "line: has more than"),
        (b'{"call_id"', "call-records", "value: is not strict JSON"),
        (b"[[[[" * 2000, "call-records", "value: "),
    ],
)
def test_each_form_of_a_line_is_told_with_its_number_and_reason(
    tmp_path: Path, line: bytes, topic: str, reason: str
) -> None:
    code, out, err = check(tmp_path, [json.dumps(CALL).encode(), line])
    assert code == 1
    assert err == "2 records, 1 invalid\n"
    (said,) = out
    assert said.startswith(f"{tmp_path}/records:2: {topic}: {reason}")


def test_what_needs_memory_is_found_as_the_worker_finds_it(tmp_path: Path) -> None:
    # The batch's first record says 2, this one 3.
    other = CALL | {"call_id": "c2", "batch_index": 1, "batch_size": 3}
    code, out, _ = check(
        tmp_path, [json.dumps(one).encode() for one in (CALL, other)], "--output", "jsonl"
    )
    assert code == 1
    (said,) = map(json.loads, out)
    assert said["line"] == 2
    assert said["key"] == "u1"
    assert said["reason"].startswith("batch_size: ")


def test_bytes_that_are_no_text_are_a_line_like_any_other(tmp_path: Path) -> None:
    code, out, _ = check(tmp_path, [b"\xff\xfe", encode(Call(**CALL))])  # type: ignore[arg-type]
    assert code == 1
    assert len(out) == 1


def test_wrong_usage_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    for arguments in (["nowhere"], [str(tmp_path)], ["-", "--topic", "x"]):
        ended = dialwatch("check", *arguments, directory=tmp_path)
        assert ended.returncode == 2
        assert len(ended.stderr.splitlines()) == 1
