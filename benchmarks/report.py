"""What stands beside every figure: machine, versions, date and command; and tables as markdown."""

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import torch

_PACKAGES = ("sklearn_cnnlstm", "scikit-learn", "skorch", "torch", "numpy", "keras", "aeon", "psutil")


def circumstances():
    """Machine, versions, date and command of this run."""
    return {
        "machine": f"{_cpu()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}{_gpu()}",
        "torch_threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()} | _versions(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.argv]),
        "commit": commit(),
    }


def commit():
    """Short name of the commit, with a + if the package differs from it."""
    package = str(Path(__file__).parents[1] / "sklearn_cnnlstm")
    return _git("rev-parse", "--short", "HEAD") + ("+" if _git("status", "--porcelain", package) else "")


def markdown(rows):
    """A table with a line per dict of `rows`, whose first one names the columns."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def publish(rows, out, **details):
    """Print the table and its circumstances; write both, and the details, to the file `out` if one is named."""
    about = circumstances()
    print("\n" + markdown(rows) + "\n")
    print("\n".join(f"{name}: {value}" for name, value in about.items()))
    if out is not None:
        Path(out).write_text(json.dumps(about | {"table": rows} | details, indent=1) + "\n")


def _git(*arguments):
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _gpu():
    return f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""


def _cpu():
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor()


def _versions():
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
