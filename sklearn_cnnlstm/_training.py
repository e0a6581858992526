"""How a network is trained and asked. The only module that knows skorch, devices and torch's switches."""

import contextlib
import copy
import ctypes
import dis
import functools
import gc
import inspect
import math
import mmap
import multiprocessing
import platform
import signal
import sys
import threading
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import torch
from skorch import NeuralNet
from skorch.callbacks import Callback, EarlyStopping, EpochTimer, PassthroughScoring, PrintLog
from skorch.dataset import Dataset
from torch import nn
from torch.nn import functional as F
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from tqdm import tqdm

from ._graphs import RecordedSteps
from ._readout import how_read, solve_ridge

Device = torch.device
OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
SCHEDULES = ("cosine", "constant")
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}

_CLIP_NORM = 1.0
_FACTORS = np.logspace(0, 1.3, 40)  # that turn ridge's answers, about -1 and 1, to logits
_DOUBT = 0.01  # label smoothing by which they are found: with more they stay small, with less they are all too sure
_WARM_UP = 0.1  # share of the updates over which the cosine schedule climbs to lr
_PASS_POSITIONS = 2**17 - 2**8  # steps of X in one inference pass: of 64 filters as many bytes as _KEPT_BLOCK
_PASS_PIXELS = 2**18  # of images and volumes, which start with 16 filters: of larger ones not all maps find room
_MANY_PASSES = 4  # more of which are worth keeping more memory from one to the next
_LANES = 16  # samples in step with which products of matrices are computed: 1310 take 3 % longer each than 1296
_LARGER_PASS = 8  # times these at most on a CUDA device, which passes of moderate size do not fill
_PASS_BYTES = 6 * 2**30  # of its memory for each of them: a pass takes up to 800 MB
_LEAST_RECORDED = 32  # steps with batches of one size, of fewer of which a recording is not worth its time
_POOL = 2  # batches that share their samples out by length: more cost accuracy, as a length may tell the target
_CONVERT_BYTES = 256 * 2**20
_KEPT_BLOCK = 2**25 - 2**16  # bytes: just below the largest block by which glibc learns how much to keep
_KEPT_BLOCKS = 8  # so many: 256 MB stay from one call to the next
_MORE_KEPT_BLOCKS = 32  # 1 GB from one step of a fit to the next, or of many passes
_RESIDENT_SHARE = 0.4  # of the free memory of an accelerator may hold X
_BOOKKEEPING = ("_best", "_batch_count")
_ONE = torch.ones((), dtype=torch.float32, device="cpu")  # whatever the caller's defaults are
_ADAM_VARIANTS = "amsgrad", "maximize", "differentiable"
_ADAM_OPTIONS = {
    *("params", "lr", "betas", "eps", "weight_decay", "decoupled_weight_decay", "foreach", "fused", "capturable"),
    *_ADAM_VARIANTS,
}
_SETTLE_LOCK = threading.Lock()
_FIT_LOCK = threading.RLock()  # torch's random state and switches belong to the process: one fit at a time


# -- devices and torch's switches ----------------------------------------------------------------------------------


def resolve_device(device):
    """The torch.device meant by a parameter: "auto" is the accelerator if there is one; a missing one is an error."""
    if device == "auto":
        return next(torch.device(name) for name in ("cuda", "mps", "xpu", "cpu") if _is_available(torch.device(name)))
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device={device!r} is not a torch device; expected 'auto', 'cpu', 'cuda:0', ...") from error
    if not _is_available(resolved):
        raise ValueError(f"device={device!r} is not available on this machine; expected one that is, or 'auto'.")
    return resolved


def _is_available(device):
    if device.type == "cpu":
        return True
    backend = getattr(torch, device.type, None)
    if backend is None or not backend.is_available():
        return False
    return device.index is None or device.index < backend.device_count()


def resolve_precision(precision):
    """The dtype name meant by a parameter: bfloat16 did not pay where it was measured (benchmarks/README.md)."""
    return "float32" if precision == "auto" else precision


@contextlib.contextmanager
def training_scope(device, seed, *, deterministic=False):
    """Seeded torch for one fit at a time, its process-wide switches put back afterwards."""
    device_type = device.type if device.type not in ("cpu", "meta") else "cuda"
    devices = [] if device.type in ("cpu", "meta") else [device]
    fork = torch.random.fork_rng(devices, device_type=device_type)
    with _FIT_LOCK, _defaults_of_torch(device), fork, _switches(deterministic), more_memory_kept():
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every accelerator
        if devices:
            with torch.accelerator.device_index(device.index):
                torch.get_device_module(device).manual_seed(seed)
        yield


@functools.cache
def _keep_freed_memory():
    """Let the C library keep what a pass or a step frees for the next one, from a process's first fit or predict on.

    New pages cost up to half of a step's time. glibc gives the free end of its heap back to the system, but nothing
    below a block in use. Such a block is put above free memory, which also serves blocks that are too large for the
    heap otherwise, and takes no more than is written to it. Threads but the main one have small heaps, and gain less.
    """
    libc = _glibc()
    if libc is None:
        return
    libc.free(libc.malloc(_KEPT_BLOCK))  # a block comes from the heap once one as large has been freed
    _block_above(libc, _KEPT_BLOCKS)  # it stays


@contextlib.contextmanager
def more_memory_kept():
    """The same for more memory, until the end of a fit or of many passes."""
    _keep_freed_memory()
    libc, above = _glibc(), None
    try:
        above = None if libc is None else _block_above(libc, _MORE_KEPT_BLOCKS)
        yield
    finally:
        if above is not None:
            libc.free(above)


