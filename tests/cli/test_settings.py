"""The contract's table of settings: defaults, what each variable takes, what is refused."""

from pathlib import Path

import pytest

from app.errors import SettingsError
from app.settings import load_settings, settings_and_mistakes
from tests.cli.test_commands import dialwatch

DEFAULTS = {
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9092",
    "KAFKA_SECURITY_PROTOCOL": "PLAINTEXT",
    "KAFKA_SASL_MECHANISM": "",
    "KAFKA_SASL_USERNAME": "",
    "KAFKA_SASL_PASSWORD": "",
    "KAFKA_SSL_CAFILE": "",
    "KAFKA_SSL_CERTFILE": "",
    "KAFKA_SSL_KEYFILE": "",
    "GROUP": "dialwatch",
    "TOPIC_PREFIX": "",
    "PARTITIONS": "8",
    "REPLICATION_FACTOR": "1",
    "DATADIR": "data",
    "REDIS_URL": "redis://127.0.0.1:6379/0",
    "TIMEZONE": "Asia/Shanghai",
    "RUN_LENGTH": "100",
    "RUN_WINDOW_HOURS": "24",
    "REMINDER_TIME": "09:00",
    "EXPIRY_NOTICE_DAYS": "7",
    "BATCH_RETENTION_DAYS": "7",
    "SESSION_TIMEOUT_SECONDS": "10",
    "TICK_SECONDS": "60",
    "WECHAT_BASE_URL": "https://api.weixin.qq.com",
    "WECHAT_APP_ID": "",
    "WECHAT_APP_SECRET": "",
    "WECHAT_TEMPLATE_ID": "",
    "WECHAT_FIELDS": "first,keyword1,keyword2,keyword3,keyword4,remark",
    "WECHAT_RATE": "50.0",
    "WECHAT_CALLBACK_TOKEN": "",
    "WECHAT_ENCODING_AES_KEY": "",
    "WECHAT_ENCODING_AES_KEY_PREVIOUS": "",
    "WECHAT_MINIPROGRAM_APP_ID": "",
    "WECHAT_CALL_PAGE": "pages/call/detail?call_id={call_id}",
    "WECHAT_HOME_PAGE": "pages/index/index",
    "SMS_URL": "",
    "SMS_TOKEN": "",
    "SMS_SIGNATURE": "硅基智能",
    "WEB_HOST": "127.0.0.1",
    "WEB_PORT": "6066",
    "WEB_TOKEN": "",
    "CONSOLE_HOST": "127.0.0.1",
    "CONSOLE_PORT": "6068",
    "CONSOLE_DATADIR": "console-data",
    "CONSOLE_RETENTION_DAYS": "30",
    "LOG_FORMAT": "text",
}
# One wrong value for every variable that has any.
WRONG = {
    "KAFKA_BOOTSTRAP_SERVERS": "kafka-1",
    "KAFKA_SECURITY_PROTOCOL": "TLS",
    "KAFKA_SASL_MECHANISM": "NONE",
    "KAFKA_SSL_CAFILE": "/nowhere/ca.pem",
    "KAFKA_SSL_CERTFILE": "/nowhere/cert.pem",
    "KAFKA_SSL_KEYFILE": "/nowhere/key.pem",
    "GROUP": "dial watch",
    "TOPIC_PREFIX": "a/b",
    "PARTITIONS": "0",
    "REPLICATION_FACTOR": "x",
    "REDIS_URL": "http://127.0.0.1:6379",
    "TIMEZONE": "Shanghai",
    "RUN_LENGTH": "0",
    "RUN_WINDOW_HOURS": "-1",
    "REMINDER_TIME": "24:00",
    "EXPIRY_NOTICE_DAYS": "seven",
    "BATCH_RETENTION_DAYS": "0",
    "SESSION_TIMEOUT_SECONDS": "0",
    "TICK_SECONDS": "-1",
    "WECHAT_BASE_URL": "api.weixin.qq.com",
    "WECHAT_FIELDS": "first,keyword1",
    "WECHAT_RATE": "0",
    "WECHAT_CALLBACK_TOKEN": "!!",
    "WECHAT_ENCODING_AES_KEY": "too-short",
    "WECHAT_ENCODING_AES_KEY_PREVIOUS": "too-short",
    "WECHAT_CALL_PAGE": "pages/{call}",
    "SMS_URL": "sms.example.com",
    "SMS_TOKEN": "two words",
    "WEB_HOST": "127.0.0.1:6066",
    "WEB_PORT": "65536",
    "WEB_TOKEN": "two words",
    "CONSOLE_HOST": "127.0.0.1:6068",
    "CONSOLE_PORT": "-1",
    "CONSOLE_RETENTION_DAYS": "0",
    "LOG_FORMAT": "xml",
}
OTHERS = {
    "KAFKA_BOOTSTRAP_SERVERS": "kafka-1:9092,[::1]:9093",
    "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
    "KAFKA_SASL_MECHANISM": "SCRAM-SHA-256",
    "KAFKA_SASL_USERNAME": "me",
    "GROUP": "g.1_2-3",
    "TOPIC_PREFIX": "staging.",
    "PARTITIONS": "1",
    "TIMEZONE": "America/St_Johns",
    "RUN_LENGTH": "1",
    "REMINDER_TIME": "00:00",
    "TICK_SECONDS": "0",
    "WECHAT_FIELDS": ",thing1,thing2,thing3,time4,",
    "WECHAT_BASE_URL": "http://127.0.0.1:6067",
    "WECHAT_CALL_PAGE": "p?id={call_id}",
    "WEB_HOST": "0.0.0.0",  # the value is what is tested
    "WEB_PORT": "0",
    "CONSOLE_PORT": "0",
    "CONSOLE_DATADIR": "elsewhere",
    "CONSOLE_RETENTION_DAYS": "7",
    "LOG_FORMAT": "json",
}


