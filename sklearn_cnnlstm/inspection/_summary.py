"""What is the network made of, and what does each stage of it cost?"""

import copy
import functools
import itertools
import math

import pandas as pd
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ._unwrap import unwrap

_COLUMNS = ["layer", "output_shape", "parameters", "frozen", "multiply_adds"]


def summary(estimator):
    """The network as a table of stages.

    Parameters
    ----------
    estimator : estimator
        Fitted CNNLSTMClassifier or CNNLSTMRegressor, a pipeline that ends in one, or a search over one.

    Returns
    -------
    table : DataFrame
        A row per stage in the order in which they are computed, and a row of totals. `output_shape` is that of one
        training sample with its axes in torch's order, `parameters` counts those that are trained, `frozen` (if there
        are any) the numbers that are drawn, solved for or read off the training data, and `multiply_adds` those of
        convolutions, products of matrices and LSTMs for one training sample. It prints whole, with digits in groups.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_cnnlstm import CNNLSTMRegressor
    >>> from sklearn_cnnlstm.inspection import summary
    >>> X = np.random.default_rng(0).normal(size=(20, 16, 3))
    >>> model = CNNLSTMRegressor(conv_channels=4, kernel_size=3, hidden_size=5, max_epochs=1).fit(X, X[:, -1, 0])
    >>> table = summary(model)
    >>> int(table.parameters["total"]) == sum(p.numel() for p in model.net_.module_.parameters())
    True
    """
    estimator = unwrap(estimator)
    network = copy.deepcopy(estimator.net_.module_).cpu().eval()  # a copy: other threads may be using the network
    counter = FlopCounterMode(display=False)
    table = {}
    for name, stage in _stages(network):
        stage.register_forward_pre_hook(functools.partial(_enter, table, name, counter))
        for layer in stage.modules():
            if isinstance(layer, nn.LSTM):
                layer.register_forward_hook(functools.partial(_add_lstm, table, name), prepend=True)
        stage.register_forward_hook(functools.partial(_leave, table, name, counter))
    with torch.inference_mode(), counter:
        network(torch.zeros(1, *estimator.input_shape_))
    table = pd.DataFrame.from_dict(table, orient="index", columns=_COLUMNS).rename_axis("stage")
    table.loc["total"] = ["", "", *table.iloc[:, 2:].sum()]
    return _Table(table if table["frozen"].any() else table.drop(columns="frozen"))


class _Table(pd.DataFrame):
    """A DataFrame that prints whole, also where a terminal is a little narrower, and groups its digits."""

    @property
    def _constructor(self):
        return pd.DataFrame

    def __repr__(self):
        return self.to_string(formatters={name: "{:,}".format for name in self.columns[2:]})


def _stages(network, prefix=""):
    """(name, module) of the modules that hold numbers themselves or in plain layers, from the outside in."""
    for name, module in network.named_children():
        if not any(True for _ in itertools.chain(module.parameters(), module.buffers())):
            continue
        is_nested = isinstance(module, nn.ModuleList) or any(list(child.children()) for child in module.children())
        is_whole = module._parameters or module._buffers
        if is_nested and not is_whole:
            yield from _stages(module, f"{prefix}{name}.")
        else:
            yield prefix + name, module


def _enter(table, name, counter, stage, inputs):
    """Forward pre-hook that opens the stage's row."""
    row = table.setdefault(name, {"multiply_adds": 0})
    row["multiply_adds"] -= counter.get_total_flops() // 2


def _leave(table, name, counter, stage, inputs, output):
    """Forward hook that fills the stage's row."""
    row = table[name]
    row["multiply_adds"] += counter.get_total_flops() // 2
    row["layer"] = type(stage).__name__
    row["output_shape"] = _shape_of_one(output)
    row["parameters"] = sum(weight.numel() for weight in stage.parameters() if weight.requires_grad)
    row["frozen"] = sum(weight.numel() for weight in stage.parameters() if not weight.requires_grad)
    if row["parameters"] == 0:  # beside trained weights buffers are the statistics of a norm
        row["frozen"] += sum(buffer.numel() for buffer in stage.buffers())


def _add_lstm(table, name, layer, inputs, output):
    """Forward hook for the layers that torch's counter does not know: every weight is used once per step."""
    n_steps = math.prod(output[0].shape[:-1])
    weights = (weight.numel() for key, weight in layer.named_parameters() if key.startswith("weight"))
    table[name]["multiply_adds"] += n_steps * sum(weights)


def _shape_of_one(output):
    """The shape of what a stage made of a single sample; an axis that holds samples and steps stays."""
    output = output[0] if isinstance(output, tuple) else output
    return tuple(output.shape[1:] if output.shape[0] == 1 else output.shape)
