"""The guides: every block does what the page says, page by page."""

from guides import GUIDES, Reader, blocks


def test_the_tutorial_is_what_happens(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    with Reader(folder) as reader:
        for block in blocks(GUIDES / "tutorial.md"):
            reader.read(block)
