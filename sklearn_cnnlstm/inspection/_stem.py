"""How much of a series does one step of the LSTM see?"""

from torch import nn

_CONVOLUTIONS = nn.Conv1d | nn.Conv2d | nn.Conv3d
_POOLS = nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d | nn.AvgPool1d | nn.AvgPool2d | nn.AvgPool3d


def receptive_field(network):
    """Steps of a series that a step of the learned CNN sees; frozen kernels beside it are not counted."""
    return _field_and_stride(network)[0]


def stride(network):
    """Steps of a series from one step of the LSTM to the next."""
    return _field_and_stride(network)[1]


def _field_and_stride(network):
    field, stride = 1, 1
    for layer in network.modules():
        if isinstance(layer, nn.LSTM):
            break
        if isinstance(layer, _CONVOLUTIONS | _POOLS):
            field += (_last(layer.kernel_size) - 1) * _last(getattr(layer, "dilation", 1)) * stride
            stride *= _last(layer.stride)
    return field, stride


def _last(size):
    return size[-1] if isinstance(size, tuple) else size
