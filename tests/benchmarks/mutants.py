"""What share of one-token mistakes does the default suite notice?

    make mutants ARGS="--sample 100 --seed 0"

Cosmic Ray lists the places of the package where an operator, a number, a comparison, a sign or a boolean can
be replaced. A place is drawn at random, then one of its replacements; annotations, docstrings and what a type
checker alone reads are left out. Each mutant is written into a copy of the tree, and the tests that reach its
line (found by one run under coverage, those that reach few lines first) run there until one fails. A mutant
that survives all of them is printed with its difference. Verdicts are kept in results.jsonl: the same command
goes on where it was ended.
"""

import argparse
import ast
import difflib
import io
import json
import os
import random
import resource
import subprocess
import sys
import tarfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import coverage
from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parents[2]
LAYERS = ("ops", "geometry", "transforms", "distributions", "nn", "flows", "infer", "models", "training")
NAMES = ("path", "line", "operator", "occurrence")  # what names a mutant
LEFT_OUT = ("NoOp", "Variable", "RemoveDecorator")
HANG = 1200  # CPU seconds after which a loop counts as endless, and so as noticed: more than the whole suite


def copy(folder: Path) -> Path:
    """The committed tree, in a folder of its own."""
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    return folder


def pytest(folder: Path, *options: str, limit: int | None = None) -> int:
    """The exit code of pytest in that copy of the tree; one that is ended after ``limit`` CPU seconds has a negative one."""
    env = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    with (folder / "pytest.log").open("w") as log:
        command = [sys.executable, "-m", "pytest", "-q", *options]
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)
        if limit:
            resource.prlimit(process.pid, resource.RLIMIT_CPU, (limit, limit))
        return process.wait()


def reached(folder: Path, workers: int) -> dict[str, dict[int, list[str]]]:
    """By file and line: the tests that reach it, those that reach few lines of the package first."""
    if not (folder / ".coverage").exists():
        code = pytest(
            folder, "-n", str(workers), "--cov=pyro_manifold", "--cov-context=test", "--cov-report="
        )
        if code:
            raise SystemExit(f"the suite itself fails: see {folder / 'pytest.log'}")
    data = coverage.CoverageData(str(folder / ".coverage"))
    data.read()
    lines, breadth = {}, defaultdict(int)
    for path in data.measured_files():
        by_line = data.contexts_by_lineno(path)
        lines[str(Path(path).relative_to(folder))] = {
            line: sorted({c.split("|")[0] for c in contexts if c}) for line, contexts in by_line.items()
        }
    for by_line in lines.values():
        for tests in by_line.values():
            for test in tests:
                breadth[test] += 1
    return {
        path: {line: sorted(tests, key=breadth.__getitem__) for line, tests in by_line.items()}
        for path, by_line in lines.items()
    }


def ignored_lines(code: str) -> set[int]:
    """Lines of annotations in signatures, of docstrings, and of imports that only a type checker reads."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(code)):
        parts: list[ast.AST | None] = []
        if isinstance(node, ast.FunctionDef):
            every = (
                *node.args.posonlyargs,
                *node.args.args,
                *node.args.kwonlyargs,
                node.args.vararg,
                node.args.kwarg,
            )
            parts = [node.returns, *(a.annotation for a in every if a)]
        elif isinstance(node, ast.AnnAssign):
            parts = [node.annotation]
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            parts = [node]
        for part in filter(None, parts):
            lines.update(range(part.lineno, part.end_lineno + 1))
    return lines


def places(folder: Path) -> list[list[dict[str, Any]]]:
    """For each place, its mutants."""
    found: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
    operators = {
        name: get_operator(name)() for name in operator_names() if not any(x in name for x in LEFT_OUT)
    }
    for layer in LAYERS:
        for path in sorted((folder / "pyro_manifold" / layer).rglob("*.py")):
            tree, skip = get_ast_from_path(path), ignored_lines(path.read_text())
            for name, operator in operators.items():
                every = ((a, b) for node in ast_nodes(tree) for a, b in operator.mutation_positions(node))
                for occurrence, (start, end) in enumerate(every):
                    if start[0] not in skip:
                        place = str(path.relative_to(folder)), start, end
                        mutant = {
                            "path": place[0],
                            "line": start[0],
                            "operator": name,
                            "occurrence": occurrence,
                        }
                        found[place].append(mutant)
    return [found[key] for key in sorted(found)]


def judge(mutant: dict[str, Any], folder: Path, tests: dict[str, dict[int, list[str]]]) -> dict[str, Any]:
    """The mutant with ``noticed`` and ``difference``."""
    path = folder / mutant["path"]
    code = path.read_text()
    mutated = mutate_code(code, get_operator(mutant["operator"])(), mutant["occurrence"])
    diff = difflib.unified_diff(code.splitlines(), mutated.splitlines(), lineterm="", n=0)
    mutant["difference"] = "\n".join(list(diff)[2:])
    by_line = tests.get(mutant["path"], {})
    chosen = by_line.get(mutant["line"]) or sorted({t for every in by_line.values() for t in every})
    mutant["tests"] = len(chosen)
    (folder / "chosen.txt").write_text("\n".join(chosen))
    try:
        path.write_text(mutated)
        mutant["noticed"] = (
            bool(chosen) and pytest(folder, "-x", "-p", "no:cacheprovider", "@chosen.txt", limit=HANG) != 0
        )
    finally:
        path.write_text(code)
    return mutant


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sample", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--out", type=Path, default=Path("mutants"), help="folder for copies of the tree and results.jsonl"
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    folders: SimpleQueue[Path] = SimpleQueue()
    for k in range(args.workers):
        folder = (args.out / f"tree{k}").resolve()
        folders.put(folder if folder.exists() else copy(folder))
    first = (args.out / "tree0").resolve()
    tests = reached(first, args.workers)
    drawn = random.Random(args.seed)
    mutants = [drawn.choice(place) for place in drawn.sample(places(first), args.sample)]

    kept = args.out / "results.jsonl"
    known = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    results = {tuple(r[k] for k in NAMES): r for r in known}

    def work(mutant: dict[str, Any]) -> None:
        key = tuple(mutant[k] for k in NAMES)
        if key in results:
            return
        folder = folders.get()
        try:
            result = judge(mutant, folder, tests)
        finally:
            folders.put(folder)
        state = "noticed " if result["noticed"] else "SURVIVED"
        print(
            f"{state} {result['path']}:{result['line']} ({result['tests']} tests)\n{result['difference']}",
            flush=True,
        )
        results[key] = result
        with kept.open("a") as log:
            log.write(json.dumps(result) + "\n")

    with ThreadPoolExecutor(args.workers) as pool:
        list(pool.map(work, mutants))
    noticed = sum(results[tuple(m[k] for k in NAMES)]["noticed"] for m in mutants)
    print(f"{noticed} of {len(mutants)} noticed")


if __name__ == "__main__":
    main()
