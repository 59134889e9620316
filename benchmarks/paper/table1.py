"""Table 1 of arXiv:2510.05205: every method on every problem, published values beside ours.

Rows are the curves of two and of three sources (the newest source) and digits in front of grass, at
full resolution and a third each; columns the mean PSNR of one draw and the p-value of PQMass, and
for digits the Fréchet distance of the means. What is measured, ``benchmarks.paper manifolds`` and
``benchmarks.grassy_mnist`` say; this runs both, or reads their records.

    python -m benchmarks.paper table1 --out benchmarks/results/paper_table1.json [--quick]
    python -m benchmarks.paper table1 --records benchmarks/results --out ...
"""

import argparse
import json
import time
from pathlib import Path

import torch

from ..grassy_mnist import study as grassy
from ..record import write_record
from . import manifolds

#: What the table keeps of the record of each study, by the names of its columns.
COLUMNS = {
    "psnr": "psnr_mean",
    "frechet_means": "frechet_means",
    "frechet": "frechet",
    "pqmass": "pqmass",
}
PUBLISHED = {"psnr": "psnr_published", "frechet_means": "frechet_published"}
PUBLISHED |= {"pqmass": "pqmass_published"}
RECORDS = {"curves": "paper_manifolds.json", "digits": "grassy_mnist.json"}
#: What the table calls the package's own method in each study.
OWN = {"joint": "diffusion", "moment matching": "diffusion", "amortized": "diffusion, amortized"}


def rows_of(figures: dict) -> list[dict]:
    """The table's rows of the figures of a study."""
    rows = []
    for row in figures["methods"]:
        kept = {name: row.get(key) for name, key in COLUMNS.items()}
        published = {f"{name}_published": row.get(key) for name, key in PUBLISHED.items()}
        method = OWN.get(row["method"], row["method"])
        rows.append({"problem": row["problem"], "method": method, **published, **kept})
    return rows


def main(arguments=None):
    """Make the table and write it."""
    started = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", required=True, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="small versions of both studies")
    parser.add_argument("--records", type=Path, help="folder of both studies' records, to read")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if options.records is not None:
        records = {
            name: json.loads((options.records / file).read_text()) for name, file in RECORDS.items()
        }
        figures = {name: record["figures"] for name, record in records.items()}
        configuration = {name: record["configuration"] for name, record in records.items()}
    else:
        configuration = {
            name: study.QUICK if options.quick else study.FULL
            for name, study in (("curves", manifolds), ("digits", grassy))
        }
        figures = {
            "curves": manifolds.run(configuration["curves"], device),
            "digits": grassy.run(configuration["digits"], device, grassy.Work(None)),
        }
    write_record(
        options.out,
        study="paper.table1",
        configuration=configuration,
        figures={"rows": [row for part in figures.values() for row in rows_of(part)]},
        device=device,
        started=started,
    )
