"""The settings: every variable of the contract, read from the environment and `.env`, checked.

Only `app/` may import this; everything else gets plain values. The kinds of values are in
`app/settings/kinds.py`. Longer than most modules because of the list of variables.
"""

import os
import re
import ssl
from collections.abc import Mapping
from datetime import time
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails

from agents.rules import Rules
from app.errors import SettingsError
from app.settings import kinds, tls
from app.settings.env_file import PREFIX, read_env_file
from app.settings.secret_files import UnusableFile, read_secret
from streams.topics import Topics

ENV_FILE = Path(".env")
# The value that Kubernetes gives NAME_PORT for each Service, such as tcp://10.96.0.12:80.
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://")

# Never shown, and may be given as a file. The address of Redis may have a password.
SECRETS = (
    "kafka_sasl_password",
    "redis_url",
    "wechat_app_secret",
    "wechat_callback_token",
    "wechat_encoding_aes_key",
    "wechat_encoding_aes_key_previous",
    "sms_token",
    "web_token",
)
# These may have a password too, so that a wrong value isn't shown.
_ADDRESSES = ("wechat_base_url", "sms_url")

Upper = BeforeValidator(lambda value: value.upper() if isinstance(value, str) else value)
SecurityProtocol = Annotated[Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], Upper]
SaslMechanism = Annotated[Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"], Upper]
Lower = BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)
LogFormat = Annotated[Literal["text", "json"], Lower]


