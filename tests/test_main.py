"""The main job from the shell."""

import re

import numpy as np
import pytest

from sklearn_cnnlstm.__main__ import main


@pytest.fixture
def data_file(tmp_path):
    def write(**changes):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(40, 6, 2))
        y = (X[:, :, 0].mean(axis=1) > 0).astype(int)
        arrays = {"X_train": X[:30], "y_train": y[:30], "X_test": X[30:], "y_test": y[30:]} | changes
        path = tmp_path / "data.npz"
        np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
        return str(path)

    return write


def test_digits_report_shows_search_and_held_out_scores(capsys):
    assert main(["--param", "max_epochs=2"]) == 0
    report = capsys.readouterr().out
    assert len(re.findall(r"hidden_size=\d+, lr=\S+ +0\.\d{3}", report)) == 4
    accuracy = float(re.search(r"CNNLSTMClassifier +(0\.\d+)", report)[1])
    assert accuracy > 0.5  # ten classes, two epochs
    matrix = [
        [int(count) for count in line.split()[1:]]
        for line in report.splitlines()
        if re.match(r" +\d( +\d+){10}$", line)
    ]
    assert np.array(matrix).shape == (10, 10)
    assert np.trace(matrix) / np.sum(matrix) == pytest.approx(accuracy, abs=1e-3)


def test_users_file_of_labels_is_a_classification(data_file, capsys):
    assert main(["--data", data_file(), "--param", "max_epochs=3", "--param", "hidden_size=4"]) == 0
    report = capsys.readouterr().out
    assert "hidden_size=4" in report
    assert "3 epochs" in report
    assert re.search(r"MLPClassifier +[01]\.\d+", report)


def test_users_file_of_floats_is_a_regression(data_file, capsys):
    rng = np.random.default_rng(0)
    path = data_file(y_train=rng.normal(size=30), y_test=rng.normal(size=10))
    assert main(["--data", path, "--param", "max_epochs=2"]) == 0
    assert re.search(r"R2.*\n +CNNLSTMRegressor +-?\d", capsys.readouterr().out)


def test_targets_that_the_peer_scores_otherwise_are_reported_alone(data_file, capsys):
    rng = np.random.default_rng(0)
    y_train, y_test = rng.integers(2, size=(30, 6)), rng.integers(2, size=(10, 6))
    path = data_file(y_train=y_train, y_test=y_test)
    assert main(["--data", path, "--param", "max_epochs=2", "--param", "target=step"]) == 0
    report = capsys.readouterr().out
    assert re.search(r"CNNLSTMClassifier +[01]\.\d+", report)
    assert "MLP" not in report


def test_users_file_may_miss_values(data_file, capsys):
    X = np.random.default_rng(0).normal(size=(30, 6, 2))
    X[:5, 4:] = X[7, 2, 1] = X[:, 5, 0] = np.nan
    assert main(["--data", data_file(X_train=X), "--param", "max_epochs=2"]) == 0
    assert re.search(r"MLPClassifier +[01]\.\d+", capsys.readouterr().out)


def test_task_overrides_the_dtype(data_file, capsys):
    assert main(["--data", data_file(), "--task", "regression", "--param", "max_epochs=2"]) == 0
    assert "CNNLSTMRegressor" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X_test": None}, "lacks X_test"),
        ({"X_train": np.full((30, 6, 2), np.nan)}, "no value that is not NaN"),
        ({"y_train": np.zeros(7, dtype=int)}, "inconsistent numbers of samples"),
        ({"X_test": np.zeros((10, 6, 3))}, "X has 3 channels, but CNNLSTMClassifier was fitted with 2"),
        ({"y_train": np.array([None] * 30)}, "cannot be read"),
    ],
)
def test_bad_file_is_one_clear_line_and_status_2(data_file, capsys, change, message):
    assert main(["--data", data_file(**change), "--param", "max_epochs=1"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_file_that_is_no_archive_is_one_clear_line(tmp_path, capsys):
    path = tmp_path / "notes.npz"
    path.write_text("not arrays")
    assert main(["--data", str(path)]) == 2
    assert "cannot be read as an .npz file" in capsys.readouterr().err


def test_unknown_parameter_is_named(data_file, capsys):
    assert main(["--data", data_file(), "--param", "depth=3"]) == 2
    assert "depth is no parameter of CNNLSTMClassifier" in capsys.readouterr().err


def test_bad_value_of_a_parameter_is_named(data_file, capsys):
    assert main(["--data", data_file(), "--param", "lr=-1"]) == 2
    assert "'lr' parameter" in capsys.readouterr().err


def test_setting_without_a_value_is_a_usage_error(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--param", "lr"])
    assert "expected NAME=VALUE" in capsys.readouterr().err


@pytest.mark.slow
def test_uci_har_trains_from_the_shell(load_data, tmp_path, capsys):
    data = load_data("UCI_HAR")
    path = tmp_path / "har.npz"
    np.savez(path, **{key: data[key] for key in ("X_train", "y_train", "X_test", "y_test")})
    assert main(["--data", str(path), "--param", "max_epochs=2"]) == 0
    assert float(re.search(r"CNNLSTMClassifier +(0\.\d+)", capsys.readouterr().out)[1]) > 0.85
