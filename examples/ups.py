"""A worklist of unified procedure steps, in a SQLite file that the first start creates.

    pacsroute run examples/ups.py --destination WATCHER=10.0.0.8:11112

Steps are pushed, queried, pulled and watched. Subscribers get event reports on an association of
their own; the app must know the address of each receiving AE title. The environment variable STEPS
names the file; it is ``ups.db`` otherwise.
"""

import logging
import os
import sqlite3
import threading
import time
from collections import defaultdict
from contextlib import contextmanager
from copy import deepcopy

from pydicom import Dataset
from pydicom.uid import generate_uid

from pacsroute import App, Failure, PacsrouteError, matching, ups

PATH = os.environ.get("STEPS", "ups.db")
KEPT = 24 * 3600  # seconds that a final step stays without a deletion lock on it
SCHEMA = """
CREATE TABLE IF NOT EXISTS step (uid TEXT PRIMARY KEY, attributes TEXT, final REAL);
CREATE TABLE IF NOT EXISTS subscription (uid TEXT, ae TEXT, state TEXT, PRIMARY KEY (uid, ae));
CREATE TABLE IF NOT EXISTS watcher (ae TEXT PRIMARY KEY, state TEXT, keys TEXT);
CREATE TABLE IF NOT EXISTS event (id INTEGER PRIMARY KEY, ae TEXT, uid TEXT, type INTEGER,
                                  information TEXT);
"""
logger = logging.getLogger("pacsroute")
app = App("WORKLIST", max_set_length=1 << 22)  # a step is kept in memory, and as text


@app.lifespan
def database(app):
    app.state.lock = threading.Lock()  # one connection for all threads
    app.state.sending = defaultdict(threading.Lock)  # each AE is told in the order of events
    app.state.db = sqlite3.connect(PATH, check_same_thread=False)
    app.state.db.executescript(SCHEMA)
    restarted = ups.scp_status("RESTARTED", subscriptions="WARM START", steps="WARM START")
    known = "SELECT ae FROM watcher UNION SELECT ae FROM subscription"
    with app.state.db as db:
        watchers = [ae for (ae,) in db.execute(known)]
        for ae in watchers:
            remember(ae, ups.GLOBAL, [restarted])
    threads = [threading.Thread(target=send, args=[ae], daemon=True) for ae in watchers]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join()
    app.state.db.close()


# ---- what is kept; the lock is the caller's


@contextmanager
def changing():
    """Lock what is read until what follows from it is stored, against other workers, too."""
    with app.state.lock, app.state.db as db:
        db.execute("BEGIN IMMEDIATE")
        yield db


def load(uid):
    row = app.state.db.execute("SELECT attributes FROM step WHERE uid = ?", [uid]).fetchone()
    return Dataset.from_json(row[0]) if row else None


def save(request, before, step):
    """Keep what a step has become, and have it told to who watches it."""
    step.ScheduledProcedureStepModificationDateTime = ups.now()
    final = time.time() if step.ProcedureStepState in (ups.COMPLETED, ups.CANCELED) else None
    row = [request.sop_instance, step.to_json(), final]
    app.state.db.execute("INSERT OR REPLACE INTO step VALUES (?, ?, ?)", row)
    tell(request, ups.events(before, step))


def page(after=""):
    """Return the next steps by their UIDs; all at once would take long, and others wait."""
    query = "SELECT uid, attributes FROM step WHERE uid > ? ORDER BY uid LIMIT 100"
    rows = app.state.db.execute(query, [after]).fetchall()
    return {uid: Dataset.from_json(attributes) for uid, attributes in rows}


def matcher(keys):
    """Return what tells whether a step is what keys ask for."""
    names = {element.keyword for element in keys if element.keyword}
    names.discard("TransactionUID")  # it is a lock: who knows it may change the step
    matches = matching.matcher(keys, empty_matches=False)
    return lambda step: matches({name: step.get(name) for name in names})


def subscribe(uid, ae, state):
    if state == "none":
        app.state.db.execute("DELETE FROM subscription WHERE uid = ? AND ae = ?", [uid, ae])
    else:
        app.state.db.execute(
            "INSERT OR REPLACE INTO subscription VALUES (?, ?, ?)", [uid, ae, state]
        )


def subscribers(uid):
    rows = app.state.db.execute("SELECT ae FROM subscription WHERE uid = ? ORDER BY ae", [uid])
    return [ae for (ae,) in rows]


def purge():
    """Forget final steps, some time after nobody has a lock on them."""
    app.state.db.execute(
        "DELETE FROM step WHERE final < ? AND NOT EXISTS (SELECT 1 FROM subscription"
        " WHERE subscription.uid = step.uid AND state = 'locked')",
        [time.time() - KEPT],
    )
    app.state.db.execute("DELETE FROM subscription WHERE uid NOT IN (SELECT uid FROM step)")


# ---- push


@app.n_create("UPS")
def create(request):
    step = request.attribute_list
    with changing() as db:
        purge()
        ups.check_create(load(request.sop_instance), step)
        step.SOPClassUID, step.SOPInstanceUID = request.sop_class, request.sop_instance
        step.TransactionUID = ""
        step.WorklistLabel = step.get("WorklistLabel") or app.ae_title
        for ae, state, keys in db.execute("SELECT * FROM watcher").fetchall():
            if matcher(Dataset.from_json(keys))(step):
                becomes, _ = ups.INITIAL[state]  # that it is new is an event in any case
                subscribe(request.sop_instance, ae, becomes)
        save(request, None, step)


