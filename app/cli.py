"""The command line. Data on stdout, everything else on stderr.

Exit codes: 0 done, 1 failed or a negative answer (one line says what to do), 2 wrong usage or
settings (one line for each). Commands import what they need when they run, so that none waits
for what another needs.
"""

import asyncio
import io
import logging
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, cast

import typer
from typer.exceptions import TyperException

import app.environment  # (before all that reads the environment)
import app.loading  # noqa: F401 (before all that takes long)
from app.commands.deliveries import deliveries
from app.commands.dlq import dlq
from app.commands.explain import explain
from app.commands.lag import lag
from app.commands.options import SinceOption, UntilOption, has_range, id_of
from app.commands.state import state
from app.commands.usage import Program, lines_of
from app.errors import CommandError, SettingsError
from app.local import LEAST_CALLS
from app.local.errors import LocalStackError
from app.logs import is_json, set_up_logs
from app.settings import Settings, load_settings

program = Program(
    name="dialwatch",
    help="Watches an outbound-call platform's events on Kafka and tells its customers what they "
    "must know.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
topics = Program(help="The topics of the installation.")
program.add_typer(topics, name="topics")
# For operators.
program.command("lag", short_help="Who reads what, and how far behind.")(lag)
program.command(
    "deliveries", short_help="What became of notifications, newest first.", check=has_range
)(deliveries)
program.add_typer(state, name="state")
program.add_typer(explain, name="explain")
program.add_typer(dlq, name="dlq")

_is_verbose = False


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"dialwatch {version('dialwatch')}")
        raise typer.Exit


@topics.callback(invoke_without_command=True)
def _topics(context: typer.Context) -> None:
    _help_without_command(context)


def _help_without_command(context: typer.Context) -> None:
    """Show the help where no command is named, and exit as for wrong usage."""
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(2)


@program.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log every step; show tracebacks.")
    ] = False,
) -> None:
    global _is_verbose  # noqa: PLW0603 (the error of a command is shown after its context ended)
    _help_without_command(context)
    _is_verbose = verbose
    set_up_logs(is_verbose=verbose)


@program.command()
def worker(
    traces: Annotated[
        bool,
        typer.Option(
            "--traces",
            help="Send OpenTelemetry traces, as OTEL_… variables say (dialwatch[tracing]).",
        ),
    ] = False,
) -> int:
    """Run one worker until SIGTERM or SIGINT. Any number may run in one group."""
    from app.life import run_worker  # noqa: PLC0415

    return run_worker(_logged_settings(), has_traces=traces)


def _logged_settings() -> Settings:
    """Load the settings and set up the log accordingly, for programs that run for long."""
    settings = load_settings()
    set_up_logs(is_verbose=_is_verbose, log_format=settings.log_format)
    return settings


@program.command(short_help="Run the web server that shows the installation.")
def console() -> int:
    """Run the console, one web server for the whole installation, until SIGTERM or SIGINT."""
    from app.commands.console import run_console  # noqa: PLC0415

    return run_console(_logged_settings())


@topics.command("create")
def create() -> None:
    """Create the topics that are missing. Never changes one that stands."""
    from app.kafka.topic_setup import create_topics  # noqa: PLC0415

    made = asyncio.run(create_topics(load_settings()))
    for topic in made:
        print(topic.name)
    print(f"{len(made)} topics created", file=sys.stderr)


@topics.command("expand", short_help="Give the installation more partitions; the group is stopped.")
def expand(
    partitions: Annotated[int, typer.Option(min=1, max=10_000, help="How many there are to be.")],
    execute: Annotated[
        bool, typer.Option("--execute", help="Do it. Without it the plan is shown, nothing done.")
    ] = False,
) -> int:
    """Bring topics and state to more partitions, with workers and publishers stopped.

    What is unread is folded and sent first. Run it again where it was cut off.
    """
    from app.commands.expand import run_expand  # noqa: PLC0415

    return run_expand(load_settings(), partitions, execute=execute)


def _check_replay(settings: Settings, **asked: Any) -> None:
    from app.commands.replay import ReplayOptions, checked  # noqa: PLC0415

    checked(settings, ReplayOptions(**asked))


