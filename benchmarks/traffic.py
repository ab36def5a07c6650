"""What a compiled program moves between the memory of a device and its cores.

Each operation of XLA's optimised program reads its operands from memory and writes its
results there; what is fused into one operation stays in registers. Caches are ignored,
and so are loops: a loop's body counts as one operation.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator

# Operations that move nothing, or whose other half is counted.
_FREE = {"parameter", "constant", "bitcast", "tuple", "get-tuple-element", "after-all"}

_OPERATION = re.compile(
    r"\s+(?:ROOT )?%(?P<name>[\w.-]+) = (?P<shape>\(.*?\)|\S+) (?P<kind>[\w-]+)"
    r"\((?P<operands>.*?)\)(?P<rest>.*)"
)


def moved(program: str) -> Counter[str]:
    """Returns the bytes that each kind of operation reads and writes.

    Args:
      program: optimised HLO, from `jax.stages.Compiled.as_text`.
    """
    found: Counter[str] = Counter()
    sizes: dict[str, int] = {}
    for operation in _operations(program):
        name, kind = operation["name"], operation["kind"]
        sizes[name] = _bytes(operation["shape"])
        if kind in _FREE or kind.endswith("-done"):
            continue
        operands = re.findall(r"%([\w.-]+)", operation["operands"])
        target = re.search(r'custom_call_target="([^"]+)"', operation["rest"])
        kind = target[1] if target else kind
        found[kind] += sizes[name] + sum(sizes[x] for x in operands if x in sizes)
    return found


def _operations(program: str) -> Iterator[re.Match[str]]:
    """Yields the operations of the entry computation."""
    entry = re.sub(r"/\*.*?\*/", "", program[program.index("\nENTRY") :])
    for line in entry.splitlines():
        if operation := _OPERATION.match(line):
            yield operation


def _bytes(shape: str) -> int:
    """Returns the size of an array, or of a tuple of arrays."""
    return sum(
        math.prod(int(n) for n in sides.split(",") if n) * _item_bytes(dtype)
        for dtype, sides in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shape)
    )


def _item_bytes(dtype: str) -> int:
    bits = re.search(r"\d+", dtype)
    return max(1, int(bits[0]) // 8) if bits else 1  # pred, or a token of no elements
