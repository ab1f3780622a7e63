"""`App.destinations`: what it takes, and how soon it refuses the rest."""

import ssl

import pytest

from pacsroute import TLS, App, Peer, SetupError

PACS = Peer("10.0.0.7", 104)

WRONG = [
    (("10.0.0.7", 104), r"expected a Peer, such as Peer\("),
    (None, "expected a Peer"),
    ("10.0.0.7:104", "expected a Peer"),
    (Peer("", 104), "the host must be a name or an address"),
    (Peer(7, 104), "the host must be a name or an address, not 7"),
    (Peer("10.0.0.7", "104"), "the port must be 1 to 65,535, not '104'"),
    (Peer("10.0.0.7", 0), "the port must be 1 to 65,535, not 0"),
    (Peer("10.0.0.7", 65536), "the port must be 1 to 65,535"),
    (Peer("10.0.0.7", True), "the port must be 1 to 65,535, not True"),
    (Peer("10.0.0.7", 104, "A" * 17), "use 1 to 16 printable ASCII"),
    (Peer("10.0.0.7", 104, tls=True), "tls must be a TLS or an ssl.SSLContext, not True"),
]


@pytest.mark.parametrize(("peer", "words"), WRONG)
def test_a_wrong_peer_is_refused_by_every_way_to_set_it(peer, words):
    app = App()

    def assigned():
        app.destinations = {"PACS": peer}

    def merged():
        app.destinations |= {"PACS": peer}

    ways = [
        lambda: app.destinations.__setitem__("PACS", peer),
        lambda: app.destinations.update(PACS=peer),
        lambda: app.destinations.setdefault("PACS", peer),
        merged,
        assigned,
    ]
    for way in ways:
        with pytest.raises(SetupError, match=rf"^app\.destinations\['PACS'\]: .*{words}"):
            way()
        assert not app.destinations


@pytest.mark.parametrize("title", ["", " ", "A" * 17, "B\\", "ÄPFEL", 5])
def test_a_key_is_an_ae_title(title):
    with pytest.raises(SetupError, match="AE title"):
        App().destinations[title] = PACS


def test_right_peers_are_resolved():
    app = App()
    safe = Peer("pacs.example", 2762, "PACS", tls=TLS())
    old = PACS._replace(tls=ssl.create_default_context())
    app.destinations = {"PACS": PACS, " SAFE ": safe}
    app.destinations |= {"OLD": old}
    assert [app.resolve(title) for title in ("PACS", "SAFE", "OLD", "NEW")] == [
        *(PACS, safe, old),
        None,
    ]
    app.destinations["PACS"] = safe
    assert app.resolve("PACS") == safe
    del app.destinations["PACS"]
    assert app.resolve("PACS") is None
