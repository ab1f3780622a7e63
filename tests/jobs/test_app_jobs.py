"""Durable work as an app writes it: forward, jobs, quiet series, in the test client."""

import pytest
from support.samples import FILES

from pacsroute import App, Failure, Instance, RequestFailed, SetupError

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
    def shaky():
        tries.append(1)
        if len(tries) < 3:
            raise ValueError("DOE^JANE")

    with app.test_client():
        shaky.later()
    assert len(tries) == 3


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


def test_a_handler_passes_on_the_priority_of_a_store(app, pacs):
    @app.store
    def store(request):
        app.forward(request.instance, to="PACS", priority=request.priority)

    with app.test_client(peers={"PACS": pacs}) as client:
        for number, priority in enumerate((2, 0, 1)):
            dataset = Instance(SAMPLE).dataset
            dataset.SOPInstanceUID = f"1.2.3.{number}"
            client.store(dataset, priority=priority)
    assert [uid for _, uid in pacs.state.came] == ["1.2.3.2", "1.2.3.1", "1.2.3.0"]
