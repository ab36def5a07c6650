"""Write `labels.csv` of the Grocery Store data set (Klasson et al. 2019).

  python -m benchmarks.grocery_labels GroceryStoreDataset/dataset

The data set's folders say what its pictures show: `train/Fruit/Apple/Pink-Lady/` are
training pictures of the group Fruit, coarse class Apple and fine class Pink-Lady. The
list is written into the folder that is named.
"""

import argparse
import csv
from pathlib import Path

SPLITS = ("train", "val", "test")


def main() -> None:
    """Reads the arguments and writes the list."""
    verb = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verb.add_argument("dataset", type=Path, help="folder with train, val and test")
    folder = verb.parse_args().dataset
    files = [file for split in SPLITS for file in (folder / split).rglob("*.jpg")]
    if not files:
        verb.error(f"{folder} has no pictures in {', '.join(SPLITS)}")
    rows = []
    for file in sorted(files):
        path = file.relative_to(folder)
        # Of a coarse class with a single fine one, the pictures lie in its own folder.
        split, group, coarse = path.parts[:3]
        rows.append((path.as_posix(), split, group, coarse, path.parts[-2]))
    out = folder / "labels.csv"
    with out.open("w", newline="", encoding="utf-8") as table:
        header = ("file", "split", "group", "coarse", "fine")
        csv.writer(table).writerows([header, *rows])
    print(f"Wrote {len(rows):,} rows to {out}")


if __name__ == "__main__":
    main()
