"""The figures as a picture."""

import math

from tests.benchmarks import report

_COLOURS = {
    "DCMTK": "#4878a8",
    "the limit": "#999999",
    "pynetdicom": "#d8a24a",
    "pydcm": "#8a6aa8",
    "Orthanc": "#5a9a6a",
}


def _kind(party):
    if party.server in _COLOURS:
        return party.server
    if party.server.startswith(("bare", "raw")):
        return "the limit"
    return None if party.server.startswith("pacsroute") else "DCMTK"


def plot(works, results, growth, path):
    """Draw the ratios, and what grows beside them, as a PNG."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise SystemExit("a plot needs matplotlib: pip install 'pacsroute[bench]'") from None

    figure = Figure(figsize=(12, 14), layout="constrained")
    grid = figure.add_gridspec(3, 2, width_ratios=(3, 2))
    _ratios(figure.add_subplot(grid[:, 0]), works, results)
    for row, (name, figures) in enumerate((growth or {}).items()):
        axes = figure.add_subplot(grid[row, 1])
        axes.plot([int(amount) for amount in figures], list(figures.values()), "o-")
        axes.set(xscale="log", title=name, ylim=(0, 1.1 * max(figures.values())))
        axes.grid(alpha=0.3)
    with mpl.rc_context({"font.size": 9}):
        figure.savefig(path, dpi=120)


def _ratios(axes, works, results):
    """Draw a bar for each party of each work: how many times as good we are."""
    names, at = [], 0.0
    for key, figures in results.items():
        work = works[key]
        first = at
        for party in work.parties:
            times, kind = report.ratio(work, figures, party), _kind(party)
            if times is None or kind is None:
                continue
            times = 1 / times if work.smaller_is_better else times
            axes.barh(at, math.log10(times), color=_COLOURS[kind], height=0.9)
            axes.text(max(0.0, math.log10(times)) + 0.02, at, f"{times:.3g}", va="center")
            at += 1
        if at > first:
            names.append(((first + at - 1) / 2, work.name))
            at += 0.7
    axes.set_yticks([where for where, _ in names], [name for _, name in names])
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xticks([0, 1, 2], ["1x", "10x", "100x"])
    axes.set_title("pacsroute against the others (larger is better)")
    handles = [axes.barh(0, 0, color=colour, label=name) for name, colour in _COLOURS.items()]
    axes.legend(handles=handles, loc="upper right", bbox_to_anchor=(1, -0.04), ncols=len(handles))
