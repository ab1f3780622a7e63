"""Durable work as an app writes it: forward, jobs, quiet series, in the test client."""

import gc
import logging
import re

import pytest
from support.samples import FILES

from pacsroute import App, Failure, Instance, RequestFailed, SetupError
from pacsroute.storage import Folder, Objects

SAMPLE = FILES / "CT_small.dcm"
UID = "1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322"
SERIES = "1.3.6.1.4.1.5962.1.3.1.1.20040119072730.12322"


@pytest.fixture
def pacs():
    app = App("PACS")
    app.state.came = []

    @app.store
    def store(request):
        app.state.came.append((request.calling_ae, request.sop_instance))

    return app


@pytest.fixture
def app():
    return App("ROUTER")


def test_what_is_stored_is_forwarded(app, pacs, tmp_path):
    @app.store
    def store(request):
        app.forward(request.save(tmp_path), to="PACS")

    with app.test_client(peers={"PACS": pacs}) as client:
        client.store(SAMPLE)
        assert pacs.state.came == []
        client.run_jobs()
        assert pacs.state.came == [("ROUTER", UID)]


def test_jobs_run_at_the_end_of_the_block(app, pacs):
    with app.test_client(peers={"PACS": pacs}):
        app.forward(SAMPLE, to="PACS", calling_ae="CT1")
    assert pacs.state.came == [("CT1", UID)]


def test_the_same_instance_twice_is_one_delivery_of_the_newest(app, pacs):
    names = []

    @pacs.after_request
    def look(request, status, error):
        names.append(str(request.dataset.PatientName))

    with app.test_client(peers={"PACS": pacs}):
        for name in ("OLD", "NEW"):
            dataset = Instance(SAMPLE).dataset
            dataset.PatientName = name
            app.forward(dataset, to="PACS")
        assert len(list(app.work.opened.files.folder.iterdir())) == 1
    assert names == ["NEW"]


def test_a_delivered_file_can_be_removed(app, pacs, tmp_path):
    path = Instance(SAMPLE).save(tmp_path)
    with app.test_client(peers={"PACS": pacs}) as client:
        app.forward(path, to="PACS", delete=True)
        assert path.exists()
        client.run_jobs()
        assert not path.exists()


def test_what_a_destination_refuses_is_given_up_and_told(app, tmp_path):
    told = []
    pacs = App("PACS")

    @pacs.store
    def store(request):
        raise Failure(0xC000, "never")

    @app.gave_up
    def gave_up(job, error):
        told.append((job.lane, job.arguments["sop_instance"], str(error)[:6]))

    path = Instance(SAMPLE).save(tmp_path)
    with app.test_client(peers={"PACS": pacs}):
        app.forward(path, to="PACS", delete=True)
    assert told == [("PACS", UID, "0xC000")]
    assert path.exists()


def test_a_job_runs_later_with_its_arguments(app):
    ran = []

    @app.job
    def analyse(uid, *, level=1):
        ran.append((uid, level))
        return "done"

    assert analyse("now") == "done"
    with app.test_client() as client:
        analyse.later("1.2.3", level=2)
        assert ran == [("now", 1)]
        client.run_jobs()
    assert ran == [("now", 1), ("1.2.3", 2)]


def test_a_later_call_of_a_key_replaces_the_one_that_waits(app):
    ran = []
    job = app.job(lambda_named(ran))
    with app.test_client():
        job.later("a", key="k", delay=60)
        job.later("b", key="k", delay=60)
        job.later("c")
    assert ran == ["c", "b"]


def lambda_named(ran):
    def remember(value):
        ran.append(value)

    return remember


