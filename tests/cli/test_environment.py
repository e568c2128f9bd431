"""Other people's environments: variables of other programs, terminals, paths, proxies."""

import email.utils
import os
import subprocess
import sys
import time
from pathlib import Path

import faust
import httpx
import pytest
from redis.asyncio import Redis

from app.commands.doctor import _callback, _clock
from app.environment import forget_foreign
from app.http import open_http
from app.kafka.publisher import Publisher
from app.main import create_worker
from app.sandbox.run import running_sandbox
from app.settings import load_settings
from tests.cli.test_commands import dialwatch
from tests.installation import Installation
from tests.samples import account, call

# What Kubernetes sets for a Service of the same name.
SERVICE = "tcp://10.96.0.12:80"
FAUST_NAMES = sorted(param.env_name for param in faust.Settings.SETTINGS.values() if param.env_name)
WHILE_IMPORTED = {
    **dict.fromkeys(("FAUST_WEB_PORT", "F_WEB_PORT", "F_CONSOLE_PORT", "FAUST_LOOP"), SERVICE),
    **dict.fromkeys(("DEVLOG", "NO_CYTHON", "FAUST_DEBUG", "FAUST_STRICT"), "1"),
    "DJANGO_SETTINGS_MODULE": "site.settings",
    "PROMETHEUS_MULTIPROC_DIR": "/nowhere",
}
PROXIES = {
    "ALL_PROXY": "socks5://10.255.255.1:1080",
    "http_proxy": "http://10.255.255.1:3128",
    "HTTPS_PROXY": "nonsense://:::",
    "NO_PROXY": "[::1],10.0.0.0/8",
    "SSL_CERT_FILE": "/nowhere/ca.pem",
}


def test_only_the_contracts_names_count_in_capitals(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("Dialwatch_Run_Length=7\nDIALWATCH_RUN_WINDOW_HOURS=7\n")
    (tmp_path / "token").write_text("secret")
    lower = {
        "dialwatch_partitions": "3",
        "Dialwatch_Group": "low",
        "dialwatch_web_token_file": str(tmp_path / "token"),
        "DIALWATCH_SMS_TOKEN_FILE": str(tmp_path / "token"),
    }
    said = dialwatch("config", directory=tmp_path, variables=lower).stdout.splitlines()
    for line in (
        "DIALWATCH_PARTITIONS=8",
        "DIALWATCH_GROUP=dialwatch",
        "DIALWATCH_WEB_TOKEN=",
        "DIALWATCH_SMS_TOKEN=***",
        "DIALWATCH_RUN_LENGTH=100",
        "DIALWATCH_RUN_WINDOW_HOURS=7",
    ):
        assert line in said, line


async def test_faust_s_variables_without_our_prefix_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = load_settings()

    async def conf() -> dict[str, str]:
        redis, http = Redis(), open_http()
        publisher = Publisher(settings.kafka_client_options())
        made = create_worker(settings, settings.topics, "w", redis, http, publisher, print)
        await http.aclose()
        await redis.aclose()
        # What a setting is made of may be a new object each time.
        return {
            name: str(value)
            for name in faust.Settings.setting_names() - {"reply_to"}  # made anew each time
            if " at 0x" not in (value := repr(getattr(made.app.conf, name)))
        }

    assert len(FAUST_NAMES) > 70
    usual = await conf()
    for name in FAUST_NAMES:
        monkeypatch.setenv(name, SERVICE)
    monkeypatch.setenv("BROKER_URL", "kafka://elsewhere:9092")
    monkeypatch.setenv("APP_VERSION", "7")
    assert await conf() == usual


def test_what_libraries_read_while_they_are_imported_is_forgotten() -> None:
    heeded = {"PATH": "/bin", "TZ": "UTC", "https_proxy": "http://proxy", "OTEL_SERVICE_NAME": "x"}
    environment = heeded | WHILE_IMPORTED
    forget_foreign(environment)
    assert environment == heeded


@pytest.mark.broker
async def test_a_worker_works_in_an_environment_that_means_other_programs(
    installation: Installation,
) -> None:
    with running_sandbox() as (sandbox, variables):
        worker = installation.worker(is_started=False, **variables)
        assert worker.environment is not None
        worker.environment |= dict.fromkeys(FAUST_NAMES, SERVICE) | WHILE_IMPORTED | PROXIES
        worker.environment |= {"PYTHONIOENCODING": "ascii"}
        await installation.publish([account("acme", intent_classes=["A"])])
        worker.start()
        await installation.publish([call("acme", 0, result="A")])
        # Inbox and WeChat: the stand-in is on this machine, so no proxy is on the way to it.
        await installation.wait_for("deliveries", lambda seen: len(seen) == 2)
        assert len(sandbox.wechat.messages) == 1
        worker.terminate()
        assert worker.wait_exit() == 0


@pytest.mark.parametrize(
    ("variable", "service"),
    [("DIALWATCH_WEB_PORT", "dialwatch-web"), ("DIALWATCH_CONSOLE_PORT", "dialwatch-console")],
)
def test_a_port_that_kubernetes_set_is_told_with_where_it_comes_from(
    variable: str, service: str, tmp_path: Path
) -> None:
    ended = dialwatch("config", directory=tmp_path, variables={variable: SERVICE})
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert variable in line
    assert f"a Service is named {service};" in line
    assert "enableServiceLinks" in line


def test_a_terminal_that_shows_ascii_only_ends_no_command(tmp_path: Path) -> None:
    for encoding in ("ascii", "ascii:strict", "latin-1"):
        ended = dialwatch("config", directory=tmp_path, variables={"PYTHONIOENCODING": encoding})
        assert ended.returncode == 0
        assert r"DIALWATCH_SMS_SIGNATURE=\u7845\u57fa\u667a\u80fd" in ended.stdout
    ended = dialwatch("数据", directory=tmp_path, variables={"PYTHONIOENCODING": "ascii"})
    assert ended.returncode == 2
    assert r"\u6570\u636e" in ended.stderr


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DIALWATCH_DATADIR", "~nosuchuser/x"),
        ("DIALWATCH_CONSOLE_DATADIR", "~nosuchuser/x"),
        ("DIALWATCH_KAFKA_SSL_CAFILE", "~nosuchuser/ca.pem"),
        ("DIALWATCH_WEB_TOKEN_FILE", "~nosuchuser/token"),
        ("DIALWATCH_DATADIR", "x" * 5_000),
        ("DIALWATCH_WEB_TOKEN_FILE", "x" * 5_000),
    ],
)
def test_a_path_that_can_t_be_one_is_a_wrong_setting(
    variable: str, value: str, tmp_path: Path
) -> None:
    ended = dialwatch("config", directory=tmp_path, variables={variable: value})
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"dialwatch: {variable}: must be a")


