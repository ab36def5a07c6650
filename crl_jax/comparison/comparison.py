"""One comparison, read from top to bottom."""

from collections.abc import Sequence
from pathlib import Path

from crl_jax.comparison import document, runs
from crl_jax.comparison.cross_weights import read_cross_weights
from crl_jax.comparison.measurements import measure_all
from crl_jax.comparison.plan import Plan
from crl_jax.comparison.report import report
from crl_jax.comparison.results import Results, write_csv
from crl_jax.terminal import console
from crl_jax.workdir import writing


def compare(
    what: Plan, workdir: Path, arguments: Sequence[str], together: int = 0
) -> Results:
    """Trains what is missing in `workdir`, and writes what came out.

    It writes `results.csv`, `report.md` and `report.html`, the last with all drawings
    in it. Runs that are already done are not trained again.

    Args:
      what: the plan.
      workdir: the comparison's folder.
      arguments: of the command, for the report.
      together: how many seeds to train as one program; 0: as many as pay off.

    Raises:
      UserError: a mistake in the config, the data or the folder.
      Stopped: a signal asked for it.
    """
    # All runs are checked before any is trained.
    planned = runs.plan_runs(what, workdir)

    with console.may_fall_silent():
        runs.train_missing(planned, together)
    outcomes = [runs.read_outcome(run) for run in planned]
    costs = measure_all(planned, workdir)

    results = Results.of(what, planned[0].run.kinds, outcomes)
    learned = {
        variant: read_cross_weights(results.outcomes[variant])
        for variant, settings in what.configs.items()
        if settings.model.cross.learned
    }
    with writing(workdir):
        write_csv(results, workdir / "results.csv")
        blocks = report(results, costs, learned, arguments, workdir / "figures")
        text = document.markdown(blocks, workdir)
        (workdir / "report.md").write_text(text, "utf-8", "replace")
        page = document.as_page(blocks)
        (workdir / "report.html").write_text(page, "utf-8", "replace")
    console.print(f"Written: {workdir / 'report.md'}, report.html, results.csv.")
    return results
