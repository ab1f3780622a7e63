"""The archive's routes are defaults: those of the user's take their place."""

import pytest
from support.archives import fetched, found, image, only_folder, uids_in
from support.names import CT

from pacsroute import (
    App,
    Archive,
    Blueprint,
    Failure,
    FindRequest,
    Instance,
    RequestFailed,
    SetupError,
    Status,
    StoreRequest,
    uids,
)
from pacsroute.conformance import statement


def stored_by(app, sop_class=CT, calling_ae="CT1"):
    return app.route("store", sop_class, calling_ae, app.ae_title).where


def test_any_route_of_the_users_wins_in_any_order(make):
    app = App("ARCHIVE")

    @app.store
    def before(request): ...

    app.register_blueprint(Archive("archive"))
    assert stored_by(app) == before.__qualname__
    app = make()

    @app.store
    def after(request): ...

    assert stored_by(app) == after.__qualname__
    assert app.route("find", uids.sop_class("StudyRoot", "find")).where == "Archive.answer_find"


def test_a_more_special_default_does_not_win(make):
    app = make()
    study_root = uids.sop_class("StudyRoot", "find")

    @app.find
    def mine(request):
        yield {}

    assert app.route("find", study_root).where == mine.__qualname__


def test_what_the_users_route_does_not_cover_is_answered_by_the_archive(make):
    app = make()

    @app.store("MRImageStorage", calling_ae="MR1")
    def mine(request): ...

    assert stored_by(app) == "Archive.answer_store"
    mr = uids.sop_class("MRImageStorage", "store")
    assert stored_by(app, mr, "MR1") == mine.__qualname__
    assert stored_by(app, mr, "MR2") == "Archive.answer_store"


def test_negotiation_asks_the_winner_only(make):
    app = make()

    @app.store("CTImageStorage", transfer_syntaxes=["ImplicitVRLittleEndian"])
    def mine(request): ...

    policy = app.policy("CT1")
    jpeg = "1.2.840.10008.1.2.4.70"
    assert policy.choose(CT, (jpeg,)) is None
    assert policy.choose(uids.sop_class("MRImageStorage", "store"), (jpeg,)) == jpeg


def test_overrides_under_a_title_go_on_the_archive(make, tmp_path):
    app, archive = App("BOTH"), Archive(tmp_path / "research")

    @archive.store("MRImageStorage")
    def mine(request): ...

    app.register_blueprint(archive, called_ae="RESEARCH")
    mr = uids.sop_class("MRImageStorage", "store")
    assert app.route("store", mr, "MR1", "RESEARCH").where == mine.__qualname__
    assert app.route("store", CT, "MR1", "RESEARCH").where == "Archive.answer_store"
    assert app.route("store", CT, "MR1", "BOTH") is None


def test_two_archives_under_one_title_are_a_set_up_error(make, tmp_path):
    app = make()
    with pytest.raises(SetupError, match="registered for the same"):
        app.register_blueprint(Archive(tmp_path / "other"))
    app.register_blueprint(Archive(tmp_path / "other"), called_ae="OTHER")


def test_a_folder_that_is_a_parameter_of_nothing_is_not_made(make, tmp_path):
    app = make()
    assert list(app.routes)
    assert not (tmp_path / "archive").exists()


def test_a_part_of_an_archive_that_is_not_registered_is_a_set_up_error(tmp_path):
    archive, app = Archive(tmp_path / "archive"), App()
    with pytest.raises(SetupError, match="not registered"):
        archive.add(Instance(image()))
    with pytest.raises(SetupError, match="not registered"):
        list(archive.check())
    app.register_blueprint(archive)
    with pytest.raises(SetupError, match=r"within app\.running"):
        archive.add(Instance(image()))


def test_its_parts_serve_handlers_of_ones_own(make):
    app = make()
    archive = app.state.archive

    @app.store
    def store(request):
        request.dataset.InstitutionName = "Here"
        return archive.add(Instance(request.dataset))

    @app.find
    def find(request):
        for row in archive.find(request):
            yield row | {"StudyDescription": "changed"}

    @app.get
    def get(request):
        return archive.instances(request)[:1]

    with app.test_client() as client:
        client.store(image(1))
        client.store(image(2))
        (row,) = found(client, "STUDY", StudyDescription="")
        assert row.StudyDescription == "changed"
        assert fetched(client, "PATIENT", PatientID="777") == {"1.3.1"}
        (row, _) = found(client, "IMAGE", InstitutionName="")
        assert row.InstitutionName == "Here"
        assert {row["SOPInstanceUID"] for row in archive.matching(image(2), "IMAGE")} == {"1.3.2"}


