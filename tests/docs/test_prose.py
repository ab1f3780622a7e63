"""Plain English: the phrases that make texts read like a translation stay out of all prose.

Each rule names a way of saying it. A text that has to quote such a phrase puts it into code.
"""

import re

import pytest
from support.places import ROOT
from support.prose import PAGES, plain, texts

LONGEST = 40
"""Words of a sentence, or of a part of it that a semicolon ends."""

RULES = [
    ("say the verb: queue, send, close", r"(?:^|[.;:] )Have \w+"),
    (
        "make, let, or an active verb",
        r"\b(?:has|have|having) (?:it|them|others|SQL|the \w+|several \w+)"
        r" (?:be|do|run|wait|share|answer|ask|look|send|go|come|make|take|end|begin)\b",
    ),
    ("name the thing", r"(?:^|[.;:!?] )(?:What|Who|Whose|Whom)\b(?![^.;]*\?)"),
    ("name the person or program", r"\b[Ww]hoever\b|\b\w+body's\b|(?:^|[.!?] )Whatever\b"),
    ("'is not valid', 'is not a …'", r"\b(?:that|which|it|and) (?:is|are) none\b"),
    ("'is not one of'", r"\b(?:is|are) none of\b"),
    ("'instead of', 'replaces'", r"\bin (?:the|its|their) place\b|\b(?:takes?|took) the place\b"),
    ("'in reverse order', 'before', 'after'", r"other way a?round"),
    ("'as in …'", r"\bas \S+(?: \S+){0,3} (?:has|have) it\b"),
    ("'again', 'endlessly'", r"\banew\b|\bfor ever\b|\b(?:there|here|where)(?:of|in|upon)\b"),
    ("'except for'", r"\bbut for\b"),
    ("'your own', 'the app's own'", r"\bone's own\b"),
    ("'logged', 'reported', 'shows'", r"\b(?:told|tells?) of\b"),
    ("'keep', 'leave'", r"\blet (?:\w+ )?be\b"),
    ("'is behind'", r"\bstands? behind\b"),
    ("'must be', or an active verb", r"\b(?:is|are|was|were) to be (?!reported to)\w+"),
    ("'everything', 'the rest'", r"\ball else\b|\ball that (?:is|was|are|were|has|have|it)\b"),
    ("a shorter sentence", rf"(?:[^\s|]*[^\s.!?;|] ){{{LONGEST},}}"),
]

TRANSLATED = [
    "Have a message wait for its receiver.",
    "The option has several processes share the port.",
    "What comes over IPv4 looks like IPv6.",
    "A response is for whoever asks for it.",
    "A character set that is none is an error.",
    "The value is none of its VR.",
    "It is called in the place of the other one.",
    "Hooks run the other way round.",
    "The value, as the standard has it.",
    "The index is made anew.",
    "All are alike but for the last.",
    "For handlers of one's own.",
    "The log tells of it.",
    "The file is let be.",
    "The word stands behind the comma.",
    "The request is to be refused.",
    "It takes as long as all else together.",
    "word " * LONGEST + "word.",
]

BETTER = [
    "Queue a message for its receiver.",
    "With this option, several processes share the port.",
    "A peer that connects over IPv4 has an address like IPv6.",
    "A response is for the caller.",
    "An invalid character set is an error.",
    "The value is invalid for its VR.",
    "It is called instead of the other one.",
    "Hooks run in reverse order.",
    "The value, as in the standard.",
    "The index is made again.",
    "All are alike except for the last.",
    "For handlers of your own.",
    "The log names it.",
    "The file is kept.",
    "The word is behind the comma.",
    "The request must be refused.",
    "It takes as long as the rest.",
    "word " * (LONGEST - 5) + "word. " + "word " * 10,
]


CASES = list(zip(RULES, TRANSLATED, BETTER, strict=True))


@pytest.mark.parametrize(("rule", "bad", "good"), CASES)
def test_a_rule_finds_its_phrase_and_leaves_the_better_one(rule, bad, good):
    assert re.search(rule[1], bad)
    assert not re.search(rule[1], good)


def test_code_is_no_prose():
    assert plain("see `what.is` and [a page](there.md)\n  behind") == "see X and a page behind"


def test_each_row_of_a_table_is_one_line():
    pages = [path for pattern in PAGES for path in ROOT.glob(pattern)]
    lines = [line for path in pages for line in path.read_text("utf-8").split("\n")]
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) > 100
    assert [row for row in rows if not row.endswith("|")] == []


def test_no_text_reads_like_a_translation():
    rules = [(advice, re.compile(pattern)) for advice, pattern in RULES]
    count, found = 0, []
    for place, prose in texts():
        count += len(prose.split())
        for advice, pattern in rules:
            if hit := pattern.search(prose):
                start = max(0, hit.start() - 40)
                found.append(f"{place}: …{prose[start : hit.end() + 40]}… ({advice})")
    assert count > 50_000  # all of it was read
    assert found == [], "\n".join(found)
