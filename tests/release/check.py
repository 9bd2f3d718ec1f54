"""Does the wheel work where users install it?

    make release                                                      # this Python, the versions of constraints.txt
    python tests/release/check.py --python python3.10 --versions oldest
    python tests/release/check.py --python python3.13 --versions newest --suite

The committed tree is built into a source distribution and a wheel. For each interpreter and set of versions the
wheel is installed into a new environment, outside of the tree; there ``smoke.py`` runs, the demo's command answers,
a type checker reads ``typed.py`` and every exported name of the installed package, and with ``--suite`` the whole test suite runs.
``oldest`` are the lower bounds of setup.cfg, ``tested`` the versions of constraints.txt, ``newest`` whatever the
registry offers. Everything is left in ``--out``, and a line for each environment is printed at the end.
"""

import argparse
import configparser
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
EXPECTED = 'Incompatible types in assignment (expression has type "Tensor", variable has type "str")'


def run(*command: str | Path, cwd: Path, log: Path) -> bool:
    """Whether the command ends well; what it prints goes to the end of ``log``."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env.update(OMP_NUM_THREADS="1", MPLBACKEND="Agg")
    with log.open("a") as out:
        out.write(f"$ {' '.join(map(str, command))}\n")
        out.flush()
        return subprocess.run([*map(str, command)], cwd=cwd, env=env, stdout=out, stderr=out).returncode == 0


def build(out: Path) -> tuple[Path, Path]:
    """The committed tree, unpacked, and the wheel built from it."""
    tree, dist = out / "tree", out / "dist"
    for folder in (tree, dist):
        shutil.rmtree(folder, ignore_errors=True)
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(tree, filter="data")
    if not run(sys.executable, "-m", "build", "--outdir", dist, tree, cwd=out, log=out / "build.log"):
        raise SystemExit(f"the build failed: see {out / 'build.log'}")
    return tree, next(dist.glob("*.whl"))


def pins(versions: str, tree: Path) -> list[str]:
    """What pip is to hold to."""
    if versions == "newest":
        return []
    if versions == "tested":
        return ["-c", str(tree / "constraints.txt")]
    config = configparser.ConfigParser()
    config.read(tree / "setup.cfg")
    return re.sub(
        r"#.*|>=", lambda m: "==" if m[0] == ">=" else "", config["options"]["install_requires"]
    ).split()


# a program for the interpreter of the environment: it writes one that asks a type checker for the type of every exported name
EXPORTED = """
import importlib, pathlib, pyro_manifold
package = pathlib.Path(pyro_manifold.__file__).parent
folders = sorted(p.parent for p in package.rglob("__init__.py") if p.parent != package)
names = [".".join(("pyro_manifold", *folder.relative_to(package).parts)) for folder in folders]
public = [
    (module, name)
    for module in [*names, "pyro_manifold.constraints"]
    for name in getattr(importlib.import_module(module), "__all__", ())
]
for i, (module, name) in enumerate(public):
    print(f"from {module} import {name} as x{i}\\nreveal_type(x{i})")
"""


def typed(env: Path, python: Path) -> bool:
    """Whether a type checker finds the one mistake of typed.py, and that no exported name is ``Any``."""
    shutil.copy(HERE / "typed.py", env)
    names = subprocess.run(
        [python, "-c", EXPORTED], cwd=env, capture_output=True, text=True, check=True
    ).stdout
    (env / "exported.py").write_text(names)
    log, options = env / "types.txt", ("--ignore-missing-imports", "--python-executable", python)
    run(
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        "",
        *options,
        "typed.py",
        "exported.py",
        cwd=env,
        log=log,
    )
    seen = log.read_text()
    untyped = [line for line in seen.splitlines() if line.endswith('type is "Any"')]
    return EXPECTED in seen and "Found 1 error in 1 file" in seen and not untyped


def check(python: str, versions: str, suite: bool, tree: Path, wheel: Path, out: Path) -> dict[str, bool]:
    """By name of the step: whether it ended well; later steps need the first."""
    env = out / f"{Path(python).name}-{versions}"
    shutil.rmtree(env, ignore_errors=True)
    env.mkdir()
    log = env / "log.txt"
    binary = env / "venv" / "bin"
    extra = "[test,tutorials]" if suite else ""
    steps = {
        "install": run(python, "-m", "venv", env / "venv", cwd=env, log=log)
        and run(
            binary / "pip", "install", "--quiet", *pins(versions, tree), f"{wheel}{extra}", cwd=env, log=log
        )
        and run(binary / "pip", "freeze", cwd=env, log=log)
    }
    if not steps["install"]:
        return steps
    steps["smoke"] = run(binary / "python", HERE / "smoke.py", cwd=env, log=log)
    steps["command"] = run(binary / "pyro-manifold-demo", "--help", cwd=env, log=log)
    steps["types"] = typed(env, binary / "python")
    if suite:
        shutil.copytree(tree, env / "tree", ignore=shutil.ignore_patterns("pyro_manifold"))
        command = (binary / "python", "-m", "pytest", "-q", "-n", "2", "-W", "default", "tests")
        steps["suite"] = run(*command, cwd=env / "tree", log=env / "suite.txt")
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--python", nargs="+", default=[sys.executable], help="interpreters, commands or paths"
    )
    parser.add_argument("--versions", nargs="+", default=["tested"], choices=["oldest", "tested", "newest"])
    parser.add_argument("--suite", action="store_true", help="run the test suite too")
    parser.add_argument("--out", type=Path, default=Path("release"), help="folder for all that is made")
    args = parser.parse_args()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    tree, wheel = build(out)
    results = {
        (python, versions): check(python, versions, args.suite, tree, wheel, out)
        for python in args.python
        for versions in args.versions
    }
    for (python, versions), steps in results.items():
        print(f"{python} {versions}:", ", ".join(f"{k} {'ok' if v else 'FAILED'}" for k, v in steps.items()))
    if not all(all(steps.values()) for steps in results.values()):
        raise SystemExit(f"logs are in {out}")


if __name__ == "__main__":
    main()