class Settings(BaseModel):
    """One installation's settings, all valid. Get them with `load_settings`.

    An attribute has the contract's variable name in lower case without `DIALWATCH_`. An empty
    value, or one of blanks, is none. A secret may also be given as the path of a file in
    `DIALWATCH_…_FILE`.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        str_strip_whitespace=True,
        validate_default=True,
        hide_input_in_errors=True,
    )

    kafka_bootstrap_servers: kinds.Brokers = Field(
        "127.0.0.1:9092", examples=["kafka-1:9092,kafka-2:9092"]
    )
    kafka_security_protocol: SecurityProtocol = Field("PLAINTEXT", examples=["SASL_SSL"])
    kafka_sasl_mechanism: SaslMechanism | None = Field(None, examples=["SCRAM-SHA-512"])
    kafka_sasl_username: str | None = Field(None, examples=["dialwatch"])
    kafka_sasl_password: SecretStr | None = None
    kafka_ssl_cafile: kinds.ReadableFile | None = Field(None, examples=["/etc/ssl/kafka-ca.pem"])
    kafka_ssl_certfile: kinds.ReadableFile | None = Field(None, examples=["/etc/ssl/client.pem"])
    kafka_ssl_keyfile: kinds.ReadableFile | None = Field(None, examples=["/etc/ssl/client.key"])
    group: kinds.Group = Field("dialwatch", examples=["dialwatch"])
    topic_prefix: kinds.TopicPrefix = Field("", examples=["staging."])
    partitions: int = Field(8, ge=1, le=10_000, examples=["8"])
    replication_factor: int = Field(1, ge=1, le=32_767, examples=["3"])
    datadir: kinds.DataDirectory = Field(Path("./data"), examples=["/var/lib/dialwatch"])
    redis_url: kinds.RedisUrl = Field(
        "redis://127.0.0.1:6379/0", repr=False, examples=["redis://127.0.0.1:6379/0"]
    )
    timezone: kinds.Zone = Field("Asia/Shanghai", examples=["Asia/Shanghai"])
    run_length: kinds.Count = Field(100, examples=["100"])
    run_window_hours: kinds.Hours = Field(24, examples=["24"])
    reminder_time: kinds.TimeOfDay = Field(time(9), examples=["09:00"])
    expiry_notice_days: kinds.Days = Field(7, examples=["7"])
    batch_retention_days: kinds.Days = Field(7, examples=["7"])
    session_timeout_seconds: int = Field(10, ge=1, le=86_400, examples=["10"])
    tick_seconds: int = Field(60, ge=0, le=86_400, examples=["60"])
    wechat_base_url: kinds.BaseUrl = Field(
        "https://api.weixin.qq.com", examples=["https://api.weixin.qq.com"]
    )
    wechat_app_id: str | None = Field(None, examples=["wx0123456789abcdef"])
    wechat_app_secret: SecretStr | None = None
    wechat_template_id: str | None = None
    wechat_fields: kinds.WechatFields = Field(
        "first,keyword1,keyword2,keyword3,keyword4,remark",
        examples=[",thing1,thing2,thing3,time4,"],
    )
    wechat_rules: kinds.WechatRules = Field("", examples=["43117=refuse,45009=hold_today:900"])
    wechat_rate: float = Field(50.0, gt=0, le=100_000, allow_inf_nan=False, examples=["50"])
    wechat_callback_token: kinds.CallbackToken | None = None
    wechat_encoding_aes_key: kinds.AesKey | None = None
    wechat_encoding_aes_key_previous: kinds.AesKey | None = None
    wechat_miniprogram_app_id: str | None = None
    wechat_call_page: kinds.CallPage = Field(
        "pages/call/detail?call_id={call_id}", examples=["pages/call/detail?call_id={call_id}"]
    )
    wechat_home_page: str = "pages/index/index"
    sms_url: kinds.HttpUrl | None = Field(None, examples=["https://sms.example.com/messages"])
    sms_token: kinds.BearerToken | None = None
    sms_signature: str = "硅基智能"
    web_host: kinds.Host = Field("127.0.0.1", examples=["127.0.0.1"])
    web_port: kinds.Port = Field(6066, examples=["6066"])
    web_token: kinds.BearerToken | None = None
    console_host: kinds.Host = Field("127.0.0.1", examples=["127.0.0.1"])
    console_port: kinds.Port = Field(6068, examples=["6068"])
    console_datadir: kinds.DataDirectory = Field(
        Path("./console-data"), examples=["/var/lib/dialwatch-console"]
    )
    console_retention_days: kinds.Days = Field(30, examples=["30"])
    log_format: LogFormat = Field("text", examples=["json"])

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_unusable_file(cls, value: object) -> object:
        if isinstance(value, UnusableFile):
            raise ValueError(value.reason)
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_odd_number(cls, value: object, info: ValidationInfo) -> object:
        kind = cls.model_fields[str(info.field_name)].annotation
        if mistake := kinds.number_mistake(kind, value):
            raise ValueError(mistake)
        return value

    @field_validator("kafka_sasl_mechanism", "kafka_sasl_username", "kafka_sasl_password")
    @classmethod
    def _need_with_sasl(cls, value: object, info: ValidationInfo) -> object:
        protocol = info.data.get("kafka_security_protocol", "")
        if protocol.startswith("SASL") and value is None:
            raise ValueError(f"must be set: {variable('kafka_security_protocol')} is {protocol}")
        return value

    @field_validator("kafka_ssl_cafile", "kafka_ssl_certfile")
    @classmethod
    def _load_certificates(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and _is_tls(info.data):
            if info.field_name == "kafka_ssl_cafile":
                tls.trusting(value)
            else:
                tls.check_certificate(value)
        return value

    @field_validator("kafka_ssl_keyfile")
    @classmethod
    def _load_key(cls, value: str | None, info: ValidationInfo) -> str | None:
        certificate = info.data.get("kafka_ssl_certfile")
        is_certificate_wrong = "kafka_ssl_certfile" not in info.data
        if value is not None and certificate is None and not is_certificate_wrong:
            raise ValueError(f"must come with {variable('kafka_ssl_certfile')}")
        if _is_tls(info.data):
            if certificate is not None:
                tls.load_key(certificate, value)
            elif value is not None:
                tls.check_key(value)
        return value

    @field_validator("wechat_encoding_aes_key_previous")
    @classmethod
    def _need_present_key(cls, value: object, info: ValidationInfo) -> object:
        if value is not None and info.data.get("wechat_encoding_aes_key", "") is None:
            raise ValueError(f"must come with {variable('wechat_encoding_aes_key')}")
        return value

    @property
    def topics(self) -> Topics:
        """The topics, with the number of partitions that new ones get."""
        return Topics(self.topic_prefix, self.group, self.partitions)

    @property
    def rules(self) -> Rules:
        """The parameters of the rules."""
        return Rules(
            zone=self.zone,
            run_length=self.run_length,
            run_window_hours=self.run_window_hours,
            reminder_time=self.reminder_time,
            expiry_notice_days=self.expiry_notice_days,
            batch_retention_days=self.batch_retention_days,
        )

    @property
    def zone(self) -> ZoneInfo:
        """The time zone of days, reminders and texts."""
        return ZoneInfo(self.timezone)

    def shown(self) -> dict[str, str]:
        """Return variable → its present value, for people; secrets are stars."""
        return {
            variable(name): _shown(name, getattr(self, name)) for name in type(self).model_fields
        }

    @property
    def web_address(self) -> str:
        """The address of the worker's web server for clients on this machine, `host:port`."""
        host = self.web_host.strip("[]")
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
        return f"[{host}]:{self.web_port}" if ":" in host else f"{host}:{self.web_port}"

    def missing_to_send_wechat(self) -> list[str]:
        """Return the variables without which the worker skips WeChat messages."""
        needed = ("wechat_app_id", "wechat_app_secret", "wechat_template_id")
        return [variable(name) for name in needed if getattr(self, name) is None]

    def kafka_client_options(self) -> dict[str, Any]:
        """Return the arguments of every aiokafka client: brokers and security.

        Raises SettingsError where a file has been changed since it was checked, and is wrong now.
        """
        options: dict[str, Any] = {
            "bootstrap_servers": self.kafka_bootstrap_servers.split(","),
            "security_protocol": self.kafka_security_protocol,
        }
        if self.kafka_security_protocol.startswith("SASL"):
            password = self.kafka_sasl_password
            options["sasl_mechanism"] = self.kafka_sasl_mechanism
            options["sasl_plain_username"] = self.kafka_sasl_username
            options["sasl_plain_password"] = password.get_secret_value() if password else None
        if self.kafka_security_protocol.endswith("SSL"):
            options["ssl_context"] = self._ssl_context()
        return options

    def _ssl_context(self) -> ssl.SSLContext:
        name = "kafka_ssl_cafile"
        try:
            context = tls.trusting(self.kafka_ssl_cafile)
            if self.kafka_ssl_certfile is not None:
                name = "kafka_ssl_certfile"
                tls.check_certificate(self.kafka_ssl_certfile)
                name = "kafka_ssl_keyfile"
                tls.load_key(self.kafka_ssl_certfile, self.kafka_ssl_keyfile, context)
        except ValueError as error:
            raise SettingsError([f"{variable(name)}: {error}"]) from None
        return context


