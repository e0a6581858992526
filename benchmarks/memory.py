"""How much memory does fit need beyond X, and what does it cost to train from a memory-mapped file?

Each fit runs in a process of its own, on a network so small that the data decide. Three cases:
- array: X is a float32 array in memory; counted is the peak of the resident memory (VmHWM).
- memmap: X is a file on disk; counted is the peak of the anonymous memory (RssAnon: what the kernel cannot drop),
  looked up every 2 ms. Pages of the file are not counted, as they go when others need the room.
- copy: the same file read into memory; only its speed counts, against that of memmap with the file in the page cache.
"Since before fit" is that peak less what the process held before: the libraries, and X if it is in memory.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import report

from sklearn_cnnlstm import CNNLSTMClassifier

SAMPLE_SHAPE = (500, 50)
SAMPLE_BYTES = 4 * 500 * 50
MB, GB = 1e6, 1e9
SETTINGS = {
    "conv_bank": 0,
    "conv_channels": (8,),
    "kernel_size": 3,
    "pool_size": 50,
    "hidden_size": 8,
    "batch_size": 512,
}


def main():
    options = _parser().parse_args()
    if options.case is not None:
        print(json.dumps(run(options.case, options.file, options.n_samples)))
        return
    array, memmap, ratios = measure(options)
    rows = [
        row("array", array, "1"),
        row("memmap", memmap[-1], f"{np.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"),
    ]
    report.publish(rows, options.out, array=array, memmap=memmap, speed_ratios=ratios)


def row(case, result, speed):
    return {
        "X": f"{case} of {result['x_bytes'] / GB:.2f} GB",
        "fit, s": f"{result['seconds']:.1f}",
        "counted": result["field"],
        "peak of the process, MB": f"{result['peak_bytes'] / MB:.0f}",
        "since before fit, MB": f"{(result['peak_bytes'] - result['bytes_before']) / MB:.0f}",
        "speed / that of a copy in memory": speed,
    }


def measure(options):
    """The results of array and memmap, and the speed of memmap as a share of that of its copy in memory."""
    array = in_new_process("array", None, int(options.array_gb * GB / SAMPLE_BYTES))
    n_samples = int(options.memmap_gb * GB / SAMPLE_BYTES)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        file = Path(folder) / "X.f4"
        write_data(file, n_samples)
        memmaps, ratios = [], []
        in_new_process("memmap", file, n_samples)  # brings the file into the page cache
        for _ in range(options.rounds):
            memmaps.append(in_new_process("memmap", file, n_samples))
            copied = in_new_process("copy", file, n_samples)
            ratios.append(copied["seconds"] / memmaps[-1]["seconds"])
    return array, memmaps, ratios


def in_new_process(case, file, n_samples):
    command = [sys.executable, __file__, "--case", case, "--n-samples", str(n_samples)]
    command += [] if file is None else ["--file", str(file)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def write_data(file, n_samples):
    with file.open("wb") as stream:
        for part in chunks(n_samples):
            part.tofile(stream)


def chunks(n_samples, rows=100):
    """Random float32 samples, a few at a time."""
    random = np.random.default_rng(0)
    for start in range(0, n_samples, rows):
        yield random.standard_normal((min(rows, n_samples - start), *SAMPLE_SHAPE), dtype=np.float32)


def run(case, file, n_samples):
    """Fit once, in a process that has done nothing else but a tiny fit; seconds and bytes."""
    random = np.random.default_rng(1)
    y = random.integers(2, size=n_samples)
    fit(random.normal(size=(32, *SAMPLE_SHAPE)).astype(np.float32), y[:32])  # libraries loaded, threads started
    if case == "array":
        X = np.empty((n_samples, *SAMPLE_SHAPE), np.float32)
        start = 0
        for part in chunks(n_samples):
            X[start : start + len(part)] = part
            start += len(part)
    else:
        X = np.memmap(file, np.float32, mode="r", shape=(n_samples, *SAMPLE_SHAPE))
        X = np.array(X) if case == "copy" else X
    field = "RssAnon" if case == "memmap" else "VmHWM"
    before = status_bytes("RssAnon" if case == "memmap" else "VmRSS")
    with Peak(field) as peak:
        seconds = fit(X, y)
    return {
        "case": case,
        "x_bytes": X.nbytes,
        "seconds": seconds,
        "field": field,
        "bytes_before": before,
        "peak_bytes": peak.bytes,
    }


def fit(X, y):
    start = time.perf_counter()
    CNNLSTMClassifier(max_epochs=1, random_state=0, **SETTINGS).fit(X, y)
    return time.perf_counter() - start


class Peak:
    """The highest value that a field of this process's status has inside the block, looked up every 2 ms."""

    def __init__(self, field):
        self.field = field
        self.bytes = status_bytes(field)

    def __enter__(self):
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while not self.done.wait(0.002):
            self.bytes = max(self.bytes, status_bytes(self.field))

    def __exit__(self, *error):
        self.done.set()
        self.thread.join()
        self.bytes = max(self.bytes, status_bytes(self.field))


def status_bytes(field):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}; this benchmark needs Linux.")


def _parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--array-gb", type=float, default=2.0, help="size of the array (default: 2)")
    parser.add_argument("--memmap-gb", type=float, default=4.0, help="size of the file (default: 4)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of memmap and its copy in turn (default: 5)")
    parser.add_argument("--folder", help="where the file is written (default: the system's temporary folder)")
    parser.add_argument("--out", metavar="FILE.json", help="write the result here")
    for name, kind in (("--case", str), ("--file", Path), ("--n-samples", int)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)  # for the processes that this one starts
    return parser


if __name__ == "__main__":
    main()
