"""The app: what a user makes one of; the only place with doors to the upper floors."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Unpack

from pacsroute.config import RESPONSE_TIMEOUT
from pacsroute.dataset import late
from pacsroute.errors import AssociationError
from pacsroute.framework.base import BaseApp

if TYPE_CHECKING:
    import click

    from pacsroute.net.client import Client
    from pacsroute.net.server import Server
    from pacsroute.settings import ServerSettings
    from pacsroute.testing import TestClient
    from pacsroute.upper_layer.pdu import UserIdentity


class App(BaseApp):
    """A DICOM application: an AE title and the handlers behind it.

    Parameters
    ----------
    ae_title : str
        Its own title, 1 to 16 characters. Other called AE titles are answered too, unless
        ``require_called_ae=True``.
    **settings
        Any setting of `pacsroute.Config`, such as ``spool``: the folder for data sets that are
        too large for memory while they come, which makes saving a rename where it is on the
        archive's file system.

    Attributes
    ----------
    config : Config
        The settings.
    state : types.SimpleNamespace
        A place for what handlers share.
    destinations : mapping of str to Peer
        Where AE titles are to be found that no `destination` function knows. What is set is
        checked: an AE title, and a `Peer` with a host and a port.

    Raises
    ------
    SetupError
        If there is no such setting, or it has no such value.

    Examples
    --------
    >>> from pacsroute import EchoRequest
    >>> app = App("ARCHIVE")
    >>> @app.echo
    ... def verify(request): ...
    >>> app.handle(EchoRequest(app=app)).status.code
    0
    """

    @functools.cached_property
    def cli(self) -> click.Group:
        """Commands of the app's own, for ``pacsroute NAME``: a click group.

        A command that needs what the lifespan makes holds it, ``with app.running():``.

        Examples
        --------
        >>> import click
        >>> app = App()
        >>> @app.cli.command()
        ... @click.argument("folder")
        ... def reindex(folder):
        ...     "Read all files of FOLDER into the index."
        >>> list(app.cli.commands)
        ['reindex']
        """
        import click  # noqa: PLC0415 - only for those who have commands

        return click.Group()

    # ------------------------------------------------------------- doors to the upper floors

    def serve(
        self,
        host: str | None = None,
        port: int | None = None,
        **settings: Unpack[ServerSettings],
    ) -> Server:
        """Return a server of this app that listens already, to be used with ``with``.

        Parameters
        ----------
        host, port : str and int, optional
            Where it listens, in the place of what `config` says; port 0 is a free one, see
            the server's `port`.
        **settings
            As in `pacsroute.Server`.

        Examples
        --------
        >>> with App().serve(port=0) as server:
        ...     server.port > 0
        True
        """
        from pacsroute.net.server import Server  # noqa: PLC0415 - upstairs, only when asked

        return Server(self, host, port, **settings)

    def connect(
        self,
        ae_title: str,
        *,
        user: str | tuple[str, str] | UserIdentity | None = None,
        timeout: float = RESPONSE_TIMEOUT,
    ) -> Client:
        """Return a client of an AE title, which is resolved as a C-MOVE does it.

        The app's own handlers answer what the peer asks in return: for an echo, with reports
        of events, and as the SCU of what it was given that role for.

        Parameters
        ----------
        ae_title : str
            What `destination` or `destinations` knows.
        user, timeout
            As in `pacsroute.connect`.

        Raises
        ------
        AssociationError
            If nobody knows that title.

        Examples
        --------
        >>> from pacsroute import Peer
        >>> app, pacs = App("GATEWAY"), App("PACS")
        >>> with pacs.serve(port=0) as server:
        ...     app.destinations["PACS"] = Peer("127.0.0.1", server.port)
        ...     with app.connect("PACS") as client:
        ...         client.echo().category
        'Success'
        """
        late.load()  # several threads may be clients
        from pacsroute.net.client import Client, client_of  # noqa: PLC0415 - upstairs, only when asked

        peer = self.resolve(ae_title)
        if peer is None:
            raise AssociationError(
                f"nobody knows where {ae_title!r} is: say so in @app.destination, or with "
                f"--destination {ae_title}=HOST:PORT"
            )
        opener = self.reach.opener(ae_title)
        if opener is not None:
            return Client(opener, called_ae=ae_title, calling_ae=self.ae_title, user=user, app=self)
        peer = peer._replace(ae_title=peer.ae_title or ae_title)
        return client_of(peer, self.ae_title, user=user, timeout=timeout, app=self)

    def test_client(
        self,
        *,
        calling_ae: str = "TEST",
        called_ae: str | None = None,
        user: Any = None,
        identity: str | tuple[str, str] | UserIdentity | None = None,
        peers: Mapping[str, App] | None = None,
    ) -> TestClient:
        """Return a client that speaks to this app in memory, for tests; to be used with ``with``.

        Parameters
        ----------
        calling_ae, called_ae : str
            The AE titles of the association; the app's own is called by default.
        user : object, optional
            What `request.user` is, without asking `authenticate`.
        identity : str, (str, str) or UserIdentity, optional
            What `authenticate` is asked of, as the `user` of `pacsroute.connect`.
        peers : mapping of str to App, optional
            The apps that a C-MOVE reaches, and `connect`, by AE title.

        Examples
        --------
        >>> app = App()
        >>> with app.test_client() as client:
        ...     client.echo().category
        'Success'
        """
        from pacsroute.testing import TestClient  # noqa: PLC0415 - upstairs, only when asked

        return TestClient(
            self,
            calling_ae=calling_ae,
            called_ae=called_ae,
            user=user,
            identity=identity,
            peers=peers,
        )

    def run(
        self,
        host: str | None = None,
        port: int | None = None,
        **settings: Unpack[ServerSettings],
    ) -> None:
        """Serve until SIGINT or SIGTERM, as ``pacsroute run`` does; for the end of a script.

        It prints what is served and where, logs to stderr unless the script has set up a log,
        and exits with a line where it cannot serve. A file that does this where it is imported
        can be served by ``pacsroute run`` all the same, which leaves the call out.

        Parameters
        ----------
        host, port, **settings
            As for `serve`.
        """
        from pacsroute.foreground import run  # noqa: PLC0415 - upstairs, only when asked

        run(self, host, port, settings)
