"""Reports: a run as text, Markdown, JSON or one HTML page. A renderer reads a book and returns a string."""

from __future__ import annotations

from ergometry.core.errors import UsageError
from ergometry.core.run import Run
from ergometry.report.summary import summary

__all__ = ["FORMATS", "render", "summary"]

FORMATS = ("text", "json", "html", "markdown")


def render(run: Run, format: str = "text", *, width: int = 80, colour: bool = False) -> str:  # noqa: A002
    """Return a run as ``format``: text, json, html or markdown.

    Args:
        run: a stored run, in progress or ended.
        format: one of :data:`FORMATS`.
        width: columns of the text.
        colour: whether the text may carry a terminal's colour codes.

    Raises:
        UsageError: there is no such format; choose one of :data:`FORMATS`.
    """
    if format not in FORMATS:
        raise UsageError(expected=f"a format of {', '.join(FORMATS)}", got=format, remedy="choose one with --format")
    if format == "json":
        import json

        return json.dumps(summary(run), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    from ergometry.report.book import Book

    book = Book.of(run)
    if format == "html":
        from ergometry.report.html import html

        return html(book)
    if format == "markdown":
        from ergometry.report.markdown import markdown

        return markdown(book)
    from ergometry.report.text import text

    return text(book, width=width, colour=colour)
