"""How answers are read off frozen features: ridge regression, its penalty chosen by cross-validation."""

import torch

_PENALTIES = torch.logspace(-5, 2, 15, dtype=torch.float64)  # for features whose variances add up to 1
_CHUNK = 2048  # rows in float64 at once


def solve_ridge(features, targets, folds, *, blocks, mixes, weight=None):
    """Coefficients (feature, output), intercept (output,) and cross-validated predictions (sample, output).

    `folds` are index tensors; each is predicted by a fit to all other rows. `blocks` are the widths of groups of
    features that stand side by side. Features are standardised and each group gets a share of the variance from one of
    the `mixes`, that which predicts best together with its penalty.
    """
    rows = _Rows(features, targets.double(), weight)
    fit = _fit_by_samples if len(features) <= features.shape[1] else _fit_by_features
    best = None
    for mix in mixes:
        share = torch.cat([torch.full((width,), part / width) for width, part in zip(blocks, mix, strict=True)])
        predictions, solution = fit(rows, share.to(features.device, torch.float64), folds)
        error = rows.weight @ ((predictions - rows.targets) ** 2).sum(2).T  # (penalty,)
        k = int(error.argmin())
        if best is None or error[k] < best[0]:
            best = error[k], *solution(k), predictions[k]
    _, coefficients, intercept, predictions = best
    coefficients = coefficients / rows.scale[:, None]
    return coefficients, intercept - rows.mean @ coefficients, predictions


class _Rows:
    """Features that are standardised, and turned into float64, only for the rows in use."""

    def __init__(self, features, targets, weight):
        self.features = features
        self.targets = targets
        self.weight = torch.ones(len(targets), dtype=torch.float64, device=targets.device)
        if weight is not None:
            self.weight *= weight
        self.mean, self.scale = 0.0, 1.0
        every = torch.arange(len(targets), device=targets.device)
        share = self.weight / self.weight.sum()
        self.mean = sum(share[part] @ self[part] for part in every.split(_CHUNK))
        variance = sum(share[part] @ self[part] ** 2 for part in every.split(_CHUNK))
        self.scale = torch.where(variance < 1e-12, torch.inf, variance.sqrt())

    def __getitem__(self, index):
        return (self.features[index].double() - self.mean) / self.scale


def _fit_by_samples(rows, share, folds):
    """Predictions (penalty, sample, output) of each fold, and a function penalty number -> coefficients, intercept."""
    n = len(rows.targets)
    every = torch.arange(n, device=share.device)
    Z = rows[every]
    K = (Z * share) @ Z.T
    predictions = rows.targets.new_zeros(len(_PENALTIES), n, rows.targets.shape[1])
    for fold in folds:
        others = every[~torch.isin(every, fold)]
        c, shift, y_mean = _dual_path(K, rows.targets, rows.weight, others)
        predictions[:, fold] = K[fold][:, others] @ c - (shift[others] @ c)[:, None] + y_mean
    c, shift, y_mean = _dual_path(K, rows.targets, rows.weight, every)
    return predictions, lambda k: (share[:, None] * (Z.T @ c[k]), y_mean - shift @ c[k])


def _dual_path(K, targets, weight, index):
    """Dual coefficients (penalty, sample, output), the kernel's weighted mean for each row, the mean of the targets.

    The coefficients of an output add up to 0, so that centring the kernel leaves a constant alone.
    """
    weight, y = weight[index], targets[index]
    share = weight / weight.sum()
    shift = K[:, index] @ share
    inner, y_mean = shift[index], share @ y
    centred = K[index][:, index] - inner[:, None] - inner + share @ inner
    root = weight.sqrt()[:, None]
    values, vectors = torch.linalg.eigh(root * centred * root.T)
    scaled = vectors.T @ (root * (y - y_mean))
    path = scaled / (values.clamp(min=0)[:, None] + _PENALTIES.to(values.device)[:, None, None])
    return root * (vectors @ path), shift, y_mean


def _fit_by_features(rows, share, folds):
    """As `_fit_by_samples`, for more rows than features: from sums over the rows of each fold."""
    sums = [_Sums(rows, fold) for fold in folds]
    total = sum(sums[1:], sums[0])
    predictions = rows.targets.new_zeros(len(_PENALTIES), *rows.targets.shape)
    for fold, part in zip(folds, sums, strict=True):
        coefficients, intercept = (total - part).path(share)
        for chunk in fold.split(_CHUNK):
            predictions[:, chunk] = rows[chunk] @ coefficients + intercept[:, None]
    coefficients, intercept = total.path(share)
    return predictions, lambda k: (coefficients[k], intercept[k])


class _Sums:
    """Weighted sums over rows from which a ridge regression follows."""

    def __init__(self, rows, index):
        self.values = [0.0] * 5
        for part in index.split(_CHUNK):
            Z, y, w = rows[part], rows.targets[part], rows.weight[part][:, None]
            terms = w.sum(), (w * Z).sum(0), (w * y).sum(0), Z.T @ (w * Z), Z.T @ (w * y)
            self.values = [value + term for value, term in zip(self.values, terms, strict=True)]

    def __add__(self, other):
        return self._with(a + b for a, b in zip(self.values, other.values, strict=True))

    def __sub__(self, other):
        return self._with(a - b for a, b in zip(self.values, other.values, strict=True))

    def _with(self, values):
        sums = object.__new__(_Sums)
        sums.values = list(values)
        return sums

    def path(self, share):
        """Coefficients (penalty, feature, output) and intercepts (penalty, output)."""
        weight, z, y, zz, zy = self.values
        mean, y_mean = z / weight, y / weight
        root = share.sqrt()[:, None]
        values, vectors = torch.linalg.eigh(root * (zz - weight * mean[:, None] * mean) * root.T)
        scaled = vectors.T @ (root * (zy - z[:, None] * y_mean))
        path = scaled / (values.clamp(min=0)[:, None] + _PENALTIES.to(values.device)[:, None, None])
        coefficients = root * (vectors @ path)
        return coefficients, y_mean - mean @ coefficients
