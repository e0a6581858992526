"""The accuracy benchmark scores what it says, and a look at a test part is noted."""

import functools
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import VotingClassifier

from sklearn_cnnlstm import CNNLSTMClassifier

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
small = functools.partial(CNNLSTMClassifier, conv_bank=0, conv_channels=4, hidden_size=4, max_epochs=3, batch_size=32)


@pytest.fixture
def benchmark(monkeypatch, tmp_path):
    """The module accuracy, with small estimators, two small sets and a recipe of its own."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setenv("CNNLSTM_DATA", str(tmp_path))
    import accuracy

    (tmp_path / "recipe.md").write_text("# How\n")
    monkeypatch.setattr(accuracy, "CNNLSTMClassifier", small)
    monkeypatch.setattr(accuracy, "RECIPE", tmp_path / "recipe.md")
    random = np.random.default_rng(0)
    y = np.arange(60) % 2
    X = (random.normal(size=(60, 12, 2)) + np.sin(np.arange(12) * (1 + y[:, None]))[..., None]).astype(np.float32)
    np.savez(tmp_path / "GunPoint.npz", X_train=X[:30], y_train=y[:30], X_test=X[30:], y_test=y[30:])
    groups = np.repeat(np.arange(10), 6)
    parts = {"X_train": X[:48], "y_train": y[:48], "groups_train": groups[:48]}
    parts |= {"X_test": X[48:], "y_test": y[48:], "groups_test": groups[48:]}
    np.savez(tmp_path / "UT_Interaction_set1.npz", **parts)
    yield accuracy
    for name in ("accuracy", "data_sets", "peers", "report"):
        sys.modules.pop(name)


def run(benchmark, tmp_path, *options):
    benchmark.main(["--models", "CNN-LSTM", "ridge", "--seeds", "2", "--results", str(tmp_path / "results"), *options])


def test_vote_is_that_of_scikit_learns_voting_classifier(benchmark, tmp_path):
    run(benchmark, tmp_path, "--sets", "GunPoint", "--vote")
    with np.load(tmp_path / "GunPoint.npz") as data:
        seeds = [(str(seed), small(random_state=seed)) for seed in range(2)]
        ensemble = VotingClassifier(seeds, voting="soft").fit(data["X_train"], data["y_train"])
        expected = ensemble.score(data["X_test"], data["y_test"])
    assert float(benchmark.vote("GunPoint", tmp_path / "results", validate=False)) == pytest.approx(expected, abs=1e-4)


def test_looks_at_test_parts_are_noted_and_validation_is_none(benchmark, tmp_path):
    run(benchmark, tmp_path, "--sets", "GunPoint", "--validate")
    assert (tmp_path / "recipe.md").read_text() == "# How\n"
    for _ in range(2):  # the second goes on from files
        run(benchmark, tmp_path, "--sets", "GunPoint")
    *_, look = (tmp_path / "recipe.md").read_text().splitlines()
    assert "GunPoint" in look
    assert look.count("(seed ") == 2


def test_validation_reads_no_test_part(benchmark, tmp_path):
    with np.load(tmp_path / "GunPoint.npz") as data:
        parts = dict(data)
    for held_out in range(3):
        ((X, _), (X_test, _)) = benchmark.data_sets.splits("GunPoint", held_out=held_out)[0]
        rows = {x.tobytes() for x in np.concatenate([X, X_test])}
        assert rows == {x.tobytes() for x in parts["X_train"]}


def test_sequences_are_left_out_one_after_the_other(benchmark):
    pairs = benchmark.data_sets.splits("UT_Interaction_set1")
    assert [len(y_test) for _, (_, y_test) in pairs] == [6] * 10
    assert [len(y) for (_, y), _ in pairs] == [54] * 10
