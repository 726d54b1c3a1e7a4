"""Warnings about a loss that explodes but stays finite.

They are decided on the rows of the record alone, so no training step waits for them.
"""

import logging
import statistics
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

SPIKE = 10.0  # times the usual train loss of a row
DIVERGED = 10.0  # times the loss of the untrained network
WINDOW, FEWEST = 100, 5  # rows that tell the usual loss: the latest ones, and how many it takes

log = logging.getLogger("aetool")


class LossWatch:
    """Watches the reconstruction loss, which lambda does not scale; the loss where there is no such term.

    A loss that can be negative is only judged where it has been positive so far, as factors need.
    """

    def __init__(self, keys_to_lower: str) -> None:
        """`keys_to_lower`: the config keys that a warning suggests lowering."""
        self.keys_to_lower = keys_to_lower
        self.warnings: list[str] = []  # at most one of each kind
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._untrained: float | None = None
        self._first: float | None = None  # of validation
        self._has_spiked = self._has_diverged = False

    def see(self, step: int, epoch: int, row: Mapping[str, Any], untrained: Mapping[str, float] | None) -> None:
        """Logs what is to be said of a new row of the record; `epoch` counts finished epochs.

        `untrained`: the loss and its terms in the first step, and so of the untrained network, where known.
        """
        if untrained is not None:
            self._untrained = untrained.get("loss/reconstruction", untrained["loss"])
        before = len(self.warnings)
        self._judge(step, epoch, row)
        for warning in self.warnings[before:]:
            log.warning(warning)

    def replay(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Takes up the rows of an interrupted run."""
        for row in rows:
            self._judge(row.get("step", 0), row.get("epoch", 0), row)

    def _judge(self, step: int, epoch: int, row: Mapping[str, Any]) -> None:
        for split, judge, at in (("train", self._judge_train, step), ("val", self._judge_val, epoch)):
            loss = row.get(f"{split}/loss/reconstruction", row.get(f"{split}/loss"))
            if isinstance(loss, float):
                self.warnings += judge(loss, at)

    def _judge_train(self, loss: float, step: int) -> Iterator[str]:
        if not self._has_spiked and len(self._recent) >= FEWEST and min(self._recent) > 0:
            usual = statistics.median(self._recent)
            if loss > SPIKE * max(usual, self._recent[-1]):
                self._has_spiked = True
                yield (
                    f"train loss {loss:.4g} at step {step}, {loss / usual:.3g} times the usual {usual:.4g}: "
                    f"lower {self.keys_to_lower}, or set trainer.clip_norm"
                )
        self._recent.append(loss)

    def _judge_val(self, loss: float, epoch: int) -> Iterator[str]:
        self._first = loss if self._first is None else self._first
        least, of = (self._first, "after epoch 1") if self._untrained is None else (self._untrained, "before training")
        if not self._has_diverged and loss > DIVERGED * least > 0:
            self._has_diverged = True
            yield (
                f"training diverges: validation loss {loss:.4g} after epoch {epoch}, {loss / least:.3g} times that "
                f"{of}: lower {self.keys_to_lower}"
            )
