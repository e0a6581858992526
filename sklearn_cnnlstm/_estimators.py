"""The scikit-learn contract: parameters, what fit and predict accept, labels, weights, fitted attributes."""

import contextlib
import copy
import inspect
import itertools
import math
import textwrap
import warnings
from numbers import Integral, Real

import numpy as np
import pandas as pd
from scipy.sparse import issparse
from scipy.special import expit, log_expit, log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import check_scoring, get_scorer_names, r2_score
from sklearn.model_selection import (
    GroupKFold,
    GroupShuffleSplit,
    KFold,
    ShuffleSplit,
    StratifiedGroupKFold,
    StratifiedKFold,
    StratifiedShuffleSplit,
)
from sklearn.utils import assert_all_finite, check_array, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from . import _sequences, _training
from ._bank import FEW_SAMPLES, MOST_PIXELS
from ._network import NETWORKS, POOLINGS, BankCNNLSTM, Blend, LastValue, OwnUnits, Squash, Vote

_CALIBRATION_POSITIONS = 2**15  # steps or pixels, and no more than that of responses per kernel
_LEAST_BATCH = 32  # of series, which is also the batch of a stream of parts that differ in size
_LEAST_WEIGHT = 2.0**-60  # of a sample by the greatest one, below which it is left out: no digit would tell
_KERNELS_OF_TWO_GROUPS = 36  # of the frozen bank for two groups of competing kernels, in a classifier of series
_FAR = 1.5  # variance of a change by those of the target and of the last value, the lesser: not as far as that
_LEAD = 1.2  # levels are measured from last values unless ridge then leaves so many times the squared error, or more
_TRIAL_VALUES = 2**22  # in up to FEW_SAMPLES series, by which that is found
_SKEWED = 1.0  # mean cube of a regressor's standardised channel, from which on it is squashed
_SIZES_DIFFER = 5.0  # deviations of series, of the largest tenth by the smallest: they are seen in their own units, too
_LEAST_SIZE = 1e-3  # added to them, by the usual one
_LEAST_DEVIATION = 1e-6  # by the channel's: a lesser one may be rounding
_LEAST_STEPS = 8  # of a series: the deviations of shorter ones differ by chance
_LEAST_SPREAD = 0.25  # of the logarithms of deviations, by which they are divided
_FEW_CHANNELS = 32  # of more three views of each would take long
_SIZE_VALUES = 2**22  # of some series, by which that is found
_SIZE_JITTER = 0.1  # of series, in a classifier's training
_HELD_OUT = 6  # one in so many samples shows how far what was trained on the others is to be trusted
_MOST_PARTS = 10  # of groups, some of which are held out; of more where the fraction is smaller than one of them
_LONG = 1024  # steps: a longer series passes thin blocks first
_MANY_CHANNELS = 64  # of a series: more are mixed step by step by the first block
_IMAGE_BUDGET = 10**8  # pixels of frames that a training reads, in all of its epochs together
_SIZE = Interval(Integral, 1, None, closed="left")
_SIZE_OR_SIZES = [StrOptions({"auto"}), _SIZE, tuple, list]


