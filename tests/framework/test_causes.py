"""What is behind a failure is in the log, whoever answered for it."""

import logging

import pytest

from pacsroute import App, EchoRequest, Failure, Status, uids


def broken():
    raise KeyError("missing column")


def raised_from(error, request):
    raise Failure(0xA700, "try later") from error


def raised(error, request):
    raise Failure(0xA700, "try later")


def raised_from_another(error, request):
    try:
        raise OSError("the index") from error
    except OSError as another:
        raise Failure(0xA700) from another


def returned(error, request):
    return Status(0xA700, "try later")


def answered(app):
    """Return the code that answers an echo whose handler is broken."""

    @app.echo
    def echo(request):
        broken()

    return app.handle(EchoRequest(calling_ae="CT1", sop_class=uids.VERIFICATION)).status.code


@pytest.mark.parametrize("handler", [raised_from, raised, raised_from_another, returned])
def test_the_cause_behind_the_failure_of_an_error_handler_is_logged(handler, caplog):
    app = App()
    app.error_handler(KeyError)(handler)
    assert answered(app) == 0xA700
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "C-ECHO from CT1: the cause of 0xA700 is" in record.message
    assert record.dicom["event"] == "refused"
    assert "KeyError: 'missing column'" in caplog.text
    assert "in broken" in caplog.text  # where it happened


def test_the_cause_of_a_handlers_own_failure_is_logged(caplog):
    app = App()

    @app.echo
    def echo(request):
        try:
            broken()
        except KeyError as error:
            raise Failure(0xA700, "try later") from error

    app.handle(EchoRequest(sop_class=uids.VERIFICATION))
    assert len(caplog.records) == 1
    assert "KeyError: 'missing column'" in caplog.text


def hidden(error, request):
    raise Failure(0xA700, "try later") from None


def handled(error, request):
    return 0


@pytest.mark.parametrize("handler", [hidden, handled])
def test_a_cause_that_is_hidden_or_dealt_with_is_not_logged(handler, caplog):
    app = App()
    app.error_handler(KeyError)(handler)
    answered(app)
    assert caplog.records == []


def test_a_failure_that_a_handler_means_is_not_logged(caplog):
    app = App()

    @app.echo
    def echo(request):
        try:
            broken()
        except KeyError:
            raise Failure(0xA700, "no such column")  # noqa: B904 - the point

    @app.error_handler(Failure)
    def translate(error, request):
        raise Failure(0xA701)

    assert app.handle(EchoRequest(sop_class=uids.VERIFICATION)).status.code == 0xA701
    assert caplog.records == []


def test_a_keyboard_interrupt_is_no_answer():
    app = App()
    app.error_handler(BaseException)(lambda error, request: None)

    @app.echo
    def echo(request):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        app.handle(EchoRequest(sop_class=uids.VERIFICATION))
