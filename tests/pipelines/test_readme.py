"""The README's table: written from the report's figures, and told when it is stale."""

import json
from pathlib import Path

import pytest

from pipelines.readme import KEPT, check, write
from segcore.errors import InputError
from segcore.report import leaderboard, read_rows, write_leaderboard
from segcore.report.tables import MARKS
from tests.synthetic_rows import write_row

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    names = [
        write_row(tmp_path / "runs", f"{method}-resnet18-shapes", dataset="shapes", miou=miou)
        for method, miou in {"fcn": 0.41237, "pspnet": 0.61239}.items()
    ]
    write_leaderboard(leaderboard(read_rows(tmp_path / "runs", names)), tmp_path / "reports")
    (tmp_path / "README.md").write_text("# A title\n\n" + "\n".join(MARKS) + "\n\nAn end.\n")
    return tmp_path


def test_the_table_is_written_and_found_stale(project: Path) -> None:
    write(project)
    text = (project / "README.md").read_text()
    assert text.startswith("# A title\n")
    assert text.endswith("\n\nAn end.\n")
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert lines[1].startswith("| pspnet-resnet18-shapes | 61.24 | 59.24 – 64.24 | 70.00 |")
    assert lines[2].startswith("| fcn-resnet18-shapes | 41.24 |")
    check(project)
    (project / "README.md").write_text(text.replace("61.24", "61.25"))
    with pytest.raises(InputError, match=r"does not show the figures .*run: python -m pipelines"):
        check(project)
    write(project)
    assert (project / "README.md").read_text() == text


def test_rows_that_were_measured_elsewhere_stay(project: Path) -> None:
    write(project)
    kept = json.loads((project / KEPT).read_text())
    other = kept[0] | {"row": "fcn-resnet18-camvid", "dataset": "camvid", "miou": 0.3}
    older = kept[0] | {"miou": 0.1}
    (project / KEPT).write_text(json.dumps([other, older]))
    write(project)
    rows = json.loads((project / KEPT).read_text())
    assert [(row["row"], row["miou"]) for row in rows] == [
        ("fcn-resnet18-camvid", 0.3),
        ("pspnet-resnet18-shapes", 0.61239),
        ("fcn-resnet18-shapes", 0.41237),
    ]


def test_without_marks_it_is_told(project: Path) -> None:
    (project / "README.md").write_text("# A title\n")
    with pytest.raises(InputError, match=r"README\.md must hold these two lines once"):
        write(project)
    assert not (project / KEPT).exists()


def test_the_readme_of_this_checkout_is_not_stale() -> None:
    check(ROOT)
