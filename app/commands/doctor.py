"""`dialwatch doctor`: checks all that a worker needs; a line each, with what to do.

It changes nothing, creates no topic and sends no message. Longer than other modules because each
check is one function.
"""

import asyncio
import email.utils
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import httpx
from aiokafka.errors import IncompatibleBrokerVersion, KafkaError
from redis.asyncio import Redis

from agents.outcomes import Held, TryLater
from app.channels.wechat import crypto
from app.channels.wechat.channel import build_client, build_tokens
from app.channels.wechat.fields import UnfitFieldError, fill, fit, parse_fields
from app.errors import CommandError
from app.http import open_http
from app.kafka.admin import open_admin
from app.kafka.topic_setup import check_internal, common_count
from app.redis_check import Verdict, examine_redis
from app.redis_store import open_redis
from app.settings import Settings, variable
from streams.engine.hanging import HangingTransactions
from streams.kafka.log_reader import LogReader
from streams.kafka.rights import principal_of
from streams.kafka.transactions import partitions_of

KAFKA_SECONDS = 10.0
HTTP_SECONDS = 10.0
# The largest error of the clock. The callback refuses WeChat's requests beyond 300 s; times in
# messages are wrong long before.
MOST_SKEW_SECONDS = 5.0

# Examples of what we write into the six fields: the shortest and longest title and content.
_TIME = "2019-01-30 15:52:10"
_SAMPLES = (
    (
        "你好！",
        "甲",
        "A类意向客户",
        "客户号码：13700000000，点击查看详细通话记录",
        _TIME,
        "通知结束",
    ),
    (
        "你好！",
        "甲公司",
        "连续未接通警报",
        "您的外呼任务出现连续100通电话未接通",
        _TIME,
        "通知结束",
    ),
)


@dataclass(frozen=True)
class Finding:
    """The result of one check: what was checked, the verdict, and what to do."""

    verdict: Verdict
    what: str
    text: str


def run_doctor(settings: Settings) -> int:
    """Print the findings. Return 1 where one of them prevents a worker's work, else 0."""
    return asyncio.run(_print(settings))


async def _print(settings: Settings) -> int:
    code = 0
    async for finding in examine(settings):
        print(f"{finding.verdict:4}  {finding.what:10}  {finding.text}", flush=True)
        code = max(code, int(finding.verdict == "fail"))
    print("something must be done first" if code else "a worker can run", file=sys.stderr)
    return code


async def examine(settings: Settings) -> AsyncIterator[Finding]:
    """Make all checks, in the order in which a worker needs the things; yield the findings."""
    async for finding in _kafka(settings):
        yield finding
    redis, http = open_redis(settings.redis_url), open_http()
    try:
        for verdict, text in await examine_redis(redis):
            yield Finding(verdict, "redis", text)
        async for finding in _wechat(settings, redis, http):
            yield finding
        yield await _clock(settings, http)
        yield await _callback(settings, http)
        yield (
            Finding("ok", "sms", "a gateway is set")
            if settings.sms_url
            else Finding("warn", "sms", f"SMS are skipped: set {variable('sms_url')}")
        )
    finally:
        await http.aclose()
        await redis.aclose()


async def _kafka(settings: Settings) -> AsyncIterator[Finding]:
    topics = settings.topics
    wanted = [*topics.contract(), *topics.internal()]
    try:
        async with open_admin(settings, timeout_s=KAFKA_SECONDS) as admin:
            standing = await admin.partition_counts()
            common_count(topics, standing)
            check_internal(topics, standing)
            lacking = [topic for topic in wanted if topic.name not in standing]
            missing = [topic.name for topic in lacking]
            for line in await admin.missing_rights(settings, topics):
                yield Finding("fail", "rights", line)
            if trouble := await admin.session_trouble(settings):
                yield Finding("fail", "group", trouble)
            await admin.create(lacking, settings.replication_factor, is_trial=True)
    except CommandError as error:
        yield Finding("fail", "kafka", str(error))
        return
    if missing:
        yield Finding(
            "warn",
            "kafka",
            f"{len(missing)} topics are missing ({', '.join(missing[:3])}…): a worker creates "
            "them, or `dialwatch topics create`",
        )
        return
    yield Finding("ok", "kafka", f"it answers, and all {len(wanted)} topics fit together")
    async for finding in _hanging(settings):
        yield finding


async def _hanging(settings: Settings) -> AsyncIterator[Finding]:
    """Check for hanging transactions, which no reader of committed records gets past."""
    topics, options = settings.topics, settings.kafka_client_options()
    names = [topic.name for topic in (*topics.contract(), *topics.internal())]
    reader = LogReader(options)
    hanging = HangingTransactions(
        reader, settings.group, topics.changelog, topics.outputs(), principal_of(options)
    )
    try:
        async with asyncio.timeout(KAFKA_SECONDS):
            await reader.open(names)
            for one in await hanging.find(partitions_of(reader.client, names)):
                yield Finding("fail", "kafka", hanging.advice(one))
    except IncompatibleBrokerVersion:
        return  # an older Kafka
    except (KafkaError, TimeoutError, OSError) as error:
        yield Finding("warn", "kafka", f"hanging transactions can't be looked for: {error!r}")
    finally:
        await reader.close()


async def _wechat(
    settings: Settings, redis: Redis, http: httpx.AsyncClient
) -> AsyncIterator[Finding]:
    missing = settings.missing_to_send_wechat()
    if missing:
        yield Finding("warn", "wechat", f"messages are skipped: set {', '.join(missing)}")
        return
    client = build_client(settings, http)
    token = await build_tokens(settings, client, redis, asks_at_once=True).get()
    if not isinstance(token, str):
        yield Finding("fail", "token", f"{_why(token)}: {_what_to_do(token)}")
        return
    yield Finding("ok", "token", "WeChat gives one out")
    yield await _template(settings, http, token)


