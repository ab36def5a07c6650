"""Write a run's report: one HTML file, which opens from disk and can be printed.

  python -m crl_jax.report --workdir=runs/digits

It shows the training's curves, accuracies and confusions per class, the grid of two
tasks, cross weights, the best and the worst pictures, calibration, cost and config.
The pictures in it are from your data: mind their licences before you pass it on.
"""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from crl_jax import cli

if TYPE_CHECKING:
    from crl_jax.evaluation import Evaluation
    from crl_jax.reports.page import Section


def write_report(
    workdir: str | os.PathLike[str], prepared: "Evaluation", out: str | os.PathLike[str]
) -> None:
    """Evaluates a run and writes its report.

    Args:
      workdir: the run's folder.
      prepared: from `evaluation.prepare`.
      out: the file.

    Raises:
      UserError: the file cannot be written, the run's `metrics.csv` is damaged, or this
        is one of several processes.
    """
    from crl_jax import devices
    from crl_jax.reports import run_page
    from crl_jax.whole_file import WholeFile

    # All that can be wrong is reported before the evaluation, which may take a while.
    devices.check_alone("A report is written")
    curves = run_page.curves(Path(workdir), prepared.trained.run.kinds)
    with WholeFile(out, "--out") as file:
        file.write(_report(Path(workdir).resolve().name, prepared, curves))


def _report(name: str, prepared: "Evaluation", curves: "Section") -> str:
    """Evaluates a run and returns its page.

    Args:
      name: of the run.
      prepared: from `evaluation.prepare`.
      curves: of the training.
    """
    from crl_jax import costs, networks
    from crl_jax.kinds import widths
    from crl_jax.reports import cross_weights, other_kinds, page, run_page
    from crl_jax.reports.findings import Findings

    trained = prepared.trained
    run = trained.run
    findings = Findings(run.kinds)
    start = time.perf_counter()
    result = prepared.run(findings.add)
    seconds = time.perf_counter() - start
    count = prepared.source.size(prepared.split)
    devices = trained.mesh.devices
    speed = (
        f"This evaluation took {seconds:.1f} s for {count:,} pictures of "
        f"{run.config.data.image_size} px on {devices.size} "
        f"{devices.flat[0].platform} device{'s' if devices.size > 1 else ''}, "
        "reading and compilation included."
    )
    sizes = widths(run.kinds)
    by_network = {
        name: costs.cost(networks.named(run.config, name), sizes) for name in "SMX"
    }
    sections = [
        curves,
        run_page.classes(findings),
        run_page.grid(findings),
        other_kinds.several_labels(findings),
        other_kinds.numbers(findings),
        cross_weights.cross_weights(trained),
        run_page.pictures(findings),
        run_page.calibration(findings),
        run_page.cost(by_network, speed),
        run_page.settings(trained),
    ]
    heading = run_page.overview(name, prepared, result)
    return page.with_sections(f"{name}: report", heading, filter(None, sections))


def main() -> None:
    """Reads the arguments and writes the report."""
    verb = cli.parser("report", __doc__)
    cli.add_workdir(verb, "folder of a run that was trained")
    cli.add_data_of_run(verb, or_other=True)
    verb.add_argument(
        "--out", type=cli.path, metavar="FILE", help="default: DIR/report.html"
    )
    arguments = vars(cli.read(verb))

    from crl_jax import devices, evaluation
    from crl_jax.terminal import console

    devices.start()
    out = arguments.pop("out", arguments["workdir"] / "report.html")
    prepared = evaluation.prepare(**arguments)
    write_report(arguments["workdir"], prepared, out)
    console.print(f"Wrote {out}, on the split {prepared.title}", soft_wrap=True)


if __name__ == "__main__":
    cli.run(main)
