"""The figures as a table."""

import statistics


def ratio(work, figures, party):
    """Return our median as a multiple of a party's, or None where one of them is missing."""
    ours, theirs = figures.get(work.parties[0].name), figures.get(party.name)
    if not ours or not theirs or party is work.parties[0]:
        return None
    return statistics.median(ours) / statistics.median(theirs)


def table(works, results):
    """Return the lines of a Markdown table."""
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
                "" if times is None else f"{times:.2f}" if times < 9.95 else f"{times:.0f}",
                work.aim if ours else party.aim,
            )


def growth(results):
    """Return the lines of a Markdown table of what grows."""
    yield "| | " + " | ".join(("amount", "rate")) + " |"
    yield "|---|---:|---:|"
    for name, figures in results.items():
        for number, (amount, rate) in enumerate(figures.items()):
            yield f"| {'' if number else name} | {int(amount):,} | {_number(rate)} |"


def _number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _spread(values):
    """Return half of the distance between the quickest and the slowest, in percent."""
    middle = statistics.median(values)
    return f"±{(max(values) - min(values)) / 2 / middle:.0%}" if middle else ""
