"""Annotated images: layers of predictions, of truth, and of a training batch's targets, drawn over an image."""
