"""Accuracy on the field's data sets, by preset and seed."""
