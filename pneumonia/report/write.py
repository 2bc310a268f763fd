"""Write a report: pages, tables, figures and data in one folder."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pneumonia.errors import StorageError, some
from pneumonia.metrics.classification import defined
from pneumonia.report.collect import Gathered, gather
from pneumonia.report.compare import Comparison, comparisons
from pneumonia.report.content import report
from pneumonia.report.entries import Entry
from pneumonia.report.render.document import Document, Figure, Table
from pneumonia.report.render.html import html_page
from pneumonia.report.render.markdown import write_markdown
from pneumonia.report.render.pdf import pdf_bytes
from pneumonia.runs.listing import check_places
from pneumonia.system.console import say, warn
from pneumonia.system.files import check_writable, read_json, replacing, write_json

PAGES: Final = ("index.html", "report.pdf", "report.md", "report.json")
FOLDERS: Final = ("tables", "figures")


@dataclass(frozen=True)
class ReportRequest:
    """A report to write.

    Attributes:
        places: Folders of runs.
        out: Where the report goes.
        metric: By which is ranked, and in which differences are tested.
        title: Of the report.
        command: That asked for it.
    """

    places: Sequence[Path]
    out: Path
    metric: str = "f1_macro"
    title: str = "Which differences are real"
    command: str = ""


def write_report(wanted: ReportRequest) -> Document:
    """Write ``index.html``, ``report.pdf``, ``report.md`` with ``figures/``, ``tables/*.csv``, ``epochs.csv``, ``report.json``.

    Raises:
        RunError: There is nothing to report on.
        StorageError: The folder can't be written, or holds pages of someone else's.
    """
    check_places(wanted.places)
    check_writable(wanted.out)
    earlier = _earlier(wanted.out)
    found = gather(wanted.places)
    for place, reason in found.left_out:
        warn(f"Left out {place}: {reason}")
    compared = comparisons([one for entry in found.entries for one in entry.everywhere], wanted.metric)
    say("Drawing figures, writing pages")
    document = report(found, compared, wanted.title, wanted.command)
    out = wanted.out
    files = _files_of(document)
    for old in set(earlier) - set(files):
        (out / old).unlink(missing_ok=True)  # of an earlier report, which would pass for part of this one
    _write_tables(document, out / "tables")
    _write_epochs(found.entries, out / "epochs.csv")
    write_json(out / "report.json", {**as_data(found, compared), "files": files})
    write_markdown(document, out)
    with replacing(out / "report.pdf") as part:
        part.write_bytes(pdf_bytes(document))
    with replacing(out / "index.html") as part:
        part.write_text(html_page(document), encoding="utf-8")
    return document


def _earlier(out: Path) -> list[str]:
    """Return the tables and figures of an earlier report in a folder; foreign files are never replaced.

    Raises:
        StorageError: There are pages in the folder that no report has written.
    """
    held = read_json(out / "report.json")
    if "comparisons" not in held:
        strange = [name for name in PAGES if (out / name).exists()]
        if strange:
            raise StorageError(
                f"{out} holds {some(strange)}, which is not part of a report; writing here would replace it. Choose another "
                "place: --out DIR."
            )
    names = [str(name) for name in held.get("files", [])]
    return [name for name in names if Path(name).parent.name in FOLDERS and len(Path(name).parts) == 2]


def _tables_of(document: Document) -> list[Table]:
    return [block for block in document.blocks if isinstance(block, Table) and block.name]


def _files_of(document: Document) -> list[str]:
    """Return the tables and figures that a document writes, relative to its folder."""
    figures = [f"figures/{block.name}.svg" for block in document.blocks if isinstance(block, Figure)]
    return [f"tables/{table.name}.csv" for table in _tables_of(document)] + figures


def _write_tables(document: Document, folder: Path) -> None:
    for table in _tables_of(document):
        with replacing(folder / f"{table.name}.csv") as part, part.open("w", newline="", encoding="utf-8") as file:
            cells = [[cell.replace("**", "").replace("`", "") for cell in row] for row in table.rows]
            csv.writer(file).writerows([table.head, *cells])


def _write_epochs(entries: Sequence[Entry], path: Path) -> None:
    """Write every row of every ``metrics.csv``, with its run."""
    rows = [{"sweep": entry.sweep, "run_id": entry.result.run_id, **row} for entry in entries for row in entry.epochs]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def as_data(found: Gathered, compared: Sequence[Comparison]) -> dict[str, object]:
    """Return the values of the report for JSON; undefined values are ``None``."""
    return {
        "comparisons": [_comparison(one) for one in compared],
        "left_out": [{"run": place, "reason": reason} for place, reason in found.left_out],
        "copies": [{"run": copy, "of": place} for copy, place in found.copies],
    }


def _comparison(one: Comparison) -> dict[str, object]:
    return {
        "title": one.title,
        "task": one.task.name,
        "manifest_sha256": one.manifest,
        "split": one.split,
        "part": one.subset,
        "other_data": one.other_data,
        "over": one.kind,
        "n": one.n,
        "patients": one.patients,
        "metric": one.metric,
        "leaks": one.leaks or None,
        "candidates": [
            {
                "label": candidate.label,
                "runs": [str(entry.folder.path) for entry in candidate.entries],
                "seeds": [entry.result.seed for entry in candidate.entries],
                "metrics": {
                    name: dict(zip(("value", "low", "high"), map(defined, bounds), strict=True))
                    for name, bounds in candidate.estimates.items()
                },
                "cost": [vars(entry.result.cost) for entry in candidate.entries],
            }
            for candidate in one.candidates
        ],
        "pairs": [
            {
                "first": pair.first,
                "second": pair.second,
                "difference": defined(pair.difference.value),
                "low": defined(pair.difference.low),
                "high": defined(pair.difference.high),
                "p": defined(pair.difference.p),
                "p_holm": defined(pair.corrected),
                "verdict": pair.verdict,
                "p_mcnemar": defined(pair.mcnemar),
                "p_delong": defined(pair.auroc),
            }
            for pair in one.pairs
        ],
    }
