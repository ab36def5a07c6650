"""The joint answer: against a plain loop over all combinations."""

import itertools
import shutil

import numpy as np
import pytest

import crl_jax
from crl_jax import evaluation_loop, run_files, step
from crl_jax.errors import UserError
from crl_jax.inference import joint
from crl_jax.train import train

COMBINATIONS = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 2], [1, 2, 3]])
CLASSES = {"adjective": 2, "noun": 3, "anp": 4}


def made(rng, count):
    """Softmaxes of random logits."""
    logits = {task: rng.normal(size=(count, k)) for task, k in CLASSES.items()}
    exponentials = {task: np.exp(x) for task, x in logits.items()}
    return {t: e / e.sum(axis=1, keepdims=True) for t, e in exponentials.items()}


@pytest.mark.parametrize("in_memory", [1, 4 * 7, 2**22])
def test_the_answer_is_that_of_a_loop(monkeypatch, in_memory):
    monkeypatch.setattr(joint, "_SCORES", in_memory)
    probabilities = made(np.random.default_rng(0), 20)
    weights = {"adjective": 0.5, "noun": 0.0, "anp": 2.0}
    labels, shares = joint.JointRule(COMBINATIONS, weights).answers(probabilities)
    for i in range(20):
        products = [
            np.prod(
                [
                    probabilities[task][i, label] ** weights[task]
                    for task, label in zip(CLASSES, combination, strict=True)
                ]
            )
            for combination in COMBINATIONS
        ]
        assert labels[i].tolist() == COMBINATIONS[np.argmax(products)].tolist()
        assert shares[i] == pytest.approx(max(products) / sum(products))


def test_a_probability_of_zero_rules_nothing_out_alone():
    nothing = {task: np.zeros((1, k)) for task, k in CLASSES.items()}
    rule = joint.JointRule(COMBINATIONS, dict.fromkeys(CLASSES, 1.0))
    assert rule.answers(nothing)[1] == pytest.approx(0.25)


def test_the_chosen_weights_are_the_best_that_can_be_had():
    """One head is right, one says nothing, and one is wrong with confidence."""
    rng = np.random.default_rng(1)
    truth = COMBINATIONS[rng.integers(len(COMBINATIONS), size=300)]
    probabilities = made(rng, 300)
    known, wrong = probabilities["noun"], probabilities["adjective"]
    known[np.arange(300), truth[:, 1]] += 2
    wrong[np.arange(300), 1 - truth[:, 0]] += 5
    probabilities["noun"] = known / known.sum(axis=1, keepdims=True)
    probabilities["adjective"] = wrong / wrong.sum(axis=1, keepdims=True)
    labels = {task: truth[:, t] for t, task in enumerate(CLASSES)}

    def right(weights):
        rule = joint.JointRule(COMBINATIONS, dict(zip(CLASSES, weights, strict=True)))
        found, _ = rule.answers(probabilities)
        return np.all(found == truth, axis=1).mean()

    rule = joint.choose_rule(COMBINATIONS, probabilities, labels)
    chosen = right(rule.weights.values())
    assert chosen > right([1.0, 1.0, 1.0])
    assert rule.weights["adjective"] == 0
    every = itertools.product(joint.WEIGHTS, repeat=3)
    best = max(right(weights) for weights in every if any(weights))
    assert chosen >= best - 0.01  # one weight at a time may miss a little


def test_a_run_keeps_the_weights_and_predicts_with_them(
    trained, tmp_path, capsys, monkeypatch
):
    directory, built = tmp_path / "run", []
    shutil.copytree(trained[0], directory)
    map_eval_step = step.map_eval_step

    def noted(*arguments):
        built.append(arguments)
        return map_eval_step(*arguments)

    monkeypatch.setattr(step, "map_eval_step", noted)
    judged = joint.choose_weights(str(directory))
    assert len(built) == 1  # for both splits
    result = trained[1]
    for task in ("hue", "number", "joint"):
        assert judged[task].alone == pytest.approx(result[task]["top1"])
    printed = capsys.readouterr().out
    assert "Warning" not in printed
    assert "Top-1 in percent, split test" in printed
    assert "all heads together" in printed
    combinations, weights = run_files.read_combinations(directory)
    assert set(weights) == {"hue", "number"}

    run_files.write_combinations(directory, combinations, {"hue": 0.0, "number": 1.0})
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    for prediction in crl_jax.load(directory)(images):
        seen = {prediction.classes["number"][n] for n in combinations[:, 1]}
        ranked = prediction.top("number", 7)
        best = next(name for name, _ in ranked if name in seen)
        assert prediction.joint.labels["number"] == best


