"""Looks for faults of robustness: awkward inputs, kills at random moments, full disks.

    python benchmarks/faults.py --minutes 60
    python benchmarks/faults.py --reproduce FILE

Prints counts by kind and outcome, each fault that was found with the file that runs it again, and
one JSON line. Ends with status 1 where there are faults. The inputs are drawn in tests/faults.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: processes are forked, which needs one thread
HERE = Path(__file__).resolve().parent
sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != HERE]  # has this name
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

import torch  # noqa: E402
from faults import campaign, findings, stock, warm  # noqa: E402
from faults.kinds import KINDS  # noqa: E402

ALL = [*KINDS, findings.KILL, findings.PLACE]


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0] if __doc__ else None,
    )
    p.add_argument("--minutes", type=float, default=10.0, help="(%(default)s)")
    p.add_argument("--seed", type=int, default=0, help="of all that is drawn (%(default)s)")
    p.add_argument("--workers", type=int, default=2, help="processes (%(default)s)")
    p.add_argument(
        "--kinds", nargs="+", choices=ALL, default=ALL, metavar="KIND", help="of: " + ", ".join(ALL)
    )
    p.add_argument("--keep", type=Path, help="folder for faults; default: a new temporary one")
    p.add_argument("--reproduce", type=Path, metavar="FILE", help="run one kept fault again")
    return p


def reproduce(file: Path) -> int:
    finding, outcome = findings.reproduce(file)
    print(f"kept:  {finding['signature']}\nnow:   {outcome.signature}\n{outcome.detail}")
    return int(outcome.is_fault)


def look(args: argparse.Namespace) -> int:
    folder = args.keep or Path(tempfile.mkdtemp(prefix="faults-found-"))
    began = time.monotonic()
    found, kills = campaign.run(args.minutes, args.seed, args.workers, args.kinds, folder)
    print(findings.table(found.counts))
    for (kind, what), number in sorted(found.faults.items()):
        print(f"{number:6} {kind}: {what}")
    print(f"faults: {len(found.faults)}, kept in {folder}")
    print(json.dumps(findings.summary(found, kills, time.monotonic() - began)))
    return int(bool(found.faults))


def main() -> int:
    args = parser().parse_args()
    torch.set_num_threads(1)
    place = Path(tempfile.mkdtemp(prefix="faults-stock-"))
    try:
        stock.make(place)
        warm.import_all()
        return reproduce(args.reproduce) if args.reproduce else look(args)
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