def _is_tls(known: Mapping[str, Any]) -> bool:
    """Do the Kafka clients speak TLS, by the fields that are checked already?"""
    return str(known.get("kafka_security_protocol", "")).endswith("SSL")


def variable(name: str) -> str:
    """Return the environment variable of a field."""
    return f"{PREFIX}{name.upper()}"


def load_settings(**given: object) -> Settings:
    """Return the present settings: from the arguments, else the environment, else `.env`.

    Raises SettingsError with one line for each wrong variable.
    """
    found, mistakes = _found()
    try:
        settings = Settings(**(found | given))  # checked as all the others are
    except ValidationError as error:
        raise SettingsError(mistakes + _lines(error)) from None
    if mistakes:
        raise SettingsError(mistakes)
    return settings


def settings_and_mistakes() -> tuple[Settings, list[str]]:
    """Return the present settings, with the defaults in place of wrong ones, and a line for each
    wrong variable: to report what else is wrong with a command."""
    found, mistakes = _found()
    usual: dict[str, Any] = {}
    while True:
        try:
            return Settings(**(found | usual)), mistakes
        except ValidationError as error:
            # With the defaults, others may be wrong that need what was given.
            mistakes += [] if usual else _lines(error)
            wrong = {str(details["loc"][0]) for details in error.errors(include_url=False)}
            if wrong <= usual.keys():  # a default is wrong here: its directory is a file
                return Settings.model_construct(**usual), mistakes
            for name in wrong | {"kafka_security_protocol"}:
                usual[name] = Settings.model_fields[name].default


