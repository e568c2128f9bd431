"""Files of TLS: each wrong one is named beside all else that is wrong, before anything begins."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from app.errors import SettingsError
from app.operations.expand import _environment
from app.settings import Settings, load_settings
from tests.cli.test_commands import dialwatch

CA, CERT, KEY = "KAFKA_SSL_CAFILE", "KAFKA_SSL_CERTFILE", "KAFKA_SSL_KEYFILE"
PEM = serialization.Encoding.PEM


def certificate(key: Any) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "dialwatch")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 7, now, now + timedelta(days=1))
    return made.sign(key, hashes.SHA256()).public_bytes(PEM)


def in_pem(key: Any, password: bytes | None = None) -> bytes:
    sealed: Any = serialization.NoEncryption()
    if password is not None:
        sealed = serialization.BestAvailableEncryption(password)
    written: bytes = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, sealed)
    return written


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present directory, with files good and bad."""
    mine, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    weak = rsa.generate_private_key(65_537, 1_024)
    kind = ed25519.Ed25519PrivateKey.generate()
    contents = {
        "cert.pem": certificate(mine),
        "key.pem": in_pem(mine),
        "both.pem": in_pem(mine) + certificate(mine),
        "other.key": in_pem(other),
        "ed25519.key": in_pem(kind),
        "encrypted.key": in_pem(mine, b"do-not-show-me"),
        "weak.pem": certificate(weak),
        "weak.key": in_pem(weak),
        "text": b"do-not-show-me",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def mistakes(given: dict[str, str]) -> list[str]:
    try:
        load_settings(**{name.lower(): value for name, value in given.items()})
    except SettingsError as error:
        return list(error.lines)
    return []


NOT_PEM, NO_KEY = "must be certificates in PEM", "must be a private key in PEM"


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({CA: "cert.pem"}, {}),
        ({CA: "cert.pem", CERT: "cert.pem", KEY: "key.pem"}, {}),
        ({CERT: "both.pem"}, {}),
        ({CERT: "cert.pem", KEY: "both.pem"}, {}),
        ({CA: "text"}, {CA: NOT_PEM}),
        ({CA: "text", CERT: "text"}, {CA: NOT_PEM, CERT: NOT_PEM}),
        ({CA: "key.pem", CERT: "key.pem", KEY: "text"}, {CA: NOT_PEM, CERT: NOT_PEM, KEY: NO_KEY}),
        ({CA: "text", CERT: "cert.pem", KEY: "text"}, {CA: NOT_PEM, KEY: NO_KEY}),
        ({CERT: "cert.pem", KEY: "text"}, {KEY: NO_KEY}),
        ({CERT: "cert.pem", KEY: "cert.pem"}, {KEY: NO_KEY}),
        ({CERT: "cert.pem", KEY: "encrypted.key"}, {KEY: NO_KEY}),
        ({CERT: "text", KEY: "encrypted.key"}, {CERT: NOT_PEM, KEY: NO_KEY}),
        ({CERT: "text", KEY: "key.pem"}, {CERT: NOT_PEM}),
        ({CERT: "cert.pem", KEY: "other.key"}, {KEY: "must be the private key of the certificate"}),
        ({CERT: "cert.pem", KEY: "ed25519.key"}, {KEY: "must be the private key of the certific"}),
        ({CERT: "cert.pem"}, {KEY: "must be set: "}),
        ({CERT: "nowhere", KEY: "text"}, {CERT: "must be a file that can be read", KEY: NO_KEY}),
        ({CERT: "weak.pem", KEY: "weak.key"}, {CERT: "must be a certificate that OpenSSL takes"}),
        ({KEY: "key.pem"}, {KEY: "must come with DIALWATCH_KAFKA_SSL_CERTFILE"}),
    ],
)
@pytest.mark.parametrize("protocol", ["SSL", "sasl_ssl"])
@pytest.mark.usefixtures("files")
def test_each_wrong_file_is_named_beside_what_else_is_wrong(
    protocol: str, given: dict[str, str], wrong: dict[str, str]
) -> None:
    sasl = {"KAFKA_SASL_MECHANISM": "PLAIN", "KAFKA_SASL_USERNAME": "u", "KAFKA_SASL_PASSWORD": "p"}
    lines = mistakes({"KAFKA_SECURITY_PROTOCOL": protocol, "PARTITIONS": "0", **sasl, **given})
    said = dict(line.removeprefix("DIALWATCH_").split(": ", 1) for line in lines)
    assert said.pop("PARTITIONS")
    assert said.keys() == wrong.keys()
    assert all(said[name].startswith(text) for name, text in wrong.items()), said
    assert "do-not-show-me" not in str(lines)


