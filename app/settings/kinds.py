"""The kinds of values that settings have, and the checks of these kinds.

Each check returns the value or raises ValueError with "must be …". The error never has the value
itself: some are secrets, and `settings.py` decides whether it may be shown.
"""

import base64
import re
from datetime import time
from ipaddress import IPv6Address
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

_TOPIC_NAME = re.compile(r"[A-Za-z0-9._-]*")
_TOPIC_NAME_LENGTH = 249
_LONGEST_INTERNAL = len("-wechat-bulk-outbox")
_LONGEST_CONTRACT = len("inbox-messages")
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]")
_TIME_OF_DAY = re.compile(r"([01]\d|2[0-3]):([0-5]\d)", re.ASCII)
_NUMBER = re.compile(r"-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_FIELD_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
# The characters that may follow "Bearer " in an HTTP header.
_BEARER_TOKEN = re.compile(r"[\x21-\x7e]+")
_CALLBACK_TOKEN = re.compile(r"[A-Za-z0-9]{3,32}")
_REDIS_OPTION = re.compile(
    r"db|client_name|health_check_interval|protocol|username|password|socket_\w+|ssl_\w+"
)
_REDIS_FILES = {"ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile"}
_AES_KEY = re.compile(r"[A-Za-z0-9+/]{43}")


def _group(value: str) -> str:
    if value in {"", ".", ".."} or not _TOPIC_NAME.fullmatch(value):
        raise ValueError("must be letters, digits, '.', '_' and '-': topics are named after it")
    if len(value) > _TOPIC_NAME_LENGTH - _LONGEST_INTERNAL:
        most = _TOPIC_NAME_LENGTH - _LONGEST_INTERNAL
        raise ValueError(f"must be at most {most} characters long: topics are named after it")
    return value


def _topic_prefix(value: str) -> str:
    if not _TOPIC_NAME.fullmatch(value):
        raise ValueError("must be letters, digits, '.', '_' and '-', as topic names are")
    if len(value) > _TOPIC_NAME_LENGTH - _LONGEST_CONTRACT:
        raise ValueError(
            f"must be at most {_TOPIC_NAME_LENGTH - _LONGEST_CONTRACT} characters long"
        )
    return value


def _brokers(value: str) -> str:
    brokers = [broker.strip() for broker in value.split(",") if broker.strip()]
    for broker in brokers:
        host, _, port = broker.rpartition(":")
        if not _HOST.fullmatch(host) or not _is_port(port):
            raise ValueError("must be brokers as host:port, separated by commas")
    if not brokers:
        raise ValueError("must name at least one broker as host:port")
    return ",".join(brokers)


def is_number(text: str) -> bool:
    """Is a text a number as people write it, in ASCII, maybe with blanks around it? Python, and
    what parses for it, takes others too: 1_0 for 10."""
    return _NUMBER.fullmatch(text.strip()) is not None


def number_mistake(kind: object, value: object) -> str | None:
    """Return what is wrong with a text that is to be an int or a float, by its type; None:
    nothing, as far as it can be seen here."""
    if kind not in (int, float) or not isinstance(value, str) or is_number(value):
        return None
    return "must be a whole number" if kind is int else "must be a number"


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text) <= 65535


def _host(value: str) -> str:
    if not _HOST.fullmatch(value):
        try:
            IPv6Address(value)
        except ValueError:
            raise ValueError("must be a host name or an IP address, without a port") from None
    return value


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (OSError, ValueError, LookupError):
        raise ValueError("must be a time zone of the IANA list") from None
    return value


def _time_of_day(value: object) -> object:
    if isinstance(value, str):
        found = _TIME_OF_DAY.fullmatch(value.strip())
        if found is None:
            raise ValueError("must be a time of day as HH:MM, from 00:00 to 23:59")
        return time(int(found[1]), int(found[2]))
    return value


def _url(value: str, schemes: tuple[str, ...]) -> str:
    wanted = " or ".join(f"{scheme}://" for scheme in schemes)
    try:
        parts = urlsplit(value)
        is_complete = parts.path if parts.scheme == "unix" else parts.hostname and parts.port != 0
    except ValueError:  # the port isn't a number
        raise ValueError(f"must be an address that begins with {wanted}") from None
    if parts.scheme not in schemes or not is_complete or re.search(r"\s", value):
        raise ValueError(f"must be an address that begins with {wanted}")
    return value


def _http_url(value: str) -> str:
    if "#" in value:
        raise ValueError("must be an address without '#': in a password it is %23")
    return _url(value, ("https", "http"))


def _base_url(value: str) -> str:
    parts = urlsplit(_http_url(value))
    if parts.query:
        raise ValueError("must be an address without '?': paths are put behind it")
    return value.rstrip("/")