def test_the_weights_outlast_the_training_command(trained, new_config, tmp_path):
    """It is what a run that is done, or was stopped, is given again."""
    directory = tmp_path / "run"
    shutil.copytree(trained[0], directory)
    combinations, _ = run_files.read_combinations(directory)
    weights = {"hue": 0.25, "number": 1.0}
    run_files.write_combinations(directory, combinations, weights)
    config = new_config()
    config.model.branch_from = "res5a"
    config.train.eval_every = 3
    config.optim.learning_rate = 0.02
    train(config, directory)
    kept, kept_weights = run_files.read_combinations(directory)
    np.testing.assert_array_equal(kept, combinations)
    assert kept_weights == weights

    wrong = ["[[0], [1, 2]]", "[[0], [1]]", "[[0, 7]]", "[[0, -1]]", "[[], []]"]
    wrong += [f"[[1{30 * '0'}, 0]]", '[[0, 0]], "weights": {"hue": NaN}']
    for damaged in wrong:
        (directory / "combinations.json").write_text(f'{{"combinations": {damaged}}}')
        for read in (crl_jax.load, joint.choose_weights):
            with pytest.raises(UserError, match="combinations.json is damaged: delete"):
                read(directory)
    run_files.write_combinations(directory, combinations)
    assert run_files.read_combinations(directory)[1] == {}


def test_it_is_said_if_the_weights_were_chosen_on_what_is_judged(
    trained, tmp_path, capsys
):
    directory = tmp_path / "run"
    shutil.copytree(trained[0], directory)
    joint.choose_weights(directory, "val[:50%]")
    printed = capsys.readouterr().out
    assert "Warning: the split val[:50%] shares pictures with val, by which" in printed


def test_weights_are_not_chosen_on_pictures_without_labels(
    trained, tmp_path, monkeypatch
):
    directory = tmp_path / "run"
    shutil.copytree(trained[0], directory)
    evaluate_batches = evaluation_loop.evaluate_batches

    def without_hue(eval_step, variables, batches, *others):
        batches = (
            batch
            | {
                "labels": batch["labels"]
                | {"hue": np.full_like(batch["labels"]["hue"], -1)}
            }
            for batch in batches
        )
        return evaluate_batches(eval_step, variables, batches, *others)

    monkeypatch.setattr(evaluation_loop, "evaluate_batches", without_hue)
    before = (directory / "combinations.json").read_bytes()
    with pytest.raises(UserError, match="No picture of the split val has all labels"):
        joint.choose_weights(directory, "test")
    assert (directory / "combinations.json").read_bytes() == before


def test_a_split_that_is_not_there_is_answered_before_anything_is_computed(
    trained, tmp_path, monkeypatch
):
    directory = tmp_path / "run"
    shutil.copytree(trained[0], directory)
    monkeypatch.setattr(evaluation_loop, "evaluate_batches", lambda *_: 1 / 0)
    before = (directory / "combinations.json").read_bytes()
    with pytest.raises(UserError, match="no split 'tset'; it has train, val, test"):
        joint.choose_weights(directory, "tset")
    assert (directory / "combinations.json").read_bytes() == before


def test_what_cannot_be_decided_together_is_answered(trained, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(trained[0], directory)
    (directory / "combinations.json").unlink()
    with pytest.raises(UserError, match="not have two categorical tasks with labels"):
        joint.choose_weights(directory, "test")
