"""Listeners by the names of their ports' settings."""

import socket

import pytest

from pacsroute import App, SetupError
from pacsroute.config import Config
from pacsroute.net.listening import addresses, listen
from pacsroute.net.server import Server


@pytest.fixture
def listeners():
    """Return a function that listens as `listen` does, and closes everything at the end."""
    found = []

    def listening(config, kept=None):
        found.append(listen(config, kept))
        return found[-1]

    yield listening
    for one in found:
        for listener in one.values():
            listener.socket.close()


def test_addresses_have_the_names_of_the_settings():
    config = Config(port=104, tls_port=2762, metrics_port=9, host="::1", metrics_host="127.0.0.2")
    assert addresses(config) == {
        "port": ("::1", 104),
        "tls_port": ("::1", 2762),
        "metrics_port": ("127.0.0.2", 9),
    }
    assert addresses(Config(port=0)) == {"port": ("127.0.0.1", 0)}


def test_listener_asked_for_again_keeps_its_socket(listeners):
    first = listeners(Config(port=0, metrics_port=0))
    again = listeners(Config(port=0, metrics_port=0, metrics_host="localhost"), first)
    assert again["port"] is first["port"]
    assert again["metrics_port"].socket is not first["metrics_port"].socket


def test_where_one_port_is_taken_the_new_sockets_are_closed(listeners, monkeypatch):
    taken = listeners(Config(port=0))["port"].socket.getsockname()[1]
    made = []
    real = socket.socket

    def making(*arguments):
        made.append(real(*arguments))
        return made[-1]

    monkeypatch.setattr("pacsroute.net.listening.socket.socket", making)
    with pytest.raises(OSError, match="in use"):
        listen(Config(port=0, metrics_port=taken))
    assert [one.fileno() for one in made] == [-1, -1]


def test_listeners_are_taken_by_name_in_any_order(listeners):
    found = listeners(Config(port=0, metrics_port=0))
    sockets = {name: found[name].socket for name in reversed(found)}
    app = App(port=0, metrics_port=0)
    with Server(app, listeners=sockets, grace=0) as server:
        assert server.port == found["port"].socket.getsockname()[1]
        assert server.metrics_port == found["metrics_port"].socket.getsockname()[1]


def test_listeners_that_the_settings_do_not_have_are_an_error(listeners):
    found = listeners(Config(port=0, metrics_port=0))
    sockets = {name: one.socket for name, one in found.items()}
    with pytest.raises(SetupError, match="the listeners do not match the ports in the settings"):
        Server(App(port=0), listeners=sockets)


def test_an_app_hands_in_what_answers_at_a_port_of_its_own():
    events = []

    class Beside:
        def __init__(self, listener, app, server):
            self.listener = listener
            self.obstacle = server.obstacle

        def start(self):
            events.append(self.obstacle())

        def stop(self):
            events.append(self.obstacle())
            self.listener.close()

    app = App()
    app.listeners["metrics_port"] = Beside
    with app.serve(port=0, metrics_port=0, grace=0) as server:
        assert server.metrics_port
        assert server.obstacle() == ""
    assert events == ["it is starting", "it is stopping"]
