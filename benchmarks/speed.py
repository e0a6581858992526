"""How near do fit and predict come to a hand-written torch loop, and how far ahead of stock skorch are they?

One process; the contestants take turns, their order moves on by one each round, and a first round is thrown away.
A ratio is the median over rounds of the ratios within a round. Timed are
- plain: `plain_loop.train` from numpy arrays to a trained network, building the network excluded;
- ours: all of `CNNLSTMClassifier.fit`, its checks and building the network included;
- skorch: stock `NeuralNetClassifier` with a copy of the network and AdamW, without schedule, and once more with the
  gradients clipped as the others do;
- MLPClassifier for 2-D X and Keras (the same layers, where it is installed): other programs, for orientation.
Before any time counts, the losses of ours and of the plain loop must agree to 1e-5 over the first 50 steps.

Ours has the C library keep what a step or a pass frees for the next one. So that this is no advantage, the others have
it here, too, anew in each turn; with `--own-memory` they have but what stays in the process.
"""

import argparse
import contextlib
import copy
import functools
import importlib.util
import math
import os
import statistics
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import plain_loop
import report
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, GradientNormClipping
from torch import nn

from sklearn_cnnlstm import CNNLSTMClassifier
from sklearn_cnnlstm._training import more_memory_kept

PARITY, PARITY_STEPS = 1e-5, 50
SMALL = {"conv_channels": (16,), "kernel_size": 5, "pool_size": 2, "hidden_size": 32, "batch_size": 32}
SIZES = {  # shape of X, classes, epochs of one fit, parameters that are not the default
    "tiny": ((400, 50, 3), 2, 40, SMALL),
    "tiny_forward": ((400, 50, 3), 2, 40, SMALL | {"bidirectional": False, "pooling": "last"}),
    "har": ((7352, 128, 9), 6, 2, {}),
    "long": ((2000, 1000, 1), 2, 1, {}),
    "video": ((200, 16, 32, 32, 1), 2, 5, {}),
    "tabular": ((10000, 20), 2, 5, {}),
}


def main():
    options = _parser().parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    rows, details = [], {}
    for size in options.sizes:
        row, details[size] = measure(size, options)
        rows.append(row)
        print(report.markdown([row]), flush=True)
    if importlib.util.find_spec("keras") is None:
        print("keras is not installed: no row for it")
    report.publish(rows, options.out, rounds=options.rounds, details=details)


def measure(size, options):
    """A row of the table and all times of one size."""
    X, y, source, n_epochs, params = load(size, quick=options.quick)
    params |= {"device": options.device}
    steps, drift = check_parity(X, y, params)
    memory = contextlib.nullcontext if options.own_memory else more_memory_kept
    fit = time_fits(X, y, n_epochs, params, rounds=options.rounds, memory=memory)
    estimator = CNNLSTMClassifier(max_epochs=1, random_state=0, **params).fit(X, y)
    n_rows = 1000 if options.quick else 10000
    X_many = X[np.arange(n_rows) % len(X)]
    rows_per_pass = best_pass(estimator, X_many, memory)
    many = time_predictions(estimator, X_many, rows_per_pass, rounds=options.rounds, memory=memory)
    one = time_predictions(estimator, X[:1].copy(), 1, rounds=20 if options.quick else 300)
    row = {
        "size": f"{size} {' x '.join(map(str, X.shape))} ({source})",
        "epochs": n_epochs,
        "fit: plain, s": f"{median(fit['plain']):.2f}",
        "ours / plain": ratio(fit, "ours", "plain"),
        "ours / skorch": ratio(fit, "ours", "skorch"),
        "ours / skorch clipped": ratio(fit, "ours", "skorch clipped"),
        "ours / other": ", ".join(f"{name} {ratio(fit, 'ours', name)}" for name in fit if name in OTHERS) or "-",
        f"predict {n_rows}: plain, s": f"{median(many['plain']):.3f} ({rows_per_pass} a pass)",
        "many: ours / plain": ratio(many, "ours", "plain"),
        "many: ours / skorch": ratio(many, "ours", "skorch"),
        "predict 1: plain, ms": f"{1e3 * median(one['plain']):.2f}",
        "one: ours - plain, ms": f"{1e3 * median(difference(one, 'ours', 'plain')):.2f}",
        "one: ours / plain": ratio(one, "ours", "plain"),
        "one: ours / skorch": ratio(one, "ours", "skorch"),
    }
    details = {"fit": fit, "predict_many": many, "predict_one": one, "parity_steps": steps, "parity": drift}
    return row, details | {"parameters": {name: str(value) for name, value in params.items()}}


# -- the data ------------------------------------------------------------------------------------------------------


