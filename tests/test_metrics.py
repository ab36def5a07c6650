"""Accuracies against plain loops."""

import jax.numpy as jnp
import numpy as np
import pytest

from crl_jax import losses, metrics
from crl_jax.kinds import Categorical

CLASSES = {"noun": 9, "adjective": 3}
KINDS = {t: Categorical(tuple(map(str, range(k)))) for t, k in CLASSES.items()}


def example(seed, size=40):
    rng = np.random.default_rng(seed)
    logits = {
        t: rng.normal(size=(size, k)).astype(np.float32) for t, k in CLASSES.items()
    }
    labels = {t: rng.integers(-1, k, size).astype(np.int32) for t, k in CLASSES.items()}
    return logits, labels


def sums(logits, labels):
    loss = {t: losses.cross_entropy(jnp.array(logits[t]), labels[t]) for t in logits}
    return metrics.sums(
        {t: KINDS[t] for t in logits},
        {t: jnp.array(x) for t, x in logits.items()},
        {t: jnp.array(y) for t, y in labels.items()},
        loss,
    )


def test_means_of_two_batches_against_a_loop():
    batches = [example(0), example(1, size=7)]
    result = metrics.means([sums(*batch) for batch in batches], KINDS)
    assert list(result) == ["noun", "adjective", "joint"]
    joint = []
    for task, count in CLASSES.items():
        top1, top5, by_class = [], [], {}
        for logits, labels in batches:
            for row, label in zip(logits[task], labels[task], strict=True):
                if label < 0:
                    continue
                order = list(np.argsort(-row))
                top1.append(order[0] == label)
                top5.append(label in order[:5])
                by_class.setdefault(label, []).append(order[0] == label)
        assert result[task]["count"] == len(top1)
        assert result[task]["top1"] == pytest.approx(np.mean(top1))
        mean_class = np.mean([np.mean(v) for v in by_class.values()])
        assert result[task]["mean_class"] == pytest.approx(mean_class)
        if count > 5:
            assert result[task]["top5"] == pytest.approx(np.mean(top5))
        else:
            assert np.isnan(result[task]["top5"])
    for logits, labels in batches:
        for i in range(len(labels["noun"])):
            if all(labels[t][i] >= 0 for t in CLASSES):
                right = [np.argmax(logits[t][i]) == labels[t][i] for t in CLASSES]
                joint.append(all(right))
    assert result["joint"] == {
        "count": len(joint),
        "top1": pytest.approx(np.mean(joint)),
    }


def test_equal_or_undefined_logits_are_not_right_about_everything():
    labels, noun = {"noun": np.arange(9, dtype=np.int32)}, {"noun": KINDS["noun"]}
    constant = {"noun": np.zeros((9, 9), np.float32)}
    assert metrics.means([sums(constant, labels)], noun)["noun"]["top1"] == 1 / 9
    undefined = {"noun": np.full((9, 9), np.nan, np.float32)}
    in_part = {"noun": np.eye(9, dtype=np.float32)}
    in_part["noun"][:, 0] = np.nan
    for logits in (undefined, in_part):
        result = metrics.means([sums(logits, labels)], noun)["noun"]
        assert result["top1"] == result["top5"] == 0


def test_a_task_without_labels_has_no_accuracy():
    logits, labels = example(0)
    labels["noun"][:] = -1
    result = metrics.means([sums(logits, labels)], KINDS)
    assert result["noun"]["count"] == 0
    assert np.isnan(result["noun"]["top1"])
    assert result["joint"]["count"] == 0
    assert result["adjective"]["count"] > 0


def test_score_is_a_task_or_the_mean_of_those_with_labels():
    def values(top1, count=10):
        return {"top1": top1, "count": count}

    nan = float("nan")
    kinds = dict.fromkeys("ab", Categorical(("no", "yes")))
    result = {"a": values(0.2), "b": values(0.4), "joint": values(0.1)}
    assert metrics.score(result, kinds, "b") == 0.4
    assert metrics.score(result, kinds, "mean") == pytest.approx(0.3)
    unlabelled = result | {"a": values(nan, 0), "joint": values(nan, 0)}
    assert metrics.score(unlabelled, kinds, "mean") == 0.4
    assert metrics.score(unlabelled, kinds, "a") is None


def test_label_smoothing_against_numpy():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 4)).astype(np.float32)
    labels = np.array([0, 3, -1, 2, 1, 1], np.int32)
    result = losses.cross_entropy(jnp.array(logits), jnp.array(labels), 0.1)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    for i, label in enumerate(labels):
        target = np.full(4, 0.1 / 4)
        target[label] += 0.9
        expected = -(target * log_p[i]).sum() if label >= 0 else 0.0
        assert float(result[i]) == pytest.approx(expected, rel=1e-5)
