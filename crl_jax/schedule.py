"""What happens when in a run."""

from dataclasses import dataclass

from ml_collections import ConfigDict

from crl_jax.errors import UserError


@dataclass(frozen=True)
class Schedule:
    """What happens when in a run; steps count from 1.

    Attributes:
      steps: length of the run.
      examples: in an epoch.
      batch_size: over all devices.
      log_every: in steps.
      eval_every, checkpoint_every: in steps; 0: at the end of each epoch.
      validates: whether there is a split to evaluate on.
    """

    steps: int
    examples: int
    batch_size: int
    log_every: int
    eval_every: int
    checkpoint_every: int
    validates: bool

    @staticmethod
    def check(config: ConfigDict) -> None:
        """Raises UserError if a config sets neither steps nor epochs."""
        if not config.train.steps and not config.train.epochs:
            raise UserError(
                "The run has no steps: set config.train.steps or config.train.epochs."
            )

    @classmethod
    def of(cls, config: ConfigDict, examples: int) -> "Schedule":
        """Reads the schedule from a config.

        Raises:
          UserError: it sets neither steps nor epochs, or too few epochs for one step.
        """
        cls.check(config)
        steps = config.train.steps
        if not steps:
            steps = round(config.train.epochs * examples / config.data.batch_size)
        if steps < 1:
            raise UserError(
                f"config.train.epochs={config.train.epochs} of {examples:,} examples "
                f"are less than half a batch of {config.data.batch_size}: take more "
                "epochs, or a smaller config.data.batch_size."
            )
        return cls(
            steps=steps,
            examples=examples,
            batch_size=config.data.batch_size,
            log_every=config.train.log_every,
            eval_every=config.train.eval_every,
            checkpoint_every=config.train.checkpoint_every or config.train.eval_every,
            validates=bool(config.data.val_split),
        )

    @property
    def epoch_steps(self) -> int:
        """Steps that an epoch takes, at least one."""
        return max(1, round(self.examples / self.batch_size))

    def epoch(self, step: int) -> float:
        """Returns how many passes over the training data `step` steps make."""
        return step * self.batch_size / self.examples

    def evaluates(self, step: int) -> bool:
        """Whether to evaluate after `step`."""
        return self.validates and self._due(step, self.eval_every)

    def saves(self, step: int) -> bool:
        """Whether to save after `step`: what was evaluated may be the best."""
        return self.evaluates(step) or self._due(step, self.checkpoint_every)

    def logs(self, step: int) -> bool:
        """Whether to log after `step`."""
        return step % self.log_every == 0 or step == self.steps or self.evaluates(step)

    def _due(self, step: int, every: int) -> bool:
        if step == self.steps:
            return True
        if every:
            return step % every == 0
        end, start = step * self.batch_size, (step - 1) * self.batch_size
        return end // self.examples > start // self.examples
