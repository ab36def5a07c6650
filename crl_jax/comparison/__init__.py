"""Several networks on the same data: what to train, what came out, what it says."""