def _block_above(libc, n_blocks):
    """Address of a block of memory behind as many that are free, side by side; None where memory is limited."""
    blocks = []
    try:
        for _ in range(n_blocks + 1):
            blocks.append(libc.malloc(_KEPT_BLOCK))  # torch's blocks, which are aligned, leave crumbs between
        return blocks.pop() if None not in blocks else None
    finally:
        for block in blocks:
            libc.free(block)


@functools.cache
def _glibc():
    """The C library, if it is the one whose habits are known."""
    if platform.libc_ver()[0] != "glibc":
        return None
    libc = ctypes.CDLL(None)
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.free.argtypes, libc.free.restype = [ctypes.c_void_p], None
    return libc


@contextlib.contextmanager
def _defaults_of_torch(device):
    """Gradients, float32 and tensors on the CPU, whatever the caller has set for code of his own."""
    dtype = torch.get_default_dtype()
    on_cpu = torch.device("cpu") if torch.get_default_device().type != "cpu" else contextlib.nullcontext()
    kinds = filter(torch.amp.is_autocast_available, {"cpu", device.type})
    uncast = [torch.autocast(kind, enabled=False) for kind in kinds]
    with contextlib.ExitStack() as stack:
        for context in (torch.inference_mode(False), torch.enable_grad(), on_cpu, *uncast):
            stack.enter_context(context)
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


@contextlib.contextmanager
def _switches(deterministic):
    flushed = bool(torch.tensor(1e-39) * 1 == 0)
    algorithms = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    try:
        torch.set_flush_denormal(True)  # denormal gradients make CPU layers many times slower
        if deterministic:
            torch.use_deterministic_algorithms(True)
            torch.backends.cudnn.benchmark = False
        yield
    finally:
        torch.set_flush_denormal(flushed)
        torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark


@contextlib.contextmanager
def _tensor_cores(device):
    """TF32 for the products of matrices on CUDA devices: for training alone, as answers are to be the same after it."""
    if device.type != "cuda":
        yield
        return
    products = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul  # the older name is one for both
    precisions = [of_backend.fp32_precision for of_backend in products]
    try:
        older = torch.get_float32_matmul_precision()  # another name for it, which is to say the same
    except RuntimeError:  # as a caller lets it say something else
        yield
        return
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(older)
        for of_backend, precision in zip(products, precisions, strict=True):
            of_backend.fp32_precision = precision


# -- data ----------------------------------------------------------------------------------------------------------


class Samples(Dataset):
    """Rows `index` of canonical X with encoded targets and weights of mean 1; X is neither copied nor cast whole.

    X is an array, or rows that lie elsewhere and are read when numpy asks for them, or either of them as `values` with
    `lengths`, the steps of each sample that are valid.
    `sample_weight` has one entry per sample or one per entry of y.
    """

    def __init__(self, X, y, sample_weight=None, index=None, *, folds=None, held_out=None):
        self.folds = folds  # row numbers that the readout of frozen features is validated on, if the network has one
        self.held_out = held_out  # row numbers that show how far what was trained on the others is to be trusted
        self.base = None  # what the readout predicts of samples that it was not fitted to
        self.known = {}  # what the network need not compute anew for each batch, by the name under which it takes it
        self.index = np.arange(len(X)) if index is None else index
        self.all_X = X
        self.y = torch.from_numpy(y[self.index])
        self.weight = None
        if sample_weight is not None:
            weight = sample_weight[self.index]
            self.weight = torch.from_numpy(_of_mean_one(weight).astype(np.float32))

    def part(self, rows, *, known):
        """Some of the samples."""
        part = copy.copy(self)
        part.index, part.y, part.folds, part.held_out = self.index[rows], self.y[rows], None, None
        part.weight = None if self.weight is None else _of_mean_one(self.weight[rows])
        part.base = None if self.base is None else self.base[rows]
        part.known = {name: values[rows] for name, values in known.items()}
        return part

    def __len__(self):
        return len(self.index)

    def __getitem__(self, i):
        return self.all_X[self.index[i]], self.y[i]

    @property
    def X(self):  # the name under which skorch's callbacks look for the data
        return self.all_X[self.index]


class _Batches:
    """One epoch per iteration: ((X, y), weight, known) on the device, in batches as equal as possible.

    With `by_step` y has an entry per step of X.
    """

    def __init__(self, samples, batch_size, device, shuffle, *, by_step=False):
        self.samples = samples
        self.by_step = by_step
        self.n_batches = math.ceil(len(samples) / batch_size)
        self.shuffle = shuffle
        self.device = device
        self.y = samples.y.to(device)
        self.weight = None if samples.weight is None else samples.weight.to(device)
        self.known = {name: values.to(device) for name, values in samples.known.items()}
        X, self.lengths = _values_and_lengths(samples.all_X, samples.index)
        self.resident = _to_accelerator(X, samples.index, device)
        self.X = None if self.resident is not None else _castable(X)
        self.reads_ahead = self.resident is None and _pays_to_read_ahead(self.X)

    def __len__(self):
        return self.n_batches

    def sizes(self):
        """How many batches of a training epoch have how many samples."""
        return Counter(max(2, len(rows)) for rows in torch.arange(len(self.samples)).tensor_split(self.n_batches))

    def __iter__(self):
        n = len(self.samples)
        order = torch.randperm(n) if self.shuffle else torch.arange(n)
        batches = order.tensor_split(self.n_batches)
        if self.shuffle and self.lengths is not None and self.n_batches > _POOL:
            batches = _alike_in_length(batches, self.lengths)
        if self.shuffle:  # batch norm needs two values; a sample and its copy have the sample's loss
            batches = [rows if len(rows) > 1 else rows.repeat(2) for rows in batches]
        batches = [rows.sort().values for rows in batches]  # disks and caches read forwards
        if self.resident is not None and self.lengths is None:  # all at once: the device would be waited for
            batches = torch.cat(batches).to(self.device).split([len(rows) for rows in batches])
        return _ahead(self.take, batches) if self.reads_ahead else map(self.take, batches)

    def take(self, rows):
        lengths = None if self.lengths is None else self.lengths[rows]
        if self.resident is None:
            X = to_batch(self.X[self.samples.index[rows.numpy()]], self.device)
            rows = rows.to(self.device)
        else:
            rows = rows.to(self.device)
            X = self.resident[rows]
        known = {name: values[rows].float() for name, values in self.known.items()}
        X, y, weight = _cut(X, lengths), self.y[rows], None if self.weight is None else self.weight[rows]
        if self.by_step and lengths is not None:  # every step that counts has the same say, whatever batch it is in
            n_steps = int(lengths.max())
            y, weight = y[:, :n_steps], weight[:, :n_steps] * (n_steps / y.shape[1])
        return (X, y), weight, known


