"""Instances of a retrieval are opened ahead: in order, not too many, and closed if not sent."""

import threading

import pytest
from support.archives import image
from support.names import WAIT

from pacsroute import Instance
from pacsroute.archive.ahead import Ahead, Opener
from pacsroute.storage import Folder


class Watched(Folder):
    """A storage that counts what is open, and can hold up who opens."""

    def __init__(self, folder):
        super().__init__(folder)
        self.opened, self.closed = [], []
        self.gate = threading.Event()
        self.gate.set()
        self.changed = threading.Condition()

    def open(self, key, offset=0, length=None):
        assert self.gate.wait(WAIT)
        file = super().open(key, offset, length)
        close = file.close

        def closed():
            if not file.closed:
                close()
                with self.changed:
                    self.closed.append(key)
                    self.changed.notify_all()

        file.close = closed
        with self.changed:
            self.opened.append(key)
            self.changed.notify_all()
        return file

    def until(self, condition):
        with self.changed:
            assert self.changed.wait_for(condition, WAIT)


@pytest.fixture
def opener():
    one = Opener()
    yield one
    one.close()


@pytest.fixture
def storage(tmp_path):
    return Watched(tmp_path)


@pytest.fixture
def kept(storage):
    return [Instance(large(number)).save(storage) for number in range(12)]


def large(number):
    """Return an instance that is not read at once when it is opened."""
    return image(number, PixelData=bytes(1_200_000), BitsAllocated=8)


def test_instances_come_in_order_and_the_next_four_are_open(storage, kept, opener):
    sent = []
    for number, instance in enumerate(Ahead(kept, opener)):
        storage.until(lambda: len(storage.opened) == min(12, number + 5))  # noqa: B023
        with instance.open() as file:
            read = Instance(file.read(), **instance.hints).dataset
            assert (read.SOPInstanceUID, len(read.PixelData)) == (f"1.3.{number}", 1_200_000)
        sent.append(instance.sop_instance)
    assert sent == [f"1.3.{number}" for number in range(12)]
    assert len(storage.opened) == 12, "none was opened twice"
    assert len(Ahead(kept, opener)) == 12


def test_what_is_not_sent_is_closed(storage, kept, opener):
    coming = iter(Ahead(kept, opener))
    next(coming).open().close()
    storage.until(lambda: len(storage.opened) == 5)
    coming.close()
    storage.until(lambda: len(storage.closed) == 5)


def test_retrievals_share_the_places_and_give_them_back(storage, kept, opener, monkeypatch):
    monkeypatch.setattr(opener, "_places", threading.BoundedSemaphore(6))
    storage.gate.clear()
    first, second = iter(Ahead(kept, opener)), iter(Ahead(kept, opener))
    threads = [threading.Thread(target=next, args=[one], daemon=True) for one in (first, second)]
    for thread in threads:
        thread.start()
    storage.gate.set()
    for thread in threads:
        thread.join(WAIT)
    for one in (first, second):
        for instance in one:
            instance.open().close()
    assert opener._places._value == 6


def test_one_that_is_gone_is_told_when_it_is_sent(storage, kept, opener):
    storage.delete(kept[1]._source.key)
    instances = list(iter(Ahead(kept, opener)))
    with pytest.raises(FileNotFoundError):
        instances[1].open()
    instances[2].open().close()


def test_after_the_end_instances_are_opened_by_who_sends_them(kept):
    opener = Opener()
    opener.close()
    read = [one.dataset.SOPInstanceUID for one in Ahead(kept, opener)]
    assert read == [f"1.3.{number}" for number in range(12)]


def test_instance_that_is_open_is_not_opened_again(storage, kept):
    opened = kept[0].opened()
    assert opened.opened() is opened
    opened.forget()
    assert len(storage.opened) == len(storage.closed) == 1


def test_small_instance_is_fetched_once(storage):
    small = Instance(image(1)).save(storage)
    assert small.dataset.SOPInstanceUID == "1.3.1"
    assert small.opened().open().read()
    assert len(storage.opened) == len(storage.closed) == 2
