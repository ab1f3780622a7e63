"""Make the picture of the console that the guide shows, from synthetic data.

python tests/support/console_picture.py [light | dark]
"""

import math
import random
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parents[1]))

import trustme
from support.browser import drive
from support.places import GUIDES

from pacsroute import App, Archive, Peer, Status, uids
from pacsroute.upper_layer.pdu import AssociateRJ
from pacsroute.web.console.activity import Activity

CT, MR, US = (f"1.2.840.10008.5.1.4.1.1.{number}" for number in ("2", "4", "6.1"))
SIZES = {"CT1": 526_000, "MR2": 131_000, "US4": 1_900_000}


def peer(title, host, called="ARCHIVE", contexts=(1,)):
    return SimpleNamespace(
        calling_ae=title,
        called_ae=called,
        remote_address=host,
        peer_certificate=None,
        contexts=dict.fromkeys(contexts),
    )


def ask(activity, who, command, size=0, status=0, sop_class=CT):
    who.traffic.take(command, size)
    activity.settle()
    if status:
        activity.unsuccessful(who, command, sop_class, Status(status))


def an_hour(activity, clock):
    """Let an hour of a hospital's morning pass."""
    chance = random.Random(7)
    ct, mr, us = peer("CT1", "10.1.4.21"), peer("MR2", "10.1.4.32"), peer("US4", "10.1.4.44")
    station = peer("WORKSTATION", "10.1.9.7")
    for who in (ct, mr, us, station):
        who.traffic = activity.accepted(who)
    end = clock.seconds
    for minute in range(60):
        clock.seconds = end - (59 - minute) * 60
        for who, share in ((ct, 60), (mr, 90), (us, 8)):
            wave = max(0, math.sin((minute + share) / 7)) + 0.1
            for _ in range(int(chance.random() * wave * share)):
                ask(activity, who, "C-STORE", SIZES[who.calling_ae])
        for _ in range(chance.randrange(3)):
            ask(activity, station, "C-FIND", 180)
            activity.sent(station, None, chance.randrange(2_000, 9_000))
        if chance.random() < 0.3:
            ask(activity, station, "C-MOVE", 120)
            activity.sent(station, None, chance.randrange(9_000_000, 40_000_000))
        ask(activity, station, "C-ECHO")
        if chance.random() < 0.5:
            activity.over_http(0)
        if minute == 12:
            ask(activity, us, "C-STORE", 1_900_000, 0xA700, US)
        if minute in (31, 32, 47):
            activity.rejected(peer("CT9", "10.1.4.29"), AssociateRJ(1, 1, 3))
        if minute == 51:
            ask(activity, station, "C-MOVE", 120, 0xA801, uids.sop_class("StudyRoot", "move"))
    for who, before in ((ct, 340), (mr, 62), (station, 9)):
        clock.seconds = end - before
        activity.ended(who, None)
        who.traffic = activity.accepted(who)
        for _ in range(before // 7):
            if who is not station:
                ask(activity, who, "C-STORE", SIZES[who.calling_ae])
    ask(activity, station, "C-FIND", 180)
    activity.ended(us, None)
    clock.seconds = end - 1
    ask(activity, ct, "C-STORE", 526_000)
    ask(activity, station, "C-MOVE", 120)
    ct.is_answering = station.is_answering = True
    activity.sent(station, None, 23_400_000)
    clock.seconds = end


def a_hospitals(server, folder):
    """Return a server as it would stand in a hospital."""
    made = trustme.CA().issue_cert("archive", not_after=datetime.now(UTC) + timedelta(212.5))
    made.private_key_and_cert_chain_pem.write_to_path(str(folder / "archive.pem"))
    return SimpleNamespace(
        config=server.config.replace(tls_certificate=folder / "archive.pem", web_host="10.1.2.3"),
        host="10.1.2.3",
        port=104,
        tls_port=2762,
        web_port=8042,
        metrics_port=None,
        associations=3,
        neighbours=None,
        obstacle=lambda: "",
    )


def main(scheme="light"):
    clock = SimpleNamespace(seconds=time.time() - 3600)
    activity = Activity(lambda: clock.seconds)
    clock.seconds += 3600
    with tempfile.TemporaryDirectory() as folder:
        app = App("ARCHIVE", spool=folder)
        app.register_blueprint(Archive(Path(folder) / "archive"))
        app.destinations["WORKSTATION"] = Peer("10.1.9.7", 104)
        app.web.console._activity = activity
        app.observers.clear()
        an_hour(activity, clock)
        with app.serve(port=0, web_port=0) as server:
            app.web.console._began = time.time() - 8 * 86_400
            app.web.console.attend(a_hospitals(server, Path(folder)))
            base = f"http://127.0.0.1:{server.web_port}"
            drive("console_picture.js", base, Path(folder) / "console.png", scheme)
            from PIL import Image

            picture = Image.open(Path(folder) / "console.png").convert("RGB")
            picture.quantize(256, Image.Quantize.MAXCOVERAGE).save(
                GUIDES / "console.png", optimize=True
            )
    subprocess.run(["ls", "-l", str(GUIDES / "console.png")], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
