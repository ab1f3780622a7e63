"""A coverage-guided fuzzer over `targets`, for a bounded time.

    python -m tests.fuzz --seconds 20

It needs atheris (the `dev` extra; wheels are for Linux on x86-64). The corpus that --corpus
names grows from run to run. What breaks a target is kept in the folder of --keep, and shown
again by ``python -m tests.fuzz.one TARGET FILE``.
"""

import argparse
import importlib.util
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz import targets


def run(name, seconds, corpus, keep):
    """Fuzz one target in a process of its own; tell whether it stood."""
    folder = corpus / name
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(targets.seeds(name)):
        (folder / f"seed-{number:02}").write_bytes(seed)
    options = [f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=2048"]
    options += [f"-max_len={targets.STREAM}", f"-artifact_prefix={keep}/{name}-"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.one", name, *options, str(folder)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    runs = re.search(r"Done (\d+) runs", done.stderr)
    places = re.findall(r"cov: (\d+)", done.stderr)
    stood = done.returncode == 0 and runs is not None
    print(
        f"| {name} | {runs[1] if runs else '–'} | {places[-1] if places else '–'}"
        f" | {'yes' if stood else 'NO'} |",
        flush=True,
    )
    if not stood:
        print(done.stdout[-4000:], done.stderr[-4000:], file=sys.stderr)
    return stood


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=20, help="for all targets together")
    parser.add_argument("--only", nargs="+", choices=targets.TARGETS, default=[*targets.TARGETS])
    parser.add_argument("--corpus", type=Path, help="kept from run to run")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        parser.error("atheris is not installed: pip install atheris, where there is a wheel of it")
    seconds = max(1, options.seconds // len(options.only))
    with tempfile.TemporaryDirectory(prefix="corpus-") as folder:
        print("| target | runs | places reached | stood |\n|---|---|---|---|", flush=True)
        stood = [run(name, seconds, options.corpus or Path(folder), options.keep)
                 for name in options.only]  # fmt: skip
    sys.exit(not all(stood))


if __name__ == "__main__":
    main()
