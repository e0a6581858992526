"""The main job from the shell: train on real data and report how well it went."""

import argparse
import ast
import sys
import time
import warnings
import zipfile

import numpy as np
from sklearn.base import is_classifier
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from . import CNNLSTMClassifier, CNNLSTMRegressor, __version__

_KEYS = ("X_train", "y_train", "X_test", "y_test")


def main(arguments=None):
    """Run the job; 0 if it went well, 2 if the user's file or settings are at fault."""
    options = _parser().parse_args(arguments)
    try:
        if options.data is None:
            report_digits(dict(options.param))
        else:
            report_file(options.data, options.task, dict(options.param))
    except (UsageError, TypeError, ValueError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


class UsageError(Exception):
    """What the user gave cannot be used; the message says why."""


def report_digits(params):
    """Search, cross-validate and test on scikit-learn's digits, each image read row by row."""
    digits = load_digits()
    X = digits.images[..., np.newaxis]  # (sample, row, column, 1): the rows are the steps
    X_train, X_test, y_train, y_test = train_test_split(
        X, digits.target, test_size=0.3, stratify=digits.target, random_state=0
    )
    _say_header(
        f"handwritten digits (scikit-learn), rows read in order: X {X.shape}, {len(digits.target_names)} classes"
    )
    start = time.perf_counter()
    settings = {"max_epochs": 5, "random_state": 0} | params
    pipeline = make_pipeline(FunctionTransformer(_to_unit_range), CNNLSTMClassifier(**settings))
    grid = {"cnnlstmclassifier__hidden_size": [16, 32], "cnnlstmclassifier__lr": [3e-3, 1e-2]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(X_train, y_train)
    best = search.best_estimator_[-1]
    print(f"device      {best.device_}, {best.precision_}")
    print(f"\ncandidate (max_epochs={best.max_epochs_}, 2 folds)   accuracy")
    results = search.cv_results_
    for candidate, mean in zip(results["params"], results["mean_test_score"], strict=True):
        named = ", ".join(f"{name.split('__')[1]}={value:g}" for name, value in candidate.items())
        print(f"  {named:<38s}{mean:.3f}{'  best' if candidate == search.best_params_ else ''}")
    folds = cross_val_score(search.best_estimator_, X_train, y_train, cv=3)
    print(f"\ncross-validation of the best, 3 folds: {folds.mean():.3f} +- {folds.std():.3f}")
    _report_test(search.best_estimator_, X_train, y_train, X_test, y_test, seconds=search.refit_time_)
    print(f"\n{time.perf_counter() - start:.0f} s in all")


def _to_unit_range(X):
    return X / 16.0


def report_file(path, task, params):
    """Train on the training part of a user's file with the settings given, and test on its test part."""
    X_train, y_train, X_test, y_test = _load(path)
    if task is None:
        task = "regression" if y_train.dtype.kind == "f" else "classification"
    estimator_class = CNNLSTMClassifier if task == "classification" else CNNLSTMRegressor
    known = estimator_class().get_params()
    for name in params:
        if name not in known:
            raise UsageError(
                f"--param {name} is no parameter of {estimator_class.__name__}; it has {', '.join(known)}."
            )
    _say_header(f"{path}: X_train {X_train.shape}, X_test {X_test.shape}, {task}")
    start = time.perf_counter()
    estimator = estimator_class(**({"random_state": 0} | params)).fit(X_train, y_train)
    seconds = time.perf_counter() - start
    print(
        f"device      {estimator.device_}, {estimator.precision_}\n"
        f"network     {_n_parameters(estimator)} parameters, conv_channels={estimator.conv_channels_}, "
        f"hidden_size={estimator.hidden_size_}\n"
        f"training    {estimator.n_epochs_} epochs of batches of {estimator.batch_size_}, "
        f"final loss {estimator.history_['train_loss'].iloc[-1]:.4f}"
    )
    _report_test(estimator, X_train, y_train, X_test, y_test, seconds=seconds)


def _report_test(estimator, X_train, y_train, X_test, y_test, *, seconds):
    """Score the estimator, fitted in `seconds`, on the test part beside scikit-learn's MLP on flattened samples."""
    name = type(estimator[-1] if hasattr(estimator, "steps") else estimator).__name__
    results = [(name, estimator.score(X_test, y_test), seconds)]
    if y_test.ndim == 1 or (y_test.ndim == 2 and estimator.target == "sample"):  # else the peer scores something else
        peer = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler(), _peer(estimator))
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the peer's default epochs are what a user gets
            peer.fit(X_train.reshape(len(X_train), -1), y_train)
        took = time.perf_counter() - start
        results.append((type(peer[-1]).__name__, peer.score(X_test.reshape(len(X_test), -1), y_test), took))
    score_name = "accuracy" if is_classifier(estimator) else "R2"
    print(f"\n{'held-out':<26s}{score_name:>8s}{'fit':>9s}")
    for model, value, took in results:
        print(f"  {model:<24s}{value:>8.3f}{took:>7.1f} s")
    if is_classifier(estimator) and y_test.ndim == 1:
        print(f"\nconfusion matrix of {name} (rows: true class)")
        print(
            _table(confusion_matrix(y_test, estimator.predict(X_test), labels=estimator.classes_), estimator.classes_)
        )


def _peer(estimator):
    return (MLPClassifier if is_classifier(estimator) else MLPRegressor)(random_state=0)


def _table(matrix, labels):
    labels = [str(label) for label in labels]
    width = max(len(text) for text in [*labels, str(matrix.max())]) + 1
    lines = ["".join([" " * width, *(f"{label:>{width}s}" for label in labels)])]
    lines += [
        "".join([f"{label:>{width}s}", *(f"{count:>{width}d}" for count in row)])
        for label, row in zip(labels, matrix, strict=True)
    ]
    return "\n".join(lines)


def _load(path):
    try:
        with np.load(path) as data:
            missing = [key for key in _KEYS if key not in data]
            if missing:
                raise UsageError(f"{path} lacks {', '.join(missing)}; expected the arrays {', '.join(_KEYS)}.")
            return [data[key] for key in _KEYS]
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise UsageError(f"{path} cannot be read as an .npz file of arrays: {error}") from error


def _n_parameters(estimator):
    return sum(parameter.numel() for parameter in estimator.net_.module_.parameters())


def _say_header(what):
    print(f"sklearn_cnnlstm {__version__}\ndata        {what}", flush=True)


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m sklearn_cnnlstm",
        description="Train a CNN-LSTM on scikit-learn's digits, or on your own arrays, and report how well it went.",
    )
    parser.add_argument("--data", metavar="FILE.npz", help=f"a file of the arrays {', '.join(_KEYS)}")
    parser.add_argument(
        "--task", choices=["classification", "regression"], help="default: regression if y_train is of floats"
    )
    parser.add_argument(
        "--param",
        action="append",
        default=[],
        type=_setting,
        metavar="NAME=VALUE",
        help="a parameter of the estimator, such as lr=0.001; may be repeated",
    )
    return parser


def _setting(text):
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is no setting; expected NAME=VALUE such as lr=0.001")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


if __name__ == "__main__":
    sys.exit(main())
