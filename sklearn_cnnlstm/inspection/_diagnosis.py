"""What is likely wrong with a training, and what helps?"""

import numpy as np

from ._unwrap import unwrap

_JUMP = 0.2  # of the loss of the epoch before
_SMALL_JUMP = 0.05  # of all that was gained
_STILL_FALLS = 0.05  # of all that was gained, from the last tenth of the epochs but one to the last
_LEARNED = 0.97  # of the loss of a constant answer
_WORSE = 0.1  # of all that was gained
_FEW_EPOCHS = 4
_FEW_VALIDATION_SAMPLES = 30
_FEW_PER_CLASS = 5
_DOMINANT = 10  # times the samples of the rarest class
_MOST_NAMES = 5


def diagnose(estimator):
    """Likely trouble of a training, each with its cure.

    Parameters
    ----------
    estimator : estimator
        Fitted CNNLSTMClassifier or CNNLSTMRegressor, a pipeline that ends in one, or a search over one.

    Returns
    -------
    findings : list of str
        What was found and what helps; empty if nothing looks wrong. Looked at are: a loss that is not a number, jumps,
        still falls or is no better than that of a constant answer; validation data that are few, or on which the
        network got worse again; training that ended before early stopping could; constant channels; classes that are
        missing, rare or dominant.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_cnnlstm import CNNLSTMClassifier
    >>> from sklearn_cnnlstm.inspection import diagnose
    >>> X = np.random.default_rng(0).normal(size=(40, 10, 2))
    >>> y = X[:, :, 0].mean(axis=1) > 0
    >>> X[:, :, 1] = 7
    >>> diagnose(CNNLSTMClassifier(max_epochs=20, random_state=0).fit(X, y))
    ['channel 1 is constant in the training data: leave it out.']
    """
    estimator = unwrap(estimator)
    last = estimator.history_["train_loss"].iloc[-1]
    if not np.isfinite(last):
        return [f"the training loss is {last}: lower lr (now {estimator.lr}), or scale X and y."]
    checks = _jumps, _still_falls, _learned_nothing, _few_to_validate, _got_worse, _constant_channels, _classes
    return [finding for check in checks for finding in check(estimator)]


def _jumps(estimator):
    loss = estimator.history_["train_loss"].to_numpy()
    least = np.maximum(_JUMP * loss[:-1], _SMALL_JUMP * (loss[0] - loss.min()))
    n_jumps = int((np.diff(loss) > least).sum())
    if n_jumps > max(2, len(loss) // 10):
        yield f"the training loss rose by a fifth or more in {n_jumps} epochs: lower lr (now {estimator.lr})."


def _still_falls(estimator):
    n_epochs, n_max = estimator.n_epochs_, estimator.max_epochs_
    patience = estimator.n_iter_no_change
    if estimator.early_stopping_ and patience < n_max:
        best = estimator.best_epoch_
        if n_epochs >= n_max and n_epochs - best < patience:
            yield f"training ended at epoch {n_epochs}, before early stopping could (best: {best}): raise max_epochs."
        return
    if n_epochs < _FEW_EPOCHS:
        return
    part = "validation" if "valid_loss" in estimator.history_ else "training"
    loss = estimator.history_["valid_loss" if part == "validation" else "train_loss"].to_numpy()
    tenth = max(1, n_epochs // 10)
    fall = loss[-2 * tenth : -tenth].mean() - loss[-tenth:].mean()
    if fall > _STILL_FALLS * (loss[0] - loss.min()):
        yield f"the {part} loss still falls at the last epoch ({loss[-1]:.3g}): raise max_epochs (now {n_max})."


def _learned_nothing(estimator):
    last = estimator.history_["train_loss"].iloc[-1]
    constant = _loss_of_constant(estimator)
    if constant is not None and last > _LEARNED * constant:
        yield (
            f"the training loss ({last:.3g}) is hardly better than that of a constant answer ({constant:.3g}): check "
            "that the rows of X and y belong together, then raise max_epochs or lr."
        )


def _loss_of_constant(estimator):
    """The least training loss without a look at X, None where it is not known."""
    if estimator.target != "sample":
        return None
    if not hasattr(estimator, "classes_"):
        return 1.0 if estimator.loss == "squared_error" else None  # targets are standardised
    counts = estimator._class_counts
    if estimator._is_multilabel or estimator.class_weight is not None or np.count_nonzero(counts) < 2:
        return None
    smoothing = estimator.label_smoothing
    share = (1 - smoothing) * counts / counts.sum() + smoothing / len(counts)
    return -(share * np.log(np.where(share > 0, share, 1))).sum()


def _few_to_validate(estimator):
    n_valid = _n_validation_samples(estimator)
    needed = max(_FEW_VALIDATION_SAMPLES, _FEW_PER_CLASS * len(getattr(estimator, "classes_", ())))
    if 0 < n_valid < needed:
        yield (
            f"the validation part has {n_valid} samples, on which a score is much by chance: raise "
            f"validation_fraction (now {estimator.validation_fraction}), pass X_val of {needed} or more, or "
            "set early_stopping=False."
        )


def _n_validation_samples(estimator):
    return sum(batch.get("valid_batch_size", 0) for batch in estimator.net_.history[-1]["batches"])


def _got_worse(estimator):
    history = estimator.history_
    if estimator.early_stopping_ or "valid_loss" not in history:
        return
    loss = history["valid_loss"].to_numpy()
    best, last = loss.min(), loss[-1]
    if last - best > _WORSE * max(loss[0] - best, best):
        yield (
            f"the validation loss was {best:.3g} at epoch {history['epoch'][loss.argmin()]} and {last:.3g} at the end: "
            "early_stopping=True puts the best weights back; more dropout or weight_decay may help."
        )


def _constant_channels(estimator):
    constant = estimator._constant_channels
    if len(constant):
        them = "it" if len(constant) == 1 else "them"
        kind = "column" if estimator.net_.module_.input_mean.ndim > 1 else "channel"
        yield f"{_named(kind, constant)} constant in the training data: leave {them} out."


def _classes(estimator):
    if not hasattr(estimator, "classes_"):
        return
    classes, counts = estimator.classes_, estimator._class_counts
    missing, rare = classes[counts == 0], classes[(counts > 0) & (counts < _FEW_PER_CLASS)]
    if len(missing):
        yield f"{_named('class', missing)} not in the training data: pass samples, or leave out of classes."
    if len(rare):
        yield f"{_named('class', rare)} rare, below {_FEW_PER_CLASS} training samples: add some, or join classes."
    most, least = counts.max(), counts[counts > 0].min()
    if most > _DOMINANT * least and not estimator._is_multilabel and estimator.class_weight is None:
        yield (
            f"class {classes[counts.argmax()]} has {most} of {counts.sum()} training samples, another {least}: set "
            "class_weight='balanced', and judge by balanced accuracy."
        )


def _named(kind, names):
    """'class a is', 'classes a and b are', the first of many only."""
    names = [str(name) for name in names]
    if len(names) == 1:
        return f"{kind} {names[0]} is"
    plural = kind + ("es" if kind.endswith("s") else "s")
    if len(names) > _MOST_NAMES:
        names = [*names[: _MOST_NAMES - 1], f"{len(names) - _MOST_NAMES + 1} more"]
    return f"{plural} {', '.join(names[:-1])} and {names[-1]} are"
