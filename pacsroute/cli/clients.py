"""``pacsroute echo``, ``find``, ``get`` and ``move``, and code shared with ``store``."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from types import FrameType
from typing import Any, TypeVar

import click
from click.exceptions import Exit

from pacsroute import uids
from pacsroute.app import App
from pacsroute.cli.identifiers import Path, asks_for, named
from pacsroute.cli.numbers import WholeNumber, duration
from pacsroute.cli.observing import observes
from pacsroute.cli.output import aligned, json_array
from pacsroute.cli.progress import counting, say, status_line, volume
from pacsroute.config import RESPONSE_TIMEOUT
from pacsroute.errors import (
    AssociationError,
    AssociationRejected,
    DataSetError,
    Failure,
    NotAccepted,
    PacsrouteError,
    ProtocolError,
    RequestFailed,
    SetupError,
)
from pacsroute.framework.requests import Progress
from pacsroute.instances.instance import Instance
from pacsroute.net.client import Client
from pacsroute.net.connecting import connect
from pacsroute.services.transfer import FETCHED
from pacsroute.status import Status
from pacsroute.tls import TLS
from pacsroute.trace.layout import printable
from pacsroute.upper_layer.tap import TapFactory

SOME_FAILED, NO_ASSOCIATION, REFUSED, INTERRUPTED = 1, 3, 4, 130
"""Exit codes; 2 is click's, for a command line that is not understood."""

_PATIENCE = 1.0  # seconds that an abort may take
_SCHEMES = ("http://", "https://")
_OPTIONS = {(1, 3): "--calling-ae", (1, 7): "--called-ae"}
"""The option that a rejected association needs, by source and reason (PS3.8 §9.3.4)."""

_T = TypeVar("_T")
Command = Callable[..., None]


# ------------------------------------------------------------- how a command ends


def reason(error: Exception) -> str:
    """Return why something failed, in a line."""
    if isinstance(error, OSError):
        text = error.strerror or str(error)
    elif isinstance(error, PacsrouteError):
        text = str(error)
    else:
        text = f"{type(error).__name__}: {error}"
    return printable(" ".join(text.split()))


def _failed(error: Exception, exit_code: int, hint: str = "") -> click.ClickException:
    """Return the exception that makes click write a line and exit."""
    failed = click.ClickException(reason(error) + hint)
    failed.exit_code = exit_code  # type: ignore[misc]  # for this instance, instead of the class
    return failed