async def _template(settings: Settings, http: httpx.AsyncClient, token: str) -> Finding:
    url = f"{settings.wechat_base_url}/cgi-bin/template/get_all_private_template"
    try:
        answer = await http.get(url, params={"access_token": token}, timeout=HTTP_SECONDS)
        said = answer.json()
        contents = {one["template_id"]: str(one["content"]) for one in said["template_list"]}
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        code = said.get("errcode") if isinstance(error, KeyError) and isinstance(said, dict) else ""
        reason = f"WeChat answers {code}" if code else type(error).__name__
        return Finding(
            "warn",
            "template",
            f"the account's templates can't be read ({reason}): look at the template and its "
            "fields in WeChat's console",
        )
    content = contents.get(settings.wechat_template_id or "")
    if content is None:
        return Finding(
            "fail",
            "template",
            f"the account has no such template: set {variable('wechat_template_id')} to one of "
            f"its {len(contents)} in WeChat's console",
        )
    names = parse_fields(settings.wechat_fields)
    fields = [name for name in names if name]
    absent = [name for name in fields if "{{" + name + ".DATA}}" not in content]
    if absent:
        return Finding(
            "fail",
            "template",
            f"the template has no field {', '.join(absent)}: set {variable('wechat_fields')} to "
            "its own names",
        )
    unfit = _unfit(names)
    if unfit:
        return Finding(
            "fail",
            "template",
            f"{unfit} doesn't take our texts: choose another template, or other fields in "
            f"{variable('wechat_fields')}",
        )
    return Finding("ok", "template", f"it has the fields {', '.join(fields)}, which take our texts")


def _unfit(names: Sequence[str]) -> str | None:
    """Return the first field whose kind doesn't accept what we write into it; None: all do."""
    for values in _SAMPLES:
        try:
            fit(fill(names, values))
        except UnfitFieldError as error:
            return str(error).partition(":")[0].removeprefix("data.")
    return None


async def _clock(
    settings: Settings, http: httpx.AsyncClient, now: Callable[[], float] = time.time
) -> Finding:
    asked_at = now()
    try:
        answer = await http.head(settings.wechat_base_url, timeout=HTTP_SECONDS)
        theirs = email.utils.parsedate_to_datetime(answer.headers["Date"]).timestamp()
    except (httpx.HTTPError, KeyError, ValueError) as error:
        return Finding(
            "warn",
            "clock",
            f"WeChat doesn't answer ({type(error).__name__}): check {variable('wechat_base_url')} "
            "and the way out",
        )
    # They looked at their clock at some time between the question and now, which may be long.
    skew_s = max(asked_at - theirs, 0.0) + min(now() - theirs, 0.0)
    if abs(skew_s) > MOST_SKEW_SECONDS:
        return Finding(
            "fail", "clock", f"this machine is {skew_s:+.0f} s off WeChat's clock: run NTP"
        )
    return Finding("ok", "clock", "within seconds of WeChat's")


async def _callback(settings: Settings, http: httpx.AsyncClient) -> Finding:
    if settings.wechat_callback_token is None:
        return Finding(
            "warn",
            "callback",
            f"nothing is known of deliveries: set {variable('wechat_callback_token')}",
        )
    url = f"http://{settings.web_address}/receive/wechat/callback"
    token, timestamp, nonce = settings.wechat_callback_token, str(int(time.time())), "doctor"
    nonce += secrets.token_hex(4)
    signed = {
        "signature": crypto.signature(token.get_secret_value(), timestamp, nonce),
        "timestamp": timestamp,
        "nonce": nonce,
        "echostr": nonce,
    }
    try:
        unsigned = await http.get(url, timeout=HTTP_SECONDS)
        answer = await http.get(url, params=signed, timeout=HTTP_SECONDS)
    except httpx.HTTPError as error:
        return Finding(
            "warn", "callback", f"no worker answers at {url} ({type(error).__name__}): start one"
        )
    if unsigned.status_code != 403:
        return Finding(
            "fail",
            "callback",
            f"{url} answers {unsigned.status_code} to an unsigned request: is that a worker?",
        )
    if (answer.status_code, answer.text) != (200, nonce):
        return Finding(
            "fail",
            "callback",
            f"the worker at {url} has another {variable('wechat_callback_token')}: restart it",
        )
    if settings.wechat_encoding_aes_key is None:
        return Finding(
            "warn",
            "callback",
            "a worker answers, in plain mode, which can be forged: set "
            f"{variable('wechat_encoding_aes_key')} and safe mode in WeChat's console",
        )
    return Finding("ok", "callback", "a worker answers what is signed and refuses the rest")


def _why(trouble: Held | TryLater) -> str:
    text = trouble.reason if isinstance(trouble, Held) else trouble.error
    code = f" ({trouble.error_code})" if trouble.error_code is not None else ""
    return text.removeprefix("token: ") + code


def _what_to_do(trouble: Held | TryLater) -> str:
    match trouble.error_code:
        case 40013:
            return f"set {variable('wechat_app_id')} to the official account's own"
        case 40001 | 40125 | 40243:
            return f"set {variable('wechat_app_secret')} to the one in force in WeChat's console"
        case 40164 | 45035 | 61004:
            return "add this machine's address to the IP list in WeChat's console"
        case 89501 | 89503 | 89506 | 89507:
            return "the account's administrator must agree to this machine's address"
        case None:
            return f"check {variable('wechat_base_url')} and the way out"
        case _:
            return "try again in a minute, then look it up in WeChat's list of codes"