def auto_sizes(n_samples, sample_shape, target="sample", conv_channels=None, *, suits_blocks=True):
    """What "auto" parameters become for `n_samples` training samples of shape (time, *space, channel).

    `conv_channels`, where they are given, tell how many blocks there are. `suits_blocks`: whether series that are long
    or of many channels get blocks for them, as their kernel and pool sizes are "auto", too.

    Samples of a table's size get a small network and few updates. A series is pooled to some 32 steps before the LSTM,
    to 8 at a table's size, the side of an image to 4; where each step has a target, time is not pooled. Large images
    and long series start with fewer filters, series of many channels with filters of one step, large or many images
    get fewer updates. Every size gets at least 10 passes over the data.
    """
    n_timesteps, *space, n_channels = sample_shape
    side = max(space, default=n_timesteps)
    is_small = math.prod(sample_shape) <= 64
    is_map = target == "map"  # every pixel teaches, at every place an LSTM runs: a small network, few updates
    is_image = len(space) >= 2
    keeps_time = target == "step" and not space

    kernels = (3,) if is_image else (9, 5, 3) if is_small else (15, 9, 5)
    if conv_channels is not None:
        pass
    elif is_map:
        conv_channels = (8, 16)
    elif is_image:
        conv_channels = (16, 32, 64) if side <= 32 else (8, 16, 32, 64)
    elif is_small:
        conv_channels = (32, 32, 32)
    else:
        thin = () if keeps_time or not suits_blocks else _thin_filters(side)
        mixes = n_channels > _MANY_CHANNELS and suits_blocks
        conv_channels = (32, 64, 64) if mixes and not thin else (*thin, 64, 64, 64)
        kernels = (*[1] * mixes, *[15] * (len(thin) - mixes), *kernels)
    kernel_size = tuple(min(kernels[min(i, len(kernels) - 1)], 2 * side - 1) for i in range(len(conv_channels)))
    pool_size, length = [], side
    for _ in conv_channels:
        keeps_length = keeps_time or length <= (4 if space else 8 if is_small else 32)
        pool_size.append(1 if keeps_length else 2 if length <= 512 else 4)
        length = math.ceil(length / pool_size[-1])

    batch_size = 16 if is_image else int(np.clip(2 ** round(math.log2(n_samples / 64)), _LEAST_BATCH, 128))
    batch_size = min(batch_size, n_samples)
    n_updates = 150 if is_map else 100 if is_small else 400
    max_epochs = min(200, math.ceil(n_updates * batch_size / n_samples))
    if is_image and not is_map:
        max_epochs = min(max_epochs, _IMAGE_BUDGET // (n_samples * math.prod(sample_shape[:-1])))
    return {
        "conv_channels": conv_channels,
        "kernel_size": kernel_size,
        "pool_size": tuple(pool_size),
        "hidden_size": 32 if is_small or is_map else 64,
        "dropout": 0.2 if target == "step" else 0.5,
        "conv_bank": _auto_bank(n_samples, sample_shape) if target == "sample" else 0,
        "batch_size": batch_size,
        "max_epochs": max(10, max_epochs),
    }


def _thin_filters(length):
    """Filters of the blocks that a long series passes first, each of which leaves one step of four."""
    if length <= _LONG:
        return ()
    return (16 if length <= 4 * _LONG else 8, *_thin_filters(math.ceil(length / 4)))


def _auto_bank(n_samples, sample_shape):
    """As many frozen kernels as some seconds allow; fewer for many samples, whose answer is solved for by feature."""
    if n_samples < 10:
        return 0
    n_timesteps, *space, _ = sample_shape
    most = 96 if space else 588 if n_samples <= FEW_SAMPLES else 336
    n_positions = n_samples * n_timesteps * math.prod(min(side, MOST_PIXELS[len(space)]) for side in space)
    return int(np.clip(3.2e8 / n_positions, 24 if space else 84, most))


class _BaseCNNLSTM(BaseEstimator):
    """What the classifier and the regressor share: everything but the meaning of y.

    conv_bank : "auto" or int, default="auto"
        Frozen dilated kernels (MiniRocket's, for a classifier of series Hydra's too) beside the learned CNN and LSTM,
        whose answer is solved for by ridge regression; 0: none, as ever for targets other than "sample", a single
        sample and a network that `partial_fit` began. "auto" is none for tables and fewer than 10 samples too.
        `partial_fit` after `fit` trains what is learned and leaves their answer as it was. Ridge regression takes
        nothing for more or less than it was in training (in regressors of all but images and volumes up to half of that
        range beyond it); what is trained may extrapolate.
    conv_channels : "auto", int or tuple of int, default="auto"
        Filters of each block of the CNN (convolution, batch norm, ReLU, max pool); an int is one block, () no CNN.
        "auto" is three blocks, for images of more than 32 pixels four, for maps two. Longer lines and series than 1024
        steps pass thin ones first, which leave a step of four each (not where each step has a target), and of more than
        64 channels the first block makes 32 or fewer, by kernels of one step; both if sizes are "auto" throughout.
    kernel_size : "auto", int or tuple of int, default="auto"
        Steps, or side in pixels, that a convolution sees; one for all blocks or one each.
    pool_size : "auto", int or tuple of int, default="auto"
        Steps, or side in pixels, that the max pool of a block merges into one.
    hidden_size : "auto" or int, default="auto"
        Units of the LSTM in each direction.
    num_layers : int, default=1
        LSTM layers.
    bidirectional : bool, default=True
        Whether the LSTM also reads from the end.
    pooling : str or tuple of str, default=("last", "mean", "max", "attention")
        How the states of all steps become one vector; several are put side by side.
    dropout : "auto" or float, default="auto"
        Share of values dropped between LSTM layers and before the head; "auto" is 0.2 for an answer per step, else 0.5.
    backbone : callable, default=None
        backbone(in_channels, n_spatial) -> nn.Module in place of the CNN above. For 4-D X and up the module gets
        frames (batch, in_channels, *space) and gives (batch, features) or maps (batch, features, *space); for 3-D X
        (n_spatial=0) it gets (batch, in_channels, time) and gives (batch, features, time).
    optimizer : "adamw", "adam", "sgd" or a torch.optim class, default="adamw"
        Called with parameters and `lr`; "sgd" has Nesterov momentum 0.9.
    lr : float, default=0.003
        Learning rate, the highest of the schedule. The norm of a gradient is clipped at 1.
    weight_decay : float, default=0.01
        Pull of weights towards 0; biases and norms are left alone.
    lr_schedule : "cosine" or "constant", default="cosine"
        "cosine" climbs to `lr` over a tenth of the updates and then falls to 0 along a cosine.
    batch_size : "auto" or int, default="auto"
        Most samples per update; an epoch is cut into batches as equal as possible.
    max_epochs : "auto" or int, default="auto"
        Passes over the training data.
    early_stopping : "auto" or bool, default="auto"
        Whether to stop when the validation part no longer gets better and put the best weights back. "auto" does so
        if X_val is passed to fit; True without X_val holds out `validation_fraction` of the training data.
    validation_fraction : float, default=0.1
        Share of the samples held out.
    validation_order : "random" or "last", default="random"
        Which are held out: a random part (stratified by class, whole groups if fit is given `groups`), or the last.
    scoring : "loss", str or callable, default="loss"
        What early stopping watches: the loss, or a scikit-learn scorer. A function of (estimator, X, y) is given
        `sample_weight`, too, if it has that argument.
    n_iter_no_change : int, default=10
        Epochs without improvement before training stops.
    tol : float, default=0.0001
        Least change that counts as an improvement.
    warm_start : bool, default=False
        Whether fit goes on from the fitted weights, for `max_epochs` more, instead of anew.
    net_callbacks : list of skorch callbacks, default=None
        Passed to the skorch net, which stays in `net_`.
    layout : str, default=None
        Axes of X in its own order: the letters N (sample, first), T (time), C (channel) and S, or H and W, or D, H
        and W (space), such as "NCT" or "NTCHW". None is (n_samples, n_timesteps, *spatial, n_channels).
    input_shape : tuple of int, default=None
        Shape of one sample, in the order of `layout` without N, into which the columns of a 2-D X unfold.
    missing : "mask", "ffill" or "error", default="mask"
        What becomes of NaN in X. "mask": the mean of its channel (for frozen kernels a line between the values around
        it, for changes from a last value this one), and each channel that had NaN in fit gets an indicator channel
        beside it (`backbone` counts these too); NaN in other channels is refused later. "ffill": the last value of that
        channel and place is carried on, the mean stands before the first. "error": NaN is refused.
        Steps at the end of a sample whose every value is NaN are no missing values but padding, for 3-D X and up.
    target : "sample", "step" or "map", default="sample"
        What a target belongs to: a sample; each time step, y of shape (n_samples, n_timesteps); or each pixel of one
        map or of `horizon` maps to come, y of shape (n_samples, *spatial) or (n_samples, horizon, *spatial). Numbers
        may have a last axis of outputs more. In y of "step" and "map" NaN is no observation: out of the loss and the
        score. For "step" no state is pooled, and the CNN of 3-D X keeps the steps unless `pool_size` is given; y of
        ragged X is a list as well or ends in NaN, and what is predicted is an array of arrays for a list X, else it
        ends in NaN. For "map" the LSTM runs at each place of the CNN's maps, and a regressor of no more outputs than X
        has channels predicts the change from the first channels of the last frame; `conv_bank` is not used.
    {task}
    device : "auto", str or torch.device, default="auto"
        Where to train: "auto" takes cuda, else mps or xpu, else cpu. A named device must be there.
    precision : "auto", "float32", "bfloat16" or "float16", default="auto"
        Arithmetic of the learned layers; "auto" is float32, as bfloat16 took longer on the one GPU where it was
        measured. On another kind of device than it was trained on a model answers in float32.
    deterministic : bool, default=False
        Whether to keep to algorithms that give the same bits on CUDA too; torch says what it then needs.
    random_state : int, RandomState or None, default=None
        Seed of weights, order of samples, dropout and inner split.
    verbose : int, default=0
        1 shows one line with epochs, losses, score and time left, on a terminal only; 2 prints a row per epoch.
    """

    _parameter_constraints = {
        "conv_bank": [StrOptions({"auto"}), Interval(Integral, 0, None, closed="left")],
        "conv_channels": _SIZE_OR_SIZES,
        "kernel_size": _SIZE_OR_SIZES,
        "pool_size": _SIZE_OR_SIZES,
        "hidden_size": [StrOptions({"auto"}), _SIZE],
        "num_layers": [_SIZE],
        "bidirectional": ["boolean"],
        "pooling": [StrOptions(set(POOLINGS)), tuple, list],
        "dropout": [StrOptions({"auto"}), Interval(Real, 0, 1, closed="left")],
        "backbone": [callable, None],
        "optimizer": [StrOptions(set(_training.OPTIMIZERS)), type],
        "lr": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "lr_schedule": [StrOptions(set(_training.SCHEDULES))],
        "batch_size": [StrOptions({"auto"}), _SIZE],
        "max_epochs": [StrOptions({"auto"}), _SIZE],
        "early_stopping": [StrOptions({"auto"}), "boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "validation_order": [StrOptions({"random", "last"})],
        "scoring": [StrOptions({"loss", *get_scorer_names()}), callable],
        "n_iter_no_change": [_SIZE],
        "tol": [Interval(Real, 0, None, closed="left")],
        "warm_start": ["boolean"],
        "net_callbacks": [list, tuple, None],
        "layout": [str, None],
        "input_shape": [tuple, list, None],
        "missing": [StrOptions({"mask", "ffill", "error"})],
        "target": [StrOptions(set(NETWORKS))],
        "device": [str, _training.Device],
        "precision": [StrOptions({"auto", *_training.PRECISIONS})],
        "deterministic": ["boolean"],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        *,
        conv_bank,
        conv_channels,
        kernel_size,
        pool_size,
        hidden_size,
        num_layers,
        bidirectional,
        pooling,
        dropout,
        backbone,
        optimizer,
        lr,
        weight_decay,
        lr_schedule,
        batch_size,
        max_epochs,
        early_stopping,
        validation_fraction,
        validation_order,
        scoring,
        n_iter_no_change,
        tol,
        warm_start,
        net_callbacks,
        layout,
        input_shape,
        missing,
        target,
        device,
        precision,
        deterministic,
        random_state,
        verbose,
    ):
        self.conv_bank = conv_bank
        self.conv_channels = conv_channels
        self.kernel_size = kernel_size
        self.pool_size = pool_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.pooling = pooling
        self.dropout = dropout
        self.backbone = backbone
        self.optimizer = optimizer
        self.lr = lr
        self.weight_decay = weight_decay
        self.lr_schedule = lr_schedule
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.validation_order = validation_order
        self.scoring = scoring
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.warm_start = warm_start
        self.net_callbacks = net_callbacks
        self.layout = layout
        self.input_shape = input_shape
        self.missing = missing
        self.target = target
        self.device = device
        self.precision = precision
        self.deterministic = deterministic
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.allow_nan = self.missing != "error"
        return tags

    # -- training --------------------------------------------------------------------------------------------------

    def fit(self, X, y, sample_weight=None, *, groups=None, X_val=None, y_val=None, sample_weight_val=None):
        """Train on X and y.

        Parameters
        ----------
        X : array-like of 2 to 6 dimensions
            (n_samples, n_timesteps, *spatial, n_channels), its axes in the order of `layout`, or
            (n_samples, n_features): see the class. Arrays of h5py, zarr, dask or xarray are read batch by batch.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Labels or an indicator matrix for the classifier, numbers of any shape (n_samples, ...) for the regressor;
            for the other values of `target` see there.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each sample's loss, at least 0; only ratios matter. Samples of weight 0 are left out of training;
            which channels have NaN, and how long series are, is asked of all.
        groups : array-like of shape (n_samples,), default=None
            Samples of one group are kept on one side of the inner validation split.
        X_val, y_val, sample_weight_val : array-likes, default=None
            Validation data, which replace the inner split and turn on `early_stopping="auto"`.

        Returns
        -------
        self : object
            The fitted estimator.
        """
        self._validate_params()
        _training.check_callbacks(self.net_callbacks)
        with _restored_on_error(self):
            vars(self).pop("_random_state", None)  # of partial_fit
            goes_on = self.warm_start and hasattr(self, "net_")
            X = self._check_X(X, y, reset=not goes_on)
            y = self._check_y(y, X, reset=not goes_on)
            weight = self._check_weight(sample_weight, y)
            groups = _check_groups(groups, X)
            random_state = check_random_state(self.random_state)
            self.early_stopping_ = X_val is not None if self.early_stopping == "auto" else self.early_stopping
            if X_val is not None:
                valid = self._check_validation_data(X_val, y_val, sample_weight_val)
                train_index = np.arange(len(X))
            elif y_val is not None or sample_weight_val is not None:
                raise ValueError("y_val or sample_weight_val was passed without X_val; expected X_val beside it.")
            elif self.early_stopping_:
                train_index, valid_index = self._inner_split(y, weight, groups, random_state)
                valid = X, y, weight, valid_index
            else:
                train_index, valid = np.arange(len(X)), None
            self._train(X, y, weight, train_index, valid, groups=groups, seed=_draw_seed(random_state), goes_on=goes_on)
        return self

    def _train(self, X, y, weight, index, valid, *, seed, groups=None, goes_on=False):
        """Fit a network to the rows `index` and commit the fitted attributes."""
        loss_weight = self._loss_weight(y, weight)
        index = _weighted_rows(index, loss_weight)
        self._resolve(len(index), X.shape[1:], keep_network=goes_on)
        with _training.training_scope(self.device_, seed, deterministic=self.deterministic):
            module = copy.deepcopy(self.net_.module_) if goes_on else self._build_network(X, y, weight, index, groups)
            folds, held_out = self._readout_folds(y[index], None if groups is None else groups[index])
            train = _training.Samples(
                X,
                self._encode(y, module),
                loss_weight,
                index,
                folds=folds,
                held_out=None if self.early_stopping_ else held_out,  # the best epoch's score is to be the model's
            )
            callbacks, valid_samples = [], None
            if valid is not None:
                X_valid, y_valid, weight_valid, valid_index = valid
                loss_weight = self._loss_weight(y_valid, weight_valid)
                valid_index = _weighted_rows(valid_index, loss_weight, "the validation part")
                valid_samples = _training.Samples(X_valid, self._encode(y_valid, module), loss_weight, valid_index)
                if self.scoring != "loss":
                    score = self._scorer(X_valid, y_valid, weight_valid, valid_index)
                    callbacks.append(_training.ValidScore(score))
                if self.early_stopping_:
                    callbacks.append(self._stopper())
            net = self._build_net(module, callbacks)
            net.fit(train, valid=valid_samples)
            net.dismiss(callbacks)  # which hold the validation data
        self._count_labels(y[index], reset=True)
        self._commit(net, best_epoch=callbacks[-1].best_epoch_ if self.early_stopping_ else None, goes_on=goes_on)

    def _partial_fit(self, X, y, sample_weight, classes=None):
        self._validate_params()
        _training.check_callbacks(self.net_callbacks)
        if not _is_auto(self.early_stopping) and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True; expected False or 'auto'.")
        with _restored_on_error(self):
            first = not hasattr(self, "net_")
            X = self._check_X(X, y, reset=first)
            y = self._check_y(y, X, reset=first, classes=classes)
            weight = self._check_weight(sample_weight, y)
            loss_weight = self._loss_weight(y, weight)
            index = _weighted_rows(np.arange(len(X)), loss_weight)
            if first:
                self._resolve(len(index), X.shape[1:])
                self.early_stopping_, self.max_epochs_, self.conv_bank_ = False, 1, 0
                self.batch_size_ = _LEAST_BATCH if _is_auto(self.batch_size) else self.batch_size
            else:
                net = self.net_.settled(self.device)
                self.device_ = _training.Device(net.device)
            if first or not hasattr(self, "_random_state"):
                self._random_state = check_random_state(self.random_state)
            seed = _draw_seed(self._random_state)
            with _training.training_scope(self.device_, seed, deterministic=self.deterministic):
                if first:
                    net = self._build_net(self._build_network(X, y, weight, index), callbacks=[]).initialize()
                else:
                    _sequences.read_through(X, index)
                train = _training.Samples(X, self._encode(y, net.module_), loss_weight, index)
                with net.undone_on_error():
                    net.train_one_pass(train, lr=self.lr, batch_size=min(self.batch_size_, len(train)))
                    self._count_labels(y[index], reset=first)
                    self._commit(net, n_new=1, goes_on=not first)
        return self

    def _resolve(self, n_samples, sample_shape, *, keep_network=False):
        """Set `<name>_` for each parameter with an "auto" value."""
        is_given = not _is_auto(self.conv_channels)
        conv_channels = _as_sizes("conv_channels", self.conv_channels, None) if is_given else None
        suits_blocks = _is_auto(self.kernel_size) and _is_auto(self.pool_size)
        automatic = auto_sizes(n_samples, sample_shape, self.target, conv_channels, suits_blocks=suits_blocks)
        resolved = {
            name: value if _is_auto(getattr(self, name)) else getattr(self, name) for name, value in automatic.items()
        }
        if not keep_network:
            self.conv_channels_ = automatic["conv_channels"]
            for name in ("kernel_size", "pool_size"):
                setattr(self, name + "_", _as_sizes(name, resolved[name], len(self.conv_channels_)))
            self.hidden_size_, self.dropout_ = int(resolved["hidden_size"]), resolved["dropout"]
            cannot = self.target != "sample" or n_samples < 2  # the readout is validated on samples left out
            has_none = cannot or (_is_auto(self.conv_bank) and self._is_table)
            self.conv_bank_ = 0 if has_none else resolved["conv_bank"]
        self.batch_size_ = min(resolved["batch_size"], n_samples)
        self.max_epochs_ = resolved["max_epochs"]
        self.device_ = _training.resolve_device(self.device)
        self.precision_ = _training.resolve_precision(self.precision)

    def _build_network(self, X, y, weight, index, groups=None):
        kind, extra = NETWORKS[self.target], {}
        if self.conv_bank_:
            kind, extra = BankCNNLSTM, {"conv_bank": self.conv_bank_, **self._bank_settings(X.shape[1:])}
        mean, std = self._input_statistics(X, index, weight)
        scale = _sequences.safe_scale(mean, std, dtype=np.float32)  # in which the network sees X
        network = kind(
            X.shape[1:],
            self._n_outputs(y),
            conv_channels=self.conv_channels_,
            kernel_size=self.kernel_size_,
            pool_size=self.pool_size_,
            hidden_size=self.hidden_size_,
            num_layers=self.num_layers,
            bidirectional=bool(self.bidirectional),
            pooling=_check_pooling(self.pooling),
            dropout=self.dropout_,
            backbone=self.backbone,
            quantiles=getattr(self, "quantiles_", ()),
            gaps="carry" if self._missing == "ffill" else self._gappy_channels,
            units=self._units(X, index, scale),
            **self._map_settings(X, y),
            **extra,
        )
        self._set_target_statistics(network, X, y, weight, index)
        network.set_statistics(input_mean=mean, input_scale=scale)
        self._constant_channels = np.flatnonzero(scale != std)
        if self.conv_bank_:
            stride = math.ceil(len(index) * math.prod(X.shape[1:-1]) / _CALIBRATION_POSITIONS)
            some = X[index[::stride]]
            self._suit_to_data(network, X, y, weight, index, groups, some)
            network.calibrate(np.asarray(some, dtype=np.float32), getattr(some, "lengths", None))
        return network

    def _units(self, X, index, scale):
        """In which units series are seen besides those of the channels."""

    def _suit_to_data(self, network, X, y, weight, index, groups, some):
        """What data tell of a network with a bank, on which scale to see them and where to start: here nothing."""

    def _input_statistics(self, X, index, weight):
        """Mean and deviation of each channel; of each column of a table whose columns differ in unit."""
        statistics = _sequences.table_statistics if self._is_table else _sequences.channel_statistics
        return statistics(X, index, weight, read=self._read)

    @property
    def _is_table(self):
        return self._n_axes == 2 and self.input_shape is None

    @property
    def _read(self):
        """A function of rows of X that gives the values to take statistics of."""
        return _sequences.carried_forward if self._missing == "ffill" else np.asarray

    def _map_settings(self, X, y):
        """What a network that answers with maps needs to know besides."""
        if self._target != "map":
            return {}
        return {"horizon": y.shape[1], "from_last_frame": y.dtype.kind == "f" and y.shape[-1] <= X.shape[-1]}

    def _build_net(self, module, callbacks):
        return _training.build_net(
            module,
            loss=self._loss(),
            optimizer=self.optimizer,
            lr=self.lr,
            weight_decay=self.weight_decay,
            lr_schedule=self.lr_schedule,
            batch_size=self.batch_size_,
            max_epochs=self.max_epochs_,
            callbacks=[*(self.net_callbacks or ()), *callbacks],
            device=self.device_,
            precision=self.precision_,
            verbose=self.verbose,
        )

    def _stopper(self):
        return _training.early_stopping(
            "loss" if self.scoring == "loss" else "score", patience=self.n_iter_no_change, tol=self.tol
        )

    def _scorer(self, X, y, weight, index):
        """A function net -> validation score by `scoring`, seen through a copy of self that predicts with that net."""
        if isinstance(self.scoring, str) and self._target != "sample" and is_classifier(self):
            raise ValueError(
                f"scoring={self.scoring!r} with target={self._target!r}: scikit-learn's scorers compare a label per "
                "sample; expected 'loss' or a function, such as lambda model, X, y: model.score(X, y)."
            )
        candidate = copy.copy(self)
        candidate.layout = candidate.input_shape = None
        candidate._n_axes, candidate.n_features_in_ = X.ndim, X.shape[-1]
        vars(candidate).pop("feature_names_in_", None)
        scorer = check_scoring(candidate, scoring=self.scoring)
        X, y = _sequences.to_array(X[index]), self._decode_y(y[index])
        keywords = {} if weight is None or not _takes_weight(scorer) else {"sample_weight": weight[index]}

        def score(net):
            candidate.net_ = net
            return scorer(candidate, X, y, **keywords)

        return score

    def _commit(self, net, *, best_epoch=None, n_new=None, goes_on=False):
        history = net.epochs(n_new)
        trouble = self._trouble(history, best_epoch)
        if trouble:
            warnings.warn(trouble, ConvergenceWarning, stacklevel=4)
        earlier = self.n_epochs_ if goes_on else 0
        history["epoch"] = earlier + np.arange(1, len(history) + 1)
        if goes_on:
            history = pd.concat([self.history_, history], ignore_index=True)
        self.net_ = net
        self.history_ = history
        self.n_epochs_ = len(history)
        self.best_epoch_ = earlier + best_epoch if best_epoch else len(history)

    def _trouble(self, history, best_epoch):
        """What a ConvergenceWarning has to say about a training, or None."""
        n_epochs = len(history)
        if not np.isfinite(history["train_loss"].iloc[-1]):
            return (
                f"Training diverged: the loss is {history['train_loss'].iloc[-1]} after epoch {n_epochs}. Lower lr "
                f"(now {self.lr}) or scale the targets."
            )
        patience = self.n_iter_no_change
        was_cut = best_epoch and n_epochs == self.max_epochs_ and n_epochs - best_epoch < patience < n_epochs
        if was_cut and not _is_auto(self.max_epochs):  # of fewer epochs than patience the user wants them all
            return (
                f"max_epochs={self.max_epochs} ended the training before early stopping could: epoch {best_epoch} was "
                f"the best and n_iter_no_change is {patience}. Raise max_epochs or set it to 'auto'."
            )
        return None

    # -- validation of what users pass -----------------------------------------------------------------------------

    def _check_X(self, X, y, *, reset):
        """X as a canonical array cut to its longest sample; sets, or compares with, what fit saw."""
        X = self._check_shape(X, reset=reset)
        if isinstance(X, _sequences.Rows):
            check_consistent_length(X, y)  # before rows are read
        if reset:
            self._missing = self.missing
        elif self.missing != self._missing:
            raise ValueError(
                f"missing={self.missing!r}, but {type(self).__name__} was fitted with missing={self._missing!r}."
            )
        X = self._trim(X, reset=reset)
        if reset:
            self.input_shape_ = X.shape[1:]
        return X

    def _trim(self, X, *, reset=False, first=0):
        """X, whose rows count from `first`, without padding that all samples share; no NaN where it may not be."""
        X, has_gaps = _sequences.trim(X, may_be_padded=self._may_be_padded)
        if self._missing == "error" and has_gaps.any():
            assert_all_finite(np.array([np.nan]), estimator_name=type(self).__name__, input_name="X")
        if reset:
            self._gappy_channels = np.flatnonzero(has_gaps.any(axis=0))
        if self._missing == "mask":
            has_gaps[:, self._gappy_channels] = False
            if has_gaps.any():
                sample, channel = np.argwhere(has_gaps)[0]
                raise ValueError(
                    f"Input X contains NaN in channel {channel} of sample {first + sample}, but "
                    f"{type(self).__name__} was fitted with NaN in {_channels(self._gappy_channels)}; expected none "
                    "elsewhere (missing='ffill' takes NaN in any channel)."
                )
        if isinstance(X, _sequences.Padded) and self.target == "map":
            raise ValueError(
                f"X is ragged (samples have {X.lengths.min()} to {X.lengths.max()} steps), which target='map' does not "
                "support; expected samples of one length, and a value in each last frame."
            )
        return X

    def _check_shape(self, X, *, reset):
        """X as a canonical array with the axes that fit saw."""
        has_names = hasattr(X, "columns")
        if has_names:  # first, as columns of other names are often full of NaN
            validate_data(self, X, reset=reset, skip_check_array=True)
            _sequences.check_columns(X)
        array = _sequences.to_array(X, self.layout)
        is_stream = isinstance(array, _sequences.Rows)
        array = array.mapped(self._check_values) if is_stream else self._check_values(array)
        if reset:
            _sequences.check_shape(array, self.input_shape)
            self._n_axes, self._may_be_padded = array.ndim, array.ndim > 2
        elif array.ndim != self._n_axes:
            raise ValueError(
                f"X has {array.ndim} dimensions, but {type(self).__name__} was fitted with X of {self._n_axes}."
            )
        if array.ndim == 2:
            if not has_names:
                validate_data(self, array, reset=reset, skip_check_array=True)
            return self._fit_shape(_sequences.canonical(array, layout=self.layout, input_shape=self.input_shape), reset)
        canonical = _sequences.canonical(array, layout=self.layout)
        if reset:
            self.n_features_in_ = canonical.shape[-1]
            vars(self).pop("feature_names_in_", None)
        return self._fit_shape(canonical, reset)

    def _check_values(self, X):
        """X as a numeric array whose values are in the range of float32, or NaN."""
        if not _sequences.is_finite_array(X):
            X = check_array(
                X, dtype="numeric", allow_nd=True, ensure_all_finite="allow-nan", estimator=self, input_name="X"
            )
        _sequences.check_range(X)
        return X

    def _fit_shape(self, X, reset):
        if reset:
            self.input_shape_ = X.shape[1:]
        *space, n_channels = self.input_shape_[1:]
        if X.shape[-1] != n_channels:
            raise ValueError(f"X has {X.shape[-1]} channels, but {type(self).__name__} was fitted with {n_channels}.")
        if X.shape[2:-1] != tuple(space):
            raise ValueError(
                f"X has spatial shape {X.shape[2:-1]}, but {type(self).__name__} was fitted with {tuple(space)}."
            )
        if X.shape[1] == 0:
            raise ValueError(f"X has no time steps in shape {X.shape}; expected at least one.")
        return X

    def _check_validation_data(self, X_val, y_val, sample_weight_val):
        if y_val is None:
            raise ValueError("X_val was passed without y_val; expected both.")
        try:
            X = self._check_X(X_val, y_val, reset=False)
            y = self._check_y(y_val, X, reset=False)
            weight = self._check_weight(sample_weight_val, y)
        except (TypeError, ValueError) as error:
            raise type(error)(f"X_val, y_val or sample_weight_val: {error}") from error
        return X, y, weight, np.arange(len(X))

    def _check_weight(self, sample_weight, y):
        """Weight of each sample, 0 where none of its targets was observed; None if all are alike."""
        observed = _observed(y).reshape(len(y), -1).any(axis=1)
        if sample_weight is None and observed.all():
            return None
        weight = _check_sample_weight(sample_weight, y, dtype=np.float64) * observed
        if (weight < 0).any():
            raise ValueError(
                f"sample_weight has negative values, the least {weight.min()}; expected values of at least 0."
            )
        if not weight.any():
            raise ValueError(
                f"sample_weight is zero for all {len(weight)} samples; expected at least one non-zero number."
            )
        return np.ldexp(weight, -np.frexp(weight.max())[1])  # no digit changes, and sums stay finite

    def _inner_split(self, y, weight, groups, random_state):
        """Row numbers to train on and to validate on, out of those that have weight."""
        rows = _weighted_rows(np.arange(len(y)), weight)
        fraction = self.validation_fraction
        if self.validation_order == "last":
            return _split_last(rows, fraction, groups)
        labels = self._stratify(y[rows])
        names = None if groups is None else groups[rows]
        n_groups = 0 if groups is None else len(np.unique(names))
        try:
            if groups is None:
                split = ShuffleSplit if labels is None else StratifiedShuffleSplit
                train, valid = next(split(1, test_size=fraction, random_state=random_state).split(rows, labels))
            elif labels is None:
                n_held_out = max(1, min(round(fraction * n_groups), n_groups - 1))
                splitter = GroupShuffleSplit(1, test_size=n_held_out, random_state=random_state)
                train, valid = next(splitter.split(rows, groups=names))
            else:
                train, valid = _split_groups(labels, names, fraction, random_state)
        except ValueError as error:
            raise ValueError(
                f"early_stopping={self.early_stopping} cannot hold out validation_fraction={fraction} of {len(rows)} "
                f"samples{'' if groups is None else f' in {n_groups} group(s)'}: {error}"
            ) from error
        return rows[train], rows[valid]

    def _check_target(self, reset):
        if reset:
            self._target = self.target
        elif self.target != self._target:
            raise ValueError(
                f"target={self.target!r}, but {type(self).__name__} was fitted with target={self._target!r}."
            )

    def _answer_shape(self, y, X, *, reset, numbers):
        """Shape of y with all its axes; sets, or compares with, the shape of one answer."""
        full = _full_shape(y, X, self._target, numbers=numbers)
        shape = y.shape[2:] if self._target == "step" else y.shape[1:]
        if reset:
            self._target_shape = shape
        elif shape != self._target_shape:
            raise ValueError(
                f"y has targets of shape {shape}, but {type(self).__name__} was fitted with {self._target_shape}."
            )
        return full

    def _as_y(self, values, *trailing):
        """Values with all axes of y in the shape that fit saw, and `trailing` axes of their own."""
        where = values.shape[: 2 if self._target == "step" else 1]
        return values.reshape(*where, *self._target_shape, *trailing)

    def _readout_folds(self, y, groups):
        """Row numbers of the parts on which the readout of frozen features is validated, and of one to hold out.

        Parts are neighbours, or as good as that where labels are to be spread evenly; groups are not divided, and the
        samples of each stand side by side.
        """
        if not self.conv_bank_ or len(y) < 2:  # what was solved for earlier stays
            return None, None
        folds = self._parts(y, groups, 5 if len(y) < 5000 else 3)
        return folds, self._parts(y, groups, _HELD_OUT)[-1]

    def _parts(self, y, groups, n_parts):
        labels = self._stratify(y)
        n_groups = 0 if groups is None else len(np.unique(groups))
        if n_groups > 1:
            parts = (part for _, part in GroupKFold(min(n_parts, n_groups)).split(y, groups=groups))
            return [part[np.argsort(groups[part], kind="stable")] for part in parts]
        largest = 0 if labels is None else np.unique(labels, return_counts=True)[1].max()
        if largest < 2:
            return [part for _, part in KFold(min(n_parts, len(y))).split(y)]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The least populated class", UserWarning)
            return [part for _, part in StratifiedKFold(min(n_parts, largest)).split(y, labels)]

    # -- answers ---------------------------------------------------------------------------------------------------

    def embed(self, X):
        """Features of each sequence: what the head reads.

        Parameters
        ----------
        X : array-like of the shape that fit saw
            For 3-D X and up the number of time steps may differ.

        Returns
        -------
        features : ndarray of shape (n_samples, d), float32
            The pooled states of the LSTM; with `target="step"` the state of each step, (n_samples, n_timesteps, d);
            with "map" the pooled states at each place of the CNN's maps, (n_samples, *places, d).
        """
        return self._in_form_of(X, self._ask("embed", X))

    def _ask(self, question, X):
        if not hasattr(self, "net_"):  # a question may be about one sample: what is asked every time is cheap
            check_is_fitted(self)
        X = self._check_shape(X, reset=False)
        net = self.net_.settled(self.device)
        answer = getattr(net, question)
        if isinstance(X, _sequences.Rows):  # each row is read once
            rows = _training.rows_per_pass(X, _training.Device(net.device))
            parts = enumerate(X.parts(rows))
            return np.concatenate([self._ask_part(answer, part, first=i * rows) for i, part in parts])
        return self._ask_part(answer, X)

    def _ask_part(self, answer, X, *, first=0):
        n_timesteps = X.shape[1]
        X = self._trim(X, first=first)
        answers = answer(X)
        if self._target != "step" or X.shape[1] == n_timesteps == _lengths(X).min():
            return answers
        return _sequences.up_to(answers, n_timesteps, _lengths(X))

    def _in_form_of(self, X, values, function=np.asarray):
        """function(values); of target="step" and a list X for each sample alone, as an array of arrays."""
        lengths = _sequences.listed_lengths(X, self.layout) if self._target == "step" else None
        if lengths is None:
            return function(values)
        answers = np.empty(len(X), dtype=object)
        for i, length in enumerate(lengths):
            answers[i] = function(values[i, :length])
        return answers

    def _match_predicted(self, y, predicted):
        """y in the shape of a prediction, given where there is one."""
        if self._target != "step":
            return y
        check_consistent_length(predicted, y)
        lengths = predicted.reshape(*predicted.shape[:2], -1).any(axis=2).sum(axis=1)
        if not lengths.all():
            raise ValueError(
                "The prediction is NaN at all steps of some samples, as the training has diverged: lower lr or scale "
                "the targets."
            )
        return _sequences.match_steps(y, lengths, predicted.shape[1])

    def _match_steps(self, y, X):
        """y of target="step" as an array of as many steps as X has."""
        if self._target != "step":
            return y
        check_consistent_length(X, y)
        return _sequences.match_steps(y, _lengths(X), X.shape[1])


def _lengths(X):
    """Valid steps of each sample of canonical X."""
    return getattr(X, "lengths", np.full(len(X), X.shape[1]))


def _is_auto(value):
    return isinstance(value, str) and value == "auto"


def _draw_seed(random_state):
    return int(random_state.randint(np.iinfo(np.int32).max))


def _square_of_ratio(a, b):
    """(a / b)**2, infinite where b is 0."""
    with np.errstate(over="ignore"):
        return np.divide(a, b, out=np.full(a.shape, np.inf), where=b > 0) ** 2


def _channels(numbers):
    """'no channel', 'channel 3', 'channels 0, 3'."""
    if len(numbers) == 0:
        return "no channel"
    return f"channel{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def _weighted_rows(index, weight, what="X"):
    """The rows that have a say: a sample of next to no weight is as good as absent, also for batch statistics."""
    if weight is None:
        return index
    weight = weight[index].reshape(len(index), -1).max(axis=1)
    if not weight.any():
        raise ValueError(
            f"sample_weight, or class_weight for the labels of y, is 0 for all {len(index)} samples of {what}; "
            "expected at least one that is not."
        )
    return index[weight > _LEAST_WEIGHT * weight.max()]


def _check_groups(groups, X):
    if groups is None:
        return None
    groups = np.asarray(groups)
    if groups.shape != (len(X),):
        raise ValueError(f"groups has shape {groups.shape}; expected ({len(X)},), a group per sample of X.")
    if groups.dtype != object:
        return np.unique(groups, return_inverse=True)[1]
    codes, names = pd.factorize(groups, use_na_sentinel=False)
    try:
        return np.argsort(np.argsort(names))[codes]
    except TypeError:  # of several types, between which there is no order
        return codes


def _split_groups(labels, groups, fraction, random_state):
    """Row numbers to train on and to validate on, in which labels are as frequent, and no group is in both.

    Parts of the groups are validated on, from the largest on, that bring these samples nearer to the fraction.
    """
    n_of_label = np.unique(labels, return_counts=True)[1]
    finest = max(_MOST_PARTS, math.ceil(1 / min(fraction, 1 - fraction)))
    n_parts = max(2, min(finest, len(np.unique(groups)), n_of_label.max()))
    splitter = StratifiedGroupKFold(n_parts, shuffle=True, random_state=random_state)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        parts = [part for _, part in splitter.split(labels, labels, groups) if len(part)]
    held_out, missing = [], fraction * len(labels)
    for part in sorted(parts, key=len, reverse=True):
        if abs(missing - len(part)) < abs(missing) and len(held_out) < len(parts) - 1:
            held_out.append(part)
            missing -= len(part)
    valid = np.sort(np.concatenate(held_out or [min(parts, key=len)]))
    return np.setdiff1d(np.arange(len(labels)), valid), valid


def _split_last(rows, fraction, groups):
    """The first rows to train on and the last `fraction` to validate on."""
    cut = len(rows) - math.ceil(fraction * len(rows))
    train, valid = rows[:cut], rows[cut:]
    if groups is not None:  # a group that reaches into the last part is not trained on
        train = train[~np.isin(groups[train], groups[valid])]
    if len(train) == 0:
        why = "" if groups is None or cut == 0 else ", as every group reaches into the last part"
        raise ValueError(
            f"validation_fraction={fraction} of {len(rows)} samples leaves none to train on{why}; expected a smaller "
            "fraction, or early_stopping=False."
        )
    return train, valid


def _as_sizes(name, value, n_blocks):
    """A tuple with one positive integer per block of the CNN."""
    sizes = (value,) * (n_blocks or 1) if isinstance(value, Integral) else tuple(value)
    if not all(isinstance(size, Integral) and size >= 1 for size in sizes):
        raise ValueError(f"{name}={value!r}; expected positive integers, one per block of the CNN.")
    if n_blocks is not None and len(sizes) != (n_blocks or len(sizes)):
        raise ValueError(f"{name}={value!r} has {len(sizes)} entries for {n_blocks} conv_channels; expected as many.")
    return sizes


def _check_pooling(pooling):
    names = (pooling,) if isinstance(pooling, str) else tuple(pooling)
    if not names or not set(names) <= set(POOLINGS):
        raise ValueError(f"pooling={pooling!r}; expected one or several of {POOLINGS}.")
    return names


def _takes_weight(scorer):
    """Whether a scorer has a place for weights: scikit-learn's have, a user's function may not."""
    parameters = inspect.signature(scorer).parameters
    return "sample_weight" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


@contextlib.contextmanager
def _restored_on_error(estimator):
    """Fitted attributes as they were if anything goes wrong, Ctrl-C included."""
    before = dict(vars(estimator))
    random_state = getattr(estimator, "_random_state", None)  # of partial_fit, which draws from it
    drawn_so_far = random_state and random_state.get_state()
    try:
        yield
    except BaseException:
        if random_state is not None:
            random_state.set_state(drawn_so_far)
        vars(estimator).clear()
        vars(estimator).update(before)
        raise


def _documented(task_parameters):
    """Put the parameters that the base class documents, and the task's own, into their place in a docstring."""

    def document(cls):
        shared = textwrap.dedent(_BaseCNNLSTM.__doc__.partition("\n\n")[2]).strip()
        parameters = shared.replace("{task}", inspect.cleandoc(task_parameters))
        cls.__doc__ = inspect.cleandoc(cls.__doc__).replace("{parameters}", parameters)
        return cls

    return document


@_documented("""
    class_weight : dict, "balanced" or None, default=None
        Weight of each class, by label; "balanced" is inverse to its frequency. Multiplies `sample_weight`.
    label_smoothing : float, default=0.1
        Share of each label that is spread evenly over all classes, in training and in `valid_loss`.
    """)
class CNNLSTMClassifier(ClassifierMixin, _BaseCNNLSTM):
    """Classifier of sequences: a CNN reads each step, an LSTM their order.

    X is a batch of sequences (n_samples, n_timesteps, *spatial, n_channels). A CNN reads what is inside each step, an
    LSTM the order of the steps, and a head answers from all its states:

    ==================================  ==================================  =================================
    X                                   reads as                            CNN
    ==================================  ==================================  =================================
    2-D (n, d)                          one channel, d steps                along time
    2-D (n, d) and `input_shape`        samples of any row below            as there
    3-D (n, T, C)                       series of several channels          along time, pooled before the LSTM
    4-D (n, T, S, C)                    line of sensors, spectrum per step  along S, the same for all steps
    5-D (n, T, H, W, C)                 video, maps over time               2-D per step
    6-D (n, T, D, H, W, C)              volumes over time                   3-D per step
    ==================================  ==================================  =================================

    Channels are standardised inside the network by what the training data had, columns of a 2-D X each by itself if one
    of them spreads ten times as far as most, as in tables of different units. Series whose sizes differ widely are seen
    in units of their own, too.
    They are read as float32: a channel that varies by less than a millionth of its values, as seconds since 1970 may,
    is to be standardised or measured from another origin before.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    net_ : skorch.NeuralNet
        The trained net; its network is `net_.module_`.
    classes_ : ndarray of shape (n_classes,)
        Labels in the order of the columns of `predict_proba`; for multilabel y the numbers of its columns.
    n_features_in_ : int
        Columns of a 2-D X, channels otherwise.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Column names, if X was a DataFrame whose names are strings.
    input_shape_ : tuple of int
        (n_timesteps, *spatial, n_channels) of a training sample.
    n_epochs_, best_epoch_ : int
        Epochs trained, and the one whose weights were kept.
    history_ : DataFrame
        A row per epoch: epoch, train_loss, valid_loss and valid_score if there is a validation part, lr, seconds.
    conv_bank_, conv_channels_, kernel_size_, pool_size_, hidden_size_ : int or tuple of int
        What the parameters of these names came to.
    batch_size_, max_epochs_, early_stopping_, dropout_ : int, int, bool, float
        What the parameters of these names came to.
    device_, precision_ : torch.device, str
        Where the training ran, and in which arithmetic.

    See Also
    --------
    CNNLSTMRegressor : The same for numbers.
    sklearn.neural_network.MLPClassifier : Reads all values of a sample at once.

    Notes
    -----
    y is 1-D labels of any dtype or an indicator matrix (multilabel). The same `random_state`, machine, versions and
    number of threads give the same bits on the CPU. Within a process one fit trains at a time, as torch's random state
    is shared by its threads.

    References
    ----------
    T. N. Sainath et al., "Convolutional, Long Short-Term Memory, fully connected Deep Neural Networks", ICASSP 2015.

    F. J. Ordonez and D. Roggen, "Deep Convolutional and LSTM Recurrent Neural Networks for Multimodal Wearable Activity
    Recognition", Sensors 16(1), 2016.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_cnnlstm import CNNLSTMClassifier
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(60, 20, 3))  # 60 sequences of 20 steps and 3 channels
    >>> y = np.where(X[:, 10:, 0].mean(axis=1) > X[:, :10, 0].mean(axis=1), "up", "down")
    >>> model = CNNLSTMClassifier(max_epochs=20, random_state=0).fit(X, y)
    >>> bool(model.score(X, y) > 0.9)
    True
    """

    _parameter_constraints = _BaseCNNLSTM._parameter_constraints | {
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
        *,
        conv_bank="auto",
        conv_channels="auto",
        kernel_size="auto",
        pool_size="auto",
        hidden_size="auto",
        num_layers=1,
        bidirectional=True,
        pooling=POOLINGS,
        dropout="auto",
        backbone=None,
        optimizer="adamw",
        lr=3e-3,
        weight_decay=1e-2,
        lr_schedule="cosine",
        batch_size="auto",
        max_epochs="auto",
        early_stopping="auto",
        validation_fraction=0.1,
        validation_order="random",
        scoring="loss",
        n_iter_no_change=10,
        tol=1e-4,
        warm_start=False,
        net_callbacks=None,
        layout=None,
        input_shape=None,
        missing="mask",
        target="sample",
        class_weight=None,
        label_smoothing=0.1,
        device="auto",
        precision="auto",
        deterministic=False,
        random_state=None,
        verbose=0,
    ):
        super().__init__(
            conv_bank=conv_bank,
            conv_channels=conv_channels,
            kernel_size=kernel_size,
            pool_size=pool_size,
            hidden_size=hidden_size,
            num_layers=num_layers,
            bidirectional=bidirectional,
            pooling=pooling,
            dropout=dropout,
            backbone=backbone,
            optimizer=optimizer,
            lr=lr,
            weight_decay=weight_decay,
            lr_schedule=lr_schedule,
            batch_size=batch_size,
            max_epochs=max_epochs,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            validation_order=validation_order,
            scoring=scoring,
            n_iter_no_change=n_iter_no_change,
            tol=tol,
            warm_start=warm_start,
            net_callbacks=net_callbacks,
            layout=layout,
            input_shape=input_shape,
            missing=missing,
            target=target,
            device=device,
            precision=precision,
            deterministic=deterministic,
            random_state=random_state,
            verbose=verbose,
        )
        self.class_weight = class_weight
        self.label_smoothing = label_smoothing

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """Go over the data once at constant `lr`.

        Parameters
        ----------
        X, y : array-likes
            As in `fit`, of any number of samples. The first call fixes the size of the network and the statistics that
            scale X.
        classes : array-like of shape (n_classes,), default=None
            All labels that will ever come; needed at the first call.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each sample's loss.

        Returns
        -------
        self : object
            The estimator, trained further.
        """
        if self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' needs all labels at once, which partial_fit does not have; expected a dict: "
                "sklearn.utils.compute_class_weight makes one."
            )
        classes = () if classes is None else np.unique(classes)
        is_known = len(classes) == 0 or not hasattr(self, "net_") or self._is_multilabel
        if not is_known and not np.array_equal(classes, self.classes_):
            raise ValueError(
                f"classes={classes.tolist()} is not the same as on the last call to partial_fit or fit, which had "
                f"{self.classes_.tolist()}."
            )
        return self._partial_fit(X, y, sample_weight, classes)

    def predict(self, X):
        """Predict a label per sample.

        Parameters
        ----------
        X : array-like of the shape that fit saw
            For 3-D X and up the number of time steps may differ.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_labels)
            Labels out of `classes_`, or an indicator matrix if fit saw one.
        """
        return self._in_form_of(X, self._codes_of(X), self._labels)

    def predict_proba(self, X):
        """Predict the probability of each class.

        Parameters
        ----------
        X : array-like of the shape that fit saw
            For 3-D X and up the number of time steps may differ.

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes), float32
            Columns in the order of `classes_`; for multilabel y the probability of each label.
        """
        logits = self._logits(X)
        return self._in_form_of(X, expit(logits) if self._is_multilabel else softmax(logits, axis=-1))

    def predict_log_proba(self, X):
        """Logarithm of `predict_proba`.

        Parameters
        ----------
        X : array-like of the shape that fit saw
            For 3-D X and up the number of time steps may differ.

        Returns
        -------
        log_probabilities : ndarray of shape (n_samples, n_classes), float32
            Columns in the order of `classes_`.
        """
        logits = self._logits(X)
        return self._in_form_of(X, log_expit(logits) if self._is_multilabel else log_softmax(logits, axis=-1))

    def decision_function(self, X):
        """Score of each class before it becomes a probability.

        Parameters
        ----------
        X : array-like of the shape that fit saw
            For 3-D X and up the number of time steps may differ.

        Returns
        -------
        scores : ndarray of shape (n_samples,) or (n_samples, n_classes), float32
            Logits; for two classes the logit of the second less that of the first.
        """
        logits = self._logits(X)
        if not self._is_multilabel and len(self.classes_) <= 2:
            logits = logits[..., -1] - logits[..., 0] if len(self.classes_) == 2 else logits[..., 0]
        return self._in_form_of(X, logits)

    def score(self, X, y, sample_weight=None):
        """Accuracy: the share of samples, of observed steps or of observed pixels whose label is predicted.

        Parameters
        ----------
        X : array-like of the shape that fit saw
            For 3-D X and up the number of time steps may differ.
        y : array-like of the shape that fit saw
            True labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each sample.

        Returns
        -------
        score : float
            Between 0 and 1; for multilabel y all labels of a sample must be right.
        """
        check_is_fitted(self)
        if self._target == "sample":
            return super().score(X, y, sample_weight)
        codes = self._codes_of(X)
        prediction = self._labels(codes)
        y = np.asarray(self._match_predicted(y, codes >= 0))
        _check_same_shape(y, prediction)
        weight = np.ones(len(y)) if sample_weight is None else _check_sample_weight(sample_weight, y)
        return float(np.average(y == prediction, weights=~pd.isna(y) * _beside(weight, y)))

    def _logits(self, X):
        logits = self._ask("outputs", X)
        return logits if self._target == "sample" else self._as_y(logits, logits.shape[-1])

    def _codes_of(self, X):
        """Predicted labels as codes into `classes_`, -1 behind the end of a sample; for multilabel y the labels."""
        logits = self._logits(X)
        if self._is_multilabel:
            return (logits > 0).astype(int)
        codes = logits.argmax(axis=-1)
        return np.where(np.isnan(logits[..., 0]), -1, codes) if self._target == "step" else codes

    def _labels(self, codes):
        if self._is_multilabel:
            return codes
        if (codes >= 0).all():
            return self.classes_[codes]
        return np.where(codes >= 0, self.classes_.astype(object)[codes], np.nan)

    def _check_y(self, y, X, *, reset, classes=None):
        """Labels as int64 codes into `classes_`, an indicator matrix as float32; sets `classes_` if asked to."""
        if y is None:
            raise ValueError(_missing_y(self))
        self._check_target(reset)
        if self._target != "sample":
            return self._check_labels_with_gaps(y, X, reset=reset, classes=classes)
        y = check_array(y, ensure_2d=False, dtype=None, accept_sparse="csr", estimator=self, input_name="y")
        y = y.toarray() if issparse(y) else y
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        check_consistent_length(X, y)
        check_classification_targets(y)
        kind = type_of_target(y, input_name="y")
        if kind == "multiclass-multioutput":
            raise ValueError(
                "y has several columns of labels; expected one column or an indicator matrix (multiclass-multioutput y "
                "is what sklearn.multioutput.MultiOutputClassifier is for)."
            )
        is_multilabel = kind == "multilabel-indicator"
        if reset:
            self._is_multilabel = is_multilabel
            self.classes_ = np.arange(y.shape[1]) if is_multilabel else _first_classes(y, classes)
        if is_multilabel != self._is_multilabel or (is_multilabel and y.shape[1] != len(self.classes_)):
            raise ValueError(
                f"y has shape {y.shape} ({kind}), but {type(self).__name__} was fitted with {len(self.classes_)} "
                f"{'labels' if self._is_multilabel else 'classes'}."
            )
        return y.astype(np.float32) if is_multilabel else self._codes(y)

    def _check_labels_with_gaps(self, y, X, *, reset, classes):
        """Labels per step or pixel as int64 codes into `classes_`, -1 where there is none (NaN or None)."""
        check_consistent_length(X, y)
        y = self._match_steps(y, X)
        y = check_array(
            y,
            ensure_2d=False,
            allow_nd=True,
            dtype=None,
            ensure_all_finite="allow-nan",
            estimator=self,
            input_name="y",
        )
        shape = self._answer_shape(y, X, reset=reset, numbers=False)
        observed = ~pd.isna(y)
        labels = y[observed]
        if labels.dtype == object:  # as gaps among integers or strings make it
            labels = np.array(labels.tolist())
        if len(labels) == 0:
            raise ValueError("y has no label that is not NaN; expected at least one.")
        check_classification_targets(labels)
        if reset:
            self._is_multilabel = False
            self.classes_ = _first_classes(labels, classes)
        codes = np.full(y.shape, -1)
        codes[observed] = self._codes(labels)
        return codes.reshape(shape)

    def _codes(self, labels):
        unknown = np.setdiff1d(labels, self.classes_)
        if len(unknown):
            raise ValueError(f"y has the new classes {unknown.tolist()}; expected those of {self.classes_.tolist()}.")
        return np.searchsorted(self.classes_, labels).astype(np.int64)

    def _decode_y(self, y):
        if self._is_multilabel:
            return y.astype(int)
        labels = self._labels(y)
        return labels if self._target == "sample" else self._as_y(labels)

    def _encode(self, y, network):
        return y if self._is_multilabel else np.maximum(y, 0)  # where no label was observed the weight is 0

    def _bank_settings(self, sample_shape):
        settings = {"join": Vote, "norm": "batch"}
        if len(sample_shape) > 2 or self._is_table:
            return settings
        n_groups = 2 * math.ceil(self.conv_bank_ / _KERNELS_OF_TWO_GROUPS)
        return settings | {"size_jitter": _SIZE_JITTER, "n_groups": n_groups}

    def _units(self, X, index, scale):
        """Their own, where the deviations of series differ widely in the median channel of those that vary."""
        n_timesteps, *space, n_channels = X.shape[1:]
        is_series = self.target == "sample" and not space and not self._is_table
        if not is_series or n_channels > _FEW_CHANNELS or self.backbone is not None:
            return None
        some = index[:: math.ceil(len(index) * n_timesteps * n_channels / _SIZE_VALUES)]
        deviation = _sequences.deviations(X, some, least_steps=_LEAST_STEPS, read=self._read) / scale
        deviation[deviation < _LEAST_DEVIATION] = 0.0  # (series, channel)
        least, spread = np.full(n_channels, _LEAST_SIZE), np.ones(n_channels)
        usual = np.log(least)
        ratios = []
        for channel in np.flatnonzero((deviation > 0).any(axis=0)):
            sizes = deviation[~np.isnan(deviation[:, channel]), channel]
            least[channel] *= np.median(sizes[sizes > 0])
            sizes = np.hypot(sizes, least[channel])
            small, large = np.quantile(sizes, (0.1, 0.9))
            ratios.append(large / small)
            usual[channel], spread[channel] = np.log(sizes).mean(), max(np.log(sizes).std(), _LEAST_SPREAD)
        return OwnUnits(least, usual, spread) if ratios and np.median(ratios) >= _SIZES_DIFFER else None

    def _n_outputs(self, y):
        return len(self.classes_)

    def _set_target_statistics(self, network, X, y, weight, index):
        pass  # labels have none

    def _count_labels(self, y, *, reset):
        """How often each class was trained on, for inspection.diagnose."""
        counts = y.sum(axis=0) if self._is_multilabel else np.bincount(y[y >= 0], minlength=len(self.classes_))
        self._class_counts = counts.astype(int) + (0 if reset else self._class_counts)

    def _loss(self):
        name = "binary_cross_entropy" if self._is_multilabel else "cross_entropy"
        return _training.SampleLoss(name, self.label_smoothing, per_entry=self._target != "sample")

    def _loss_weight(self, y, weight):
        if self._target != "sample":
            weight = _entry_weight(y, weight)
        if self.class_weight is None:
            return weight
        if self._is_multilabel:
            raise ValueError("class_weight is for one label per sample, but y is multilabel; use sample_weight.")
        counted = y >= 0 if weight is None else (y >= 0) & (weight > 0)  # what has no weight is as good as absent
        labels = y[counted]
        named = np.unique(labels) if self.class_weight == "balanced" else np.arange(len(self.classes_))
        per_class = np.zeros(len(self.classes_))
        per_class[named] = compute_class_weight(
            self.class_weight, classes=self.classes_[named], y=self.classes_[labels]
        )
        if per_class.min() < 0 or not per_class.any():
            raise ValueError(f"class_weight={self.class_weight}; expected weights of at least 0, not all of them 0.")
        return per_class[y] * (1.0 if weight is None else weight)

    def _stratify(self, y):
        return None if self._is_multilabel or y.ndim > 1 else y


def _first_classes(y, classes):
    """The classes to tell apart: those of y in fit (None), those named at the first partial_fit (empty: none were)."""
    if classes is None:
        return np.unique(y)
    if len(classes) == 0:
        raise ValueError("classes must be passed on the first call to partial_fit.")
    return np.unique(classes)


def _observed(y):
    """Which entries of checked y are observations: codes of labels that are not negative, numbers that are not NaN."""
    return y >= 0 if y.dtype.kind == "i" else ~np.isnan(y)


def _entry_weight(y, weight):
    """Weight of each entry of y as its sample's, 0 if it is no observation; None if all are alike."""
    observed = _observed(y)
    if weight is None:
        return None if observed.all() else observed.astype(np.float32)
    return observed * _beside(weight.astype(np.float32), y)


def _beside(weight, y):
    """Weights of samples with as many axes as y."""
    return weight.reshape(-1, *[1] * (y.ndim - 1))


def _full_shape(y, X, target, *, numbers):
    """Shape of y with all axes: (n[, time], output) or (n, horizon, *space, output), no output axis for labels."""
    if target == "sample":
        return len(y), math.prod(y.shape[1:])
    is_map = target == "map"
    places = X.shape[2:-1] if is_map else X.shape[1:2]
    if not places:
        raise ValueError(f"target='map' needs X with space, of 4 to 6 dimensions; got X of {X.ndim}.")
    readings = []
    for lead, trail in itertools.product(range(1 + is_map), range(1 + numbers)):
        if y.ndim == 1 + lead + len(places) + trail and y.shape[1 + lead :][: len(places)] == places:
            horizon = (y.shape[1] if lead else 1,) if is_map else ()
            outputs = (y.shape[-1] if trail else 1,) if numbers else ()
            readings.append((len(y), *horizon, *places, *outputs))
    expected = f"({len(X)}, {'[horizon, ]' * is_map}{', '.join(map(str, places))}{'[, n_outputs]' * numbers})"
    if not readings or 0 in y.shape:
        raise ValueError(f"y has shape {y.shape}; expected {expected} for target={target!r} and this X.")
    if len(readings) > 1:
        raise ValueError(
            f"y has shape {y.shape}, whose second axis may be the horizon or whose last the outputs; expected all axes "
            f"of {expected}."
        )
    return readings[0]


def _check_same_shape(y, prediction):
    if y.shape != prediction.shape:
        raise ValueError(f"y has shape {y.shape}; expected {prediction.shape}, the shape of the prediction.")


def _missing_y(estimator):
    return f"This {type(estimator).__name__} estimator requires y to be passed, but the target y is None."


def _observed_statistics(y, weight, *, per_pixel):
    """Mean of each output, or of each of its pixels, and the standard deviation of the output about it."""
    weight = _observed(y) * (1.0 if weight is None else _beside(weight, y))
    y = np.nan_to_num(y)
    axes = tuple(range(y.ndim - 1))
    mean_axes = axes[:1] if per_pixel else axes
    mean = (weight * y).sum(mean_axes) / np.maximum(weight.sum(mean_axes), np.finfo(float).tiny)
    squares = (weight * (y - mean) ** 2).sum(axes)
    return mean, np.sqrt(squares / np.maximum(weight.sum(axes), np.finfo(float).tiny))


def _score_of_steps(y, prediction, weight):
    """R2 of each output over all observed steps, averaged."""
    weight = np.broadcast_to(weight[:, np.newaxis], y.shape[:2]).ravel()
    columns = zip(y.reshape(len(weight), -1).T, prediction.reshape(len(weight), -1).T, strict=True)
    observed = [(~np.isnan(truth), truth, guess) for truth, guess in columns]
    return float(np.mean([r2_score(truth[o], guess[o], sample_weight=weight[o]) for o, truth, guess in observed]))


def _score_of_maps(y, prediction, weight):
    """1 - SSE / SST about each pixel's mean, over all observed pixels together; without variance as r2_score."""
    weight = _beside(weight, y) * ~np.isnan(y)
    y = np.nan_to_num(y.astype(np.float64))
    mean = (weight * y).sum(0) / np.maximum(weight.sum(0), np.finfo(float).tiny)
    error, total = (weight * (y - prediction) ** 2).sum(), (weight * (y - mean) ** 2).sum()
    if total == 0:
        return float(error == 0)
    return float(1 - error / total)


def _check_quantiles(quantiles):
    """The quantiles to learn as a tuple of float."""
    if not all(isinstance(q, Real) and 0 < q < 1 for q in quantiles):
        raise ValueError(f"quantiles={quantiles!r}; expected numbers between 0 and 1, both excluded.")
    quantiles = tuple(0.5 if math.isclose(q, 0.5) else float(q) for q in quantiles)  # np.linspace may miss it by a bit
    if any(low >= high for low, high in itertools.pairwise(quantiles)):
        raise ValueError(f"quantiles={quantiles!r}; expected numbers that increase.")
    if 0.5 not in quantiles:
        raise ValueError(f"quantiles={quantiles!r}; expected 0.5 among them, the median, which predict gives.")
    return quantiles


def _learns_quantiles(regressor):
    return bool(regressor.quantiles_) if hasattr(regressor, "quantiles_") else regressor.loss == "quantile"


@_documented("""
    loss : "squared_error", "absolute_error", "huber" or "quantile", default="squared_error"
        Loss of a target in units of its standard deviation; "huber" turns linear at 1, "quantile" is the pinball loss.
    quantiles : tuple of float, default=(0.05, 0.5, 0.95)
        What loss="quantile" learns: increasing numbers between 0 and 1, 0.5 among them, as `predict` gives the median
        and `predict_quantiles` all. Other losses do not read it. `fit` sets how far they are from the median by a sixth
        of the samples on which it does not train, if they are 30 or more and there is a `conv_bank` and no early
        stopping; `partial_fit` does not set it anew.
    """)
class CNNLSTMRegressor(RegressorMixin, _BaseCNNLSTM):
    """Regressor of sequences: a CNN reads each step, an LSTM their order.

    X is a batch of sequences (n_samples, n_timesteps, *spatial, n_channels). A CNN reads what is inside each step, an
    LSTM the order of the steps, and a head answers from all its states:

    ==================================  ==================================  =================================
    X                                   reads as                            CNN
    ==================================  ==================================  =================================
    2-D (n, d)                          one channel, d steps                along time
    2-D (n, d) and `input_shape`        samples of any row below            as there
    3-D (n, T, C)                       series of several channels          along time, pooled before the LSTM
    4-D (n, T, S, C)                    line of sensors, spectrum per step  along S, the same for all steps
    5-D (n, T, H, W, C)                 video, maps over time               2-D per step
    6-D (n, T, D, H, W, C)              volumes over time                   3-D per step
    ==================================  ==================================  =================================

    Channels are standardised inside the network by what the training data had, columns of a 2-D X each by itself if one
    of them spreads ten times as far as most, as in tables of different units. So are the targets.
    They are read as float32: a channel that varies by less than a millionth of its values, as seconds since 1970 may,
    is to be standardised or measured from another origin before.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    net_ : skorch.NeuralNet
        The trained net; its network is `net_.module_`.
    n_features_in_ : int
        Columns of a 2-D X, channels otherwise.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Column names, if X was a DataFrame whose names are strings.
    input_shape_ : tuple of int
        (n_timesteps, *spatial, n_channels) of a training sample.
    quantiles_ : tuple of float
        The last axis of `predict_quantiles`; empty unless loss="quantile".
    n_epochs_, best_epoch_ : int
        Epochs trained, and the one whose weights were kept.
    history_ : DataFrame
        A row per epoch: epoch, train_loss, valid_loss and valid_score if there is a validation part, lr, seconds.
    conv_bank_, conv_channels_, kernel_size_, pool_size_, hidden_size_ : int or tuple of int
        What the parameters of these names came to.
    batch_size_, max_epochs_, early_stopping_, dropout_ : int, int, bool, float
        What the parameters of these names came to.
    device_, precision_ : torch.device, str
        Where the training ran, and in which arithmetic.

    See Also
    --------
    CNNLSTMClassifier : The same for labels.
    sklearn.neural_network.MLPRegressor : Reads all values of a sample at once.

    Notes
    -----
    y is numbers of any shape (n_samples, ...); `predict` returns that shape. The same `random_state`, machine, versions
    and number of threads give the same bits on the CPU. Within a process one fit trains at a time, as torch's random
    state is shared by its threads.

    References
    ----------
    T. N. Sainath et al., "Convolutional, Long Short-Term Memory, fully connected Deep Neural Networks", ICASSP 2015.

    X. Shi et al., "Convolutional LSTM Network: A Machine Learning Approach for Precipitation Nowcasting", NIPS 2015.

    V. Chernozhukov et al., "Quantile and probability curves without crossing", Econometrica 78(3), 2010.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_cnnlstm import CNNLSTMRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(100, 6, 8, 8, 1)) + rng.normal(size=(100, 6, 1, 1, 1))  # 6 maps of 8 x 8 each
    >>> y = X[:, -1].mean(axis=(1, 2, 3))
    >>> model = CNNLSTMRegressor(max_epochs=20, random_state=0).fit(X[:60], y[:60])
    >>> bool(model.score(X[60:], y[60:]) > 0.5)
    True
    """

    _parameter_constraints = _BaseCNNLSTM._parameter_constraints | {
        "loss": [StrOptions({"squared_error", "absolute_error", "huber", "quantile"})],
        "quantiles": [tuple, list],
    }

    def __init__(
        self,
        *,
        conv_bank="auto",
        conv_channels="auto",
        kernel_size="auto",
        pool_size="auto",
        hidden_size="auto",
        num_layers=1,
        bidirectional=True,
        pooling=POOLINGS,
        dropout="auto",
        backbone=None,
        optimizer="adamw",
        lr=3e-3,
        weight_decay=1e-2,
        lr_schedule="cosine",
        batch_size="auto",
        max_epochs="auto",
        early_stopping="auto",
        validation_fraction=0.1,
        validation_order="random",
        scoring="loss",
        n_iter_no_change=10,
        tol=1e-4,
        warm_start=False,
        net_callbacks=None,
        layout=None,
        input_shape=None,
        missing="mask",
        target="sample",
        loss="squared_error",
        quantiles=(0.05, 0.5, 0.95),
        device="auto",
        precision="auto",
        deterministic=False,
        random_state=None,
        verbose=0,
    ):
        super().__init__(
            conv_bank=conv_bank,
            conv_channels=conv_channels,
            kernel_size=kernel_size,
            pool_size=pool_size,
            hidden_size=hidden_size,
            num_layers=num_layers,
            bidirectional=bidirectional,
            pooling=pooling,
            dropout=dropout,
            backbone=backbone,
            optimizer=optimizer,
            lr=lr,
            weight_decay=weight_decay,
            lr_schedule=lr_schedule,
            batch_size=batch_size,
            max_epochs=max_epochs,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            validation_order=validation_order,
            scoring=scoring,
            n_iter_no_change=n_iter_no_change,
            tol=tol,
            warm_start=warm_start,
            net_callbacks=net_callbacks,
            layout=layout,
            input_shape=input_shape,
            missing=missing,
            target=target,
            device=device,
            precision=precision,
            deterministic=deterministic,
            random_state=random_state,
            verbose=verbose,
        )
        self.loss = loss
        self.quantiles = quantiles

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def partial_fit(self, X, y, sample_weight=None):
        """Go over the data once at constant `lr`.

        Parameters
        ----------
        X, y : array-likes
            As in `fit`, of any number of samples. The first call fixes the size of the network and the statistics that
            scale X and y.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each sample's loss.

        Returns
        -------
        self : object
            The estimator, trained further.
        """
        return self._partial_fit(X, y, sample_weight)

    def predict(self, X):
        """Predict the target of each sample.

        Parameters
        ----------
        X : array-like of the shape that fit saw
            For 3-D X and up the number of time steps may differ.

        Returns
        -------
        y : ndarray of shape (n_samples, ...)
            In the shape, the units and the float dtype of the y that fit saw (float32 if that was not of floats, or of
            float16); with loss="quantile" the median.
        """
        return self._in_form_of(X, self._predict(X))

    @available_if(_learns_quantiles)
    def predict_quantiles(self, X):
        """Predict the quantiles of each target; available with loss="quantile".

        Parameters
        ----------
        X : array-like of the shape that fit saw
            For 3-D X and up the number of time steps may differ.

        Returns
        -------
        quantiles : ndarray of shape (n_samples, ..., n_quantiles)
            What `predict` returns with a last axis in the order of `quantiles_`, along which values never fall.
        """
        return self._in_form_of(X, self._answers(X))

    def _predict(self, X):
        return self._answers(X)[..., self.quantiles_.index(0.5) if self.quantiles_ else 0]

    def _answers(self, X):
        """Targets in the user's units and shape, with a last axis of quantiles, or of length 1."""
        outputs = self._ask("outputs", X)
        mean, scale = self.net_.module_.target_statistics()
        outputs = outputs if self.quantiles_ else outputs[..., np.newaxis]
        y = outputs * scale[..., np.newaxis] + mean[..., np.newaxis]
        return self._as_y(y, y.shape[-1]).astype(self._target_dtype, copy=False)

    def score(self, X, y, sample_weight=None):
        """Coefficient of determination R2 of the prediction, averaged over the outputs.

        With `target="step"` an output's R2 is that of all its observed steps together. With "map" it is 1 - SSE / SST
        about the mean of each pixel, over all observed pixels together.

        Parameters
        ----------
        X : array-like of the shape that fit saw
            For 3-D X and up the number of time steps may differ.
        y : array-like of shape (n_samples, ...)
            True targets, in the shape that fit saw.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each sample.

        Returns
        -------
        score : float
            1 for a perfect prediction, 0 for the mean of y.
        """
        prediction = self._predict(X)
        y = np.asarray(self._match_predicted(y, ~np.isnan(prediction)))
        if self._target != "sample":
            _check_same_shape(y, prediction)
            weight = np.ones(len(y)) if sample_weight is None else _check_sample_weight(sample_weight, y)
            score = _score_of_maps if self._target == "map" else _score_of_steps
            return score(y, prediction, weight)
        if max(y.ndim, prediction.ndim) > 2:
            _check_same_shape(y, prediction)
            y, prediction = y.reshape(len(y), -1), prediction.reshape(len(y), -1)
        return r2_score(y, prediction, sample_weight=sample_weight)

    def _check_y(self, y, X, *, reset, classes=None):
        """Targets as float64 (sample, output); sets, or compares with, the shape that fit saw."""
        if y is None:
            raise ValueError(_missing_y(self))
        self._check_target(reset)
        y = check_array(
            self._match_steps(y, X),
            ensure_2d=False,
            allow_nd=True,
            dtype="numeric",
            ensure_all_finite=True if self._target == "sample" else "allow-nan",
            estimator=self,
            input_name="y",
        )
        _sequences.check_range(y, "y")
        check_consistent_length(X, y)
        if 0 in y.shape[1:]:
            raise ValueError(f"y has an empty axis in shape {y.shape}; expected at least one target per sample.")
        if np.isnan(y).all():
            raise ValueError("y has no number that is not NaN; expected at least one.")
        shape = self._answer_shape(y, X, reset=reset, numbers=True)
        quantiles = _check_quantiles(self.quantiles) if self.loss == "quantile" else ()
        if reset:
            self.quantiles_ = quantiles
            self._target_dtype = np.promote_types(y.dtype if y.dtype.kind == "f" else np.float32, np.float32)
        if quantiles != self.quantiles_:
            raise ValueError(
                f"quantiles={quantiles}, but {type(self).__name__} was fitted with {self.quantiles_}; a network that "
                "is trained further keeps them (loss other than 'quantile': none)."
            )
        return y.reshape(shape).astype(np.float64)

    def _decode_y(self, y):
        return self._as_y(y)

    def _encode(self, y, network):
        mean, scale = network.target_statistics()
        return np.nan_to_num(((y - mean) / scale).astype(np.float32))  # where nothing was observed the weight is 0

    def _bank_settings(self, sample_shape):
        return {"join": Blend}

    def _n_outputs(self, y):
        return y.shape[-1]

    def _count_labels(self, y, *, reset):
        pass  # numbers have none

    def _set_target_statistics(self, network, X, y, weight, index):
        if self._target == "sample":
            mean, std = _sequences.channel_statistics(y, index, weight)
        else:
            weight = None if weight is None else weight[index]
            mean, std = _observed_statistics(y[index], weight, per_pixel=self._target == "map")
        network.set_statistics(target_mean=mean, target_scale=_sequences.safe_scale(mean, std))
        if self._target == "map":
            frames = _sequences.last_frames(X, index, read=self._read)[:, np.newaxis, ..., : y.shape[-1]]
            mean, std = _observed_statistics(frames, weight, per_pixel=True)
            network.set_frame_statistics(mean[0], _sequences.safe_scale(mean[0], std, dtype=np.float32))

    def _suit_to_data(self, network, X, y, weight, index, groups, some):
        """Let targets of series that persist start from the last value of a channel, and squash skewed channels.

        Of many samples the network learns what their tails are worth, unless they are to tell changes.
        """
        if X.ndim != 3 or self._is_table:
            return
        y, weight, groups = (
            y[index],
            None if weight is None else weight[index],
            None if groups is None else groups[index],
        )
        start = self._last_value(network, X, y, weight, index, groups)
        if start is not None:
            network.start_from(start, X.shape[1:])
        elif len(index) > FEW_SAMPLES:
            return
        standardised = (self._read(some) - network.input_mean.numpy()) / network.input_scale.numpy()
        skewness, _ = _observed_statistics(standardised**3, None, per_pixel=False)
        if (np.abs(skewness) > _SKEWED).any():
            network.squash = Squash(np.abs(skewness) > _SKEWED)

    def _last_value(self, network, X, y, weight, index, groups):
        """Where the answers start, None if at the mean of each target.

        All are changes from last values, if ridge regression does not tell clearly otherwise and the changes are not
        far. If it does, those targets start at a last value whose changes vary less than half as much as they do.
        """
        last = _sequences.last_values(X, index)
        usual, _ = _observed_statistics(last, weight, per_pixel=False)
        last = np.where(np.isnan(last), usual, last)
        _, of_last = _observed_statistics(last, weight, per_pixel=False)
        mean, of_target = _observed_statistics(y, weight, per_pixel=False)
        changes = [_observed_statistics(y - last[:, [i]], weight, per_pixel=False) for i in range(last.shape[1])]
        change, of_change = map(np.stack, zip(*changes, strict=True))  # (channel, target)
        _, scale = network.target_statistics()

        def start(channel, **keywords):
            return LastValue(channel, mean - change[channel, targets], quantiles=self.quantiles_, **keywords)

        targets = np.arange(len(mean))
        is_constant = of_target != _sequences.safe_scale(mean, of_target)
        ratio = np.where(is_constant, 1.0, _square_of_ratio(of_change, of_target))
        nearest = ratio.argmin(axis=0)
        persists = ratio[nearest, targets] < 1 / 2
        one = np.full_like(nearest, ratio.mean(axis=1).argmin())
        channel = one if ratio[one[0]].mean() < 2 * ratio[nearest, targets].mean() else nearest
        of_each = start(nearest, slope=persists / scale)
        of_all = start(channel, slope=1 / scale, is_change=True)
        distance = _square_of_ratio(of_change, np.minimum(of_target, of_last[:, np.newaxis]))[channel, targets]
        is_near = np.where(is_constant, 1.0, distance).mean() < _FAR
        if is_near and self._are_changes(network, X, y, weight, index, groups, of_each, of_all):
            return of_all
        return of_each if persists.any() else None

    def _are_changes(self, network, X, y, weight, index, groups, of_each, of_all):
        """Whether ridge regression on levels is not clearly better than on levels measured from the last values.

        The answers start at `of_each`, or at `of_all`. Neighbours are left out together: where levels drift, these lead
        astray.
        """
        most = max(10, min(FEW_SAMPLES, _TRIAL_VALUES // math.prod(X.shape[1:])))
        step = math.ceil(len(index) / most)
        some, y = X[index[::step]], y[::step]
        weight, groups = (None if values is None else values[::step] for values in (weight, groups))
        mean, scale = network.target_statistics()
        samples = np.asarray(some, dtype=np.float32), getattr(some, "lengths", None), (y - mean) / scale, weight
        folds = self._parts(y, groups, 5)
        as_they_are, from_last = (network.loss_of_levels(start, *samples, folds=folds) for start in (of_each, of_all))
        return from_last < _LEAD * as_they_are

    def _loss(self):
        return _training.SampleLoss(self.loss, quantiles=self.quantiles_, per_entry=self._target != "sample")

    def _loss_weight(self, y, weight):
        return weight if self._target == "sample" else _entry_weight(y, weight)

    def _stratify(self, y):
        return None