@contextlib.contextmanager
def _exit_codes() -> Iterator[None]:
    """Turn the exception of a request into a line and an exit code."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's warnings about the peer's values
            yield
    except AssociationRejected as error:
        option = _OPTIONS.get((error.source, error.reason))
        hint = f"; the option is {option}" if option else ""
        raise _failed(error, NO_ASSOCIATION, hint) from None
    except (AssociationError, NotAccepted, ProtocolError) as error:
        raise _failed(error, NO_ASSOCIATION) from None
    except (RequestFailed, DataSetError) as error:
        raise _failed(error, REFUSED) from None
    except SetupError as error:
        raise click.UsageError(str(error)) from None
    except UnicodeError as error:  # a host name that cannot be one
        raise _failed(error, NO_ASSOCIATION) from None
    except (Failure, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            raise  # the reader has closed the pipe: click handles that
        raise _failed(error, SOME_FAILED) from None
    except KeyboardInterrupt:
        raise Exit(INTERRUPTED) from None


@contextlib.contextmanager
def _released(client: Client) -> Iterator[Client]:
    """Release the associations at the end, also after an error; abort at a Ctrl-C."""
    try:
        yield client
    except KeyboardInterrupt:
        client.close(abort=True)
        raise
    finally:
        client.close()


class CtrlC:
    """Stop politely at the first Ctrl-C, and interrupt at the second.

    An interrupt in the middle of a message would leave an association that can only be
    aborted. While `polite` is false there is nothing to cancel, and the first interrupts.
    """

    def __init__(self, *, polite: bool = False) -> None:
        self.polite = polite
        self.stopping = False
        self._before: Any = None

    def __enter__(self) -> CtrlC:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._heard)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        if self.stopping and kind is not KeyboardInterrupt:
            raise Exit(INTERRUPTED) from None

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.stopping or not self.polite:
            # Aborting waits until the peer closes its side, which may be late if it is busy.
            deadline = threading.Timer(_PATIENCE, os._exit, (INTERRUPTED,))
            deadline.daemon = True
            deadline.start()
            raise KeyboardInterrupt
        self.stopping = True
        # Not with click: the interrupted code may be in the middle of writing.
        os.write(2, b"\nstopping; press Ctrl-C again to stop at once\n")


def _each(
    answers: Generator[_T, None, Status], ctrl_c: CtrlC, take: Callable[[_T], object]
) -> Status | None:
    """Pass on each answer until `take` returns true; return the final status, if reached.

    Parameters
    ----------
    answers : generator
        A generator of a `Client`. Closing it early sends a C-CANCEL.
    ctrl_c : CtrlC
        Whether to stop.
    take : callable
        Called with each answer; a true result stops.
    """
    with contextlib.closing(answers):
        while True:
            try:
                answer = next(answers)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            ctrl_c.polite = True
            if take(answer) or ctrl_c.stopping:
                return None


# ------------------------------------------------------------- options


def _host(context: click.Context, argument: click.Parameter, text: str) -> str:
    if text.startswith(_SCHEMES) and not isinstance(context.command, PeerCommand):
        raise click.BadParameter("DICOMweb has no such service: use the peer's HOST and PORT")
    name, colon, port = text.partition(":")
    if colon and port.isdecimal():
        raise click.BadParameter(f"HOST and PORT are two arguments: {name} {port}")
    return text


def _ae_title(context: click.Context, option: click.Parameter, text: str) -> str:
    try:
        return App(text).ae_title
    except SetupError as error:
        raise click.BadParameter(str(error)) from None


def _tls(
    wanted: bool, certificate: str | None, key: str | None, ca: str | None, **others: Any
) -> TLS | None:
    checks = not others["verify"] or others["check_hostname"] is not None
    if not (wanted or certificate or key or ca or checks):
        return None
    try:
        tls = TLS(certificate, key, ca=ca, **others)
        tls.client()
    except SetupError as error:
        raise click.UsageError(str(error)) from None
    return tls


_FILE = click.Path(exists=True, dir_okay=False)


def _option(*names: str, **settings: Any) -> Callable[[Command], Command]:
    """Return an option that is an environment variable, too: --tls-ca is PACSROUTE_TLS_CA."""
    variable = "PACSROUTE_" + names[-1].removeprefix("--").replace("-", "_").upper()
    return click.option(*names, envvar=variable, **settings)


_PEER_OPTIONS = (
    click.argument("host", callback=_host),
    click.argument("port", type=WholeNumber(1, 65535)),
    _option(
        "-c",
        "--called-ae",
        default="ANY-SCP",
        callback=_ae_title,
        show_default=True,
        help="The peer's AE title.",
    ),
    _option(
        "-a",
        "--calling-ae",
        default="PACSROUTE",
        callback=_ae_title,
        show_default=True,
        help="Our AE title.",
    ),
    _option("--tls", is_flag=True, help="Use TLS; the other TLS options imply it."),
    _option("--tls-certificate", type=_FILE, help="Our certificate, in PEM."),
    _option("--tls-key", type=_FILE, help="The certificate's key, if it is in another file."),
    _option(
        "--tls-key-passphrase",
        help="The key's passphrase; PACSROUTE_TLS_KEY_PASSPHRASE keeps it out of process lists.",
    ),
    _option("--tls-ca", type=_FILE, help="CA certificates to trust instead of the system's."),
    _option(
        "--tls-check-hostname/--no-tls-check-hostname",
        "tls_check_hostname",
        default=None,
        help="Check that the certificate names HOST; by default only without --tls-ca.",
    ),
    _option("--tls-no-verify", is_flag=True, help="Accept any certificate: for tests only."),
    _option("--user", help="A user name to authenticate with."),
    _option(
        "--passcode", help="The user's passcode; PACSROUTE_PASSCODE keeps it out of process lists."
    ),
    _option(
        "--timeout",
        metavar="SECONDS",
        callback=duration,
        default=f"{RESPONSE_TIMEOUT:g}",
        show_default=True,
        help="Time to wait for a response.",
    ),
)


class PeerCommand(click.Command):
    """A command that asks a peer: at HOST and PORT, or at the URL of its DICOMweb alone."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments; a URL replaces the host and port."""
        for at, text in enumerate(args):
            if text.startswith(_SCHEMES):
                args = [*args[: at + 1], "443", *args[at + 1 :]]  # the URL has its own
                break
        return super().parse_args(ctx, args)