def _redis_url(value: str) -> str:
    if "#" in value:
        raise ValueError("must write '#' in a password as %23")
    parts = urlsplit(_url(value, ("redis", "rediss", "unix")))
    if parts.scheme != "unix" and not re.fullmatch(r"/?[0-9]*", parts.path):
        raise ValueError("must end in the number of a database")
    for name in parse_qs(parts.query, keep_blank_values=True):
        if not _REDIS_OPTION.fullmatch(name):
            raise ValueError("must have nothing but db, client_name, socket_… and ssl_… behind '?'")
    if not parts.query:
        return value
    given = parse_qsl(parts.query, keep_blank_values=True)
    named = [
        (name, _absolute(said) if said and name in _REDIS_FILES else said) for name, said in given
    ]
    if named != given:
        value = parts._replace(query=urlencode(named)).geturl()
    _try_redis_url(value)
    return value


def _absolute(path: str) -> str:
    return str(home_expanded(path).absolute())


def _try_redis_url(value: str) -> None:
    from app.redis_store import open_redis  # noqa: PLC0415 (slow to import, and few have such a part)

    try:
        connection = open_redis(value).connection_pool.make_connection()  # type: ignore[no-untyped-call]
    # The client's own error may contain a password.
    except Exception:
        raise ValueError("must have parts behind '?' that the Redis client takes") from None
    context = getattr(connection, "ssl_context", None)
    if context is None:
        return
    context.password = context.password or ""  # else somebody is asked for one
    try:
        context.get()
    except Exception:
        raise ValueError(
            "must have ssl_… behind '?' that OpenSSL takes, and files that it can load"
        ) from None


def home_expanded(value: str | Path) -> Path:
    """Return a path with `~` expanded. Raises ValueError where that isn't anybody's home."""
    if "\0" in str(value):
        raise ValueError("must be a path, and no path holds a NUL")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise ValueError(
            f"must be a path, and nobody here has the home {Path(value).parts[0]}"
        ) from None


def _file(value: str) -> str:
    path = home_expanded(value)
    try:
        with path.open("rb"):
            # A worker that `topics expand` starts runs in another directory. (Not resolved: where
            # certificates are renewed, a link leads to the present one.)
            return str(path.absolute())
    except OSError as error:
        raise ValueError(f"must be a file that can be read ({error.strerror})") from None


def _datadir(value: Path) -> Path:
    path = home_expanded(value)
    try:
        is_file = path.exists() and not path.is_dir()
    except OSError as error:
        raise ValueError(f"must be a directory that can be reached ({error.strerror})") from None
    if is_file:
        raise ValueError("must be a directory, and a file stands there")
    return path


def _wechat_fields(value: str) -> str:
    names = [name.strip() for name in value.split(",")]
    if len(names) != 6:
        raise ValueError(f"must be six names separated by five commas, not {len(names)}")
    named = [name for name in names if name]
    if not named or not all(_FIELD_NAME.fullmatch(name) for name in named):
        raise ValueError("must be names of template fields, each may be left empty but not all")
    if len(set(named)) != len(named):
        raise ValueError("must not name a field twice")
    return ",".join(names)


def _call_page(value: str) -> str:
    rest = value.replace("{call_id}", "")
    if "{" in rest or "}" in rest:
        raise ValueError("must have no braces but {call_id}")
    return value


def _bearer_token(value: SecretStr) -> SecretStr:
    if not _BEARER_TOKEN.fullmatch(value.get_secret_value()):
        raise ValueError("must be visible ASCII characters without spaces")
    return value


def _callback_token(value: SecretStr) -> SecretStr:
    if not _CALLBACK_TOKEN.fullmatch(value.get_secret_value()):
        raise ValueError("must be 3 to 32 letters and digits, as in WeChat's console")
    return value


def _aes_key(value: SecretStr) -> SecretStr:
    key = value.get_secret_value()
    # The last character may have bits that Base64 doesn't use: published keys have them.
    if not _AES_KEY.fullmatch(key) or len(base64.b64decode(key + "=")) != 32:
        raise ValueError("must be the 43 letters and digits of WeChat's console")
    return value


def _wechat_rules(value: str) -> str:
    if value:
        from app.channels.wechat.outcomes import parse_rules  # noqa: PLC0415 (few installations have any)

        parse_rules(value)
    return value


Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Days = Annotated[int, Field(ge=1, le=36_500)]
Hours = Annotated[int, Field(ge=1, le=876_000)]
Group = Annotated[str, AfterValidator(_group)]
TopicPrefix = Annotated[str, AfterValidator(_topic_prefix)]
Brokers = Annotated[str, AfterValidator(_brokers)]
Host = Annotated[str, AfterValidator(_host)]
Port = Annotated[int, Field(ge=0, le=65535)]
Zone = Annotated[str, AfterValidator(_zone)]
TimeOfDay = Annotated[time, BeforeValidator(_time_of_day)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
RedisUrl = Annotated[str, AfterValidator(_redis_url)]
ReadableFile = Annotated[str, AfterValidator(_file)]
DataDirectory = Annotated[Path, AfterValidator(_datadir)]
WechatFields = Annotated[str, AfterValidator(_wechat_fields)]
WechatRules = Annotated[str, AfterValidator(_wechat_rules)]
CallPage = Annotated[str, AfterValidator(_call_page)]
BearerToken = Annotated[SecretStr, AfterValidator(_bearer_token)]
CallbackToken = Annotated[SecretStr, AfterValidator(_callback_token)]
AesKey = Annotated[SecretStr, AfterValidator(_aes_key)]
