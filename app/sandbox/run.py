"""Running the stand-in: as a program, or beside a local stack in a thread of its own."""

import asyncio
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from aiohttp import web

from app.errors import CommandError
from app.local.run import Companion
from app.local.service import free_port
from app.local.stack import Stack
from app.sandbox.callbacks import Callback
from app.sandbox.control import with_control_plane
from app.sandbox.server import APP_ID, APP_SECRET, SMS_TOKEN, TEMPLATE_ID, OnArrival, Sandbox

HOST = "127.0.0.1"
# The stand-in's own secrets: valid only for a worker that is set up with them.
CALLBACK_TOKEN = "sandboxcallback"  # noqa: S105
AES_KEY = "sandbox0aes0key0sandbox0aes0key0sandbox0aes"
WORKER_URL = "http://127.0.0.1:6066"


def settings_for(port: int, host: str = HOST) -> dict[str, str]:
    """Return the variables with which a worker uses this stand-in."""
    return {
        "DIALWATCH_WECHAT_BASE_URL": f"http://{host}:{port}",
        "DIALWATCH_WECHAT_APP_ID": APP_ID,
        "DIALWATCH_WECHAT_APP_SECRET": APP_SECRET,
        "DIALWATCH_WECHAT_TEMPLATE_ID": TEMPLATE_ID,
        "DIALWATCH_SMS_URL": f"http://{host}:{port}/sms",
        "DIALWATCH_SMS_TOKEN": SMS_TOKEN,
    }


def callback_settings() -> dict[str, str]:
    """Return the variables with which a worker accepts this stand-in's callbacks."""
    return {
        "DIALWATCH_WECHAT_CALLBACK_TOKEN": CALLBACK_TOKEN,
        "DIALWATCH_WECHAT_ENCODING_AES_KEY": AES_KEY,
    }


def usual_callback(worker_url: str = WORKER_URL) -> Callback:
    """Return the callback to a worker with `callback_settings`, in encrypted mode."""
    url = f"{worker_url}/receive/wechat/callback"
    return Callback(url=url, token=CALLBACK_TOKEN, encoding_aes_key=AES_KEY, mode="safe")


def run_sandbox(*, host: str, port: int, seed: int) -> None:
    """Run until SIGINT or SIGTERM. Print on stdout the settings with which a worker uses it."""

    async def run() -> None:
        end = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, end.set)
        bound = port or free_port()
        sandbox = Sandbox(seed)
        sandbox.driver.callback = usual_callback()
        runner = await _listen(sandbox, host, bound)
        for name, value in (settings_for(bound, host) | callback_settings()).items():
            print(f"{name}={value}", flush=True)
        print(f"Events go to a worker at {WORKER_URL} .", file=sys.stderr)
        print(f"The phones are at http://{host}:{bound}/ . Ctrl-C ends it.", file=sys.stderr)
        await end.wait()
        await runner.cleanup()

    asyncio.run(run())


def sandbox_companion(port: int = 0) -> Companion:
    """Return a companion that runs a stand-in beside a local stack (see `app.local.run`)."""

    @contextmanager
    def run(stack: Stack) -> Iterator[Mapping[str, str]]:
        with running_sandbox(port) as (sandbox, environment):
            sandbox.driver.callback = usual_callback()
            yield environment | callback_settings()

    return run


@contextmanager
def running_sandbox(
    port: int = 0, seed: int = 1, on_arrival: OnArrival = lambda message: None
) -> Iterator[tuple[Sandbox, dict[str, str]]]:
    """Run a stand-in in a thread while the context is open; its value is the stand-in and the
    settings with which a worker uses it.

    `on_arrival` is called in that thread.
    """
    bound = port or free_port()
    loop = asyncio.new_event_loop()

    async def start() -> tuple[Sandbox, web.AppRunner]:
        sandbox = Sandbox(seed, on_arrival)
        return sandbox, await _listen(sandbox, HOST, bound)

    thread = threading.Thread(target=loop.run_forever, name="sandbox", daemon=True)
    thread.start()
    try:
        sandbox, runner = asyncio.run_coroutine_threadsafe(start(), loop).result()
        try:
            yield sandbox, settings_for(bound)
        finally:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _listen(sandbox: Sandbox, host: str, port: int) -> web.AppRunner:
    runner = web.AppRunner(with_control_plane(sandbox), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        raise CommandError(
            f"can't listen on {host}:{port} ({error.strerror}): end what listens there, or choose "
            "another port, 0 for any free one"
        ) from None
    return runner
