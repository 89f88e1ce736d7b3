"""What ``erg run`` ends with, in a process of its own: the brief summary, and with ``--html`` the page.

The script's process stays as the script left it; this one loads what a report needs.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from ergometry.core.errors import ErgError
from ergometry.report.book import Book
from ergometry.report.html import html
from ergometry.report.text import text
from ergometry.store.reader import load


def main(arguments: list[str]) -> int:
    """Print the brief summary of the run in a folder; write its page where asked."""
    folder = Path(arguments[0])
    try:
        book = Book.of(load(folder))
    except ErgError as error:
        sys.stderr.write(f"erg: {error}\n")
        return error.exit_status
    on_terminal = sys.stdout.isatty()
    width = min(shutil.get_terminal_size().columns, 120) if on_terminal else 80
    sys.stdout.write("\n" + text(book, width=width, colour=on_terminal, brief=True))
    if "--html" in arguments:
        page = folder / "report.html"
        try:
            page.write_text(html(book), encoding="utf-8")
        except OSError as error:
            sys.stderr.write(f"erg: the page could not be written: {error}\n")
            return 1
        sys.stdout.write(f"report: {page}\n")
    else:
        sys.stdout.write(f"more: erg report {shown(folder)}\n")
    return 0


def shown(folder: Path) -> str:
    """Return the shortest words that ``erg report`` finds this run by, from the folder the user is in."""
    here = Path.cwd() / "erg-runs"
    return folder.name if folder.parent == here else str(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