def asks_a_peer(function: Command) -> Command:
    """Give a command the options of a peer; it is called with a `Client` instead of them."""

    @functools.wraps(function)
    def command(
        host: str,
        port: int,
        called_ae: str,
        calling_ae: str,
        tls: bool,
        tls_certificate: str | None,
        tls_key: str | None,
        tls_key_passphrase: str | None,
        tls_ca: str | None,
        tls_check_hostname: bool | None,
        tls_no_verify: bool,
        user: str | None,
        passcode: str | None,
        timeout: float,
        taps: list[TapFactory],
        **others: Any,
    ) -> None:
        if passcode and not user:
            raise click.UsageError("--passcode requires --user")
        app = App(calling_ae)
        app.taps += taps
        client = connect(
            host,
            port,
            called_ae=called_ae,
            calling_ae=calling_ae,
            tls=_tls(
                tls,
                tls_certificate,
                tls_key,
                tls_ca,
                passphrase=tls_key_passphrase,
                check_hostname=tls_check_hostname,
                verify=not tls_no_verify,
            ),
            user=(user, passcode) if user and passcode else user,
            timeout=timeout,
            app=app,
        )
        with _exit_codes(), _released(client):
            function(client, **others)

    wrapped = observes(err=True)(command)
    for option in reversed(_PEER_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def _storage(
    context: click.Context, option: click.Parameter, names: tuple[str, ...]
) -> list[str] | None:
    return [named(name, "store") for name in names] or None


def _syntaxes(
    context: click.Context, option: click.Parameter, names: tuple[str, ...]
) -> Sequence[str]:
    try:
        return [uids.transfer_syntax(name) for name in names] or FETCHED
    except SetupError as error:
        raise click.BadParameter(str(error)) from None


# ------------------------------------------------------------- commands


@click.command()
@asks_a_peer
def echo(client: Client) -> None:
    """Test whether a peer answers (C-ECHO).

    \b
    Example:
      pacsroute echo 10.0.0.7 11112 -c PACS
    """  # noqa: D301 - click's mark is a backspace
    began = time.monotonic()
    with CtrlC():
        status = client.echo()
    click.echo(f"{client.called_ae} answers: {status.name}, {time.monotonic() - began:.3f} s")


@click.command(cls=PeerCommand)
@asks_a_peer
@asks_for("find", "StudyRoot|PatientRoot|Worklist")
@click.option("--json", "as_json", is_flag=True, help="Print the matches as a DICOM JSON array.")
@click.option("--wide", is_flag=True, help="Do not cut long values to fit the terminal.")
@click.option("--limit", type=WholeNumber(1), metavar="N", help="Cancel after this many matches.")
def find(
    client: Client,
    identifier: dict[str, Any],
    sop_class: str,
    columns: list[Path],
    as_json: bool,
    wide: bool,
    limit: int | None,
) -> None:
    """Query a peer and show the matches, sorted by value.

    If the table is too wide for the terminal, long texts are cut. UIDs are never cut: if they do
    not fit, each match is printed as a block of lines.

    \b
    Examples:
      pacsroute find 10.0.0.7 11112 -c PACS -k PatientName='DOE*' -k StudyDate
      pacsroute find https://pacs.example/dicom-web -k PatientName='DOE*' -k StudyDate
      pacsroute find 10.0.0.7 11112 --sop-class Worklist -k PatientName \\
          -k ScheduledProcedureStepSequence.Modality=CT
    """  # noqa: D301 - click's mark is a backspace
    show = json_array() if as_json else aligned(columns, wide=wide)
    count = 0
    with CtrlC() as ctrl_c:
        # A table comes at the end, since its widths are known then; JSON shows for itself.
        waiting = contextlib.nullcontext(lambda _: None) if as_json else counting("{:,} matches")
        with show as take, waiting as tell:

            def taken(row: Any) -> bool:
                nonlocal count
                take(row)
                count += 1
                tell(count)
                return count == limit

            status = _each(client.find(identifier, sop_class), ctrl_c, taken)
        say(
            f"{count} {'match' if count == 1 else 'matches'}"
            + (", and maybe more" if status is None else "")
        )
        if status is not None and status.category == "Warning":
            say(str(status))


@click.command(cls=PeerCommand)
@asks_a_peer
@asks_for("get", "StudyRoot|PatientRoot")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False),
    default=".",
    metavar="FOLDER",
    help="Folder for the files; it is created if missing.",
)
@click.option(
    "--storage",
    multiple=True,
    metavar="KEYWORD",
    callback=_storage,
    help="A storage class to accept, such as CTImageStorage; may be given several times. "
    "By default the usual ones.",
)
@click.option(
    "--transfer-syntax",
    "syntaxes",
    multiple=True,
    metavar="KEYWORD",
    callback=_syntaxes,
    help="A transfer syntax to accept, such as JPEG2000Lossless; may be given several times, the "
    "preferred one first.",
)
def get(
    client: Client,
    identifier: dict[str, Any],
    sop_class: str,
    output: str,
    storage: list[str] | None,
    syntaxes: Sequence[str],
) -> None:
    """Retrieve instances into a folder, as <SOP Instance UID>.dcm.

    \b
    Example:
      pacsroute get 10.0.0.7 11112 -c PACS -k StudyInstanceUID=1.2.3 -o images
    """  # noqa: D301 - click's mark is a backspace
    count = size = 0
    began = time.monotonic()
    status, last = None, Progress()
    with CtrlC() as ctrl_c, status_line() as show:

        def instances() -> str:
            return "1 instance" if count == 1 else f"{count} instances"

        def save(instance: Instance) -> None:
            nonlocal count, size
            try:
                size += instance.save(output).stat().st_size
            except OSError as error:
                raise click.ClickException(f"{output}: {reason(error)}") from None
            count += 1
            note(last)

        def note(progress: Progress) -> None:
            nonlocal last
            last = progress
            to_go = f", {last.remaining} to go" if last.remaining else ""
            show(f"{instances()}, {volume(size)}{to_go}")

        try:
            coming = client.get(
                identifier, sop_class, storage=storage, transfer_syntaxes=syntaxes, progress=note
            )
            status = _each(coming, ctrl_c, save)
        finally:
            show("")
            seconds = time.monotonic() - began
            click.echo(f"{instances()}, {volume(size)} in {seconds:.1f} s")
            if last.failed or last.warning:
                say(f"{client.called_ae} says: {_counted('sent', last)}")
            for uid in last.failed_instances:
                say(f"{uid}: failed")
    if status is not None and status.category == "Warning":
        say(f"C-GET: {status}")
        raise Exit(SOME_FAILED)