def test_a_job_that_raises_is_tried_again(app, caplog):
    tries = []

    @app.job(retry=[1, 60])
    def shaky(name):
        tries.append(1)
        if len(tries) < 3:
            raise ValueError("DOE^JANE")

    with app.test_client():
        shaky.later("SMITH^JOE")
    assert len(tries) == 3
    lines = [record for record in caplog.records if record.levelno >= logging.INFO]
    said = "\n".join(map(logging.Formatter().format, lines))
    assert "DOE" not in said
    assert "SMITH" not in said
    assert re.search(r"job 1, shaky: ValueError in shaky \(test_app_jobs.py:\d+\); again in", said)


def test_arguments_without_json_are_refused_at_once(app):
    @app.job
    def analyse(value): ...

    with app.test_client(), pytest.raises(TypeError):
        analyse.later(object())


def test_a_quiet_series_leads_to_a_job(app):
    ended, analysed = [], []

    @app.store
    def store(request): ...

    @app.quiet("SERIES", after=60)
    def complete(series):
        ended.append((series.uid, series.count, series.calling_ae, series.called_ae))
        analyse.later(series.uid, key=series.uid)

    @app.job
    def analyse(uid):
        analysed.append(uid)

    with app.test_client(calling_ae="CT1") as client:
        client.store(SAMPLE)
        client.store(SAMPLE)
        assert ended == []
    assert ended == [(SERIES, 1, "CT1", "ROUTER")]
    assert analysed == [SERIES]


def test_a_refused_instance_belongs_to_no_period(app):
    ended = []

    @app.store
    def store(request):
        raise Failure(0xA700)

    app.quiet("SERIES", after=60)(lambda_named(ended))
    with app.test_client() as client:
        with pytest.raises(RequestFailed):
            client.store(SAMPLE)
    assert ended == []


def test_a_period_is_ended_by_who_knows_more(app):
    ended = []

    @app.store
    def store(request): ...

    @app.quiet("SERIES", after=3600)
    def complete(series):
        ended.append((series.reason, series.missing))

    with app.test_client() as client:
        client.store(SAMPLE)
        assert app.complete(SERIES, [UID, "1.2.3"])
        assert not app.complete("9.9.9")
    assert ended == [("mpps", ("1.2.3",))]


@pytest.mark.parametrize(
    ("register", "said"),
    [
        (lambda app: app.quiet("IMAGE")(lambda_named([])), "SERIES"),
        (lambda app: app.quiet("SERIES", after=0)(lambda_named([])), "above 0"),
        (lambda app: app.quiet()(lambda series: None), "a name"),
        (lambda app: app.background(lambda_without), "called as"),
        (lambda app: [app.job(lambda_named([])) for _ in range(2)], "already"),
        (lambda app: app.job(places=0)(lambda_named([])), "places"),
        (lambda app: app.gave_up(lambda job: None), "called as"),
    ],
)
def test_mistakes_are_errors_at_set_up(app, register, said):
    with pytest.raises(SetupError, match=said):
        register(app)


def lambda_without(): ...


@pytest.mark.parametrize("options", [{}, {"priority": 0}], ids=["by default", "all alike"])
def test_what_a_handler_forwards_has_the_priority_of_its_store(app, pacs, options):
    @app.store
    def store(request):
        app.forward(request.instance, to="PACS", **options)

    with app.test_client(peers={"PACS": pacs}) as client:
        for number, priority in enumerate((2, 0, 1)):
            dataset = Instance(SAMPLE).dataset
            dataset.SOPInstanceUID = f"1.2.3.{number}"
            client.store(dataset, priority=priority)
        app.forward(SAMPLE, to="PACS", **options)  # outside of a handler: medium
    came = [uid for _, uid in pacs.state.came]
    order = ["1.2.3.0", "1.2.3.1", "1.2.3.2", UID] if options else ["1.2.3.2", "1.2.3.1", UID]
    assert came == (order if options else [*order, "1.2.3.0"])


# ------------------------------------------------------------- files and storages


def version(name):
    dataset = Instance(SAMPLE).dataset
    dataset.PatientName = name
    return Instance(dataset)


