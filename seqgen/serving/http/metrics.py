"""What the server counts, as Prometheus reads it (text format 0.0.4)."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter, defaultdict

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


class _Histogram:
    """How many values lie up to each bound, and their sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str, **labels: str) -> list[str]:
        total, lines = 0, []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            lines.append(f"{name}_bucket{_labels(**labels, le=bound)} {total}")
        return [
            *lines,
            f"{name}_sum{_labels(**labels)} {self.sum:g}",
            f"{name}_count{_labels(**labels)} {total}",
        ]


class Metrics:
    """Counted from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._seconds: dict[str, _Histogram] = defaultdict(lambda: _Histogram(_SECONDS))
        self._batches = _Histogram(_IMAGES)

    def requested(self, path: str, status: int, seconds: float) -> None:
        """A request to `path` (a route, not what a client wrote) was answered."""
        with self._lock:
            self._requests[path, status] += 1
            self._seconds[path].add(seconds)

    def batched(self, images: int) -> None:
        """So many images went through the model in one pass."""
        with self._lock:
            self._batches.add(images)

    def text(self, queue: int, name: str | None, version: str | None) -> str:
        """All of it, with the length of the queue and what is served now."""
        with self._lock:
            lines = _head("seqgen_requests_total", "counter", "Requests by route and status.")
            for (path, status), count in sorted(self._requests.items()):
                lines.append(f"seqgen_requests_total{_labels(path=path, status=str(status))} {count}")
            lines += _head("seqgen_request_seconds", "histogram", "Seconds to answer a request.")
            for path, seconds in sorted(self._seconds.items()):
                lines += seconds.lines("seqgen_request_seconds", path=path)
            lines += _head("seqgen_batch_images", "histogram", "Images in one pass through the model.")
            lines += self._batches.lines("seqgen_batch_images")
        lines += _head("seqgen_queue_length", "gauge", "Requests that wait or are worked on.")
        lines.append(f"seqgen_queue_length {queue}")
        lines += _head("seqgen_model_info", "gauge", "The model that is served.")
        if name is not None:
            lines.append(f"seqgen_model_info{_labels(name=name, version=version or '')} 1")
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, what: str) -> list[str]:
    return [f"# HELP {name} {what}", f"# TYPE {name} {kind}"]


def _labels(**labels: str) -> str:
    if not labels:
        return ""
    escaped = {
        key: value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        for key, value in labels.items()
    }
    return "{" + ",".join(f'{key}="{value}"' for key, value in escaped.items()) + "}"