@click.command()
@asks_a_peer
@click.argument("destination", callback=_ae_title)
@asks_for("move", "StudyRoot|PatientRoot")
def move(client: Client, destination: str, identifier: dict[str, Any], sop_class: str) -> None:
    """Make a peer send instances to another AE (C-MOVE).

    DESTINATION is an AE title that the peer knows.

    \b
    Example:
      pacsroute move 10.0.0.7 11112 WORKSTATION -c PACS -k StudyInstanceUID=1.2.3
    """  # noqa: D301 - click's mark is a backspace
    last = Progress()
    with CtrlC() as ctrl_c, status_line() as show:

        def note(progress: Progress) -> None:
            nonlocal last
            last = progress
            show(f"{_counted('moved', progress)}, {progress.remaining} to go")

        try:
            status = _each(client.move(identifier, destination, sop_class), ctrl_c, note)
        finally:
            show("")
            click.echo(_counted("moved", last))
            for uid in last.failed_instances:
                say(f"{uid}: failed")
    if status is not None and status.category == "Warning" and not last.failed:
        say(f"C-MOVE: {status}")
    if last.failed:
        raise Exit(SOME_FAILED)


def _counted(done: str, progress: Progress) -> str:
    return (
        f"{done} {progress.completed + progress.warning}, failed {progress.failed}, "
        f"with a warning {progress.warning}"
    )