@pytest.fixture(params=["folder", "objects"])
def storage(request, tmp_path):
    if request.param == "folder":
        return Folder(tmp_path / "storage")
    pytest.importorskip("obstore")
    return Objects("memory:///")


def test_what_is_in_a_storage_is_sent_from_there_and_removed_if_so_asked(app, pacs, storage):
    kept, removed = (version(name).save(storage) for name in ("KEPT", "REMOVED"))
    names = []
    pacs.before_request(lambda request: names.append(str(request.dataset.PatientName)))
    with app.test_client(peers={"PACS": pacs, "OTHER": pacs}) as client:
        app.forward(kept, to="PACS")
        app.forward(removed, to="OTHER", delete=True)
        assert not app.work.opened.files.folder.exists()  # nothing was copied
        client.run_jobs()
        assert app.work.opened.queue.jobs() == []
    assert names == ["KEPT", "REMOVED"]
    assert [kept.stored.key] == list(storage.list())


def test_what_is_in_a_storage_of_ones_own_is_copied(app, pacs, tmp_path):
    class Mine:
        """A storage that nobody can find again."""

        put, open, list, delete = (
            getattr(Folder(tmp_path / "mine"), name) for name in ("put", "open", "list", "delete")
        )

    kept = version("KEPT").save(Mine())
    with app.test_client(peers={"PACS": pacs}):
        with pytest.raises(SetupError, match="can be removed later"):
            app.forward(kept, to="PACS", delete=True)
        app.forward(kept, to="PACS")
        assert len(list(app.work.opened.files.folder.iterdir())) == 1
    assert len(pacs.state.came) == 1


def test_a_storage_is_found_again_by_its_url(app, pacs, tmp_path):
    version("KEPT").save(Folder(tmp_path / "storage"))
    with app.test_client(peers={"PACS": pacs}):
        storage = Folder(tmp_path / "storage")
        (key,) = storage.list()
        app.forward(Instance(storage.at(key)), to="PACS", delete=True)
        del storage  # as after a restart
        gc.collect()
    assert len(pacs.state.came) == 1
    assert list(Folder(tmp_path / "storage").list()) == []


def test_the_older_versions_that_a_newer_one_replaces_are_removed_with_it(app, pacs, tmp_path):
    old, new, other = (version(name).save(tmp_path / name) for name in ("OLD", "NEW", "OTHER"))
    another = Instance(FILES / "MR_small.dcm").save(tmp_path)
    with app.test_client(peers={"PACS": pacs}) as client:
        app.forward(another, to="PACS", key="k", delete=True)
        app.forward(other, to="PACS", key="k")  # of another instance: that was never delivered
        app.forward(old, to="PACS", delete=True)
        app.forward(new, to="PACS")
        assert old.exists()
        assert len(list(app.work.opened.files.folder.iterdir())) == 2
        client.run_jobs()
    assert (old.exists(), new.exists(), other.exists(), another.exists()) == (
        False,
        True,
        True,
        True,
    )


def test_a_file_is_found_from_another_working_folder(app, pacs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = version("A").save("queue")
    (tmp_path / "elsewhere").mkdir()
    with app.test_client(peers={"PACS": pacs}) as client:
        app.forward(path, to="PACS", delete=True)
        monkeypatch.chdir(tmp_path / "elsewhere")
        client.run_jobs()
    assert not (tmp_path / path).exists()


def test_a_process_that_died_after_a_delivery_removes_what_was_left(app, pacs, storage):
    kept = version("KEPT").save(storage)
    with app.test_client(peers={"PACS": pacs}) as client:
        app.forward(kept, to="PACS", delete=True)
        queue = app.work.opened.queue
        (job,) = queue.claim("PACS", 1)
        queue.amend(job, delivered=True)
        storage.delete(kept.stored.key)
        queue.put_back(job, tried=False)
        client.run_jobs()
        assert queue.jobs() == []
    assert pacs.state.came == []
