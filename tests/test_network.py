"""What the model is, and the sizes that it gets."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_cnnlstm import CNNLSTMClassifier, CNNLSTMRegressor
from sklearn_cnnlstm._estimators import auto_sizes
from sklearn_cnnlstm._network import CNNLSTM, POOLINGS, LSTMStack, TimePool

SHAPES = [(12, 3), (4, 9, 2), (3, 8, 8, 1), (2, 4, 4, 4, 2)]


def build(sample_shape, n_outputs=2, **changes):
    sizes = {
        "conv_channels": (4, 4),
        "kernel_size": (3, 3),
        "pool_size": (2, 1),
        "hidden_size": 5,
        "num_layers": 1,
        "bidirectional": True,
        "pooling": POOLINGS,
        "dropout": 0.0,
    }
    torch.manual_seed(0)
    return CNNLSTM(sample_shape, n_outputs, **(sizes | changes)).eval()


@pytest.mark.parametrize("shape", SHAPES)
def test_one_output_vector_per_sequence(shape):
    assert build(shape)(torch.randn(7, *shape)).shape == (7, 2)


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (3, 1), (1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1, 1)])
def test_shortest_sequences_pass(shape):
    assert build(shape, pool_size=(2, 3), kernel_size=(9, 5))(torch.randn(2, *shape)).shape == (2, 2)


def test_other_numbers_of_steps_pass():
    network = build((12, 3))
    assert network(torch.randn(2, 1, 3)).shape == network(torch.randn(2, 40, 3)).shape == (2, 2)


def test_frames_are_read_one_by_one():
    network = build((3, 8, 8, 1))
    X = torch.randn(2, 3, 8, 8, 1)
    apart = torch.stack([network.cnn(X[:, [step]])[:, 0] for step in range(3)], dim=1)
    torch.testing.assert_close(network.cnn(X), apart)


def test_lstm_reads_time_in_order():
    network = build((4, 9, 2))
    X = torch.randn(2, 4, 9, 2)
    assert not torch.allclose(network(X), network(X.flip(1)), atol=1e-4)


def test_channels_are_standardised_by_the_buffers():
    plain, scaled = build((12, 3)), build((12, 3))
    mean, scale = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 1.0, 10.0])
    scaled.set_statistics(input_mean=mean.numpy(), input_scale=scale.numpy())
    X = torch.randn(5, 12, 3)
    torch.testing.assert_close(scaled(X * scale + mean), plain(X), atol=1e-5, rtol=1e-5)


def test_integer_frames_need_no_cast():
    X = torch.randint(0, 255, (2, 3, 8, 8, 1), dtype=torch.uint8)
    network = build((3, 8, 8, 1))
    torch.testing.assert_close(network(X), network(X.float()))


def test_last_state_of_both_directions_is_pooled():
    lstm = LSTMStack(3, 4, num_layers=2, bidirectional=True, dropout=0.0)
    states, last = lstm(torch.randn(2, 6, 3))
    torch.testing.assert_close(last, torch.cat([states[:, -1, :4], states[:, 0, 4:]], dim=1))


def test_poolings_are_what_they_are_called():
    states, last = torch.randn(2, 6, 4), torch.randn(2, 4)
    pool = TimePool(4, POOLINGS)
    weights = torch.softmax(states @ pool.attention.weight[0] + pool.attention.bias, dim=1)
    expected = [last, states.mean(1), states.max(1).values, torch.einsum("bt,bth->bh", weights, states)]
    torch.testing.assert_close(pool(states, last), torch.cat(expected, dim=1))


def test_lstm_starts_with_an_open_forget_gate_and_orthogonal_recurrence():
    layer = LSTMStack(3, 4, num_layers=1, bidirectional=False, dropout=0.0).layers[0]
    bias = layer.bias_ih_l0 + layer.bias_hh_l0
    assert bias.tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 8
    for gate in layer.weight_hh_l0.chunk(4):
        torch.testing.assert_close(gate @ gate.T, torch.eye(4), atol=1e-5, rtol=0)


def test_no_convolution_leaves_the_steps_to_the_lstm():
    network = build((12, 3), conv_channels=(), kernel_size=(), pool_size=())
    assert network.lstm.layers[0].input_size == 3


def test_own_backbone_reads_frames():
    def backbone(in_channels, n_spatial):
        assert (in_channels, n_spatial) == (1, 2)
        return nn.Sequential(nn.Conv2d(in_channels, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    network = build((3, 8, 8, 1), backbone=backbone)
    assert network.lstm.layers[0].input_size == 6


def test_backbone_that_loses_the_steps_is_refused():
    def backbone(in_channels, n_spatial):
        return nn.Flatten(0)

    with pytest.raises(ValueError, match=r"backbone does not take X of shape .* expected"):
        build((3, 8, 8, 1), backbone=backbone)


def test_backbone_that_loses_time_is_refused():
    def backbone(in_channels, n_spatial):
        return nn.Sequential(nn.Conv1d(in_channels, 4, 3), nn.Flatten())

    with pytest.raises(ValueError, match=r"backbone made 2 axes .* expected"):
        build((12, 3), backbone=backbone)


def test_network_is_built_and_runs_on_the_meta_device():
    network = build((3, 8, 8, 1)).to("meta")
    output = network(torch.empty(2, 3, 8, 8, 1, device="meta"))
    assert output.device.type == "meta"
    assert output.shape == (2, 2)


def test_costly_images_get_thin_first_blocks_and_fewer_passes():
    clips = auto_sizes(54, (32, 48, 64, 3))
    assert clips["conv_channels"] == (8, 16, 32, 64)
    assert clips["max_epochs"] * 54 * 32 * 48 * 64 <= 10**8
    small = auto_sizes(54, (4, 16, 16, 3))
    assert small["conv_channels"] == (16, 32, 64)
    assert small["max_epochs"] * math.ceil(54 / small["batch_size"]) >= 400
    assert auto_sizes(5000, (32, 48, 64, 3))["max_epochs"] == 10


def test_series_lose_four_steps_to_one_until_no_more_than_512_are_left():
    products = [math.prod(auto_sizes(300, (n_timesteps, 1))["pool_size"]) for n_timesteps in (512, 720, 1024)]
    assert products == [8, 16, 16]


@pytest.mark.parametrize("n_timesteps", [1025, 4097, 18000, 10**6])
def test_long_series_pass_thin_blocks_until_1024_steps_are_left(n_timesteps):
    sizes = auto_sizes(300, (n_timesteps, 3))
    widths, pools = sizes["conv_channels"], sizes["pool_size"]
    n_thin = len(widths) - 3
    assert widths[n_thin:] == (64, 64, 64)
    assert math.ceil(n_timesteps / math.prod(pools[:n_thin])) <= 1024 < n_timesteps / math.prod(pools[: n_thin - 1])
    values = np.array(widths) * n_timesteps / np.cumprod([1, *pools[:-1]])  # that a block makes of a sample
    assert values[:n_thin].max() <= max(64 * 1024, 8 * n_timesteps)
    assert auto_sizes(300, (1024, 3))["conv_channels"] == (64, 64, 64)


def test_where_each_step_has_a_target_long_series_keep_their_length():
    sizes = auto_sizes(300, (5000, 3), target="step")
    assert sizes["conv_channels"] == (64, 64, 64)
    assert sizes["pool_size"] == (1, 1, 1)


@pytest.mark.parametrize(
    ("sample_shape", "target", "widths", "kernels"),
    [
        ((100, 64), "sample", (64, 64, 64), (15, 9, 5)),
        ((100, 65), "sample", (32, 64, 64), (1, 15, 9)),
        ((5000, 65), "sample", (8, 16, 64, 64, 64), (1, 15, 15, 9, 5)),
        ((5000, 65), "step", (32, 64, 64), (1, 15, 9)),
        ((10, 16, 16, 65), "sample", (16, 32, 64), (3, 3, 3)),
    ],
)
def test_many_channels_of_series_are_mixed_step_by_step_first(sample_shape, target, widths, kernels):
    sizes = auto_sizes(300, sample_shape, target=target)
    assert (sizes["conv_channels"], sizes["kernel_size"]) == (widths, kernels)


@pytest.mark.parametrize("sizes", [{"kernel_size": (7, 5, 3)}, {"pool_size": 2}])
def test_three_sizes_suit_a_series_of_any_length(sizes):
    X = np.random.default_rng(0).normal(size=(4, 1100, 65))
    model = CNNLSTMRegressor(max_epochs=1, random_state=0, **sizes).fit(X, X[:, -1, 0])
    assert model.conv_channels_ == (64, 64, 64)


def test_blocks_that_are_given_are_neither_thinned_nor_mixed():
    sizes = auto_sizes(300, (5000, 100), conv_channels=(64, 64))
    assert (sizes["conv_channels"], sizes["kernel_size"]) == ((64, 64), (15, 9))


def test_size_jitter_multiplies_whole_samples_in_training_alone():
    torch.manual_seed(0)
    network = build((12, 3), size_jitter=0.1).train()
    X = torch.randn(500, 12, 3)
    factors = network.vary(X) / X
    torch.testing.assert_close(factors, factors[:, :1, :1].expand_as(X))
    assert abs(factors[:, 0, 0].mean() - 1) < 0.02
    assert 0.08 < factors[:, 0, 0].std() < 0.12
    network.eval()
    assert network.vary(X) is X


def test_a_table_costs_a_hundred_updates_and_an_lstm_over_few_steps():
    for n_columns in (5, 20, 64):
        sizes = auto_sizes(300, (n_columns, 1))
        assert math.ceil(n_columns / math.prod(sizes["pool_size"])) <= 8
        assert 100 <= sizes["max_epochs"] * math.ceil(300 / sizes["batch_size"]) <= 110
    assert math.prod(auto_sizes(300, (20, 1), target="step")["pool_size"]) == 1


@pytest.mark.parametrize(
    ("dropout", "target", "expected"), [("auto", "sample", 0.5), ("auto", "step", 0.2), (0, "sample", 0)]
)
def test_dropout_follows_the_target(dropout, target, expected):
    X = np.random.default_rng(0).normal(size=(12, 6, 1))
    y = X[:, 0, 0] if target == "sample" else X[:, :, 0]
    model = CNNLSTMRegressor(dropout=dropout, target=target, max_epochs=1, random_state=0).fit(X, y)
    rates = {layer.p for layer in model.net_.module_.head if isinstance(layer, nn.Dropout)}
    assert rates == {model.dropout_} == {expected}


@pytest.mark.parametrize("conv_channels", [8, (8,), (8, 8), (8, 8, 8, 8), (8,) * 6])
@pytest.mark.parametrize("frame", [(2,), (9, 2), (9, 9, 1)])
def test_other_numbers_of_blocks_than_the_default_get_kernels_and_pools(conv_channels, frame):
    X = np.random.default_rng(0).normal(size=(12, 40, *frame))
    model = CNNLSTMClassifier(conv_channels=conv_channels, conv_bank=0, hidden_size=4, max_epochs=1, random_state=0)
    model.fit(X, np.arange(12) % 2)
    n_blocks = len(model.conv_channels_)
    assert len(model.kernel_size_) == len(model.pool_size_) == n_blocks
    assert model.predict(X).shape == (12,)


def test_as_many_kernels_as_blocks_are_expected():
    X = np.zeros((12, 40, 2))
    for n_kernels in (1, 3):
        model = CNNLSTMClassifier(conv_channels=(8, 8), kernel_size=(3,) * n_kernels)
        with pytest.raises(ValueError, match=rf"has {n_kernels} entries for 2 conv_channels; expected as many"):
            model.fit(X, np.arange(12) % 2)
