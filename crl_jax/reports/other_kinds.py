"""The sections of a run's report about tasks without exactly one class per picture."""

import jax.numpy as jnp
import numpy as np

from crl_jax.kinds import Multilabel, Regression
from crl_jax.reports import charts, page
from crl_jax.reports.findings import Findings
from crl_jax.reports.page import Child, Section, element
from crl_jax.terminal import percent


def several_labels(findings: Findings) -> Section | None:
    """Returns the average precision of each label; None if no task is multilabel."""
    body: list[Child] = []
    for task, kind in findings.kinds.items():
        if isinstance(kind, Multilabel):
            table = _label_table(kind, *findings.labelled(task))
            body += [element("h3", task), element("div", table, class_="names")]
    if not body:
        return None
    text = (
        "Several labels per picture. Average precision is the mean precision at the "
        "ranks of the pictures that have the label, when all pictures are ranked by "
        'its probability; "found in" counts pictures with a probability above 50%.'
    )
    return "Labels", [element("p", text, class_="pale"), *body]


def _label_table(kind: Multilabel, labels: np.ndarray, logits: np.ndarray) -> Child:
    """Returns the labels from worst to best; those that never occur are last."""
    precision = kind.average_precisions(logits, labels)
    there, found = kind.class_counts(labels), logits > 0
    right = np.sum(found & (labels == 1), axis=0)
    rows: list[list[Child]] = [
        [
            kind.names[k],
            page.share_bar(np.nan_to_num(precision[k])),
            percent(precision[k]),
            f"{there[k]:,}",
            f"{found[:, k].sum():,}",
            f"{right[k]:,}",
        ]
        for k in np.argsort(precision, kind="stable")
    ]
    columns = ["label", "", "average precision, %", "pictures", "found in", "correctly"]
    return page.table(columns, rows)


def numbers(findings: Findings) -> Section | None:
    """Returns regressions' predictions against their labels; None if there are none."""
    figures = []
    for task, kind in findings.kinds.items():
        if isinstance(kind, Regression):
            labels, outputs = findings.labelled(task)
            title = f"{task}: prediction against label"
            said = np.asarray(kind.answer(jnp.asarray(outputs)))
            if len(labels):
                figures.append(charts.scatter_chart(title, labels, said))
    if not figures:
        return None
    text = (
        f"One dot per picture, of at most {charts.DOTS:,} of them; on the line, the "
        "prediction equals the label."
    )
    body = element("div", *figures, class_="grid")
    return "Numbers", [element("p", text, class_="pale"), body]
