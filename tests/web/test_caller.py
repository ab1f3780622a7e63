"""Who may connect over HTTP: as over DIMSE, and nobody by accident."""

import base64
import http.client

import pytest
from support.web import ROOT

from pacsroute import App, AssociationRejected, Blueprint, Failure, SetupError, connect


def basic(name="doe", passcode="secret"):
    text = base64.b64encode(f"{name}:{passcode}".encode()).decode()
    return {"Authorization": f"Basic {text}"}


def knows_doe(app):
    @app.authenticate
    def check(identity, association):
        return "doe" if identity and identity.proves("doe", "secret") else None


def allows_others(app):
    app.config.allow = ("10.0.0.0/8", "NOBODY")


def rejects(app):
    @app.before_association
    def check(association):
        raise AssociationRejected(1, 1, 3)


def fails_to_authenticate(app):
    @app.authenticate
    def check(identity, association):
        raise ValueError("secret")


def wants_its_title(app):
    app.config.require_called_ae = True


def refuses_requests(app):
    @app.before_request
    def check(request):
        raise Failure(0x0124)


REFUSALS = {
    "not in allow": (allows_others, None, "ARCHIVE", 403),
    "nobody": (knows_doe, ("doe", "wrong"), "ARCHIVE", 403),
    "no identity": (knows_doe, None, "ARCHIVE", 401),
    "rejected by a hook": (rejects, None, "ARCHIVE", 403),
    "authentication broken": (fails_to_authenticate, ("doe", "secret"), "ARCHIVE", 403),
    "another title": (wants_its_title, None, "OTHER", 403),
    "refused by before_request": (refuses_requests, None, "ARCHIVE", 403),
}


def archive():
    app = App("ARCHIVE")

    @app.find("StudyRoot")
    def find(request):
        yield {"StudyInstanceUID": "1.2", "PatientName": str(request.user)}

    return app


@pytest.mark.parametrize("name", REFUSALS)
def test_each_refusal_holds_over_both_transports(name):
    set_up, identity, title, status = REFUSALS[name]
    app = archive()
    set_up(app)
    with app.serve(port=0, web_port=0) as server:
        with connect("127.0.0.1", server.port, called_ae=title, user=identity) as client:
            with pytest.raises(Exception, match=r"reject|refus|0x0124"):
                list(client.find({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ""}))
        found = ask(server, f"{ROOT}/aets/{title}/studies", basic(*identity) if identity else {})
    assert found.status == status
    assert ("WWW-Authenticate" in found.headers) == (status == 401)


def ask(server, path, headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.web_port, timeout=10)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    response.data = response.read()
    connection.close()
    return response


def test_who_is_known_is_the_user():
    app = archive()
    knows_doe(app)
    with app.serve(port=0, web_port=0) as server:
        found = ask(server, f"{ROOT}/studies", basic())
    assert found.status == 200
    assert b'"Alphabetic":"doe"' in found.data


def test_a_bearer_token_is_an_identity():
    app, seen = archive(), []

    @app.authenticate
    def check(identity, association):
        seen.append((identity.kind, identity.token, association.calling_ae))
        assert association.contexts == {}
        return "somebody"

    with app.test_client() as client:
        client.web.get(f"{ROOT}/studies", headers={"Authorization": "Bearer abc.def"})
    assert seen == [("jwt", b"abc.def", "DICOMWEB")]


@pytest.mark.parametrize("header", ["", "Basic", "Basic !", "Basic eA==", "Digest x", "Bearer"])
def test_credentials_that_are_none_are_nobodys(header):
    app, seen = archive(), []

    @app.authenticate
    def check(identity, association):
        seen.append(identity)

    with app.test_client() as client:
        response = client.web.get(f"{ROOT}/studies", headers={"Authorization": header})
    assert seen == [None]
    assert response.status_code == 401


def test_it_is_asked_once_for_each_request():
    app, seen = archive(), []

    @app.authenticate
    def check(identity, association):
        seen.append(association.remote_address)
        return "doe"

    @app.after_association
    def end(association, error):
        seen.append(association.user)

    with app.test_client() as client:
        client.web.get(f"{ROOT}/studies")
        client.web.get(f"{ROOT}/studies")
    assert seen == ["127.0.0.1", "doe"] * 2


LOCAL = {"REMOTE_ADDR": "127.0.0.1"}


