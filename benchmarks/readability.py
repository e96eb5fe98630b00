"""Counts what makes code long: functions, classes, files and lines, and lists said again.

    python benchmarks/readability.py [FOLDER ...]

Over the Python files of wavenet/ and the commands of each folder (this one where none is given), a
column each, so that two commits are compared in one run. A keyword list counts as repeated where a
call hands on four or more names as they are (name=name), or where two functions take the same six
or more parameters by name.
"""

import ast
import json
import sys
from itertools import combinations
from pathlib import Path

LINES, CLASS_LINES, WIDTH = 40, 200, 100
PASSED_ON, SHARED = 4, 6


def sources(folder: Path) -> list[Path]:
    commands = [folder / "train.py", folder / "generate.py"]
    return [*sorted((folder / "wavenet").rglob("*.py")), *commands]


def length(node: ast.AST) -> int:
    return node.end_lineno - node.lineno + 1  # type: ignore[attr-defined]


def passes_on(call: ast.Call) -> bool:
    same = [
        keyword
        for keyword in call.keywords
        if isinstance(keyword.value, ast.Name | ast.Attribute)
        and keyword.arg == getattr(keyword.value, "id", getattr(keyword.value, "attr", None))
    ]
    return len(same) >= PASSED_ON


def parameters(function: ast.FunctionDef) -> frozenset[str]:
    arguments = function.args
    return frozenset(a.arg for a in (*arguments.args, *arguments.kwonlyargs)) - {"self", "cls"}


def counts(folder: Path) -> dict[str, float | str]:
    paths = sources(folder)
    texts = {path: path.read_text() for path in paths}
    nodes = [node for text in texts.values() for node in ast.walk(ast.parse(text))]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    lengths = sorted(map(length, functions))
    wide = sum(len(line) > WIDTH for text in texts.values() for line in text.splitlines())
    signatures = [parameters(function) for function in functions]
    shared = sum(len(one & other) >= SHARED for one, other in combinations(signatures, 2))
    largest = max(texts, key=lambda path: texts[path].count("\n"))
    total = sum(text.count("\n") for text in texts.values())
    return {
        "lines": total,
        f"lines over {WIDTH} characters": wide,
        "functions": len(functions),
        "median lines of a function": lengths[len(lengths) // 2],
        f"functions over {LINES} lines": sum(lines > LINES for lines in lengths),
        f"classes over {CLASS_LINES} lines": sum(
            length(node) > CLASS_LINES for node in nodes if isinstance(node, ast.ClassDef)
        ),
        "calls that pass a keyword list on": sum(
            passes_on(node) for node in nodes if isinstance(node, ast.Call)
        ),
        "pairs of functions that share one": shared,
        "largest file": f"{largest.relative_to(folder)} ({texts[largest].count(chr(10))})",
    }


def main() -> None:
    folders = [Path(name) for name in sys.argv[1:]] or [Path(__file__).parent.parent]
    found = [counts(folder) for folder in folders]
    for name in found[0]:
        print(f"{name:<36}" + "".join(f"{row[name]!s:>34}" for row in found))
    print(json.dumps({"benchmark": "readability", "rows": found}))


if __name__ == "__main__":
    main()
