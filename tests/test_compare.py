"""Comparisons: their plan, that they go on, and what their report says."""

import csv
import shutil
import sys
from html.parser import HTMLParser
from types import SimpleNamespace

import jax
import launched
import numpy as np
import pytest

from crl_jax import compare, config_check, networks, run_files, workdir
from crl_jax.comparison import document, measurements, plan, runs, together
from crl_jax.comparison.comparison import compare as run_comparison
from crl_jax.comparison.cross_weights import CrossWeights, grid
from crl_jax.comparison.plan import Variant
from crl_jax.comparison.report import report
from crl_jax.comparison.results import Results
from crl_jax.comparison.runs import Outcome
from crl_jax.errors import Diverged, UserError
from crl_jax.kinds import Categorical, Regression

TASKS = ("hue", "number")


@pytest.fixture(scope="module")
def config(new_config):
    config = new_config()
    config.model.branch_from = "res5a"
    config.model.cross.learned = True
    config.train.steps = 2
    config.train.eval_every = 1
    return config_check.check(config)


def small(config):
    return plan.make(config, ["S", "X"], 1, [])


@pytest.fixture(scope="module")
def compared(config, tmp_path_factory):
    """A comparison of S and X, of one seed."""
    directory = tmp_path_factory.mktemp("compared")
    arguments = ["--config=mine.py", "--seeds=1"]
    return directory, run_comparison(small(config), directory, arguments)


def test_a_sweep_concerns_the_networks_that_leave_the_field_open(config):
    found = plan.make(
        config,
        ["S", "M", "X", "heads"],
        1,
        [("model.branch_from", ["res5b"]), ("model.cross.init", [0.1, 0.0])],
    )
    labels = [variant.label for variant in found.configs]
    assert labels == [
        *("S", "M", "X", "heads"),
        *("M model.branch_from=res5b", "X model.branch_from=res5b"),
        "X model.cross.init=0.0",  # 0.1 is what X has anyway
    ]
    swept = Variant("X", "model.branch_from", "res5b")
    assert found.configs[swept].model.branch_from == "res5b"
    assert swept.folder == "X,model.branch_from=res5b"
    assert found.counterpart(swept, "M").field == "model.branch_from"
    assert found.counterpart(swept, "S") == Variant("S")
    assert found.counterpart(swept, "nddr") is None


@pytest.mark.parametrize(
    ("names", "sweeps", "message"),
    [
        (["S", "Y"], [], r"no network 'Y'; the networks are: S, M, X"),
        ("SM", [("model.cross.init", [0.5])], r"every network .* sets it itself"),
        ("SX", [("train.seed", [1])], r"that is what --seeds is for"),
        ("SX", [("model.depth", [19])], r"depth is 19; it can be"),
    ],
)
def test_a_wrong_plan_has_one_message(config, names, sweeps, message):
    with pytest.raises(UserError, match=message):
        plan.make(config, list(names), 1, sweeps)


def test_networks_that_do_not_differ_are_refused(config):
    settings = {"model.cross.init": 0.0, "model.cross.learned": False}
    plain = networks.with_settings(config, settings)
    with pytest.raises(UserError, match="M and X are the same network"):
        plan.make(plain, ["S", "M", "X"], 1, [])


def test_task_weights_are_not_for_single_networks(config):
    weighted = networks.with_settings(config, {"tasks.hue.weight": 0.1})
    sweeps = [("tasks.hue.weight", [0.5]), ("optim.cagrad_c", [0.2])]
    configs = plan.make(weighted, ["S", "X"], 1, sweeps).configs
    assert configs[Variant("S")].tasks.hue.weight == 1
    assert configs[Variant("X")].tasks.hue.weight == 0.1
    assert {variant.network for variant in configs if variant.field} == {"X"}


def test_a_sweep_of_a_task_that_only_the_data_name(config, tmp_path):
    assert not config.tasks
    sweeps = [("tasks.hue.weight", [1.0, 0.5])]  # the first is what all have anyway
    what = plan.make(config, ["S", "M", "X"], 1, sweeps)
    swept = [variant.label for variant in what.configs if variant.field]
    assert swept == ["M tasks.hue.weight=0.5", "X tasks.hue.weight=0.5"]
    text = report_of_equals(what, tmp_path)
    assert "| X | 1.0 |" in text
    assert "| X | 0.5 |" in text


