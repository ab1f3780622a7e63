"""Folders of the repository that tests read."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
GUIDES = EXAMPLES / "guides"
CAPTURES = ROOT / "tests" / "fixtures" / "captures"
RECORDINGS = ROOT / "tests" / "fixtures" / "recordings"