def load(size, *, quick):
    shape, n_classes, n_epochs, params = SIZES[size]
    params = {"conv_bank": 0} | params  # the loop is measured, not what is solved for before it
    folder = os.environ.get("CNNLSTM_DATA")
    if size == "har" and folder is not None:
        with np.load(Path(folder) / "UCI_HAR.npz") as data:
            X, y, source = data["X_train"], data["y_train"], "UCI HAR"
    else:
        random = np.random.default_rng(0)
        X = random.normal(size=shape).astype(np.float32)
        y, source = random.integers(n_classes, size=len(X)), "random"
    if quick:
        X, y, n_epochs = X[:: len(X) // 200].copy(), y[:: len(y) // 200], 1
    return X, y, source, n_epochs, params


# -- ours and the plain loop do the same ---------------------------------------------------------------------------


class Start(Callback):
    """Keeps the network, and torch's random states, of the moment at which training begins."""

    def on_train_begin(self, net, **kwargs):
        self.module = copy.deepcopy(net.module_)
        self.random_states = torch.get_rng_state(), torch.cuda.get_rng_state_all()


class Losses(Callback):
    """Keeps the loss of each step."""

    def on_train_begin(self, net, **kwargs):
        self.losses = []

    def on_batch_end(self, net, loss=None, **kwargs):
        self.losses.append(loss.item())


def start_of(X, y, params):
    """An estimator, the network with which its fit begins, and torch's random states then."""
    start = Start()
    estimator = CNNLSTMClassifier(max_epochs=1, random_state=0, net_callbacks=[start], **params).fit(X, y)
    return estimator, start.module, start.random_states


def set_random_states(states):
    of_cpu, of_devices = states
    torch.set_rng_state(of_cpu)
    torch.cuda.set_rng_state_all(of_devices)


def check_parity(X, y, params):
    """The most by which a loss differs between ours and the plain loop, relative; exits if that is too much."""
    params = params | {"dropout": 0.0, "deterministic": True}
    estimator, module, random_states = start_of(X, y, params)
    n_epochs = math.ceil(PARITY_STEPS / math.ceil(len(X) / estimator.batch_size_))
    watch = Losses()
    CNNLSTMClassifier(max_epochs=n_epochs, random_state=0, net_callbacks=[watch], **params).fit(X, y)
    set_random_states(random_states)
    torch.use_deterministic_algorithms(True)
    plain = plain_loop.train(module, sequences(X), y, max_epochs=n_epochs, **settings(estimator))
    torch.use_deterministic_algorithms(False)
    ours, plain = np.array(watch.losses)[:PARITY_STEPS], plain.numpy()[:PARITY_STEPS]
    drift = float(np.abs(ours / plain - 1).max())
    if not drift <= PARITY:
        sys.exit(f"losses of ours and of the plain loop differ by {drift:.1e} on X {X.shape}: no comparison")
    return len(ours), drift


def settings(estimator):
    """What the plain loop needs to know, taken from a fitted estimator."""
    names = ("lr", "weight_decay", "label_smoothing", "device")
    return {name: getattr(estimator, name) for name in names} | {"batch_size": estimator.batch_size_}


def sequences(X):
    return X[:, :, np.newaxis] if X.ndim == 2 else X


# -- the contestants -----------------------------------------------------------------------------------------------


def time_fits(X, y, n_epochs, params, *, rounds, memory):
    """Seconds of each fit, by contestant."""
    estimator, module, random_states = start_of(X, y, params)
    n_classes, batch_size = len(estimator.classes_), estimator.batch_size_

    def plain():
        set_random_states(random_states)
        network = copy.deepcopy(module)
        return lambda: plain_loop.train(network, sequences(X), y, max_epochs=n_epochs, **settings(estimator))

    def ours():
        return lambda: CNNLSTMClassifier(max_epochs=n_epochs, random_state=0, **params).fit(X, y)

    def skorch(callbacks=None):
        net = stock_net(copy.deepcopy(module), estimator, max_epochs=n_epochs, callbacks=callbacks)
        return lambda: net.fit(sequences(X), y)

    def clipped():
        return skorch([GradientNormClipping(1.0)])

    def mlp():
        peer = MLPClassifier(batch_size=batch_size, max_iter=n_epochs, n_iter_no_change=n_epochs, random_state=0)
        return lambda: peer.fit(X, y)

    def keras():
        model = keras_model(sequences(X).shape[1:], n_classes, estimator)
        return lambda: model.fit(sequences(X), y, batch_size=batch_size, epochs=n_epochs, verbose=0)

    contestants = {"plain": plain, "ours": ours, "skorch": skorch, "skorch clipped": clipped}
    if X.ndim == 2:
        contestants["MLPClassifier"] = mlp
    if X.ndim <= 3 and importlib.util.find_spec("keras") is not None:
        contestants["Keras"] = keras
    return take_turns(contestants, rounds, memory)


OTHERS = ("MLPClassifier", "Keras")


def stock_net(module, estimator, **keywords):
    return NeuralNetClassifier(
        module,
        criterion=nn.CrossEntropyLoss(label_smoothing=estimator.label_smoothing),
        optimizer=torch.optim.AdamW,
        optimizer__weight_decay=estimator.weight_decay,
        lr=estimator.lr,
        batch_size=estimator.batch_size_,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
        device=estimator.device,
        **keywords,
    )


def keras_model(sample_shape, n_classes, estimator):
    """The layers of our network for series, in Keras."""
    import keras
    from keras import layers

    X = inputs = keras.Input(sample_shape)
    X = layers.Normalization(mean=0.0, variance=1.0)(X)
    for width, kernel, pool in zip(estimator.conv_channels_, estimator.kernel_size_, estimator.pool_size_, strict=True):
        Y = layers.BatchNormalization()(layers.Conv1D(width, kernel, padding="same", use_bias=False)(X))
        X = layers.ReLU()(layers.Add()([X, Y]) if X.shape[-1] == width else Y)
        X = layers.MaxPooling1D(pool, padding="same")(X) if pool > 1 else X
    lstm = layers.LSTM(estimator.hidden_size_, return_sequences=True, return_state=True)
    X, forward, _, backward, _ = layers.Bidirectional(lstm)(X)
    attention = layers.Softmax(axis=1)(layers.Dense(1)(X))
    views = [layers.GlobalAveragePooling1D()(X), layers.GlobalMaxPooling1D()(X), layers.Dot(1)([attention, X])]
    X = layers.Concatenate()([forward, backward, *views[:2], layers.Flatten()(views[2])])
    X = layers.Dense(n_classes)(layers.Dropout(estimator.dropout_)(layers.LayerNormalization()(X)))
    model = keras.Model(inputs, X)
    optimizer = keras.optimizers.AdamW(estimator.lr, weight_decay=estimator.weight_decay, global_clipnorm=1.0)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def best_pass(estimator, X, memory):
    """How many rows per pass the plain forward is fastest with, out of a few that keep the memory small."""
    module, X = estimator.net_.module_, sequences(X)
    candidates = [rows for rows in (8, 16, 32, 64, 128, 256, 512, 1024) if rows * X[0].size <= 2**21]
    seconds = {}
    for rows in candidates:
        turn = functools.partial(plain_loop.predict, module, X, rows=rows, device=estimator.device)
        seconds[rows] = min(timed(turn, memory) for _ in range(3))
    return min(seconds, key=seconds.get)


def time_predictions(estimator, X, rows_per_pass, *, rounds, memory=contextlib.nullcontext):
    """Seconds of each call of predict, by contestant, all with the same weights."""
    module = estimator.net_.module_
    net = stock_net(copy.deepcopy(module), estimator).initialize()
    contestants = {
        "plain": lambda: lambda: plain_loop.predict(module, sequences(X), rows=rows_per_pass, device=estimator.device),
        "ours": lambda: lambda: estimator.predict(X),
        "skorch": lambda: lambda: net.predict(sequences(X)),
    }
    return take_turns(contestants, rounds, memory)


# -- the clock -----------------------------------------------------------------------------------------------------


def take_turns(contestants, rounds, memory):
    """Seconds of each turn, by contestant; a contestant prepares itself and returns the function to be timed."""
    names = list(contestants)
    seconds = {name: [] for name in names}
    for i in range(rounds + 1):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            took = timed(contestants[name](), memory)
            if i > 0:
                seconds[name].append(took)
    return seconds


def timed(function, memory):
    with memory(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the MLP is to stop after as many epochs as the others
        start = time.perf_counter()
        function()
        return time.perf_counter() - start


def median(values):
    return statistics.median(values)


def difference(seconds, name, baseline):
    return [a - b for a, b in zip(seconds[name], seconds[baseline], strict=True)]


def ratio(seconds, name, baseline):
    """Median and quartiles, over rounds, of the ratio of two contestants."""
    ratios = [a / b for a, b in zip(seconds[name], seconds[baseline], strict=True)]
    low, high = np.percentile(ratios, [25, 75])
    return f"{median(ratios):.2f} ({low:.2f}-{high:.2f})"


def _parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default: 5)")
    parser.add_argument("--device", default="cpu", help="where torch computes (default: cpu)")
    parser.add_argument("--threads", type=int, help="torch's threads (default: as torch chooses)")
    parser.add_argument("--own-memory", action="store_true", help="only ours keeps memory, as for a user")
    parser.add_argument("--quick", action="store_true", help="little data and one epoch: does the script work?")
    parser.add_argument("--out", metavar="FILE.json", help="write the result here")
    return parser


if __name__ == "__main__":
    main()
