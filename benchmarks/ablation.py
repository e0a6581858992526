"""What does each part of the default estimators add?

Fits to two thirds of the training parts (`data_sets.splits`), the rest is scored: no test part is looked at. From one
fit of the default come the answers of its members, and of the members without one; an LSTM is taken away by putting
what it reads in the place of its states, the CNN by conv_channels=(). Each set and seed writes a JSON file into the
folder `--results`, so that a run can stop and go on; the table is made of all files there.

bank: ridge regression on frozen kernels, in classifiers of series on those which compete, or on levels. bank LSTM:
an LSTM over the shares of the others in eighths of the time (classifiers).
learned: the CNN-LSTM that is trained.
"""

import argparse
import contextlib
import json
import time
from pathlib import Path
from unittest import mock

import data_sets
import numpy as np
import report
import torch
from torch import nn

from sklearn_cnnlstm import CNNLSTMClassifier, CNNLSTMRegressor

MEMBERS = {  # of a classifier: what its logits are half the sum of
    "bank": ("bank",),
    "bank LSTM": ("bank LSTM",),
    "learned": ("learned",),
    "bank + bank LSTM": ("bank", "bank LSTM"),
    "bank + learned": ("bank", "learned"),
    "bank LSTM + learned": ("bank LSTM", "learned"),
    "all": ("bank", "bank LSTM", "learned"),
}
COLUMNS = ["bank", "bank LSTM", "CNN", "LSTM", "learned", *list(MEMBERS)[3:], "all, LSTMs taken away"]


def main(arguments=None):
    options = _parser().parse_args(arguments)
    folder = Path(options.results)
    folder.mkdir(parents=True, exist_ok=True)
    for name in options.sets:
        for seed in range(options.seeds):
            file = folder / f"{name}_{seed}.json"
            if file.exists():
                continue
            start = time.perf_counter()
            result = measure(name, seed) | report.circumstances()
            file.write_text(json.dumps(result) + "\n")
            print(f"{name:26s} seed {seed}  {time.perf_counter() - start:.0f} s", flush=True)
    results = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    report.publish(table(results, options.sets), options.out)


def measure(name, seed):
    """Scores by part, and the seconds of the default's fit."""
    ((X, y), (X_test, y_test)) = data_sets.splits(name, held_out=seed)[0]
    ablate = ablate_regressor if data_sets.is_regression(y) else ablate_classifier
    start = time.perf_counter()
    answers = ablate(X, y, X_test, seed)
    scores = {part: data_sets.score(name, y_test, predictions) for part, predictions in answers.items()}
    return {
        "set": name,
        "seed": seed,
        "metric": data_sets.metric(name, y),
        "scores": scores,
        "seconds": time.perf_counter() - start,
    }


def ablate_classifier(X, y, X_test, seed):
    """Predicted labels by part."""

    def fitted(**parameters):
        return CNNLSTMClassifier(random_state=seed, **parameters).fit(X, y)

    whole = fitted()
    answers = {part: labels(whole, X_test, members) for part, members in MEMBERS.items()}
    answers["LSTM"] = labels(fitted(conv_channels=()), X_test, ["learned"])
    with lstms_taken_away():
        rest = fitted()
        answers["CNN"] = labels(rest, X_test, ["learned"])
        answers["all, LSTMs taken away"] = labels(rest, X_test, MEMBERS["all"])
    return answers


def ablate_regressor(X, y, X_test, seed):
    """Predictions by part."""

    def fitted(**parameters):
        return CNNLSTMRegressor(random_state=seed, **parameters).fit(X, y)

    def learned(regressor):
        with only(regressor, ["learned"]):
            return regressor.predict(X_test)

    whole = fitted()
    answers = {"all": whole.predict(X_test), "learned": learned(whole)}
    with only(whole, ["bank"]):
        answers["bank"] = whole.predict(X_test)
    answers["LSTM"] = learned(fitted(conv_channels=()))
    with lstms_taken_away():
        rest = fitted()
        answers["CNN"], answers["all, LSTMs taken away"] = learned(rest), rest.predict(X_test)
    return answers


def labels(classifier, X, members):
    with only(classifier, members):
        return classifier.predict(X)


@contextlib.contextmanager
def only(estimator, members):
    """The estimator answers with the sum of what some of its members say."""
    join = estimator.net_.module_.join
    read = {
        "bank": lambda learned, features: join.base(features),
        "bank LSTM": lambda learned, features: join.read(features),
        "learned": lambda *inputs: join.opinions(*inputs)[0],
    }
    with mock.patch.object(join, "forward", lambda *inputs: sum(read[member](*inputs) for member in members)):
        yield


def lstms_taken_away():
    return mock.patch("sklearn_cnnlstm._network.LSTMStack", NoLSTM)


class NoLSTM(nn.Module):
    """In place of `LSTMStack`: the states are what it would read."""

    def __init__(self, input_size, *sizes):
        super().__init__()
        self.width = input_size

    def forward(self, X):  # (batch, step, filter)
        return X, X[:, -1]

    def ragged(self, X, lengths):
        return X, X[torch.arange(len(X)), lengths - 1]


def table(results, names):
    """A row per set, means over seeds; at the end the mean over the UCR/UEA sets."""
    rows = []
    for name in names:
        of_set = [result for result in results if result["set"] == name]
        if of_set:
            scores = {part: np.mean([result["scores"].get(part, np.nan) for result in of_set]) for part in COLUMNS}
            rows.append({"set": name, "metric": of_set[0]["metric"], "seeds": len(of_set)} | scores)
    series = [row for row in rows if row["set"] in data_sets.SERIES]
    if series:
        means = {part: np.mean([row[part] for row in series]) for part in COLUMNS}
        rows.append({"set": f"mean of {len(series)} UCR/UEA sets", "metric": "accuracy", "seeds": ""} | means)
    return [row | {part: "" if np.isnan(row[part]) else f"{row[part]:.4f}" for part in COLUMNS} for row in rows]


def _parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    everything = [*data_sets.SERIES, *data_sets.OTHERS]
    parser.add_argument("--sets", nargs="+", default=everything, choices=everything, metavar="SET", help="data sets")
    parser.add_argument("--seeds", type=int, default=1, help="fits, each with a third of its own (default: 1)")
    parser.add_argument("--results", default="accuracy-results/ablation", metavar="FOLDER", help="files go there")
    parser.add_argument("--out", metavar="FILE.json", help="write the table here")
    return parser


if __name__ == "__main__":
    main()
