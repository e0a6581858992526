"""The hand-written training loop and forward pass that ours is measured against, written as the limit."""

import math

import torch
from torch import nn
from torch.nn import functional as F


def train(module, X, y, *, lr, weight_decay, label_smoothing, batch_size, max_epochs, device="cpu"):
    """Train `module` in place on arrays X (sample, time, *space, channel) and y (codes of classes).

    Returns the loss of each step. Batches are drawn from torch's global generator, as dropout is on the CPU.
    """
    torch.set_flush_denormal(True)
    products = torch.backends.cuda.matmul
    products.fp32_precision, precision = "tf32", products.fp32_precision
    module.to(device)
    X = torch.from_numpy(X).to(device)  # channels last, as the convolutions want it; all of it on the device
    y = torch.from_numpy(y).to(device)
    std, mean = torch.std_mean(X.double().flatten(0, -2), dim=0, correction=0)
    module.input_mean.copy_(mean)
    module.input_scale.copy_(std)

    weights = [p for p in module.parameters() if p.ndim > 1]
    biases = [p for p in module.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": weight_decay}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, fused=True)

    n_batches = math.ceil(len(X) / batch_size)
    n_steps = max_epochs * n_batches
    losses = torch.empty(n_steps, device=device)
    step = 0
    module.train()
    for _ in range(max_epochs):
        for rows in torch.randperm(len(X)).tensor_split(n_batches):
            rise = min(1.0, (step + 1) / max(1.0, 0.1 * n_steps))
            for group in optimizer.param_groups:
                group["lr"] = lr * rise * (1 + math.cos(math.pi * step / n_steps)) / 2
            optimizer.zero_grad()
            rows = rows.sort().values.to(device)  # read forwards
            output = module(X.index_select(0, rows))
            target = y.index_select(0, rows)
            # averaged outside as ours is, which weights samples: rounding is the same then, and stays so over 50 steps
            loss = F.cross_entropy(output, target, reduction="none", label_smoothing=label_smoothing).mean()
            loss.backward()
            nn.utils.clip_grad_norm_([*weights, *biases], 1.0)
            optimizer.step()
            losses[step] = loss.detach()
            step += 1
        losses[step - n_batches : step].mean().item()  # the epoch's loss, which a user would print
    module.eval()
    torch.set_flush_denormal(False)
    products.fp32_precision = precision
    return losses.cpu()


@torch.inference_mode()
def predict(module, X, *, rows, device="cpu"):
    """Codes of classes, `rows` samples per pass."""
    X = torch.from_numpy(X)
    return torch.cat([module(part.to(device)).argmax(1) for part in X.split(rows)]).cpu().numpy()
