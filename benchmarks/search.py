"""How much faster is a grid search with two workers than with one?

The same GridSearchCV with n_jobs=1 and with n_jobs=2, in turn; the workers are started, and torch loaded in them,
before the clock runs. joblib gives each of two workers half of the cores, whereas a single one has them all for its
threads. So two workers that do not disturb each other gain twice what a fit with half of the threads keeps of the speed
of one with all of them: that is "could be", measured by the fits of one candidate, in the same turns.

Without psutil joblib's workers collect garbage after a fit, once a second at most: a seventh of a second where torch is
loaded.
"""

import argparse
import importlib.util
import statistics
import time

import numpy as np
import report
import torch
from sklearn.model_selection import GridSearchCV

from sklearn_cnnlstm import CNNLSTMClassifier

SMALL = {"conv_channels": (16,), "kernel_size": 5, "pool_size": 2, "batch_size": 32}
SIZES = {  # shape of X, parameters that are not the default
    "tiny": ((400, 50, 3), SMALL | {"max_epochs": 40}),
    "series": ((2000, 100, 6), {"max_epochs": 4}),
}
GRID = {"lr": [1e-3, 3e-3, 1e-2], "hidden_size": [32, 64]}
ONE_CANDIDATE = {"lr": [3e-3], "hidden_size": [32]}
N_CLASSES = 3


def main():
    options = _parser().parse_args()
    rows, seconds = [], {}
    for size in options.sizes:
        row, seconds[size] = measure(size, rounds=options.rounds)
        rows.append(row)
        print(report.markdown([row]), flush=True)
    if importlib.util.find_spec("psutil") is None:
        print("psutil is not installed: the workers collect garbage after a fit")
    report.publish(rows, options.out, seconds=seconds)


def measure(size, *, rounds):
    """A row of the table and all times of one size."""
    shape, params = SIZES[size]
    estimator = CNNLSTMClassifier(conv_bank=0, random_state=0, **params)
    random = np.random.default_rng(0)
    X = random.normal(size=shape).astype(np.float32)
    y = random.integers(N_CLASSES, size=len(X))
    search(estimator, X[:60], y[:60], GRID, n_jobs=2)  # starts the workers

    def alone(n_threads):
        torch.set_num_threads(n_threads)
        return search(estimator, X, y, ONE_CANDIDATE, n_jobs=1)

    all_threads = torch.get_num_threads()
    contestants = {
        "one": lambda: search(estimator, X, y, GRID, n_jobs=1),
        "two": lambda: search(estimator, X, y, GRID, n_jobs=2),
        "half of the threads": lambda: alone(max(1, all_threads // 2)),
        "all threads": lambda: alone(all_threads),
    }
    seconds = {name: [] for name in contestants}
    for i in range(rounds):
        for name in list(contestants)[:: 1 if i % 2 == 0 else -1]:
            seconds[name].append(contestants[name]())
            torch.set_num_threads(all_threads)
    row = {
        "X": f"{size} " + " x ".join(map(str, shape)),
        "fits": "6 candidates x 5 folds",
        "n_jobs=1, s": f"{statistics.median(seconds['one']):.1f}",
        "n_jobs=2, s": f"{statistics.median(seconds['two']):.1f}",
        "times as fast": _ratio(seconds["one"], seconds["two"]),
        "could be": _ratio(seconds["all threads"], seconds["half of the threads"], factor=2),
    }
    return row, seconds


def search(estimator, X, y, grid, *, n_jobs):
    """Seconds of one search, without refit."""
    start = time.perf_counter()
    GridSearchCV(estimator, grid, refit=False, n_jobs=n_jobs).fit(X, y)
    return time.perf_counter() - start


def _ratio(slow, fast, factor=1):
    """Median, least and greatest ratio of a round."""
    ratios = [factor * a / b for a, b in zip(slow, fast, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def _parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=3, help="rounds of both (default: 3)")
    parser.add_argument("--out", metavar="FILE.json", help="write the result here")
    return parser


if __name__ == "__main__":
    main()
