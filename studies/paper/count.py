"""Count parameters and FLOPs, of the paper's tables, the family or the rivals of its layer::

python -m studies.paper.count tables [--output O.json]
python -m studies.paper.count family [--output O.json]
python -m studies.paper.count rivals [--output O.json]
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from lambda_det.analysis.published import PublishedTable, load_published
from lambda_det.errors import exit_on_input_error
from lambda_det.io import check_writable, write_json
from lambda_det.records import make_record
from lambda_det.shipped_configs import ROOT
from studies.paper.family import architecture_table, count_family
from studies.paper.paper_tables import compare_with_paper, comparison_text
from studies.paper.rivals import count_rivals, rivals_table


def published_tables() -> dict[str, PublishedTable]:
    """Load the paper's tables by name: those on COCO, which are part of the plugin, and the others
    in ``studies/paper/published/``."""
    own = Path(__file__).resolve().parent / "published"
    return load_published(ROOT / "configs" / "published") | load_published(own)


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("::")[0])
    parser.add_argument(
        "what", choices=("tables", "family", "rivals"),
        help="tables: the paper's numbers and ours; family: every depth and variant; rivals: the "
        "layers that the paper compares the lambda layer with",
    )  # fmt: skip
    parser.add_argument("--output", metavar="O.json", help="write a record of the numbers")
    arguments = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(arguments)
    if args.output:
        check_writable(args.output)
    command = shlex.join(["python", "-m", "studies.paper.count", *arguments])
    tables = published_tables()
    if args.what == "tables":
        rows = compare_with_paper(tables)
        print(comparison_text(rows, tables))
    elif args.what == "rivals":
        rows = count_rivals(tables)
        print(rivals_table(make_record(command, rows)))
    else:
        rows = count_family(tables, progress=lambda name: print(name, file=sys.stderr))
        print(architecture_table(make_record(command, rows)))
    if args.output:
        write_json(make_record(command, rows), args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
