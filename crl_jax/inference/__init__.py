"""Using a trained network: prediction, where it looked, the demo page, exports."""
