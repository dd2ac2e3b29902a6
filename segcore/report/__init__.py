"""Finished rows -> a leaderboard (Markdown, CSV, JSON) and one page that needs nothing else."""

from segcore.report.page import write_page
from segcore.report.rows import RowReport, finished_rows, read_rows
from segcore.report.tables import leaderboard, write_leaderboard

__all__ = [
    "RowReport",
    "finished_rows",
    "leaderboard",
    "read_rows",
    "write_leaderboard",
    "write_page",
]