@app.n_action("UPS", action_type=ups.REQUEST_CANCEL)
def request_cancel(request):
    asked = request.action_information
    with changing():
        before = load(request.sop_instance)
        ups.check_cancel(before, asked)
        if before.ProcedureStepState == ups.IN_PROGRESS:
            if not subscribers(request.sop_instance):
                raise Failure(0xC312, "nobody has subscribed to this step")
            tell(request, [ups.cancel_requested(request.calling_ae, asked)])
            return
        ours = deepcopy(before)  # nobody performs it, so that we take it and give it up
        ours.ProcedureStepState, ours.TransactionUID = ups.IN_PROGRESS, generate_uid(prefix=None)
        save(request, before, ours)
        ended = deepcopy(ours)
        ups.discontinue(ended, asked)
        ended.ProcedureStepState = ups.CANCELED
        save(request, ours, ended)


# ---- pull


@app.find("UPS")
def find(request):
    is_asked_for, last = matcher(request.identifier), ""
    while last is not None:
        with app.state.lock:  # not while the answers go out
            steps = page(last)
        for step in steps.values():
            if request.cancelled:
                return
            if is_asked_for(step):
                step.TransactionUID = None
                asked = [key.keyword for key in request.identifier if key.keyword]
                yield {keyword: step.get(keyword) for keyword in asked}
        last = max(steps, default=None)


@app.n_get("UPS")
def read(request):
    with app.state.lock:
        return ups.read(load(request.sop_instance), request.attribute_identifiers)


@app.n_set("UPS")
def update(request):
    with changing():
        before = load(request.sop_instance)
        ups.check_set(before, request.modification_list)
        step = deepcopy(before)
        step.update(request.modification_list)
        save(request, before, step)


@app.n_action("UPS", action_type=ups.CHANGE_STATE)
def change_state(request):
    asked = request.action_information
    with changing():
        before = load(request.sop_instance)
        step = deepcopy(before)
        if step and asked.get("ProcedureStepState") == ups.CANCELED:
            ups.discontinue(step)  # with what the performer has set, or for reasons unknown
        ups.check_state(step, asked)
        step.ProcedureStepState = asked.ProcedureStepState
        step.TransactionUID = asked.TransactionUID
        save(request, before, step)


# ---- watch


@app.n_action("UPS", action_type=ups.SUBSCRIBE)
@app.n_action("UPS", action_type=ups.UNSUBSCRIBE)
@app.n_action("UPS", action_type=ups.SUSPEND)
def change_subscription(request):
    uid, information = request.sop_instance, request.action_information
    with changing() as db:
        step = load(uid)
        asked = ups.check_subscription(step, uid, request.action_type, information)
        ae = asked.receiving_ae
        if request.action_type == ups.SUBSCRIBE and app.resolve(ae) is None:
            raise Failure(0xC308, "nobody knows where it is")
        if asked.everything:
            db.execute("DELETE FROM watcher WHERE ae = ?", [ae])
            if asked.globally != "none":
                watcher = [ae, asked.globally, asked.keys.to_json()]
                db.execute("INSERT INTO watcher VALUES (?, ?, ?)", watcher)
        else:
            subscribe_to(asked, {uid: step})
    last = "" if asked.everything else None
    while last is not None:  # others are served in between
        with changing():
            steps = page(last)
            subscribe_to(asked, steps)
        last = max(steps, default=None)
    request.after(send, ae)


def subscribe_to(asked, steps):
    """Change the subscription to each of the steps that are meant."""
    is_meant, ae = matcher(asked.keys), asked.receiving_ae
    for uid, step in steps.items():
        if is_meant(step):
            query = "SELECT state FROM subscription WHERE uid = ? AND ae = ?"
            (before,) = app.state.db.execute(query, [uid, ae]).fetchone() or ["none"]
            state, reported = asked.becomes[before]
            subscribe(uid, ae, state)
            if reported:
                remember(ae, uid, [ups.state_report(step)])


# ---- what is told


def tell(request, events):
    """Send events of the request's step to all its subscribers."""
    for ae in subscribers(request.sop_instance) if events else ():
        remember(ae, request.sop_instance, events)
        request.after(send, ae)


def remember(ae, uid, events):
    for kind, information in events:
        row = [ae, uid, kind, information.to_json()]
        app.state.db.execute(
            "INSERT INTO event (ae, uid, type, information) VALUES (?, ?, ?, ?)", row
        )


def send(ae):
    """Tell an AE what it has not been told; what it does not take is not told again."""
    with app.state.sending[ae]:
        with changing() as db:
            rows = db.execute("SELECT * FROM event WHERE ae = ? ORDER BY id", [ae]).fetchall()
            db.execute("DELETE FROM event WHERE ae = ?", [ae])
        try:
            if rows:
                with app.connect(ae) as client:
                    for _, _, uid, kind, information in rows:
                        event = Dataset.from_json(information)
                        client.n_event_report(
                            "UPS", uid, kind, event, meta="UnifiedProcedureStepEvent"
                        )
        except (PacsrouteError, OSError) as error:
            logger.warning("%s did not get %d events: %s", ae, len(rows), error)