@only_folder
@pytest.mark.parametrize(
    ("conflict", "mismatch", "said"),
    [
        (
            "refuse",
            "quarantine",
            ("refused with 0x0111 and put into quarantine", "the warning 0xB000"),
        ),
        ("keep-both", "refuse", ("is stored beside it", "is refused with 0xC000")),
        ("replace", "accept", ("replaces it", "of its study is stored")),
    ],
)
def test_conformance_statement_says_what_becomes_of_conflicts(make, conflict, mismatch, said):
    text = statement(make(conflict=conflict, mismatch=mismatch))
    considered = text.partition("### 5.6 ")[2].partition("### 5.7 ")[0]
    for words in said:
        assert words in considered
    assert "Patients are not merged and studies are not split" in considered


def test_conformance_statement_says_that_no_audit_message_is_sent(make):
    app = make()
    assert "No audit trail is written." in statement(app)
    app.audit(lambda event: None)
    assert "sends no audit messages by syslog" in statement(app)


@only_folder
def test_nothing_is_deleted_over_http(make):
    pytest.importorskip("flask")
    app = make()
    with app.test_client() as client:
        client.store(image(1))
        web = client.web
        for path in ("", "/series/1.2", "/series/1.2/instances/1.3.1"):
            answer = web.delete(f"/dicom-web/studies/1.1{path}")
            assert answer.status_code in (404, 405)
        assert app.state.archive.count() == 1


def test_a_hook_refuses_what_is_not_to_be_kept(make):
    app = App("ARCHIVE")
    archive = make().state.archive
    archive = Archive(archive.folder)

    @archive.accept
    def accept(request, dataset):
        if (request.calling_ae, dataset.PatientID) == ("TEST", "888"):
            raise Failure(0xA900, "not here")

    app.register_blueprint(archive)
    with app.test_client() as client:
        client.store(image(1))
        with pytest.raises(RequestFailed, match="not here"):
            client.store(image(2, study="1.9", PatientID="888"))
        assert uids_in(client) == {"1.3.1"}
        assert [one.name for one in archive.folder.glob("*.dcm")] == ["1.3.1.dcm"]
    with pytest.raises(SetupError, match="registered already"):
        archive.accept(accept)


def test_the_blueprints_lifespans_open_before_the_apps_own(make):
    app, seen = App(), []
    part = Blueprint("part")

    @app.lifespan
    def own(app):
        seen.append("app")
        yield
        seen.append("app ends")

    @part.lifespan
    def inner(app):
        seen.append("part")
        yield
        seen.append("part ends")

    app.register_blueprint(part)
    with app.running():
        pass
    assert seen == ["part", "app", "app ends", "part ends"]


def test_a_warning_of_the_archive_is_the_handlers_to_return(make):
    app = make()
    with app.running():
        archive = app.state.archive
        assert archive.add(StoreRequest(app=app, instance=Instance(image(1)))) is None
        told = archive.add(StoreRequest(app=app, instance=Instance(image(2, PatientID="888"))))
        assert isinstance(told, Status)
        assert told.category == "Warning"


def test_limit_and_offset_are_applied_by_the_archive(make):
    app = make()
    with app.test_client() as client:
        for number in range(7):
            client.store(image(number, study=f"1.1.{number}", StudyDate=f"2024010{number + 1}"))
        request = FindRequest(
            app=app,
            sop_class=uids.sop_class("StudyRoot", "find"),
            identifier=image(StudyDate="", QueryRetrieveLevel="STUDY"),
            limit=3,
            offset=2,
        )
        del request.identifier.StudyInstanceUID
        rows = list(app.state.archive.find(request))
        assert [row["StudyDate"] for row in rows] == ["20240105", "20240104", "20240103"]
        assert request.paged


def test_a_name_that_no_database_takes_is_cleaned(make):
    app = make()
    with app.test_client() as client:
        client.store(image(1, PatientName="Doe\0^John"))
        (row,) = found(client, "STUDY", PatientName="doe*")
        assert row.PatientName == "Doe^John"


def test_folder_may_be_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    app = App("ARCHIVE")
    app.register_blueprint(Archive("archive"))
    with app.test_client() as client:
        client.store(image(1))
        assert fetched(client, "STUDY", StudyInstanceUID="1.1") == {"1.3.1"}
    assert [path.name for path in (tmp_path / "archive").glob("*.dcm")] == ["1.3.1.dcm"]