def _values_and_lengths(X, index):
    """X without its lengths, and those of the rows `index` as a tensor, None where all samples are of one length."""
    if not hasattr(X, "lengths"):
        return X, None
    return X.values, torch.from_numpy(X.lengths[index])


def _alike_in_length(batches, lengths):
    """The batches with their samples exchanged among every two, so that similar lengths are computed together."""
    sizes = [len(rows) for rows in batches]
    pools = [torch.cat(batches[i : i + _POOL]) for i in range(0, len(batches), _POOL)]
    order = torch.cat([rows[lengths[rows].argsort(stable=True)] for rows in pools])
    batches = order.split(sizes)
    return [batches[i] for i in torch.randperm(len(batches))]


def _cut(X, lengths):
    """What the network is called with: X without steps that no sample has, and the lengths if they differ."""
    if lengths is None:
        return X
    longest = int(lengths.max())
    X = X[:, :longest]
    return X if (lengths == longest).all() else (X, lengths)


def _inputs(X):
    return X if isinstance(X, tuple) else (X,)


def _ahead(function, items):
    """As map, with the next result being made in a thread while the caller is at work on this one."""
    with ThreadPoolExecutor(1) as reader:
        coming = None
        for item in items:
            ready, coming = coming, reader.submit(function, item)
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()


def _pays_to_read_ahead(X):
    if not isinstance(X, np.ndarray):  # rows of HDF5, zarr, ...: each batch is a read
        return True
    return X.nbytes > _CONVERT_BYTES and _is_on_disk(X)


def _is_on_disk(X):
    while isinstance(X, np.ndarray):
        if isinstance(X, np.memmap):
            return True
        X = X.base
    return isinstance(X, mmap.mmap)


def to_batch(X, device):
    """Rows of X as a tensor on the device, in float32 unless the network reads their dtype as exactly."""
    return torch.from_numpy(np.require(X, _batch_dtype(X), ["C", "W"])).to(device)


def _batch_dtype(X):
    small = X.dtype in (np.uint8, np.int8, np.int16, np.float16)
    return X.dtype if small and X.dtype.isnative else np.float32


def _castable(X):
    """X, as a float32 copy where it needs a cast and is small: then it is cast once and not in every epoch."""
    dtype = _batch_dtype(X)
    if not isinstance(X, np.ndarray) or X.dtype == dtype or X.size * 4 > _CONVERT_BYTES:
        return X
    return X.astype(dtype)


def _to_accelerator(X, index, device):
    """The rows `index` of X as one tensor on an accelerator with room for them, else None."""
    if device.type != "cuda" or len(index) * math.prod(X.shape[1:]) * 4 > _RESIDENT_SHARE * _free_bytes(device):
        return None
    return _copied(X, index, device)