def test_no_path_holds_a_nul(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text('DIALWATCH_DATADIR="a\0b"\nDIALWATCH_WEB_TOKEN_FILE="a\0b"\n')
    ended = dialwatch("config", directory=tmp_path)
    assert ended.returncode == 2
    lines = ended.stderr.splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "DIALWATCH_DATADIR",
        "DIALWATCH_WEB_TOKEN_FILE",
    ]
    assert all("NUL" in line for line in lines)


def test_the_image_s_health_check_heeds_the_settings_and_no_proxy(tmp_path: Path) -> None:
    """A worker without Kafka is well; a proxy of the environment isn't asked."""
    from app.local.worker import WorkerProcess  # noqa: PLC0415

    def health(**variables: str) -> int:
        return subprocess.run(
            [sys.executable, "-m", "app.health"],
            cwd=tmp_path,
            env=os.environ | PROXIES | variables,
            capture_output=True,
            timeout=180,
            check=False,
        ).returncode

    worker = WorkerProcess(
        tmp_path / "worker",
        {"DIALWATCH_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "DIALWATCH_WEB_HOST": "0.0.0.0"},
    )
    own = {"DIALWATCH_WEB_HOST": "0.0.0.0", "DIALWATCH_WEB_PORT": str(worker.port)}
    assert health(**own) == 1
    assert health(DIALWATCH_WEB_PORT="nonsense") == 1
    worker.launch()
    try:
        deadline = time.monotonic() + 120
        while health(**own):
            assert time.monotonic() < deadline, f"it is well, and not found: {worker.last_words()}"
            time.sleep(0.2)
    finally:
        worker.kill()


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1:6066"),
        ("0.0.0.0", "127.0.0.1:6066"),
        ("::", "[::1]:6066"),
        ("::1", "[::1]:6066"),
        ("[::1]", "[::1]:6066"),
        ("worker.internal", "worker.internal:6066"),
    ],
)
def test_the_address_of_a_worker_for_clients_on_its_machine(host: str, address: str) -> None:
    assert load_settings(web_host=host).web_address == address


@pytest.mark.parametrize(
    ("ahead_s", "took_s", "verdict"),
    [
        (0, 0, "ok"),
        (4, 0, "ok"),
        (-4, 0, "ok"),
        (10, 0, "fail"),
        (-10, 0, "fail"),
        (0, 60, "ok"),
        (40, 60, "ok"),
        (70, 60, "fail"),
        (-10, 60, "fail"),
    ],
)
async def test_doctor_takes_a_slow_answer_for_no_wrong_clock(
    ahead_s: float, took_s: float, verdict: str
) -> None:
    now = 1_700_000_000.0

    def answer(_: httpx.Request) -> httpx.Response:
        nonlocal now
        said = email.utils.formatdate(now + ahead_s, usegmt=True)
        now += took_s
        return httpx.Response(200, headers={"Date": said})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        finding = await _clock(load_settings(), http, lambda: now)
    assert finding.verdict == verdict, finding


async def test_doctor_looks_for_a_worker_at_an_address_of_ipv6_too() -> None:
    settings = load_settings(web_host="::1", web_port=1, wechat_callback_token="callbacktoken")
    async with open_http() as http:
        finding = await _callback(settings, http)
    assert finding.verdict == "warn"
    assert "no worker answers at http://[::1]:1/" in finding.text
