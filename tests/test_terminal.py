"""What is printed stands as it was meant, whatever the names are."""

import pytest

from crl_jax import terminal


@pytest.mark.parametrize("name", ["[/red]", "[bold]", ":smile:", "a, b", "図"])
def test_names_are_printed_as_they_are(name, capsys, monkeypatch):
    terminal.print_table(f"title {name}", ["task", "number"], [[name, "1"]])
    progress = terminal.TrainingProgress(0, 2, 8)
    progress.update(1)
    progress.update(2)
    progress.line(2, 1.0, "val", {name: {"top1": 0.5}, "joint": {"top1": float("nan")}})
    lines = capsys.readouterr().out.splitlines()
    assert sum(name in line for line in lines) == 3
    assert f"val top-1  {name} 50.00  joint –" in lines[-1]
