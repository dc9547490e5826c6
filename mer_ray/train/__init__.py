"""Training of encoders: DeepSpeed's engine under Ray Train, checkpoints, data, export."""
