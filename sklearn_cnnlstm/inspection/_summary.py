"""What is the network made of, and what does each stage of it cost?"""

import copy
import functools

import pandas as pd
import torch
from torch import nn

from ._unwrap import unwrap

_CONVOLUTIONS = nn.Conv1d | nn.Conv2d | nn.Conv3d
_TRANSPOSED = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
_COUNTED = _CONVOLUTIONS | _TRANSPOSED | nn.Linear | nn.LSTM


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
        training sample with its axes in torch's order, `parameters` counts the trained numbers, `frozen` (if there are
        any) those that stay as they are, and `multiply_adds` those of convolutions, linear layers and LSTMs for one
        training sample.

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
    table = {}
    for name, stage in _stages(network):
        stage.register_forward_hook(functools.partial(_note_stage, table, name))
        for layer in stage.modules():
            if isinstance(layer, _COUNTED):
                layer.register_forward_hook(functools.partial(_add_cost, table, name), prepend=True)
    with torch.inference_mode():
        network(torch.zeros(1, *estimator.input_shape_))
    table = pd.DataFrame.from_dict(table, orient="index")
    table = table[["layer", "output_shape", "parameters", "frozen", "multiply_adds"]].rename_axis("stage")
    table.loc["total"] = ["", "", *table.iloc[:, 2:].sum()]
    return table if table["frozen"].any() else table.drop(columns="frozen")


def _stages(network, prefix=""):
    """(name, module) of the modules that hold weights themselves or in plain layers, from the outside in."""
    for name, module in network.named_children():
        if not any(True for _ in module.parameters()):
            continue
        is_nested = isinstance(module, nn.ModuleList) or any(list(child.children()) for child in module.children())
        is_whole = module._parameters or module._buffers
        if is_nested and not is_whole:
            yield from _stages(module, f"{prefix}{name}.")
        else:
            yield prefix + name, module


def _note_stage(table, name, stage, inputs, output):
    """Forward hook that fills the stage's row, but for its cost."""
    weights = list(stage.parameters())
    row = table.setdefault(name, {"multiply_adds": 0})
    row["layer"] = type(stage).__name__
    row["output_shape"] = _shape_of_one(output)
    row["parameters"] = sum(weight.numel() for weight in weights if weight.requires_grad)
    row["frozen"] = sum(weight.numel() for weight in weights if not weight.requires_grad)


def _add_cost(table, name, layer, inputs, output):
    """Forward hook that adds the layer's multiply-adds to the row of its stage."""
    table.setdefault(name, {"multiply_adds": 0})["multiply_adds"] += _multiply_adds(layer, inputs[0], output)


def _multiply_adds(layer, X, output):
    if isinstance(layer, nn.LSTM):
        steps = X.shape[0] * X.shape[1]
        return steps * sum(weight.numel() for name, weight in layer.named_parameters() if name.startswith("weight"))
    if isinstance(layer, nn.Linear):
        return output.numel() * layer.in_features
    weight_per_value = layer.weight[0].numel()  # of one output filter, or of one input filter if transposed
    return weight_per_value * (X if isinstance(layer, _TRANSPOSED) else output).numel()


def _shape_of_one(output):
    """The shape of what a stage made of a single sample; an axis that holds samples and steps stays."""
    output = output[0] if isinstance(output, tuple) else output
    return tuple(output.shape[1:] if output.shape[0] == 1 else output.shape)
