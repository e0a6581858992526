"""How much faster is a grid search with two workers than with one?

The same GridSearchCV over a small CNN-LSTM with n_jobs=1 and with n_jobs=2, in turn; the workers are started, and torch
loaded in them, before the clock runs. joblib gives each of two workers half of the cores.
"""

import argparse
import statistics
import time

import numpy as np
import report
from sklearn.model_selection import GridSearchCV

from sklearn_cnnlstm import CNNLSTMClassifier

SHAPE, N_CLASSES = (2000, 100, 6), 3
GRID = {"lr": [1e-3, 3e-3, 1e-2], "hidden_size": [32, 64]}


def main():
    options = _parser().parse_args()
    random = np.random.default_rng(0)
    X = random.normal(size=SHAPE).astype(np.float32)
    y = random.integers(N_CLASSES, size=len(X))
    search(X[:60], y[:60], n_jobs=2, n_epochs=1)  # starts the workers
    seconds = {1: [], 2: []}
    for i in range(options.rounds):
        for n_jobs in (1, 2) if i % 2 == 0 else (2, 1):
            seconds[n_jobs].append(search(X, y, n_jobs=n_jobs, n_epochs=options.epochs))
    ratios = [one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
    row = {
        "X": " x ".join(map(str, SHAPE)),
        "fits": "6 candidates x 5 folds",
        "n_jobs=1, s": f"{statistics.median(seconds[1]):.1f}",
        "n_jobs=2, s": f"{statistics.median(seconds[2]):.1f}",
        "times as fast": f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
    }
    report.publish([row], options.out, seconds=seconds)


def search(X, y, *, n_jobs, n_epochs):
    """Seconds of one search, without refit."""
    estimator = CNNLSTMClassifier(conv_bank=0, max_epochs=n_epochs, random_state=0)
    start = time.perf_counter()
    GridSearchCV(estimator, GRID, refit=False, n_jobs=n_jobs).fit(X, y)
    return time.perf_counter() - start


def _parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of both (default: 3)")
    parser.add_argument("--epochs", type=int, default=4, help="epochs of each fit (default: 4)")
    parser.add_argument("--out", metavar="FILE.json", help="write the result here")
    return parser


if __name__ == "__main__":
    main()
