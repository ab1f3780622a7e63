"""``python -m pacsroute``."""

from pacsroute.cli import main

main()