def test_every_value_is_looked_at_before_any_is_trained(config, tmp_path):
    what = plan.make(config, ["S", "X"], 1, [("data.batch_size", [9])])
    with pytest.raises(UserError, match="data.batch_size=9 cannot be divided"):
        runs.plan_runs(what, tmp_path)


def test_a_comparison_needs_a_split_to_choose_on(config):
    blind = networks.with_settings(config, {"data.val_split": ""})
    with pytest.raises(UserError, match="chooses checkpoints on one split"):
        plan.make(blind, ["S", "X"], 1, [])
    with pytest.raises(UserError, match="chooses checkpoints on one split"):
        plan.make(config, ["S", "X"], 1, [("data.val_split", [""])])


@pytest.mark.parametrize("val_split", ["test", "val+test", "test[:50%]"])
def test_checkpoints_are_not_chosen_on_test_pictures(config, tmp_path, val_split):
    seen = networks.with_settings(config, {"data.val_split": val_split})
    for what in (
        plan.make(seen, ["S", "X"], 1, []),
        plan.make(config, ["S", "X"], 1, [("data.val_split", [val_split])]),
    ):
        with pytest.raises(UserError, match="test_split=test shares pictures with"):
            runs.plan_runs(what, tmp_path)


def test_two_values_do_not_share_a_folder(config):
    with pytest.raises(UserError, match=r"init.from=a/b and X init.from=a_b would be"):
        plan.make(config, ["X"], 1, [("init.from", ["a/b", "a_b"])])


def test_all_runs_of_a_comparison_choose_from_as_many_checkpoints(compared, config):
    directory, _ = compared
    rarely = networks.with_settings(config, {"train.eval_every": 2})
    with pytest.raises(UserError, match="begun with config.train.eval_every=1, now"):
        runs.plan_runs(plan.make(rarely, ["S", "M"], 1, []), directory)


def test_sweeps_are_read_from_text():
    assert compare._sweep("model.cross.init=0,0.5") == ("model.cross.init", [0, 0.5])
    assert compare._sweep("config.data.train_split=train[:10%],train") == (
        "data.train_split",
        ["train[:10%]", "train"],
    )


def test_every_run_is_what_it_is_named(compared, config):
    directory, results = compared
    folders = {
        f"{outcome.folder.parent.name}/{outcome.folder.name}": outcome
        for outcomes in results.outcomes.values()
        for outcome in outcomes
    }
    assert set(folders) == {"S/seed0", "X/seed0"}
    for folder, init in zip(folders, (0.0, 0.1), strict=True):
        trained = workdir.read(directory / folder).config
        assert trained.model.cross.init == init
        named = networks.named(config, folder[0])
        assert trained.model.branch_from == named.model.branch_from


def test_the_tasks_keep_their_order(config):
    tasks = {"data.tasks.z": "a", "data.tasks.b": "c"}
    named = networks.with_settings(config, {"data.manifest": ""} | tasks)
    again = networks.with_settings(named, {"train.seed": 3})
    assert list(again.data.tasks) == ["z", "b"]
    of_data = config_check.with_tasks(again, {"z": 2, "b": 3})
    assert list(of_data.data.tasks) == list(of_data.tasks) == ["z", "b"]