def variables(values: dict[str, str]) -> dict[str, str]:
    return {f"DIALWATCH_{name}": value for name, value in values.items()}


def shown(stdout: str) -> dict[str, str]:
    return dict(line.removeprefix("DIALWATCH_").split("=", 1) for line in stdout.splitlines())


def test_the_defaults_are_those_of_the_contract_and_empty_is_not_set(tmp_path: Path) -> None:
    for given in ({}, dict.fromkeys(DEFAULTS, ""), dict.fromkeys(DEFAULTS, " \t")):
        ended = dialwatch("config", directory=tmp_path, variables=variables(given))
        assert DEFAULTS.items() <= shown(ended.stdout).items()  # there may be more than these


def test_every_variable_is_one_line_when_every_one_is_wrong(tmp_path: Path) -> None:
    ended = dialwatch("worker", directory=tmp_path, variables=variables(WRONG))
    assert (ended.returncode, ended.stdout) == (2, "")
    named = [line.removeprefix("dialwatch: ").split(":")[0] for line in ended.stderr.splitlines()]
    assert sorted(named) == sorted(variables(WRONG))


def test_every_variable_is_read_from_dot_env_too_and_the_environment_goes_first(
    tmp_path: Path,
) -> None:
    lines = [f"{name}={value}" for name, value in variables(OTHERS).items()]
    (tmp_path / ".env").write_text("\n".join([*lines, "DIALWATCH_KAFKA_SASL_PASSWORD=secret"]))
    ended = dialwatch("config", directory=tmp_path, variables={"DIALWATCH_GROUP": "first"})
    expected = DEFAULTS | OTHERS | {"GROUP": "first", "KAFKA_SASL_PASSWORD": "***"}
    assert expected.items() <= shown(ended.stdout).items()
    assert "secret" not in ended.stdout + ended.stderr


@pytest.mark.parametrize("text", ["1_0", "+10", "1 0", "٢٤", "１０", "0x10", "ten"])
def test_what_nobody_writes_as_a_number_is_none(text: str) -> None:
    names = ("partitions", "run_length", "tick_seconds", "wechat_rate", "web_port")
    with pytest.raises(SettingsError) as refused:
        load_settings(**dict.fromkeys(names, text))
    lines = refused.value.lines
    assert len(lines) == len(names)
    for name, line in zip(names, lines, strict=True):
        kind = "a number" if name == "wechat_rate" else "a whole number"
        assert line.startswith(f"DIALWATCH_{name.upper()}: must be {kind}, for example"), line


