"""What plug-ins on pretrained models share: weights, architectures, layers read out, batched forwards."""