def _found() -> tuple[dict[str, Any], list[str]]:
    """Return the values that are given, by field, and a line for each place of `.env` that can't be
    read. Only the contract's names count, in capitals; the environment goes before `.env`."""
    in_file, mistakes = read_env_file(ENV_FILE)
    return _values(in_file) | _values(os.environ), mistakes


def _values(variables: Mapping[str, str]) -> dict[str, Any]:
    """Return the values that variables give, by field; an UnusableFile where a secret's file isn't
    right."""
    values: dict[str, Any] = {}
    for field in Settings.model_fields:
        name = variable(field)
        value = variables.get(name, "").strip()
        path = variables.get(f"{name}_FILE", "").strip() if field in SECRETS else ""
        if value:
            values[field] = value
        if path and value:
            values[field] = UnusableFile(
                f"must be removed, or {name} must: both give the same secret"
            )
        elif path:
            values[field] = read_secret(path)
    return values


def _lines(error: ValidationError) -> list[str]:
    return [_line(details) for details in error.errors(include_url=False)]


def _shown(name: str, value: object) -> str:
    if value is None:
        return ""
    if name in SECRETS or name in _ADDRESSES:
        return _without_password(value) if isinstance(value, str) else "***"
    return value.strftime("%H:%M") if isinstance(value, time) else str(value)


def _without_password(address: str) -> str:
    """Return an address with stars in place of what may be secret: user, password, query."""
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")
    netloc = f"***@{host[2]}" if host[1] else parts.netloc
    query, fragment = ("***" if part else "" for part in (parts.query, parts.fragment))
    return parts._replace(netloc=netloc, query=query, fragment=fragment).geturl()


def _line(details: ErrorDetails) -> str:
    """Return a line: what is wrong with one variable, an example, and its value unless secret."""
    name, value = str(details["loc"][0]), details["input"]
    if isinstance(value, UnusableFile):
        return f"{variable(name)}_FILE: {value.reason}"
    if name not in Settings.model_fields:
        return f"{variable(name)}: is no setting"
    examples = Settings.model_fields[name].examples
    line = f"{variable(name)}: {_what_is_wrong(details)}"
    if examples:
        line += f", for example {examples[0]}"
    if value is not None and name not in SECRETS and name not in _ADDRESSES:
        shown = str(value)
        line += f" (it is {shown if len(shown) <= 60 else shown[:59] + '…'!r})"
    if name.endswith("_port") and _SERVICE_ADDRESS.match(str(value)):
        service = variable(name).removesuffix("_PORT").lower().replace("_", "-")
        line += (
            f": Kubernetes sets it so where a Service is named {service}; set it in the pod's own "
            "env, or enableServiceLinks: false"
        )
    return line


def _what_is_wrong(details: ErrorDetails) -> str:
    context: Mapping[str, Any] = details.get("ctx", {})
    match details["type"]:
        case "value_error":
            return str(context["error"])
        case "int_parsing" | "int_parsing_size" | "int_from_float" | "int_type":
            return "must be a whole number"
        case "float_parsing" | "float_type" | "finite_number":
            return "must be a number"
        case "greater_than":
            return f"must be more than {context['gt']:g}"
        case "greater_than_equal":
            return f"must be at least {context['ge']}"
        case "less_than_equal":
            return f"must be at most {context['le']}"
        case "literal_error":
            return f"must be {context['expected']}"
        case _:
            return details["msg"].replace("Input should be", "must be")