def test_a_number_may_have_blanks_around_it_or_a_point() -> None:
    settings = load_settings(partitions=" 10\n", run_length="10.0", wechat_rate="1.5e2")
    assert (settings.partitions, settings.run_length, settings.wechat_rate) == (10, 10, 150.0)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:pa#do-not-show-me@redis:6379/0",
        "redis://redis:6379#do-not-show-me",
        "redis://redis:6379/0?pasword=do-not-show-me",
        "redis://redis:6379/0?db=do-not-show-me",
        "redis://redis:6379/0?decode_responses=yes",
        "rediss://redis:6379/0?ssl_cert_reqs=do-not-show-me",
        "redis://redis:6379/zero",
        "redis://redis:70000/0",
    ],
)
def test_a_wrong_part_of_the_address_of_redis_is_one_line_without_the_password(url: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(redis_url=url)
    (line,) = refused.value.lines
    assert line.startswith("DIALWATCH_REDIS_URL: must ")
    assert "do-not-show-me" not in line


@pytest.mark.parametrize(
    "url",
    [
        "redis://:pa%23ss@redis:6379/3",
        "rediss://redis:6379/0?ssl_cert_reqs=none&socket_keepalive=true",
        "unix:///run/redis.sock?db=3",
    ],
)
def test_a_right_address_of_redis_is_taken_and_shows_no_password(url: str) -> None:
    settings = load_settings(redis_url=url)
    assert settings.redis_url == url
    assert "pa%23ss" not in settings.shown()["DIALWATCH_REDIS_URL"]


def test_no_address_has_a_fragment_that_could_be_half_a_password() -> None:
    for name in ("sms_url", "wechat_base_url"):
        with pytest.raises(SettingsError) as refused:
            load_settings(**{name: "https://user:1#do-not-show-me@example.com"})
        assert "do-not-show-me" not in str(refused.value.lines)


def test_with_mistakes_what_is_right_counts_and_the_rest_has_its_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "TOPIC_PREFIX": "staging.",
        "PARTITIONS": "x",
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "WECHAT_ENCODING_AES_KEY": "short",
        "WECHAT_ENCODING_AES_KEY_PREVIOUS": "p" * 43,  # right, but not alone
    }.items():
        monkeypatch.setenv(f"DIALWATCH_{name}", value)
    settings, mistakes = settings_and_mistakes()
    assert (settings.topic_prefix, settings.partitions) == ("staging.", 8)
    with pytest.raises(SettingsError) as raised:
        load_settings()
    assert mistakes == list(raised.value.lines)
    (tmp_path / ".env").write_bytes(b"\xff")
    settings, others = settings_and_mistakes()
    assert settings.topic_prefix == "staging."
    assert others == [".env: must be UTF-8 text", *mistakes]


