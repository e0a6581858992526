"""What users pass, as canonical arrays."""

import numpy as np
import pytest
import torch

from sklearn_cnnlstm import _sequences


def test_plain_2d_is_one_channel_of_many_steps():
    X = np.arange(6.0).reshape(2, 3)
    assert _sequences.canonical(X).tolist() == [[[0], [1], [2]], [[3], [4], [5]]]


@pytest.mark.parametrize("layout", ["NCT", "NTCS", "NTCHW", "NCTHW", "NCDHWT"])
def test_layout_puts_the_named_axes_in_canonical_order(layout):
    sizes = {"N": 2, "T": 3, "D": 4, "S": 4, "H": 5, "W": 6, "C": 7}
    order = {3: "NTC", 4: "NTSC", 5: "NTHWC", 6: "NTDHWC"}[len(layout)]
    expected = np.random.default_rng(0).normal(size=[sizes[letter] for letter in order])
    given = np.einsum(f"{order}->{layout}", expected)
    assert np.array_equal(_sequences.canonical(given, layout=layout), expected)


def test_canonical_is_a_view():
    X = np.zeros((4, 2, 5), dtype=np.float32)
    assert np.shares_memory(_sequences.canonical(X, layout="NCT"), X)
    flat = X.reshape(4, -1)
    assert np.shares_memory(_sequences.canonical(flat, layout="NCT", input_shape=(2, 5)), X)


def test_input_shape_unfolds_in_the_order_of_the_layout():
    X = np.random.default_rng(0).normal(size=(3, 2, 5))
    flat = X.reshape(3, 10)
    assert np.array_equal(_sequences.canonical(flat, layout="NCT", input_shape=(2, 5)), X.transpose(0, 2, 1))


@pytest.mark.parametrize("layout", ["NTX", "NT", "NTCC", "ntc"])
def test_wrong_letters_are_refused(layout):
    with pytest.raises(ValueError, match="does not name the 3 axes of X"):
        _sequences.canonical(np.zeros((2, 3, 4)), layout=layout)


def test_samples_must_come_first():
    with pytest.raises(ValueError, match="must begin with 'N'"):
        _sequences.canonical(np.zeros((2, 3, 4)), layout="TNC")


def test_layout_of_plain_2d_is_refused():
    with pytest.raises(ValueError, match="needs X of 3 to 6 dimensions or input_shape"):
        _sequences.canonical(np.zeros((2, 3)), layout="NT")


@pytest.mark.parametrize("input_shape", [(6,), (0, 6), (2, 3.0), 6, "NT", (1, 1, 1, 1, 1, 6)])
def test_input_shape_must_be_two_to_five_positive_integers(input_shape):
    with pytest.raises(ValueError, match="expected the shape of one sample"):
        _sequences.check_shape(np.zeros((2, 6)), input_shape)


def test_input_shape_must_have_the_size_of_a_sample():
    with pytest.raises(ValueError, match="X has 6 features, but input_shape=\\(2, 4\\) unfolds 8"):
        _sequences.check_shape(np.zeros((2, 6)), (2, 4))
    with pytest.raises(ValueError, match=r"X has samples of shape \(3, 2\), but input_shape is \(2, 3\)"):
        _sequences.check_shape(np.zeros((5, 3, 2)), (2, 3))


@pytest.mark.parametrize("shape", [(5,), (2, 2, 2, 2, 2, 2, 2)])
def test_numbers_of_axes_outside_2_to_6_are_refused(shape):
    with pytest.raises(ValueError, match=f"X has {len(shape)} dimensions"):
        _sequences.check_shape(np.zeros(shape), None)


def test_ragged_list_is_padded_with_nan():
    X = _sequences.to_array([np.zeros((1, 1)), np.ones((2, 1))])
    np.testing.assert_array_equal(X, [[[0], [np.nan]], [[1], [1]]])


def test_ragged_list_is_named_with_its_first_odd_sample():
    with pytest.raises(ValueError, match=r"sample 2 has shape \(4, 2\) and sample 0 has \(3, 1\)"):
        _sequences.to_array([np.zeros((3, 1)), np.zeros((3, 1)), np.zeros((4, 2))])


def test_object_array_of_equal_samples_is_stacked():
    X = np.empty(2, dtype=object)
    X[:] = [np.zeros((3, 1)), np.ones((3, 1))]
    assert _sequences.to_array(X).shape == (2, 3, 1)


def test_tensor_on_the_cpu_is_read_without_a_copy():
    X = torch.ones(2, 3, 1, requires_grad=True)
    assert np.shares_memory(_sequences.to_array(X), X.detach().numpy())


def test_tensor_elsewhere_is_refused():
    with pytest.raises(TypeError, match="expected one on the cpu"):
        _sequences.to_array(torch.ones(2, 3, 1, device="meta"))


def test_channel_statistics_are_numpys(monkeypatch):
    monkeypatch.setattr(_sequences, "_CHUNK_BYTES", 8 * 12 * 3)  # chunks of three samples
    X = np.random.default_rng(0).normal(1e6, [1.0, 1e-3, 5.0], size=(10, 4, 3))
    index = np.array([9, 1, 2, 3, 5, 7, 8])
    mean, std = _sequences.channel_statistics(X, index)
    np.testing.assert_allclose(mean, X[index].mean(axis=(0, 1)), rtol=1e-12)
    np.testing.assert_allclose(std, X[index].std(axis=(0, 1)), rtol=1e-6)


def test_weighted_statistics_are_those_of_repeated_samples():
    X = np.random.default_rng(0).integers(0, 255, size=(5, 3, 2, 2)).astype(np.uint8)
    weight = np.array([1.0, 0.0, 3.0, 2.0, 1.0])
    repeated = np.repeat(X, weight.astype(int), axis=0)
    got = _sequences.channel_statistics(X, np.arange(5), weight)
    np.testing.assert_allclose(got, (repeated.mean(axis=(0, 1, 2)), repeated.std(axis=(0, 1, 2))), rtol=1e-12)


def test_constants_are_divided_by_one():
    mean, std = np.array([0.0, 7.0, 1e9, 0.0]), np.array([0.0, 1e-15, 1e-7, 1e-40])
    assert _sequences.safe_scale(mean, std).tolist() == [1.0, 1.0, 1.0, 1.0]


def test_scale_is_at_least_what_the_dtype_can_tell_apart():
    mean, std = np.array([1e9, 1e9, 2.0]), np.array([1.0, 1e4, 0.5])
    spacing = 1e9 * 2.0**-23
    assert _sequences.safe_scale(mean, std, dtype=np.float32).tolist() == [spacing, 1e4, 0.5]
    assert _sequences.safe_scale(mean, std).tolist() == [1.0, 1e4, 0.5]