def _copied(X, index, device):
    """The rows `index` of X on the device, without another copy of them on the way."""
    copied = to_batch(X[:0], device).new_empty((len(index), *X.shape[1:]))
    rows = max(1, _CONVERT_BYTES // (4 * math.prod(X.shape[1:])))
    for start in range(0, len(index), rows):
        copied[start : start + rows] = to_batch(X[index[start : start + rows]], device)
    return copied


# -- losses --------------------------------------------------------------------------------------------------------


class SampleLoss(nn.Module):
    """One loss per sample, averaged over its outputs, or with `per_entry` one per entry of y."""

    def __init__(self, name, label_smoothing=0.0, quantiles=(), *, per_entry=False):
        super().__init__()
        self.name = name
        self.label_smoothing = label_smoothing
        self.quantiles = quantiles
        self.share = torch.tensor(quantiles, dtype=torch.float32)  # below each quantile
        self.reduce = _as_it_is if per_entry else _mean_of_sample
        self.function = getattr(self, "_" + name)

    def forward(self, output, y):
        return self.reduce(self.function(output.float(), y))

    def __getstate__(self):
        return self.__dict__ | {"function": None, "share": self.share.cpu()}

    def __setstate__(self, state):
        super().__setstate__(state)
        self.function = getattr(self, "_" + self.name)

    def activate(self, output):
        if self.name == "cross_entropy":
            return output.softmax(-1)
        return output.sigmoid() if self.name == "binary_cross_entropy" else output

    def decide(self, output):
        if self.name == "cross_entropy":
            return output.argmax(-1)
        if self.name == "quantile":
            return output[..., self.quantiles.index(0.5)]
        return output > 0.5 if self.name == "binary_cross_entropy" else output

    def code(self, y, n_outputs):
        """y as numbers that can be regressed on: for labels -1 and 1."""
        if self.name == "cross_entropy":
            return 2.0 * F.one_hot(y, n_outputs) - 1
        return 2 * y - 1 if self.name == "binary_cross_entropy" else y

    def factor(self, output, y, weight):
        """What to multiply regressed codes by so that they are the best logits."""
        if not self.name.endswith("cross_entropy"):
            return 1.0
        loss = SampleLoss(self.name, _DOUBT)
        losses = torch.stack([(loss(output * factor, y) * weight).mean() for factor in _FACTORS])
        return float(_FACTORS[int(losses.argmin())])

    def _cross_entropy(self, output, y):
        return F.cross_entropy(output.movedim(-1, 1), y, reduction="none", label_smoothing=self.label_smoothing)

    def _binary_cross_entropy(self, output, y):
        y = y * (1 - self.label_smoothing) + self.label_smoothing / 2
        return F.binary_cross_entropy_with_logits(output, y, reduction="none")

    def _squared_error(self, output, y):
        return F.mse_loss(output, y, reduction="none")

    def _absolute_error(self, output, y):
        return F.l1_loss(output, y, reduction="none")

    def _huber(self, output, y):
        return F.huber_loss(output, y, reduction="none")

    def _quantile(self, output, y):
        """Pinball loss of output (..., target, quantile), averaged over the quantiles."""
        above = y.unsqueeze(-1) - output
        if self.share.device != output.device:  # once: a step that is recorded may copy nothing from the host
            self.share = self.share.to(output.device)
        return torch.maximum(self.share * above, (self.share - 1) * above).mean(-1)


def _mean_of_sample(loss):
    return loss if loss.ndim == 1 else loss.mean(1)


def _as_it_is(loss):
    return loss


# -- the skorch net ------------------------------------------------------------------------------------------------


class TrainingNet(NeuralNet):
    """A skorch net that cuts its batches from arrays by index and reads the loss once per epoch."""

    _unpickled = False
    _trained_on = None  # type of device, once unpickled
    _held_out = None  # samples that are not trained on, which show what the training was worth
    _recorded = None  # steps of the present training, where they may be recorded
    _adams = None  # what steps of Adam's change, from one step to the next while nobody else is at work

    def __init__(self, *args, weight_decay=0.0, lr_schedule="constant", precision="float32", momentum=None, **kwargs):
        self.weight_decay = weight_decay
        self.lr_schedule = lr_schedule
        self.precision = precision
        self.momentum = momentum
        self._n_parts = {True: 1, False: 1}  # of a batch in training or not: more than one after memory has run out
        super().__init__(*args, **kwargs)

    # skorch's hooks, in the order in which a fit meets them

    def get_default_callbacks(self):
        callbacks = dict(super().get_default_callbacks()) | {"print_log": _PrintLog()}
        return list(callbacks.items())

    def initialize_optimizer(self, triggered_directly=None):
        parameters = [p for p in self.module_.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},  # biases and norms
        ]
        accepted = inspect.signature(self.optimizer).parameters
        options = {"fused": True} if "fused" in accepted else {}
        if self.momentum is not None:
            options |= {"momentum": self.momentum, "nesterov": True}
        self.optimizer_ = self.optimizer(groups, lr=self.lr, **options)
        self.scaler_ = torch.amp.GradScaler(self._device.type, enabled=self.precision == "float16")
        return self

    def partial_fit(self, X, y=None, classes=None, **fit_params):
        """As skorch's, but Ctrl-C leaves as KeyboardInterrupt instead of ending the training."""
        if not self.initialized_:
            self.initialize()
        fit_params.pop("_routing_method", None)
        self.notify("on_train_begin", X=X, y=y)
        self.fit_loop(X, y, **fit_params)
        self.notify("on_train_end", X=X, y=y)  # which may put the best weights back
        if self._held_out is not None:
            self._settle(self._held_out)
            self._held_out = None
        self._set_training(False)
        return self

    def fit_loop(self, X, y=None, epochs=None, valid=None):
        epochs = self.max_epochs if epochs is None else epochs
        train = X if isinstance(X, Samples) else Samples(X, np.asarray(y))
        data = {"dataset_train": train, "dataset_valid": valid}
        if train.folds is not None:
            self._solve_readout(train)
            if valid is not None:
                valid.known = {"features": self._features(valid)}
            if self.module_.join.holds_out and train.held_out is not None:
                train, self._held_out = self._hold_out(train)
        batches = self.get_iterator(train, training=True)
        valid_batches = None if valid is None else self.get_iterator(valid)
        self._update, self._n_updates = 0, epochs * len(batches)
        if self._may_record(batches):
            sizes = [size for size, count in batches.sizes().items() if count * epochs >= _LEAST_RECORDED]
            self._recorded = RecordedSteps(self._step_at_once, self.optimizer_, self._device, sizes)
        try:
            self._run_epochs(epochs, batches, valid_batches, data)
        finally:
            self._stop_recording()
            self._adams = None
        return self

    def _run_epochs(self, epochs, batches, valid_batches, data):
        for _ in range(epochs):
            self.notify("on_epoch_begin", **data)
            with _tensor_cores(self._device):
                self.run_single_epoch(batches, True, "train", self.train_step)
            self.run_single_epoch(valid_batches, False, "valid", self.validation_step)
            self.history.record("lr", self.optimizer_.param_groups[0]["lr"])
            try:
                self.notify("on_epoch_end", **data)
            except KeyboardInterrupt as interrupt:
                if _raised_by_code(interrupt):  # how skorch's callbacks ask to stop
                    break
                raise

    def get_iterator(self, dataset, training=False):
        size = self.batch_size if training else rows_per_pass(dataset.all_X, self._device)
        return _Batches(dataset, size, self._device, shuffle=training, by_step=self.module_.by_step)

    def run_single_epoch(self, iterator, training, prefix, step_fn, **fit_params):
        if iterator is None:
            return
        self._set_training(training)
        per_batch = self._listens("on_batch_begin") or self._listens("on_batch_end")
        is_watched = per_batch or self._has_hooks()
        self._adams = None
        total = torch.zeros((), device=self._device)
        n = 0
        for batch, weight, known in iterator:
            if per_batch:
                self.notify("on_batch_begin", batch=batch, training=training)
            step = step_fn(batch, weight=weight, known=known)
            size = len(batch[1])
            total += step["loss"] * size
            n += size
            if per_batch:
                self._record(prefix, step["loss"], size)
                self.notify("on_batch_end", batch=batch, training=training, **step)
            if is_watched:
                self._adams = None
        if not per_batch:
            self.history.new_batch()  # skorch's averages want at least one
            self._record(prefix, total / n, n)
        self.history.record(prefix + "_batch_count", len(iterator))

    def train_step(self, batch, weight=None, known=None):
        self._set_lr()
        known = known or {}
        if self._recorded is not None and self._n_parts[True] == 1 and self._recorded.is_due(len(batch[1])):
            try:
                return self._recorded(batch, weight, known)
            except RuntimeError as error:  # such as too little memory for what a recording keeps
                warnings.warn(f"A step of training was not recorded: {error}", RuntimeWarning, stacklevel=2)
            self._stop_recording()
            gc.collect()  # what the failure leaves of its backward pass belongs to the recording's stream
        step = self._in_parts(self._backward, batch, weight, known, training=True)
        self._change_weights(batch)
        return step

    def _step_at_once(self, batch, weight, known):
        step = self._backward(batch, weight, known, 1)
        self._change_weights(batch)
        return step

    def _stop_recording(self):
        if self._recorded is not None:
            self._recorded.close()
            self._recorded = None

    def _may_record(self, batches):
        """Whether each step launches the same kernels, which a CUDA graph can then do without Python."""
        return (
            self._device.type == "cuda"
            and self.module_.is_static
            and batches.resident is not None
            and batches.lengths is None
            and not self._has_hooks()
            and self.precision == "float32"  # bfloat16 could not be recorded, and float16's scaler reads back
            and type(self.optimizer_) in (torch.optim.Adam, torch.optim.AdamW)
            and all(type(callback) in _ONLOOKERS for _, callback in self.callbacks_)
        )

    def _has_hooks(self):
        return any(getattr(layer, name) for layer in self.module_.modules() for name in _HOOKS)

    def _change_weights(self, batch):
        self.scaler_.unscale_(self.optimizer_)
        if self._listens("on_grad_computed"):
            named = list(self.module_.named_parameters())
            self.notify("on_grad_computed", named_parameters=named, batch=batch, training=True)
            self._adams = None
        parameters = _parameters(self.optimizer_)
        if self._device.type != "cpu":  # which waits for nothing that is read back
            nn.utils.clip_grad_norm_(parameters, _CLIP_NORM)
        else:
            _clip_gradients(parameters)
            if self._adams is None and _is_adam_alone(self.optimizer_) and not self.scaler_.is_enabled():
                self._adams = _adams(self.optimizer_)
            if self._adams is not None:
                _adam_step(self._adams)
                return
        self.scaler_.step(self.optimizer_)
        self.scaler_.update()

    def _in_parts(self, step, batch, weight, known, *, training):
        """step(batch, weight, known, n_parts), in more and smaller parts when memory runs out."""
        most = max(1, len(batch[1]) // 2) if training else len(batch[1])  # batch norm needs two values
        while True:
            n_parts = min(self._n_parts[training], most)
            try:
                return step(batch, weight, known, n_parts)
            except torch.OutOfMemoryError:
                if n_parts == most and self._recorded is None:
                    raise
            if self._recorded is not None:  # what was recorded keeps memory of its own
                self._stop_recording()
                _free_memory(self._device)
                continue
            if max(self._n_parts.values()) == 1:
                warnings.warn(
                    f"Out of memory with {len(batch[1])} samples at once: each batch is now computed in parts whose "
                    "gradients are added up, which is slower.",
                    RuntimeWarning,
                    stacklevel=2,
                )
            self._n_parts[training] = min(2 * n_parts, most)
            _free_memory(self._device)

    def _backward(self, batch, weight, known, n_parts):
        """Gradients of the batch's loss."""
        _zero_gradients(self.optimizer_)
        return self._over_parts(batch, weight, known, n_parts, then=lambda loss: self.scaler_.scale(loss).backward())

    def _over_parts(self, batch, weight, known, n_parts, *, then=None):
        """Loss and outputs of a batch, computed part by part, with each of whose losses something is to be done."""
        X, y = batch
        losses, outputs = [], []
        n_inputs, names = len(_inputs(X)), list(known)
        for parts in _split((*_inputs(X), y, weight, *known.values()), n_parts):
            inputs, (y_part, weight_part, *known_part) = parts[:n_inputs], parts[n_inputs:]
            step = self._forward((inputs, y_part), weight_part, dict(zip(names, known_part, strict=True)))
            loss = step["loss"] if len(y_part) == len(y) else step["loss"] * (len(y_part) / len(y))
            if then is not None:
                then(loss)
            losses.append(loss.detach())
            outputs.append(step["y_pred"].detach())
        return {"loss": _only(losses, sum), "y_pred": _only(outputs, torch.cat)}

    def validation_step(self, batch, weight=None, known=None):
        with torch.no_grad():
            return self._in_parts(self._over_parts, batch, weight, known or {}, training=False)

    def _forward(self, batch, weight, known):
        X, y = batch
        with autocast(self._device, self.precision):
            answer = self.module_.answers if self.module_.training else self._answer
            outputs = answer(*_inputs(X), **known)
        loss = _only([self.criterion_(output, y) for output in outputs], _mean)
        if weight is not None:
            loss = loss * weight
        return {"loss": loss.mean(), "y_pred": _only(outputs, _mean)}

    def _answer(self, *inputs, **known):
        return (self.module_(*inputs, **known),)

    # the part of the network that is solved for

    def _solve_readout(self, samples):
        """Read the answers off the frozen features, in closed form, and note what training needs of them."""
        self._set_training(False)
        module, features, weight = self.module_, self._features(samples), samples.weight
        targets = self.criterion.code(samples.y, module.n_outputs).double()
        start = torch.zeros(1) if module.start is None else torch.cat(list(self._by_blocks(module.start_of, samples)))
        where = self._device if self._device.type == "cuda" else torch.device("cpu")  # float64 is not everywhere
        coefficients, intercept, predictions = solve_ridge(
            features.to(where),
            (targets - start).to(where),
            [torch.from_numpy(fold).to(where) for fold in samples.folds],
            **how_read(module.bank, len(features)),
            weight=None if weight is None else weight.to(where),
            caution=module.join.caution(len(features)),
        )
        weight = torch.ones(len(samples)) if weight is None else weight
        factor = self.criterion.factor(predictions.float(), samples.y.to(where), weight.to(where))
        coefficients, intercept, predictions = (
            part.to("cpu") * factor for part in (coefficients, intercept, predictions)
        )
        samples.base = (predictions + start).float()
        samples.known = module.join.learn(features, coefficients, intercept)

    def _hold_out(self, train):
        """The samples to train on, and those on which it shows how good that was."""
        others = np.setdiff1d(np.arange(len(train)), train.held_out)
        return train.part(others, known=train.known), train.part(train.held_out, known=train.known)

    def _settle(self, samples):
        """Trust what was trained as far as samples show that it was not trained on."""
        self._set_training(False)
        opinions = torch.from_numpy(self._collect(self.module_.opinions, samples.X)).unbind(1)
        weight = torch.ones(len(samples)) if samples.weight is None else samples.weight
        self.module_.join.settle(samples.base, opinions, samples.y, weight, self.criterion_)

    def _features(self, samples):
        """Frozen features of all samples, on the CPU, as float16: they are shares and standardised values."""
        return torch.cat([part.half() for part in self._by_blocks(self.module_.features, samples)])

    def _by_blocks(self, function, samples):
        """What `_collect` gives, in blocks of samples, so that X is never copied whole."""
        rows = _in_step(_PASS_POSITIONS * _larger(self._device) // math.prod(samples.all_X.shape[1:-1]))
        for block in np.array_split(samples.index, math.ceil(len(samples) / rows)):
            yield torch.from_numpy(self._collect(function, samples.all_X[block]))

    def get_loss(self, y_pred, y_true, X=None, training=False):
        return self.criterion_(y_pred, y_true.to(y_pred.device)).mean()

    def _set_lr(self):
        if self.lr_schedule == "constant":
            return
        done = self._update / self._n_updates
        rise = min(1.0, (self._update + 1) / max(1.0, _WARM_UP * self._n_updates))
        for group in self.optimizer_.param_groups:
            group["lr"] = self.lr * rise * (1 + math.cos(math.pi * done)) / 2
        self._update += 1

    def _record(self, prefix, loss, size):
        self.history.record_batch(prefix + "_loss", loss.item())
        self.history.record_batch(prefix + "_batch_size", size)

    def _listens(self, event):
        return any(getattr(type(callback), event) is not getattr(Callback, event) for _, callback in self.callbacks_)

    @property
    def _device(self):
        return torch.device(self.device)

    # asking the network

    def forward_iter(self, X, training=False, device="cpu"):
        self._set_training(training)
        if isinstance(X, Samples):
            X = X.X
        for output in self._passes(self.module_, X):
            yield output.to(device)

    def predict_proba(self, X):
        """Outputs with the activation of the loss: probabilities for a classifier, standardised targets otherwise."""
        outputs = torch.cat(list(self.forward_iter(X))).cpu()  # skorch's scorers keep them where they were computed
        return self.criterion_.activate(outputs).numpy()

    def predict(self, X):
        """Codes of labels for a classifier, standardised targets otherwise: what skorch's scorers compare with y."""
        return self.criterion_.decide(self.predict_proba(X))

    def outputs(self, X):
        """Raw outputs of the network for canonical X, as float32 (sample[, time], output[, quantile])."""
        return self._collect(self.module_, X)

    def embed(self, X):
        """What the head reads, as float32 (sample[, time], feature)."""
        return self._collect(self.module_.embed, X)

    def _collect(self, function, X):
        result = None
        start = 0
        for part in self._passes(function, X):
            if result is None:
                result = np.empty((len(X), *part.shape[1:]), dtype=np.float32)
            result[start : start + len(part)] = part.cpu().numpy()
            start += len(part)
        return result

    def _passes(self, function, X):
        _keep_freed_memory()
        start, rows = 0, rows_per_pass(X, self._device)
        X, lengths = _values_and_lengths(X, slice(None))
        with more_memory_kept() if len(X) > _MANY_PASSES * rows else contextlib.nullcontext():
            while start < len(X):
                try:
                    batch = to_batch(X[start : start + rows], self._device)
                    batch = _cut(batch, None if lengths is None else lengths[start : start + rows])
                    with torch.inference_mode(), autocast(self._device, self.precision):
                        part = function(*_inputs(batch)).float()
                except torch.OutOfMemoryError:
                    if rows == 1:
                        raise
                    rows //= 2
                    _free_memory(self._device)
                    continue
                start += len(part)
                if self.module_.by_step and part.shape[1] < X.shape[1]:
                    part = F.pad(part, (*[0] * (2 * part.ndim - 3), X.shape[1] - part.shape[1]))
                yield part

    # between fits

    def dismiss(self, callbacks):
        """Let go of callbacks, and of what they hold."""
        self.callbacks = [callback for callback in self.callbacks if callback not in callbacks]
        self.callbacks_ = [(name, callback) for name, callback in self.callbacks_ if callback not in callbacks]

    def train_one_pass(self, samples, *, lr, batch_size):
        """One more epoch at a constant rate; the optimizer's state is kept where there is one."""
        self.lr, self.lr_schedule, self.batch_size, self.max_epochs = lr, "constant", batch_size, 1
        for group in self.optimizer_.param_groups:
            group["lr"] = lr
        self.partial_fit(samples)

    @contextlib.contextmanager
    def undone_on_error(self):
        """Weights, optimizer and history as they were if anything goes wrong: as good as never begun."""
        if not hasattr(self, "optimizer_"):  # unpickled
            self.initialize_callbacks()
            self.initialize_optimizer()
        before = copy.deepcopy((self.module_.state_dict(), self.optimizer_.state_dict()))
        n_epochs = len(self.history)
        try:
            yield
        except BaseException:
            self.module_.load_state_dict(before[0])
            self.optimizer_.load_state_dict(before[1])
            del self.history[n_epochs:]
            self._set_training(False)
            raise

    def epochs(self, last=None):
        """The history, or its `last` rows, as a DataFrame with a row per epoch."""
        rows = self.history[-(last or 0) :]
        history = pd.DataFrame([{k: v for k, v in row.items() if k != "batches"} for row in rows])
        scores = [name for name in history if not name.endswith(_BOOKKEEPING) and name not in ("epoch", "lr", "dur")]
        return history[["epoch", *scores, "lr", "dur"]].rename(columns={"dur": "seconds"})

    def settled(self, device):
        """Self, its weights moved to `device` if they were just unpickled and this machine has it."""
        if self._unpickled:
            with _SETTLE_LOCK:
                if self._unpickled:
                    with contextlib.suppress(ValueError):
                        self._move(resolve_device(device))
                    if self._device.type != self._trained_on:
                        self.precision = "float32"  # which every device has
                    self._unpickled = False
        return self

    def _move(self, device):
        self.module_ = self.module_.to(device)
        self.device = str(device)

    def __getstate__(self):
        """Weights on the CPU and the history; neither data, optimizer nor callbacks."""
        state = self.__dict__.copy()
        for name in ("optimizer_", "scaler_"):
            state.pop(name, None)
        module = copy.deepcopy(self.module_).cpu()
        return state | {
            "module": module,
            "module_": module,
            "callbacks": None,
            "callbacks_": [],
            "_held_out": None,
            "_adams": None,
            "_recorded": None,
            "device": "cpu",
            "_unpickled": True,
            "_trained_on": self._trained_on if self._unpickled else self._device.type,
        }

    def __setstate__(self, state):
        self.__dict__.update(state)


class ValidScore(Callback):
    """Records score(net) of the validation part after each epoch."""

    def __init__(self, score):
        self.score = score

    def on_epoch_end(self, net, **kwargs):
        net._set_training(False)
        net.history.record("valid_score", float(self.score(net)))


def early_stopping(monitor, *, patience, tol):
    """skorch's callback that stops when "loss" or "score" no longer gets better by tol, the best weights put back."""
    return EarlyStopping(
        f"valid_{monitor}",
        patience=patience,
        threshold=tol,
        threshold_mode="abs",
        lower_is_better=monitor == "loss",
        sink=_say_nothing,
        load_best=True,
    )


class ProgressLine(Callback):
    """One line on a terminal that follows a fit: epochs, time left, losses and score."""

    def on_train_begin(self, net, **kwargs):
        self.n_before_ = len(net.history)
        self.line_ = _Line(total=net.max_epochs, unit="epoch", file=sys.stderr)

    def on_epoch_end(self, net, **kwargs):
        self._show(net)

    def on_train_end(self, net, **kwargs):
        self._show(net)  # the last epoch, after which early stopping lets no other callback speak
        self.line_.close()
        del self.line_

    def _show(self, net):
        row = net.history[-1]
        numbers = {name: row[name] for name in ("train_loss", "valid_loss", "valid_score") if name in row}
        self.line_.set_postfix(numbers, refresh=False)
        self.line_.update(len(net.history) - self.n_before_ - self.line_.n)


_HOOKS = "_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks"  # of a layer, in torch


class _PrintLog(PrintLog):
    """skorch's draws its table after each epoch, even where it does not show it."""

    def on_epoch_end(self, net, **kwargs):
        if net.verbose or self.sink is not print:
            super().on_epoch_end(net, **kwargs)


# callbacks that change nothing while a network is trained, and look at no batch
_ONLOOKERS = EpochTimer, PassthroughScoring, PrintLog, _PrintLog, EarlyStopping, ValidScore, ProgressLine


class _Line(tqdm):
    monitor_interval = 0  # no thread of tqdm's own


def _is_watched():
    """Whether there is a terminal, and this fit is not one of several at a time."""
    alone = multiprocessing.current_process().name == "MainProcess"
    return alone and threading.current_thread() is threading.main_thread() and sys.stderr.isatty()


def _say_nothing(text):
    pass


def build_net(module, *, loss, optimizer, device, callbacks, verbose, **settings):
    """A skorch net around a network instance."""
    momentum = 0.9 if optimizer == "sgd" else None
    optimizer = OPTIMIZERS.get(optimizer, optimizer)
    if not issubclass(optimizer, torch.optim.Optimizer):
        raise ValueError(f"optimizer={optimizer!r}; expected one of {tuple(OPTIMIZERS)} or a torch.optim class.")
    if verbose == 1 and _is_watched():
        callbacks = [*callbacks, ProgressLine()]
    return TrainingNet(
        module,
        criterion=loss,
        optimizer=optimizer,
        device=str(device),
        callbacks=callbacks,
        train_split=None,
        verbose=int(verbose > 1),
        momentum=momentum,
        **settings,
    )


def check_callbacks(callbacks):
    """Refuse what skorch takes for no callback: those may be instances, classes, or None, and may have names."""
    for entry in callbacks or ():
        is_pair = isinstance(entry, tuple | list) and len(entry) == 2 and isinstance(entry[0], str)
        callback = entry[1] if is_pair else entry
        cls = callback if isinstance(callback, type) else type(callback)
        if callback is not None and not issubclass(cls, Callback):
            raise ValueError(
                f"net_callbacks has the entry {entry!r}; expected a skorch.callbacks.Callback, or a name and one."
            )


# -- a step on the CPU, torch's to the bit, without what torch looks up anew each time -----------------------------


def _parameters(optimizer):
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _zero_gradients(optimizer):
    if type(optimizer).zero_grad is not torch.optim.Optimizer.zero_grad:
        optimizer.zero_grad()
    for parameter in _parameters(optimizer):
        parameter.grad = None


def _clip_gradients(parameters):
    """As clip_grad_norm_."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    factor = _CLIP_NORM / (norm + 1e-6)
    if not factor.item() >= 1:  # or not a number
        torch._foreach_mul_(gradients, factor)  # a tensor takes a third of the time that a number takes


def _is_adam_alone(optimizer):
    """Whether a step is Adam's or AdamW's as they are known here, not the first one, and nobody listens to it."""
    own_hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    return (
        type(optimizer) in (torch.optim.Adam, torch.optim.AdamW)
        and all(group.keys() <= _ADAM_OPTIONS for group in optimizer.param_groups)
        and all(group["fused"] and not any(map(group.get, _ADAM_VARIANTS)) for group in optimizer.param_groups)
        and all(optimizer.state.get(parameter) for parameter in _parameters(optimizer))
        and not (own_hooks or _global_optimizer_pre_hooks or _global_optimizer_post_hooks)
        and "step" not in vars(optimizer)  # where schedulers and others put one that does more
    )


def _adams(optimizer):
    """What a step of Adam's changes: each group's options, and for each of its parameters this and its state."""
    names = "exp_avg", "exp_avg_sq", "step"
    return [
        (group, [(parameter, *map(optimizer.state[parameter].get, names)) for parameter in group["params"]])
        for group in optimizer.param_groups
    ]


@torch.no_grad()
def _adam_step(adams):
    for group, rows in adams:
        rows = [row for row in rows if row[0].grad is not None]
        if not rows:
            continue
        parameters, averages, squares, steps = zip(*rows, strict=True)
        torch._foreach_add_(steps, _ONE, alpha=1.0)  # a third of the time that adding 1 takes
        step = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
        step(
            parameters,
            [parameter.grad for parameter in parameters],
            averages,
            squares,
            [],
            steps,
            amsgrad=False,
            maximize=False,
            beta1=float(group["betas"][0]),
            beta2=float(group["betas"][1]),
            **{name: float(group[name]) for name in ("lr", "weight_decay", "eps")},
        )


def autocast(device, precision):
    """What is computed within is of this precision, whatever a caller casts."""
    dtype = PRECISIONS[precision]
    if dtype is not None:
        return torch.autocast(device.type, dtype)
    is_cast = torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if is_cast else contextlib.nullcontext()


def _of_mean_one(weight):
    total = weight.sum()
    return weight * (math.prod(weight.shape) / total) if total > 0 else weight


def _split(tensors, n_parts):
    """The tensors, some of which may be None, cut alike along the samples."""
    if n_parts == 1:
        return [tensors]
    return zip(*([None] * n_parts if t is None else t.tensor_split(n_parts) for t in tensors), strict=True)


def _only(tensors, join):
    """The tensor itself if there is but one: small networks feel each step of arithmetic."""
    return tensors[0] if len(tensors) == 1 else join(tensors)


def _mean(tensors):
    return sum(tensors) / len(tensors)


def _free_memory(device):
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _free_bytes(device):
    """What a CUDA device has left, and what torch keeps of it without need."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def rows_per_pass(X, device):
    """Samples that one pass of inference takes."""
    positions = _PASS_PIXELS if X.ndim >= 5 else _PASS_POSITIONS
    values = max(math.prod(X.shape[1:-1]), X.shape[-1])
    if len(X) * values > positions:
        positions *= _larger(device)
    return _in_step(positions // values)


def _in_step(rows):
    """At most as many samples, of which products of matrices leave none over, unless that takes more than a fifth."""
    return max(1, rows) if rows < 4 * _LANES else rows - rows % _LANES


def _larger(device):
    """How many times as large a pass is as on the CPU: a power of 2, the same whatever else the device is doing."""
    if device.type != "cuda":
        return 1
    room = torch.cuda.get_device_properties(device).total_memory // _PASS_BYTES
    return min(_LARGER_PASS, 2 ** max(0, room.bit_length() - 1))


def _raised_by_code(interrupt):
    """Whether a KeyboardInterrupt comes from a `raise` statement; Ctrl-C arrives between two instructions."""
    trace = interrupt.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    if trace.tb_frame.f_code is getattr(signal.getsignal(signal.SIGINT), "__code__", None):
        return False
    return trace.tb_frame.f_code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]
