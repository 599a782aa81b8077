"""Trained weights, in and out: torch's and safetensors' files, torch's names and layouts, torchvision's checkpoints."""