@pytest.mark.usefixtures("files")
def test_without_tls_nobody_looks_into_the_files() -> None:
    assert mistakes({CA: "text", CERT: "text", KEY: "text"}) == []


def test_a_command_says_all_of_it_with_exit_code_2(files: Path) -> None:
    given = {"KAFKA_SECURITY_PROTOCOL": "SSL", CA: "/etc/passwd", "PARTITIONS": "0"}
    variables = {f"DIALWATCH_{name}": value for name, value in given.items()}
    ended = dialwatch("worker", directory=files, variables=variables)
    assert (ended.returncode, ended.stdout) == (2, "")
    named = [one.removeprefix("dialwatch: ").split(":")[0] for one in ended.stderr.splitlines()]
    assert sorted(named) == [f"DIALWATCH_{CA}", "DIALWATCH_PARTITIONS"]


def test_a_file_that_was_changed_since_is_named_too(files: Path) -> None:
    settings = load_settings(
        kafka_security_protocol="SSL", kafka_ssl_certfile="cert.pem", kafka_ssl_keyfile="key.pem"
    )
    assert settings.kafka_client_options()["ssl_context"]
    (files / "key.pem").write_bytes((files / "other.key").read_bytes())
    with pytest.raises(SettingsError) as changed:
        settings.kafka_client_options()
    assert [line.split(":")[0] for line in changed.value.lines] == [f"DIALWATCH_{KEY}"]


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    "files_of_it",
    [
        {"ssl_ca_certs": "nowhere.pem"},
        {"ssl_ca_certs": "text"},
        {"ssl_certfile": "cert.pem", "ssl_keyfile": "other.key"},
        {"ssl_certfile": "cert.pem", "ssl_keyfile": "encrypted.key"},
    ],
)
def test_wrong_files_of_redis_are_one_line_without_the_password(
    files_of_it: dict[str, str],
) -> None:
    query = "&".join(f"{name}={file}" for name, file in files_of_it.items())
    (line,) = mistakes({"REDIS_URL": f"rediss://:do-not-show-me@redis:6379/0?{query}"})
    assert line.startswith("DIALWATCH_REDIS_URL: must have ssl_… behind '?' that OpenSSL takes")
    assert "do-not-show-me" not in line


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("query", ["ssl_ca_certs=", "ssl_ca_path=", "ssl_certfile=&ssl_keyfile="])
def test_a_file_of_redis_that_is_left_empty_is_none(query: str) -> None:
    url = f"rediss://redis:6379/0?{query}&ssl_cert_reqs=none"
    assert load_settings(redis_url=url).redis_url == url
    with_one = load_settings(redis_url="rediss://redis/0?ssl_ca_path=&ssl_ca_certs=cert.pem")
    assert parse_qs(urlsplit(with_one.redis_url).query) == {
        "ssl_ca_certs": [str(Path("cert.pem").absolute())]
    }


def test_files_named_from_here_are_found_by_a_worker_that_runs_elsewhere(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (files / "a b&c.pem").write_bytes((files / "cert.pem").read_bytes())
    settings = load_settings(
        kafka_security_protocol="SSL",
        kafka_ssl_cafile="./cert.pem",
        kafka_ssl_certfile="cert.pem",
        kafka_ssl_keyfile="key.pem",
        redis_url="rediss://:p%23a&b@redis:6379/3?ssl_ca_certs=a%20b%26c.pem&ssl_certfile=cert.pem"
        "&ssl_keyfile=key.pem&ssl_cert_reqs=required",
    )
    variables = _environment(settings)
    monkeypatch.chdir("/")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    again: Settings = load_settings()
    assert again.kafka_ssl_cafile == str(files / "cert.pem")
    assert again.kafka_client_options()["ssl_context"]
    redis = urlsplit(again.redis_url)
    assert (redis.netloc, redis.path) == (":p%23a&b@redis:6379", "/3")
    assert parse_qs(redis.query) == {
        "ssl_ca_certs": [str(files / "a b&c.pem")],
        "ssl_certfile": [str(files / "cert.pem")],
        "ssl_keyfile": [str(files / "key.pem")],
        "ssl_cert_reqs": ["required"],
    }
