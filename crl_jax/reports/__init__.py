"""Pages that show what came out: one HTML file each, which needs nothing else."""