def test_nothing_is_put_into_a_value_of_dot_env(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "DIALWATCH_WECHAT_APP_ID=pa${ss}w\n"
        'DIALWATCH_WECHAT_TEMPLATE_ID="q${nosuch}w${HOME:-d}"\n'
        "DIALWATCH_GROUP=dial\n"
        "DIALWATCH_WECHAT_HOME_PAGE=$DIALWATCH_GROUP/${DIALWATCH_GROUP}\n"
    )
    ss = {"ss": "another program's"}
    said = shown(dialwatch("config", directory=tmp_path, variables=ss).stdout)
    assert said["WECHAT_APP_ID"] == "pa${ss}w"
    assert said["WECHAT_TEMPLATE_ID"] == "q${nosuch}w${HOME:-d}"
    assert said["WECHAT_HOME_PAGE"] == "$DIALWATCH_GROUP/${DIALWATCH_GROUP}"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("DIALWATCH_RUN_LENGTH do-not-show-me\n", 1),
        ("\n# a comment\n\n  \nexport DIALWATCH_RUN_LENGTH do-not-show-me\n", 5),
        ("DIALWATCH_RUN_LENGTH: do-not-show-me\n", 1),
        ("DIALWATCH_RUN_LENGTH:do-not-show-me\n", 1),
        ('X=1\r\n\r\nDIALWATCH_WECHAT_APP_SECRET="do-not-show-me\r\nY=2\r\n', 3),
        ("DIALWATCH_WECHAT_APP_SECRET='do-not-show-me's\n", 1),
        ('\ufeffDIALWATCH_WECHAT_APP_SECRET="do-not-show-me\n', 1),
        # What isn't closed ends at the next quote, whatever stands between.
        ('X=1\nDIALWATCH_WECHAT_APP_SECRET="do-not-show-me\nDIALWATCH_RUN_LENGTH=7\n# "\n', 2),
        ('OTHER="do-not-show-me\nexport DIALWATCH_RUN_LENGTH=7\n# "\n', 1),
    ],
)
def test_a_line_of_dot_env_that_cant_be_read_is_a_wrong_setting_beside_the_others(
    text: str, line: int, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_bytes(f"{text}DIALWATCH_PARTITIONS=many\n".encode())
    wrong = {"DIALWATCH_TIMEZONE": "Mars"}
    for command in ("config", "lag --bogus"):
        ended = dialwatch(*command.split(), directory=tmp_path, variables=wrong)
        assert (ended.returncode, ended.stdout) == (2, "")
        lines = [one.removeprefix("dialwatch: ") for one in ended.stderr.splitlines()]
        unreadable, *others = [one for one in lines if "--bogus" not in one]
        assert unreadable.startswith(f".env: line {line} can't be read: ")
        assert [one.split(":")[0] for one in others] == [
            "DIALWATCH_PARTITIONS",
            "DIALWATCH_TIMEZONE",
        ]
        assert "do-not-show-me" not in ended.stderr


def test_dot_env_may_hold_what_other_programs_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(
        '\ufeff# DIALWATCH_RUN_LENGTH 7, "quoted\r\n'
        "export DIALWATCH_RUN_LENGTH = 7 # DIALWATCH_X y\r\n"
        "OTHER='it's'\r\nnot a line of anything\r\nOTHER: 7\r\n"
        "DIALWATCH_WECHAT_APP_ID\r\n"  # its value may come from the environment, as with Docker
        "DIALWATCH_WECHAT_TEMPLATE_ID='two\r\nlines'\r\n"
        "'DIALWATCH_GROUP'=\"q\" # so\r\n".encode()
    )
    ended = dialwatch("config", directory=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "DIALWATCH_RUN_LENGTH=7\n" in ended.stdout
    assert "DIALWATCH_GROUP=q\n" in ended.stdout
    assert "DIALWATCH_WECHAT_APP_ID=\n" in ended.stdout
    assert "DIALWATCH_WECHAT_TEMPLATE_ID=two\nlines\n" in ended.stdout


def test_what_is_blank_is_none_or_an_empty_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    sending = ["WECHAT_APP_ID", "WECHAT_APP_SECRET", "WECHAT_TEMPLATE_ID"]
    optional = [name for name, value in DEFAULTS.items() if not value and name != "TOPIC_PREFIX"]
    assert set(sending) < set(optional)
    for blank in (" ", "\t", "\u3000\xa0"):
        for name in optional:
            monkeypatch.setenv(f"DIALWATCH_{name}", blank)
        (tmp_path / ".env").write_text("")
        settings = load_settings()
        assert [name for name in optional if getattr(settings, name.lower()) is not None] == []
        assert settings.missing_to_send_wechat() == list(variables(dict.fromkeys(sending, "")))
        # The environment's blank value hides none of `.env`, as an empty one doesn't.
        (tmp_path / "secret").write_text("secret")
        (tmp_path / ".env").write_text(
            f"DIALWATCH_WECHAT_APP_ID='{blank}'\nDIALWATCH_WECHAT_TEMPLATE_ID=mine\n"
            f"DIALWATCH_WECHAT_APP_SECRET='{blank}'\nDIALWATCH_WECHAT_APP_SECRET_FILE=secret\n"
        )
        assert load_settings().missing_to_send_wechat() == ["DIALWATCH_WECHAT_APP_ID"]
        (tmp_path / "secret").write_text(f"\ufeff{blank}\r\n")
        with pytest.raises(SettingsError) as refused:
            load_settings()
        (line,) = refused.value.lines
        assert line == "DIALWATCH_WECHAT_APP_SECRET_FILE: must be a file that isn't empty"


def test_what_editors_add_to_a_file_is_no_part_of_the_secret(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    file.write_text("\ufeff  the secret \t\r\n\n")
    for name in ("WECHAT_APP_SECRET", "KAFKA_SASL_PASSWORD"):
        monkeypatch.setenv(f"DIALWATCH_{name}_FILE", f" {file} ")
    settings = load_settings()
    for secret in (settings.wechat_app_secret, settings.kafka_sasl_password):
        assert secret is not None
        assert secret.get_secret_value() == "the secret"
