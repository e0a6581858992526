"""Steps of training as CUDA graphs: recorded once and then replayed, without Python launching kernel after kernel.

A step of a small network is hundreds of kernels, each of which is over before Python has launched the next one.
"""

import contextlib

import torch

_WARM_UP = 3  # steps as they are, in which libraries and the optimizer allocate what they keep
_STREAMS = {}  # on which steps are recorded, by device: cuBLAS keeps tens of MB for each stream that it has seen


class RecordedSteps:
    """Updates of the weights by `step(batch, weight, known)`, recorded for batches of each of the `sizes`.

    `step` runs the same kernels on the same memory whatever the batch holds, and reads nothing back. The optimizer is
    one whose steps can be recorded, and its learning rates may change between steps. A batch is ((X, y), weight, known)
    on the device as `step` takes it; the answer is what `step` returned, which the next step overwrites.
    """

    def __init__(self, step, optimizer, device, sizes):
        self.step = step
        self.optimizer = optimizer
        self.device = device
        self.rates = [torch.zeros((), device=device) for _ in optimizer.param_groups]
        self.n_left = dict.fromkeys(sizes, _WARM_UP)  # steps of each size before one is recorded
        self.recordings = {}

    def is_due(self, n_samples):
        """Whether a step of so many samples may be recorded; if not, one more is taken to come as it is."""
        if self.n_left.get(n_samples) == 0:
            return True
        if n_samples in self.n_left:
            self.n_left[n_samples] -= 1
        return False

    def __call__(self, batch, weight, known):
        n_samples = len(batch[1])
        for rate, group in zip(self.rates, self.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        if n_samples not in self.recordings:
            self.recordings[n_samples] = self._record(batch, weight, known)
        graph, inputs, answer = self.recordings[n_samples]
        for there, here in zip(inputs, _tensors(batch, weight, known), strict=True):
            there.copy_(here)
        with torch.cuda.device(self.device):
            graph.replay()
        return answer

    def close(self):
        """Give back the memory, that of the gradients included: of all recordings at once, as they share a stream."""
        for graph, *_ in self.recordings.values():
            graph.reset()
        self.recordings.clear()
        self.optimizer.zero_grad()

    def _record(self, batch, weight, known):
        batch = tuple(part.clone() for part in batch)
        weight = None if weight is None else weight.clone()
        known = {name: values.clone() for name, values in known.items()}
        graph = torch.cuda.CUDAGraph()
        groups = self.optimizer.param_groups
        before = [(group["lr"], group["capturable"]) for group in groups]
        try:
            for group, rate in zip(groups, self.rates, strict=True):
                group["lr"], group["capturable"] = rate, True
            with torch.cuda.device(self.device), _recording(graph):
                answer = self.step(batch, weight, known)
        finally:
            for group, (lr, capturable) in zip(groups, before, strict=True):
                group["lr"], group["capturable"] = lr, capturable
        return graph, _tensors(batch, weight, known), answer


@contextlib.contextmanager
def _recording(graph):
    """As torch.cuda.graph, but a failure leaves stream and random state as they were before."""
    device = torch.cuda.current_device()
    if device not in _STREAMS:
        _STREAMS[device] = torch.cuda.Stream()
    generator = torch.cuda.default_generators[device]
    random_state = generator.clone_state()
    options = {"stream": _STREAMS[device], "capture_error_mode": "thread_local"}  # other threads may be predicting
    with torch.cuda.stream(torch.cuda.current_stream()):
        try:
            with torch.cuda.graph(graph, **options):
                yield
        except BaseException:
            generator.graphsafe_set_state(random_state)
            raise


def _tensors(batch, weight, known):
    return [*batch, *([] if weight is None else [weight]), *known.values()]