@program.command(short_help="Fold the topics again and print what comes out.", check=_check_replay)
def replay(
    files: Annotated[
        Path | None, typer.Option(help="Read this export (a directory) in place of Kafka.")
    ] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    run_length: Annotated[
        str | None, typer.Option(help="What if: so many results in a row; several: 50,100,200.")
    ] = None,
    window_hours: Annotated[
        str | None, typer.Option(help="What if: a longer pause ends a run; several: 6,24.")
    ] = None,
    scenario: Annotated[
        list[str] | None, typer.Option(help="Only this scenario; may be given again.")
    ] = None,
    account: Annotated[
        str | None, typer.Option(callback=id_of("--account"), help="Only this account's commands.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(help="`notifications`: how the commands differ from those really told."),
    ] = None,
    summary: Annotated[
        bool, typer.Option("--summary", help="Counts in place of the commands.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write the counts into this HTML file, with charts.")
    ] = None,
    output: Annotated[
        Literal["jsonl", "csv", "parquet", "table"], typer.Option(help="How rows are printed.")
    ] = "jsonl",
    to: Annotated[Path | None, typer.Option(help="Into this file in place of stdout.")] = None,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Fold with so many processes.")] = 1,
    sms_price: Annotated[
        float | None, typer.Option(min=0, help="What one SMS costs, for --summary and --report.")
    ] = None,
) -> int:
    """Fold the topics again and print the commands that come out, as JSON lines.

    Sends nothing and writes nothing into Kafka. docs/analysts.md shows what can be asked.
    """
    from app.commands.replay import ReplayOptions, run_replay  # noqa: PLC0415

    options = ReplayOptions(
        files=files,
        since=since,
        until=until,
        run_length=run_length,
        window_hours=window_hours,
        scenario=scenario,
        account=account,
        against=against,
        summary=summary,
        report=report,
        output=output,
        to=to,
        jobs=jobs,
        sms_price=sms_price,
    )
    return run_replay(load_settings(), options)


def _check_export(settings: Settings, **asked: Any) -> None:
    from app.commands.export import checked  # noqa: PLC0415

    checked(settings, **asked)


@program.command(
    short_help="Write topics into files, for notebooks and replays.", check=_check_export
)
def export(
    topics: Annotated[list[str], typer.Argument(metavar="TOPIC...", help="By contract name.")],
    to: Annotated[Path, typer.Option(help="The directory; what it holds is gone on with.")],
    since: SinceOption = None,
    until: UntilOption = None,
    format_: Annotated[
        Literal["parquet", "jsonl"], typer.Option("--format", help="Of the files.")
    ] = "parquet",
) -> int:
    """Write records as they lie in Kafka into files: one for each partition and local day.

    TO/call-records/3/2026-11-24.parquet, with the columns topic, partition, offset, timestamp,
    key, value, headers. The same command again adds what came since; --until -1h keeps the instant
    of its first run.
    """
    from app.commands.export import run_export  # noqa: PLC0415

    return run_export(load_settings(), topics, to=to, since=since, until=until, format_=format_)


@program.command(
    short_help="Run a real Kafka, Valkey and stand-ins until Ctrl-C.", needs_settings=False
)
def local(
    directory: Annotated[
        Path | None, typer.Option(help="Keep the data here; without it they end with the stack.")
    ] = None,
    kafka_port: Annotated[int, typer.Option(min=0, max=65535)] = 9092,
    valkey_port: Annotated[int, typer.Option(min=0, max=65535)] = 6379,
    sandbox_port: Annotated[int, typer.Option(min=0, max=65535)] = 6067,
) -> None:
    """Run a real Kafka, a real Valkey and the stand-in for WeChat and SMS until Ctrl-C.

    Prints the settings with which the other commands find them.
    """
    from app.local.run import run_local  # noqa: PLC0415
    from app.sandbox.run import sandbox_companion  # noqa: PLC0415

    run_local(
        directory,
        kafka_port=kafka_port,
        valkey_port=valkey_port,
        companions=[sandbox_companion(sandbox_port)],
    )


@program.command(short_help="Run the whole product once on this machine.", needs_settings=False)
def demo(
    calls: Annotated[
        int, typer.Option(min=LEAST_CALLS, help="How many calls the dialer makes.")
    ] = 20_000,
    seed: Annotated[int, typer.Option(help="Another seed, other calls.")] = 1,
    stay: Annotated[bool, typer.Option(help="Keep everything up until Ctrl-C.")] = False,
    show: Annotated[
        int, typer.Option(min=0, help="How many messages of each kind and channel are printed.")
    ] = 2,
) -> int:
    """Run the whole product once on this machine: stack, worker and a simulated dialer."""
    from app.commands.demo import run_demo  # noqa: PLC0415

    return run_demo(calls=calls, seed=seed, stay=stay, shown=show)


@program.command(
    short_help="Run the stand-in for WeChat and SMS until Ctrl-C.", needs_settings=False
)
def sandbox(
    host: Annotated[str, typer.Option()] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 6067,
    seed: Annotated[int, typer.Option(help="Of the faults.")] = 1,
) -> None:
    """Run the stand-in for WeChat and the SMS gateway until Ctrl-C."""
    from app.sandbox.run import run_sandbox  # noqa: PLC0415

    run_sandbox(host=host, port=port, seed=seed)


@program.command("send-test", short_help="Send one real WeChat message, say what became of it.")
def send_test(
    account: Annotated[
        str,
        typer.Option(callback=id_of("--account"), help="The account that gets the message."),
    ],
    timeout_s: Annotated[float, typer.Option(min=1)] = 60.0,
) -> int:
    """Send one real WeChat message through the whole path and say what became of it."""
    from app.commands.send_test import run_send_test  # noqa: PLC0415

    return run_send_test(load_settings(), account=account, timeout_s=timeout_s)


def _check_check(_: Settings, *, topic: str | None = None, **__: object) -> None:
    from app.commands.check import check_topic  # noqa: PLC0415

    if topic is not None:
        check_topic(topic)


@program.command(short_help="Say which records of a file are invalid, and why.", check=_check_check)
def check(
    file: Annotated[
        typer.FileBinaryRead,
        typer.Argument(help="Records, a line each; - for standard input.", show_default=False),
    ],
    topic: Annotated[str, typer.Option(help="The topic of lines that name none.")] = "call-records",
    output: Annotated[
        Literal["text", "jsonl"], typer.Option(help="Lines for people, or JSON lines.")
    ] = "text",
) -> int:
    """Say which records of a file the worker would call invalid, and why. Opens no connection.

    A line is a record's value, `key<TAB>value`, `topic<TAB>key<TAB>value`, or a line of an export.
    """
    from app.commands.check import run_check  # noqa: PLC0415

    settings = load_settings()
    return run_check(
        cast(BinaryIO, file),
        file.name,
        topic=topic,
        rules=settings.rules,
        as_json=output == "jsonl",
    )


@program.command(short_help="Check all that a worker needs, a line each.")
def doctor() -> int:
    """Check Kafka, topics, Redis, WeChat and the clock; one line each with what to do."""
    from app.commands.doctor import run_doctor  # noqa: PLC0415

    return run_doctor(load_settings())


@program.command()
def config() -> None:
    """Show the settings in force, secrets masked."""
    for name, value in load_settings().shown().items():
        print(f"{name}={value}")


def main() -> None:
    """Run the command line and exit."""
    # Whoever closes stdout or stderr (`>&-`) wants none of it.
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    # A terminal that can't show a character must not end a command.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    set_up_logs()
    sys.exit(_run())


def _run() -> int:
    try:
        code = program(standalone_mode=False)
        sys.stdout.flush()
    except typer.Exit as exit_:
        return exit_.exit_code
    except TyperException as error:
        return _complain(*lines_of(error), code=2)
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except SettingsError as error:
        return _complain(*error.lines, code=2)
    except (CommandError, LocalStackError) as error:
        return _complain(str(error), code=1)
    except BrokenPipeError:
        # The reader of our output has closed the pipe: the interpreter must not flush again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if _is_verbose:
            logging.getLogger(__name__).exception("the command failed")
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return _complain(f"{reason} (unexpected; with --verbose there is a traceback)", code=1)
    return code if isinstance(code, int) else 0


def _complain(*lines: str, code: int) -> int:
    for line in lines:
        said = " ".join(line.split())
        if is_json():
            logging.getLogger(__name__).error("%s", said)
        else:
            print(f"dialwatch: {said}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
