"""How answers are read off frozen features: ridge regression, its penalty chosen by cross-validation."""

import itertools

import numpy as np
import torch

from ._bank import LEAST_SPREAD

_PENALTIES = np.logspace(-5, 2, 15)  # for features whose variances add up to 1
_CHUNK = 2048  # rows in float64 at once, where there are more rows than features


def solve_ridge(features, targets, folds, *, blocks, mixes, units, fading=None, weight=None, caution=0):
    """Coefficients (feature, output), intercept (output,) and cross-validated predictions (sample, output).

    `folds` are index tensors; each is predicted by a fit to all other rows (though of no more rows than features all
    make the principal components). `blocks` are the widths of groups of features that stand side by side. Features are
    standardised, those of the same number in `units` together, and each group gets a share of the variance from one of
    the `mixes`: that which predicts best together with its penalty, unless it lacks the lead that it needs. Some groups
    may have no share in any of them. In a mix that fades, features are as large within their group as `fading` tells,
    not all 0. `caution` is by how many steps of _PENALTIES the penalty is then raised.
    """
    used = [any(parts) for parts in zip(*(mix.shares for mix in mixes), strict=True)]
    columns = torch.tensor(used).repeat_interleave(torch.tensor(blocks)).nonzero()[:, 0].to(features.device)
    blocks = tuple(itertools.compress(blocks, used))
    mixes = [mix._replace(shares=tuple(itertools.compress(mix.shares, used))) for mix in mixes]
    n_features, features = features.shape[1], features[:, columns]
    rows = _Rows(features, targets.double(), weight, units.to(columns)[columns])
    fading = torch.ones(n_features) if fading is None else fading
    groups = _Groups(blocks, fading.to(columns.device, torch.float64)[columns])
    problem = (_BySamples if len(features) <= features.shape[1] else _ByFeatures)(rows, folds, groups)
    best = None
    for mix in mixes:
        predictions, solution = problem.fit(mix)
        errors = rows.weight * ((predictions - rows.targets) ** 2).sum(2)  # (penalty, sample)
        least = int(errors.sum(1).argmin())
        if best is None or _leads(best[0], errors[least], rows.weight, folds, mix):
            k = min(least + caution, len(errors) - 1)
            best = errors[least], *solution(k), predictions[k]
    _, coefficients, intercept, predictions = best
    coefficients = coefficients / rows.scale[:, None]
    intercept = intercept - rows.mean @ coefficients
    all_coefficients = coefficients.new_zeros(n_features, coefficients.shape[1])
    all_coefficients[columns] = coefficients
    return all_coefficients, intercept, predictions


def how_read(bank, n_samples):
    """What solve_ridge is to know of the features of a bank."""
    return {"blocks": bank.blocks, "mixes": bank.mixes(n_samples), "units": bank.units(), "fading": bank.fading()}


def validated_loss(bank, features, targets, folds, weight=None):
    """Sum of squares that ridge regression on the features of a bank leaves of targets in folds it has not seen."""
    _, _, predictions = solve_ridge(features, targets, folds, **how_read(bank, len(features)), weight=weight)
    squares = ((predictions - targets) ** 2).sum(1)
    return float(squares.sum() if weight is None else weight @ squares)


def _leads(before, errors, weight, folds, mix):
    """Whether errors are less by the lead of a mix, in standard errors that the folds show, and by its gain."""
    gains, weight = (torch.stack([values[fold].sum() for fold in folds]) for values in (before - errors, weight))
    total, n_folds = gains.sum(), len(folds)
    scatter = gains - weight / weight.sum() * total
    standard_error = (scatter.square().sum() * n_folds / (n_folds - 1)).sqrt()
    return total > mix.lead * standard_error and total >= mix.gain * before.sum()


class _Rows:
    """Features that are standardised, and turned into float64, only for the rows in use."""

    def __init__(self, features, targets, weight, units):
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
        _, units, sizes = units.unique(return_inverse=True, return_counts=True)
        variance = (torch.zeros_like(variance[: len(sizes)]).index_add(0, units, variance) / sizes)[units]
        self.scale = torch.where(variance < 1e-12, torch.inf, variance.sqrt().clamp(min=LEAST_SPREAD))

    def __getitem__(self, index):
        return (self.features[index].double() - self.mean) / self.scale


class _Groups:
    """Groups of features that stand side by side, so many wide."""

    def __init__(self, widths, fading):
        self.widths = widths
        self.fading = fading.split(widths)

    def parts(self, i, fades):
        """What each feature of a group has of its variance: (feature,)."""
        squares = self.fading[i].square() if fades else torch.ones_like(self.fading[i])
        return squares / squares.sum()

    def shares(self, mix):
        """What each feature has of the variance of all groups: (feature,)."""
        return torch.cat([share * self.parts(i, mix.fades) for i, share in enumerate(mix.shares)])