@pytest.mark.parametrize(
    ("settings", "environ", "status"),
    [
        ({}, LOCAL, 200),
        ({}, {"REMOTE_ADDR": "::1", "HTTP_HOST": "[::1]:8042"}, 200),
        ({}, {"REMOTE_ADDR": "::ffff:127.0.0.1"}, 200),
        ({}, {"REMOTE_ADDR": "10.0.0.7"}, 403),
        ({}, {"REMOTE_ADDR": ""}, 403),
        ({}, LOCAL | {"HTTP_X_FORWARDED_FOR": "10.0.0.7"}, 403),
        ({}, LOCAL | {"HTTP_X_FORWARDED_HOST": "pacs"}, 403),
        ({}, LOCAL | {"HTTP_FORWARDED": "for=10.0.0.7"}, 403),
        ({}, LOCAL | {"HTTP_VIA": "1.1 proxy"}, 403),
        ({}, LOCAL | {"HTTP_HOST": "evil.example"}, 403),
        ({}, LOCAL | {"HTTP_HOST": "evil.example:8042"}, 403),
        ({}, LOCAL | {"HTTP_HOST": "127.0.0.1.evil.example"}, 403),
        ({"web_hosts": ["pacs.local"]}, LOCAL | {"HTTP_HOST": "PACS.local:8042"}, 200),
        ({"web_open": True}, {"REMOTE_ADDR": "10.0.0.7"}, 200),
        ({"web_trust_proxy": 1}, LOCAL | {"HTTP_X_FORWARDED_FOR": "10.0.0.7"}, 403),
        ({"web_trust_proxy": 1}, LOCAL | {"HTTP_X_FORWARDED_FOR": "127.0.0.1"}, 200),
        ({"web_trust_proxy": 1}, LOCAL | {"HTTP_X_FORWARDED_FOR": "127.0.0.1, 10.0.0.7"}, 403),
        # A proxy that names nobody, and one whose own machine asks.
        ({"web_trust_proxy": 1}, LOCAL, 403),
        ({"web_trust_proxy": 2}, LOCAL | {"HTTP_X_FORWARDED_FOR": "127.0.0.1"}, 403),
        (
            {"web_trust_proxy": 1},
            {"REMOTE_ADDR": "10.0.0.9", "HTTP_X_FORWARDED_FOR": "127.0.0.1"},
            403,
        ),
        ({}, LOCAL | {"pacsroute.balancer": "127.0.0.1"}, 200),
        ({}, LOCAL | {"pacsroute.balancer": "10.0.0.9"}, 403),
        ({}, LOCAL | {"pacsroute.balancer": ""}, 403),
        ({"allow": ["10.0.0.0/8"], "web_open": True}, {"REMOTE_ADDR": "10.0.0.7"}, 200),
        ({"allow": ["10.0.0.0/8"], "web_open": True}, {"REMOTE_ADDR": "11.0.0.7"}, 403),
        ({"allow": ["DICOMWEB"], "web_open": True}, LOCAL, 403),
        ({"allow": ["DICOMWEB@127.0.0.1"], "web_open": True}, LOCAL, 403),
    ],
)
def test_without_authentication_only_this_machine_is_answered(settings, environ, status):
    app = archive()
    app.config.from_mapping(settings)
    with app.test_client() as client:
        for path in (f"{ROOT}/studies", f"{ROOT}/", "/own"):
            response = client.web.get(path, environ_overrides=environ)
            expected = 404 if path == "/own" and status == 200 else status
            assert response.status_code == expected, path


@pytest.mark.parametrize(
    ("settings", "authenticates", "starts"),
    [
        ({}, False, False),
        ({}, True, False),  # passwords would go unencrypted
        ({"web_trust_proxy": 1}, True, True),
        ({"web_open": True}, False, True),
        ({"web_trust_proxy": 1}, False, False),
    ],
)
def test_a_port_for_other_machines_does_not_open_by_accident(settings, authenticates, starts):
    app = archive()
    app.config.from_mapping(settings)
    if authenticates:
        knows_doe(app)
    if starts:
        with app.serve(port=0, web_port=0, web_host="0.0.0.0"):
            pass
    else:
        with pytest.raises(SetupError, match="web_"):
            app.serve(port=0, web_port=0, web_host="0.0.0.0")


def test_a_title_of_a_blueprint_reaches_its_own_handlers_only():
    app = archive()
    research = Blueprint("research")

    @research.find("StudyRoot")
    def find(request):
        yield {"StudyInstanceUID": "9.9"}

    app.register_blueprint(research, called_ae="RESEARCH")
    with app.test_client() as client:
        own = client.web.get(f"{ROOT}/studies").json
        (theirs,) = client.web.get(f"{ROOT}/aets/RESEARCH/studies").json
    assert own[0]["0020000D"]["Value"] == ["1.2"]
    assert theirs["0020000D"]["Value"] == ["9.9"]
    assert theirs["00081190"]["Value"] == ["http://localhost/dicom-web/aets/RESEARCH/studies/9.9"]


def test_a_route_of_ones_own_is_guarded_as_dicomweb_is():
    app = archive()
    knows_doe(app)

    @app.web.get("/own")
    def own():
        from flask import request

        return request.environ["pacsroute.caller"].user

    with app.test_client() as client:
        assert client.web.get("/own").status_code == 401
        assert client.web.get("/own", headers=basic()).text == "doe"


@pytest.mark.parametrize("rule", ["/dicom-web", "/dicom-web/studies", "/viewer/x", "/console"])
def test_a_route_below_a_reserved_path_is_an_error_at_set_up(rule):
    with pytest.raises(SetupError, match="below"):
        App().web.get(rule)(lambda: "")


def test_pages_of_the_origins_in_the_settings_may_ask():
    app = archive()
    app.config.web_cors = ("https://viewer.example",)
    headers = {"Origin": "https://viewer.example"}
    with app.test_client() as client:
        found = client.web.get(f"{ROOT}/studies", headers=headers)
        other = client.web.get(f"{ROOT}/studies", headers={"Origin": "https://evil.example"})
        preflight = client.web.options(
            f"{ROOT}/studies",
            headers=headers
            | {
                "Access-Control-Request-Method": "GET",
                "Access-Control-Request-Headers": "accept, authorization",
            },
        )
    assert found.headers["Access-Control-Allow-Origin"] == "https://viewer.example"
    assert "Access-Control-Allow-Origin" not in other.headers
    assert preflight.status_code == 204
    assert {"Accept", "Authorization"} <= set(
        preflight.headers["Access-Control-Allow-Headers"].split(", ")
    )
