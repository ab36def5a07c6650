"""Pictures that cannot be decoded when their turn comes: left out, counted, reported.

Shards made from a manifest hold checked pictures; the pictures of a TFDS data set need
not be intact. TensorFlow cannot catch an error within its graph, and catching it in
Python is slow, so only pictures that failed before are decoded with care.
"""

import sys
from collections.abc import Callable

import jax
import numpy as np

from crl_jax.data.quiet import no_stderr, tf
from crl_jax.data.table import first_few
from crl_jax.errors import UserError
from crl_jax.terminal import console


class LeftOut:
    """The pictures of a split that could not be decoded so far.

    What one draw of a picture gives depends only on its own bytes and crop, never on
    what was seen before, so a resumed run reads the same bits.
    """

    def __init__(
        self,
        split: str,
        size: int,
        max_share: float,
        decode: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        instead: np.ndarray,
    ) -> None:
        """Begins with no picture left out.

        Args:
          split: its name.
          size: number of its pictures that this process reads.
          max_share: the largest share of them that may be left out.
          decode: from encoded bytes `[]` and a position `[]` to `[H, W, 3]` uint8.
          instead: `[H, W, 3]` uint8, which stands in for a picture that is left out.
        """
        self._split, self._size, self._max_share = split, size, max_share
        self._decode, self._instead = decode, instead
        self._suspects: set[int] = set()
        self._files: dict[int, str] = {}

    def suspected(self, numbers: np.ndarray) -> np.ndarray:
        """Returns which pictures need care, `[B]` bool, given their numbers `[B]`."""
        return np.array([n in self._suspects for n in numbers], bool)

    def suspect(self, number: int, encoded: tf.Tensor, position: tf.Tensor) -> bool:
        """Returns whether a picture fails for the first time; it then needs care."""
        if number in self._suspects or self._try(encoded, position)[1]:
            return False
        self._suspects.add(number)
        return True

    def decode(
        self, encoded: tf.Tensor, position: tf.Tensor, suspected: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns a picture and whether it could be decoded, in TensorFlow's graph."""

        def careful() -> tuple[tf.Tensor, tf.Tensor]:
            image, decoded = tf.numpy_function(
                self._try, [encoded, position], [tf.uint8, tf.bool]
            )
            decoded.set_shape(())
            return tf.ensure_shape(image, self._instead.shape), decoded

        return tf.cond(
            suspected,
            careful,
            lambda: (self._decode(encoded, position), tf.constant(True)),
        )

    def _try(self, encoded: bytes, position: int) -> tuple[np.ndarray, np.bool_]:
        try:
            with no_stderr():  # the decoder writes a line each time
                image = self._decode(
                    tf.convert_to_tensor(encoded), tf.cast(position, tf.int64)
                )
            return image.numpy(), np.bool_(True)
        except tf.errors.InvalidArgumentError:
            return self._instead, np.bool_(False)

    def tell(self, number: int, file: str) -> None:
        """Counts a picture; reports the first, second, fourth, eighth ... one.

        Raises:
          UserError: there are too many now.
        """
        if number in self._files:
            return
        self._files[number] = file
        count, listed = len(self._files), first_few([*self._files.values()], str)
        if count > self._max_share * self._size:
            raise UserError(
                f"{count:,} of the {self._size:,} pictures of {self._where} cannot be "
                f"decoded, more than config.data.max_undecodable={self._max_share}: "
                f"{listed}. Mend them and prepare the data again, or allow more."
            )
        if count & (count - 1) == 0:
            text = f"Left out of {self._where}, since they cannot be decoded: {listed}."
            if jax.process_count() > 1:  # of which all but the first print nothing else
                print(text, file=sys.stderr, flush=True)
            else:
                console.print(text, soft_wrap=True)

    @property
    def _where(self) -> str:
        """The split, and which of several processes reads this share of it."""
        if jax.process_count() == 1:
            return self._split
        return f"{self._split} in process {jax.process_index()}"