class _BySamples:
    """For no more rows than features: one eigenvalue problem as large as the rows for each mix.

    The residuals of a fit to all rows are M y, and what it would leave of rows f had it not seen them is the solution r
    of M_ff r = (M y)_f.
    """

    def __init__(self, rows, folds, groups):
        self.rows, self.folds, self.groups = rows, folds, groups
        self.Z = rows[torch.arange(len(rows.targets), device=rows.targets.device)].split(groups.widths, dim=1)
        self.kernels = {}

    def fit(self, mix):
        """Predictions (penalty, sample, output) of each fold, and a function penalty number -> coefficients, intercept.

        The coefficients of the rows add up to 0, so that centring the kernel leaves a constant alone.
        """
        y, weight = self.rows.targets, self.rows.weight
        share, root = weight / weight.sum(), weight.sqrt()[:, None]
        K = sum(part * self._kernel(i, mix.fades) for i, part in enumerate(mix.shares) if part)
        shift, y_mean = K @ share, share @ y
        K = root * (K - shift[:, None] - shift + share @ shift) * root.T
        values, vectors = torch.linalg.eigh(K)
        penalties = torch.as_tensor(_PENALTIES).to(y.device)[:, None]
        damped = 1 / (values.clamp(min=0) + penalties)  # (penalty, eigenvalue)
        kept = penalties * damped  # what M leaves of each eigenvector, but of a constant it leaves nothing
        if mix.rank is not None:
            damped[:, : -mix.rank], kept[:, : -mix.rank] = 0, 1
        constant = root / root.norm()
        scaled = vectors.T @ (root * (y - y_mean))
        predictions = y.repeat(len(penalties), 1, 1)
        for fold in self.folds:
            V, c, w = vectors[fold], constant[fold], root[fold]
            for k, left in enumerate(kept):
                M = (V * left) @ V.T - c @ c.T
                predictions[k, fold] -= torch.linalg.solve(M, V @ (left[:, None] * scaled)) / w

        def solution(k):
            dual = root * (vectors @ (damped[k][:, None] * scaled))
            return self.groups.shares(mix)[:, None] * torch.cat([Z.T @ dual for Z in self.Z]), y_mean - shift @ dual

        return predictions, solution

    def _kernel(self, i, fades):
        if (i, fades) not in self.kernels:
            Z = self.Z[i]
            self.kernels[i, fades] = (Z * self.groups.parts(i, True)) @ Z.T if fades else Z @ Z.T / Z.shape[1]
        return self.kernels[i, fades]


class _ByFeatures:
    """For more rows than features: sums over the rows of each fold, eigenvalue problems as large as the features."""

    def __init__(self, rows, folds, groups):
        self.rows, self.folds, self.groups = rows, folds, groups
        self.sums = [_Sums(rows, fold) for fold in folds]
        self.total = sum(self.sums[1:], self.sums[0])

    def fit(self, mix):
        """As that of _BySamples."""
        rows = self.rows
        share = self.groups.shares(mix)
        predictions = rows.targets.new_zeros(len(_PENALTIES), *rows.targets.shape)
        for fold, part in zip(self.folds, self.sums, strict=True):
            coefficients, intercept = (self.total - part).path(share, mix.rank)
            for chunk in fold.split(_CHUNK):
                predictions[:, chunk] = rows[chunk] @ coefficients + intercept[:, None]
        coefficients, intercept = self.total.path(share, mix.rank)
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

    def path(self, share, rank):
        """Coefficients (penalty, feature, output) and intercepts (penalty, output)."""
        weight, z, y, zz, zy = self.values
        used = share.nonzero()[:, 0]  # the eigenvalue problem is no larger than that
        mean, y_mean = z[used] / weight, y / weight
        root = share[used].sqrt()[:, None]
        values, vectors = torch.linalg.eigh(root * (zz[used[:, None], used] - weight * mean[:, None] * mean) * root.T)
        scaled = vectors.T @ (root * (zy[used] - z[used, None] * y_mean))
        path = scaled / (values.clamp(min=0)[:, None] + torch.as_tensor(_PENALTIES).to(values.device)[:, None, None])
        if rank is not None:
            path[:, :-rank] = 0
        coefficients = path.new_zeros(len(path), *zy.shape)
        coefficients[:, used] = root * (vectors @ path)
        return coefficients, y_mean - mean @ coefficients[:, used]