def test_results_are_those_of_the_runs(compared):
    directory, results = compared
    with (directory / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3  # networks; tasks and all tasks right
    for row in rows:
        _, step, accuracies = run_files.read_result(directory / row["folder"])
        assert row["step"] == str(step)
        found = accuracies[row["task"]]["top1"]
        assert float(row["top1"]) == pytest.approx(found, abs=1e-6)
        if row["task"] != "joint":
            log = (directory / row["folder"] / "metrics.csv").read_text().splitlines()
            lines = csv.DictReader(log)
            val = [r for r in lines if r["split"] == "val" and r["step"] == str(step)]
            logged = float(val[0][f"{row['task']}_top1"])
            assert float(row["val_top1"]) == pytest.approx(logged, abs=1e-6)


def test_what_is_done_is_not_trained_again(compared, config, monkeypatch):
    directory, before = compared
    monkeypatch.setattr(runs, "train_seeds", lambda *_: pytest.fail("it trained again"))
    monkeypatch.setattr(
        measurements, "measure", lambda *_: pytest.fail("it measured again")
    )
    again = run_comparison(small(config), directory, [])
    for variant in again.outcomes:
        for task in (*TASKS, "joint"):
            np.testing.assert_array_equal(
                again.test(variant, task), before.test(variant, task)
            )


def test_a_comparison_goes_on_with_what_is_missing(compared, config, monkeypatch):
    directory, _ = compared
    lost = directory / "X" / "seed0"
    shutil.rmtree(lost)
    trained, train_seeds = [], runs.train_seeds
    monkeypatch.setattr(
        runs, "train_seeds", lambda c, f: (trained.append(f), train_seeds(c, f))
    )
    run_comparison(small(config), directory, [])
    assert trained == [{0: lost}]


@pytest.mark.parametrize(
    ("together", "expected"),
    [
        (0, ["S 0", "X 0", "X 1", "S 2", "X 2"]),  # a CPU has enough of one
        (1, ["S 0", "X 0", "X 1", "S 2", "X 2"]),
        (2, ["S 0 2", "X 0 1", "X 2"]),
        (9, ["S 0 2", "X 0 1 2"]),
    ],
)
def test_missing_seeds_are_trained_together(
    config, tmp_path, monkeypatch, together, expected
):
    planned = runs.plan_runs(plan.make(config, ["S", "X"], 3, []), tmp_path)
    done = tmp_path / "S" / "seed1"
    monkeypatch.setattr(workdir, "is_done", lambda folder: folder == done)
    trained = []

    def train_seeds(config, folders):
        name = "S" if config.model.branch_from == "stem" else "X"
        assert folders == {n: tmp_path / name / f"seed{n}" for n in folders}
        trained.append(" ".join([name, *map(str, folders)]))

    monkeypatch.setattr(runs, "train_seeds", train_seeds)
    runs.train_missing(planned, together)
    assert trained == expected


def test_a_run_that_diverges_keeps_no_other_from_its_end(config, tmp_path, monkeypatch):
    planned = runs.plan_runs(plan.make(config, ["S", "X"], 2, []), tmp_path)
    trained = []

    def train_seeds(config, folders):
        name = "S" if config.model.branch_from == "stem" else "X"
        trained.append(" ".join([name, *map(str, folders)]))
        if name == "S" and 1 in folders:
            raise Diverged("The loss of hue is infinite")

    monkeypatch.setattr(runs, "train_seeds", train_seeds)
    with pytest.raises(UserError, match=r"NaN or infinite: S, seed 1\. All other"):
        runs.train_missing(planned, 2)
    assert trained == ["S 0 1", "S 0", "X 0 1", "S 1"]


@pytest.mark.parametrize(
    ("gigabytes", "together_takes", "expected"),
    [(0, 0, 1), (1e-3, 0, 1), (80, 4.9, 5), (80, 5.1, 1), (80, np.nan, 1)],
)
def test_an_accelerator_trains_as_many_seeds_as_fit_and_pay(
    config, tmp_path, monkeypatch, gigabytes, together_takes, expected
):
    """A network of 1 GB with its state, and of 7 GB for a batch of 8."""
    (run, *_) = runs.plan_runs(plan.make(config, ["S"], 1, []), tmp_path)
    device = SimpleNamespace(
        platform="gpu", memory_stats=lambda: {"bytes_limit": int(gigabytes * 1e9)}
    )
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    cost = SimpleNamespace(total=10**9 // 20, activation_bytes=7 * 10**9 // 8)
    monkeypatch.setattr(together.costs, "cost", lambda *_: cost)

    def step_seconds(run, seeds):
        if seeds > 1 and np.isnan(together_takes):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return 1.0 if seeds == 1 else together_takes

    monkeypatch.setattr(together, "step_seconds", step_seconds)
    assert together.seeds_at_once(run.run, 8) == expected
    assert together.seeds_at_once(run.run, 1) == 1


def test_steps_of_several_seeds_are_timed(config, tmp_path):
    (run, *_) = runs.plan_runs(plan.make(config, ["S"], 1, []), tmp_path)
    assert measurements.step_seconds(run.run, 2) > 0


def test_a_log_without_the_validation_is_named(compared, config, tmp_path):
    directory, _ = compared
    shutil.copytree(directory, tmp_path / "copy")
    (run, *_) = runs.plan_runs(small(config), tmp_path / "copy")
    log = run.folder / "metrics.csv"
    whole = log.read_text()
    for damaged in ("", whole.replace(",val,", ",train,"), whole.replace("hue", "h")):
        log.write_text(damaged)
        with pytest.raises(UserError, match=r"metrics.csv lacks the validation at"):
            runs.read_outcome(run)
    log.unlink()
    with pytest.raises(UserError, match=r"delete .*S/seed0, and the same command"):
        runs.read_outcome(run)


def test_the_folder_of_another_comparison_is_refused(compared, config):
    directory, _ = compared
    other = networks.with_settings(config, {"optim.learning_rate": 0.3})
    with pytest.raises(UserError, match=r"config.optim.learning_rate: 0.1 there, 0.3"):
        run_comparison(small(other), directory, [])


class Tags(HTMLParser):
    """Notes which tags a page opens and leaves open."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, _):
        self.seen.append(tag)
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            assert self.open.pop() == tag


def outcome(variant, seed, **top1):
    test = {t: {"count": 10, "top1": x, "top5": 1.0} for t, x in top1.items()}
    val = {task: x for task, x in top1.items() if task != "joint"}
    return Outcome(variant, seed, None, 5, val, test)


def report_of_equals(what, folder):
    """Returns the report of a plan whose networks all came to the same."""
    outcomes = [outcome(v, 0, hue=0.5, number=0.4, joint=0.3) for v in what.configs]
    kinds = {task: Categorical(("a", "b")) for task in TASKS}
    cost = measurements.Measurement(1000, 2e9, 0.02, 3_000_000, "1 cpu")
    costs = dict.fromkeys(what.configs, cost)
    blocks = report(Results.of(what, kinds, outcomes), costs, {}, [], folder)
    return document.markdown(blocks, folder)


def test_differences_pair_the_same_seeds(config):
    what = plan.make(config, ["S", "X"], 2, [])
    s, x = Variant("S"), Variant("X")
    results = Results.of(
        what,
        {task: Categorical(("a", "b")) for task in ("hue", "number")},
        [
            outcome(x, 1, hue=0.7, number=0.4, joint=0.4),
            outcome(s, 0, hue=0.4, number=0.4, joint=0.4),
            outcome(x, 0, hue=0.6, number=0.2, joint=0.2),
            outcome(s, 1, hue=0.5, number=0.5, joint=0.5),
        ],
    )
    difference = results.difference(x, s, "hue")
    assert difference.mean == pytest.approx(20)
    np.testing.assert_allclose(results.gain(x), [0, (40 - 20) / 2], atol=1e-9)


def test_each_network_is_taken_at_the_value_that_its_validation_chose(config, tmp_path):
    """X is best at a rate of 0.3; M, at that of the config."""
    sweeps = [("optim.learning_rate", [0.3])]
    by_hue = networks.with_settings(config, {"train.best_by": "hue"})
    what = plan.make(by_hue, ["S", "M", "X"], 1, sweeps)
    hue = {("M", ""): 0.5, ("X", "optim.learning_rate"): 0.6}
    results = Results.of(
        what,
        {task: Categorical(("a", "b")) for task in ("hue", "number")},
        [
            # By the mean of both tasks, the other rate would be chosen.
            outcome(v, 0, hue=of_hue, number=1 - 1.5 * of_hue, joint=of_hue / 2)
            for v in what.configs
            for of_hue in [hue.get((v.network, v.field), 0.1)]
        ],
    )
    cost = measurements.Measurement(1000, 2e9, 0.02, 3_000_000, "1 cpu")
    costs = dict.fromkeys(what.configs, cost)
    text = document.markdown(report(results, costs, {}, [], tmp_path), tmp_path)
    assert "| network | optim.learning_rate | val, hue |" in text
    chosen = text.split("| chosen on validation |")[1].splitlines()
    (row,) = (r for r in chosen if r.startswith("| X ") and "| M " in r)
    assert row.startswith(
        "| X optim.learning_rate=0.3 | M optim.learning_rate=0.1 | +10.00 (too few"
    )


def test_the_report_says_all_that_was_asked(config, tmp_path):
    fixed = networks.with_settings(config, {"model.cross.learned": False})
    what = plan.make(fixed, ["S", "M", "X"], 3, [("model.branch_from", ["res5b"])])
    rng = np.random.default_rng(0)
    results = Results.of(
        what,
        {task: Categorical(("a", "b")) for task in ("hue", "number")},
        [
            outcome(variant, seed, hue=hue, number=number, joint=number / 2)
            for variant in what.configs
            for seed in range(3)
            for hue in [0.5 + (0.2 if variant.network == "X" else 0) + seed / 100]
            for number in [rng.uniform(0.3, 0.5)]
        ],
    )
    cost = measurements.Measurement(1000, 2e9, 0.02, 3_000_000, "1 cpu")
    grids = {"res5b": np.array([[1, 0.2], [-0.1, 1]])}
    weights = CrossWeights(TASKS, grids, "the weight")
    nowhere = CrossWeights(TASKS, {}, "the weight")  # of a network of one branch point
    blocks = report(
        results,
        dict.fromkeys(what.configs, cost),
        {Variant("X"): weights, Variant("X", "model.branch_from", "head"): nowhere},
        ["--config=mine.py", "--seeds=3"],
        tmp_path / "figures",
    )
    text = document.markdown(blocks, tmp_path)
    for heading in (
        *("Top-1", "Top-5", "Top-1 against M", "Top-1 against S", "Cost"),
        *("Multitask gain Δm", "Sweep of model.branch_from", "Learned cross weights"),
    ):
        assert f"## {heading}\n" in text
    assert "python -m crl_jax.compare --config=mine.py --seeds=3" in text
    # X is 20 points above M in hue with every seed; numbers were drawn alike.
    against_m = text.split("## Top-1 against M")[1].split("##")[0]
    row = next(line for line in against_m.splitlines() if line.startswith("| X |"))
    assert "better: +20.00 [+20.00, +20.00] | no difference seen" in row
    assert "| X | 71.00 ± 1.00 |" in text
    for line in text.splitlines():
        if line.startswith("!["):
            figure = line.split("(")[-1].split(")")[0]
            assert (tmp_path / figure).read_text().count("<svg") == 1
    page = document.as_page(blocks)
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert tags.seen.count("img") == 2
    assert tags.seen.count("table") == text.count("| --- |")


def test_parameters_are_compared_with_s_of_the_same_size(config, tmp_path):
    what = plan.make(config, ["S", "X"], 1, [("model.width", [0.5])])
    count = {"S": 4000, "X": 1000, "S model.width=0.5": 800, "X model.width=0.5": 600}
    costs = {
        v: measurements.Measurement(count[v.label], 2e9, 0.02, 3_000_000, "1 cpu")
        for v in what.configs
    }
    outcomes = [outcome(v, 0, hue=0.5, number=0.4, joint=0.3) for v in what.configs]
    results = Results.of(what, {t: Categorical(("a", "b")) for t in TASKS}, outcomes)
    text = document.markdown(report(results, costs, {}, [], tmp_path), tmp_path)
    rows = text.split("| saved against S |")[1].splitlines()
    saved = {row.split(" | ")[0][2:]: row.split(" | ")[2] for row in rows[2:6]}
    assert saved == {
        **{"S": "0.0%", "X": "75.0%"},
        **{"S model.width=0.5": "0.0%", "X model.width=0.5": "25.0%"},
    }


def test_a_regression_is_not_called_by_its_error_where_its_goodness_stands(
    config, tmp_path
):
    by_age = networks.with_settings(config, {"train.best_by": "age"})
    what = plan.make(by_age, ["S", "X"], 1, [("optim.learning_rate", [0.3])])
    numbers = {"count": 10, "mae": 2.0, "pearson": 0.5}
    outcomes = [
        Outcome(v, 0, None, 5, {"age": 2.0}, {"age": numbers}) for v in what.configs
    ]
    results = Results.of(what, {"age": Regression(30.0, 4.0)}, outcomes)
    cost = measurements.Measurement(1000, 2e9, 0.02, 3_000_000, "1 cpu")
    blocks = report(results, dict.fromkeys(what.configs, cost), {}, [], tmp_path)
    text = document.markdown(blocks, tmp_path)
    assert "| val, age: 1 − MAE / standard deviation, % |" in text
    assert "chosen by 1 − MAE / standard deviation of age" in text
    assert "| X | 0.3 | 50.00 |" in text


def test_a_task_without_test_labels_is_left_out_of_the_gain(config, tmp_path):
    what = plan.make(config, ["S", "X"], 1, [])
    outcomes = []
    for variant in what.configs:
        test = {
            "hue": {"count": 10, "top1": 0.5 if variant.network == "S" else 0.6},
            "number": {"count": 0, "top1": np.nan},
            "joint": {"count": 0, "top1": np.nan},
        }
        test["hue"]["top5"] = test["number"]["top5"] = np.nan
        outcomes.append(Outcome(variant, 0, None, 5, {"hue": 0.5, "number": 0.5}, test))
    kinds = {task: Categorical(("a", "b")) for task in TASKS}
    results = Results.of(what, kinds, outcomes)
    np.testing.assert_allclose(results.gain(Variant("X")), [20])
    cost = measurements.Measurement(1000, 2e9, 0.02, 3_000_000, "1 cpu")
    blocks = report(results, dict.fromkeys(what.configs, cost), {}, [], tmp_path)
    text = document.markdown(blocks, tmp_path)
    assert "Left out, since no test picture has a label: number." in text


@pytest.mark.parametrize("names", ["MX", "X"])
def test_without_s_the_gain_is_left_out(names, config, tmp_path):
    what = plan.make(config, names, 1, [("optim.learning_rate", [0.3])])
    text = report_of_equals(what, tmp_path)
    assert "Δm" not in text
    assert "saved against" not in text
    assert "S is trained" not in text
    assert ("## Top-1 against M" in text) == (names == "MX")
    assert ("| chosen on validation |" in text) == (names == "MX")


def test_measured_parameters_and_memory_are_those_of_the_state(compared):
    directory, results = compared
    found, _ = measurements._read(directory / "costs.json")
    measured = found["X"]
    folder = results.outcomes[Variant("X")][0].folder
    params = launched.saved_state(folder).variables["params"]
    assert measured.parameters == sum(leaf.size for leaf in jax.tree.leaves(params))
    # Parameters and momentum, float32 each, are the least that a step holds.
    assert measured.step_bytes > 2 * 4 * measured.parameters
    assert measured.step_seconds > 0
    assert found["S"].flops > found["X"].flops


def test_costs_are_measured_again_when_what_they_are_of_changes(
    compared, config, monkeypatch
):
    directory, _ = compared
    measured = []
    cost = measurements.Measurement(1000, 2e9, 0.02, 3_000_000, measurements._device())
    monkeypatch.setattr(
        measurements, "measure", lambda run: (measured.append(run), cost)[1]
    )
    shutil.copy(directory / "costs.json", directory / "kept")

    def count(**changes):
        of = small(networks.with_settings(config, changes))
        measured.clear()
        measurements.measure_all(runs.plan_runs(of, directory), directory)
        return len(measured)

    assert count() == 0
    assert count(**{"model.remat": (5,)}) == 2
    assert count(**{"model.remat": (5,)}) == 0
    monkeypatch.setattr(measurements, "_device", lambda: "1 gpu")
    assert count(**{"model.remat": (5,)}) == 2
    (directory / "kept").replace(directory / "costs.json")


def test_learned_weights_become_a_grid():
    found = grid(np.arange(1.0, 7.0), 3)
    np.testing.assert_array_equal(found, [[1, 1, 2], [3, 1, 4], [5, 6, 1]])


def test_markdown_and_html_escape_what_tables_hold(tmp_path):
    blocks = [
        document.Heading("A & B", 1),
        document.Table(["x", "y"], [["a|b", "<1>"]]),
    ]
    assert "| a\\|b | <1> |" in document.markdown(blocks, tmp_path)
    page = document.as_page(blocks)
    assert "<td>&lt;1&gt;</td>" in page
    assert "<title>A &amp; B</title>" in page


def test_the_command_compares(config, tmp_path, monkeypatch, capsys):
    called = []
    monkeypatch.setattr(
        "crl_jax.comparison.comparison.compare", lambda *given: called.extend(given)
    )
    path = tmp_path / "mine.py"
    path.write_text(
        "from crl_jax.config import default\n\n"
        "def get_config():\n    return default()\n"
    )
    arguments = [
        f"--config={path}",
        "--networks=S,X",
        "--seeds=3",
        f"--workdir={tmp_path}",
        "--sweep=model.cross.init=0,1",
        "--together=3",
    ]
    monkeypatch.setattr(sys, "argv", ["compare", *arguments])
    compare.main()
    what, workdir_, words, together = called
    labels = [variant.label for variant in what.configs]
    assert labels == ["S", "X", "X model.cross.init=0", "X model.cross.init=1"]
    assert what.seeds == 3
    assert (workdir_, words, together) == (tmp_path, arguments, 3)
