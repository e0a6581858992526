"""Who speaks? Nine speakers told apart by a vowel each, 7 to 29 steps long, against a forest on means and spreads.

    CNNLSTM_DATA=folder python examples/vowels.py

reads JapaneseVowels.npz there (UCI's Japanese Vowels: 12 cepstrum coefficients per step).
"""

import os
import sys
from pathlib import Path

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_score

from sklearn_cnnlstm import CNNLSTMClassifier


def to_samples(X):
    """A list of arrays (n_timesteps_i, n_channels) of an array whose samples end in NaN."""
    return [sample[: np.flatnonzero(~np.isnan(sample).all(axis=1))[-1] + 1] for sample in X]


def to_table(samples):
    """Mean and standard deviation of each channel: what a table can hold of series of unequal length."""
    return np.array([np.concatenate([sample.mean(axis=0), sample.std(axis=0)]) for sample in samples])


def accuracies(data, **params):
    """{name: (accuracies of 3 folds of the training part, accuracy on the test part)}."""
    X, y, X_test, y_test = to_samples(data["X_train"]), data["y_train"], to_samples(data["X_test"]), data["y_test"]
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    network, forest = CNNLSTMClassifier(random_state=0, **params), RandomForestClassifier(random_state=0)
    cases = {"CNNLSTMClassifier": (network, X, X_test), "random forest": (forest, to_table(X), to_table(X_test))}
    return {
        name: (cross_val_score(model, train, y, cv=folds), model.fit(train, y).score(test, y_test))
        for name, (model, train, test) in cases.items()
    }


def main():
    if "CNNLSTM_DATA" not in os.environ:
        sys.exit("CNNLSTM_DATA is not set; expected the folder that holds JapaneseVowels.npz.")
    with np.load(Path(os.environ["CNNLSTM_DATA"]) / "JapaneseVowels.npz") as data:
        result = accuracies(data)
    print(f"{'accuracy':<20s}{'3 folds':>15s}{'held-out':>10s}")
    for name, (folds, held_out) in result.items():
        print(f"{name:<20s}{folds.mean():>8.3f} +- {folds.std():.3f}{held_out:>9.3f}")


if __name__ == "__main__":
    main()
