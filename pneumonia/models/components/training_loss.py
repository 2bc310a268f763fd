"""The training loss: cross-entropy, weighted and smoothed, also of a batch that several processes share."""

from torch import Tensor, nn

from pneumonia.metrics.epoch_metrics import cross_entropy


class TrainingLoss(nn.CrossEntropyLoss):
    """Cross-entropy of logits ``(B, K)`` and class indices ``(B,)`` or probabilities ``(B, K)``."""

    def reported(self, logits: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
        """Compute the value that is reported; see :func:`pneumonia.metrics.epoch_metrics.cross_entropy`."""
        weight = None if self.weight is None else self.weight.float()
        return cross_entropy(logits.detach(), target, weight=weight, reduction=reduction, label_smoothing=self.label_smoothing)

    def shared(self, logits: Tensor, label: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the share of this process in the loss of a batch that several processes share.

        Torch averages gradients over processes, which is right only where all have as many images of the same weight.

        Args:
            logits: ``(B, K)`` of the images of this process.
            label: ``(B,)``.
            counts: ``(K,)`` images of each class in the whole batch.

        Returns:
            The share, which over all processes sums to the loss of the batch; and the reported share, times the images of the
            batch.
        """
        total = (counts if self.weight is None else counts * self.weight).sum()
        smoothing = self.label_smoothing
        share = nn.functional.cross_entropy(logits, label, self.weight, reduction="sum", label_smoothing=smoothing) / total
        return share, self.reported(logits, label, "sum") / total * counts.sum()
