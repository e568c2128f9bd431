"""What every Python process started with this folder on its path is forbidden: any connection but
Kafka's, and any request of Kafka's that isn't one of reading. Whoever tries ends with exit 99."""

import os
import sys

_ALLOWED = set(filter(None, os.environ.get("GUARD_ALLOWED", "").split(",")))
_LOG = os.environ.get("GUARD_LOG", os.devnull)
# Fetch, ListOffsets, Metadata, SaslHandshake, ApiVersions, DescribeConfigs, SaslAuthenticate
_READING = {1, 2, 3, 17, 18, 32, 36}


def _note(word: str) -> None:
    with open(_LOG, "a") as log:
        log.write(f"{word}\n")


def _refuse(what: str) -> None:
    _note(f"REFUSED {what}")
    os._exit(99)


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if event in {"socket.connect", "socket.sendto", "socket.sendmsg"}:
        address = arguments[1]
        if not isinstance(address, tuple) or f"{address[0]}:{address[1]}" not in _ALLOWED:
            _refuse(f"{event} {address}")
        _note("connected")
    elif event == "socket.bind":
        _refuse(f"{event} {arguments[1]}")


sys.addaudithook(_hook)


class _Finder:
    """Wraps aiokafka's connection when it is imported."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name == "aiokafka.client":  # imported after aiokafka.conn
            sys.meta_path.remove(self)  # type: ignore[arg-type]
            from aiokafka import conn  # noqa: PLC0415 (in processes that import it anyhow)

            send = conn.AIOKafkaConnection.send

            def guarded(self, request, *given, **named):  # type: ignore[no-untyped-def]
                if request.API_KEY not in _READING:
                    _refuse(f"{type(request).__name__} ({request.API_KEY})")
                _note(f"sent {request.API_KEY}")
                return send(self, request, *given, **named)

            conn.AIOKafkaConnection.send = guarded


sys.meta_path.insert(0, _Finder())  # type: ignore[arg-type]
