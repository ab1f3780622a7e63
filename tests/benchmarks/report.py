"""The figures as tables, and in the documents that show them."""

import re
import statistics
from pathlib import Path

_ROOT = Path(__file__).parents[2]
README, GUIDE = _ROOT / "README.md", _ROOT / "examples" / "guides" / "performance.md"
# The columns of the summary, and whose figures stand there: the first that a work has.
_COLUMNS = {
    "DCMTK": ("storescp --fork", "storescp", "dcmqrscp", "storescp --fork, which never flushes"),
    "the limit": ("bare server", "bare server, durable", "raw ping-pongs"),
    "pynetdicom": ("pynetdicom",),
    "pydcm": ("pydcm",),
    "Orthanc": ("Orthanc",),
}
_README_COLUMNS = ("DCMTK", "pynetdicom", "Orthanc")
_README_WORKS = ("echo", "associate", "store512k", "storescu", "find", "get", "idle")


def ratio(work, figures, party):
    """Return our median as a multiple of a party's, or None where one of them is missing."""
    ours, theirs = figures.get(work.parties[0].name), figures.get(party.name)
    if not ours or not theirs or party is work.parties[0]:
        return None
    return statistics.median(ours) / statistics.median(theirs)


def table(works, results):
    """Yield the lines of a Markdown table with each party of each work."""
    yield "| work | | median | spread | ratio | aim |"
    yield "|---|---|---:|---:|---:|---:|"
    for key, figures in results.items():
        work = works[key]
        for party in work.parties:
            values = figures.get(party.name)
            if not values:
                continue
            ours = party is work.parties[0]
            times = ratio(work, figures, party)
            yield "| {} | {} | {} {} | {} | {} | {} |".format(
                work.name if ours else "",
                f"**{party.name}**" if ours else party.name,
                _number(statistics.median(values)),
                work.unit,
                _spread(values),
                "" if times is None else _times(times),
                _aim(work, work.aim if ours else party.aim),
            )


def summary(works, results, columns=tuple(_COLUMNS), keys=None):
    """Yield the lines of a Markdown table of our figures, and the ratios to the others'."""
    yield f"| work | pacsroute | {' | '.join(f'x {column}' for column in columns)} |"
    yield "|---|" + "---:|" * (len(columns) + 1)
    for key in keys or results:
        work, figures = works[key], results.get(key, {})
        ours = figures.get(work.parties[0].name)
        if not ours:
            continue
        cells = [f"{_number(statistics.median(ours))} {work.unit}"]
        for column in columns:
            party = _party(work, figures, column)
            times = party and ratio(work, figures, party)
            aim = party and _aim(work, party.aim)
            cells.append(f"{_times(times)}{f' ({aim})' if aim else ''}" if times else "")
        yield f"| {work.name} | {' | '.join(cells)} |"


def _party(work, figures, column):
    for name in _COLUMNS[column]:
        for party in work.parties:
            if party.name == name and figures.get(name):
                return party
    return None


def missed(works, results):
    """Yield a line for each aim that was not reached."""
    for key, figures in results.items():
        work = works[key]
        for party in work.parties:
            times = ratio(work, figures, party)
            if times is None or party.aim is None:
                continue
            if times > party.aim if work.smaller_is_better else times < party.aim:
                text = f"{_times(times)} of {party.name}, the aim is {_aim(work, party.aim)}"
                yield f"- {work.name}: {text}"


def growth(results):
    """Yield the lines of a Markdown table of what grows."""
    yield "| | amount | rate |"
    yield "|---|---:|---:|"
    for name, figures in results.items():
        for number, (amount, rate) in enumerate(figures.items()):
            yield f"| {'' if number else name} | {int(amount):,} | {_number(rate)} |"


def whole(works, figures):
    """Yield the lines of the guide's part: machine, summary, aims that were missed, and all."""
    machine, results = figures["machine"], figures["works"]
    python, processors = machine["python"], machine["processors"]
    yield f"{machine['rounds']} rounds, Python {python}, {processors} processors:"
    yield ""
    yield from summary(works, results)
    yield ""
    lines = list(missed(works, results))
    if lines:
        yield from ("Not reached:", "", *lines, "")
    yield from ("Each figure, with half of the distance between the slowest and the quickest:", "")
    yield from table(works, results)
    if figures["growth"]:
        yield ""
        yield from growth(figures["growth"])


def publish(works, figures):
    """Write the figures to the README and to the guide."""
    short = summary(works, figures["works"], _README_COLUMNS, _README_WORKS)
    for path, lines in ((README, short), (GUIDE, whole(works, figures))):
        path.write_text(inserted(path.read_text(), lines))


def inserted(text, lines):
    """Return a document with lines between its marks."""
    begin, end = "<!-- benchmarks -->\n", "<!-- end of benchmarks -->"
    made, count = re.subn(
        f"{begin}.*{end}", lambda _: "\n".join((begin, *lines, "", end)), text, flags=re.DOTALL
    )
    if not count:
        raise ValueError(f"a document has no {begin.strip()}")
    return made


def _times(times):
    return f"{times:.2f}" if times < 9.95 else f"{times:.0f}"


def _aim(work, aim):
    if aim is None:
        return ""
    return f"{'≤' if work.smaller_is_better else '≥'} {aim:g}"


def _number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _spread(values):
    """Return half of the distance between the quickest and the slowest, in percent."""
    middle = statistics.median(values)
    return f"±{(max(values) - min(values)) / 2 / middle:.0%}" if middle else ""
